"""Event ids that the log keeps, for every column that was ever declared as an event id of a source.

For each column the log knows the instant from which no event repeats an id of an earlier one. Ids are kept for ever.
A column that is declared on a log with events has its ids entered step by step, while pushes go on; until that is
finished, ``unique_from_us`` is ``NO_WATERMARK``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa
import sqlalchemy as sa

from featurestore.core.dtypes import DType, parse_dtype
from featurestore.core.temporal import NO_WATERMARK
from featurestore.sources.event_log.database import ID_COLUMNS, IDS
from featurestore.sources.event_log.stored import IdColumn, identities
from featurestore.storage.database import blobs

_IDS_AT_ONCE = 10_000

Convert: TypeAlias = Callable[[pa.ChunkedArray, DType], pa.Array]
"""Returns a column in a dtype; raises ``SourceDataError`` if a value is not one of it."""


@dataclass(frozen=True)
class KnownIds:
    """Ids of one column that the log keeps.

    Attributes:
        kept_as: What they are kept under.
        unique_from_us: No event that became known from this instant on repeats an id of an earlier one;
            ``NO_WATERMARK`` if not all ids of the column are entered.
    """

    kept_as: str
    unique_from_us: int

    @property
    def is_complete(self) -> bool:
        """Whether every id of the column in the log is entered."""
        return self.unique_from_us < NO_WATERMARK


def known_ids(connection: sa.Connection, source: str) -> dict[IdColumn, KnownIds]:
    """Return the columns of which the log keeps ids, or begins to."""
    mark = _placeholder(connection)
    statement = f"SELECT name, dtype, number, unique_from_us FROM {ID_COLUMNS.name} WHERE source = {mark}"
    return {
        IdColumn(name, parse_dtype(dtype)): KnownIds(_kept_as(source, number), unique_from_us)
        for name, dtype, number, unique_from_us in connection.exec_driver_sql(statement, (source,))
    }


def _kept_as(source: str, number: int) -> str:
    """Return what the ids of a column are kept under; the first logs kept ids under the source's name alone."""
    return f"{source}\x1f{number}"


def begin_entering(connection: sa.Connection, source: str, column: IdColumn) -> KnownIds:
    """Record that ids of a column are entered from now on."""
    number = len(known_ids(connection, source))
    values = {"name": column.name, "dtype": str(column.dtype), "number": number, "unique_from_us": NO_WATERMARK}
    connection.execute(sa.insert(ID_COLUMNS).values(source=source, **values))
    return KnownIds(_kept_as(source, number), NO_WATERMARK)


def set_unique_from(connection: sa.Connection, source: str, column: IdColumn, unique_from_us: int) -> None:
    """Record from which instant on no event repeats an id of an earlier one in a column."""
    of_column = (ID_COLUMNS.c.name == column.name, ID_COLUMNS.c.dtype == str(column.dtype))
    change = sa.update(ID_COLUMNS).where(ID_COLUMNS.c.source == source, *of_column)
    connection.execute(change.values(unique_from_us=unique_from_us))


def ids_of(events: pa.Table, column: IdColumn, convert: Convert) -> list[bytes | None]:
    """Return the ids of events in a column; they have none if they have no such column."""
    if column.name not in events.column_names:
        return []
    return identities(convert(events.column(column.name), column.dtype).to_pylist())


def enter(connection: sa.Connection, kept_as: str, ids: Sequence[bytes | None]) -> list[int]:
    """Store ids; return the positions of those that are new, and of events without an id."""
    known: set[bytes] = set()
    present = [id_ for id_ in ids if id_ is not None]
    mark = _placeholder(connection)
    for start in range(0, len(present), _IDS_AT_ONCE):
        some = present[start : start + _IDS_AT_ONCE]
        wanted = ",".join([mark] * len(some))
        statement = f"SELECT id FROM {IDS.name} WHERE source = {mark} AND id IN ({wanted})"
        known.update(bytes(id_) for (id_,) in connection.exec_driver_sql(statement, (kept_as, *blobs(some))))
    fresh = []
    new: list[bytes] = []
    for place, id_ in enumerate(ids):
        if id_ is not None:
            if id_ in known:
                continue
            known.add(id_)
            new.append(id_)
        fresh.append(place)
    if new:
        rows = [(kept_as, id_) for id_ in blobs(new)]
        connection.exec_driver_sql(f"INSERT INTO {IDS.name} (source, id) VALUES ({mark}, {mark})", rows)
    return fresh


def _placeholder(connection: sa.Connection) -> str:
    """Return the parameter marker of the driver, which gets statements about thousands of ids directly."""
    return "?" if connection.dialect.paramstyle == "qmark" else "%s"
