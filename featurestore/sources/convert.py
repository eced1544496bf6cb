"""From columns as they are outside to contract dtypes: declared dtypes, and text.

What a column of the same kind becomes (integer widths, time units and zones, NaN) is ``kernels.values``'s rule and is
asked there. This module only adds what a declared dtype, or text, needs before that: conversions that are exact or
refuse, and say which row they stumbled over.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import BOOL, DATE, FLOAT64, INT64, STRING, TIMESTAMP, DType, from_arrow
from featurestore.errors import SourceDataError
from featurestore.kernels.values import ColumnCounts, read_column

_ZONE_NAME = r"\s*(?:UTC|GMT)$"
_SPACE_BEFORE_OFFSET = r"\s+([+-]\d\d(?::?\d\d)?)$"
_BELOW_MICROSECONDS = r"(\.\d{6})\d+"
_WHOLE_NUMBER = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$|^[+-]?(?:nan|inf|infinity)$"
_STARTS_WITH_DATE = r"^\s*\d{4}-\d\d-\d\d"
_INSTANT = pa.timestamp("us", tz="UTC")
_NAIVE = pa.timestamp("us")
_LONGEST_SHOWN = 60


def to_contract(
    array: pa.Array | pa.ChunkedArray, dtype: DType, *, timezone: str | None, where: str, first_row: int = 0
) -> tuple[pa.Array, ColumnCounts]:
    """Return a column in a contract dtype.

    Args:
        array: The column as it is outside.
        dtype: What it should become: what its type is read as by default, or what the user declared.
        timezone: Zone of naive timestamps; ``None`` refuses them.
        where: The place, for messages.
        first_row: Number of the column's first row in that place, for messages.

    Returns:
        The array, and the counts that ``kernels.values.read_column`` keeps.

    Raises:
        SourceDataError: A value is not exactly one of the dtype.
    """
    plain = _flat(array)
    if pa.types.is_null(plain.type):
        plain = pa.nulls(len(plain), dtype.arrow)
    kind = from_arrow(plain.type)
    if kind != dtype:
        plain = _declared(plain, kind, dtype, where, first_row)
    result: tuple[pa.Array, ColumnCounts] = read_column(plain, dtype, timezone, where)
    return result


def guess_dtype(text: pa.Array) -> tuple[DType, bool]:
    """Return the first dtype that all of some texts can be read as, and whether they are instants without a zone.

    Numbers with leading zeros stay text: they are codes, not quantities. Nulls fit every dtype; nulls alone are text.
    """
    known = text.drop_null()
    if len(known) == 0:
        return STRING, False
    if _all_match(known, _WHOLE_NUMBER) and _casts(known, pa.int64()):
        return INT64, False
    if _all_match(known, _NUMBER):
        return FLOAT64, False
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


def _flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return one array, dictionaries decoded."""
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return _decoded(array) if pa.types.is_dictionary(array.type) else array


def _decoded(array: pa.DictionaryArray) -> pa.Array:
    values = array.dictionary
    if pa.types.is_string_view(values.type):
        values = values.cast(pa.string())
    if pa.types.is_binary_view(values.type):
        values = values.cast(pa.binary())
    return values.take(array.indices)


def _declared(array: pa.Array, kind: DType | None, dtype: DType, where: str, first_row: int) -> pa.Array:
    """Convert exactly, or raise naming the first value that cannot be."""
    source = "other" if kind is None else kind.kind
    convert = _CONVERSIONS.get((source, dtype.kind))
    if convert is None:
        raise _no_conversion(array, dtype, where)
    try:
        return convert(array, dtype)
    except pa.ArrowNotImplementedError:  # of the items of lists
        raise _no_conversion(array, dtype, where) from None
    except pa.ArrowInvalid as error:
        row = _first_refused(array, lambda part: convert(part, dtype))
        raise SourceDataError(
            f"row {first_row + row} holds {_shown(array[row])}, which is not {_article(dtype)} {dtype}",
            where=where,
            hint="Correct the row, or declare a dtype that all rows have.",
            code="wrong-dtype",
        ) from error


def _no_conversion(array: pa.Array, dtype: DType, where: str) -> SourceDataError:
    return SourceDataError(
        f"the column holds {array.type}, expected {dtype}",
        where=where,
        hint="Change the file or the query, or declare the dtype it has.",
        code="wrong-dtype",
    )


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


def _article(dtype: DType) -> str:
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
        pa.ArrowInvalid: Some row is no instant, or rows with and without a zone are mixed.
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
    # Through the shortest text: the binary value of 0.1 has more digits than anyone declared.
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
    ("list", "list"): _cast,
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
