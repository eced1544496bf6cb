"""Instants that rows of another system's log ask about: timestamps, text, or numbers that count since 1970."""

from __future__ import annotations

from decimal import Decimal, DecimalException
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import TIMESTAMP, from_arrow
from featurestore.core.errors import SourceDataError
from featurestore.core.temporal import epoch_us, likely_unit
from featurestore.guard.audit.foreign_values import read_foreign


def read_instants(
    column: pa.ChunkedArray, *, unit: str | None, timezone: str | None, where: str, first_row: int
) -> pa.Array:
    """Read the column that a mapping names as ``as_of``.

    Args:
        column: The column as it is outside; numbers may be whole or not, or text.
        unit: What numbers count since 1970; ``None`` if the column holds timestamps or text.
        timezone: Zone of timestamps that say none.
        where: The column, for messages.
        first_row: Number of its first row, for messages.

    Returns:
        Instants, no nulls. Whole nanoseconds are cut down to microseconds, and so are timestamps; parts of a unit are
        rounded.

    Raises:
        SourceDataError: A row holds no instant.
    """
    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise _error(
            f"{column.null_count} rows have no as_of, the first of them row {row}",
            where,
            "Map the column of the instant that was asked about, or leave these rows out.",
            "null-as-of",
        )
    if unit is not None:
        return _counted(column, unit, where, first_row)
    kind = from_arrow(column.type)
    if kind is not None and kind.is_numeric:
        raise _unit_missing(column[0].as_py(), where, first_row)
    read = read_foreign(column, TIMESTAMP, timezone=timezone, where=where)
    rows = np.flatnonzero(read.unread.is_valid().to_numpy(zero_copy_only=False))
    if len(rows):
        text = read.unread[int(rows[0])].as_py()
        if _number(text) is not None:
            raise _unit_missing(text, where, first_row + int(rows[0]))
        hint = "Name in as_of a column of timestamps, or of ISO 8601 text"
        hint += f", of times that clocks in {timezone} showed once." if timezone not in (None, "UTC") else "."
        raise _error(f"row {first_row + int(rows[0])} holds {text!r}, which is no instant", where, hint, "wrong-dtype")
    return read.values


def _counted(column: pa.ChunkedArray, unit: str, where: str, first_row: int) -> pa.Array:
    """Read numbers that count a unit since 1970."""
    kind = from_arrow(column.type)
    if kind is None or not (kind.is_numeric or kind.kind == "string"):
        hint = "Leave as_of_unit out of the mapping, or name a column of numbers in as_of."
        raise _error(f"the column holds {column.type}, and as_of_unit says numbers", where, hint, "wrong-dtype")
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    found = [_microseconds(value, unit) for value in values]
    if None in found:
        place = found.index(None)
        row = first_row + int(np.flatnonzero(encoded.indices.to_numpy() == place)[0])
        raise _not_counted(values[place], unit, where, row)
    return pa.array(found, pa.int64()).take(encoded.indices).cast(TIMESTAMP.arrow)


def _microseconds(value: Any, unit: str) -> int | None:
    number = value if isinstance(value, int) else _number(value)
    return None if number is None else epoch_us(number, unit)


def _number(value: Any) -> Decimal | None:
    try:
        number = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except DecimalException:
        return None
    return number if number.is_finite() else None


def _not_counted(value: Any, unit: str, where: str, row: int) -> SourceDataError:
    number = _number(value)
    if number is None:
        hint = "Name a column of numbers in as_of, or leave as_of_unit out of the mapping."
        return _error(f"row {row} holds {value!r}, which is no number", where, hint, "wrong-dtype")
    likely = likely_unit(number)
    hint = "Correct the row." if likely == unit else f'Say in the mapping what it counts: as_of_unit = "{likely}".'
    problem = f'row {row} holds {value}, which with as_of_unit = "{unit}" lies outside the years 1 to 9999'
    return _error(problem, where, hint, "out-of-range")


def _unit_missing(value: Any, where: str, row: int) -> SourceDataError:
    hint = f'Say in the mapping what it counts since 1970: as_of_unit = "{likely_unit(_number(value) or 0)}".'
    return _error(f"row {row} holds the number {value}, which may count anything", where, hint, "no-unit")


def _error(problem: str, where: str, hint: str, code: str) -> SourceDataError:
    return SourceDataError(problem, where=where, hint=hint, code=code)
