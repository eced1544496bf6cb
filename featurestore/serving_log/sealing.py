"""Sealing: the records of a segment are written as Parquet files, by service and day, and the segment is deleted.

The files of a segment have its name. As long as the segment exists, readers use it and ignore these files. So sealing
can fail at any point and be repeated, and no row is read twice or lost. Run as a program, ``python -m
featurestore.serving_log.sealing FOLDER SEGMENT``, so that a server's requests need not wait for it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.temporal import to_datetime
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import FINGERPRINT, SERVICE
from featurestore.serving_log.rows import Record, table_of
from featurestore.serving_log.segments import SUFFIX, read_segment
from featurestore.storage.parquet import write_parquet

SEGMENTS = "segments"
"""Folder of the segments, inside that of the log."""

COMPRESSION: dict[str, Any] = {"compression": "zstd", "use_dictionary": [SERVICE, FINGERPRINT]}
"""How files of the log are written."""

_AHEAD = "ahead"


def seal(folder: Path, segment: Path) -> int:
    """Write a segment's records as Parquet, and remove the segment.

    Args:
        folder: Folder of the log.
        segment: A segment that no process writes.

    Returns:
        How many bytes at its end are an incomplete frame, which a crash left.

    Raises:
        OSError: The disk refuses; the segment still exists.
    """
    plans, torn = read_segment(segment)
    for number, logged in enumerate(plans):
        by_day: dict[str, list[Record]] = defaultdict(list)
        for record in logged.records:
            by_day[to_datetime(record.logged_at_us).date().isoformat()].append(record)
        for day, records in by_day.items():
            table = table_of(logged.schema, logged.service, logged.fingerprint, records)
            place = folder / f"service={logged.service}" / f"day={day}"
            later = pc.greater_equal(table.column(AS_OF), pa.scalar(_end_of(day), TIMESTAMP.arrow))
            for ahead, rows in ((False, table.filter(pc.invert(later))), (True, table.filter(later))):
                if rows.num_rows:
                    write_file(rows, place / sealed_name(segment.name.removesuffix(SUFFIX), number, ahead=ahead))
    segment.unlink()
    return torn


def _end_of(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)


def sealed_name(name: str, number: int, *, ahead: bool) -> str:
    """Return the name of a sealed file.

    Args:
        name: Name of its segment.
        number: Number of its plan within the segment.
        ahead: Whether the ``as_of`` of its rows is on a later day than that of logging. No other file holds such rows,
            so readers of later days need not open it.
    """
    return f"{name}-{number}{_AHEAD if ahead else ''}.parquet"


def is_ahead(path: Path) -> bool:
    """Return whether the ``as_of`` of a sealed file's rows is on a later day than that of logging."""
    return path.stem.endswith(_AHEAD)


def segment_of(path: Path) -> str:
    """Return the name of the segment that a sealed file came from."""
    return path.name.rpartition("-")[0] + SUFFIX


def write_file(table: pa.Table, path: Path) -> None:
    """Write a file of the log so that it is complete and on the disk, or does not exist.

    Raises:
        OSError: The disk refuses.
    """
    write_parquet(table, path, **COMPRESSION)


def main(arguments: Sequence[str]) -> int:
    """Seal one segment; return the exit code."""
    folder, segment = map(Path, arguments)
    seal(folder, segment)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
