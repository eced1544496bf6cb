"""DuckDB as a judge of row expressions: random trees over columns with nulls, where SQL means the same.

Where this library gives null and SQL an error or an infinity (overflow, division by zero), the SQL says so in full.
What the two define differently (the sign of a remainder, rounding of casts) is left to the tests of single operations.
"""

import random
from datetime import datetime, timedelta
from functools import cache

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import (
    BOOL,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
)
from featurestore.definitions.expr import coalesce, col, concat, greatest, least, lit, when
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.plan.typing import Scope, infer
from tests.assertions import assert_same_values
from tests.budget import examples

ROWS = 80
COLUMNS = {
    "i": (INT64, (0, 1, -1, 2, -7, 1_000, 2**62, -(2**63), 2**63 - 1)),
    "j": (INT64, (0, 1, -1, 3, 5, 2**31, -(2**62))),
    "x": (FLOAT64, (0.0, 0.5, -1.5, 2.5, 1e308, -1e308, 5e-324, 1e16, 0.1)),
    "y": (FLOAT64, (0.0, 1.0, -2.0, 1e-300, 3.75, 1e300)),
    "b": (BOOL, (True, False)),
    "c": (BOOL, (True, False)),
    "s": (STRING, ("", "a", "Ab", " b ", "äÖ", "abab", "12", "a.b")),
    "r": (STRING, ("", "b", "AB", "🛫x", "ba")),
    "t": (
        TIMESTAMP,
        (datetime(2024, 2, 29, 23, 59, 59, 999_999), datetime(1969, 12, 31, 1, 2, 3, 4), datetime(2000, 1, 1)),
    ),
    "u": (TIMESTAMP, (datetime(2024, 3, 1), datetime(1, 1, 1), datetime(2023, 7, 9, 12, 30))),
}
SCOPE = Scope(columns={name: dtype for name, (dtype, _) in COLUMNS.items()})
NAMES = {"int": "ij", "float": "xy", "bool": "bc", "text": "sr", "instant": "tu"}


@cache
def arrays():
    """Return columns in which every value meets others and nulls."""
    chance = random.Random(11)
    drawn = {name: [chance.choice((None, *values)) for _ in range(ROWS)] for name, (_, values) in COLUMNS.items()}
    return {name: pa.array(values, type=COLUMNS[name][0].arrow) for name, values in drawn.items()}


@cache
def judge():
    """Return a database that holds the same rows, instants as times without a zone, which in it mean UTC."""
    connection = duckdb.connect()
    table = pa.table({"row": range(ROWS), **arrays()})
    for name in "tu":
        place = table.column_names.index(name)
        table = table.set_column(place, name, table.column(name).cast(pa.timestamp("us")))
    connection.register("given", table)
    connection.execute("CREATE TABLE rows AS SELECT * FROM given")
    connection.execute("CREATE MACRO finite(v) AS CASE WHEN isfinite(v) THEN v + 0.0::DOUBLE END")
    return connection


def literals():
    return {
        "int": st.sampled_from((0, 1, -3, 10, 2**40)),
        "float": st.sampled_from((0.0, 0.5, -2.0, 1e10)),
        "bool": st.booleans(),
        "text": st.sampled_from(("", "a", "b", "Ab", "%", "it's")),
    }


def quoted(value):
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"({value!r}::{'DOUBLE' if isinstance(value, float) else 'BIGINT'})"


@st.composite
def leaves(draw, kind):
    """A column, or a literal where there are literals."""
    if kind == "instant" or draw(st.booleans()):
        name = draw(st.sampled_from(NAMES[kind]))
        return col(name), name
    value = draw(literals()[kind])
    return lit(value), quoted(value)


COMPARED = {
    "=": lambda left, right: left == right,
    "<>": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}
ADDED = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
}
PARTS = {
    "year": lambda at: at.year(),
    "month": lambda at: at.month(),
    "day": lambda at: at.day(),
    "hour": lambda at: at.hour(),
    "minute": lambda at: at.minute(),
    "second": lambda at: at.second(),
    "dayofyear": lambda at: at.day_of_year(),
    "isodow": lambda at: at.day_of_week() + 1,
}
UNITS = ("second", "minute", "hour", "day", "week", "month", "year")


