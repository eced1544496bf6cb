"""Conversion of columns of a source to contract dtypes: to declared dtypes, and from text.

Columns that need no conversion between kinds (integer widths, time units and zones, NaN) are read by ``core.values``.
This module adds the conversions before that. They are exact, or raise an error that names the first row that is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    from_arrow,
    is_list_layout,
    is_read_as,
)
from featurestore.core.errors import SourceDataError
from featurestore.core.temporal import (
    EPOCH_UNITS,
    MAX_INSTANT_US,
    MICROSECONDS,
    MIN_INSTANT_US,
    LocalClock,
    epoch_us,
    likely_unit,
)
from featurestore.core.values import (
    ColumnCounts,
    list_array,
    list_items,
    plain_layout,
    read_column,
    too_much,
)

_ZONE_NAME = r"\s*(?:UTC|GMT)$"
_SPACE_BEFORE_OFFSET = r"\s+([+-]\d\d(?::?\d\d)?)$"
_BELOW_MICROSECONDS = r"(\.\d{6})\d+"
_WHOLE_NUMBER = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = (
    r"^-?(?:0|[1-9][0-9]*)$"
    r"|^[+-]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?$"
    r"|^[+-]?(?:0|[1-9][0-9]*)e[+-][0-9]+$"
    r"|^[+-]?(?:nan|inf|infinity)$"
)
_MANY_DIGITS = r"^[+-]?[0-9]{16}"
_LEADING_ZERO = r"^\s*-?0[0-9]"
_EXACT_FLOATS = 2.0**53
_MISSING = pa.array(["NA", "N/A", "n/a", "<NA>", "#N/A", "NULL", "null", "None", "NaT"])
_STARTS_WITH_DATE = r"^\s*\d{4}-\d\d-\d\d"
_INSTANT = pa.timestamp("us", tz="UTC")
_NAIVE = pa.timestamp("us")
_LONGEST_SHOWN = 60


def to_contract(
    array: pa.Array | pa.ChunkedArray,
    dtype: DType,
    *,
    timezone: str | LocalClock | None,
    where: str,
    first_row: int = 0,
    epoch: str | None = None,
) -> tuple[pa.Array, ColumnCounts]:
    """Return a column in a contract dtype.

    Args:
        array: The column as it is in the source.
        dtype: The dtype of the result: the default for the column's type, or the declared one.
        timezone: Zone of naive timestamps, or how they are read there; ``None`` refuses them.
        where: The place, for messages.
        first_row: Number of the column's first row in that place, for messages.
        epoch: What numbers in a column of instants count since 1970; ``None`` refuses them.

    Returns:
        The array, and the counts that ``core.values.read_column`` keeps.

    Raises:
        SourceDataError: A value is not exactly one of the dtype.
    """
    try:
        plain = plain_layout(array)
    except pa.ArrowInvalid as error:
        raise too_much(where, str(error)) from None
    if not is_read_as(plain.type, dtype):
        if isinstance(plain, pa.ChunkedArray):
            raise too_much(where, "more than 2 GB of text in one piece")
        if epoch is None:
            plain = _declared(plain, dtype, where, first_row)
        else:
            plain = _counted(plain, from_arrow(plain.type), epoch, where, first_row)
    result: tuple[pa.Array, ColumnCounts] = read_column(plain, dtype, timezone, where, first_row)
    return result


def text_to_contract(
    array: pa.Array | pa.ChunkedArray,
    dtype: DType,
    *,
    timezone: str | LocalClock | None,
    where: str,
    first_row: int = 0,
    epoch: str | None = None,
    is_guessed: bool,
) -> tuple[pa.Array, ColumnCounts]:
    """Return a column of a CSV file in a contract dtype.

    ``NA``, ``NULL`` and the like are null unless the dtype is text. A dtype that was guessed from the first rows must
    not change later values: a leading zero, or more digits than a float holds, is an error then.

    Args:
        array: Text.
        dtype: What it should become.
        timezone: Zone of naive timestamps; ``None`` refuses them.
        where: The place, for messages.
        first_row: Number of the column's first row in that place, for messages.
        epoch: What numbers count since 1970, if the column is declared so.
        is_guessed: Whether the dtype was guessed, and not declared.

    Raises:
        SourceDataError: A value is not exactly one of the dtype.
    """
    if dtype.kind in ("string", "binary", "list"):
        return to_contract(array, dtype, timezone=timezone, where=where, first_row=first_row, epoch=epoch)
    text = plain_layout(array)
    try:
        found, counts = to_contract(text, dtype, timezone=timezone, where=where, first_row=first_row, epoch=epoch)
    except SourceDataError:
        is_missing = pc.is_in(pc.utf8_trim_whitespace(text), value_set=_MISSING)
        if not pc.any(is_missing).as_py():
            raise
        text = pc.if_else(is_missing, None, text)
        found, counts = to_contract(text, dtype, timezone=timezone, where=where, first_row=first_row, epoch=epoch)
    if is_guessed and dtype in (INT64, FLOAT64):
        _check_guess(text, found, where, first_row)
    return found, counts


def _check_guess(text: pa.Array, numbers: pa.Array, where: str, first_row: int) -> None:
    """Refuse numbers that lose a part of their text, where the column was not declared as numbers."""
    changed = pc.match_substring_regex(text, _LEADING_ZERO)
    if numbers.type == pa.float64():
        large = pc.and_kleene(pc.greater_equal(pc.abs(numbers), _EXACT_FLOATS), pc.invert(changed))
        for row in np.flatnonzero(large.fill_null(False).to_numpy(zero_copy_only=False)).tolist():
            if not _is_exact(text[row].as_py().strip()):
                raise _changed(text, row, first_row, where, "float64")
    if pc.any(changed).as_py():
        row = changed.index(True).as_py()
        raise _changed(text, row, first_row, where, "a number")


def _changed(text: pa.Array, row: int, first_row: int, where: str, kind: str) -> SourceDataError:
    return SourceDataError(
        f"row {first_row + row} holds {_shown(text[row])}, which {kind} does not keep as it is",
        where=where,
        hint="The rows before look like numbers. Declare the column: dtypes={…: 'string'} keeps its text.",
        code="wrong-dtype",
    )


def _is_exact(number: str) -> bool:
    """Return whether a float holds the digits before the point of a number without an exponent."""
    value = float(number)
    return "e" in number.lower() or not math.isfinite(value) or int(value) == int(Decimal(number))


def can_convert(kind: DType, dtype: DType, epoch: str | None) -> bool:
    """Return whether columns of a kind can be read as a declared dtype, if each of their values can.

    Args:
        kind: The dtype the columns are read as by default.
        dtype: The declared dtype.
        epoch: What numbers count since 1970, if the column is declared so.
    """
    if kind == dtype:
        return True
    if epoch is not None:
        return kind.kind in _COUNTS
    if kind.item is not None and dtype.item is not None:
        return can_convert(kind.item, dtype.item, None)
    return (kind.kind, dtype.kind) in _CONVERSIONS


def guess_dtype(text: pa.Array) -> tuple[DType, bool]:
    """Return the first dtype that all of some texts can be read as, and whether they are instants without a zone.

    What is a code rather than a quantity stays text: numbers with leading zeros, whole numbers with a plus sign
    (telephone numbers) or with an exponent that has no sign (``1E3``), and numbers of more digits than int64, or
    before the point of others float64, holds. Blanks around values are ignored, and ``NA``, ``NULL`` and
    the like are nulls unless the other values are text. Nulls fit every dtype; nulls alone are text.
    """
    known = pc.utf8_trim_whitespace(text.drop_null())
    known = known.filter(pc.invert(pc.is_in(known, value_set=_MISSING)))
    if len(known) == 0:
        return STRING, False
    if _all_match(known, _WHOLE_NUMBER):
        return INT64 if _casts(known, pa.int64()) else STRING, False
    if _all_match(known, _NUMBER):
        long = known.filter(pc.match_substring_regex(known, _MANY_DIGITS))
        return FLOAT64 if all(map(_is_exact, long.to_pylist())) else STRING, False
    if pc.all(pc.is_in(pc.utf8_lower(known), pa.array(["true", "false"]))).as_py():
        return BOOL, False
    if not _all_match(known, _STARTS_WITH_DATE):
        return STRING, False
    if _casts(known, pa.date32()):
        return DATE, False
    try:
        parsed = _text_to_instants(known)
    except pa.ArrowInvalid:
        return STRING, False
    return TIMESTAMP, parsed.type.tz is None


def _declared(array: pa.Array, dtype: DType, where: str, first_row: int) -> pa.Array:
    """Convert exactly, or raise an error with the first value that cannot be converted."""
    convert = _conversion(array.type, dtype)
    if convert is None:
        raise inconvertible(array.type, dtype, where, unit=_unit_of(array) if dtype == TIMESTAMP else None)
    try:
        return convert(array, dtype)
    except pa.ArrowNotImplementedError:  # of the items of lists
        raise inconvertible(array.type, dtype, where) from None
    except pa.ArrowInvalid as error:
        row = _first_refused(array, lambda part: convert(part, dtype))
        raise SourceDataError(
            f"row {first_row + row} holds {_shown(array[row])}, which is not {article(dtype)} {dtype}",
            where=where,
            hint="Correct the row, or declare a dtype that all rows have.",
            code="wrong-dtype",
        ) from error


def inconvertible(kind: object, dtype: DType, where: str, *, unit: str | None = None) -> SourceDataError:
    """Return the error for a column whose type is never read as its declared dtype.

    Args:
        kind: The type the column has.
        dtype: The declared dtype.
        where: The column, for messages.
        unit: What its numbers probably count since 1970; empty if they are not known, ``None`` if it holds none.
    """
    hint = "Change the file or the query, or declare the dtype it has."
    if dtype == TIMESTAMP and unit is not None:
        dtypes = [f"'timestamp[{known}]'" for known in EPOCH_UNITS]
        hint = f"Declare the column as {', '.join(dtypes[:-1])} or {dtypes[-1]}, by what its numbers count since 1970."
        if unit:
            hint = f"If its numbers count {unit} since 1970, declare the column as 'timestamp[{unit}]'."
    return SourceDataError(f"the column holds {kind}, expected {dtype}", where=where, hint=hint, code="wrong-dtype")


def _unit_of(array: pa.Array) -> str | None:
    """Return the unit in which the largest of some numbers is an instant of our time; ``None`` if there are none."""
    if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type)):
        return None
    bounds = pc.min_max(array)
    known = [abs(value.as_py()) for value in (bounds["min"], bounds["max"]) if value.is_valid]
    return likely_unit(max(known)) if known else ""


def _counted(array: pa.Array, kind: DType | None, unit: str, where: str, first_row: int) -> pa.Array:
    """Read numbers that count a unit of time since 1970, or name the first that is not an instant."""
    if kind is None or kind.kind not in _COUNTS:
        raise SourceDataError(
            f"the column holds {array.type}, expected numbers",
            where=where,
            hint=f"'timestamp[{unit}]' is for numbers that count since 1970. Declare the column as 'timestamp'.",
            code="wrong-dtype",
        )
    count = _COUNTS[kind.kind]
    try:
        return count(array, unit)
    except pa.ArrowInvalid:
        row = _first_refused(array, lambda part: count(part, unit))
        raise _no_instant(array[row], unit, where, first_row + row) from None


def _no_instant(value: pa.Scalar, unit: str, where: str, row: int) -> SourceDataError:
    number = _number(value.as_py())
    likely = unit if number is None else likely_unit(number)
    return SourceDataError(
        f"row {row} holds {_shown(value)}, which is not an instant between the years 1 and 9999 in {unit} since 1970",
        where=where,
        hint="Correct the row." if likely == unit else f"If it counts {likely}, declare 'timestamp[{likely}]'.",
        code="wrong-dtype",
    )


def _conversion(kind: pa.DataType, dtype: DType) -> Callable[[pa.Array, DType], pa.Array] | None:
    """Return the conversion from an Arrow type; ``None`` if there is none without loss."""
    if is_read_as(kind, dtype):
        return _as_it_is
    if is_list_layout(kind):
        return _list_to_list if dtype.item is not None and _conversion(kind.value_type, dtype.item) else None
    source = from_arrow(kind)
    return None if source is None else _CONVERSIONS.get((source.kind, dtype.kind))


def _as_it_is(array: pa.Array, _: DType) -> pa.Array:
    return array


def _list_to_list(array: pa.Array, dtype: DType) -> pa.Array:
    """Convert the items of lists."""
    assert dtype.item is not None
    convert = _conversion(array.type.value_type, dtype.item)
    assert convert is not None
    offsets, items = list_items(array)
    items = convert(items, dtype.item)
    return list_array(offsets, items, pa.list_(items.type), array.is_null() if array.null_count else None)


def _number(value: Any) -> int | Decimal | None:
    if isinstance(value, int):
        return value
    try:
        number = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    except InvalidOperation:
        return None
    if not number.is_finite():
        return None
    return int(number) if number == number.to_integral_value() else number


def _count_whole(array: pa.Array, unit: str) -> pa.Array:
    """Read whole numbers at once."""
    numbers = array.cast(pa.int64())
    if unit == "ns":
        missing = numbers.is_null().to_numpy(zero_copy_only=False) if numbers.null_count else None
        numbers = pa.array(numbers.fill_null(0).to_numpy(zero_copy_only=False) // 1_000, mask=missing)
    elif unit != "us":
        numbers = pc.multiply_checked(numbers, MICROSECONDS[unit])
    bounds = pc.min_max(numbers)
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    if least is not None and not MIN_INSTANT_US <= least <= most <= MAX_INSTANT_US:
        raise pa.ArrowInvalid("an instant that no calendar has")
    return numbers.cast(_INSTANT)


def _count_each(array: pa.Array, unit: str) -> pa.Array:
    """Read numbers of any kind, each distinct one once; NaN and infinities are null, as in a column of numbers."""
    encoded = array.dictionary_encode()
    instants = [_instant(value, unit) for value in encoded.dictionary.to_pylist()]
    return pa.array(instants, pa.int64()).take(encoded.indices).cast(_INSTANT)


def _instant(value: Any, unit: str) -> int | None:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    number = _number(value)
    instant = None if number is None else epoch_us(number, unit)
    if instant is None:
        raise pa.ArrowInvalid("no number, or an instant that no calendar has")
    return instant


_COUNTS: dict[str, Callable[[pa.Array, str], pa.Array]] = {
    "int64": _count_whole,
    "float64": _count_each,
    "decimal": _count_each,
    "string": _count_each,
}
"""How numbers of time since 1970 are read, by the kind of their column."""


def _first_refused(array: pa.Array, convert: Callable[[pa.Array], pa.Array]) -> int:
    """Return the first row of a column that a conversion refuses, by halving."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(array.slice(0, middle))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _shown(value: pa.Scalar) -> str:
    text = repr(value.as_py())
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def article(dtype: DType) -> str:
    """Return the indefinite article that stands before a dtype in a sentence."""
    return "an" if str(dtype)[0] in "aeiou" else "a"


