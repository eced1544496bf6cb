"""Files that a crash, of the process or of the machine, leaves whole or not there at all; how Parquet is opened."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featurestore.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

INT96_UNIT = "us"
"""Unit in which INT96 timestamps of Parquet are read: in nanoseconds, Arrow's own choice, the year 9999 would wrap."""


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""What the address of another place begins with; of two slashes a ``Path`` has kept one."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return a path on this machine.

    Args:
        path: The path; ``s3://bucket/folder`` is none, whether it comes as text or as a ``Path``.

    Raises:
        ValueError: It is the address of another place. Taken for a path it would make a folder named ``s3:``.

    Example:
        >>> local_path("data/features")
        PosixPath('data/features')
    """
    found = _SCHEME.match(os.fspath(path))
    if found is not None:
        raise ValueError(
            f"an address that begins with '{found[1]}://' is not a path on this machine; "
            "give the path of a local or mounted folder"
        )
    return Path(path)


def local_target(path: str | os.PathLike[str], *, where: str) -> Path:
    """Return a path on this machine that an argument gives.

    Args:
        path: The path.
        where: The argument, for the message.

    Raises:
        ConfigError: It is the address of another place (``not-a-local-path``).
    """
    try:
        return local_path(path)
    except ValueError as error:
        raise ConfigError(str(error), where=where, code="not-a-local-path") from None


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk.

    Raises:
        OSError: The disk refuses.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
    import pyarrow.parquet as pq

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
    import pyarrow as pa

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


def write_bytes(content: bytes, path: Path) -> None:
    """Write a file that only its owner reads; it has its name once it is on the disk, whole.

    Args:
        content: What it holds.
        path: Where it lies; folders are made, a file that is there is replaced.

    Raises:
        OSError: The disk refuses; what was there is there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".unfinished")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(unfinished).replace(path)
        sync(path.parent)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def write_parquet(table: pa.Table, path: Path, **options: Any) -> None:
    """Write a Parquet file; it has its name once it is on the disk, whole.

    Args:
        table: What it holds.
        path: Where it lies; folders are made, a file that is there is replaced.
        options: Of ``pyarrow.parquet.write_table``.

    Raises:
        OSError: The disk refuses; what was there is there.
    """
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        pq.write_table(table, unfinished, **options)
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)
