"""Writes a training set so that it exists completely or not at all.

Files are written to a temporary folder beside the target, ``.<target>.<random>.tmp``, and synced to the disk; then one
rename makes them the training set. To replace one, the two folders are exchanged atomically, so that readers, also
after a crash, find the old or the new one. A failure removes the temporary folder. Leftovers of killed processes are
removed by the next build of the same target: a build locks its folder, so a folder that can be locked is abandoned.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.core.columns import Bytes
from featurestore.core.dtypes import DType
from featurestore.core.errors import FeatureStoreError, StorageError
from featurestore.offline.dataset import MANIFEST_NAME, TrainingSet
from featurestore.offline.digest import ContentDigest
from featurestore.offline.manifest import Manifest, ManifestFile
from featurestore.offline.profile import FeatureProfile, count_statuses, profile_column, profile_columns
from featurestore.storage.files import exchange, local_target, make_file, make_folder, sync

FILE_ROWS = 1 << 19
"""Rows of a file; a larger training set has several."""

_GROUP_ROWS = 1 << 18


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a training set.

    Attributes:
        table: All columns.
        statuses: ``Status`` codes of features, by column; they are counted in the profile.
    """

    table: pa.Table
    statuses: Mapping[str, Bytes]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        row_count: Rows.
        content_digest: Hash of all names, types and values in row order.
        files: The files, in row order.
        features: Profile of each feature.
    """

    row_count: int
    content_digest: str
    files: tuple[ManifestFile, ...]
    features: tuple[FeatureProfile, ...]


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make sure, before any work, that a training set may be written somewhere.

    Args:
        path: The folder it will be. What exists there must be an empty folder, or a training set to replace.
        overwrite: Whether a training set that is there is replaced.

    Returns:
        The folder.

    Raises:
        ConfigError: It is the address of another place.
        StorageError: Something else is there (``target-taken``), or a training set that is not to be replaced
            (``target-exists``), or the folder above cannot be written to.
    """
    target = local_target(path, where="training set, path").absolute()
    where = _where(target)
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        hint = "Name a new folder."
        raise StorageError("the target is not a folder", where=where, hint=hint, code="target-taken")
    if (target / MANIFEST_NAME).is_file():
        if not overwrite:
            raise _exists(target)
    elif target.is_dir() and any(target.iterdir()):
        raise StorageError(
            "the folder is not empty and holds no training set",
            where=where,
            hint="Name a new folder, or empty this one.",
            code="target-taken",
        )
    with _storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        with _temporary_folder(target):
            pass
    return target


def write_training_set(
    path: str | os.PathLike[str],
    pieces: Iterable[Piece],
    *,
    features: Mapping[str, DType],
    describe: Callable[[Written], Manifest],
    threads: int = 2,
    overwrite: bool = False,
) -> TrainingSet:
    """Write a training set.

    Args:
        path: The folder it will be; see ``check_target``.
        pieces: Its rows in order, all of one schema; at least one piece, which may be empty.
        features: The feature columns and their dtypes; these are profiled.
        describe: Makes the manifest once everything else is known.
        threads: Threads that hash, compress and profile; the content does not depend on it.
        overwrite: Whether a training set that is there is replaced.

    Returns:
        The training set, at its place.

    Raises:
        StorageError: The disk is full or refuses, or something else is at the target. Nothing is left behind.
    """
    target = check_target(path, overwrite=overwrite)
    with _storing(target), _temporary_folder(target) as folder:
        manifest = describe(_write_rows(folder, pieces, features, threads))
        _write_durably(folder / MANIFEST_NAME, manifest.to_json())
        sync(folder)
        _put_in_place(folder, target, overwrite=overwrite)
    return TrainingSet(target, manifest)


def _where(target: Path) -> str:
    return f"training set '{target}'"


def _exists(target: Path) -> StorageError:
    return StorageError(
        "there is a training set already, which models may have been trained on",
        where=_where(target),
        hint="Name a new folder, or replace this one: overwrite=True, on the command line --overwrite.",
        code="target-exists",
    )


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    """Make a folder beside the target and lock it; it is removed at the end if it was not renamed."""
    folder, lock = _locked_folder(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked_folder(target: Path) -> tuple[Path, int]:
    """Make a folder and lock it; repeat if another build removed it as a leftover before it was locked."""
    while True:
        folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}.tmp"
        make_folder(folder)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # a disk without such locks: then no build can take it for a leftover either
            fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return folder, lock
        os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary folders of builds of a target that were killed; a folder that is locked is in use."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        is_ours = _LEFTOVER.fullmatch(folder.name.removeprefix(f".{target.name}"))
        if is_ours is None or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):  # it is in use, of another user, or removed
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)


_LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.tmp")


@contextmanager
def _storing(target: Path) -> Iterator[None]:
    """Turn what the disk says into a named error."""
    try:
        yield
    except FeatureStoreError:
        raise
    except OSError as error:
        problem, hint = _REASONS.get(error.errno or 0, (f"the disk refuses: {error.strerror or error}", ""))
        raise StorageError(problem, where=_where(target), hint=hint, code="storage") from error


