"""Trials of user-defined functions: whether the value of a row depends on that row alone.

Online, rows come in other numbers and orders than offline, so a function that reads neighbouring rows would give other
values there. A trial calls the function with a block, the same block again, its reverse, its halves, and single rows.
The compiler does so with made-up values, evaluation with the first rows. The module must not know the origin of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from featurestore.core.dtypes import DType
from featurestore.core.errors import ConfigError, Mistake
from featurestore.definitions.udf import find_udf
from featurestore.plan import mistakes
from featurestore.plan.model import TypedExpr
from featurestore.plan.typing import literal_scalar

Call = Callable[[list[Any]], Any]
"""Applies a function to Arrow arrays of one length; gives an Arrow array of that length or raises."""

_MOST_SINGLE_ROWS = 4


def rowwise_problem(call: Call, args: Sequence[Any], whole: Any) -> str | None:
    """Call a function with parts of a block and return how a result differs; ``None`` if none does.

    Args:
        call: Applies the function.
        args: The block: Arrow arrays of one length, at least one.
        whole: The result for the whole block.
    """
    for name, places in _parts(len(whole)):
        try:
            part = call([arg.take(places) for arg in args])
        except Exception as error:  # a user's function may raise anything
            return f"it raised {type(error).__name__} for {name} of rows that it accepts together: {error}"
        if not part.equals(whole.take(places)):
            return f"for {name} it gave other values than for the same rows among others"
    return None


def _parts(rows: int) -> Iterator[tuple[str, Any]]:
    """Yield parts of a block by name, as the places of their rows."""
    import pyarrow as pa

    places = list(range(rows))
    half = rows // 2
    parts = [
        ("the same rows again", places),
        ("the reverse order", places[::-1]),
        ("the first half", places[:half]),
        ("the second half", places[half:]),
        *((f"one row ({i})", [i]) for i in places[:: max(1, rows // _MOST_SINGLE_ROWS)]),
    ]
    return ((name, pa.array(part, pa.int64())) for name, part in parts if part)


def trial_mistakes(expression: TypedExpr, where: str) -> Iterator[Mistake]:
    """Yield the functions of an expression whose results depend on more than the row.

    Functions that raise an error for every made-up block are tried by evaluation only.

    Args:
        expression: A typed expression, the functions of which have no other problem.
        where: The place, for messages.
    """
    for node in _calls(expression):
        problem = _made_up_problem(node) if node.args else None
        if problem is not None:
            yield mistakes.impure_udf(where, str(node.param("name")), problem)


def _calls(expression: TypedExpr) -> Iterator[TypedExpr]:
    if expression.op == "udf":
        yield expression
    for operand in expression.args:
        yield from _calls(operand)


@lru_cache(maxsize=256)
def _made_up_problem(node: TypedExpr) -> str | None:
    import pyarrow as pa

    try:
        function = find_udf(str(node.param("name")), str(node.param("source"))).function
    except ConfigError:
        return None

    def call(args: list[Any]) -> Any:
        column = function(*args)
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if not isinstance(column, pa.Array) or len(column) != len(args[0]):
            raise TypeError("expected an Arrow array with a value for each row")
        return comparable(column.cast(node.dtype.arrow))

    for style in range(_STYLES):
        args = [_operand(arg, style, number) for number, arg in enumerate(node.args)]
        try:
            whole = call(args)
        except Exception:  # values that the function does not support
            continue
        if problem := rowwise_problem(call, args, whole):
            return problem
    return None


def comparable(array: Any) -> Any:
    """Return a column for comparison: floats that are not finite are null, as in every column of floats."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(array.type):
        return pc.if_else(pc.is_finite(array), array, pa.scalar(None, array.type))
    return array


_ROWS = 13
_STYLES = 4
"""Ways to make values up: with nulls; without; positive, and text of digits; positive, and text of instants."""

_INTS = (3, -1, 7, 0, 12, 5, -8, 100, 2, 41, 1, 9, 7)
_WORDS = ("b", "", "Abc", "a", "zz", "ä1", "x y", "b", "long text", "A", "q-7", "7", "c")


def _operand(arg: TypedExpr, style: int, number: int) -> Any:
    """Make up a column for one operand; a constant is kept."""
    import pyarrow as pa

    if arg.op == "literal":
        return pa.repeat(literal_scalar(arg), _ROWS)
    turned = [_value(arg.dtype, place * (number + 1) % _ROWS, style) for place in range(_ROWS)]
    if style == 0:
        turned[(2 + number) % _ROWS] = turned[(7 + 2 * number) % _ROWS] = None
    column = pa.array(turned, _raw(arg.dtype))
    return column if column.type == arg.dtype.arrow else column.cast(arg.dtype.arrow)


def _raw(dtype: DType) -> Any:
    import pyarrow as pa

    if dtype.item is not None:
        return pa.list_(_raw(dtype.item))
    return {"timestamp": pa.int64(), "date": pa.int32()}.get(dtype.kind) or dtype.arrow


def _value(dtype: DType, place: int, style: int) -> Any:
    number = _INTS[place] if style < 2 else abs(_INTS[place]) + 1
    match dtype.kind:
        case "bool":
            return number % 2 == 0
        case "int64":
            return number
        case "float64":
            return number * 1.25 + 0.1
        case "string":
            if style < 2:
                return _WORDS[place]
            return str(number) if style == 2 else f"2026-{number % 12 + 1:02}-{place + 1:02}T{place:02}:30:00"
        case "binary":
            return _WORDS[place].encode()
        case "timestamp":
            return 1_767_225_600_000_000 + number * 3_723_000_001
        case "date":
            return 20_454 + number * 17
        case "decimal":
            return Decimal(number % 10 ** max(0, min(3, dtype.precision - dtype.scale))).scaleb(0)
        case _:
            assert dtype.item is not None
            return [_value(dtype.item, (place + i) % _ROWS, style) for i in range(place % 3 + 1)]
