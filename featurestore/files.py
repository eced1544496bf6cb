"""Writing files so that a crash, of the process or of the machine, leaves them whole or not there at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


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
