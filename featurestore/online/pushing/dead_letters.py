"""Dead letters: messages that could not be pushed, kept as lines of a file for inspection.

A letter holds its whole message. Several processes may append to one file while another removes lines.
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
"""The first bytes of an Arrow IPC stream, with which no JSON begins."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A line of the file of dead letters.

    Attributes:
        topic: The message's topic.
        partition: Its partition.
        offset: Its offset.
        row: Number of the event in the message; ``None`` if the message cannot be read.
        field: The field of the event that is wrong.
        problem: A description of the mistake.
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
    """The result of removing letters from a file.

    Attributes:
        count: The count of removed letters.
        unreadable: The count of remaining letters whose messages cannot be read.
    """

    count: int = 0
    unreadable: int = 0


def letters_file(data: Path, source: str) -> Path:
    """Return the default file for the dead letters of a source."""
    return data / "dead_letters" / f"{source}.jsonl"


def events_in(value: bytes | None) -> Any:
    """Read the events of a message: a list, or a table.

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
            raise ValueError(f"the Arrow stream is damaged: {error}") from None
    try:
        events = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"neither JSON nor an Arrow stream: {error}") from None
    return events if isinstance(events, list) else [events]


def append_letters(path: Path, letters: Sequence[DeadLetter]) -> None:
    """Append dead letters. When it returns they are on the disk.

    Raises:
        StorageError: The file cannot be written.
    """
    if not letters:
        return
    with _failures(path):
        make_folder(local_target(path, where="dead letters").parent)
        with _locked_file(path) as file:
            file.write(b"".join(msgspec.json.encode(letter) + b"\n" for letter in letters))
            os.fsync(file.fileno())


def remove_letters(path: Path, is_match: Callable[[Any], bool]) -> RemovedLetters:
    """Remove the letters whose messages hold certain events; unreadable letters stay.

    Args:
        path: The file; it need not exist.
        is_match: Returns whether to remove a letter, given the result of ``events_in`` for its message; it raises
            ``ValueError`` for a message that it cannot read.

    Raises:
        StorageError: The file cannot be read or written; nothing was removed.
    """
    if not path.exists():
        return RemovedLetters()
    with _failures(path), _locked_file(path) as file:
        lines = path.read_bytes().splitlines(keepends=True)
        matches = [_matches(line, is_match) for line in lines]
        if True in matches:
            rest = path.with_name(f".{path.name}.unfinished")
            with open(rest, "wb", opener=opener) as kept:
                kept.writelines(line for line, is_removed in zip(lines, matches, strict=True) if not is_removed)
                kept.flush()
                os.fsync(kept.fileno())
            # A process that waits for the lock on the replaced file notices that, and opens the new one.
            rest.replace(path)
            file.truncate(0)
    return RemovedLetters(matches.count(True), matches.count(None))


def _matches(line: bytes, is_match: Callable[[Any], bool]) -> bool | None:
    """Return whether a line is to be removed; ``None`` if it cannot be read."""
    try:
        letter = msgspec.json.decode(line, type=DeadLetter)
        return is_match(events_in(base64.b64decode(letter.value)))
    except ValueError:
        return None


@contextmanager
def _locked_file(path: Path) -> Iterator[FileIO]:
    """Open a file to append to it, with an exclusive lock."""
    while True:
        with FileIO(path, "ab", opener=opener) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_current = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                is_current = False
            if is_current:
                yield file
                return


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Check the path, its permissions and the disk."
        raise StorageError(f"cannot write {path}: {error}", where="dead letters", hint=hint) from error
