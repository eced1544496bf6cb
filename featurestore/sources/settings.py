"""Resources for reading, and DuckDB connections that stay within them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

    from featurestore.sources.event_log import EventLog

_SPOOL_SHARE = 16
_SPOOL_BYTES = 256 << 20
_DUCKDB_SHARE = 4


@dataclass(frozen=True)
class ReadSettings:
    """Resources for reading a source.

    Attributes:
        threads: Threads that read and decode.
        memory_bytes: Bound for the whole process, of which reading takes a part; ``None`` is unbounded.
        temp_folder: Folder for rows that are not Parquet files while they are read; the system's if ``None``.
        base_folder: Folder that relative paths count from; the working directory if ``None``.
        event_log: The log of pushed events; ``None`` if there is none, so that sources hold only the rows outside.
    """

    threads: int = max(1, os.cpu_count() or 1)
    memory_bytes: int | None = None
    temp_folder: Path | None = None
    base_folder: Path | None = None
    event_log: EventLog | None = None

    @property
    def spool_bytes(self) -> int:
        """How much of a source that is not Parquet is kept in memory before it goes to a file."""
        return _SPOOL_BYTES if self.memory_bytes is None else min(_SPOOL_BYTES, self.memory_bytes // _SPOOL_SHARE)


@contextmanager
def duckdb_connection(settings: ReadSettings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that follows the settings: UTC, threads, memory, and where it spills."""
    import duckdb

    with temporary_folder(settings) as folder:
        connection = duckdb.connect(config={"threads": settings.threads, "temp_directory": folder})
        try:
            connection.execute("SET TimeZone = 'UTC'")
            _switch_progress_bar_off(connection)
            if settings.memory_bytes is not None:
                megabytes = max(64, (settings.memory_bytes >> 20) // _DUCKDB_SHARE)
                connection.execute(f"SET memory_limit = '{megabytes}MiB'")
            yield connection
        finally:
            connection.close()


@contextmanager
def temporary_folder(settings: ReadSettings) -> Iterator[str]:
    """Make a folder that exists while a source is read.

    It is not a ``TemporaryDirectory``: a reader that is abandoned before its last row is closed by the garbage
    collector, which may finalize the folder first, with a warning.
    """
    folder = tempfile.mkdtemp(prefix="featurestore-", dir=settings.temp_folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _switch_progress_bar_off(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep DuckDB from drawing a progress bar of its own.

    In a notebook without ipywidgets the bar is off and DuckDB refuses every change of the setting, so it is only
    changed where it is on.
    """
    if connection.sql("SELECT current_setting('enable_progress_bar')").fetchall() != [(False,)]:
        connection.execute("SET enable_progress_bar = false")
