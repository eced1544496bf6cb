"""Bins are of about equal weight, never too many, and no frequent value hides the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.offline.profile import place_edges
from tests.budget import examples


def weights(values, edges):
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) / len(values)


@given(st.lists(st.integers(-5, 60), min_size=1, max_size=300), st.integers(2, 40))
@examples(200)
def test_edges_ascend_begin_with_the_smallest_and_are_not_too_many(values, wanted):
    ordered = np.sort(np.array(values, dtype=np.int64))
    edges = place_edges(ordered, wanted)
    assert edges.dtype == np.int64
    assert edges[0] == ordered[0]
    assert (np.diff(edges) > 0).all()
    assert len(edges) <= wanted


@pytest.mark.parametrize("wanted", [20, 512])
def test_different_values_are_cut_evenly(wanted):
    values = np.sort(np.random.default_rng(1).normal(size=30_000))
    found = weights(values, place_edges(values, wanted))
    assert len(found) == wanted + 1
    assert found[1:].max() < 1.1 / wanted


def test_few_values_have_a_bin_each_also_rare_ones():
    values = np.sort(np.array([0.0] * 9_990 + [1.0] * 7 + [5.0] * 3))
    assert place_edges(values, 20).tolist() == [0.0, 1.0, 5.0]


def test_mostly_zeros_leave_bins_for_the_rest():
    random = np.random.default_rng(2)
    values = np.sort(np.where(random.uniform(size=20_000) < 0.8, 0.0, random.normal(size=20_000)))
    edges = place_edges(values, 20)
    found = weights(values, edges)
    assert found.max() == pytest.approx(0.8, abs=0.01)
    assert np.sort(found)[-2] < 0.09
