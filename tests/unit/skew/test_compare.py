"""The comparison says equal exactly when values and statuses are equal, and its counts add up."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import parse_dtype
from featurestore.core.statuses import NOT_LOGGED
from featurestore.guard.comparing.compare import FeatureCounts, compare

UTC = dt.UTC
VALUES = {
    "bool": st.booleans(),
    "int64": st.integers(-3, 3),
    "float64": st.sampled_from([0.0, 0.1, 0.1 + 2**-56, 1e308, 5e-324]),
    "string": st.sampled_from(["", "a", "b"]),
    "timestamp": st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2020, 1, 2), timezones=st.just(UTC)),
    "date": st.dates(dt.date(2020, 1, 1), dt.date(2020, 1, 3)),
    "binary": st.sampled_from([b"", b"x"]),
    "decimal(10,2)": st.sampled_from([Decimal("1.00"), Decimal("1.01")]),
    "list<int64>": st.lists(st.integers(0, 1), max_size=2),
}


@st.composite
def columns(draw, name):
    """Return values and statuses; null where the status is not PRESENT."""
    rows = draw(st.lists(st.tuples(VALUES[name], st.sampled_from([0, 0, 1, 2, 3])), max_size=12))
    return [value if status == 0 else None for value, status in rows], [status for _, status in rows]


def compared(name, reference, current, is_stale=None):
    dtype = parse_dtype(name)
    rows = len(reference[0])
    return compare(
        name="f",
        dtype=dtype,
        reference=pa.array(reference[0], type=dtype.arrow),
        current=pa.array(current[0], type=dtype.arrow),
        reference_statuses=np.array(reference[1], dtype=np.uint8),
        current_statuses=np.array(current[1], dtype=np.uint8),
        is_stale=np.zeros(rows, dtype=np.bool_) if is_stale is None else np.array(is_stale),
    )


@pytest.mark.parametrize("name", VALUES)
def test_equal_columns_are_equal(name):
    @given(columns(name))
    def check(column):
        counts = compared(name, column, column).counts
        assert counts.different == 0
        assert counts.equal + counts.both_null == counts.compared == len(column[0])

    check()


@pytest.mark.parametrize("name", VALUES)
def test_a_row_differs_exactly_if_value_or_status_does(name):
    @given(columns(name), columns(name))
    def check(left, right):
        rows = min(len(left[0]), len(right[0]))
        left, right = ([part[:rows] for part in column] for column in (left, right))
        found = compared(name, left, right)
        expected = [(a, s) != (b, t) for a, s, b, t in zip(left[0], left[1], right[0], right[1], strict=True)]
        assert found.differs.tolist() == expected
        counts = found.counts
        assert counts.compared == rows
        assert counts.different == sum(expected)
        assert sum(counts.status_pairs.values()) == rows

    check()


def test_one_bit_is_a_difference():
    found = compared("float64", ([0.1], [0]), ([np.nextafter(0.1, 1)], [0]))
    assert found.counts.mismatch == 1
    assert found.counts.largest_difference == np.nextafter(0.1, 1) - 0.1


def test_nulls_for_different_reasons_differ():
    counts = compared("int64", ([None, None], [1, 2]), ([None, None], [2, 2])).counts
    assert (counts.mismatch, counts.both_null) == (1, 1)
    assert counts.status_pairs == {"NOT_FOUND/NOT_FOUND": 1, "NULL/NOT_FOUND": 1}


def test_counts_of_pieces_add_up_to_the_whole():
    left, right = ([1, 2, None, 4], [0, 0, 1, 0]), ([1, 3, 5, None], [0, 0, 0, 1])
    whole = compared("int64", left, right, [False, True, False, True]).counts
    pieces = [
        compared("int64", *[[part[at : at + 2] for part in side] for side in (left, right)], stale).counts
        for at, stale in ((0, [False, True]), (2, [False, True]))
    ]
    assert pieces[0] + pieces[1] == whole
    assert isinstance(whole, FeatureCounts)
    assert (whole.only_in_reference, whole.only_in_current, whole.mismatch, whole.equal) == (1, 1, 1, 1)
    assert whole.of_stale_views == 2


def test_what_is_no_value_differs_from_every_value_and_from_null():
    found = compare(
        name="f",
        dtype=parse_dtype("int64"),
        reference=pa.array([1, None, 2]),
        current=pa.array([None, None, 2], pa.int64()),
        reference_statuses=np.array([0, 2, 0], dtype=np.uint8),
        current_statuses=np.full(3, NOT_LOGGED, dtype=np.uint8),
        is_stale=np.zeros(3, dtype=np.bool_),
        unread=np.array([True, True, False]),
    )
    assert found.differs.tolist() == [True, True, False]
    assert (found.counts.mismatch, found.counts.only_in_current, found.counts.equal) == (1, 1, 1)
    assert found.size.tolist() == [np.inf, np.inf, 0.0]


def test_lists_that_one_road_has_are_insertions_and_deletions():
    reference = ([[1, 2], None, [3], None], [0, 1, 0, 1])
    current = ([None, [4, 5, 6], [3], []], [1, 0, 0, 0])
    found = compared("list<int64>", reference, current).details.lists.summary()
    assert (found.lists, found.inserted, found.deleted, found.largest_distance) == (3, 3, 2, 3)
