"""Reading the rows of a serving log: sealed files, and segments that are not sealed yet, each row once."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.errors import StorageError
from featurestore.core.retrying import retry
from featurestore.core.temporal import MAX_INSTANT_US, MIN_INSTANT_US, to_datetime
from featurestore.plan.names import AS_OF
from featurestore.serving_log.merging import DAY, current_files, day_of
from featurestore.serving_log.rows import table_of
from featurestore.serving_log.sealing import SEGMENTS, is_ahead, segment_of
from featurestore.serving_log.segments import Logged, read_segment, segments_in
from featurestore.storage.parquet import DAMAGE, check_footer

_INSTANT = TIMESTAMP.arrow
_ATTEMPTS = 5
"""How often the log is listed again because segments were sealed meanwhile."""


def stored_rows(folder: Path, service: str, since_us: int) -> tuple[list[Path], list[Logged]]:
    """Return the sealed files of a service, and the records that are not sealed, each row once.

    Files that cannot hold rows with ``as_of`` from ``since_us`` on are left out.

    Raises:
        StorageError: The folder or a segment cannot be read.
    """
    first = to_datetime(min(max(since_us, MIN_INSTANT_US), MAX_INSTANT_US)).date()

    def read() -> tuple[list[Path], list[Logged]]:
        segments = segments_in(folder / SEGMENTS)
        names = {path.name for path in segments}
        files = _files_since(folder / f"service={service}", first)
        rows = [logged for path in segments for logged in read_segment(path)[0]]
        sealed = [path for path in files if segment_of(path) not in names]
        return sealed, [logged for logged in rows if logged.service == service and logged.records]

    try:
        # A segment that was sealed meanwhile does not exist any more, but its files do.
        return retry(read, is_transient=lambda error: isinstance(error, FileNotFoundError), attempts=_ATTEMPTS)
    except FileNotFoundError:
        problem = OSError("its segments changed at every attempt to read them")
        raise storage_error("read", folder / SEGMENTS, problem) from None
    except OSError as error:
        raise storage_error("read", folder / SEGMENTS, error) from error


def sealed_files(folder: Path, service: str) -> list[Path]:
    """Return the sealed files of a service, oldest first."""
    paths = (folder / f"service={service}").glob(f"{DAY}*/*.parquet")
    return sorted(path for path in paths if path.is_file())


def read_file(path: Path, rows: ds.Expression) -> pa.Table:
    """Read the chosen rows of a sealed file.

    Raises:
        StorageError: The file is damaged or cannot be read.
    """
    try:
        check_footer(path)
        return ds.dataset(path, format="parquet").to_table(filter=rows)
    except DAMAGE as error:
        raise storage_error("read", path, error) from error


def rows_of(logged: Logged) -> pa.Table:
    """Return the records of a segment as rows."""
    return table_of(logged.schema, logged.service, logged.fingerprint, logged.records)


def in_range(since_us: int, until_us: int) -> ds.Expression:
    """Return the condition of rows with ``since <= as_of < until``."""
    since, until = (pa.scalar(at, pa.int64()).cast(_INSTANT) for at in (since_us, until_us))
    return (pc.field(AS_OF) >= since) & (pc.field(AS_OF) < until)


def storage_error(verb: str, path: Path, error: Exception) -> StorageError:
    """Return the error of a failure of the log's files."""
    return StorageError(
        f"cannot {verb} {path}: {error}", where="serving log", hint="Check the path, its rights and the disk."
    )


def _files_since(folder: Path, first: date) -> list[Path]:
    """Return the files of a service that may hold rows with ``as_of`` on a day or later, oldest first."""
    files: list[Path] = []
    for day in sorted(folder.glob(f"{DAY}*")):
        logged_on = day_of(day)
        if logged_on is not None:
            files += [path for path in current_files(day) if logged_on >= first or is_ahead(path)]
    return files
