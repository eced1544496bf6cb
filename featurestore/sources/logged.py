"""Rows outside the event log followed by the pushed events, as one source.

Rows outside became known when they happened, unless the source has an ingest time. The log is read as it was when it
was opened. It keeps events under names and types of its own; ``in_contract`` converts them to those of a plan, for
training and online state alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from featurestore.core.dtypes import TIMESTAMP, DType
from featurestore.core.errors import SourceDataError
from featurestore.definitions.sources import Source
from featurestore.plan.model import INGEST_COLUMN, SourcePlan
from featurestore.sources.convert import to_contract
from featurestore.sources.event_log import EventLog, Stretch
from featurestore.sources.rows import RawRows, SourceFile

_PIECE_ROWS = 1 << 17


class LoggedRows:
    """Rows of a source that accepts pushes, as one plan reads them.

    Attributes:
        outside_pieces: How many pieces, the first ones, are outside; the others are the log's.
    """

    def __init__(self, outside: RawRows, log: RawRows, plan: SourcePlan) -> None:
        """Concatenate the rows.

        Args:
            outside: The source's own rows.
            log: Its pushed events, as the plan reads them.
            plan: The source as the plan has it.
        """
        self._parts = (outside, log)
        self._event_time = plan.event_time
        log_columns = {INGEST_COLUMN: TIMESTAMP} if plan.ingest_time == INGEST_COLUMN else {}
        self.dtypes: Mapping[str, DType | None] = {**outside.dtypes, **log_columns}
        self.naive = outside.naive
        self.files: tuple[SourceFile, ...] = outside.files
        self.outside_pieces = len(outside.piece_rows)
        self.piece_rows: Sequence[int] = [*outside.piece_rows, *log.piece_rows]

    @property
    def not_finite(self) -> Mapping[str, int]:
        """Counts of floats that became null before the rows came here, by column."""
        return self._parts[0].not_finite

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one piece."""
        part, place = self._at(number)
        if part is self._parts[1]:
            return part.read_piece(place, columns)
        stored = list(dict.fromkeys(self._outside_name(name) for name in columns))
        table = part.read_piece(place, stored)
        return pa.table([table.column(self._outside_name(name)) for name in columns], names=list(columns))

    def place(self, number: int) -> str:
        """Return the place of a piece, for messages."""
        part, place = self._at(number)
        return part.place(place)

    def null_count(self, number: int, column: str) -> int | None:
        """Return the count of nulls in a column of a piece if it is known without reading."""
        part, place = self._at(number)
        if part is self._parts[1]:
            return part.null_count(place, column)
        return part.null_count(place, self._outside_name(column))

    def bounds_us(self, number: int, column: str) -> tuple[int, int] | None:
        """Return the smallest and largest instant of a column of a piece if they are known without reading."""
        part, place = self._at(number)
        if part is self._parts[1]:
            return part.bounds_us(place, column)
        return part.bounds_us(place, self._outside_name(column))

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes some columns of all rows take in memory."""
        outside, log = self._parts
        stored = list(dict.fromkeys(self._outside_name(name) for name in columns))
        return outside.estimated_bytes(stored) + log.estimated_bytes(columns)

    def check_unchanged(self) -> None:
        """Raise ``SourceDataError`` if the rows outside are no longer those that were opened; the log only grows."""
        self._parts[0].check_unchanged()

    def close(self) -> None:
        """Remove temporary files and free memory."""
        for part in self._parts:
            part.close()

    def _at(self, number: int) -> tuple[RawRows, int]:
        is_outside = number < self.outside_pieces
        return (self._parts[0], number) if is_outside else (self._parts[1], number - self.outside_pieces)

    def _outside_name(self, column: str) -> str:
        """Return the column outside that holds a column's values."""
        return self._event_time if column == INGEST_COLUMN else column


