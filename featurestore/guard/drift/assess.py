"""Measuring how far two distributions of a feature lie apart, for its part of the report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Floats
from featurestore.guard.drift.counts import CategoryCounts, NumberCounts
from featurestore.guard.drift.distribution import Distribution
from featurestore.guard.drift.measures import (
    INDEPENDENT,
    Distance,
    Worth,
    beyond_range,
    chi_square,
    jensen_shannon,
    kolmogorov_smirnov,
    largest_share_difference,
    only_one_sample,
    psi,
    share_difference,
    wasserstein,
)
from featurestore.guard.drift.report import (
    Bins,
    Category,
    FeatureDrift,
    Measured,
)

Counts = npt.NDArray[np.int64]

SHOWN_CATEGORIES = 20
"""Largest count of categories that a report names."""

_LEAST_EXPECTED = 5.0
_Binned = Callable[[Counts, Counts, Worth], Distance]
_OF_BINS: dict[str, _Binned] = {"psi": psi, "jensen_shannon": jensen_shannon, "chi_square": chi_square}


def assess(
    name: str, dtype: str, *, reference: Distribution, current: Distribution, significance: float
) -> FeatureDrift:
    """Measure how far one feature moved.

    Args:
        name: Column.
        dtype: Its dtype.
        reference: The earlier or offline distribution.
        current: The later or served one, counted in the same cells.
        significance: Probability with which chance exceeds the reported distances by chance.

    Returns:
        The part of the report about the feature, not judged.
    """
    distances: dict[str, Distance] = {}
    details: dict[str, object] = {}
    left, right = reference.values, current.values
    worth = reference.worth, current.worth
    if isinstance(left, NumberCounts) and isinstance(right, NumberCounts):
        details |= _ranges(left, right)
        if left.total and right.total:
            edges = bins_of(left, right, reference.bins)
            bins = bin_counts(left, edges), bin_counts(right, edges)
            distances |= _numbers(left, right, *bins, worth)
            details["bins"] = Bins(*(tuple(part.tolist()) for part in (edges, *bins)))
    elif isinstance(left, CategoryCounts) and isinstance(right, CategoryCounts) and left.total and right.total:
        distances |= _categories(left, right, worth)
        details |= _category_details(left, right)
    if reference.row_count and current.row_count:
        distances["null_share"] = share_difference(
            reference=reference.null_count,
            reference_rows=reference.row_count,
            current=current.null_count,
            current_rows=current.row_count,
            worth=worth,
        )
    measures = tuple(_measured(measure, distance, significance) for measure, distance in distances.items())
    return FeatureDrift(
        name,
        dtype,
        reference.row_count,
        current.row_count,
        round(reference.effective_rows),
        round(current.effective_rows),
        reference.null_count,
        current.null_count,
        measures,
        **details,  # type: ignore[arg-type]  # every key is the name of a field
    )


def _measured(measure: str, distance: Distance, significance: float) -> Measured:
    by_chance = distance.limit(significance)
    # NumPy numbers have no JSON form.
    return Measured(
        measure,
        float(distance.value),
        float(distance.p_value),
        None if by_chance is None else float(by_chance),
        float(distance.error),
    )


def bins_of(reference: NumberCounts, current: NumberCounts, bins: Floats) -> Floats:
    """Return the lower edges of bins for two samples: those of the reference, and bins outside its range.

    Values below and above the range have bins of their own if they are frequent enough for the formulas of chance;
    otherwise they are counted in the first and the last bin. So a feature that had one value in training and has
    another value now differs.

    Args:
        reference: The reference's counts; at least one value.
        current: Counts of the current sample in the same cells; at least one value.
        bins: Lower edges of the reference's bins, the first one its smallest value.
    """
    below, above = _outside(reference, current)
    least = _LEAST_EXPECTED / _smaller_share(reference.total, current.total)
    if below >= least:
        bins = np.concatenate([current.extremes[:1], bins])
    if above >= least:
        bins = np.append(bins, np.nextafter(reference.extremes[1], np.inf))
    return bins


def _smaller_share(reference_rows: float, current_rows: float) -> float:
    return min(reference_rows, current_rows) / (reference_rows + current_rows)


def _outside(reference: NumberCounts, current: NumberCounts) -> tuple[int, int]:
    """Return the counts of current values below and above the range of the reference."""
    low, high = reference.extremes
    below = int(current.counts[: np.searchsorted(current.edges, low) + 1].sum())
    above = int(current.counts[np.searchsorted(current.edges, high, side="right") + 1 :].sum())
    return below, above


def bin_counts(numbers: NumberCounts, bins: Floats) -> Counts:
    """Return counts per bin; values below the first edge are in the first bin.

    Args:
        numbers: The counts per cell.
        bins: Lower edges, which must be edges of cells.
    """
    upto = np.concatenate([[0], np.cumsum(numbers.counts)])
    places = np.searchsorted(numbers.edges, bins[1:]) + 1
    return np.diff(np.concatenate([[0], upto[places], upto[-1:]])).astype(np.int64)


def aligned(reference: CategoryCounts, current: CategoryCounts, worth: Worth = INDEPENDENT) -> tuple[Counts, Counts]:
    """Return the counts of the same categories in both samples; rare categories are counted together.

    A category is rare if fewer than five independent rows of it are expected in the smaller sample. Rare categories and
    those without a name say nothing one by one, and as separate categories they would hide the others.
    """
    names = sorted(reference.counts.keys() | current.counts.keys())
    left, right = (np.array([side.counts[name] for name in names], dtype=np.int64) for side in (reference, current))
    rows = reference.total * worth[0], current.total * worth[1]
    shared = (left * worth[0] + right * worth[1]) * _smaller_share(*rows) >= _LEAST_EXPECTED
    if reference.unnamed or current.unnamed:
        shared &= (left > 0) & (right > 0)
    sides = []
    for counts, total in ((left, reference.total), (right, current.total)):
        kept = counts[shared]
        sides.append(np.append(kept, total - kept.sum()))
    keep = sides[0] + sides[1] > 0
    return sides[0][keep], sides[1][keep]


def _numbers(
    left: NumberCounts, right: NumberCounts, left_bins: Counts, right_bins: Counts, worth: Worth
) -> dict[str, Distance]:
    distances = {
        "kolmogorov_smirnov": kolmogorov_smirnov(left, right, worth),
        "wasserstein": wasserstein(left, right, worth),
    }
    distances |= {name: measure(left_bins, right_bins, worth) for name, measure in _OF_BINS.items()}
    below, above = _outside(left, right)
    distances["beyond_range"] = beyond_range(
        below=below, above=above, rows=right.total, reference_rows=left.total, worth=worth
    )
    return distances


def _ranges(left: NumberCounts, right: NumberCounts) -> dict[str, object]:
    details: dict[str, object] = {}
    for side, numbers in (("reference", left), ("current", right)):
        if numbers.total:
            details |= {f"{side}_range": tuple(map(float, numbers.extremes)), f"{side}_mean": numbers.mean}
    return details


def _categories(left: CategoryCounts, right: CategoryCounts, worth: Worth) -> dict[str, Distance]:
    pair = aligned(left, right, worth)
    distances = {"l_infinity": largest_share_difference(*pair, worth)}
    distances |= {name: measure(*pair, worth) for name, measure in _OF_BINS.items()}
    if left.unnamed or right.unnamed:
        return distances
    names = list(left.counts | right.counts)
    before, now = (np.array([side.counts[name] for name in names], dtype=np.int64) for side in (left, right))
    distances["new_categories"] = only_one_sample(inside=now, outside=before, worth=worth[::-1])
    distances["vanished_categories"] = only_one_sample(inside=before, outside=now, worth=worth)
    return distances


def _category_details(left: CategoryCounts, right: CategoryCounts) -> dict[str, object]:
    share = {name: count / left.total for name, count in left.counts.items()}
    for name, count in right.counts.items():
        share[name] = share.get(name, 0.0) + count / right.total
    ranked = sorted(share, key=lambda name: (-share[name], name))
    categories = [Category(name, left.counts[name], right.counts[name]) for name in ranked]
    details: dict[str, object] = {"categories": tuple(categories[:SHOWN_CATEGORIES])}
    if not left.unnamed and not right.unnamed:
        details["new_categories"] = tuple(part for part in categories if not part.reference)[:SHOWN_CATEGORIES]
        details["vanished_categories"] = tuple(part for part in categories if not part.current)[:SHOWN_CATEGORIES]
    return details
