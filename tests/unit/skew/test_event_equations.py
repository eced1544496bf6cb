"""Events that are missing are read from the differences between counts, sums and means."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.guard.causes.event_equations import EventEquations

EVENTS = 40
NEWER = 25
"""First event of the shorter of two windows."""


def equations_of(amounts: list[float], gone: list[int], *, with_counts: bool = True) -> EventEquations:
    """Return the equations of a count and a sum over two nested windows that lack some events."""
    columns, since = [], []
    for first in (0, NEWER):
        inside = np.arange(len(amounts)) >= first
        columns += [np.where(inside, 1.0, 0.0)] if with_counts else []
        columns += [np.where(inside, amounts, 0.0)]
        since += [first] * (1 + with_counts)
    table = np.column_stack(columns)
    return EventEquations(table, np.array(since), table[gone].sum(axis=0), np.full(len(since), 1e-9))


NOTHING = np.zeros(0, dtype=np.int64)


def solved(equations: EventEquations) -> list[list[int]]:
    return [sorted(chosen.tolist()) for chosen in equations.solutions(NOTHING)]


@given(
    st.lists(st.floats(1.0, 1000.0), min_size=EVENTS, max_size=EVENTS, unique=True),
    st.sets(st.integers(0, NEWER - 1), max_size=4),
    st.sets(st.integers(NEWER, EVENTS - 1), max_size=4),
    st.booleans(),
)
def test_up_to_four_missing_events_of_each_window_are_found(amounts, older, newer, with_counts):
    gone = sorted(older | newer)
    found = equations_of(amounts, gone, with_counts=with_counts)
    sets = solved(found)
    assert sets
    if with_counts:
        assert all(len(chosen) == len(gone) for chosen in sets)
    for chosen in sets:
        assert np.allclose(found.columns[chosen].sum(axis=0), found.wanted, atol=1e-6)


def test_the_events_themselves_are_found_where_amounts_tell_them_apart():
    amounts = np.random.default_rng(3).normal(50.0, 20.0, EVENTS).tolist()
    for gone in ([7], [30], [2, 11, 30], [1, 8, 19, 26, 33, 38]):
        assert solved(equations_of(amounts, gone)) == [gone]
        assert solved(equations_of(amounts, gone, with_counts=False)) == [gone]


def test_a_longer_run_of_neighbours_is_found():
    amounts = np.random.default_rng(4).normal(50.0, 20.0, EVENTS).tolist()
    gone = list(range(26, 36))
    assert solved(equations_of(amounts, gone)) == [gone]
    assert solved(equations_of(amounts, gone, with_counts=False)) == [gone]


def test_a_count_alone_gives_any_event_of_its_window_the_newest_first():
    found = EventEquations(np.ones((5, 1)), np.array([0]), np.array([1.0]), np.array([0.0]))
    assert solved(found) == [[4], [3], [2], [1], [0]]


@pytest.mark.parametrize("wanted", [-1.0, 0.5, 7.0])
def test_what_no_events_add_up_to_has_no_solution(wanted):
    found = EventEquations(np.ones((5, 1)), np.array([0]), np.array([wanted]), np.array([0.0]))
    assert solved(found) == []


def test_nothing_is_sought_where_nothing_differs():
    assert solved(equations_of([1.0] * EVENTS, [])) == [[]]
