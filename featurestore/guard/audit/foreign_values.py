"""Reading the values and instants of other systems' logs: every value that is exactly a value of a dtype is converted.

Logs have the types of the systems that wrote them: pandas stores integers with nulls as floats, databases store
booleans as 0 and 1, CSV stores everything as text. Nothing is lost: a value that is not a value of the dtype is
returned as text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal, DecimalException
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import TIMESTAMP, DType, from_arrow, read_value
from featurestore.core.errors import SourceDataError
from featurestore.core.temporal import epoch_us, likely_unit
from featurestore.core.values import one_chunk
from featurestore.sources.convert import to_contract

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_STARTS_WITH_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ZONE_NAME = re.compile(r"\s*(?:UTC|GMT)$")
_SPACE_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d)")
_FEW = 1 << 12
"""Count of values that are converted one by one if they cannot be converted together."""

_MOST_DIGITS = 400
"""Largest count of digits before the point; float64, the largest dtype, has at most 309."""

_EXACT = Context(prec=800)
_BOOLEANS = {"true": True, "false": False}
_NEVER_WHOLE = frozenset({("float64", "string"), ("decimal", "string"), ("date", "timestamp")})
"""Conversions that are always made one by one, because those of whole columns are not exact or spelled otherwise."""


@dataclass(frozen=True)
class ReadColumn:
    """A converted column of a log.

    Attributes:
        values: Values of the dtype; null if the value is null or cannot be converted.
        unread: Text of values that cannot be converted to the dtype; null elsewhere.
    """

    values: pa.Array
    unread: pa.Array


def read_foreign(column: pa.Array | pa.ChunkedArray, dtype: DType, *, timezone: str | None, where: str) -> ReadColumn:
    """Convert a column of any type to a dtype.

    Numbers of all types, and text of numbers, are converted to each other if nothing is lost: 14.0 is the integer 14,
    14.5 is not an integer. A float becomes the decimal of its shortest text, if that fits the scale; decimals become
    the nearest float. 0 and 1 are false and true. Whole numbers become text without a point. Text must be ISO 8601 for
    instants and dates, and JSON for lists. Floats that are not finite are null.

    Args:
        column: The column.
        dtype: The dtype to convert to.
        timezone: Zone of instants without a zone; ``None`` refuses them.
        where: The place, for messages.

    Raises:
        SourceDataError: An instant has no zone, and ``timezone`` is ``None``.
    """
    array = plain_column(column)
    if pa.types.is_null(array.type):
        return ReadColumn(pa.nulls(len(array), dtype.arrow), pa.nulls(len(array), pa.string()))
    try:
        return _read_column(array, dtype, timezone, where)
    except _NaiveError as error:
        hint = 'Set their zone in the mapping: timezone = "UTC".'
        raise SourceDataError(str(error), where=where, hint=hint, code="naive-timestamps") from None


def _read_column(array: pa.Array, dtype: DType, timezone: str | None, where: str) -> ReadColumn:
    """Convert a column of the same kind at once, others in parts, so that a bad value slows down its part only."""
    if len(array) <= _FEW or from_arrow(array.type) == dtype:
        whole = _as_a_whole(array, dtype, timezone, where)
        if whole is not None:
            return ReadColumn(whole, pa.nulls(len(array), pa.string()))
        if len(array) <= _FEW:
            return _one_by_one(array, partial(_read, dtype, timezone), dtype)
    slices = (array.slice(start, _FEW) for start in range(0, len(array), _FEW))
    parts = [_read_column(part, dtype, timezone, where) for part in slices]
    return ReadColumn(
        pa.concat_arrays([part.values for part in parts]), pa.concat_arrays([part.unread for part in parts])
    )


def texts_of(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column of any type as text: whole numbers without a point, instants as ISO 8601."""

    def read(value: Any) -> Any:
        text = _read_string(value)
        return _shown(value) if text is _INVALID else text

    array = plain_column(column)
    if pa.types.is_string(array.type):
        return array
    return _one_by_one(array, read, DType("string")).values


