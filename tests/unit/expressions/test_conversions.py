"""Conversions, literals, user-defined functions, and what neither the table of mistakes nor that of values asks."""

import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest

from featurestore import udf
from featurestore.core.dtypes import (
    BINARY,
    FLOAT64,
    INT64,
    parse_dtype,
)
from featurestore.core.errors import ConfigError
from featurestore.definitions.expr import as_of, col, concat, lit, request, when
from featurestore.kernels.expressions import Environment, UdfError, evaluate
from featurestore.plan.model import TypedExpr
from featurestore.plan.typing import Scope
from tests.unit.expressions.world import B, D, I, J, L, M, S, T, X, mistake_in, typed, values_of

UTC = dt.UTC


def one(expression, dtype, value):
    """Evaluate an expression over one value of a column ``c``."""
    scope = Scope(columns={"c": parse_dtype(dtype)})
    found, mistakes = typed(expression, scope)
    assert mistakes == []
    (result,) = evaluate(found, Environment({"c": pa.array([value], scope.columns["c"].arrow)}, 1)).to_pylist()
    return result


C = col("c")

CASTS = [
    ("float64", 2.5, "bool", True),
    ("int64", 0, "bool", False),
    ("int64", 7, "decimal(3,2)", Decimal("7.00")),
    ("int64", 70, "decimal(3,2)", None),
    ("float64", 0.125, "decimal(5,2)", Decimal("0.12")),
    ("float64", 1e300, "decimal(5,2)", None),
    ("decimal(20,0)", Decimal(10**19), "int64", None),
    ("decimal(20,1)", Decimal("-2.9"), "int64", -2),
    ("decimal(20,1)", Decimal("0.1"), "float64", 0.1),
    ("timestamp", dt.datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "string", "2026-01-02T03:04:05.000006Z"),
    ("date", dt.date(2026, 1, 2), "timestamp", dt.datetime(2026, 1, 2, tzinfo=UTC)),
    ("date", dt.date(2026, 1, 2), "string", "2026-01-02"),
    ("binary", b"\xc3\xa4", "string", "ä"),
    ("binary", b"\xff", "string", None),
    ("string", "ä", "binary", b"\xc3\xa4"),
    ("string", " TRUE ", "bool", True),
    ("string", "yes", "bool", None),
    ("string", "1_000", "int64", None),
    ("string", str(2**63), "int64", None),
    ("string", "1e400", "float64", None),
    ("string", "1.005", "decimal(5,2)", Decimal("1.00")),
    ("string", "NaN", "decimal(5,2)", None),
    ("string", "one", "decimal(5,2)", None),
    ("string", "2026-01-02T03:00:00+01:00", "timestamp", dt.datetime(2026, 1, 2, 2, tzinfo=UTC)),
    ("string", "2026-01-02T03:00:00", "timestamp", None),
    ("string", "2026-01-02", "date", dt.date(2026, 1, 2)),
    ("string", "yesterday", "date", None),
    ("int64", 5, "int64", 5),
]


@pytest.mark.parametrize(("got", "value", "wanted", "expected"), CASTS, ids=str)
def test_a_cast_gives_the_value_or_null_where_there_is_none(got, value, wanted, expected):
    assert one(C.cast(wanted), got, value) == expected


LITERALS = [
    (lit(True), True),
    (lit(-0.0), 0.0),
    (lit("a"), "a"),
    (lit(b"\x00\xff"), b"\x00\xff"),
    (lit(Decimal("1.50")), Decimal("1.50")),
    (lit(dt.date(2026, 1, 2)), dt.date(2026, 1, 2)),
    (lit(dt.datetime(2026, 1, 2, tzinfo=UTC)), dt.datetime(2026, 1, 2, tzinfo=UTC)),
]


@pytest.mark.parametrize(("literal", "value"), LITERALS, ids=str)
def test_a_literal_stands_for_a_column_of_its_value(literal, value):
    assert values_of(literal) == [value] * 6


def test_operations_on_literals_alone_give_whole_columns():
    assert values_of(lit(2) + lit(3)) == [5] * 6


