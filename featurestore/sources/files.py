"""The files of a file source, in the order in which they are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from glob import glob, has_magic
from os.path import isdir, realpath
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from featurestore.core.errors import SourceDataError, SourceMissingError
from featurestore.definitions.sources import CSV_SUFFIXES, FileSource, Format, Source
from featurestore.sources.settings import ReadSettings

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SUFFIXES: dict[Format, tuple[str, ...]] = {"parquet": (".parquet", ".parq", ".pq"), "csv": CSV_SUFFIXES}
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class FoundFile:
    """A file of a source.

    Attributes:
        path: Its path.
        partition: Values that folders of the form ``column=value`` give its rows, as text.
    """

    path: Path
    partition: tuple[tuple[str, str | None], ...] = ()


def place_of(source: Source) -> str:
    """Return the place of a source in messages."""
    return f"source '{source.name}'"


def is_remote(path: str) -> bool:
    """Return whether a path is a URL of another machine."""
    return _URL.match(path) is not None and not path.startswith("file://")


def files_of(source: FileSource, settings: ReadSettings) -> tuple[FoundFile, ...]:
    """Return the files of a local source.

    Raises:
        SourceMissingError: There is none.
        SourceDataError: The path is, or is inside, a table of Delta, Iceberg or Hudi.
    """
    place = place_of(source)
    return find_files(str(source.path), kind=source.file_format, base_folder=settings.base_folder, where=place)


def find_files(path: str, *, kind: Format, base_folder: Path | None, where: str) -> tuple[FoundFile, ...]:
    """Return the files of a path, glob or folder.

    A folder means all files of the format in it and in its folders. Files and folders whose names start with ``.`` or
    ``_`` are left out, as everywhere in the world of Parquet, unless a glob spells such a name. A file that several
    names link to counts once. The order is that of the names.

    Args:
        path: Path, glob, folder or ``file://`` URL.
        kind: Format the files must have.
        base_folder: Folder that relative paths count from.
        where: The source, for messages.

    Raises:
        SourceMissingError: Nothing is there.
        SourceDataError: It is, or is inside, a table of Delta, Iceberg or Hudi.
    """
    local = url2pathname(urlsplit(path).path) if path.startswith("file://") else path
    root = (base_folder or Path.cwd()) / Path(local).expanduser()
    if root.is_dir():
        _refuse_tables([root], where)
        paths, start = _in_folder(root, kind), root
    elif root.is_file():
        paths, start = [root], root.parent
    else:
        start = _fixed_part(root)
        spelled = tuple(part for part in root.parts[len(start.parts) :] if part.startswith(_HIDDEN))
        paths = [name for match in _matches(root) for name in _matched(match, start, kind, spelled)]
    if not paths:
        raise _nothing_there(path, root, kind, where)
    _refuse_tables({name.parent for name in paths}, where)
    ordered = sorted(_each_once(paths), key=lambda name: name.as_posix())
    return tuple(FoundFile(name, _partition(name, start)) for name in ordered)


def refuse_table(path: Path, where: str) -> None:
    """Refuse a file or folder that is a table of a lakehouse, contains one, or is inside one.

    Raises:
        SourceDataError: It is such a table: its files hold rows that were removed or rewritten.
    """
    folders = [path, *(name for name in path.rglob("*") if name.is_dir())] if path.is_dir() else [path.parent]
    _refuse_tables(folders, where)


def _refuse_tables(folders: Iterable[Path], where: str) -> None:
    """Refuse folders that are, or are inside, a table of a lakehouse."""
    seen: set[Path] = set()
    for folder in map(Path, map(realpath, folders)):
        for name in (folder, *folder.parents):
            if name in seen:
                break
            seen.add(name)
            for kind, is_table, reader in _TABLES:
                if is_table(name):
                    raise SourceDataError(
                        f"the folder '{name}' is a table of {kind}; its files hold removed and rewritten rows, too",
                        where=where,
                        hint=f"Read its rows with {reader}, and give them as a FrameSource, or as a folder of files.",
                        code="lakehouse-table",
                    )


def _is_delta(folder: Path) -> bool:
    return isdir(folder / "_delta_log")  # noqa: PTH112  # Path.is_dir raises where a folder may not be looked into


def _is_iceberg(folder: Path) -> bool:
    with suppress(OSError):
        return any(_ICEBERG_METADATA.fullmatch(name.name) for name in (folder / "metadata").iterdir())
    return False


def _is_hudi(folder: Path) -> bool:
    return isdir(folder / ".hoodie")  # noqa: PTH112  # the same


_ICEBERG_METADATA = re.compile(r"version-hint\.text|(?:v\d+|\d+-[0-9a-f-]{36})(?:\.gz)?\.metadata\.json(?:\.gz)?")
_TABLES: tuple[tuple[str, Callable[[Path], bool], str], ...] = (
    ("Delta Lake", _is_delta, "deltalake: DeltaTable(path).to_pyarrow_table()"),
    ("Apache Iceberg", _is_iceberg, "pyiceberg: StaticTable.from_metadata(path).scan().to_arrow()"),
    ("Apache Hudi", _is_hudi, "Spark or hudi"),
)


def _each_once(names: Iterable[Path]) -> list[Path]:
    """Return one name of each file: its own rather than that of a link, else the first."""
    names_by_target: dict[str, Path] = {}
    for name in sorted(set(names), key=lambda name: (name.is_symlink(), name.as_posix())):
        names_by_target.setdefault(realpath(name), name)
    return list(names_by_target.values())


def partition_columns(files: Sequence[FoundFile]) -> tuple[str, ...]:
    """Return the columns that folders give, in the order of their first appearance."""
    return tuple(dict.fromkeys(name for file in files for name, _ in file.partition))


def _matches(pattern: Path) -> list[Path]:
    # pathlib's globs do not take absolute patterns, and follow no links.
    return [Path(name) for name in glob(str(pattern), recursive=True)]  # noqa: PTH207


def _matched(match: Path, start: Path, kind: Format, spelled: Sequence[str]) -> list[Path]:
    if _is_hidden(match, start, spelled):
        return []
    return _in_folder(match, kind) if match.is_dir() else [match]


def _in_folder(root: Path, kind: Format) -> list[Path]:
    return [
        name
        for name in root.rglob("*")
        if name.name.lower().endswith(_SUFFIXES[kind]) and name.is_file() and not _is_hidden(name, root)
    ]


_HIDDEN = (".", "_")


def _is_hidden(name: Path, start: Path, spelled: Sequence[str] = ()) -> bool:
    """Return whether a name below a folder is left out, unless a part of a glob that begins so matches it."""
    return any(
        part.startswith(_HIDDEN) and "=" not in part and not any(fnmatch(part, pattern) for pattern in spelled)
        for part in name.relative_to(start).parts
    )


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
