"""From the path of a file source to the files it means, in the order they are read in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from featurestore.definitions.sources import CSV_SUFFIXES, Format
from featurestore.errors import SourceMissingError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SUFFIXES: dict[Format, tuple[str, ...]] = {"parquet": (".parquet", ".parq", ".pq"), "csv": CSV_SUFFIXES}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class FoundFile:
    """A file of a source.

    Attributes:
        path: Where it lies.
        partition: Values that folders of the form ``column=value`` give its rows, as text.
    """

    path: Path
    partition: tuple[tuple[str, str | None], ...] = ()


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL of another machine."""
    return _URL.match(path) is not None and not path.startswith("file://")


def find_files(path: str, *, kind: Format, base_folder: Path | None, where: str) -> tuple[FoundFile, ...]:
    """Return the files that a path, glob or folder means.

    A folder means all files of the format in it and in its folders. Names that start with ``.`` or ``_`` are left out,
    as everywhere in the world of Parquet. The order is that of the names.

    Args:
        path: Path, glob, folder or ``file://`` URL.
        kind: Format the files must have.
        base_folder: Folder that relative paths count from.
        where: The source, for messages.

    Raises:
        SourceMissingError: Nothing is there.
    """
    local = url2pathname(urlsplit(path).path) if path.startswith("file://") else path
    root = (base_folder or Path.cwd()) / Path(local).expanduser()
    if root.is_dir():
        found, start = _in_folder(root, kind), root
    elif root.is_file():
        found, start = [root], root.parent
    else:
        start = _fixed_part(root)
        found = [name for match in _matches(root) for name in _matched(match, start, kind)]
    if not found:
        raise _nothing_there(path, root, kind, where)
    ordered = sorted(set(found), key=lambda name: name.as_posix())
    return tuple(FoundFile(name, _partition(name, start)) for name in ordered)


def partition_columns(files: Sequence[FoundFile]) -> tuple[str, ...]:
    """Return the columns that folders give, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for file in files for name, _ in file.partition))


def _matches(pattern: Path) -> list[Path]:
    # pathlib's globs do not take absolute patterns, and follow no links.
    return [Path(name) for name in glob(str(pattern), recursive=True)]  # noqa: PTH207


def _matched(match: Path, start: Path, kind: Format) -> list[Path]:
    if match.is_dir():
        return _in_folder(match, kind)
    return [] if _is_hidden(match, start) else [match]


def _in_folder(root: Path, kind: Format) -> list[Path]:
    return [
        name
        for name in root.rglob("*")
        if name.name.lower().endswith(_SUFFIXES[kind]) and name.is_file() and not _is_hidden(name, root)
    ]


def _is_hidden(name: Path, start: Path) -> bool:
    return any(part.startswith((".", "_")) and "=" not in part for part in name.relative_to(start).parts)


def _fixed_part(root: Path) -> Path:
    """Return the folder above the first part of a glob that is a pattern."""
    parts = root.parts
    first = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _partition(name: Path, start: Path) -> tuple[tuple[str, str | None], ...]:
    pairs = (part.split("=", 1) for part in name.relative_to(start).parts[:-1] if "=" in part)
    return tuple((unquote(key), None if value == _NO_VALUE else unquote(value)) for key, value in pairs if key)


def _nothing_there(path: str, root: Path, kind: Format, where: str) -> SourceMissingError:
    if root.is_dir():
        problem = f"the folder '{path}' holds no {kind} file"
        hint = f"Looked in {root} for names that end in {', '.join(_SUFFIXES[kind])}."
    else:
        problem = f"no file matches '{path}'" if has_magic(path) else f"the file '{path}' is not there"
        hint = (
            f"Looked for {root}. Relative paths count from the configuration file's folder, or, without one, from the "
            "working directory."
        )
    return SourceMissingError(problem, where=where, hint=hint, code="missing-file")
