"""Writing files so that a crash, of the process or of the machine, leaves them whole or not there at all."""

from __future__ import annotations

import os
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