def _cast(array: pa.Array, dtype: DType) -> pa.Array:
    return array.cast(dtype.arrow)


def _as_text(array: pa.Array) -> pa.Array:
    return array if array.type == pa.string() else array.cast(pa.string())


def _text_cast(array: pa.Array, dtype: DType) -> pa.Array:
    return pc.utf8_trim_whitespace(_as_text(array)).cast(dtype.arrow)


def _text_to_timestamp(array: pa.Array, _: DType) -> pa.Array:
    return _text_to_instants(_as_text(array))


def _text_to_instants(text: pa.Array) -> pa.Array:
    """Read ISO 8601 text: with a zone in every row, or in none; below microseconds is cut off.

    Raises:
        pa.ArrowInvalid: Some row is not an instant, or rows with and without a zone are mixed.
    """
    if text.null_count == len(text):
        return pa.nulls(len(text), _INSTANT)
    try:
        return text.cast(_NAIVE)
    except pa.ArrowInvalid:
        pass
    try:
        return text.cast(_INSTANT)
    except pa.ArrowInvalid:
        pass
    tidy = pc.replace_substring_regex(pc.utf8_trim_whitespace(text), _ZONE_NAME, "Z")
    tidy = pc.replace_substring_regex(tidy, _SPACE_BEFORE_OFFSET, r"\1")
    tidy = pc.replace_substring_regex(tidy, _BELOW_MICROSECONDS, r"\1")
    try:
        return tidy.cast(_NAIVE)
    except pa.ArrowInvalid:
        return tidy.cast(_INSTANT)


