"""Rows of a source in pieces that can be read one by one, whatever kind of source it is.

Keys, times and policies are not known here, but in the scan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from featurestore.core.dtypes import DType, Schema, from_arrow
from featurestore.core.errors import SourceDataError, SourceMissingError, unknown_column

WIDE_DECIMAL = DType("decimal", precision=38, scale=18)
"""The dtype of exact numbers without a precision: of ``NUMERIC`` in databases, of Python's ``Decimal`` in frames."""

PIECE_ROWS = 1 << 20
"""Most rows of a piece of a source in memory."""

PIECE_BYTES = 1 << 25
"""About the most bytes of one: rows that hold long lists are read a few thousand at a time."""


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when a scan was opened.

    Attributes:
        path: Its path.
        size: Bytes.
        mtime_ns: When it was last written, nanoseconds since the epoch.
        row_count: Its rows, before any policy.
    """

    path: str
    size: int
    mtime_ns: int
    row_count: int


class RawRows(Protocol):
    """Rows of a source in the types they have in the source, in pieces with a fixed order."""

    @property
    def dtypes(self) -> Mapping[str, DType | None]:
        """Columns with the dtypes they are read as by default; ``None`` for types the contract has none for."""
        ...

    @property
    def naive(self) -> frozenset[str]:
        """Names of the timestamp columns without a time zone."""
        ...

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files that hold the rows; none for frames and databases."""
        ...

    @property
    def not_finite(self) -> Mapping[str, int]:
        """Counts of NaN and infinities that became null before the rows came here, by column."""
        ...

    @property
    def piece_rows(self) -> Sequence[int]:
        """Row count of each piece."""
        ...

    def read_piece(self, number: int, columns: Sequence[str], /) -> pa.Table:
        """Return some columns of one piece; safe to call from several threads."""
        ...

    def place(self, number: int, /) -> str:
        """Return the place of a piece, for messages; may be empty."""
        ...

    def null_count(self, number: int, column: str, /) -> int | None:
        """Return the count of nulls in a column of a piece if it is known without reading."""
        ...

    def bounds_us(self, number: int, column: str, /) -> tuple[int, int] | None:
        """Return the smallest and largest instant of a column of a piece if they are known without reading."""
        ...

    def estimated_bytes(self, columns: Sequence[str], /) -> int:
        """Return about how many bytes some columns of all rows take in memory."""
        ...

    def check_unchanged(self) -> None:
        """Raise ``SourceDataError`` if the rows are no longer those that were opened."""
        ...

    def close(self) -> None:
        """Remove temporary files and free memory."""
        ...


class TableRows:
    """Rows in memory."""

    def __init__(self, table: pa.Table, unreadable: Mapping[str, SourceDataError] | None = None) -> None:
        """Take the rows.

        Args:
            table: The rows.
            unreadable: Columns that cannot be read, with their errors.
        """
        self._table = table
        self._unreadable = unreadable or {}
        self.dtypes: Mapping[str, DType | None] = dtypes_of(table.schema)
        self.naive = naive_columns(table.schema)
        self.files: tuple[SourceFile, ...] = ()
        self.not_finite: Mapping[str, int] = {}
        self._rows = rows_within(PIECE_ROWS, PIECE_BYTES, table.num_rows, int(table.nbytes))
        starts = range(0, table.num_rows, self._rows)
        self.piece_rows: Sequence[int] = [min(self._rows, table.num_rows - start) for start in starts]

    def read_piece(self, number: int, columns: Sequence[str]) -> pa.Table:
        """Return some columns of one piece."""
        for name in columns:
            if name in self._unreadable:
                raise self._unreadable[name]
        return self._table.select(list(columns)).slice(number * self._rows, self.piece_rows[number])

    def place(self, _: int) -> str:
        """Return an empty place: rows in memory only have a number."""
        return ""

    def null_count(self, number: int, column: str) -> int | None:
        """Return the count of nulls in a column of a piece."""
        # Nulls of a dictionary may hide in its values, and a float's NaN becomes null at the boundary.
        kind = self._table.schema.field(column).type
        if pa.types.is_dictionary(kind) or pa.types.is_floating(kind):
            return None
        return int(self._table.column(column).slice(number * self._rows, self.piece_rows[number]).null_count)

    def bounds_us(self, _: int, __: str) -> tuple[int, int] | None:
        """Return ``None``: frames have no statistics."""
        return None

    def estimated_bytes(self, columns: Sequence[str]) -> int:
        """Return the bytes of some columns."""
        return int(self._table.select(list(columns)).nbytes)

    def check_unchanged(self) -> None:
        """Do nothing: Arrow data does not change."""

    def close(self) -> None:
        """Do nothing: the memory is freed with the object."""


def rows_within(most_rows: int, most_bytes: int, row_count: int, size: int) -> int:
    """Return how many rows to read at a time.

    Args:
        most_rows: The most.
        most_bytes: About what they may take.
        row_count: Rows that there are.
        size: Bytes that all of them take.
    """
    return max(1, min(most_rows, most_bytes * row_count // max(1, size)))


def dtypes_of(schema: pa.Schema) -> Schema:
    """Return the dtype of each column of an Arrow schema, ``None`` where the contract has none."""
    return Schema(
        {field.name: from_arrow(field.type) for field in schema}, {field.name: str(field.type) for field in schema}
    )


def naive_columns(schema: pa.Schema) -> frozenset[str]:
    """Return the names of the timestamp columns without a time zone."""
    return frozenset(field.name for field in schema if pa.types.is_timestamp(field.type) and field.type.tz is None)


def missing_column(where: str, column: str, known: Sequence[str]) -> SourceMissingError:
    """Return the error for a column that a source does not have."""
    return unknown_column(column, known).error(SourceMissingError, where)
