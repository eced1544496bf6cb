"""How far two distributions lie apart, and how likely chance alone would put them as far.

Every measure takes a reference and a current sample, each as counts, and gives a distance and its p-value: the
probability of at least this distance if both samples came from one distribution, for the sizes that the samples have.
All are formulas; nothing is resampled. They take rows to be independent: where the same entities are asked about again
and again p-values are too small, which is what the least effect of a policy is for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from featurestore.skew.drift.numbers import NumberCounts
from featurestore.skew.drift.special import chi_square_tail, gamma_tail, kolmogorov_tail, normal_tail, threshold

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Tail = Callable[[float], float]

PSI_FLOOR = 1e-4
"""What a share of zero counts as in the population stability index."""

LEAST_STD = 1e-3
"""What a smaller standard deviation counts as when a distance is divided by it."""

_CHANCE_CELLS = 96
_TAIL_CELLS = 16


@dataclass(frozen=True)
class Distance:
    """A distance between two samples.

    Attributes:
        value: The distance.
        p_value: Probability that chance alone gives at least this distance.
        error: By how much the distance may be larger than ``value`` because values were counted in cells; 0 if exact.
        tail: Gives the p-value of any distance at these sizes; ``None`` if it takes more than the distance.
    """

    value: float
    p_value: float
    error: float = 0.0
    tail: Tail | None = field(default=None, compare=False, repr=False)

    def limit(self, probability: float) -> float | None:
        """Return the distance that chance alone exceeds with a given probability; ``None`` if there is no such form."""
        return None if self.tail is None or self.tail(1e12) > probability else threshold(self.tail, probability)


def _distance(value: float, tail: Tail, error: float = 0.0) -> Distance:
    return Distance(value, tail(value), error, tail)


def _shares(counts: Counts) -> Floats:
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _chance(reference: Counts, current: Counts) -> float:
    """Return the variance that chance gives a difference of shares, but for the share itself."""
    return 1.0 / float(reference.sum()) + 1.0 / float(current.sum())


def _freedom(reference: Counts, current: Counts) -> int:
    return int(np.count_nonzero(reference + current)) - 1


def psi(reference: Counts, current: Counts) -> Distance:
    """Return the population stability index over bins or categories.

    A share of zero counts as ``PSI_FLOOR``, or as a millionth of the smallest other share of that sample if this is not
    larger than the floor. By chance the index divided by ``1/n + 1/m`` is a chi-square variable.

    Source:
        Yurdakul 2018, "Statistical properties of population stability index".
    """
    value = float(np.sum(psi_terms(reference, current)))
    chance, freedom = _chance(reference, current), _freedom(reference, current)
    return _distance(value, lambda distance: chi_square_tail(distance / chance, freedom))


def psi_terms(reference: Counts, current: Counts) -> Floats:
    """Return what each bin or category adds to the population stability index."""
    left, right = floored(reference), floored(current)
    return (right - left) * np.log(right / left)


def floored(counts: Counts) -> Floats:
    """Return shares, with zeros as the population stability index takes them."""
    shares = _shares(counts)
    least = float(shares[shares > 0].min())
    return np.where(shares > 0, shares, least / 1e6 if least <= PSI_FLOOR else PSI_FLOOR)


def jensen_shannon(reference: Counts, current: Counts) -> Distance:
    """Return the Jensen-Shannon distance over bins or categories: the root of the divergence in natural units.

    By chance eight times the divergence, divided by ``1/n + 1/m``, is a chi-square variable.

    Source:
        Lin 1991; Menéndez et al. 1997, "The Jensen-Shannon divergence".
    """
    left, right = _shares(reference), _shares(current)
    middle = (left + right) / 2.0
    divergence = max(0.0, (_relative_entropy(left, middle) + _relative_entropy(right, middle)) / 2.0)
    chance, freedom = _chance(reference, current), _freedom(reference, current)
    return _distance(
        math.sqrt(divergence), lambda distance: chi_square_tail(8.0 * distance * distance / chance, freedom)
    )


def _relative_entropy(shares: Floats, others: Floats) -> float:
    known = shares > 0
    return float(np.sum(shares[known] * np.log(shares[known] / others[known])))


def chi_square(reference: Counts, current: Counts) -> Distance:
    """Return Cramér's V of the table of two samples by bins or categories, with the chi-square test of homogeneity.

    V is the root of the chi-square statistic divided by all rows: 0 for equal shares, 1 if no bin holds both samples.
    """
    table = np.stack([reference, current])[:, (reference + current) > 0].astype(np.float64)
    everything = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / everything
    statistic = float(np.sum((table - expected) ** 2 / expected))
    freedom = _freedom(reference, current)
    return _distance(
        math.sqrt(statistic / everything), lambda distance: chi_square_tail(distance * distance * everything, freedom)
    )


def largest_share_difference(reference: Counts, current: Counts) -> Distance:
    """Return the largest difference of a category's shares (L-infinity).

    The p-value adds up, over categories, the probabilities that one of them differs as much: never too small but for
    the normal approximation.
    """
    value = float(np.max(np.abs(_shares(reference) - _shares(current))))
    pooled = _shares(reference + current)
    spread = np.sqrt(pooled * (1.0 - pooled) * _chance(reference, current))
    spreads = spread[spread > 0].tolist()
    return _distance(value, lambda distance: min(1.0, sum(normal_tail(distance / one) for one in spreads)))


def share_difference(*, reference: int, reference_rows: int, current: int, current_rows: int) -> Distance:
    """Return how much the share of some rows (such as nulls) rose or fell, with the two-proportion z-test.

    Args:
        reference: Rows of the kind in the reference.
        reference_rows: All its rows, at least one.
        current: Rows of the kind in the current sample.
        current_rows: All its rows, at least one.
    """
    value = current / current_rows - reference / reference_rows
    pooled = (reference + current) / (reference_rows + current_rows)
    spread = math.sqrt(pooled * (1.0 - pooled) * (1.0 / reference_rows + 1.0 / current_rows))
    return _distance(value, lambda distance: normal_tail(distance / spread) if spread > 0 else 1.0)


def kolmogorov_smirnov(reference: NumberCounts, current: NumberCounts) -> Distance:
    """Return the largest difference of the two distribution functions, with the two-sample test.

    The p-value is the limit for large samples with the usual correction for small ones; repeated values make it too
    large, never too small.

    Source:
        Kolmogorov 1933, Smirnov 1939; the correction is Stephens 1970's.
    """
    left, right = _from_zero_to_one(reference), _from_zero_to_one(current)
    value = float(np.max(np.abs(left - right)))
    most = np.maximum(np.abs(left[1:] - right[:-1]), np.abs(right[1:] - left[:-1]))
    # Where only one sample has values the difference is largest at an end.
    hidden = most[_is_hiding(reference, current) & (reference.counts > 0) & (current.counts > 0)]
    error = max(0.0, float(hidden.max()) - value) if len(hidden) else 0.0
    root = math.sqrt(1.0 / (1.0 / reference.total + 1.0 / current.total))
    return _distance(value, lambda distance: kolmogorov_tail((root + 0.12 + 0.11 / root) * distance), error)


def _from_zero_to_one(counts: NumberCounts) -> Floats:
    return np.concatenate([[0.0], counts.shares_below(), [1.0]])


def _is_hiding(reference: NumberCounts, current: NumberCounts) -> npt.NDArray[np.bool_]:
    """Tell per cell whether values lie inside it; a sum of no distances means that all are its lower edge."""
    return np.asarray((reference.sums != 0) | (current.sums != 0), dtype=np.bool_)


def wasserstein(reference: NumberCounts, current: NumberCounts) -> Distance:
    """Return the area between the two distribution functions, divided by the reference's standard deviation.

    By chance the area is that under the absolute value of a Brownian bridge, whose mean and variance are known; the
    p-value is that of the gamma variable with these two. The error counts cells inside which the functions may cross.

    Source:
        del Barrio, Giné and Matrán 1999 for the limit.
    """
    scale = max(reference.std, LEAST_STD)
    value = float(np.sum(np.abs(reference.areas() - current.areas()))) / scale
    mean, variance = _area_by_chance(reference + current)
    size = math.sqrt(1.0 / reference.total + 1.0 / current.total) / scale
    tail = partial(_gamma_tail_of, mean=mean * size, variance=variance * size * size)
    return _distance(value, tail, _crossing_area(reference, current) / scale)


def _gamma_tail_of(value: float, mean: float, variance: float) -> float:
    if mean <= 0 or variance <= 0:
        return 1.0 if value <= mean else 0.0
    return gamma_tail(mean * mean / variance, value * mean / variance)


def _area_by_chance(pooled: NumberCounts) -> tuple[float, float]:
    """Return mean and variance of the area under a Brownian bridge's absolute value along a distribution."""
    widths, shares = _steps(pooled)
    deviations = np.sqrt(shares * (1.0 - shares))
    mean = math.sqrt(2.0 / math.pi) * float(np.sum(widths * deviations))
    low, high = np.minimum.outer(shares, shares), np.maximum.outer(shares, shares)
    odds = high * (1.0 - low)
    correlation = np.sqrt(np.divide(low * (1.0 - high), odds, out=np.zeros_like(odds), where=odds > 0))
    correlation = np.clip(correlation, 0.0, 1.0)
    both = np.sqrt(1.0 - correlation**2) + correlation * np.arcsin(correlation) - 1.0
    weights = widths * deviations
    return mean, 2.0 / math.pi * float(weights @ both @ weights)


