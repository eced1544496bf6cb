"""Distances of two distributions, and the probability that chance alone gives such distances.

Every measure takes a reference and a current sample, each as counts, and returns a distance and its p-value: the
probability of at least this distance between samples of these sizes from one distribution. All measures are formulas;
nothing is resampled. ``worth`` is how many independent rows a row of the reference and a row of the current sample are
worth, below 1 if entities have several rows; it changes p-values, not distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Floats
from featurestore.guard.drift.counts import NumberCounts
from featurestore.guard.drift.fisher import FisherTable, fisher_table

Counts = npt.NDArray[np.int64]
Tail = Callable[[float], float]
Worth = tuple[float, float]

INDEPENDENT: Worth = (1.0, 1.0)
"""All rows are independent."""

PSI_FLOOR = 1e-4
"""Share that replaces a share of zero in the population stability index."""

LEAST_STD = 1e-3
"""Least standard deviation by which a distance is divided."""

_EXACT_BELOW = 1000.0
"""Expected rows of a kind in either sample, below which probabilities are computed exactly."""

_LEAST_EXPECTED = 5.0
_LEAST_FOR_LIMIT = 10.0
_CHANCE_CELLS = 96
_TAIL_CELLS = 16
_LEAST_PROBABILITY = 1e-300
_LARGEST_DISTANCE = 1e12
_BISECTIONS = 200
_PRECISION = 1e-10


@cache
def _special() -> Any:
    """Return ``scipy.special``, imported with the first use: importing it takes longer than importing the store."""
    from scipy import special

    return special


def normal_tail(z: float) -> float:
    """Return the probability that a standard normal variable is larger than ``z`` in absolute value."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def normal_score(probability: float) -> float:
    """Return the absolute value that a standard normal variable exceeds with a probability, at least 1e-300."""
    return float(-_special().ndtri(max(probability, _LEAST_PROBABILITY) / 2.0))


def gamma_tail(shape: float, x: float) -> float:
    """Return the probability that a gamma variable of scale 1 is larger than ``x``."""
    return float(_special().gammaincc(shape, max(x, 0.0)))


def chi_square_tail(x: float, freedom: float) -> float:
    """Return the probability that a chi-square variable is larger than ``x``; 1 without degrees of freedom."""
    return gamma_tail(freedom / 2.0, x / 2.0) if freedom > 0 else 1.0


def threshold(tail: Tail, probability: float) -> float:
    """Return the bound that a variable exceeds with a given probability, by bisection.

    Args:
        tail: Probability to exceed a bound, falling from 1 at 0 towards 0, possibly in steps.
        probability: Above 0, below 1.
    """
    high = 1.0
    while tail(high) > probability and high < _LARGEST_DISTANCE:
        high *= 2.0
    low = 0.0
    for _ in range(_BISECTIONS):
        if high - low <= _PRECISION * high:
            break
        middle = (low + high) / 2.0
        low, high = (middle, high) if tail(middle) > probability else (low, middle)
    return high


@dataclass(frozen=True)
class Distance:
    """A distance between two samples.

    Attributes:
        value: The distance.
        p_value: Probability that chance alone gives at least this distance.
        error: The distance may be larger by this, because values were counted in cells; 0 if it is exact.
        tail: Returns the p-value of any distance at these sizes; ``None`` if it depends on more than the distance, or
            rows are too few.
    """

    value: float
    p_value: float
    error: float = 0.0
    tail: Tail | None = field(default=None, compare=False, repr=False)

    def limit(self, probability: float) -> float | None:
        """Return the distance that chance alone exceeds with a given probability; ``None`` if that is not known."""
        if self.tail is None or self.tail(_LARGEST_DISTANCE) > probability:
            return None
        return threshold(self.tail, probability)


def _distance(value: float, tail: Tail, error: float = 0.0) -> Distance:
    return Distance(value, tail(value), error, tail)


def _shares(counts: Counts) -> Floats:
    return np.asarray(counts / counts.sum(), dtype=np.float64)


def _chance(reference: float, current: float, worth: Worth) -> float:
    """Return the variance of a difference of shares under chance, divided by that of the share itself."""
    return 1.0 / (reference * worth[0]) + 1.0 / (current * worth[1])