def ints(one):
    return st.one_of(
        st.builds(
            lambda sign, left, right: (ADDED[sign](left[0], right[0]), f"TRY({left[1]} {sign} {right[1]})"),
            st.sampled_from(sorted(ADDED)),
            one("int"),
            one("int"),
        ),
        one("int").map(lambda of: (-of[0], f"TRY(-{of[1]})")),
        one("int").map(lambda of: (of[0].abs(), f"TRY(abs({of[1]}))")),
        one("int").map(lambda of: (of[0].sign(), f"sign({of[1]})::BIGINT")),
        one("float").map(lambda of: (of[0].sign(), f"sign({of[1]})::BIGINT")),
        one("bool").map(lambda of: (of[0].cast("int64"), f"{of[1]}::BIGINT")),
        one("text").map(lambda of: (of[0].length(), f"length({of[1]})")),
        st.builds(
            lambda part, at: (PARTS[part](at[0]), f"date_part('{part}', {at[1]})"),
            st.sampled_from(sorted(PARTS)),
            one("instant"),
        ),
    )


def floats(one):
    return st.one_of(
        st.builds(
            lambda sign, left, right: (ADDED[sign](left[0], right[0]), f"finite({left[1]} {sign} {right[1]})"),
            st.sampled_from(sorted(ADDED)),
            one("float"),
            one("float"),
        ),
        st.builds(
            lambda left, right: (left[0] + right[0], f"finite({left[1]}::DOUBLE + {right[1]})"),
            one("int"),
            one("float"),
        ),
        st.builds(
            lambda left, right: (left[0] / right[0], f"finite({left[1]} / nullif({right[1]}, 0))"),
            one("float"),
            one("float"),
        ),
        st.builds(
            lambda left, right: (left[0] / right[0], f"finite({left[1]}::DOUBLE / nullif({right[1]}, 0)::DOUBLE)"),
            one("int"),
            one("int"),
        ),
        one("float").map(lambda of: (of[0].floor(), f"finite(floor({of[1]}))")),
        one("float").map(lambda of: (of[0].ceil(), f"finite(ceil({of[1]}))")),
        one("float").map(lambda of: (of[0].abs(), f"abs({of[1]})")),
        one("float").map(lambda of: (of[0].sqrt(), f"finite(sqrt(CASE WHEN {of[1]} >= 0 THEN {of[1]} END))")),
        one("int").map(lambda of: (of[0].cast("float64"), f"{of[1]}::DOUBLE")),
        st.builds(
            lambda later, earlier: (
                later[0].since(earlier[0], unit="hour"),
                f"(epoch_us({later[1]}) - epoch_us({earlier[1]}))::DOUBLE / 3.6e9::DOUBLE",
            ),
            one("instant"),
            one("instant"),
        ),
    )


def bools(one):
    kinds = st.sampled_from(("int", "float", "bool", "text", "instant"))
    pairs = kinds.flatmap(lambda kind: st.tuples(one(kind), one(kind)))
    plain = st.sampled_from(("a", "b", "", "Ab", "."))
    return st.one_of(
        st.builds(
            lambda sign, of: (COMPARED[sign](of[0][0], of[1][0]), f"({of[0][1]} {sign} {of[1][1]})"),
            st.sampled_from(sorted(COMPARED)),
            pairs,
        ),
        st.tuples(one("bool"), one("bool")).map(lambda of: (of[0][0] & of[1][0], f"({of[0][1]} AND {of[1][1]})")),
        st.tuples(one("bool"), one("bool")).map(lambda of: (of[0][0] | of[1][0], f"({of[0][1]} OR {of[1][1]})")),
        one("bool").map(lambda of: (~of[0], f"(NOT {of[1]})")),
        kinds.flatmap(one).map(lambda of: (of[0].is_null(), f"({of[1]} IS NULL)")),
        st.tuples(one("int"), st.lists(literals()["int"], min_size=1, max_size=3)).map(
            lambda of: (of[0][0].is_in(of[1]), f"({of[0][1]} IN ({', '.join(map(quoted, of[1]))}))")
        ),
        st.tuples(one("float"), one("float"), one("float")).map(
            lambda of: (of[0][0].between(of[1][0], of[2][0]), f"({of[0][1]} BETWEEN {of[1][1]} AND {of[2][1]})")
        ),
        st.builds(lambda of, text: (of[0].contains(text), f"contains({of[1]}, '{text}')"), one("text"), plain),
        st.builds(lambda of, text: (of[0].starts_with(text), f"starts_with({of[1]}, '{text}')"), one("text"), plain),
        st.builds(lambda of, text: (of[0].ends_with(text), f"ends_with({of[1]}, '{text}')"), one("text"), plain),
        st.builds(
            lambda of, pattern: (of[0].regexp_matches(pattern), f"regexp_matches({of[1]}, '{pattern}')"),
            one("text"),
            st.sampled_from(("^a", "b$", "[ab]+", "(ab){2}", "^$", "a.b", "ä|x")),
        ),
    )


