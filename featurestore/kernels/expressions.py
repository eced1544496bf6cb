"""Evaluation of typed row expressions over Arrow columns: one table from operation to pyarrow functions.

Every operation works row by row: a row's result depends on that row alone, never on its neighbours, so it is the same
in a block of millions offline and in a handful of events online. Null rules are SQL's. Where arithmetic has no answer
(division by zero, overflow, a logarithm of a negative number, text that is no number) the answer is null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    STRING,
    DType,
)
from featurestore.core.errors import FeatureStoreError, InstantError
from featurestore.core.temporal import MICROSECONDS, LocalClock, instant_us
from featurestore.core.values import canonical
from featurestore.core.zones import from_local, to_local
from featurestore.definitions.udf import find_udf
from featurestore.kernels.jit import jit
from featurestore.plan.model import TypedExpr
from featurestore.plan.operations import as_decimal, common
from featurestore.plan.typing import literal_scalar
from featurestore.plan.udf_trials import rowwise_problem

Column = Any
"""An Arrow array, or an Arrow scalar that stands for a column of equal values."""

_INSTANT = pa.timestamp("us", tz="UTC")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_SATURDAY = 5
_WHOLE_FROM = 2.0**52
_LARGEST_ROUNDED = 1e300
_FEWEST_HASHED = 8
"""With this many constants or more, values are looked up in a hash set instead of compared one by one."""
_WIDE = Context(prec=60)


class UdfError(FeatureStoreError):
    """A user-defined function failed, or did not return what it declares."""

    default_code = "udf"


@dataclass(frozen=True)
class Environment:
    """What the leaves of an expression stand for; all columns are of one length.

    Attributes:
        columns: Columns of the source.
        length: Count of rows.
        requests: Inputs of the request.
        features: Features, by column.
        as_of: Instants asked about; ``None`` where there is no question.
    """

    columns: Mapping[str, pa.Array]
    length: int
    requests: Mapping[str, pa.Array] = field(default_factory=dict)
    features: Mapping[str, pa.Array] = field(default_factory=dict)
    as_of: pa.Array | None = None


def evaluate(expression: TypedExpr, environment: Environment) -> pa.Array:
    """Evaluate an expression.

    Args:
        expression: The expression.
        environment: What its leaves stand for.

    Returns:
        One value per row, of the expression's dtype, in canonical form.

    Raises:
        UdfError: A user-defined function failed or broke its declaration.
        ConfigError: A user-defined function is not known in this process.
    """
    return _spread(_evaluate(expression, environment), environment.length)


def _spread(column: Column, length: int) -> pa.Array:
    return pa.repeat(column, length) if isinstance(column, pa.Scalar) else column


def _evaluate(node: TypedExpr, environment: Environment) -> Column:
    match node.op:
        case "column":
            return environment.columns[str(node.param("name"))]
        case "request":
            return environment.requests[str(node.param("name"))]
        case "feature":
            return environment.features[str(node.param("column"))]
        case "as_of":
            assert environment.as_of is not None, "as_of() was typed where there is no question"
            return environment.as_of
        case "literal":
            return literal_scalar(node)
    args = [_evaluate(arg, environment) for arg in node.args]
    if all(isinstance(arg, pa.Scalar) for arg in args):
        args = [_spread(arg, environment.length) for arg in args]
    if node.op == "udf":
        return _call_udf(node, [_spread(arg, environment.length) for arg in args])
    return canonical(FUNCTIONS[node.op](node, args), node.dtype)


def _call_udf(node: TypedExpr, args: list[pa.Array]) -> pa.Array:
    """Apply a user-defined function, and try it on parts of the first blocks that it meets."""
    name, source = str(node.param("name")), str(node.param("source"))
    values = _apply(node, args)
    rows = len(values)
    # A function may look at its neighbours only where there are many: larger blocks are tried again.
    if args and rows > 1 and rows >= _TRY_AGAIN * _TRIED.get((name, source), 0):
        _TRIED[name, source] = rows
        places = pa.array(np.unique(np.linspace(0, rows - 1, min(rows, _TRIED_ROWS)).astype(np.int64)))
        some, chosen = [arg.take(places) for arg in args], values.take(places)
        if problem := rowwise_problem(lambda part: _apply(node, part), some, chosen):
            raise UdfError(
                f"the value of a row depends on other rows: {problem}",
                where=f"udf '{name}'",
                hint="Let the value of a row depend on that row's operands only.",
                code="impure-udf",
            )
    return values


_TRIED: dict[tuple[str, str], int] = {}
"""For each function, by name and text, the rows of the largest block that it was tried on in this process."""

_TRIED_ROWS = 32
_TRY_AGAIN = 8


def _apply(node: TypedExpr, args: list[pa.Array]) -> pa.Array:
    name, source = str(node.param("name")), str(node.param("source"))
    where = f"udf '{name}'"
    try:
        values = find_udf(name, source).function(*args)
    except FeatureStoreError:
        raise
    except Exception as error:  # a user's function may raise anything
        raise UdfError(f"it raised {type(error).__name__}: {error}", where=where) from error
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    length = len(args[0]) if args else 0
    if not isinstance(values, pa.Array) or len(values) != length:
        got = f"{len(values)} rows" if isinstance(values, pa.Array) else type(values).__name__
        raise UdfError(f"it returned {got}, expected an Arrow array of {length} rows", where=where)
    try:
        return canonical(values, node.dtype)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UdfError(f"it returned {values.type}, but {node.dtype} is declared: {error}", where=where) from None


# Numbers.


def _to(column: Column, got: DType, wanted: DType) -> Column:
    """Widen a number: int64 to float64 (to the nearest), integers and decimals to a wider decimal."""
    if got == wanted:
        return column
    if wanted.kind == "decimal" and got.kind == "int64":
        column = column.cast(as_decimal(got).arrow)
    return column.cast(wanted.arrow, safe=wanted.kind == "decimal")


def _widened(node: TypedExpr, args: Sequence[Column]) -> list[Column]:
    """Bring operands to the dtype in which they meet."""
    wanted = common(tuple(arg.dtype for arg in node.args))
    return [_to(column, arg.dtype, wanted) for column, arg in zip(args, node.args, strict=True)]


def _floats(node: TypedExpr, args: Sequence[Column]) -> list[Column]:
    return [_to(column, arg.dtype, FLOAT64) for column, arg in zip(args, node.args, strict=True)]


def _checked(name: str, exact: Callable[..., int]) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    """Return integer arithmetic that gives null where the result does not fit into int64.

    Overflow is rare: the checked kernel runs first, and only a block in which it fails is done again row by row.
    """

    def function(node: TypedExpr, args: Sequence[Column]) -> Column:
        if node.dtype.kind == "decimal":
            return _decimal(name, node, args)
        operands = _widened(node, args)
        if node.dtype.kind != "int64":
            return pc.call_function(name, operands)
        try:
            return pc.call_function(f"{name}_checked", operands)
        except pa.ArrowInvalid:
            return _row_by_row(exact, operands)

    return function


def _row_by_row(exact: Callable[..., int], operands: Sequence[Column]) -> pa.Array:
    length = max(len(operand) for operand in operands if isinstance(operand, pa.Array))
    rows = zip(*(_spread(operand, length).to_pylist() for operand in operands), strict=True)
    values = (None if None in row else exact(*row) for row in rows)
    fitting = [None if value is None or not _SMALLEST <= value <= _LARGEST else value for value in values]
    return pa.array(fitting, type=pa.int64())


def _decimal(name: str, node: TypedExpr, args: Sequence[Column]) -> Column:
    """Calculate with decimals; the result's precision always suffices, so nothing can overflow."""
    if name in ("negate", "abs"):
        return pc.call_function(name, list(args))
    if name == "multiply":
        operands = [_to(column, arg.dtype, as_decimal(arg.dtype)) for column, arg in zip(args, node.args, strict=True)]
        return pc.multiply(*operands).cast(node.dtype.arrow)
    return pc.call_function(name, _widened(node, args)).cast(node.dtype.arrow)


