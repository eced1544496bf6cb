"""One small table with nulls and edges in every dtype, and how expressions are asked about it."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa

from featurestore.core.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)
from featurestore.definitions.expr import col
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.plan.typing import Scope, infer

UTC = dt.UTC
SMALLEST, LARGEST = -(2**63), 2**63 - 1
COLUMNS = {
    "i": (INT64, [1, -2, None, LARGEST, SMALLEST, 0]),
    "j": (INT64, [3, 0, 1, 1, -1, None]),
    "x": (FLOAT64, [1.5, -2.5, None, 1e308, -0.5, 0.0]),
    "s": (STRING, ["Ab", "", None, " x ", "12", "été"]),
    "b": (BOOL, [True, False, None, True, False, None]),
    "t": (
        TIMESTAMP,
        [
            dt.datetime(2013, 3, 10, 7, 30, tzinfo=UTC),
            dt.datetime(2013, 11, 3, 5, 30, 1, 5, tzinfo=UTC),
            None,
            dt.datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            dt.datetime(2013, 11, 3, 6, 30, tzinfo=UTC),
            dt.datetime(2016, 2, 29, tzinfo=UTC),
        ],
    ),
    "d": (DATE, [dt.date(2013, 1, 5), dt.date(1, 1, 1), None, dt.date(2020, 2, 29), dt.date(1970, 1, 1), None]),
    "m": (
        DType("decimal", 10, 2),
        [Decimal("1.25"), Decimal("-3.50"), None, Decimal("0.00"), Decimal("99999999.99"), Decimal("1.00")],
    ),
    "l": (list_of(INT64), [[1], [], None, [1, 2], [3], [None]]),
}
ARRAYS = {name: pa.array(values, type=dtype.arrow) for name, (dtype, values) in COLUMNS.items()}
SCOPE = Scope(columns={name: dtype for name, (dtype, _) in COLUMNS.items()})
I, J, X, S, B, T, D, M, L = (col(name) for name in "ijxsbtdml")


def typed(expression, scope=SCOPE):
    """Return the typed expression and the mistakes found."""
    mistakes = []
    return infer(expression, scope, mistakes.append, "feature view 'v'"), mistakes


def values_of(expression, arrays=ARRAYS):
    """Evaluate an expression that must type; its Arrow type must be its dtype's."""
    found, mistakes = typed(expression)
    assert mistakes == []
    length = len(next(iter(arrays.values())))
    array = evaluate(found, Environment(arrays, length))
    assert array.type == found.dtype.arrow
    assert len(array) == length
    return array.to_pylist()


def mistake_in(expression, scope=SCOPE):
    """Return the one mistake of an expression."""
    found, mistakes = typed(expression, scope)
    assert found is None
    (mistake,) = mistakes
    return mistake
