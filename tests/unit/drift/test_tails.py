"""Tail probabilities equal published figures."""

import math

import pytest

from featurestore.guard.drift.measures import (
    chi_square_tail,
    gamma_tail,
    normal_score,
    normal_tail,
    threshold,
)


@pytest.mark.parametrize(
    ("freedom", "probability", "critical"),
    [(1, 0.05, 3.841), (1, 0.001, 10.828), (10, 0.05, 18.307), (19, 0.01, 36.191), (100, 0.05, 124.342)],
)
def test_chi_square_tables(freedom, probability, critical):
    """Critical values of the usual tables, such as Abramowitz and Stegun 26.8."""
    assert chi_square_tail(critical, freedom) == pytest.approx(probability, rel=1e-3)
    assert threshold(lambda x: chi_square_tail(x, freedom), probability) == pytest.approx(critical, abs=5.1e-4)


@pytest.mark.parametrize(("z", "probability"), [(1.644854, 0.1), (1.959964, 0.05), (2.575829, 0.01), (3.290527, 0.001)])
def test_normal_tables(z, probability):
    assert normal_tail(z) == normal_tail(-z) == pytest.approx(probability, rel=1e-5)
    assert normal_score(probability) == pytest.approx(z, abs=5.1e-7)


@pytest.mark.parametrize("x", [0.01, 0.5, 1.0, 3.0, 40.0, 700.0])
def test_gamma_tails_with_a_closed_form(x):
    """Shape 1 is the exponential distribution, shape 2 the sum of two such, shape 1/2 half the square of a normal."""
    assert gamma_tail(1.0, x) == pytest.approx(math.exp(-x), rel=1e-12)
    assert gamma_tail(2.0, x) == pytest.approx((1.0 + x) * math.exp(-x), rel=1e-12)
    assert gamma_tail(0.5, x) == pytest.approx(math.erfc(math.sqrt(x)), rel=1e-12)


def test_edges_of_the_range():
    assert (gamma_tail(2.0, -1.0), gamma_tail(2.0, 0.0), gamma_tail(2.0, math.inf)) == (1.0, 1.0, 0.0)
    assert chi_square_tail(5.0, 0) == 1.0
    assert normal_score(0.0) == normal_score(1e-300)


@pytest.mark.parametrize("probability", [0.5, 0.05, 1e-6])
def test_a_threshold_is_exceeded_with_its_probability(probability):
    bound = threshold(lambda x: chi_square_tail(x, 19), probability)
    assert chi_square_tail(bound, 19) == pytest.approx(probability, rel=1e-8)