def _divide(node: TypedExpr, args: Sequence[Column]) -> Column:
    return pc.divide(*_floats(node, args))


def _numpy_pair(node: TypedExpr, args: Sequence[Column]) -> tuple[Any, Any, npt.NDArray[np.bool_]]:
    """Return two operands as NumPy arrays, and where either is null or the divisor is zero."""
    length = max(len(arg) for arg in args if isinstance(arg, pa.Array))
    left, right = (_spread(operand, length) for operand in _widened(node, args))
    missing = ~(pc.and_(left.is_valid(), right.is_valid()).to_numpy(zero_copy_only=False))
    zero, one = (0.0, 1.0) if node.dtype.kind == "float64" else (0, 1)
    divisor = right.fill_null(one).to_numpy(zero_copy_only=False)
    missing |= divisor == zero
    return left.fill_null(zero).to_numpy(zero_copy_only=False), np.where(divisor == zero, one, divisor), missing


def _floor_divide(node: TypedExpr, args: Sequence[Column]) -> Column:
    left, right, missing = _numpy_pair(node, args)
    if node.dtype.kind == "int64":
        overflows = (left == _SMALLEST) & (right == -1)
        return pa.array(np.where(overflows, 0, left) // right, mask=missing | overflows)
    with np.errstate(all="ignore"):
        return pa.array(np.floor_divide(left, right), mask=missing)


def _modulo(node: TypedExpr, args: Sequence[Column]) -> Column:
    left, right, missing = _numpy_pair(node, args)
    if node.dtype.kind == "int64":
        return pa.array(np.where(right == -1, 0, left % np.where(right == -1, 1, right)), mask=missing)
    with np.errstate(all="ignore"):
        return pa.array(np.mod(left, right), mask=missing)


def _float_function(name: str) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    return lambda node, args: pc.call_function(name, _floats(node, args))


def _whole(name: str) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    return lambda node, args: args[0] if node.dtype.kind == "int64" else pc.call_function(name, list(args))


def _round(node: TypedExpr, args: Sequence[Column]) -> Column:
    digits = node.param("digits")
    assert isinstance(digits, int)
    if node.dtype.kind == "float64":
        has_digits = pc.less(pc.abs(args[0]), _WHOLE_FROM if digits >= 0 else _LARGEST_ROUNDED)
        rounded = pc.round(pc.if_else(has_digits, args[0], 0.0), ndigits=digits, round_mode="half_to_even")
        return pc.if_else(has_digits, rounded, args[0])
    if digits >= 0:
        return args[0]
    return _row_by_row(lambda value: round(value, digits), args)


def _extreme(name: str) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    def function(node: TypedExpr, args: Sequence[Column]) -> Column:
        operands = _widened(node, args)
        if node.dtype.kind == "timestamp":
            # Arrow compares element by element only instants without a zone.
            operands = [operand.cast(pa.int64()) for operand in operands]
            return getattr(pc, name)(*operands, skip_nulls=False).cast(_INSTANT)
        return getattr(pc, name)(*operands, skip_nulls=False)

    return function


# Comparison, logic, choice.


def _compare(name: str) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    return lambda node, args: pc.call_function(name, _widened(node, args))


def _is_in(node: TypedExpr, args: Sequence[Column]) -> Column:
    """Return whether a value equals one of others; null if it does not and one of these is null, as in SQL."""
    first, *others = _widened(node, args)
    constants = [other for other in others if isinstance(other, pa.Scalar)]
    if len(constants) == len(others) >= _FEWEST_HASHED and all(one.is_valid for one in constants):
        known = pa.concat_arrays([pa.repeat(one, 1) for one in constants])
        return pc.if_else(first.is_valid(), pc.is_in(first, value_set=known), None)
    result = pc.equal(first, others[0])
    for other in others[1:]:
        result = pc.or_kleene(result, pc.equal(first, other))
    return result


def _choose(node: TypedExpr, args: Sequence[Column]) -> Column:
    pairs = len(args) // 2
    has_else = len(args) % 2 == 1
    value: Column = pa.scalar(None, type=node.dtype.arrow)
    if has_else:
        value = _to(args[-1], node.args[-1].dtype, node.dtype)
    for i in range(pairs - 1, -1, -1):
        taken = _to(args[2 * i + 1], node.args[2 * i + 1].dtype, node.dtype)
        value = pc.if_else(pc.fill_null(args[2 * i], False), taken, value)
    return value


def _coalesce(node: TypedExpr, args: Sequence[Column]) -> Column:
    return pc.coalesce(*_widened(node, args))


# Conversion.


def _cast(node: TypedExpr, args: Sequence[Column]) -> Column:
    got, wanted = node.args[0].dtype, node.dtype
    if got == wanted:
        return args[0]
    if got == STRING:
        return _parse(args[0], wanted)
    return _CASTS.get((got.kind, wanted.kind), _plain_cast)(args[0], wanted)


def _plain_cast(column: Column, wanted: DType) -> Column:
    return column.cast(wanted.arrow, safe=False)


def _float_to_int(column: Column, _: DType) -> Column:
    fits = pc.and_(pc.greater_equal(column, float(_SMALLEST)), pc.less(column, 2.0**63))
    return pc.if_else(fits, column, None).cast(pa.int64(), safe=False)


def _to_bool(column: Column, _: DType) -> Column:
    return pc.not_equal(column, pa.scalar(0, type=column.type))


def _by_value(read: Callable[[Any, DType], Any]) -> Callable[[Column, DType], Column]:
    """Return a conversion that reads each distinct value once, in Python; what cannot be read becomes null."""

    def convert(column: pa.Array, wanted: DType) -> pa.Array:
        encoded = column.dictionary_encode()
        known = pa.array([read(value, wanted) for value in encoded.dictionary.to_pylist()], type=wanted.arrow)
        return known.take(encoded.indices)

    return convert


def _read_text(text: str, wanted: DType) -> Any:
    try:
        return _TEXT[wanted.kind](text.strip(), wanted)
    except (ValueError, InvalidOperation, InstantError, OverflowError):
        return None


def _read_float(text: str, _: DType) -> float | None:
    return float(text.replace("_", "x"))


def _read_int(text: str, _: DType) -> int | None:
    value = int(text.replace("_", "x"))
    return value if _SMALLEST <= value <= _LARGEST else None


def _read_bool(text: str, _: DType) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower())