_FULL = ("the disk is full", "Make room, or name a folder on another disk. Nothing was left behind.")
_FORBIDDEN = ("the folder above may not be written to", "Name another folder, or change its permissions.")
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("a file grew beyond what is allowed here", "Raise the limit on file sizes (ulimit -f)."),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _FORBIDDEN,
    errno.ENOTDIR: ("the folder above is a file", "Name another folder."),
    errno.EEXIST: ("the folder above is a file", "Name another folder."),
}


def _write_rows(folder: Path, pieces: Iterable[Piece], features: Mapping[str, DType], threads: int) -> Written:
    """Write all rows, and find out what there is to know about them."""
    digest: ContentDigest | None = None
    statuses: dict[str, dict[str, int]] = {}
    tables: list[pa.Table] = []
    files: list[ManifestFile] = []
    row_count, piece_count = 0, 0

    def seen() -> Iterator[pa.Table]:
        nonlocal digest, row_count, piece_count
        for piece in pieces:
            table = piece.table.replace_schema_metadata(None)
            digest = digest or ContentDigest(table.schema, threads=threads)
            digest.update(table)
            row_count += table.num_rows
            piece_count += 1
            _count(statuses, piece.statuses)
            tables[:] = [table]
            yield table

    with ThreadPoolExecutor(threads) as pool:
        writing: deque[Future[ManifestFile]] = deque()
        for number, table in enumerate(_in_files(seen())):
            if len(writing) == threads:
                files.append(writing.popleft().result())
            writing.append(pool.submit(_write_file, folder, f"part-{number:05d}.parquet", table))
        files.extend(future.result() for future in writing)
    assert digest is not None, "a training set has at least one piece"
    if piece_count == 1:
        columns = {name: tables[0].column(name) for name in features}
        profiles = profile_columns(columns, features, statuses, threads=threads)
    else:
        tables.clear()
        profiles = _profile_written(folder, files, features, statuses, threads)
    return Written(row_count, digest.finish(), tuple(files), profiles)


def _count(counts: dict[str, dict[str, int]], statuses: Mapping[str, Bytes]) -> None:
    for name, codes in statuses.items():
        known = counts.setdefault(name, {})
        for status, count in count_statuses(codes).items():
            known[status] = known.get(status, 0) + count


def _in_files(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut rows into tables of ``FILE_ROWS`` rows, the last one shorter; no rows give one empty table."""
    waiting: pa.Table | None = None
    is_first = True
    for table in tables:
        waiting = table if waiting is None or waiting.num_rows == 0 else pa.concat_tables([waiting, table])
        while waiting.num_rows >= FILE_ROWS:
            yield waiting.slice(0, FILE_ROWS)
            waiting, is_first = waiting.slice(FILE_ROWS), False
    if waiting is not None and (waiting.num_rows or is_first):
        yield waiting


def _write_file(folder: Path, name: str, table: pa.Table) -> ManifestFile:
    path = folder / name
    words = [
        field.name for field in table.schema if pa.types.is_string(field.type) or pa.types.is_dictionary(field.type)
    ]
    make_file(path)
    pq.write_table(table, path, row_group_size=_GROUP_ROWS, use_dictionary=words, compression="snappy")
    sync(path)
    return ManifestFile(name, path.stat().st_size, table.num_rows)


def _profile_written(
    folder: Path,
    files: Sequence[ManifestFile],
    features: Mapping[str, DType],
    statuses: Mapping[str, Mapping[str, int]],
    threads: int,
) -> tuple[FeatureProfile, ...]:
    """Profile what was written column by column, so that memory holds few columns at a time."""

    def profile(name: str) -> FeatureProfile:
        column = pa.concat_tables(pq.read_table(folder / file.path, columns=[name]) for file in files).column(name)
        return profile_column(name, column, features[name], statuses.get(name))

    with ThreadPoolExecutor(threads) as pool:
        return tuple(pool.map(profile, features))


def _write_durably(path: Path, content: bytes) -> None:
    make_file(path)
    path.write_bytes(content)
    sync(path)


def _put_in_place(folder: Path, target: Path, *, overwrite: bool) -> None:
    """Let the finished folder be the target, in one step; what was there is at the folder's path then."""
    if (target / MANIFEST_NAME).exists():
        if not overwrite:
            raise _exists(target)
        try:
            exchange(folder, target)
        except OSError as error:
            if error.errno not in _CANNOT_EXCHANGE:
                raise
            raise StorageError(
                "this disk cannot let two folders change places, so that readers would find no training set meanwhile",
                where=_where(target),
                hint="Name a new folder, and let a link point at it.",
                code="no-exchange",
            ) from error
    else:
        try:
            folder.rename(target)  # also in place of an empty folder
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            raise _exists(target) from error  # another build was faster
    sync(target.parent)


_CANNOT_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)