def _fisher_table(together: float, rows: Worth) -> FisherTable:
    """Return Fisher's p-values for counts of independent rows, rounded."""
    reference_rows, current_rows = (max(1, round(count)) for count in rows)
    together_rows = min(round(together), reference_rows + current_rows)
    return fisher_table(together=together_rows, rows=current_rows, other_rows=reference_rows)


def _share_tail(together: float, rows: Worth) -> Tail:
    """Return the p-value of a difference of the shares of a kind of rows, as a function of the difference.

    Args:
        together: Independent rows of the kind in both samples.
        rows: All independent rows of the reference and of the current sample.

    Returns:
        P-value by the current share minus the reference share: of Fisher's exact test, or of the two-proportion z-test
        for many rows.
    """
    share = together / sum(rows)
    if min(rows) * min(share, 1.0 - share) < _EXACT_BELOW:
        return _fisher_table(together, rows).tail
    spread = math.sqrt(share * (1.0 - share) * (1.0 / rows[0] + 1.0 / rows[1]))
    return lambda difference: normal_tail(difference / spread)


@dataclass(frozen=True)
class _Homogeneity:
    """The test whether two samples of bins or categories come from one distribution.

    Attributes:
        chance: Variance of a difference of shares under chance, divided by that of the share itself.
        freedom: Count of categories that occur, less one.
        least_expected: The smallest expected count in either sample.
        p_value: P-value of the test.
    """

    chance: float
    freedom: int
    least_expected: float
    p_value: float

    def tail(self, times: float = 1.0, power: int = 1) -> Tail | None:
        """Return the p-value of a distance that is a chi-square variable under chance; ``None`` if rows are too few.

        Args:
            times: Factor of the distance, beside the rows.
            power: Power of the distance.
        """
        if self.least_expected < _LEAST_FOR_LIMIT:
            return None
        return lambda distance: chi_square_tail(times * distance**power / self.chance, self.freedom)


def _homogeneity(reference: Counts, current: Counts, worth: Worth) -> _Homogeneity:
    """Test whether two samples come from one distribution; the test is right for rare categories far in the tail, too.

    Pearson's statistic is a sum over categories: the square of the normal variable of the difference of the category's
    share, times the share of all others. For a rare category, the normal variable is replaced by the one with Fisher's
    exact p-value, or with the middle p-value if several are added up. So with two categories the p-value is Fisher's,
    and for many rows it is Pearson's.

    Source:
        Pearson 1900; Fisher 1922; Lancaster 1961.
    """
    occurs = reference + current > 0
    left, right = reference[occurs] * worth[0], current[occurs] * worth[1]
    rows = float(left.sum()), float(right.sum())
    shares = (left + right) / sum(rows)
    differences = right / rows[1] - left / rows[0]
    chance = 1.0 / rows[0] + 1.0 / rows[1]
    spread = shares * (1.0 - shares) * chance
    squares = np.divide(np.square(differences), spread, out=np.zeros_like(spread), where=spread > 0)
    expected = min(rows) * np.minimum(shares, 1.0 - shares)
    freedom = len(shares) - 1
    for i in np.flatnonzero((expected < _EXACT_BELOW) & (spread > 0)).tolist():
        table = _fisher_table(float(left[i] + right[i]), rows)
        p_value = (table.middle_tail if freedom > 1 else table.tail)(float(differences[i]))
        squares[i] = normal_score(p_value) ** 2
    p_value = chi_square_tail(float(np.sum(squares * (1.0 - shares))), freedom)
    return _Homogeneity(chance, freedom, min(rows) * float(shares.min()), p_value)


