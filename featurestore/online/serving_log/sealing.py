"""Sealing: the records of a segment become Parquet files, by service and day, and the segment goes.

The files of a segment bear its name. As long as the segment is there, it is what counts and they do not; so sealing can
die at any point and be done again, and no row is read twice or lost. Run as a program, ``python -m
featurestore.online.serving_log.sealing FOLDER SEGMENT``, so that a server's requests need not wait for it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from featurestore.files import write_parquet
from featurestore.online.serving_log.rows import Record, table_of
from featurestore.online.serving_log.segments import SUFFIX, read_segment
from featurestore.temporal import to_datetime

SEGMENTS = "segments"
"""Folder of the segments, inside that of the log."""


def seal(folder: Path, segment: Path) -> int:
    """Write a segment's records as Parquet, and remove the segment.

    Args:
        folder: Folder of the log.
        segment: A segment that nobody writes.

    Returns:
        How many bytes at its end a crash had cut off.

    Raises:
        OSError: The disk refuses; the segment is still there.
    """
    plans, torn = read_segment(segment)
    for number, logged in enumerate(plans):
        by_day: dict[str, list[Record]] = defaultdict(list)
        for record in logged.records:
            by_day[to_datetime(record.logged_at_us).date().isoformat()].append(record)
        for day, records in by_day.items():
            table = table_of(logged.schema, logged.service, logged.fingerprint, records)
            place = folder / f"service={logged.service}" / f"day={day}"
            write_file(table, place / f"{segment.name.removesuffix(SUFFIX)}-{number}.parquet")
    segment.unlink()
    return torn


def segment_of(path: Path) -> str:
    """Return the name of the segment that a sealed file came from."""
    return path.name.rpartition("-")[0] + SUFFIX


def write_file(table: pa.Table, path: Path) -> None:
    """Write a file of the log so that it is there whole, on the disk, or not at all.

    Raises:
        OSError: The disk refuses.
    """
    write_parquet(table, path, compression="zstd", use_dictionary=["service", "fingerprint"])


def main(arguments: Sequence[str]) -> int:
    """Seal one segment; return the exit code."""
    folder, segment = map(Path, arguments)
    seal(folder, segment)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
