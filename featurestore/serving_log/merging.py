"""Merging: the many small files of a past day become one file for each plan, so that audits open few.

A merge is two steps. First ``NAME.json`` is written with the names of the files that the new one replaces; then the new
file is renamed to ``NAME.parquet`` atomically. From then on readers use it and leave out the files that it replaces, so
a crash at any point neither doubles nor loses a row. The replaced files are deleted a day later, since a reader that
listed them before may still be running.

Only one process works on the files of past days at a time. Run as a program, ``python -m
featurestore.serving_log.merging FOLDER``, so that a server's requests need not wait for it.
"""

from __future__ import annotations

import fcntl
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from io import FileIO
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.core.temporal import (
    Clock,
    SystemClock,
    duration_us,
    to_datetime,
)
from featurestore.serving_log.sealing import (
    COMPRESSION,
    SEGMENTS,
    is_ahead,
    sealed_name,
    segment_of,
)
from featurestore.storage.files import make_file, opener, sync

DAY = "day="
"""Prefix of the names of day folders."""

KEEP_REPLACED_US = duration_us("1d")
"""How long replaced files stay for readers that listed them before."""

_SETTLED_AFTER_US = duration_us("1h")
"""How long after the end of a day its segments are sealed, if their processes live."""

_LOCK = "maintenance.lock"
_MARK = "-merged-"
_ROW_GROUP_ROWS = 100_000


class Replacement(msgspec.Struct, frozen=True):
    """The files that a merged file replaces.

    Attributes:
        files: Names of the files in the same folder.
        merged_us: When they were merged.
    """

    files: list[str]
    merged_us: int


def current_files(day: Path) -> list[Path]:
    """Return the Parquet files of a day that hold its rows, each row once, in the order of their names.

    Raises:
        OSError: The folder, or what was recorded in it, cannot be read.
    """
    files = {path.name: path for path in day.glob("*.parquet") if path.is_file()}
    for record in day.glob(f"*{_MARK}*.json"):
        if record.with_suffix(".parquet").name in files:
            for name in _read(record).files:
                files.pop(name, None)
    return [files[name] for name in sorted(files)]


def has_work(folder: Path, now_us: int) -> bool:
    """Return whether a past day has files to merge, or replaced files to delete."""
    for day in _past_days(folder, now_us):
        is_over = any(now_us - _read(record).merged_us >= KEEP_REPLACED_US for record in day.glob(f"*{_MARK}*.json"))
        if is_over or len(_mergeable(folder, day)) > 1:
            return True
    return False


def merge(folder: Path, clock: Clock) -> int:
    """Merge the files of past days, and delete files that were replaced long enough ago.

    It does nothing while another process works on past days.

    Args:
        folder: Folder of the log.
        clock: Gives the present instant.

    Returns:
        How many files were replaced.

    Raises:
        OSError: The disk refuses; every row is still read once.
        pyarrow.ArrowException: A file is damaged; it stays as it is.
    """
    with maintenance(folder, wait=False) as is_held:
        if not is_held:
            return 0
        now_us = clock.now_us()
        replaced = 0
        for day in _past_days(folder, now_us):
            _delete_replaced(day, now_us)
            replaced += _merge_day(folder, day, now_us)
        return replaced


@contextmanager
def maintenance(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock the files of past days against all other processes of this folder.

    Args:
        folder: Folder of the log.
        wait: Whether to wait until another process releases the lock.

    Yields:
        Whether they are locked; ``False`` only if another process has the lock and ``wait`` is ``False``.

    Raises:
        OSError: The lock cannot be made.
    """
    if not folder.is_dir():
        yield True
        return
    with FileIO(folder / _LOCK, "ab", opener=opener) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _past_days(folder: Path, now_us: int) -> list[Path]:
    """Return the folders of days that are over and whose segments are sealed."""
    today = to_datetime(now_us - _SETTLED_AFTER_US).date()
    return [
        day for day in sorted(folder.glob(f"service=*/{DAY}*")) if (date_of_day := day_of(day)) and date_of_day < today
    ]


def day_of(folder: Path) -> date | None:
    """Return the day of a folder; ``None`` if its name is not that of a day."""
    try:
        return date.fromisoformat(folder.name.removeprefix(DAY))
    except ValueError:
        return None


def _mergeable(folder: Path, day: Path) -> list[Path]:
    """Return the files of a day that may be merged with others, judged by their names."""
    files = [path for path in current_files(day) if not (folder / SEGMENTS / segment_of(path)).exists()]
    fresh = [path for path in files if _MARK not in path.name]
    return files if fresh else []


def _merge_day(folder: Path, day: Path, now_us: int) -> int:
    """Merge the files of a day that have the same columns."""
    groups: dict[tuple[bool, bytes], list[Path]] = defaultdict(list)
    for path in _mergeable(folder, day):
        schema = pq.read_schema(path).remove_metadata()
        groups[is_ahead(path), schema.serialize().to_pybytes()].append(path)
    for (ahead, _), files in groups.items():
        if len(files) > 1:
            _replace(day, files, now_us, ahead=ahead)
    return sum(len(files) for files in groups.values() if len(files) > 1)


def _replace(day: Path, files: Sequence[Path], now_us: int, *, ahead: bool) -> None:
    name = sealed_name(f"{files[0].name.partition('-')[0]}{_MARK}{uuid.uuid4().hex}", 0, ahead=ahead)
    merged = day / name
    record = merged.with_suffix(".json")
    unfinished = day / f".{name}.unfinished"
    try:
        make_file(unfinished)
        _write(files, unfinished)
        sync(unfinished)
        make_file(record)
        record.write_bytes(msgspec.json.encode(Replacement([path.name for path in files], now_us)))
        sync(record)
        unfinished.replace(merged)
        sync(day)
    finally:
        unfinished.unlink(missing_ok=True)
        if not merged.exists():
            record.unlink(missing_ok=True)


def _write(files: Sequence[Path], path: Path) -> None:
    """Write the rows of files, in their order, in row groups large enough to be skipped as a whole."""
    waiting: list[pa.Table] = []
    first = pq.read_table(files[0], partitioning=None)
    with pq.ParquetWriter(path, first.schema, **COMPRESSION) as writer:
        for file in files:
            waiting.append(pq.read_table(file, partitioning=None).cast(first.schema))
            if sum(table.num_rows for table in waiting) >= _ROW_GROUP_ROWS:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _delete_replaced(day: Path, now_us: int) -> None:
    """Delete files that were replaced long enough ago, and records of merges that were not completed."""
    for record in day.glob(f"*{_MARK}*.json"):
        replacement = _read(record)
        if not record.with_suffix(".parquet").exists():
            # The merge died, or every row of the merged file was forgotten, and so were those of the replaced ones.
            record.unlink()
        elif now_us - replacement.merged_us >= KEEP_REPLACED_US:
            for name in replacement.files:
                (day / name).unlink(missing_ok=True)
            sync(day)
            record.unlink()


def _read(record: Path) -> Replacement:
    try:
        return msgspec.json.decode(record.read_bytes(), type=Replacement)
    except FileNotFoundError:
        return Replacement([], 0)  # its files were deleted meanwhile
    except msgspec.MsgspecError:
        return Replacement([], 0)  # a crash left half of it, before the merged file was renamed


def main(arguments: Sequence[str]) -> int:
    """Merge the past days of one log; return the exit code."""
    merge(Path(arguments[0]), SystemClock())
    return 0


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
