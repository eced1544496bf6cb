"""The table of operations: operands, constants and dtype of the result of each.

A rule is called with the dtypes of the operands and the constants. It returns the dtype of the result, or raises
``OperandError``. The computation of an operation stands in ``featurestore.kernels.expressions``, under the same name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from featurestore.core.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    parse_dtype,
)
from featurestore.core.temporal import is_timezone

Dtypes = tuple[DType, ...]
Constants = Mapping[str, Any]
Rule = Callable[[Dtypes, Constants], DType]

LARGEST_PRECISION = 38
TRUNCATIONS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
"""Units of the calendar an instant can be truncated to."""


class OperandError(Exception):
    """An operation on operands that it does not accept; the text is the problem, ``hint`` the fix."""

    def __init__(self, problem: str, hint: str = "", code: str = "wrong-operand") -> None:
        super().__init__(problem)
        self.hint = hint
        self.code = code


def _expected(what: str, got: DType, position: int, hint: str = "") -> OperandError:
    return OperandError(f"operand {position + 1} is {got}, expected {what}", hint)


def _cast_hint(got: DType) -> str:
    return "Convert it: .cast('float64')." if got.kind in ("string", "decimal", "bool") else ""


def common(dtypes: Dtypes) -> DType:
    """Return the common dtype of several dtypes: the same dtype, or float64 for int64 with float64.

    Raises:
        OperandError: They have none.
    """
    kinds = {dtype.kind for dtype in dtypes}
    if len(set(dtypes)) == 1:
        return next((dtype for dtype in dtypes if dtype.is_ordered), dtypes[0])
    if kinds == {"int64", "float64"}:
        return FLOAT64
    if kinds <= {"int64", "decimal"}:
        wide = [as_decimal(dtype) for dtype in dtypes]
        scale = max(dtype.scale for dtype in wide)
        return decimal(max(dtype.precision - dtype.scale for dtype in wide) + scale, scale)
    names = " and ".join(sorted({str(dtype) for dtype in dtypes}))
    hint = "Cast one of them, for instance .cast('float64')." if kinds & {"decimal", "string", "bool"} else ""
    raise OperandError(f"{names} cannot be combined", hint)


def as_decimal(dtype: DType) -> DType:
    """Return the decimal dtype that holds every value of an integer or decimal one."""
    return dtype if dtype.kind == "decimal" else DType("decimal", precision=19)


def decimal(precision: int, scale: int) -> DType:
    """Return a decimal dtype.

    Raises:
        OperandError: It would need more than 38 digits.
    """
    if precision > LARGEST_PRECISION:
        raise OperandError(
            f"the result needs {precision} digits, decimals have up to {LARGEST_PRECISION}",
            "Cast the operands to smaller decimals, or to float64.",
        )
    return DType("decimal", precision=precision, scale=scale)


def _numbers(dtypes: Dtypes) -> DType:
    for position, dtype in enumerate(dtypes):
        if not dtype.is_numeric:
            raise _expected("a number", dtype, position, _cast_hint(dtype))
    return common(dtypes)


def _arithmetic(dtypes: Dtypes, _: Constants) -> DType:
    dtype = _numbers(dtypes)
    return decimal(dtype.precision + 1, dtype.scale) if dtype.kind == "decimal" else dtype


def _multiply(dtypes: Dtypes, _: Constants) -> DType:
    dtype = _numbers(dtypes)
    if dtype.kind != "decimal":
        return dtype
    left, right = map(as_decimal, dtypes)
    return decimal(left.precision + right.precision + 1, left.scale + right.scale)


def _whole_division(dtypes: Dtypes, _: Constants) -> DType:
    return _no_decimal(_numbers(dtypes))


def _no_decimal(dtype: DType) -> DType:
    if dtype.kind == "decimal":
        raise OperandError(f"decimals are not accepted, got {dtype}", "Convert it: .cast('float64').")
    return dtype


def _float(dtypes: Dtypes, _: Constants) -> DType:
    _no_decimal(_numbers(dtypes))
    return FLOAT64


def _same_number(dtypes: Dtypes, _: Constants) -> DType:
    return _numbers(dtypes)


def _round(dtypes: Dtypes, constants: Constants) -> DType:
    if not isinstance(constants["digits"], int):
        raise OperandError(f"digits is {constants['digits']!r}, expected an integer")
    return _no_decimal(_numbers(dtypes))


def _sign(dtypes: Dtypes, _: Constants) -> DType:
    _numbers(dtypes)
    return INT64


ORDERED_HINT = "Write .cast('string') to compare their text, or give each a number: when(col('size') == 'S', 1, …)."
"""The fix for categories that have an order of their own."""


def _equality(dtypes: Dtypes, _: Constants) -> DType:
    if common(dtypes).kind == "list":
        raise OperandError("lists cannot be compared")
    return BOOL


def _comparison(dtypes: Dtypes, constants: Constants) -> DType:
    _no_categories(common(dtypes))
    return _equality(dtypes, constants)


def _no_categories(dtype: DType) -> None:
    """Refuse to compare categories by their text if they have another order."""
    if dtype.is_ordered:
        raise OperandError("ordered categories cannot be compared by their order", ORDERED_HINT)


def _logic(dtypes: Dtypes, _: Constants) -> DType:
    for position, dtype in enumerate(dtypes):
        if dtype != BOOL:
            raise _expected("bool", dtype, position, "Compare it with something.")
    return BOOL


def _is_null(_: Dtypes, __: Constants) -> DType:
    return BOOL


def _is_in(dtypes: Dtypes, _: Constants) -> DType:
    if len(dtypes) < 2:
        raise OperandError("is_in() needs at least one value")
    if common(dtypes).kind == "list":
        raise OperandError("lists cannot be compared")
    return BOOL


def _common(dtypes: Dtypes, _: Constants) -> DType:
    return common(dtypes)


def _ordered(dtypes: Dtypes, _: Constants) -> DType:
    dtype = common(dtypes)
    if dtype.kind in ("list", "bool", "binary"):
        raise OperandError(f"{dtype} has no order")
    _no_categories(dtype)
    return dtype


def _when(dtypes: Dtypes, _: Constants) -> DType:
    conditions, values = dtypes[:-1:2], (*dtypes[1::2], *dtypes[len(dtypes) - len(dtypes) % 2 :])
    for number, dtype in enumerate(conditions):
        if dtype != BOOL:
            raise OperandError(f"condition {number + 1} is {dtype}, expected bool")
    return common(values)


_CASTS = {
    "bool": {"bool", "int64", "float64", "string"},
    "int64": {"bool", "int64", "float64", "string", "decimal"},
    "float64": {"bool", "int64", "float64", "string", "decimal"},
    "decimal": {"int64", "float64", "string", "decimal"},
    "string": {"bool", "int64", "float64", "string", "timestamp", "date", "decimal", "binary"},
    "timestamp": {"timestamp", "date", "string"},
    "date": {"timestamp", "date", "string"},
    "binary": {"binary", "string"},
    "list": set(),
}


def _cast(dtypes: Dtypes, constants: Constants) -> DType:
    try:
        target = parse_dtype(str(constants["to"]))
    except ValueError as error:
        head, _, hint = str(error).partition(". ")
        raise OperandError(head, hint, "unknown-dtype") from None
    if target != dtypes[0] and target.kind not in _CASTS[dtypes[0].kind]:
        raise OperandError(f"{dtypes[0]} cannot be cast to {target}")
    return target


def _of_text(result: DType) -> Rule:
    def rule(dtypes: Dtypes, constants: Constants) -> DType:
        for position, dtype in enumerate(dtypes):
            if dtype != STRING:
                raise _expected("string", dtype, position, "Convert it: .cast('string').")
        for name, value in constants.items():
            if name in ("text", "pattern", "old", "new") and not isinstance(value, str):
                raise OperandError(f"{name} is {value!r}, expected text")
        return result

    return rule


def _pattern(dtypes: Dtypes, constants: Constants) -> DType:
    import pyarrow as pa
    import pyarrow.compute as pc

    dtype = _of_text(BOOL)(dtypes, constants)
    try:
        pc.match_substring_regex(pa.array([""]), constants["pattern"])
    except pa.ArrowInvalid as error:
        raise OperandError(f"{constants['pattern']!r} is not a valid regular expression: {error}") from None
    return dtype


def _substring(dtypes: Dtypes, constants: Constants) -> DType:
    start, length = constants["start"], constants["length"]
    if not isinstance(start, int) or start < 0 or not (length is None or (isinstance(length, int) and length >= 0)):
        raise OperandError(f"start {start!r} and length {length!r} must be whole numbers from 0 on")
    return _of_text(STRING)(dtypes, constants)


def _check_zone(constants: Constants) -> None:
    if not is_timezone(constants["zone"]):
        hint = "Use a name of the tz database, such as 'America/New_York'."
        raise OperandError(f"{constants['zone']!r} is not a time zone", hint, "unknown-zone")


def _calendar(result: DType, *, with_dates: bool = True) -> Rule:
    def rule(dtypes: Dtypes, constants: Constants) -> DType:
        _check_zone(constants)
        if dtypes[0] == DATE and with_dates:
            return result
        if dtypes[0] != TIMESTAMP:
            what = "a timestamp or date" if with_dates else "a timestamp"
            raise _expected(what, dtypes[0], 0, "Read it as one: .cast('timestamp').")
        return result

    return rule


def _truncate(dtypes: Dtypes, constants: Constants) -> DType:
    if constants["unit"] not in TRUNCATIONS:
        raise OperandError(f"unit is {constants['unit']!r}", f"Units: {', '.join(TRUNCATIONS)}.")
    return _calendar(TIMESTAMP, with_dates=False)(dtypes, constants)


def _since(dtypes: Dtypes, constants: Constants) -> DType:
    for position, dtype in enumerate(dtypes):
        if dtype not in (TIMESTAMP, DATE):
            raise _expected("a timestamp or date", dtype, position)
    if not isinstance(constants["unit_us"], int):
        raise OperandError(
            f"unit is {constants['unit_us']!r}", "Units: microsecond, millisecond, second, minute, hour, day, week."
        )
    return FLOAT64


def _shift(dtypes: Dtypes, _: Constants) -> DType:
    if dtypes[0] != TIMESTAMP:
        raise _expected("a timestamp", dtypes[0], 0)
    return TIMESTAMP


def _hash_bucket(dtypes: Dtypes, constants: Constants) -> DType:
    if dtypes[0].kind not in ("bool", "int64", "string", "binary", "timestamp", "date"):
        hint = "Equal numbers must have equal hashes: cast it to int64 or string."
        raise _expected("bool, int64, string, binary, timestamp or date", dtypes[0], 0, hint)
    if not isinstance(constants["count"], int) or constants["count"] < 1:
        raise OperandError(f"count is {constants['count']!r}, expected a whole number from 1 on")
    return INT64


def _bucketize(dtypes: Dtypes, constants: Constants) -> DType:
    edges = constants["edges"]
    is_ascending = all(left < right for left, right in pairwise(edges))
    if not edges or not is_ascending or not all(map(math.isfinite, edges)):
        raise OperandError("edges must be finite and ascending, and at least one")
    _no_decimal(_numbers(dtypes))
    return INT64


OPERATIONS: Mapping[str, tuple[int | None, Rule]] = {
    "add": (2, _arithmetic),
    "sub": (2, _arithmetic),
    "mul": (2, _multiply),
    "div": (2, _float),
    "floordiv": (2, _whole_division),
    "mod": (2, _whole_division),
    "pow": (2, _float),
    "neg": (1, _same_number),
    "abs": (1, _same_number),
    "sign": (1, _sign),
    "floor": (1, _whole_division),
    "ceil": (1, _whole_division),
    "round": (1, _round),
    **dict.fromkeys(("exp", "log", "log1p", "log10", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan"), (1, _float)),
    "atan2": (2, _float),
    "least": (None, _ordered),
    "greatest": (None, _ordered),
    "eq": (2, _equality),
    "ne": (2, _equality),
    "lt": (2, _comparison),
    "le": (2, _comparison),
    "gt": (2, _comparison),
    "ge": (2, _comparison),
    "and": (2, _logic),
    "or": (2, _logic),
    "not": (1, _logic),
    "is_null": (1, _is_null),
    "is_in": (None, _is_in),
    "coalesce": (None, _common),
    "when": (None, _when),
    "cast": (1, _cast),
    "lower": (1, _of_text(STRING)),
    "upper": (1, _of_text(STRING)),
    "strip": (1, _of_text(STRING)),
    "length": (1, _of_text(INT64)),
    "contains": (1, _of_text(BOOL)),
    "starts_with": (1, _of_text(BOOL)),
    "ends_with": (1, _of_text(BOOL)),
    "regexp_matches": (1, _pattern),
    "replace": (1, _of_text(STRING)),
    "substring": (1, _substring),
    "concat": (None, _of_text(STRING)),
    "in_zone": (1, _calendar(TIMESTAMP, with_dates=False)),
    **dict.fromkeys(("year", "month", "day", "day_of_week", "day_of_year"), (1, _calendar(INT64))),
    **dict.fromkeys(("hour", "minute", "second", "microsecond"), (1, _calendar(INT64, with_dates=False))),
    "is_weekend": (1, _calendar(BOOL)),
    "date": (1, _calendar(DATE)),
    "truncate": (1, _truncate),
    "since": (2, _since),
    "shift": (1, _shift),
    "hash_bucket": (1, _hash_bucket),
    "bucketize": (1, _bucketize),
}
"""For each operation how many operands it takes (``None``: one or more) and its typing rule."""
