"""Splitting the distance between a reference and what was served by cause.

There are four samples: the reference, the served rows computed with the definition of the reference, these rows
computed with the definition that answered, and these rows as they were served. From the first to the second only the
rows differ (population), from the second to the third only the definition, from the third to the fourth only the path
(skew).

Every measure here is a weighted sum of differences of shares or of distribution functions, and such differences add up
over the steps. The weights, including the sign, are those of the whole distance, so the parts add up to it but for
rounding. A part against the direction of the whole is negative.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Floats
from featurestore.guard.drift.assess import bin_counts, bins_of
from featurestore.guard.drift.counts import CategoryCounts, NumberCounts
from featurestore.guard.drift.distribution import Distribution
from featurestore.guard.drift.measures import LEAST_STD, floored
from featurestore.guard.drift.report import Split

_Weigh = Callable[[Floats], float]


def split(
    *, reference: Distribution, by_reference: Distribution, by_answering: Distribution, served: Distribution
) -> tuple[Split, ...]:
    """Split the distances of one feature.

    Args:
        reference: The reference.
        by_reference: The served rows computed with the definition of the reference, counted like the reference.
        by_answering: The served rows computed with the definition that answered, counted like the reference.
        served: The served rows as they were served, counted like the reference.

    Returns:
        The share of nulls, and if all four samples have values: Kolmogorov-Smirnov, Wasserstein (divided by the
        reference's standard deviation) and the population stability index of numbers, L-infinity and the population
        stability index of categories.
    """
    parts = []
    samples = reference, by_reference, by_answering, served
    if all(sample.row_count for sample in samples):
        nulls = [np.array([sample.null_count / sample.row_count]) for sample in samples]
        parts.append(_parts("null_share", nulls, lambda step: float(step[0])))
    values = [sample.values for sample in samples]
    numbers = [counts for counts in values if isinstance(counts, NumberCounts) and counts.total]
    if len(numbers) == len(samples):
        parts += _of_numbers(numbers, reference.bins)
    categories = [counts for counts in values if isinstance(counts, CategoryCounts) and counts.total]
    if len(categories) == len(samples):
        parts += _of_categories(categories)
    return tuple(parts)


def _parts(measure: str, samples: list[Floats], weigh: _Weigh) -> Split:
    steps = (weigh(later - earlier) for earlier, later in pairwise(samples))
    # Adding 0.0 turns -0.0 into 0.0.
    return Split(measure, *(part + 0.0 for part in (weigh(samples[-1] - samples[0]), *steps)))


def _of_numbers(samples: list[NumberCounts], bins: Floats) -> list[Split]:
    below = [sample.shares_below() for sample in samples]
    areas = [sample.areas() for sample in samples]
    signs = np.sign(areas[-1] - areas[0])
    scale = max(samples[0].std, LEAST_STD)
    edges = bins_of(samples[0], samples[-1], bins)
    return [
        _at_largest("kolmogorov_smirnov", below),
        _parts("wasserstein", areas, lambda step: float(step @ signs) / scale),
        _psi([bin_counts(sample, edges) for sample in samples]),
    ]


def _of_categories(samples: list[CategoryCounts]) -> list[Split]:
    names = sorted(set().union(*(sample.counts for sample in samples)))
    counts = [
        np.array([*(sample.counts[name] for name in names), sample.unnamed], dtype=np.int64) for sample in samples
    ]
    keep = sum(counts) > 0
    counts = [of_sample[keep] for of_sample in counts]
    return [_at_largest("l_infinity", [of_sample / of_sample.sum() for of_sample in counts]), _psi(counts)]


def _at_largest(measure: str, shares: list[Floats]) -> Split:
    whole = shares[-1] - shares[0]
    place = int(np.argmax(np.abs(whole)))
    sign = float(np.sign(whole[place]))
    return _parts(measure, shares, lambda step: sign * float(step[place]))


def _psi(counts: list[npt.NDArray[np.int64]]) -> Split:
    shares = [floored(of_sample) for of_sample in counts]
    logs = np.log(shares[-1] / shares[0])
    return _parts("psi", shares, lambda step: float(step @ logs))
