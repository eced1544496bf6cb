"""Reading stored events of the log, from batches in the database and from files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from featurestore.core.errors import StorageError
from featurestore.plan.model import INGEST_COLUMN, SEQUENCE_COLUMN
from featurestore.sources.event_log.database import BATCHES, FILES, WHERE
from featurestore.sources.event_log.stored import ingest_name, under_log_names, unpacked
from featurestore.storage.parquet import open_parquet


@dataclass(frozen=True)
class Located:
    """Where events are stored.

    Attributes:
        batches: Stored batches, by the number of their first event.
        paths: Files as the database names them, by the number of their first event.
    """

    batches: Mapping[int, bytes]
    paths: Mapping[int, str]


def locate(connection: sa.Connection, source: str, first: int, last: int) -> Located:
    """Return where the events of a range of numbers lie."""
    batches = sa.select(BATCHES.c.first, BATCHES.c.events).where(*overlapping(BATCHES, source, first, last))
    files = sa.select(FILES.c.first, FILES.c.path).where(*overlapping(FILES, source, first, last))
    return Located(
        {row.first: row.events for row in connection.execute(batches)},
        {row.first: row.path for row in connection.execute(files)},
    )


def open_events(
    located: Located, place: Callable[[str], str], first: int, last: int, columns: Sequence[str]
) -> list[pa.Table]:
    """Return some columns of events, and their ingest time, from where they are stored.

    Args:
        located: Where they are stored.
        place: Returns the absolute path of a file that the database names.
        first: Number of the first event.
        last: Number of the last event.
        columns: Columns to read; those that events do not have are left out.

    Raises:
        FileNotFoundError: A file was replaced after the database had named it.
    """
    names = list(dict.fromkeys([*columns, INGEST_COLUMN]))
    tables = {start: under_log_names(unpacked(stored)) for start, stored in located.batches.items()}
    for start, path in located.paths.items():
        try:
            tables[start] = _read_file(place(path), names)
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise _damaged(place(path), error) from error
    chosen = [_numbered(table, first, last) for _, table in sorted(tables.items())]
    return [_columns_of(table, names) for table in chosen if table.num_rows]


def _read_file(path: str, columns: Sequence[str]) -> pa.Table:
    with open_parquet(path) as file:
        known = file.schema_arrow.names
        # In the order of the file: it tells the ingest time's column in files of the first logs.
        wanted = {*columns, ingest_name(known), SEQUENCE_COLUMN}
        return under_log_names(file.read([name for name in known if name in wanted]))


def _numbered(table: pa.Table, first: int, last: int) -> pa.Table:
    """Return the events whose numbers lie in a range, both ends included."""
    numbers = table.column(SEQUENCE_COLUMN)
    return table.filter(pc.and_(pc.greater_equal(numbers, first), pc.less_equal(numbers, last)))


def _columns_of(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    return table.select([name for name in columns if name in table.column_names])


def overlapping(table: sa.Table, source: str, first: int, last: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions of stretches that overlap a range of numbers."""
    return table.c.source == source, table.c.first <= last, table.c.last >= first


@contextmanager
def file_failures() -> Iterator[None]:
    """Turn failures of the folder or its files into errors of the library."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, StorageError):
            raise
        raise _unusable(error) from error


def _damaged(path: str, error: Exception) -> StorageError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = "Bring the file back from a backup; its events are nowhere else."
    return StorageError(f"the file '{path}' cannot be read: {reason}", where=WHERE, hint=hint, code="event-log-file")


def _unusable(error: Exception) -> StorageError:
    hint = "Check the folder, its rights and the disk."
    return StorageError(str(error), where=WHERE, hint=hint, code="event-log-file")
