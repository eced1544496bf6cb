"""Tail probabilities equal scipy's."""

import math

import pytest
from scipy import special, stats

from featurestore.guard.drift.special import (
    chi_square_tail,
    gamma_tail,
    kolmogorov_tail,
    normal_tail,
    threshold,
)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.5, 9.5, 100.0, 5000.0, 32768.0])
@pytest.mark.parametrize("times", [0.01, 0.5, 0.9, 1.0, 1.1, 1.5, 3.0, 20.0])
def test_gamma(shape, times):
    assert gamma_tail(shape, shape * times) == pytest.approx(
        special.gammaincc(shape, shape * times), rel=1e-9, abs=1e-14
    )


@pytest.mark.parametrize("freedom", [1, 2, 19, 500])
@pytest.mark.parametrize("x", [0.0, 1e-9, 1.0, 10.0, 600.0, 5000.0])
def test_chi_square(freedom, x):
    assert chi_square_tail(x, freedom) == pytest.approx(stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("x", [0.0, 0.05, 0.2, 0.5, 1.0, 1.17999, 1.18, 1.36, 2.0, 5.0])
def test_kolmogorov(x):
    assert kolmogorov_tail(x) == pytest.approx(special.kolmogorov(x), rel=1e-10, abs=1e-14)


@pytest.mark.parametrize("z", [0.0, 0.5, -1.96, 3.0, 10.0])
def test_normal(z):
    assert normal_tail(z) == pytest.approx(2 * stats.norm.sf(abs(z)), rel=1e-12)


def test_edges_of_the_range():
    assert (gamma_tail(2.0, -1.0), gamma_tail(2.0, 0.0), gamma_tail(2.0, math.inf)) == (1.0, 1.0, 0.0)
    assert chi_square_tail(5.0, 0) == 1.0


@pytest.mark.parametrize("probability", [0.5, 0.05, 1e-6])
def test_a_threshold_is_exceeded_with_its_probability(probability):
    found = threshold(lambda x: chi_square_tail(x, 19), probability)
    assert found == pytest.approx(stats.chi2.isf(probability, 19), rel=1e-9)