class LogRows:
    """The pushed events of one source, as one plan reads them: compacted files, then what the database holds."""

    def __init__(self, log: EventLog, plan: SourcePlan, stretches: Sequence[Stretch], *, where: str) -> None:
        """Take the descriptions of the events; they are read by ``read_piece``.

        Args:
            log: The log.
            plan: The source as the plan has it.
            stretches: Where the events are stored.
            where: The place, for messages.
        """
        self._log = log
        self._plan = plan
        self._where = where
        self._pieces = _pieces(stretches)
        self.dtypes: Mapping[str, DType | None] = _dtypes(plan)
        self.naive: frozenset[str] = frozenset()
        self.files: tuple[SourceFile, ...] = ()
        self.not_finite: Mapping[str, int] = {}
        self.piece_rows: Sequence[int] = [sum(stretch.row_count for stretch in piece) for piece in self._pieces]

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one piece; an event has nulls in columns that were declared after it was pushed."""
        piece = self._pieces[number]
        stored = [_stored_as(self._plan, name) for name in columns]
        tables = self._log.read(self._plan.name, piece[0].first, piece[-1].last, stored)
        if sum(table.num_rows for table in tables) != self.piece_rows[number]:
            raise SourceDataError("events were removed while they were read", where=self._where, hint="Run it again.")
        return pa.concat_tables([in_contract(table, self._plan, columns, where=self._where) for table in tables])

    def place(self, _: int) -> str:
        """Return the place of a piece, for messages."""
        return "event log"

    def null_count(self, _: int, __: str) -> int | None:
        """Return ``None``: it is not known without reading."""
        return None

    def bounds_us(self, number: int, column: str) -> tuple[int, int] | None:
        """Return the smallest and largest ingest time of a piece."""
        if column != self._plan.ingest_time:
            return None
        piece = self._pieces[number]
        return min(stretch.ingest_from_us for stretch in piece), max(stretch.ingest_to_us for stretch in piece)

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes some columns take: a word for each value."""
        return 8 * len(columns) * sum(self.piece_rows)

    def check_unchanged(self) -> None:
        """Do nothing: the log only grows."""

    def close(self) -> None:
        """Do nothing: the log is the store's."""


def in_contract(events: pa.Table, plan: SourcePlan, columns: Sequence[str], *, where: str) -> pa.Table:
    """Return events of the log as a plan reads them.

    Args:
        events: Events under the names and types of the log.
        plan: The source as the plan has it.
        columns: Names of columns of the plan.
        where: The place, for messages.

    Returns:
        The columns in the plan's dtypes. Events have nulls in columns that were declared after they were pushed.

    Raises:
        SourceDataError: A value is not exactly one of the plan's dtype.
    """
    dtypes = _dtypes(plan)
    arrays = []
    for name in columns:
        stored, dtype = _stored_as(plan, name), dtypes[name]
        if stored in events.column_names:
            place = f"{where}, column '{name}'"
            arrays.append(to_contract(events.column(stored), dtype, timezone=None, where=place)[0])
        else:
            arrays.append(pa.nulls(events.num_rows, dtype.arrow))
    return pa.table(arrays, names=list(columns))


def reads_log(source: Source, plan: SourcePlan) -> bool:
    """Return whether a plan reads pushed events; it may be older than ``stream=True`` of its source."""
    return source.stream and plan.ingest_time is not None


def is_in_contract(events: pa.Table, plan: SourcePlan) -> bool:
    """Return whether events of the log have all columns of a plan in its dtypes; their names may differ."""
    kinds = dict(zip(events.column_names, events.schema.types, strict=True))
    return all(kinds.get(_stored_as(plan, column.name)) == column.dtype.arrow for column in plan.columns)


def under_plan_names(events: pa.Table, plan: SourcePlan) -> pa.Table:
    """Return events of the log that are in a plan's contract under the plan's names."""
    names = [column.name for column in plan.columns]
    return pa.table([events.column(_stored_as(plan, name)) for name in names], names=names)


def _stored_as(plan: SourcePlan, column: str) -> str:
    """Return the log's name of a plan's column: the ingest time is the log's, not a value that callers sent."""
    return INGEST_COLUMN if column == plan.ingest_time else column


def _dtypes(plan: SourcePlan) -> dict[str, DType]:
    return {column.name: column.dtype for column in plan.columns}


def _pieces(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """Combine neighbouring stretches to pieces of a useful size."""
    pieces: list[list[Stretch]] = []
    rows = _PIECE_ROWS
    for stretch in stretches:
        if rows + stretch.row_count > _PIECE_ROWS:
            pieces.append([])
            rows = 0
        pieces[-1].append(stretch)
        rows += stretch.row_count
    return pieces