def psi(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the population stability index over bins or categories, with the test of homogeneity.

    A share of zero is replaced by ``PSI_FLOOR``, or by a millionth of the smallest other share of that sample if that
    share is not above the floor. Under chance the index divided by ``1/n + 1/m`` is a chi-square variable for many
    rows.

    Source:
        Yurdakul 2018, "Statistical properties of population stability index".
    """
    test = _homogeneity(reference, current, worth)
    return Distance(float(np.sum(psi_terms(reference, current))), test.p_value, tail=test.tail())


def psi_terms(reference: Counts, current: Counts) -> Floats:
    """Return the terms of the population stability index, one per bin or category."""
    left, right = floored(reference), floored(current)
    return (right - left) * np.log(right / left)


def floored(counts: Counts) -> Floats:
    """Return shares, with zeros replaced as the population stability index needs it."""
    shares = _shares(counts)
    least = float(shares[shares > 0].min())
    return np.where(shares > 0, shares, least / 1e6 if least <= PSI_FLOOR else PSI_FLOOR)


def jensen_shannon(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the Jensen-Shannon distance over bins or categories, with the test of homogeneity.

    It is the root of the divergence in natural units. Under chance, eight times the divergence divided by
    ``1/n + 1/m`` is a chi-square variable for many rows.

    Source:
        Lin 1991; Menéndez et al. 1997, "The Jensen-Shannon divergence".
    """
    left, right = _shares(reference), _shares(current)
    middle = (left + right) / 2.0
    divergence = max(0.0, (_relative_entropy(left, middle) + _relative_entropy(right, middle)) / 2.0)
    test = _homogeneity(reference, current, worth)
    return Distance(math.sqrt(divergence), test.p_value, tail=test.tail(8.0, power=2))


def _relative_entropy(shares: Floats, others: Floats) -> float:
    occurs = shares > 0
    return float(np.sum(shares[occurs] * np.log(shares[occurs] / others[occurs])))


def chi_square(reference: Counts, current: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return Cramér's V of the table of two samples by bins or categories, with Pearson's chi-square test.

    V is the root of the chi-square statistic divided by all rows: 0 for equal shares, 1 if no bin has rows of both
    samples. It gets smaller as one sample outgrows the other. If an expected count is below five, the test is the one
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

    The p-value is the sum, over categories, of the probability that the category differs as much, up or down. It is
    never too small.
    """
    value = float(np.max(np.abs(_shares(reference) - _shares(current))))
    rows = float(reference.sum()) * worth[0], float(current.sum()) * worth[1]
    together, counts = np.unique(reference * worth[0] + current * worth[1], return_counts=True)
    tails = [(_share_tail(kind, rows), count) for kind, count in zip(together.tolist(), counts.tolist(), strict=True)]

    def tail(distance: float) -> float:
        return float(min(1.0, sum(count * max(of_kind(distance), of_kind(-distance)) for of_kind, count in tails)))

    return _distance(value, tail)


def share_difference(
    *, reference: int, reference_rows: int, current: int, current_rows: int, worth: Worth = INDEPENDENT
) -> Distance:
    """Return the change of the share of a kind of rows, such as nulls; it has a sign.

    The test is Fisher's exact test, or the two-proportion z-test for many rows.

    Args:
        reference: Rows of the kind in the reference.
        reference_rows: All rows of the reference, at least one.
        current: Rows of the kind in the current sample.
        current_rows: All rows of the current sample, at least one.
        worth: How many independent rows a row of each sample is worth.
    """
    rows = reference_rows * worth[0], current_rows * worth[1]
    value = current / current_rows - reference / reference_rows
    return _distance(value, _share_tail(reference * worth[0] + current * worth[1], rows))


def kolmogorov_smirnov(reference: NumberCounts, current: NumberCounts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the largest difference of the two distribution functions, with the two-sample test.

    The p-value is the limit for large samples with the usual correction for small ones. Repeated values make it too
    large, never too small.

    Source:
        Kolmogorov 1933, Smirnov 1939; the correction is Stephens 1970's.
    """
    left, right = _from_zero_to_one(reference), _from_zero_to_one(current)
    value = float(np.max(np.abs(left - right)))
    most = np.maximum(np.abs(left[1:] - right[:-1]), np.abs(right[1:] - left[:-1]))
    # In a cell with values of only one sample the difference is largest at an end of the cell.
    hidden = most[_is_hiding(reference, current) & (reference.counts > 0) & (current.counts > 0)]
    error = max(0.0, float(hidden.max()) - value) if len(hidden) else 0.0
    root = math.sqrt(1.0 / _chance(reference.total, current.total, worth))
    return _distance(
        value, lambda distance: float(_special().kolmogorov((root + 0.12 + 0.11 / root) * distance)), error
    )


def _from_zero_to_one(counts: NumberCounts) -> Floats:
    return np.concatenate([[0.0], counts.shares_below(), [1.0]])


def _is_hiding(reference: NumberCounts, current: NumberCounts) -> npt.NDArray[np.bool_]:
    """Return per cell whether values lie inside it; a sum of zero means that all its values are its lower edge."""
    return np.asarray((reference.sums != 0) | (current.sums != 0), dtype=np.bool_)


def wasserstein(reference: NumberCounts, current: NumberCounts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the area between the two distribution functions, divided by the reference's standard deviation.

    Under chance the area is that under the absolute value of a Brownian bridge, whose mean and variance are known. The
    p-value is that of the gamma variable with this mean and variance. The error is from cells in which the distribution
    functions may cross.

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
    """Return mean and variance of the area under the absolute value of a Brownian bridge along both samples."""
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
    """Return the distribution function of both samples in few steps, finer at the ends: widths, and shares below."""
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
    """Return an upper bound of the area hidden by crossings inside cells."""
    left, right = _from_zero_to_one(reference), _from_zero_to_one(current)
    low, high = min(reference.extremes[0], current.extremes[0]), max(reference.extremes[1], current.extremes[1])
    bounds = np.concatenate([[min(low, reference.edges[0])], reference.edges, [max(high, reference.edges[-1])]])
    positive = np.maximum(0.0, left[1:] - right[:-1])
    negative = np.maximum(0.0, right[1:] - left[:-1])
    hidden = 2.0 * np.minimum(positive, negative) * np.diff(bounds)
    return float(np.sum(hidden[_is_hiding(reference, current)]))


def only_one_sample(*, inside: Counts, outside: Counts, worth: Worth = INDEPENDENT) -> Distance:
    """Return the share of a sample's rows whose categories the other sample does not have.

    If both samples come from one distribution, all ways to divide the rows are equally likely: all rows of a value that
    occurs ``k`` times are in one sample with a known probability. The p-value is Cantelli's bound, which is valid for
    any
    distribution: a few rare values mean nothing, and one frequent value means much.

    Args:
        inside: Count in this sample of every category of either sample; at least one row.
        outside: Count of the same categories in the other sample.
        worth: How many independent rows a row of this and of the other sample is worth; a category that occurs counts
            as at least one.
    """
    here, there = (
        np.maximum(np.rint(c * w), c > 0).astype(np.int64) for c, w in zip((inside, outside), worth, strict=True)
    )
    together = here + there
    alone = float(here[outside == 0].sum())
    chance = _all_in_one(together, int(here.sum()), int(there.sum()))
    mean = float(np.sum(together * chance))
    variance = float(np.sum(together.astype(np.float64) ** 2 * chance * (1.0 - chance)))
    excess = alone - mean
    p_value = 1.0 if excess <= 0 else variance / (variance + excess * excess)
    return Distance(float(inside[outside == 0].sum() / inside.sum()), p_value)


def _all_in_one(together: Counts, rows: int, other_rows: int) -> Floats:
    """Return for each ``k`` of ``together`` the probability that all ``k`` rows are among ``rows`` of all rows."""
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

    If both samples come from one distribution, all ways to divide the rows are equally likely, which gives the exact
    probability that so many of the largest values are all current; equal values make it too large. Both ends are
    tested, and the smaller p-value is doubled.

    Args:
        below: Current values below the smallest of the reference.
        above: Current values above the largest.
        rows: Current values, at least one.
        reference_rows: Values of the reference.
        worth: How many independent rows a row of the reference and a current row are worth.
    """
    outside = np.rint(np.array([below, above]) * worth[1]).astype(np.int64)
    chances = _all_in_one(outside, max(1, round(rows * worth[1])), round(reference_rows * worth[0]))
    return Distance((below + above) / rows, min(1.0, 2.0 * float(chances.min())))
