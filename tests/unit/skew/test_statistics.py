"""Every statistic of a report equals what a plain computation says."""

import math
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from featurestore.core.dtypes import parse_dtype
from featurestore.guard.comparing.compare import Details, compare, completed, wilson
from tests.budget import examples

FLOATS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: value + 0.0)


def statistics_of(name, reference, current, *, pieces=1):
    """Compare columns without nulls, perhaps in pieces, and return the completed counts."""
    dtype = parse_dtype(name)
    counts, details = None, Details()
    for part in np.array_split(np.arange(len(reference)), pieces):
        found = compare(
            name="f",
            dtype=dtype,
            reference=pa.array([reference[i] for i in part], type=dtype.arrow),
            current=pa.array([current[i] for i in part], type=dtype.arrow),
            reference_statuses=np.zeros(len(part), dtype=np.uint8),
            current_statuses=np.zeros(len(part), dtype=np.uint8),
            is_stale=np.zeros(len(part), dtype=np.bool_),
        )
        counts = found.counts if counts is None else counts + found.counts
        details.add(found.details)
    return completed(counts, details, served=len(reference), is_sample=False)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=40), st.integers(1, 3))
@examples(150)
def test_differences_of_floats_equal_exact_arithmetic(pairs, pieces):
    found = statistics_of("float64", *zip(*pairs, strict=True), pieces=pieces).numbers
    apart = [(a, b) for a, b in pairs if a != b]
    if not apart:
        assert found is None
        return
    absolute = [abs(b - a) for a, b in apart]
    assert found.count == len(apart)
    assert found.largest_absolute == max(absolute)
    assert found.mean_absolute == pytest.approx(float(sum(map(Fraction, absolute)) / len(apart)), rel=1e-12)
    signed = float(sum(Fraction(b - a) for a, b in apart) / len(apart))
    assert found.mean_signed == pytest.approx(signed, rel=1e-9, abs=1e-9 * max(absolute))
    relative = [min(abs(b - a) / abs(a), sys.float_info.max) for a, b in apart if a != 0]
    if relative:
        assert found.largest_relative == pytest.approx(max(relative), rel=1e-12)
        mean = float(min(sum(map(Fraction, relative)), Fraction(sys.float_info.max)) / len(relative))
        assert found.mean_relative == pytest.approx(mean, rel=1e-9)
    else:
        assert found.largest_relative is found.mean_relative is None
    symmetric = [2 * abs(b - a) / (abs(a) + abs(b)) for a, b in apart]
    assert found.mean_symmetric == pytest.approx(sum(symmetric) / len(symmetric), rel=1e-9)
    ranked = sorted(absolute)
    for share, quantile in ((0.5, found.median), (0.9, found.p90), (0.99, found.p99)):
        assert quantile == pytest.approx(ranked[math.ceil(share * len(ranked)) - 1], rel=0.006)
    assert sum(part.pairs for part in found.histogram) == len(apart)
    edges = [part.up_to for part in found.histogram]
    assert edges == sorted(edges)
    for place, part in enumerate(found.histogram):
        below = edges[place - 1] if place else 0.0
        assert part.pairs == sum(below * (1 + 1e-12) < size <= part.up_to * (1 + 1e-12) for size in absolute)


@given(FLOATS, st.integers(1, 50), st.sampled_from((-math.inf, math.inf)))
@examples(100)
def test_ulp_distance_counts_the_steps_between_floats(value, steps, direction):
    other = value
    for _ in range(steps):
        other = math.nextafter(other, direction)
    assert statistics_of("float64", [value], [other + 0.0]).numbers.largest_ulp == steps


@pytest.mark.parametrize(
    ("name", "reference", "current", "largest"),
    [
        ("int64", [2**62, 5], [2**62 + 1, 5], 1.0),
        ("int64", [-(2**62)], [2**62], float(2**63)),
        ("decimal(30,2)", [Decimal("1e20"), Decimal("0")], [Decimal("1e20") + Decimal("0.01"), Decimal("0")], 0.01),
    ],
)
def test_differences_of_exact_numbers_are_exact(name, reference, current, largest):
    found = statistics_of(name, reference, current).numbers
    assert (found.count, found.largest_absolute, found.largest_ulp) == (1, largest, None)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_confusion_counts_pairs(pairs):
    found = statistics_of("string", *zip(*pairs, strict=True), pieces=2).confusion
    expected = {pair: pairs.count(pair) for pair in pairs if pair[0] != pair[1]}
    assert {(one.reference, one.current): one.rows for one in found} == expected
    assert [one.rows for one in found] == sorted((one.rows for one in found), reverse=True)


def edits(left, right):
    """The fewest insertions and deletions, by trying everything."""
    if not left or not right:
        return len(right), len(left)
    if left[0] == right[0]:
        return edits(left[1:], right[1:])
    inserted, deleted = edits(left, right[1:]), edits(left[1:], right)
    return min((inserted[0] + 1, inserted[1]), (deleted[0], deleted[1] + 1), key=sum)


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 2), max_size=5)] * 2), min_size=1, max_size=6))
@examples(60)
def test_lists_are_told_by_the_fewest_edits(pairs):
    found = statistics_of("list<int64>", *zip(*pairs, strict=True)).lists
    expected = [edits(left, right) for left, right in pairs if left != right]
    if not expected:
        assert found is None
        return
    assert (found.lists, found.inserted, found.deleted, found.largest_distance) == (
        len(expected),
        sum(one for one, _ in expected),
        sum(one for _, one in expected),
        max(map(sum, expected)),
    )


@given(st.integers(1, 10_000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_intervals_equal_scipy(counts):
    found = wilson(*counts)
    expected = stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
