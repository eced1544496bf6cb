"""Typing of expressions: every node gets a dtype, or its mistake is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from featurestore.core.dtypes import TIMESTAMP, DType, parse_dtype
from featurestore.core.errors import Mistake, listing
from featurestore.definitions.expr import Expr
from featurestore.plan.model import Param, TypedExpr
from featurestore.plan.names import feature_column
from featurestore.plan.operations import OPERATIONS, OperandError

if TYPE_CHECKING:
    import pyarrow as pa

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Scope:
    """The names that an expression may refer to.

    Attributes:
        columns: Columns of the source.
        requests: Inputs of the request.
        features: Features, by column.
        allow_as_of: Whether ``as_of()`` may be used.
    """

    columns: Mapping[str, DType] = field(default_factory=dict)
    requests: Mapping[str, DType] = field(default_factory=dict)
    features: Mapping[str, DType] = field(default_factory=dict)
    allow_as_of: bool = False


def infer(expr: Expr, scope: Scope, report: Callable[[Mistake], None], where: str) -> TypedExpr | None:
    """Give every node of an expression its dtype.

    Args:
        expr: The expression.
        scope: The names that it may refer to.
        report: Called with each mistake; one call reports all mistakes of an expression.
        where: The place, for messages.

    Returns:
        The typed expression, ``None`` if a mistake was reported.
    """
    args = [infer(arg, scope, report, where) for arg in expr.args]
    typed = tuple(arg for arg in args if arg is not None)
    if len(typed) < len(args):
        return None
    try:
        dtype = _dtype_of(expr, typed, scope)
    except OperandError as error:
        report(Mistake(f"{where}, {shown(expr)}", str(error), error.hint, error.code))
        return None
    constants = {"column": _column(dict(expr.params))} if expr.op == "feature" else dict(expr.params)
    return TypedExpr(expr.op, dtype, typed, tuple(sorted((name, _param(value)) for name, value in constants.items())))


def _column(constants: Mapping[str, Any]) -> str:
    """Return the column of the feature that a ``feature`` node names by its view and its own name."""
    return feature_column(constants["view"], constants["feature"])


def _param(value: Any) -> Param:
    return tuple(map(_param, value)) if isinstance(value, list | tuple) else value


def _dtype_of(expr: Expr, args: tuple[TypedExpr, ...], scope: Scope) -> DType:
    constants = dict(expr.params)
    match expr.op:
        case "column":
            return _lookup("column", constants["name"], scope.columns, "Columns", "unknown-column")
        case "request":
            return _lookup("request input", constants["name"], scope.requests, "Inputs", "unknown-request")
        case "feature":
            return _lookup("feature", _column(constants), scope.features, "Features", "unknown-feature")
        case "as_of":
            if not scope.allow_as_of:
                raise OperandError("as_of() is known only at request time", code="look-ahead")
            return TIMESTAMP
        case "literal":
            return _literal(constants)
        case "udf":
            return _read_dtype(constants["returns"])
    if expr.op not in OPERATIONS:
        raise OperandError(f"there is no operation '{expr.op}'", listing("Operations", OPERATIONS, wrong=expr.op))
    count, rule = OPERATIONS[expr.op]
    if not args or (count is not None and len(args) != count):
        raise OperandError(f"it has {len(args)} operands, expected {count or 'one or more'}")
    return rule(tuple(arg.dtype for arg in args), constants)


def literal_scalar(node: TypedExpr) -> pa.Scalar:
    """Return the Arrow scalar of a typed ``literal`` node."""
    import pyarrow as pa

    value = node.param("value")
    if node.dtype.kind == "timestamp":
        return pa.scalar(value, type=pa.int64()).cast(node.dtype.arrow)
    if node.dtype.kind == "date":
        return pa.scalar(value, type=pa.int32()).cast(pa.date32())
    if node.dtype.kind == "decimal":
        return pa.scalar(Decimal(str(value)), type=node.dtype.arrow)
    if node.dtype.kind == "binary":
        return pa.scalar(bytes.fromhex(str(value)), type=pa.binary())
    if isinstance(value, float):
        value += 0.0
    return pa.scalar(value, type=node.dtype.arrow)


def _lookup(what: str, name: Any, known: Mapping[str, DType], title: str, code: str) -> DType:
    if name not in known:
        raise OperandError(f"there is no {what} '{name}'", listing(title, known, wrong=str(name)), code)
    return known[name]


def _literal(constants: Mapping[str, Any]) -> DType:
    dtype, value = _read_dtype(constants["dtype"]), constants["value"]
    if dtype.kind == "int64" and value not in _INT64:
        raise OperandError(f"{value} does not fit into int64")
    if dtype.kind == "float64" and not abs(value) < float("inf"):
        raise OperandError(
            f"{value} is not finite", "Only null stands for a missing value: leave it out or use is_null()."
        )
    return dtype


def _read_dtype(name: Any) -> DType:
    try:
        return parse_dtype(str(name))
    except ValueError as error:
        head, _, hint = str(error).partition(". ")
        raise OperandError(head, hint, "unknown-dtype") from None


_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "mod": "%",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "and": "&",
    "or": "|",
}


def shown(expr: Expr) -> str:
    """Write an expression much as the user wrote it, for messages."""
    constants = dict(expr.params)
    if expr.op == "feature":
        return _column(constants)
    if expr.op in ("column", "request"):
        return f"{'col' if expr.op == 'column' else 'request'}('{constants['name']}')"
    if expr.op == "literal":
        return repr(constants["value"])
    if expr.op in _INFIX and len(expr.args) == 2:
        return f"({shown(expr.args[0])} {_INFIX[expr.op]} {shown(expr.args[1])})"
    inside = [*map(shown, expr.args)]
    if expr.op == "udf":
        return f"{constants['name']}({', '.join(inside)})"
    return f"{expr.op}({', '.join([*inside, *(f'{name}={value!r}' for name, value in constants.items())])})"