def _read_decimal(text: str, wanted: DType) -> Decimal | None:
    return _rescaled(Decimal(text.replace("_", "x")), wanted)


def _rescaled(value: Any, wanted: DType) -> Decimal | None:
    """Round to a decimal's scale, halves to even; null if it has too many digits."""
    number = Decimal(value)
    if not number.is_finite():
        return None
    rounded = number.quantize(Decimal(1).scaleb(-wanted.scale), context=_WIDE)
    return rounded if len(rounded.as_tuple().digits) <= wanted.precision else None


def _read_instant(text: str, _: DType) -> datetime | None:
    return datetime.fromisoformat(text) if instant_us(text) is not None else None


def _read_date(text: str, _: DType) -> date:
    return date.fromisoformat(text)


_TEXT: Mapping[str, Callable[[str, DType], Any]] = {
    "bool": _read_bool,
    "int64": _read_int,
    "float64": _read_float,
    "decimal": _read_decimal,
    "timestamp": _read_instant,
    "date": _read_date,
}


def _parse(column: pa.Array, wanted: DType) -> pa.Array:
    if wanted.kind == "binary":
        return column.cast(pa.binary())
    return _by_value(_read_text)(column, wanted)


def _to_decimal(column: Column, wanted: DType) -> Column:
    return _by_value(_read_number)(column, wanted)