def texts(one):
    return st.one_of(
        one("text").map(lambda of: (of[0].lower(), f"lower({of[1]})")),
        one("text").map(lambda of: (of[0].upper(), f"upper({of[1]})")),
        one("text").map(lambda of: (of[0].strip(), f"trim({of[1]})")),
        st.tuples(one("text"), one("text")).map(lambda of: (concat(of[0][0], of[1][0]), f"({of[0][1]} || {of[1][1]})")),
        st.builds(
            lambda of, old: (of[0].replace(old, "<>"), f"replace({of[1]}, '{old}', '<>')"),
            one("text"),
            st.sampled_from(("a", "ab", ".", "zz")),
        ),
        st.builds(
            lambda of, start, length: (of[0].substring(start, length), f"substring({of[1]}, {start + 1}, {length})"),
            one("text"),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        one("int").map(lambda of: (of[0].cast("string"), f"{of[1]}::VARCHAR")),
    )


def times(one):
    return st.one_of(
        st.builds(
            lambda unit, at: (at[0].truncate(unit), f"date_trunc('{unit}', {at[1]})"),
            st.sampled_from(UNITS),
            one("instant"),
        ),
        st.builds(
            lambda hours, at: (at[0].shift(timedelta(hours=hours)), f"({at[1]} + to_hours({hours}))"),
            st.integers(1, 5_000),
            one("instant"),
        ),
    )


def choices(kind, one):
    """Operations that every kind of value has."""
    both = st.tuples(one(kind), one(kind))
    found = [
        st.tuples(one("bool"), both).map(
            lambda of: (
                when(of[0][0]).then(of[1][0][0]).otherwise(of[1][1][0]),
                f"CASE WHEN {of[0][1]} THEN {of[1][0][1]} ELSE {of[1][1][1]} END",
            )
        ),
        both.map(lambda of: (coalesce(of[0][0], of[1][0]), f"coalesce({of[0][1]}, {of[1][1]})")),
    ]
    if kind in ("int", "float", "instant"):
        for name, ours in (("least", least), ("greatest", greatest)):
            found.append(
                both.map(
                    lambda of, name=name, ours=ours: (
                        ours(of[0][0], of[1][0]),
                        f"CASE WHEN {of[0][1]} IS NOT NULL AND {of[1][1]} IS NOT NULL "
                        f"THEN {name}({of[0][1]}, {of[1][1]}) END",
                    )
                )
            )
    return st.one_of(found)


OPERATIONS = {"int": ints, "float": floats, "bool": bools, "text": texts, "instant": times}


@cache
def trees(kind, depth):
    """An expression of a kind, and the SQL that means the same."""
    if depth == 0:
        return leaves(kind)

    def one(wanted):
        return st.deferred(lambda: trees(wanted, depth - 1))

    return st.one_of(leaves(kind), OPERATIONS[kind](one), OPERATIONS[kind](one), choices(kind, one))


def ask_judge(sql, dtype):
    """Return DuckDB's answer, brought to the dtype."""
    found = judge().sql(f"SELECT {sql} AS answer FROM rows ORDER BY row").to_arrow_table().column("answer")
    return found.combine_chunks().cast(pa.timestamp("us") if dtype == TIMESTAMP else dtype.arrow).cast(dtype.arrow)


@given(st.sampled_from(sorted(OPERATIONS)).flatmap(lambda kind: trees(kind, 3)))
@examples(400)
def test_expressions_give_what_sql_gives(tree):
    expression, sql = tree
    mistakes = []
    typed = infer(expression, SCOPE, mistakes.append, "view")
    assert mistakes == [], sql
    current = evaluate(typed, Environment(arrays(), ROWS))
    assert_same_values(reference=ask_judge(sql, typed.dtype).to_pylist(), current=current.to_pylist(), where=sql)
