"""Messages that could not be pushed, kept as lines of a file until somebody looks at them.

A letter holds the whole message it is about. Several processes may append to one file while another removes lines.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec

from featurestore.core.errors import StorageError
from featurestore.storage.files import local_target, make_folder, opener

_ARROW_STREAM = b"\xff\xff\xff\xff"
"""What an Arrow IPC stream begins with; no JSON does."""


class DeadLetter(msgspec.Struct, frozen=True):
    """What could not be pushed, as a line of the file of dead letters.

    Attributes:
        topic: The message's topic.
        partition: Its partition.
        offset: Its offset.
        row: Number of the event in the message; ``None`` if the message as a whole cannot be read.
        field: What is wrong of the event.
        problem: What is wrong.
        value: The whole message, in base64.
    """

    topic: str
    partition: int
    offset: int
    row: int | None
    field: str
    problem: str
    value: str


@dataclass(frozen=True)
class RemovedLetters:
    """What became of the lines of a file.

    Attributes:
        count: How many were removed.
        unreadable: How many of the others hold messages that cannot be read.
    """

    count: int = 0
    unreadable: int = 0


def letters_file(data: Path, source: str) -> Path:
    """Return where the dead letters of a source are, unless a consumer was told otherwise."""
    return data / "dead_letters" / f"{source}.jsonl"


def events_in(value: bytes | None) -> Any:
    """Read what a message holds: a list of events, or a table.

    Raises:
        ValueError: It is neither.
    """
    if value is None:
        raise ValueError("the message is empty")
    if value.startswith(_ARROW_STREAM):
        import pyarrow as pa

        try:
            return pa.ipc.open_stream(value).read_all()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"no sound Arrow stream: {error}") from None
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"neither JSON nor an Arrow stream: {error}") from None
    return found if isinstance(found, list) else [found]


def append_letters(path: Path, letters: Sequence[DeadLetter]) -> None:
    """Append dead letters; when it returns they are on the disk.

    Raises:
        StorageError: The file cannot be written.
    """
    if not letters:
        return
    with _failures(path):
        make_folder(local_target(path, where="dead letters").parent)
        with _alone_in(path) as file:
            file.write(b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters))
            os.fsync(file.fileno())


def remove_letters(path: Path, is_wanted: Callable[[Any], bool]) -> RemovedLetters:
    """Remove the letters whose messages hold certain events; what cannot be read stays.

    Args:
        path: The file; there need not be one.
        is_wanted: Tells of what a message holds, as ``events_in`` gives it, whether to remove the letter. A
            ``ValueError`` says that it cannot be told.

    Raises:
        StorageError: The file cannot be read or written; nothing was removed.
    """
    if not path.exists():
        return RemovedLetters()
    with _failures(path), _alone_in(path) as file:
        lines = path.read_bytes().splitlines(keepends=True)
        found = [_is_wanted(line, is_wanted) for line in lines]
        if True in found:
            rest = path.with_name(f".{path.name}.unfinished")
            with open(rest, "wb", opener=opener) as kept:
                kept.writelines(line for line, is_gone in zip(lines, found, strict=True) if not is_gone)
                kept.flush()
                os.fsync(kept.fileno())
            # Who waits to append to the file that is replaced finds out, and opens this one.
            rest.replace(path)
            file.truncate(0)
    return RemovedLetters(found.count(True), found.count(None))


def _is_wanted(line: bytes, is_wanted: Callable[[Any], bool]) -> bool | None:
    """Tell whether a line is to be removed; ``None`` if that cannot be told."""
    try:
        letter = msgspec.json.decode(line, type=DeadLetter)
        return is_wanted(events_in(base64.b64decode(letter.value)))
    except ValueError:
        return None


@contextmanager
def _alone_in(path: Path) -> Iterator[FileIO]:
    """Open a file to append to, alone among those who do so."""
    while True:
        with FileIO(path, "ab", opener=opener) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_this = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                is_this = False
            if is_this:
                yield file
                return


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Check the path, its rights and the disk."
        raise StorageError(f"cannot write {path}: {error}", where="dead letters", hint=hint) from error