def _float_to_int(array: pa.Array, _: DType) -> pa.Array:
    finite = pc.if_else(pc.is_finite(array), array, None)
    return finite.cast(pa.int64())


def _float_to_decimal(array: pa.Array, dtype: DType) -> pa.Array:
    # Through the shortest text: the binary value of 0.1 has more digits than the decimal.
    return _through_text(pc.if_else(pc.is_finite(array), array, None), dtype)


def _int_to_bool(array: pa.Array, _: DType) -> pa.Array:
    if not pc.all(pc.is_in(array.drop_null(), pa.array([0, 1], array.type))).as_py():
        raise pa.ArrowInvalid("neither 0 nor 1")
    return array.cast(pa.bool_())


def _date_to_timestamp(array: pa.Array, _: DType) -> pa.Array:
    return array.cast(pa.date32()).cast(_NAIVE)


def _through_text(array: pa.Array, dtype: DType) -> pa.Array:
    return array.cast(pa.string()).cast(dtype.arrow)


_CONVERSIONS: dict[tuple[str, str], Callable[[pa.Array, DType], pa.Array]] = {
    ("string", "int64"): _text_cast,
    ("string", "float64"): _text_cast,
    ("string", "bool"): _text_cast,
    ("string", "date"): _text_cast,
    ("string", "decimal"): _text_cast,
    ("string", "timestamp"): _text_to_timestamp,
    ("string", "binary"): _cast,
    ("int64", "float64"): _cast,
    ("int64", "decimal"): _through_text,
    ("int64", "string"): _cast,
    ("int64", "bool"): _int_to_bool,
    ("float64", "int64"): _float_to_int,
    ("float64", "decimal"): _float_to_decimal,
    ("decimal", "int64"): _cast,
    ("decimal", "float64"): _cast,
    ("decimal", "decimal"): _cast,
    ("date", "timestamp"): _date_to_timestamp,
    ("binary", "string"): _cast,
}
"""Conversions to a declared dtype that lose nothing, by kind from and to. (Decimals become the nearest float.)"""


def _all_match(text: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(text, pattern, ignore_case=True)).as_py())


def _casts(text: pa.Array, kind: pa.DataType) -> bool:
    try:
        text.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
