"""Rows outside and the log of pushed events, as the one source they are.

The rows outside come first; they became known when they happened, unless the source says otherwise. The log is read as
it stood when it was opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from featurestore.dtypes import TIMESTAMP, DType
from featurestore.errors import SourceDataError
from featurestore.event_log import EventLog, Stretch
from featurestore.plan.model import INGEST_COLUMN
from featurestore.sources.convert import to_contract
from featurestore.sources.rows import RawRows, SourceFile

_PIECE_ROWS = 1 << 17


class LoggedRows:
    """Rows of a source that accepts pushes.

    Attributes:
        outside_pieces: How many pieces lie outside; the others are the log's.
    """

    def __init__(self, outside: RawRows, log: RawRows, *, event_time: str, ingest_time: str) -> None:
        """Put rows behind each other.

        Args:
            outside: The source's own rows.
            log: Its pushed events.
            event_time: Column of the instant a fact happened.
            ingest_time: Column of the instant it became known; the event time stands for it where rows outside have
                no such column.
        """
        self._parts = (outside, log)
        self._event_time = event_time
        self._ingest_time = ingest_time
        self._borrows = ingest_time == INGEST_COLUMN
        borrowed = {INGEST_COLUMN: TIMESTAMP} if self._borrows else {}
        self.dtypes: Mapping[str, DType | None] = {**outside.dtypes, **borrowed}
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
        own = list(dict.fromkeys(self._own(name) for name in columns))
        table = part.read_piece(place, own)
        return pa.table([table.column(self._own(name)) for name in columns], names=list(columns))

    def place(self, number: int) -> str:
        """Return where a piece lies."""
        part, place = self._at(number)
        return part.place(place)

    def null_count(self, number: int, column: str) -> int | None:
        """Return the count of nulls in a column of a piece if it is known without reading."""
        part, place = self._at(number)
        if part is self._parts[1]:
            return part.null_count(place, column)
        return part.null_count(place, self._own(column))

    def bounds_us(self, number: int, column: str) -> tuple[int, int] | None:
        """Return the smallest and largest instant of a column of a piece if they are known without reading."""
        part, place = self._at(number)
        if part is self._parts[1]:
            return part.bounds_us(place, column)
        return part.bounds_us(place, self._own(column))

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes some columns of all rows take in memory."""
        outside, log = self._parts
        own = list(dict.fromkeys(self._own(name) for name in columns))
        return outside.estimated_bytes(own) + log.estimated_bytes(columns)

    def check_unchanged(self) -> None:
        """Raise ``SourceDataError`` if the rows outside are no longer those that were opened; the log only grows."""
        self._parts[0].check_unchanged()

    def close(self) -> None:
        """Give back files and memory."""
        for part in self._parts:
            part.close()

    def _at(self, number: int) -> tuple[RawRows, int]:
        is_outside = number < self.outside_pieces
        return (self._parts[0], number) if is_outside else (self._parts[1], number - self.outside_pieces)

    def _own(self, column: str) -> str:
        """Return the column outside that holds a column's values."""
        return self._event_time if self._borrows and column == INGEST_COLUMN else column


class LogRows:
    """The pushed events of one source: compacted files, then what the database holds."""

    def __init__(
        self,
        log: EventLog,
        source: str,
        dtypes: Mapping[str, DType],
        *,
        ingest_time: str,
        ingest: tuple[int, int] | None,
        where: str,
    ) -> None:
        """Find out where events lie; they are read when asked for.

        Args:
            log: The log.
            source: Name of the source.
            dtypes: Columns that may be asked for.
            ingest_time: Column of the instant an event became known.
            ingest: Only stretches that may hold events that became known in this range; ``None`` means all.
            where: What it is, for messages.
        """
        self._log = log
        self._source = source
        self._ingest_time = ingest_time
        self._where = where
        self._pieces = _pieces(log.stretches(source, ingest=ingest))
        self._dtypes = dtypes
        self.dtypes: Mapping[str, DType | None] = dtypes
        self.naive: frozenset[str] = frozenset()
        self.files: tuple[SourceFile, ...] = ()
        self.not_finite: Mapping[str, int] = {}
        self.piece_rows: Sequence[int] = [sum(one.row_count for one in piece) for piece in self._pieces]

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one piece; an event has nulls in columns its source did not have when it came."""
        piece = self._pieces[number]
        tables = self._log.read(self._source, piece[0].first, piece[-1].last, columns)
        whole = pa.concat_tables(map(self._in_contract, tables), promote_options="default")
        if whole.num_rows != self.piece_rows[number]:
            raise SourceDataError("events were removed while they were read", where=self._where, hint="Run it again.")
        for name in columns:
            if name not in whole.column_names:
                whole = whole.append_column(name, pa.nulls(whole.num_rows))
        return whole.select(list(columns))

    def _in_contract(self, table: pa.Table) -> pa.Table:
        """Bring events to the dtypes the source has now; they were pushed when it may have had others."""
        columns = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            where = f"{self._where}, column '{name}'"
            columns[name] = to_contract(column, self._dtypes[name], timezone=None, where=where)[0]
        return pa.table(columns)

    def place(self, _: int) -> str:
        """Return what messages call the piece."""
        return "event log"

    def null_count(self, _: int, __: str) -> int | None:
        """Return ``None``: it is not known without reading."""
        return None

    def bounds_us(self, number: int, column: str) -> tuple[int, int] | None:
        """Return the smallest and largest ingest time of a piece."""
        if column != self._ingest_time:
            return None
        piece = self._pieces[number]
        return min(one.ingest_from_us for one in piece), max(one.ingest_to_us for one in piece)

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return about how many bytes some columns take: a word for each value."""
        return 8 * len(columns) * sum(self.piece_rows)

    def check_unchanged(self) -> None:
        """Do nothing: the log only grows."""

    def close(self) -> None:
        """Do nothing: the log is the store's."""


def _pieces(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    """Put neighbouring stretches together to pieces of a useful size."""
    pieces: list[list[Stretch]] = []
    rows = _PIECE_ROWS
    for stretch in stretches:
        if rows + stretch.row_count > _PIECE_ROWS:
            pieces.append([])
            rows = 0
        pieces[-1].append(stretch)
        rows += stretch.row_count
    return pieces
