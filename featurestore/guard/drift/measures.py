"""How far two distributions lie apart, and how likely chance alone would put them as far.

Every measure takes a reference and a current sample, each as counts, and gives a distance and its p-value: the
probability of at least this distance if both samples came from one distribution, for the sizes that the samples have.
All are formulas; nothing is resampled. ``worth`` says how many independent rows a row of the reference and one of the
current sample are worth, below 1 where entities are asked about again and again; it changes p-values, not distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Floats
from featurestore.guard.drift.exact import Parting, parting
from featurestore.guard.drift.numbers import NumberCounts
from featurestore.guard.drift.special import (
    chi_square_tail,
    gamma_tail,
    kolmogorov_tail,
    normal_score,
    normal_tail,
    threshold,
)

Counts = npt.NDArray[np.int64]
Tail = Callable[[float], float]
Worth = tuple[float, float]

INDEPENDENT: Worth = (1.0, 1.0)
"""Every row counts."""

PSI_FLOOR = 1e-4
"""What a share of zero counts as in the population stability index."""

LEAST_STD = 1e-3
"""What a smaller standard deviation counts as when a distance is divided by it."""

_EXACT_BELOW = 1000.0
"""Rows of a kind to be expected in either sample, below which chance is computed exactly."""

_LEAST_EXPECTED = 5.0
_LEAST_FOR_LIMIT = 10.0
_CHANCE_CELLS = 96
_TAIL_CELLS = 16


@dataclass(frozen=True)
class Distance:
    """A distance between two samples.

    Attributes:
        value: The distance.
        p_value: Probability that chance alone sets two samples at least so far apart.
        error: By how much the distance may be larger than ``value`` because values were counted in cells; 0 if exact.
        tail: Gives the p-value of any distance at these sizes; ``None`` if it takes more than the distance, or more
            rows.
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


def _chance(reference: float, current: float, worth: Worth) -> float:
    """Return the variance that chance gives a difference of shares, but for the share itself."""
    return 1.0 / (reference * worth[0]) + 1.0 / (current * worth[1])


def _parting(together: float, rows: Worth) -> Parting:
    """Return how chance parts rows of a kind that are counted as what they are worth."""
    other_rows, own_rows = (max(1, round(count)) for count in rows)
    return parting(together=min(round(together), other_rows + own_rows), rows=own_rows, other_rows=other_rows)


def _share_tail(together: float, rows: Worth) -> Tail:
    """Return how likely chance sets the shares of rows of a kind so far apart: exactly where they are few.

    Args:
        together: Rows of the kind in both samples, counted as what they are worth.
        rows: All rows of the reference and of the current sample, counted alike.

    Returns:
        The p-value by the current share minus the reference's: Fisher's, or for many rows the two-proportion z-test's.
    """
    share = together / sum(rows)
    if min(rows) * min(share, 1.0 - share) < _EXACT_BELOW:
        return _parting(together, rows).tail
    spread = math.sqrt(share * (1.0 - share) * (1.0 / rows[0] + 1.0 / rows[1]))
    return lambda difference: normal_tail(difference / spread)


@dataclass(frozen=True)
class _Homogeneity:
    """The test whether two samples of bins or categories come from one distribution.

    Attributes:
        chance: Variance that chance gives a difference of shares, but for the share itself.
        freedom: How many categories occur, less one.
        least_expected: The smallest count to be expected in either sample.
        p_value: The test's.
    """

    chance: float
    freedom: int
    least_expected: float
    p_value: float

    def tail(self, times: float = 1.0, power: int = 1) -> Tail | None:
        """Return the tail of a distance that chance makes a chi-square variable; ``None`` if rows are too few for that.

        Args:
            times: What makes it one, beside the rows.
            power: To which it is taken before.
        """
        if self.least_expected < _LEAST_FOR_LIMIT:
            return None
        return lambda distance: chi_square_tail(times * distance**power / self.chance, self.freedom)


def _homogeneity(reference: Counts, current: Counts, worth: Worth) -> _Homogeneity:
    """Test whether two samples come from one distribution, such that it holds for rare categories far in the tail, too.

    Pearson's statistic is a sum over categories, of the square of the normal variable that says how the category's
    share differs, times the share of all others. Where a category is rare the variable is the one that has Fisher's
    exact p-value, the middle one if there are several that add up. So of two categories the p-value is Fisher's, and of
    many rows it is Pearson's.

    Source:
        Pearson 1900; Fisher 1922; Lancaster 1961.
    """
    known = reference + current > 0
    left, right = reference[known] * worth[0], current[known] * worth[1]
    rows = float(left.sum()), float(right.sum())
    shares = (left + right) / sum(rows)
    differences = right / rows[1] - left / rows[0]
    chance = 1.0 / rows[0] + 1.0 / rows[1]
    spread = shares * (1.0 - shares) * chance
    squares = np.divide(np.square(differences), spread, out=np.zeros_like(spread), where=spread > 0)
    expected = min(rows) * np.minimum(shares, 1.0 - shares)
    freedom = len(shares) - 1
    for i in np.flatnonzero((expected < _EXACT_BELOW) & (spread > 0)).tolist():
        found = _parting(float(left[i] + right[i]), rows)
        p_value = (found.middle_tail if freedom > 1 else found.tail)(float(differences[i]))
        squares[i] = normal_score(p_value) ** 2
    p_value = chi_square_tail(float(np.sum(squares * (1.0 - shares))), freedom)
    return _Homogeneity(chance, freedom, min(rows) * float(shares.min()), p_value)