def _steps(counts: NumberCounts) -> tuple[Floats, Floats]:
    """Return a distribution function in few steps, finer at both ends: widths, and mean shares below."""
    edges = counts.edges
    start, end = min(float(counts.extremes[0]), float(edges[0])), max(float(counts.extremes[1]), float(edges[-1]))
    areas = counts.areas()
    upto = np.concatenate([[0.0], np.cumsum(areas[:-1])])
    area_at = np.append(upto, upto[-1] + (end - edges[-1]) + areas[-1])
    bounds = np.concatenate([[start], edges, [end]])
    ends = np.arange(min(_TAIL_CELLS, len(bounds)))
    middle = np.linspace(0, len(bounds) - 1, _CHANCE_CELLS).astype(np.int64)
    places = np.unique(np.concatenate([ends, middle, len(bounds) - 1 - ends]))
    widths = np.diff(bounds[places])
    wide = widths > 0
    return widths[wide], np.clip(np.diff(area_at[places])[wide] / widths[wide], 0.0, 1.0)


def _crossing_area(reference: NumberCounts, current: NumberCounts) -> float:
    """Return a bound on the area that crossings inside cells hide."""
    left, right = _from_zero_to_one(reference), _from_zero_to_one(current)
    low, high = min(reference.extremes[0], current.extremes[0]), max(reference.extremes[1], current.extremes[1])
    bounds = np.concatenate([[min(low, reference.edges[0])], reference.edges, [max(high, reference.edges[-1])]])
    positive = np.maximum(0.0, left[1:] - right[:-1])
    negative = np.maximum(0.0, right[1:] - left[:-1])
    hidden = 2.0 * np.minimum(positive, negative) * np.diff(bounds)
    return float(np.sum(hidden[_is_hiding(reference, current)]))


