"""Values of other systems' logs, read one by one: what is exactly a value of a dtype becomes it, whatever its type.

A log has the types of whoever wrote it. pandas keeps whole numbers beside nulls as floats, databases keep truths as 0
and 1, CSV keeps everything as text. Nothing is lost on the way: what is no value of the dtype is told as text, not
refused.
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

import pyarrow as pa

from featurestore.core.dtypes import DType, from_arrow, read_value
from featurestore.core.errors import SourceDataError
from featurestore.core.values import one_chunk
from featurestore.sources.convert import to_contract

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_STARTS_WITH_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ZONE_NAME = re.compile(r"\s*(?:UTC|GMT)$")
_SPACE_BEFORE_OFFSET = re.compile(r"\s+(?=[+-]\d\d)")
_FEW = 1 << 12
"""Values that are read one by one if they cannot be read at once."""

_MOST_DIGITS = 400
"""Digits before the point of the largest number worth reading: no dtype has more than float64's 309."""

_EXACT = Context(prec=800)
_TRUTHS = {"true": True, "false": False}
_NEVER_WHOLE = frozenset({("float64", "string"), ("decimal", "string"), ("date", "timestamp")})
"""Conversions that are always made one by one: a column's are not exact, or not spelled as these are."""


@dataclass(frozen=True)
class ReadColumn:
    """A column of a log, read.

    Attributes:
        values: Values of the dtype; null where there are none.
        unread: As text what is there and is no value of the dtype; null elsewhere.
    """

    values: pa.Array
    unread: pa.Array


def read_foreign(column: pa.Array | pa.ChunkedArray, dtype: DType, *, timezone: str | None, where: str) -> ReadColumn:
    """Read a column of any type as a dtype.

    Numbers of all kinds, and text that spells them, become each other where nothing is lost: 14.0 is the integer 14,
    14.5 is none; a float is the decimal that its shortest text says, if that fits the scale; decimals become the
    nearest float. 0 and 1 are false and true. Whole numbers become text without a point. Text is ISO 8601 for instants
    and dates, JSON for lists. Floats that are not finite are null.

    Args:
        column: The column as it is outside.
        dtype: What it should become.
        timezone: Zone of instants that say none; ``None`` refuses them.
        where: The place, for messages.

    Raises:
        SourceDataError: An instant says no zone, and ``timezone`` none either.
    """
    array = plain_column(column)
    if pa.types.is_null(array.type):
        return ReadColumn(pa.nulls(len(array), dtype.arrow), pa.nulls(len(array), pa.string()))
    try:
        return _read_column(array, dtype, timezone, where)
    except _NaiveError as error:
        hint = 'Say in the mapping which zone they are in: timezone = "UTC".'
        raise SourceDataError(str(error), where=where, hint=hint, code="naive-timestamps") from None


def _read_column(array: pa.Array, dtype: DType, timezone: str | None, where: str) -> ReadColumn:
    """Read a column of the dtype's own kind at once, others in parts: what is no value costs its part alone."""
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
    """Return a column as text, whatever it holds: whole numbers without a point, instants as ISO 8601."""

    def read(value: Any) -> Any:
        text = _read_string(value)
        return _shown(value) if text is _WRONG else text

    array = plain_column(column)
    if pa.types.is_string(array.type):
        return array
    return _one_by_one(array, read, DType("string")).values