def psi(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the population stability index over bins or categories, with the test of homogeneity.

    A share of zero counts as ``PSI_FLOOR``, or as a millionth of the smallest other share of that sample if this is not
    larger than the floor. By chance the index divided by ``1/n + 1/m`` is a chi-square variable, if rows are many.

    Source:
        Yurdakul 2018, "Statistical properties of population stability index".
    """
    test = _homogeneity(reference, current, worth)
    return Distance(float(np.sum(psi_terms(reference, current))), test.p_value, tail=test.tail())


def psi_terms(reference: Counts, current: Counts) -> Floats:
    """Return what each bin or category adds to the population stability index."""
    left, right = floored(reference), floored(current)
    return (right - left) * np.log(right / left)


def floored(counts: Counts) -> Floats:
    """Return shares, with zeros as the population stability index takes them."""
    shares = _shares(counts)
    least = float(shares[shares > 0].min())
    return np.where(shares > 0, shares, least / 1e6 if least <= PSI_FLOOR else PSI_FLOOR)


def jensen_shannon(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the Jensen-Shannon distance over bins or categories, with the test of homogeneity.

    It is the root of the divergence in natural units. By chance eight times the divergence, divided by ``1/n + 1/m``,
    is a chi-square variable, if rows are many.

    Source:
        Lin 1991; Menéndez et al. 1997, "The Jensen-Shannon divergence".
    """
    left, right = _shares(reference), _shares(current)
    middle = (left + right) / 2.0
    divergence = max(0.0, (_relative_entropy(left, middle) + _relative_entropy(right, middle)) / 2.0)
    test = _homogeneity(reference, current, worth)
    return Distance(math.sqrt(divergence), test.p_value, tail=test.tail(8.0, power=2))


def _relative_entropy(shares: Floats, others: Floats) -> float:
    known = shares > 0
    return float(np.sum(shares[known] * np.log(shares[known] / others[known])))


def chi_square(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return Cramér's V of the table of two samples by bins or categories, with Pearson's chi-square test.

    V is the root of the chi-square statistic divided by all rows: 0 for equal shares, 1 if no bin holds both samples;
    in between it shrinks as one sample outgrows the other. If a count below five is to be expected the test is the one
    of homogeneity, which allows for it.

    Source:
        Cramér 1946; the least count is Cochran's 1954.
    """
    table = np.stack([reference, current])[:, (reference + current) > 0].astype(np.float64)
    everything = table.sum()
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / everything
    square = float(np.sum((table - expected) ** 2 / expected)) / everything
    test = _homogeneity(reference, current, worth)
    times = everything * _chance(reference.sum(), current.sum(), INDEPENDENT)
    is_enough = test.least_expected >= _LEAST_EXPECTED
    p_value = chi_square_tail(times * square / test.chance, test.freedom) if is_enough else test.p_value
    return Distance(math.sqrt(square), p_value, tail=test.tail(times, power=2))


def largest_share_difference(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the largest difference of a category's shares (L-infinity).

    The p-value adds up, over categories, the probabilities that one of them differs as much, up or down: never too
    small.
    """
    value = float(np.max(np.abs(_shares(reference) - _shares(current))))
    rows = float(reference.sum()) * worth[0], float(current.sum()) * worth[1]
    together, counts = np.unique(reference * worth[0] + current * worth[1], return_counts=True)
    tails = [(_share_tail(one, rows), count) for one, count in zip(together.tolist(), counts.tolist(), strict=True)]

    def tail(distance: float) -> float:
        return float(min(1.0, sum(count * max(one(distance), one(-distance)) for one, count in tails)))

    return _distance(value, tail)


def share_difference(
    *, reference: int, reference_rows: int, current: int, current_rows: int, worth: Worth = INDEPENDENT
) -> Distance:
    """Return how much the share of some rows (such as nulls) rose or fell.

    The test is Fisher's exact one, or for many rows the two-proportion z-test.

    Args:
        reference: Rows of the kind in the reference.
        reference_rows: All its rows, at least one.
        current: Rows of the kind in the current sample.
        current_rows: All its rows, at least one.
        worth: How many independent rows a row of either is worth.
    """
    rows = reference_rows * worth[0], current_rows * worth[1]
    value = current / current_rows - reference / reference_rows
    return _distance(value, _share_tail(reference * worth[0] + current * worth[1], rows))


def kolmogorov_smirnov(reference: NumberCounts, current: NumberCounts, worth: Worth = INDEPENDENT) -> Distance:
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
    root = math.sqrt(1.0 / _chance(reference.total, current.total, worth))
    return _distance(value, lambda distance: kolmogorov_tail((root + 0.12 + 0.11 / root) * distance), error)


def _from_zero_to_one(counts: NumberCounts) -> Floats:
    return np.concatenate([[0.0], counts.shares_below(), [1.0]])


def _is_hiding(reference: NumberCounts, current: NumberCounts) -> npt.NDArray[np.bool_]:
    """Tell per cell whether values lie inside it; a sum of no distances means that all are its lower edge."""
    return np.asarray((reference.sums != 0) | (current.sums != 0), dtype=np.bool_)


def wasserstein(reference: NumberCounts, current: NumberCounts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the area between the two distribution functions, divided by the reference's standard deviation.

    By chance the area is that under the absolute value of a Brownian bridge, whose mean and variance are known; the
    p-value is that of the gamma variable with these two. The error counts cells inside which the functions may cross.

    Source:
        del Barrio, Giné and Matrán 1999 for the limit.
    """
    scale = max(reference.std, LEAST_STD)
    value = float(np.sum(np.abs(reference.areas() - current.areas()))) / scale
    mean, variance = _area_by_chance(reference, current, worth)
    size = math.sqrt(_chance(reference.total, current.total, worth)) / scale
    tail = partial(_gamma_tail_of, mean=mean * size, variance=variance * size * size)
    return _distance(value, tail, _crossing_area(reference, current) / scale)


def _gamma_tail_of(value: float, mean: float, variance: float) -> float:
    if mean <= 0 or variance <= 0:
        return 1.0 if value <= mean else 0.0
    return gamma_tail(mean * mean / variance, value * mean / variance)


def _area_by_chance(reference: NumberCounts, current: NumberCounts, worth: Worth) -> tuple[float, float]:
    """Return mean and variance of the area under a Brownian bridge's absolute value along both samples together."""
    widths, shares = _steps(reference, current, worth)
    deviations = np.sqrt(shares * (1.0 - shares))
    mean = math.sqrt(2.0 / math.pi) * float(np.sum(widths * deviations))
    low, high = np.minimum.outer(shares, shares), np.maximum.outer(shares, shares)
    odds = high * (1.0 - low)
    correlation = np.sqrt(np.divide(low * (1.0 - high), odds, out=np.zeros_like(odds), where=odds > 0))
    correlation = np.clip(correlation, 0.0, 1.0)
    both = np.sqrt(1.0 - correlation**2) + correlation * np.arcsin(correlation) - 1.0
    weights = widths * deviations
    return mean, 2.0 / math.pi * float(weights @ both @ weights)


def _steps(reference: NumberCounts, current: NumberCounts, worth: Worth) -> tuple[Floats, Floats]:
    """Return the distribution function of both in few steps, finer at both ends: widths, and mean shares below."""
    edges = reference.edges
    start = float(min(reference.extremes[0], current.extremes[0], edges[0]))
    end = float(max(reference.extremes[1], current.extremes[1], edges[-1]))
    rows = reference.total * worth[0], current.total * worth[1]
    areas = (rows[0] * reference.areas() + rows[1] * current.areas()) / sum(rows)
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


def only_one_sample(*, inside: Counts, outside: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the share of a sample whose categories the other sample does not have.

    If both came from one distribution, each way to part the rows is as likely: a value that occurs ``k`` times falls
    wholly into one sample with a known probability. The p-value is Cantelli's bound, which holds whatever the
    distribution, so a few rare values mean nothing and one frequent value means much.

    Args:
        inside: Count of every category that either sample has, in this sample, which has at least one row.
        outside: Its count in the other sample.
        worth: How many independent rows a row of this sample and one of the other are worth; a category that occurs
            counts as at least one.
    """
    own, other = (
        np.maximum(np.rint(c * w), c > 0).astype(np.int64) for c, w in zip((inside, outside), worth, strict=True)
    )
    together = own + other
    found = float(own[outside == 0].sum())
    chance = _all_in_one(together, int(own.sum()), int(other.sum()))
    mean = float(np.sum(together * chance))
    variance = float(np.sum(together.astype(np.float64) ** 2 * chance * (1.0 - chance)))
    excess = found - mean
    p_value = 1.0 if excess <= 0 else variance / (variance + excess * excess)
    return Distance(float(inside[outside == 0].sum() / inside.sum()), p_value)


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


def beyond_range(*, below: int, above: int, rows: int, reference_rows: int, worth: Worth = INDEPENDENT) -> Distance:
    """Return the share of current values outside the reference's range.

    If both came from one distribution, each way to part the rows is as likely, which gives the exact probability that
    so many of the largest values are all current; equal values make it too large. Both ends are tested and the smaller
    p-value doubled.

    Args:
        below: Current values below the smallest of the reference.
        above: Current values above the largest.
        rows: Current values, at least one.
        reference_rows: Values of the reference.
        worth: How many independent rows a row of the reference and a current one are worth.
    """
    outside = np.rint(np.array([below, above]) * worth[1]).astype(np.int64)
    chances = _all_in_one(outside, max(1, round(rows * worth[1])), round(reference_rows * worth[0]))
    return Distance((below + above) / rows, min(1.0, 2.0 * float(chances.min())))