def plain_column(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return one array of a plain type: extension types, dictionaries and view types are decoded."""
    array = one_chunk(column)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    return array.cast(pa.binary()) if pa.types.is_binary_view(array.type) else array


def _as_a_whole(array: pa.Array, dtype: DType, timezone: str | None, where: str) -> pa.Array | None:
    """Convert a column at once; ``None`` if some value cannot be converted, or values must be converted one by one."""
    kind = from_arrow(array.type)
    if kind is None or (kind.kind, dtype.kind) in _NEVER_WHOLE or (kind != dtype and dtype.kind == "list"):
        return None
    if (kind.kind, dtype.kind) == ("decimal", "float64"):
        # Arrow converts text to the nearest float; its conversion of decimals may be off by one bit.
        array = array.cast(pa.string())
    try:
        return to_contract(array, dtype, timezone=timezone, where=where)[0]
    except SourceDataError as error:
        if error.code == "naive-timestamps":
            raise _NaiveError(error.problem) from error
        return None


def _one_by_one(array: pa.Array, read: Callable[[Any], Any], dtype: DType) -> ReadColumn:
    """Convert values one by one, equal ones once."""
    if not pa.types.is_nested(array.type):
        encoded = array.dictionary_encode()
        distinct = _converted(encoded.dictionary, read, dtype)
        return ReadColumn(distinct.values.take(encoded.indices), distinct.unread.take(encoded.indices))
    return _converted(array, read, dtype)


def _converted(array: pa.Array, read: Callable[[Any], Any], dtype: DType) -> ReadColumn:
    values = _python_values(array)
    results = [None if value is None else read(value) for value in values]
    unread = [_shown(value) if result is _INVALID else None for value, result in zip(values, results, strict=True)]
    converted = [None if result is _INVALID else result for result in results]
    return ReadColumn(pa.array(converted, dtype.arrow), pa.array(unread, pa.string()))


def _python_values(array: pa.Array) -> list[Any]:
    """Return Python values; instants outside the range of ``datetime`` as the text of their number."""
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError):
        return list(array.cast(pa.int64()).cast(pa.string()).to_pylist())


class _NaiveError(Exception):
    """An instant has no zone, and no zone is configured."""


class _Invalid:
    """Type of the marker for values that cannot be converted."""


_INVALID = _Invalid()


def _read(dtype: DType, timezone: str | None, value: Any) -> Any:
    """Convert one value; ``_INVALID`` if it is not a value of the dtype."""
    match dtype.kind:
        case "bool":
            return _read_bool(value)
        case "int64":
            return _read_int(value)
        case "float64":
            return _read_float(value)
        case "string":
            return _read_string(value)
        case "decimal":
            return _read_decimal(dtype, value)
        case "timestamp":
            return _read_instant(value, timezone)
        case "date":
            return _read_date(value)
        case "list":
            return _read_list(dtype, timezone, value)
        case _:
            return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else _INVALID


def _number(value: Any) -> Decimal | _Invalid | None:
    """Return a number exactly, floats by their shortest text; ``None`` if it is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return _INVALID
    text = repr(value) if isinstance(value, float) else str(value).strip()
    if not _NUMBER.fullmatch(text):
        return _INVALID
    try:
        number = Decimal(text)
    except DecimalException:
        return _INVALID
    return number if number.is_finite() else None


def _whole(number: Decimal) -> int | None:
    """Return a number as an int; ``None`` if it is not whole, or too large for any dtype."""
    if number.adjusted() > _MOST_DIGITS or number != number.to_integral_value(context=_EXACT):
        return None
    return int(number)


def _read_bool(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _BOOLEANS:
        return _BOOLEANS[value.strip().lower()]
    number = _number(value)
    return bool(number) if number in (0, 1) else number if number is None else _INVALID


def _read_int(value: Any) -> Any:
    # The float itself, because its shortest text is rounded beyond 2**53.
    if isinstance(value, float) and math.isfinite(value):
        return _in_range(int(value)) if value.is_integer() else _INVALID
    number = _number(value)
    if number is None or isinstance(number, _Invalid):
        return number
    whole = _whole(number)
    return _INVALID if whole is None else _in_range(whole)


def _in_range(whole: int) -> Any:
    return whole if -(2**63) <= whole < 2**63 else _INVALID


def _read_float(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return _exact_float(value)
    number = _number(value)
    if number is None or isinstance(number, _Invalid):
        return number
    result = float(number)
    return result + 0.0 if math.isfinite(result) else _INVALID


def _exact_float(value: int) -> Any:
    try:
        result = float(value)
    except OverflowError:
        return _INVALID
    return result if int(result) == value else _INVALID


def _read_string(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    number = _number(value)
    if number is None or isinstance(number, _Invalid):
        return number
    whole = _whole(number)
    return format(number, "f") if whole is None else str(whole)


def _decoded(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _INVALID


def _read_decimal(dtype: DType, value: Any) -> Any:
    number = _number(value)
    if number is None or isinstance(number, _Invalid):
        return number
    if number.adjusted() > _MOST_DIGITS:
        return _INVALID
    try:
        return read_value(dtype, number)
    except ValueError:
        return _INVALID


def _read_instant(value: Any, timezone: str | None) -> Any:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        return _INVALID
    if value.tzinfo is None:
        if timezone is None:
            raise _NaiveError(f"'{value.isoformat()}' has no time zone")
        value = value.replace(tzinfo=ZoneInfo(timezone))
        if value.utcoffset() != value.replace(fold=1).utcoffset():
            # Clocks showed this time twice, or never.
            return _INVALID
    try:
        return read_value(DType("timestamp"), value)
    except ValueError:
        return _INVALID


def _parsed(text: str) -> datetime | None:
    """Parse ISO 8601 text that begins with a date, like sources: ``UTC`` and spaces before an offset are allowed."""
    tidy = _SPACE_BEFORE_OFFSET.sub("", _ZONE_NAME.sub("Z", text.strip()))
    try:
        return datetime.fromisoformat(tidy) if _STARTS_WITH_DATE.match(tidy) else None
    except ValueError:
        return None


def _read_date(value: Any) -> Any:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, datetime):
        value = value if value.tzinfo is None else value.astimezone(UTC)
        return value.date() if value.timetz().replace(tzinfo=None) == time() else _INVALID
    return value if isinstance(value, date) else _INVALID


def _read_list(dtype: DType, timezone: str | None, value: Any) -> Any:
    assert dtype.item is not None
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_float=Decimal)
        except (ValueError, DecimalException, RecursionError):
            return _INVALID
    if not isinstance(value, list):
        return _INVALID
    items = [None if item is None else _read(dtype.item, timezone, item) for item in value]
    return _INVALID if any(item is _INVALID for item in items) else items


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value if isinstance(value, str) else str(value)


def read_instants(
    column: pa.ChunkedArray, *, unit: str | None, timezone: str | None, where: str, first_row: int
) -> pa.Array:
    """Read the column that a mapping names as ``as_of``.

    Args:
        column: The column of timestamps, numbers or text.
        unit: Unit of numbers, counted since 1970; ``None`` if the column has timestamps or text.
        timezone: Zone of timestamps without a zone.
        where: The column, for messages.
        first_row: Number of its first row, for messages.

    Returns:
        Instants without nulls. Whole nanoseconds and timestamps are truncated to microseconds; fractions of a unit are
        rounded.

    Raises:
        SourceDataError: A row does not have an instant.
    """
    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise _instant_error(
            f"{column.null_count} rows have no as_of, the first of them row {row}",
            where,
            "Map the column of the instant that was asked about, or remove these rows from the log.",
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
        if _exact_number(text) is not None:
            raise _unit_missing(text, where, first_row + int(rows[0]))
        hint = "Name in as_of a column of timestamps, or of ISO 8601 text"
        hint += f", of times that clocks in {timezone} showed once." if timezone not in (None, "UTC") else "."
        raise _instant_error(
            f"row {first_row + int(rows[0])} has {text!r}, which is not an instant", where, hint, "wrong-dtype"
        )
    return read.values


def _counted(column: pa.ChunkedArray, unit: str, where: str, first_row: int) -> pa.Array:
    """Convert numbers that count a unit since 1970."""
    kind = from_arrow(column.type)
    if kind is None or not (kind.is_numeric or kind.kind == "string"):
        hint = "Leave as_of_unit out of the mapping, or name a column of numbers in as_of."
        raise _instant_error(
            f"the column has type {column.type}, but as_of_unit is for numbers", where, hint, "wrong-dtype"
        )
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    numbers = [_microseconds(value, unit) for value in values]
    if None in numbers:
        place = numbers.index(None)
        row = first_row + int(np.flatnonzero(encoded.indices.to_numpy() == place)[0])
        raise _not_counted(values[place], unit, where, row)
    return pa.array(numbers, pa.int64()).take(encoded.indices).cast(TIMESTAMP.arrow)


def _microseconds(value: Any, unit: str) -> int | None:
    number = value if isinstance(value, int) else _exact_number(value)
    return None if number is None else epoch_us(number, unit)


def _exact_number(value: Any) -> Decimal | None:
    try:
        number = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except DecimalException:
        return None
    return number if number.is_finite() else None


def _not_counted(value: Any, unit: str, where: str, row: int) -> SourceDataError:
    number = _exact_number(value)
    if number is None:
        hint = "Name a column of numbers in as_of, or leave as_of_unit out of the mapping."
        return _instant_error(f"row {row} has {value!r}, which is not a number", where, hint, "wrong-dtype")
    likely = likely_unit(number)
    hint = "Correct the row." if likely == unit else f'Set its unit in the mapping: as_of_unit = "{likely}".'
    problem = f'row {row} has {value}, which with as_of_unit = "{unit}" is outside the years 1 to 9999'
    return _instant_error(problem, where, hint, "out-of-range")


def _unit_missing(value: Any, where: str, row: int) -> SourceDataError:
    hint = f'Set its unit since 1970 in the mapping: as_of_unit = "{likely_unit(_exact_number(value) or 0)}".'
    return _instant_error(f"row {row} has the number {value}, whose unit is not known", where, hint, "no-unit")


def _instant_error(problem: str, where: str, hint: str, code: str) -> SourceDataError:
    return SourceDataError(problem, where=where, hint=hint, code=code)
