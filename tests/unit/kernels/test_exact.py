"""Sums are those of unlimited precision, rounded once."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featurestore.kernels import exact

FLOATS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([5e-324, -5e-324, 2.2250738585072014e-308, 1e16, -1e16, 1.0, 0.1, 1.7976931348623157e308]),
).map(lambda value: value + 0.0)
WHOLES = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3))


def to_words(values):
    if isinstance(values[0], float):
        return np.array(values, dtype=np.float64).view(np.int64), True
    return np.array(values, dtype=np.int64), False


def limbs_of(values):
    """Return the limbs of sum and sum of squares and how they are laid out."""
    words, is_float = to_words(values)
    positions = [exact.position_of(int(word), is_float) for word in words if word != 0] or [0]
    base = min(positions) >> 5
    value_limbs = (max(positions) >> 5) - base + exact.VALUE_LIMBS
    square_limbs = (2 * max(positions) >> 5) - 2 * base + exact.SQUARE_LIMBS
    limbs = np.zeros(value_limbs + square_limbs, dtype=np.int64)
    for word in words:
        if word != 0:
            exact.add_value(limbs, 0, int(word), is_float, base)
            exact.add_square(limbs, value_limbs, int(word), is_float, base)
    return limbs, value_limbs, square_limbs, is_float, base


def nearest(value: Fraction) -> float:
    """Python's division of integers rounds correctly."""
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def nearest_root(value: Fraction) -> float:
    """Scale to a root of at least 100 bits; a rest below it breaks ties upwards."""
    if value == 0:
        return 0.0
    scale = (240 - value.numerator.bit_length() + value.denominator.bit_length()) // 2 * 2
    scaled = value * Fraction(2) ** scale
    root = Fraction(math.isqrt(scaled.numerator // scaled.denominator))
    rest = Fraction(0) if root**2 == scaled else Fraction(1, 3)
    return nearest((root + rest) / Fraction(2) ** (scale // 2))


def sum_of(values):
    limbs, count, _, is_float, base = limbs_of(values)
    return exact.round_sum(limbs, 0, count, is_float, base, np.empty(len(limbs) + 8, dtype=np.int64))


def spread_of(values, ddof, *, is_root):
    limbs, value_limbs, square_limbs, is_float, base = limbs_of(values)
    digits = np.empty(len(limbs) + 8, dtype=np.int64)
    return exact.round_variance(limbs, 0, value_limbs, square_limbs, is_float, base, len(values), ddof, is_root, digits)


@given(st.lists(FLOATS, min_size=1, max_size=30))
def test_a_float_sum_is_that_of_unlimited_precision(values):
    assert sum_of(values) == nearest(sum(map(Fraction, values)))


def test_a_float_sum_equals_fsum():
    values = [0.1] * 10 + [1e16, 1.0, -1e16, 5e-324]
    assert sum_of(values) == math.fsum(values)


@given(st.lists(WHOLES, min_size=1, max_size=30))
def test_an_integer_sum_is_exact_even_beyond_64_bits(values):
    limbs, *_ = limbs_of(values)
    low, high = exact.whole_sum(limbs, 0)
    assert (high << 64) + (low & (2**64 - 1)) == sum(values)


@given(
    st.one_of(st.lists(FLOATS, min_size=2, max_size=12), st.lists(WHOLES, min_size=2, max_size=12)), st.integers(0, 1)
)
@settings(max_examples=300)
def test_variance_and_deviation_are_rounded_once(values, ddof):
    numbers = list(map(Fraction, values))
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / (len(numbers) - ddof)
    assert spread_of(values, ddof, is_root=False) == nearest(variance)
    assert spread_of(values, ddof, is_root=True) == nearest_root(variance)


@pytest.mark.parametrize("value", [0.1, 1e300, 5e-324, 12345.678])
def test_equal_values_have_no_variance(value):
    assert spread_of([value] * 7, 1, is_root=False) == 0.0


@given(st.lists(FLOATS, min_size=1, max_size=20), st.data())
def test_taking_values_out_again_leaves_the_sum_of_the_rest(values, data):
    kept = data.draw(st.integers(0, len(values) - 1))
    limbs, count, _, is_float, base = limbs_of(values)
    removed = np.zeros_like(limbs)
    for word in to_words(values)[0][kept + 1 :]:
        if word != 0:
            exact.add_value(removed, 0, int(word), is_float, base)
    rest = limbs - removed
    digits = np.empty(len(limbs) + 8, dtype=np.int64)
    assert exact.round_sum(rest, 0, count, is_float, base, digits) == nearest(sum(map(Fraction, values[: kept + 1])))


def mean_of(values):
    limbs, count, _, is_float, base = limbs_of(values)
    return exact.round_mean(limbs, 0, count, is_float, base, len(values), np.empty(len(limbs) + 8, dtype=np.int64))


@given(st.one_of(st.lists(FLOATS, min_size=1, max_size=40), st.lists(WHOLES, min_size=1, max_size=40)))
@settings(max_examples=500)
def test_a_mean_is_rounded_once(values):
    assert mean_of(values) == nearest(sum(map(Fraction, values)) / len(values))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([10**16 + 7, 0, 0, 0, 0, 0], 1666666666666667.8),
        ([1e16, 7.0, 0.0, 0.0, 0.0, 0.0], 1666666666666667.8),
        ([1.7e308, 1.7e308], 1.7e308),
        ([-1.7e308, -1.7e308, -1.7e308], -1.7e308),
        ([5e-324, 0.0], 0.0),
        ([5e-324, 5e-324, 0.0], 5e-324),
        ([2**63 - 1] * 3, float(2**63 - 1)),
    ],
)
def test_means_that_were_rounded_twice_or_too_large(values, mean):
    assert mean_of(values) == mean


@given(st.one_of(st.tuples(FLOATS, FLOATS), st.tuples(WHOLES, WHOLES)), st.floats(0, 1, exclude_max=True))
@settings(max_examples=500)
def test_a_number_between_two_others_is_rounded_once_and_lies_between_them(pair, share):
    lower, upper = sorted(pair)
    words, is_float = to_words([lower, upper])
    found = exact.round_between(int(words[0]), int(words[1]), share, is_float)
    assert found == nearest(Fraction(lower) + (Fraction(upper) - Fraction(lower)) * Fraction(share))
    assert float(lower) <= found <= float(upper)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 1 - 2**-53, 1e-300])
@pytest.mark.parametrize("value", [0.1, 1.7e308, -5e-324, 2**63 - 1])
def test_a_number_between_equal_ones_is_that_number(value, share):
    words, is_float = to_words([value])
    assert exact.round_between(int(words[0]), int(words[0]), share, is_float) == float(value)
