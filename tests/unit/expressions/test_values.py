"""What each operation gives, with nulls and at its edges."""

import datetime as dt
import math
from decimal import Decimal

import pyarrow as pa
import pytest

from featurestore.definitions.expr import coalesce, concat, greatest, least, lit, when
from tests.unit.expressions.world import LARGEST, SMALLEST, UTC, B, D, I, J, M, S, T, X, values_of

NEW_YORK = "America/New_York"


def at(*parts):
    return dt.datetime(*parts, tzinfo=UTC)


CASES = {
    "integer overflow gives null": (I + J, [4, -2, None, None, None, None]),
    "products overflow to null": (I * 2, [2, -4, None, None, None, 0]),
    "differences overflow to null": (I - J, [-2, -2, None, LARGEST - 1, SMALLEST + 1, None]),
    "the smallest integer has no negative": (-I, [-1, 2, None, -LARGEST, None, 0]),
    "the smallest integer has no absolute value": (I.abs(), [1, 2, None, LARGEST, None, 0]),
    "division is float": (I / J, [1 / 3, None, None, 2.0**63, 2.0**63, None]),
    "whole division rounds down": (I // J, [0, None, None, LARGEST, None, None]),
    "the rest has the sign of the divisor": (I % J, [1, None, None, 0, 0, None]),
    "whole division of floats": (X // 0.5, [3.0, -5.0, None, None, -1.0, 0.0]),
    "rest of floats": (X % 1.0, [0.5, 0.5, None, 0.0, 0.5, 0.0]),
    "float overflow gives null": (X * 10, [15.0, -25.0, None, None, -5.0, 0.0]),
    "integers meet floats as floats": (X + I, [2.5, -4.5, None, 1e308, -(2.0**63), 0.0]),
    "powers": (X**2, [2.25, 6.25, None, None, 0.25, 0.0]),
    "signs": (I.sign(), [1, -1, None, 1, -1, 0]),
    "floor": (X.floor(), [1.0, -3.0, None, 1e308, -1.0, 0.0]),
    "ceil has no negative zero": (X.ceil(), [2.0, -2.0, None, 1e308, 0.0, 0.0]),
    "halves round to even": (X.round(), [2.0, -2.0, None, 1e308, 0.0, 0.0]),
    "rounding keeps large floats": (X.round(1), [1.5, -2.5, None, 1e308, -0.5, 0.0]),
    "rounding integers to tens": (I.round(-1), [0, 0, None, None, None, 0]),
    "the logarithm of what has none is null": (
        X.log(),
        [math.log(1.5), None, None, math.log(1e308), None, None],
    ),
    "roots of negatives are null": (X.sqrt(), [math.sqrt(1.5), None, None, 1e154, None, 0.0]),
    "arc sines out of range are null": (X.asin(), [None, None, None, None, math.asin(-0.5), 0.0]),
    "exponentials overflow to null": (X.exp(), [math.exp(1.5), math.exp(-2.5), None, None, math.exp(-0.5), 1.0]),
    "decimals add exactly": (M + M, [Decimal("2.50"), Decimal("-7.00"), None, Decimal(0), Decimal("199999999.98"), 2]),
    "decimals meet integers": (M - 1, [Decimal("0.25"), Decimal("-4.50"), None, -1, Decimal("99999998.99"), 0]),
    "decimals compare": (M > 1, [True, False, None, False, True, False]),
    "comparison with null is null": (I == J, [False, False, None, False, False, None]),
    "and is three-valued": (B & (I > 0), [True, False, None, True, False, False]),
    "or is three-valued": (B | (I > 0), [True, False, None, True, False, None]),
    "not keeps null": (~B, [False, True, None, False, True, None]),
    "is_in keeps null": (I.is_in([1, 0]), [True, False, None, False, False, True]),
    "between has both edges": (I.between(0, 1), [True, False, None, False, False, True]),
    "is_null is never null": (I.is_null(), [False, False, True, False, False, False]),
    "null conditions are not true": (when(B, "p").otherwise("q"), ["p", "q", "q", "p", "q", "q"]),
    "conditions are asked in order": (
        when(I > 0, "p").when(I < 0).then("n").otherwise("z"),
        ["p", "n", "z", "p", "n", "z"],
    ),
    "without otherwise the rest is null": (when(J > 0, J), [3, None, 1, 1, None, None]),
    "branches meet in one dtype": (when(I > 0).then(X).otherwise(0), [1.5, 0.0, 0.0, 1e308, 0.0, 0.0]),
    "coalesce": (coalesce(J, 7), [3, 0, 1, 1, -1, 7]),
    "fill_null": (J.fill_null(I), [3, 0, 1, 1, -1, 0]),
    "least of a null is null": (least(I, J), [1, -2, None, 1, SMALLEST, None]),
    "least of instants": (
        least(T, lit(at(1980, 1, 1))),
        [at(1980, 1, 1), at(1980, 1, 1), None, at(1969, 12, 31, 23, 59, 59, 999999), at(1980, 1, 1), at(1980, 1, 1)],
    ),
    "greatest": (greatest(X, 0.25), [1.5, 0.25, None, 1e308, 0.25, 0.25]),
    "floats cut towards zero": (X.cast("int64"), [1, -2, None, None, 0, 0]),
    "text that is no number is null": (S.cast("int64"), [None, None, None, None, 12, None]),
    "text to float": (S.cast("float64"), [None, None, None, None, 12.0, None]),
    "bool to int": (B.cast("int64"), [1, 0, None, 1, 0, None]),
    "decimals round half to even": (M.cast("decimal(4,1)"), [Decimal("1.2"), Decimal("-3.5"), None, 0, None, 1]),
    "decimal to float": (M.cast("float64"), [1.25, -3.5, None, 0.0, 99999999.99, 1.0]),
    "instants to dates": (
        T.cast("date"),
        [
            dt.date(2013, 3, 10),
            dt.date(2013, 11, 3),
            None,
            dt.date(1969, 12, 31),
            dt.date(2013, 11, 3),
            dt.date(2016, 2, 29),
        ],
    ),
    "lower": (S.lower(), ["ab", "", None, " x ", "12", "été"]),
    "upper": (S.upper(), ["AB", "", None, " X ", "12", "ÉTÉ"]),
    "strip": (S.strip(), ["Ab", "", None, "x", "12", "été"]),
    "length counts characters": (S.length(), [2, 0, None, 3, 2, 3]),
    "contains": (S.contains("b"), [True, False, None, False, False, False]),
    "starts_with": (S.starts_with("A"), [True, False, None, False, False, False]),
    "ends_with": (S.ends_with("2"), [False, False, None, False, True, False]),
    "regexp_matches": (S.regexp_matches("^[0-9]+$"), [False, False, None, False, True, False]),
    "replace": (S.replace("b", "cc"), ["Acc", "", None, " x ", "12", "été"]),
    "substring counts from zero": (S.substring(1, 1), ["b", "", None, "x", "2", "t"]),
    "concat of a null is null": (concat(S, "-"), ["Ab-", "-", None, " x -", "12-", "été-"]),
    "hours of UTC": (T.hour(), [7, 5, None, 23, 6, 0]),
    "hours where clocks change": (T.hour(NEW_YORK), [3, 1, None, 18, 1, 19]),
    "in_zone names the zone of parts": (T.in_zone(NEW_YORK).day(), [10, 3, None, 31, 3, 28]),
    "microseconds of the second": (T.microsecond(), [0, 5, None, 999999, 0, 0]),
    "Monday is 0": (T.day_of_week(), [6, 6, None, 2, 6, 0]),
    "day_of_year": (T.day_of_year(), [69, 307, None, 365, 307, 60]),
    "is_weekend": (T.is_weekend(NEW_YORK), [True, True, None, False, True, True]),
    "parts of dates": (D.year(), [2013, 1, None, 2020, 1970, None]),
    "an hour that happens twice stays two": (
        T.truncate("hour", NEW_YORK),
        [
            at(2013, 3, 10, 7),
            at(2013, 11, 3, 5),
            None,
            at(1969, 12, 31, 23),
            at(2013, 11, 3, 6),
            at(2016, 2, 29),
        ],
    ),
    "days begin at local midnight": (
        T.truncate("day", NEW_YORK),
        [
            at(2013, 3, 10, 5),
            at(2013, 11, 3, 4),
            None,
            at(1969, 12, 31, 5),
            at(2013, 11, 3, 4),
            at(2016, 2, 28, 5),
        ],
    ),
    "since counts in a unit": (T.since(T.shift("90m"), "hour"), [-1.5, -1.5, None, -1.5, -1.5, -1.5]),
    "a day ago": (
        (T + dt.timedelta(days=-1)).since(T, "d"),
        [-1.0, -1.0, None, -1.0, -1.0, -1.0],
    ),
    "buckets of numbers": (X.bucketize([-1, 0, 1]), [3, 0, None, 3, 1, 2]),
    "hashes of integers are the same everywhere": (I.hash_bucket(10), [8, 0, None, 2, 5, 3]),
    "hashes of text are the same everywhere": (S.hash_bucket(10), [2, 3, None, 5, 6, 8]),
    "constants fill all rows": (lit(3) + lit(4), [7] * 6),
}


@pytest.mark.parametrize("name", CASES)
def test_operation(name):
    expression, expected = CASES[name]
    assert values_of(expression) == expected


@pytest.mark.parametrize("name", CASES)
def test_rows_do_not_depend_on_their_neighbours(name):
    from tests.unit.expressions.world import ARRAYS

    expression, expected = CASES[name]
    single = [
        values_of(expression, {column: array.slice(row, 1) for column, array in ARRAYS.items()})[0] for row in range(6)
    ]
    assert single == expected


@pytest.mark.parametrize("name", CASES)
def test_no_rows_give_no_rows(name):
    from tests.unit.expressions.world import ARRAYS

    assert values_of(CASES[name][0], {column: pa.array([], array.type) for column, array in ARRAYS.items()}) == []


@pytest.mark.parametrize("column", [I, J, X, S, B, D, T, M], ids=str)
def test_many_constants_are_found_as_few_are(column):
    """From some number of constants on they are looked up in a hash set: the answer is the same, null for null."""
    known = [value for value in values_of(column) if value is not None]
    for constants in (known[:1], known[:2], known):
        few = values_of(column.is_in(constants))
        assert few == [None if value is None else value in constants for value in values_of(column)]
        assert values_of(column.is_in(constants * 10)) == few


def test_many_integers_are_found_among_floats_and_decimals():
    numbers = list(range(-20, 20))
    assert values_of(X.is_in(numbers)) == [None if value is None else value in numbers for value in values_of(X)]
    assert values_of(M.is_in(numbers)) == [None if value is None else value in numbers for value in values_of(M)]


def test_a_column_among_many_constants_is_compared_too():
    assert values_of(I.is_in([*range(20, 40), J])) == values_of(I == J)
