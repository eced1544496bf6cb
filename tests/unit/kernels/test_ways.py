"""How a group of features is folded: the choice of the way, and the kernels that are compiled for it."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import types
from numba.core.errors import TypingError

from featurestore.kernels.jit import IndirectCall, jit
from featurestore.kernels.program import (
    EXTREME,
    FEATURE_WINDOW,
    GROUP_BEGIN,
    GROUP_END,
    GROUP_KIND,
    HOLISTIC,
    ORDERED,
    Program,
)
from featurestore.kernels.ways import LATE, PASSES, SCAN, SWEEP, bind_kernels, choose_way, is_always_scanned


def features_over(*windows):
    """Return rows of a program, one feature per window."""
    features = np.zeros((len(windows), 6), dtype=np.int64)
    features[:, FEATURE_WINDOW] = windows
    return features


def edges_of(begins, ends):
    """Return the edges of queries, of which every window begins at the same event."""
    return np.array([begins, ends], dtype=np.int64)


def test_few_queries_are_scanned():
    edges = edges_of([0, 0, 0, 0], [100, 100, 100, 100])
    assert choose_way(False, edges, features_over(0)) == SCAN
    assert choose_way(True, edges, features_over(0)) == SCAN


def test_many_queries_about_long_windows_are_swept_unless_events_come_late():
    edges = edges_of([0] * 9, [100] * 9)
    assert choose_way(False, edges, features_over(0)) == SWEEP
    assert choose_way(True, edges, features_over(0)) == LATE


def test_many_queries_about_short_windows_are_scanned():
    ends = np.arange(2, 102)
    assert choose_way(False, edges_of(ends - 2, ends), features_over(0)) == SCAN


def test_features_that_share_a_window_count_once():
    edges = edges_of([0] * 4, [100] * 4)
    assert choose_way(False, edges, features_over(0, 0, 0)) == SCAN


@given(st.lists(st.integers(0, PASSES - 1), min_size=1, max_size=12), st.integers(0, 10_000), st.data())
def test_one_query_about_few_windows_is_always_scanned(windows, events, data):
    """So the kernels of all other ways need not exist where an entity has one query."""
    features = features_over(*sorted(windows))
    begins = [data.draw(st.integers(0, events)) for _ in range(PASSES)]
    edges = np.array([[begin] for begin in [*begins, events]], dtype=np.int64)
    assert is_always_scanned(features)
    assert choose_way(data.draw(st.booleans()), edges, features) == SCAN


def test_more_windows_may_be_swept_for_one_query():
    features = features_over(*range(PASSES + 1))
    edges = np.array([[0]] * (PASSES + 1) + [[1_000]], dtype=np.int64)
    assert not is_always_scanned(features)
    assert choose_way(False, edges, features) == SWEEP


def program_of(kind, *windows):
    group = np.zeros((1, 7), dtype=np.int64)
    group[0, [GROUP_KIND, GROUP_BEGIN, GROUP_END]] = kind, 0, len(windows)
    return Program(np.zeros((len(windows), 2), dtype=np.int64), group, features_over(*windows), (), 0)


@pytest.mark.parametrize("kind", [EXTREME, ORDERED, HOLISTIC])
def test_kernels_that_cannot_be_called_are_not_compiled(kind):
    few = bind_kernels(program_of(kind, 0), has_one_query=True).folds
    assert (few[0] != 0).tolist() == [True, False, False]
    many = bind_kernels(program_of(kind, *range(PASSES + 1)), has_one_query=True).folds
    assert many.all()
    assert bind_kernels(program_of(kind, 0)).folds.all()


CALL = IndirectCall(types.float64(types.int64, types.float64))
_call = CALL.call


@jit
def _plus(left, right):
    return left + right


@jit
def _divided(left, right):
    return left / right


@jit
def _by_address(address, left, right):
    return _call(address, (left, right))


def test_a_kernel_is_called_by_its_address():
    assert CALL.address_of(_plus) == CALL.address_of(_plus) != CALL.address_of(_divided)
    assert _by_address(CALL.address_of(_plus), 3, 0.5) == 3.5
    assert _by_address(CALL.address_of(_divided), 3, 0.5) == 6.0


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_a_call_by_address_with_other_types_does_not_compile():
    with pytest.raises(TypingError, match="is called with"):
        _by_address(CALL.address_of(_plus), 3.5, 0.5)
