"""Steps of a run: how a source is cut, and that nothing lies between two of them."""

from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.online.filling import reading
from featurestore.online.filling.reading import Reader
from tests.unit.online.stores import plan_of, view_of

END = 1_000
PLAN = plan_of(view_of([("a", 1, 1, 1.0, "x")]))


class Tables:
    """Events in tables, of which only the instants count at which they became known."""

    ingest_column = "known"
    files = ()

    def __init__(self, tables):
        self._tables = [pa.array(times, pa.int64()).cast(pa.timestamp("us", tz="UTC")) for times in tables]

    def each(self, columns, work, *, ingest=None):
        assert columns == ["known"]
        assert ingest == (0, END)
        return [work(pa.table({"known": times})) for times in self._tables]


@pytest.fixture(autouse=True, scope="module")
def every_instant_is_sampled():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_SAMPLED", 1)
        yield


def bounds_of(tables, events_at_once):
    steps = Reader(PLAN, Tables(tables), events_at_once).steps(0, END)
    assert sum(step.events for step in steps) == pytest.approx(sum(map(len, tables)), abs=len(steps))
    return [steps[0].begin, *(step.end for step in steps)]


def test_a_step_begins_where_a_table_does_if_one_begins_near():
    tables = [range(start, start + 10) for start in (0, 10, 20, 30, 40)]
    assert bounds_of(tables, 22) == [0, 20, 30, END]
    assert bounds_of(tables[::-1], 22) == [0, 20, 30, END], "whatever the order of the tables"


def test_a_step_cuts_a_table_if_none_begins_near():
    assert bounds_of([range(100)], 25) == [0, 25, 50, 75, END]
    assert bounds_of([range(5), range(5, 100)], 50) == [0, 50, END]


def test_where_another_table_lies_across_a_table_does_not_begin_for_a_step():
    assert bounds_of([range(0, 40, 2), range(1, 41, 2), range(41, 81)], 41) == [0, 41, END]
    assert bounds_of([range(0, 40, 2), range(1, 60, 2), range(43, 73)], 41) == [0, 41, END]


def test_no_events_are_one_step():
    assert bounds_of([], 10) == bounds_of([[]], 10) == [0, END]


@given(st.lists(st.lists(st.integers(0, END - 1), max_size=30), max_size=6), st.integers(1, 40))
def test_steps_follow_each_other_and_are_not_much_too_large(tables, events_at_once):
    bounds = bounds_of(tables, events_at_once)
    assert (bounds[0], bounds[-1]) == (0, END)
    assert all(low < high for low, high in pairwise(bounds))
    times = sorted(time for table in tables for time in table)
    for low, high in pairwise(bounds):
        inside = [time for time in times if low <= time < high]
        most_alike = max((inside.count(time) for time in inside), default=0)
        assert len(inside) <= 1.5 * events_at_once + 2 * most_alike
