"""Splitting the distance between a reference and what was served into what caused it.

Four samples: the reference, the rows that were served as the reference's definition has them, these rows as the
definition that answered has them, and as they were answered. From the first to the second only the rows differ
(population), to the third only the definition, to the fourth only the road (skew).

Every measure here weighs differences of shares or of distribution functions, and such differences add up over the
steps. The weights, among them the sign, are those of the whole distance, so the parts add up to it exactly, but for
rounding. A part against the direction of the whole is negative.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Floats
from featurestore.guard.drift.assess import bin_counts, bins_of
from featurestore.guard.drift.categories import CategoryCounts
from featurestore.guard.drift.distribution import Distribution
from featurestore.guard.drift.measures import LEAST_STD, floored
from featurestore.guard.drift.numbers import NumberCounts
from featurestore.guard.drift.report import Split

_Weigh = Callable[[Floats], float]


def split(
    *, reference: Distribution, by_reference: Distribution, by_answering: Distribution, served: Distribution
) -> tuple[Split, ...]:
    """Split the distances of one feature.

    Args:
        reference: The reference.
        by_reference: The served rows as the reference's definition has them, counted like the reference.
        by_answering: The served rows as the definition that answered has them, counted like the reference.
        served: The served rows as they were answered, counted like the reference.

    Returns:
        The share of nulls, and where all four have values: Kolmogorov-Smirnov, Wasserstein (divided by the reference's
        standard deviation) and the population stability index of numbers, L-infinity and the population stability
        index of categories.
    """
    found = []
    samples = reference, by_reference, by_answering, served
    if all(sample.row_count for sample in samples):
        nulls = [np.array([sample.null_count / sample.row_count]) for sample in samples]
        found.append(_parts("null_share", nulls, lambda step: float(step[0])))
    values = [sample.values for sample in samples]
    numbers = [one for one in values if isinstance(one, NumberCounts) and one.total]
    if len(numbers) == len(samples):
        found += _of_numbers(numbers, reference.bins)
    categories = [one for one in values if isinstance(one, CategoryCounts) and one.total]
    if len(categories) == len(samples):
        found += _of_categories(categories)
    return tuple(found)


def _parts(measure: str, samples: list[Floats], weigh: _Weigh) -> Split:
    steps = (weigh(later - earlier) for earlier, later in pairwise(samples))
    # A zero has no sign: nothing leads back.
    return Split(measure, *(part + 0.0 for part in (weigh(samples[-1] - samples[0]), *steps)))


def _of_numbers(samples: list[NumberCounts], bins: Floats) -> list[Split]:
    below = [one.shares_below() for one in samples]
    areas = [one.areas() for one in samples]
    signs = np.sign(areas[-1] - areas[0])
    scale = max(samples[0].std, LEAST_STD)
    edges = bins_of(samples[0], samples[-1], bins)
    return [
        _at_largest("kolmogorov_smirnov", below),
        _parts("wasserstein", areas, lambda step: float(step @ signs) / scale),
        _stability([bin_counts(one, edges) for one in samples]),
    ]


def _of_categories(samples: list[CategoryCounts]) -> list[Split]:
    names = sorted(set().union(*(one.counts for one in samples)))
    counts = [np.array([*(one.counts[name] for name in names), one.unnamed], dtype=np.int64) for one in samples]
    keep = sum(counts) > 0
    counts = [one[keep] for one in counts]
    return [_at_largest("l_infinity", [one / one.sum() for one in counts]), _stability(counts)]


def _at_largest(measure: str, shares: list[Floats]) -> Split:
    whole = shares[-1] - shares[0]
    place = int(np.argmax(np.abs(whole)))
    sign = float(np.sign(whole[place]))
    return _parts(measure, shares, lambda step: sign * float(step[place]))


def _stability(counts: list[npt.NDArray[np.int64]]) -> Split:
    shares = [floored(one) for one in counts]
    logs = np.log(shares[-1] / shares[0])
    return _parts("psi", shares, lambda step: float(step @ logs))
