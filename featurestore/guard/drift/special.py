"""Tail probabilities that the thresholds of drift are made of. Pure functions of numbers.

Each is accurate to about twelve digits, which is more than a threshold needs; there is no table and no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

_TINY = 1e-300
_PRECISION = 1e-15
_MOST_STEPS = 100_000
_BISECTIONS = 200
_CLOSE = 1e-10


def normal_tail(z: float) -> float:
    """Return the probability that a standard normal number is larger than ``z`` in absolute value."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def normal_score(probability: float) -> float:
    """Return how far from zero a standard normal number lies with a given probability: ``normal_tail`` turned round.

    Args:
        probability: From 0 to 1; below 1e-300 it counts as that.

    Source:
        Wichura 1988, as ``statistics.NormalDist`` has it.
    """
    return -NormalDist().inv_cdf(max(probability, _TINY) / 2.0)


def gamma_tail(shape: float, x: float) -> float:
    """Return the probability that a gamma variable of scale 1 is larger than ``x``.

    Args:
        shape: Shape, above 0.
        x: Bound; everything is above 0.

    Source:
        The power series of the lower incomplete gamma function below ``shape + 1``, Legendre's continued fraction of
        the upper one, evaluated by Lentz's method, above (Abramowitz and Stegun 6.5.29 and 6.5.31).
    """
    if x <= 0:
        return 1.0
    if math.isinf(x):
        return 0.0
    scale = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        return min(1.0, max(0.0, 1.0 - scale * _lower_series(shape, x)))
    return min(1.0, max(0.0, scale * _upper_fraction(shape, x)))


def _lower_series(shape: float, x: float) -> float:
    term = total = 1.0 / shape
    for step in range(1, _MOST_STEPS):
        term *= x / (shape + step)
        total += term
        if term < total * _PRECISION:
            break
    return total


def _upper_fraction(shape: float, x: float) -> float:
    below = x + 1.0 - shape
    numerator, denominator = 1.0 / _TINY, 1.0 / below
    value = denominator
    for step in range(1, _MOST_STEPS):
        factor = -step * (step - shape)
        below += 2.0
        denominator = 1.0 / (_not_zero(factor * denominator + below))
        numerator = _not_zero(below + factor / numerator)
        change = denominator * numerator
        value *= change
        if abs(change - 1.0) < _PRECISION:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def chi_square_tail(x: float, freedom: float) -> float:
    """Return the probability that a chi-square variable is larger than ``x``.

    Args:
        x: Bound.
        freedom: Degrees of freedom; with none there is nothing to differ, and the probability is 1.
    """
    return gamma_tail(freedom / 2.0, x / 2.0) if freedom > 0 else 1.0


def kolmogorov_tail(x: float) -> float:
    """Return the probability that the largest absolute value of a Brownian bridge is larger than ``x``.

    Source:
        Kolmogorov 1933; below 1.18 by the form that Jacobi's theta function gives it there (Feller 1948).
    """
    if x <= 0:
        return 1.0
    if x < 1.18:
        y = -(math.pi**2) / (8.0 * x * x)
        below = math.sqrt(2.0 * math.pi) / x * sum(math.exp(y * (2 * k - 1) ** 2) for k in range(1, 6))
        return max(0.0, 1.0 - below)
    return 2.0 * sum((1.0 if k % 2 else -1.0) * math.exp(-2.0 * (k * x) ** 2) for k in range(1, 8))


def threshold(tail: Callable[[float], float], probability: float) -> float:
    """Return the bound that a variable exceeds with a given probability, by bisection.

    Args:
        tail: Probability to exceed a bound, falling from 1 at 0 towards 0.
        probability: Above 0, below 1.
    """
    high = 1.0
    while tail(high) > probability and high < 1e12:
        high *= 2.0
    low = 0.0
    for _ in range(_BISECTIONS):
        if high - low <= _CLOSE * high:
            break
        middle = (low + high) / 2.0
        low, high = (middle, high) if tail(middle) > probability else (low, middle)
    return high