def plain_column(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return one array: of no extension type, dictionaries decoded, views of text and bytes as these."""
    array = one_chunk(column)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    return array.cast(pa.binary()) if pa.types.is_binary_view(array.type) else array


def _as_a_whole(array: pa.Array, dtype: DType, timezone: str | None, where: str) -> pa.Array | None:
    """Convert a column at once; ``None`` where some value does not convert, or must be looked at by itself."""
    kind = from_arrow(array.type)
    if kind is None or (kind.kind, dtype.kind) in _NEVER_WHOLE or (kind != dtype and dtype.kind == "list"):
        return None
    if (kind.kind, dtype.kind) == ("decimal", "float64"):
        # Text is read as the nearest float; Arrow's own conversion may miss it by a bit.
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
    found = [None if value is None else read(value) for value in values]
    unread = [_shown(value) if one is _WRONG else None for value, one in zip(values, found, strict=True)]
    kept = [None if one is _WRONG else one for one in found]
    return ReadColumn(pa.array(kept, dtype.arrow), pa.array(unread, pa.string()))


def _python_values(array: pa.Array) -> list[Any]:
    """Return values as Python has them; instants beyond its calendar as text of their number."""
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError):
        return list(array.cast(pa.int64()).cast(pa.string()).to_pylist())


class _NaiveError(Exception):
    """An instant says no zone, and nobody else does."""


class _Wrong:
    """Stands for what is no value of a dtype."""


_WRONG = _Wrong()


def _read(dtype: DType, timezone: str | None, value: Any) -> Any:
    """Read one value; ``_WRONG`` if it is none of the dtype."""
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
            return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else _WRONG


def _number(value: Any) -> Decimal | _Wrong | None:
    """Return a number exactly, floats by their shortest text; ``None`` for those that are not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return _WRONG
    text = repr(value) if isinstance(value, float) else str(value).strip()
    if not _NUMBER.fullmatch(text):
        return _WRONG
    try:
        number = Decimal(text)
    except DecimalException:
        return _WRONG
    return number if number.is_finite() else None


def _whole(number: Decimal) -> int | None:
    """Return a number as an int; ``None`` if it is none, or too long to be any value."""
    if number.adjusted() > _MOST_DIGITS or number != number.to_integral_value(context=_EXACT):
        return None
    return int(number)


def _read_bool(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _TRUTHS:
        return _TRUTHS[value.strip().lower()]
    number = _number(value)
    return bool(number) if number in (0, 1) else number if number is None else _WRONG


def _read_int(value: Any) -> Any:
    # A float is the number it holds; its shortest text rounds it beyond 2**53.
    if isinstance(value, float) and math.isfinite(value):
        return _in_range(int(value)) if value.is_integer() else _WRONG
    number = _number(value)
    if number is None or isinstance(number, _Wrong):
        return number
    whole = _whole(number)
    return _WRONG if whole is None else _in_range(whole)


def _in_range(whole: int) -> Any:
    return whole if -(2**63) <= whole < 2**63 else _WRONG


def _read_float(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return _exact_float(value)
    number = _number(value)
    if number is None or isinstance(number, _Wrong):
        return number
    found = float(number)
    return found + 0.0 if math.isfinite(found) else _WRONG


def _exact_float(value: int) -> Any:
    try:
        found = float(value)
    except OverflowError:
        return _WRONG
    return found if int(found) == value else _WRONG


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
    if number is None or isinstance(number, _Wrong):
        return number
    whole = _whole(number)
    return format(number, "f") if whole is None else str(whole)


def _decoded(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return _WRONG


def _read_decimal(dtype: DType, value: Any) -> Any:
    number = _number(value)
    if number is None or isinstance(number, _Wrong):
        return number
    if number.adjusted() > _MOST_DIGITS:
        return _WRONG
    try:
        return read_value(dtype, number)
    except ValueError:
        return _WRONG


def _read_instant(value: Any, timezone: str | None) -> Any:
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if not isinstance(value, datetime):
        return _WRONG
    if value.tzinfo is None:
        if timezone is None:
            raise _NaiveError(f"'{value.isoformat()}' has no time zone")
        value = value.replace(tzinfo=ZoneInfo(timezone))
        if value.utcoffset() != value.replace(fold=1).utcoffset():
            # The clock showed it twice, or never.
            return _WRONG
    try:
        return read_value(DType("timestamp"), value)
    except ValueError:
        return _WRONG


def _parsed(text: str) -> datetime | None:
    """Read ISO 8601 text that begins with a date, as sources do: ``UTC`` and spaces before an offset may stand."""
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
        return value.date() if value.timetz().replace(tzinfo=None) == time() else _WRONG
    return value if isinstance(value, date) else _WRONG


def _read_list(dtype: DType, timezone: str | None, value: Any) -> Any:
    assert dtype.item is not None
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_float=Decimal)
        except (ValueError, DecimalException, RecursionError):
            return _WRONG
    if not isinstance(value, list):
        return _WRONG
    items = [None if item is None else _read(dtype.item, timezone, item) for item in value]
    return _WRONG if any(item is _WRONG for item in items) else items


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value if isinstance(value, str) else str(value)