def _read_number(value: Any, wanted: DType) -> Decimal | None:
    try:
        return _rescaled(value, wanted)
    except InvalidOperation:
        return None


def _decimal_to_int(column: Column, wanted: DType) -> Column:
    return _by_value(lambda value, _: int(value) if _SMALLEST <= int(value) <= _LARGEST else None)(column, wanted)


def _decimal_to_float(column: Column, wanted: DType) -> Column:
    return _by_value(lambda value, _: float(value))(column, wanted)


def _instant_to_text(column: Column, _: DType) -> Column:
    return pc.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")


def _binary_to_text(column: Column, wanted: DType) -> Column:
    def read(value: bytes, _: DType) -> str | None:
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None

    return _by_value(read)(column, wanted)


def _date_to_instant(column: Column, _: DType) -> Column:
    return column.cast(pa.timestamp("us")).cast(_INSTANT)


_CASTS: Mapping[tuple[str, str], Callable[[Column, DType], Column]] = {
    ("float64", "int64"): _float_to_int,
    ("float64", "bool"): _to_bool,
    ("int64", "bool"): _to_bool,
    ("int64", "decimal"): _to_decimal,
    ("float64", "decimal"): _to_decimal,
    ("decimal", "decimal"): _to_decimal,
    ("decimal", "int64"): _decimal_to_int,
    ("decimal", "float64"): _decimal_to_float,
    ("timestamp", "string"): _instant_to_text,
    ("date", "timestamp"): _date_to_instant,
    ("binary", "string"): _binary_to_text,
}


