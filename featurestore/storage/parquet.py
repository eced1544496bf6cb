"""How Parquet files are opened, checked and written: the same options and the same errors everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.storage.files import make_file, make_folder, sync

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises when a file is not sound; the last one if names of columns are not UTF-8."""

INT96_UNIT = "us"
"""Unit in which INT96 timestamps of Parquet are read: in nanoseconds, Arrow's own choice, the year 9999 would wrap."""


def open_parquet(path: str | os.PathLike[str], **options: Any) -> pq.ParquetFile:
    """Open a Parquet file.

    Args:
        path: Where it lies.
        options: Further ones of ``pyarrow.parquet.ParquetFile``.

    Raises:
        OSError: It is not there, or cannot be read.
        pa.ArrowException: It is not sound Parquet. Its footer may also give names that are not UTF-8:
            ``UnicodeDecodeError``.
    """
    return pq.ParquetFile(path, **{"coerce_int96_timestamp_unit": INT96_UNIT, **options})


def check_column_chunk(metadata: pq.FileMetaData, group: int, column: int) -> pq.ColumnChunkMetaData:
    """Return what a footer says of a column in a row group, once it is sure that its statistics can be read.

    Args:
        metadata: The footer.
        group: Number of the row group.
        column: Number of the column.

    Raises:
        pa.ArrowInvalid: The footer contradicts its schema. To read the statistics would end the process.
    """
    chunk = metadata.row_group(group).column(column)
    expected = metadata.schema.column(column).physical_type
    if chunk.physical_type != expected:
        problem = f"column '{chunk.path_in_schema}' of row group {group} is {chunk.physical_type}, expected {expected}"
        raise pa.ArrowInvalid(problem)
    return chunk


def check_footer(path: str | os.PathLike[str]) -> None:
    """Make sure that the statistics in a Parquet file's footer can be read, for readers that use them all.

    Raises:
        OSError: It is not there, or cannot be read.
        pa.ArrowException: It is not sound Parquet, or its footer contradicts its schema.
    """
    with open_parquet(path) as file:
        metadata = file.metadata
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            check_column_chunk(metadata, group, column)


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a Parquet file; it has its name once it is on the disk, whole.

    Args:
        table: What it holds.
        path: Where it lies; folders are made, a file that is there is replaced.
        options: Of ``pyarrow.parquet.write_table``.

    Raises:
        OSError: The disk refuses; what was there is there.
    """
    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        make_file(unfinished)
        pq.write_table(table, unfinished, **options)
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