def only_one_sample(*, inside: Counts, together: Counts, rows: int, other_rows: int) -> Distance:
    """Return the share of a sample whose categories the other sample does not have.

    If both came from one distribution, each way to part the rows is as likely: a value that occurs ``k`` times falls
    wholly into one sample with a known probability. The p-value is Cantelli's bound, which holds whatever the
    distribution, so a few rare values mean nothing and one frequent value means much.

    Args:
        inside: Count of every category that either sample has, in this sample.
        together: Its count in both samples together.
        rows: Rows of this sample.
        other_rows: Rows of the other one.
    """
    found = float(inside[inside == together].sum())
    chance = _all_in_one(together, rows, other_rows)
    mean = float(np.sum(together * chance))
    variance = float(np.sum(together.astype(np.float64) ** 2 * chance * (1.0 - chance)))
    excess = found - mean
    p_value = 1.0 if excess <= 0 else variance / (variance + excess * excess)
    return Distance(found / rows if rows else 0.0, p_value)


def _all_in_one(together: Counts, rows: int, other_rows: int) -> Floats:
    """Return the probability that all of ``k`` rows are among ``rows`` of all rows."""
    everything = rows + other_rows
    fits = together <= rows
    kept = np.where(fits, together, 0)
    logs = (
        _log_factorial(np.full_like(kept, rows))
        - _log_factorial(rows - kept)
        - _log_factorial(np.full_like(kept, everything))
        + _log_factorial(everything - kept)
    )
    return np.where(fits, np.exp(np.minimum(logs, 0.0)), 0.0)


def _log_factorial(numbers: Counts) -> Floats:
    return np.array([math.lgamma(number + 1.0) for number in numbers.tolist()])


def beyond_range(*, below: int, above: int, rows: int, reference_rows: int) -> Distance:
    """Return the share of current values outside the reference's range.

    If both came from one distribution, each way to part the rows is as likely, which gives the exact probability that
    so many of the largest values are all current; equal values make it too large. Both ends are tested and the smaller
    p-value doubled.

    Args:
        below: Current values below the smallest of the reference.
        above: Current values above the largest.
        rows: Current values, at least one.
        reference_rows: Values of the reference.
    """
    chances = _all_in_one(np.array([below, above]), rows, reference_rows)
    return Distance((below + above) / rows, min(1.0, 2.0 * float(chances.min())))