# Text.


def _text(name: str, *, option: str | None = None) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    def function(node: TypedExpr, args: Sequence[Column]) -> Column:
        options = {} if option is None else {"pattern": str(node.param(option))}
        return getattr(pc, name)(args[0], **options)

    return function


def _replace(node: TypedExpr, args: Sequence[Column]) -> Column:
    return pc.replace_substring(args[0], pattern=str(node.param("old")), replacement=str(node.param("new")))


def _substring(node: TypedExpr, args: Sequence[Column]) -> Column:
    start, length = node.param("start"), node.param("length")
    assert isinstance(start, int)
    stop = start + length if isinstance(length, int) else None
    return pc.utf8_slice_codeunits(args[0], start, stop)


def _concat(_: TypedExpr, args: Sequence[Column]) -> Column:
    return pc.binary_join_element_wise(*args, "", null_handling="emit_null")


# Time.


def _local(node: TypedExpr, args: Sequence[Column]) -> pa.Array:
    """Return what the clocks of the node's zone show at an instant; a date as it is."""
    if node.args[0].dtype.kind == "date":
        return args[0]
    return to_local(args[0], str(node.param("zone")))


def _part(name: str) -> Callable[[TypedExpr, Sequence[Column]], Column]:
    return lambda node, args: pc.call_function(name, [_local(node, args)])


def _microsecond(node: TypedExpr, args: Sequence[Column]) -> Column:
    at = _local(node, args)
    return pc.add(pc.multiply(pc.millisecond(at), 1000), pc.microsecond(at))


def _is_weekend(node: TypedExpr, args: Sequence[Column]) -> Column:
    return pc.greater_equal(pc.day_of_week(_local(node, args)), _SATURDAY)


def _date(node: TypedExpr, args: Sequence[Column]) -> Column:
    at = _local(node, args)
    return at if node.args[0].dtype.kind == "date" else at.cast(pa.date32(), safe=False)


def _truncate(node: TypedExpr, args: Sequence[Column]) -> Column:
    """Cut an instant down on a local clock.

    Up to an hour the clock's offset at that instant is kept, so an hour that happens twice stays two hours. A day that
    has two midnights begins at the first, one that has none when its clock goes on.
    """
    unit, zone = str(node.param("unit")), str(node.param("zone"))
    local = _local(node, args)
    cut = pc.floor_temporal(local, unit=unit, week_starts_monday=True)
    if unit in ("second", "minute", "hour"):
        past = pc.subtract(local.cast(pa.int64()), cut.cast(pa.int64()))
        return pc.subtract(args[0].cast(pa.int64()), past).cast(_INSTANT)
    return from_local(cut, LocalClock(zone, ambiguous="earlier", nonexistent="forward"))


def _microseconds(column: Column, dtype: DType) -> Column:
    if dtype.kind == "date":
        return pc.multiply(column.cast(pa.int32()).cast(pa.int64()), MICROSECONDS["d"])
    return column.cast(pa.int64())


def _since(node: TypedExpr, args: Sequence[Column]) -> Column:
    later, earlier = (_microseconds(column, arg.dtype) for column, arg in zip(args, node.args, strict=True))
    unit = node.param("unit_us")
    assert isinstance(unit, int)
    return pc.divide(pc.subtract(later, earlier).cast(pa.float64(), safe=False), float(unit))


def _shift(node: TypedExpr, args: Sequence[Column]) -> Column:
    return pc.add(args[0].cast(pa.int64()), node.param("by_us")).cast(_INSTANT)


# Encodings.

