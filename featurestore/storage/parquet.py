"""Opening, checking and writing Parquet files, with the same options and errors everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.storage.files import make_file, make_folder, sync

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""Errors of pyarrow for damaged files; the last one if column names are not UTF-8."""

INT96_UNIT = "us"
"""Unit in which INT96 timestamps of Parquet are read: in nanoseconds, Arrow's default, the year 9999 would overflow."""


def open_parquet(path: str | os.PathLike[str], **options: Any) -> pq.ParquetFile:
    """Open a Parquet file.

    Args:
        path: The path.
        options: More options of ``pyarrow.parquet.ParquetFile``.

    Raises:
        OSError: It does not exist or cannot be read.
        pa.ArrowException: It is not valid Parquet.
        UnicodeDecodeError: Column names in its footer are not UTF-8.
    """
    return pq.ParquetFile(path, **{"coerce_int96_timestamp_unit": INT96_UNIT, **options})


def check_column_chunk(metadata: pq.FileMetaData, group: int, column: int) -> pq.ColumnChunkMetaData:
    """Return the metadata of a column in a row group, after checking that its statistics can be read.

    Args:
        metadata: The footer.
        group: Number of the row group.
        column: Number of the column.

    Raises:
        pa.ArrowInvalid: The footer contradicts its schema. Reading the statistics would crash the process.
    """
    chunk = metadata.row_group(group).column(column)
    expected = metadata.schema.column(column).physical_type
    if chunk.physical_type != expected:
        problem = f"column '{chunk.path_in_schema}' of row group {group} is {chunk.physical_type}, expected {expected}"
        raise pa.ArrowInvalid(problem)
    return chunk


def check_footer(path: str | os.PathLike[str]) -> None:
    """Check that the statistics in a Parquet file's footer can be read, for readers that use all of them.

    Raises:
        OSError: It does not exist or cannot be read.
        pa.ArrowException: It is not valid Parquet, or its footer contradicts its schema.
    """
    with open_parquet(path) as file:
        metadata = file.metadata
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            check_column_chunk(metadata, group, column)


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a Parquet file; it appears under its name once it is complete and on the disk.

    Args:
        table: The content.
        path: The path; folders are made, an existing file is replaced.
        options: Options of ``pyarrow.parquet.write_table``.

    Raises:
        OSError: The disk refuses; an existing file is unchanged.
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
