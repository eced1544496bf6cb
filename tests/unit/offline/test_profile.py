"""The profile's numbers are those of plain Python over the same values."""

import math
import random
import statistics
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import (
    BINARY,
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)
from featurestore.offline.profile import BIN_COUNT, TOP_COUNT, count_statuses, profile_column, profile_columns
from tests.budget import examples

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def profile(values, dtype, **options):
    return profile_column("f", pa.array(values, dtype.arrow), dtype, **options)


def counted(histogram, numbers):
    """Return the counts that plain Python finds in the histogram's bins."""
    edges = histogram.lower_edges
    return tuple(
        sum(low <= number and (i + 1 == len(edges) or number < edges[i + 1]) for number in numbers)
        for i, low in enumerate(edges)
    )


def check_numbers(found, values, numbers=None):
    known = [value for value in values if value is not None]
    numbers = known if numbers is None else numbers
    assert (found.row_count, found.null_count) == (len(values), len(values) - len(known))
    assert sum(found.histogram.counts) == len(known)
    assert found.histogram.counts == counted(found.histogram, numbers)
    assert found.histogram.lower_edges[0] == min(numbers)
    assert list(found.histogram.lower_edges) == sorted(set(found.histogram.lower_edges))
    assert len(found.histogram.lower_edges) <= BIN_COUNT


@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9).map(lambda value: value + 0.0)), max_size=200))
@examples(100)
def test_floats(values):
    known = [value for value in values if value is not None]
    found = profile(values, FLOAT64)
    if not known:
        assert found.histogram is found.mean is found.std is found.minimum is found.maximum is None
        return
    check_numbers(found, values)
    assert (found.minimum, found.maximum) == (min(known), max(known))
    assert found.mean == pytest.approx(float(sum(map(Fraction, known)) / len(known)), rel=1e-14, abs=1e-12)
    if len(known) == 1:
        assert found.std is None
    else:
        # Values that lie close together far from zero leave a deviation of few correct digits.
        noise = 1e-9 + 3e-8 * max(map(abs, known))
        assert found.std == pytest.approx(statistics.stdev(map(Fraction, known)), rel=1e-9, abs=noise)


@given(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5)), max_size=200))
@examples(100)
def test_integers_to_both_ends(values):
    known = [value for value in values if value is not None]
    found = profile(values, INT64)
    if known:
        check_numbers(found, values)
        assert (found.minimum, found.maximum) == (min(known), max(known))
        assert type(found.minimum) is int
        assert found.mean == pytest.approx(float(sum(map(Fraction, known)) / len(known)), rel=1e-12, abs=4096)


def test_floats_whose_sum_overflows_have_no_mean():
    found = profile([1e308, 1.7e308], FLOAT64)
    assert found.mean is None
    assert found.std is None
    assert (found.minimum, found.maximum) == (1e308, 1.7e308)


def test_decimals_are_profiled_as_floats():
    found = profile([Decimal("1.25"), None, Decimal("-3.75")], DType("decimal", precision=30, scale=2))
    assert (found.minimum, found.maximum, found.mean) == (-3.75, 1.25, -1.25)


def test_instants_and_dates_have_extremes_and_bins_and_no_mean():
    instants = [EPOCH + timedelta(days=day) for day in (3, 1, 2)]
    found = profile(instants, TIMESTAMP)
    assert (found.minimum, found.maximum) == ("1970-01-02T00:00:00Z", "1970-01-04T00:00:00Z")
    assert found.mean is found.std is None
    assert found.histogram.counts == counted(
        found.histogram, [(at - EPOCH) // timedelta(microseconds=1) for at in instants]
    )
    days = [date(2024, 5, 1), None, date(2024, 4, 1)]
    found = profile(days, DATE)
    assert (found.minimum, found.maximum) == ("2024-04-01", "2024-05-01")
    assert found.histogram.lower_edges == (19_814, 19_844)
    assert found.mean is None


@given(st.lists(st.one_of(st.none(), st.sampled_from("abcdefghijklmnopqrstuvwxyz"), st.just(""), st.just("ä"))))
@examples(50)
def test_strings_are_counted_most_frequent_first(values):
    counts = Counter(value for value in values if value is not None)
    found = profile(values, STRING)
    expected = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0].encode()))[:TOP_COUNT]
    assert [(top.value, top.count) for top in found.top] == expected
    assert found.distinct_count == (len(counts) or None)
    assert found.null_count == values.count(None)


def test_booleans_are_counted():
    found = profile([True, None, False, True], BOOL)
    assert [(top.value, top.count) for top in found.top] == [(True, 2), (False, 1)]
    assert found.distinct_count == 2


@pytest.mark.parametrize(("values", "dtype"), [([[1], None], list_of(INT64)), ([b"x", None], BINARY)])
def test_other_types_are_only_counted(values, dtype):
    found = profile(values, dtype)
    assert (found.row_count, found.null_count) == (2, 1)
    assert found.minimum is found.histogram is found.distinct_count is None
    assert found.top == ()


@pytest.mark.parametrize("dtype", [FLOAT64, STRING, list_of(INT64)])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_column_without_values_has_no_numbers(dtype, rows):
    found = profile([None] * rows, dtype, statuses={"NOT_FOUND": rows})
    assert (found.row_count, found.null_count, found.statuses) == (rows, rows, {"NOT_FOUND": rows})
    assert found.histogram is found.distinct_count is None


def test_one_value_has_one_bin():
    found = profile([2.5] * 100, FLOAT64)
    assert found.histogram.lower_edges == (2.5,)
    assert found.histogram.counts == (100,)
    assert found.std == 0.0


def test_bins_hold_about_equally_many_of_many_different_values():
    values = np.random.default_rng(1).normal(size=200_000)
    found = profile(values, FLOAT64)
    assert len(found.histogram.counts) == BIN_COUNT
    assert max(found.histogram.counts) < 1.1 * 200_000 / BIN_COUNT
    assert sum(found.histogram.counts) == 200_000
    assert found.mean == pytest.approx(math.fsum(values) / 200_000, rel=1e-15)


def test_chunks_and_threads_do_not_matter():
    chance = random.Random(5)
    columns = {
        "number": pa.array([chance.choice((None, chance.gauss(0, 1e6))) for _ in range(5_000)]),
        "whole": pa.array([chance.choice((None, chance.randrange(100))) for _ in range(5_000)]),
        "text": pa.array([chance.choice((None, "a", "b", "c")) for _ in range(5_000)]),
    }
    dtypes = {"number": FLOAT64, "whole": INT64, "text": STRING}
    chunked = {
        name: pa.chunked_array([column.slice(at, 700) for at in range(0, 5_000, 700)])
        for name, column in columns.items()
    }
    reference = profile_columns(columns, dtypes, {}, threads=1)
    assert [found.name for found in reference] == list(columns)
    assert profile_columns(chunked, dtypes, {}, threads=3) == reference


def test_statuses_are_counted_by_name():
    assert count_statuses(np.array([0, 2, 2, 3], np.uint8)) == {"PRESENT": 1, "NOT_FOUND": 2, "EXPIRED": 1}
    assert count_statuses(np.zeros(0, np.uint8)) == {}