MORE = {
    "decimal negative": (-M, Decimal("-1.25")),
    "decimal absolute": (M.abs(), Decimal("1.25")),
    "decimal product": (M * M, Decimal("1.5625")),
    "decimal sign": (M.sign(), 1),
    "rounding whole numbers keeps them": (I.round(1), 1),
    "floor of whole numbers": (I.floor(), 1),
    "substring to the end": (S.substring(1), "b"),
    "replace": (S.replace("A", "x"), "xb"),
    "concat": (concat(S, "!"), "Ab!"),
    "date of a date": (D.date(), dt.date(2013, 1, 5)),
    "dates as instants of midnight": (D.since(lit(dt.date(2013, 1, 4)), "hour"), 24.0),
    "shift": (T.shift("1h"), dt.datetime(2013, 3, 10, 8, 30, tzinfo=UTC)),
    "hash of binary": (S.cast("binary").hash_bucket(1), 0),
    "hash of dates": (D.hash_bucket(1), 0),
    "choice without else": (when(B, I).when(I > 0).then(J), 1),
}


@pytest.mark.parametrize("name", MORE)
def test_more_operations(name):
    expression, first = MORE[name]
    assert values_of(expression)[0] == first


MISTAKES = {
    "too many digits": (M.cast("decimal(30,10)") * M.cast("decimal(30,10)"), "61 digits"),
    "digits are whole": (X.round(1.5), "expected an integer"),
    "no values": (I.is_in([]), "at least one value"),
    "lists are not looked for": (L.is_in([L]), "lists cannot be compared"),
    "text is wanted": (I.lower(), "expected string"),
    "text to look for is text": (S.contains(5), "expected text"),
    "places are whole": (S.substring(-1), "whole numbers"),
    "an hour of text": (S.hour(), "expected a timestamp"),
    "an hour of a date": (D.hour(), "expected a timestamp"),
    "a year of a number": (I.year(), "expected a timestamp or date"),
    "time since text": (T.since(S), "expected a timestamp or date"),
    "only instants shift": (D.shift("1h"), "expected a timestamp"),
    "buckets are counted": (I.hash_bucket(0), "whole number from 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_more_mistakes(name):
    expression, problem = MISTAKES[name]
    assert problem in mistake_in(expression).problem


@udf(returns="int64")
def twice(values):
    import pyarrow.compute as pc

    return pc.multiply(values, 2)


@udf(returns="int64")
def in_chunks(values):
    import pyarrow as pa

    return pa.chunked_array([values])


@udf(returns="int64")
def failing(values):
    raise KeyError("nothing")


@udf(returns="int64")
def unknowing(values):
    from featurestore.core.errors import FeatureStoreError

    raise FeatureStoreError("it says why itself")


@udf(returns="int64")
def one_row(values):
    return values.slice(0, 1)


@udf(returns="int64")
def a_number(values):
    return 5


@udf(returns="int64")
def text(values):
    import pyarrow as pa

    return pa.array(["x"] * len(values))


@pytest.mark.parametrize("function", [twice, in_chunks])
def test_a_function_gives_a_column_of_its_dtype(function):
    assert values_of(function(J)) == [2 * v if function is twice and v is not None else v for v in values_of(J)]


@pytest.mark.parametrize(
    ("function", "said"),
    [(failing, "KeyError"), (one_row, "1 rows"), (a_number, "returned int"), (text, "but int64 is declared")],
)
def test_a_function_that_breaks_its_declaration_is_named(function, said):
    with pytest.raises(UdfError, match=said) as caught:
        values_of(function(J))
    assert caught.value.where == f"udf '{function.name}'"


def test_errors_that_name_themselves_pass():
    with pytest.raises(Exception, match="it says why itself"):
        values_of(unknowing(J))


def test_a_function_that_is_not_there_is_a_named_error():
    call = TypedExpr("udf", INT64, (), (("name", "gone"), ("returns", "int64"), ("source", "def gone(): ...")))
    with pytest.raises(ConfigError, match="not defined"):
        evaluate(call, Environment({}, 0))


def test_leaves_of_a_question_are_read_from_where_they_belong():
    instants = pa.array([dt.datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    scope = Scope(requests={"r": FLOAT64}, features={"v__f": FLOAT64}, allow_as_of=True)
    feature = TypedExpr("feature", FLOAT64, params=(("column", "v__f"),))
    environment = Environment(
        {}, 1, requests={"r": pa.array([1.5])}, features={"v__f": pa.array([0.5])}, as_of=instants
    )
    asked, _ = typed(request("r") + 1.0, scope)
    assert evaluate(asked, environment).to_pylist() == [2.5]
    assert evaluate(feature, environment).to_pylist() == [0.5]
    assert evaluate(typed(as_of(), scope)[0], environment).equals(instants)


def test_binary_constants_are_binary():
    assert typed(lit(b"x"))[0].dtype == BINARY