_PRIME = np.uint64(0x100000001B3)
_OFFSET = np.uint64(0xCBF29CE484222325)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@jit
def _mix(value: Any) -> Any:
    """Spread a 64-bit number over all bits.

    Source:
        The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@jit
def _hash_numbers(values: Any, count: Any, out: Any) -> None:
    for i in range(values.size):
        out[i] = _mix(np.uint64(values[i]) + _OFFSET) % count


@jit
def _hash_bytes(offsets: Any, data: Any, count: Any, out: Any) -> None:
    """Hash byte strings by FNV-1a with 64 bits, then spread the bits."""
    for i in range(out.size):
        value = _OFFSET
        for j in range(offsets[i], offsets[i + 1]):
            value = (value ^ np.uint64(data[j])) * _PRIME
        out[i] = _mix(value) % count


def _hash_bucket(node: TypedExpr, args: Sequence[Column]) -> Column:
    column, dtype = args[0], node.args[0].dtype
    count = np.uint64(int(str(node.param("count"))))
    out = np.empty(len(column), dtype=np.int64)
    if dtype.kind in ("string", "binary"):
        plain = column.cast(pa.large_binary())
        _, ends, data = plain.buffers()
        offsets = np.frombuffer(ends, dtype=np.int64)[plain.offset : plain.offset + len(plain) + 1]
        content = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
        _hash_bytes(offsets, content, count, out)
    else:
        plain = column.cast(pa.int32()) if dtype.kind == "date" else column
        _hash_numbers(plain.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), count, out)
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(out, mask=missing)


def _bucketize(node: TypedExpr, args: Sequence[Column]) -> Column:
    column = _floats(node, args)[0]
    edges = np.array(node.param("edges"), dtype=np.float64)
    buckets = np.searchsorted(edges, column.fill_null(0.0).to_numpy(zero_copy_only=False), side="right")
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(buckets.astype(np.int64), mask=missing)


def _sign(_: TypedExpr, args: Sequence[Column]) -> Column:
    if pa.types.is_decimal(args[0].type):
        return _by_value(lambda value, __: (value > 0) - (value < 0))(args[0], INT64)
    return pc.sign(args[0]).cast(pa.int64())


def _first_operand(_: TypedExpr, args: Sequence[Column]) -> Column:
    return args[0]


FUNCTIONS: Mapping[str, Callable[[TypedExpr, Sequence[Column]], Column]] = {
    "add": _checked("add", lambda left, right: left + right),
    "sub": _checked("subtract", lambda left, right: left - right),
    "mul": _checked("multiply", lambda left, right: left * right),
    "div": _divide,
    "floordiv": _floor_divide,
    "mod": _modulo,
    "pow": _float_function("power"),
    "neg": _checked("negate", lambda value: -value),
    "abs": _checked("abs", abs),
    "sign": _sign,
    "floor": _whole("floor"),
    "ceil": _whole("ceil"),
    "round": _round,
    "exp": _float_function("exp"),
    "log": _float_function("ln"),
    "log1p": _float_function("log1p"),
    "log10": _float_function("log10"),
    "sqrt": _float_function("sqrt"),
    "sin": _float_function("sin"),
    "cos": _float_function("cos"),
    "tan": _float_function("tan"),
    "asin": _float_function("asin"),
    "acos": _float_function("acos"),
    "atan": _float_function("atan"),
    "atan2": _float_function("atan2"),
    "least": _extreme("min_element_wise"),
    "greatest": _extreme("max_element_wise"),
    "eq": _compare("equal"),
    "ne": _compare("not_equal"),
    "lt": _compare("less"),
    "le": _compare("less_equal"),
    "gt": _compare("greater"),
    "ge": _compare("greater_equal"),
    "and": lambda _, args: pc.and_kleene(*args),
    "or": lambda _, args: pc.or_kleene(*args),
    "not": lambda _, args: pc.invert(args[0]),
    "is_null": lambda _, args: pc.is_null(args[0]),
    "is_in": _is_in,
    "coalesce": _coalesce,
    "when": _choose,
    "cast": _cast,
    "lower": _text("utf8_lower"),
    "upper": _text("utf8_upper"),
    "strip": _text("utf8_trim_whitespace"),
    "length": _text("utf8_length"),
    "contains": _text("match_substring", option="text"),
    "starts_with": _text("starts_with", option="text"),
    "ends_with": _text("ends_with", option="text"),
    "regexp_matches": _text("match_substring_regex", option="pattern"),
    "replace": _replace,
    "substring": _substring,
    "concat": _concat,
    "in_zone": _first_operand,
    "year": _part("year"),
    "month": _part("month"),
    "day": _part("day"),
    "hour": _part("hour"),
    "minute": _part("minute"),
    "second": _part("second"),
    "microsecond": _microsecond,
    "day_of_week": _part("day_of_week"),
    "day_of_year": _part("day_of_year"),
    "is_weekend": _is_weekend,
    "date": _date,
    "truncate": _truncate,
    "since": _since,
    "shift": _shift,
    "hash_bucket": _hash_bucket,
    "bucketize": _bucketize,
}
"""What each operation of ``featurestore.plan.operations`` computes."""
