"""One feature's distribution: nulls, and either numbers in cells or categories by name. Mergeable."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Floats
from featurestore.core.dtypes import DType, parse_dtype
from featurestore.guard.drift.counts import CategoryCounts, NumberCounts
from featurestore.offline.profile import FeatureProfile, Histogram

Values = NumberCounts | CategoryCounts | None

AGED = frozenset({"timestamp", "date"})
"""Kinds of dtypes whose values are compared by their age before ``as_of``."""

_CATEGORICAL = frozenset({"string", "bool"})


@dataclass
class Distribution:
    """The distribution of a feature in one sample.

    Attributes:
        row_count: Rows.
        null_count: Rows without a value.
        values: Counts of the other rows: numbers, ages of instants (microseconds) and of dates (days), and lengths of
            lists and bytes in cells; strings and booleans by name. ``None`` if the reference has no number to place
            edges by.
        bins: Edges of the bins, which are edges of cells; empty for categories.
        worth: How many independent rows a row is worth, below 1 if entities have several rows.
    """

    row_count: int
    null_count: int
    values: Values
    bins: Floats
    worth: float = 1.0

    @property
    def effective_rows(self) -> float:
        """How many independent rows all rows are worth."""
        return self.row_count * self.worth


def is_categorical(dtype: DType) -> bool:
    """Return whether values are counted by name."""
    return dtype.kind in _CATEGORICAL


def to_numbers(array: pa.Array, dtype: DType) -> Floats:
    """Return the values of a column as numbers, without nulls.

    Args:
        array: Values in the Arrow type of the dtype; for instants and dates their ages, see ``to_ages``.
        dtype: Their dtype, not string or bool.
    """
    known = array.drop_null() if array.null_count else array
    if dtype.kind == "list":
        known = pc.list_value_length(known)
    elif dtype.kind == "binary":
        known = pc.binary_length(known)
    elif dtype.kind != "float64":
        known = known.cast(pa.float64(), safe=False)
    return np.ascontiguousarray(known.to_numpy(zero_copy_only=False), dtype=np.float64)


def to_ages(array: pa.ChunkedArray, dtype: DType, as_of: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the ages of instants or dates before the instants asked about; the passing of time is not drift.

    Args:
        array: Instants or dates.
        dtype: Their dtype.
        as_of: The instants asked about.

    Returns:
        Microseconds, or days for dates; negative for values after the instant asked about.
    """
    asked = as_of if dtype.kind == "timestamp" else as_of.cast(pa.date32())
    width = pa.int64() if dtype.kind == "timestamp" else pa.int32()
    return pc.subtract(asked.cast(width), array.cast(width)).cast(pa.int64())


def from_profile(profile: FeatureProfile) -> Distribution:
    """Return the distribution that the manifest of a training set describes.

    Bins and counts come from the manifest. Inside a bin, values are assumed to be spread evenly; the error of distances
    allows for it. Categories beyond the most frequent have no name.

    Args:
        profile: Profile of the feature; profiles of instants and dates have no ages.
    """
    rows, nulls = profile.row_count, profile.null_count
    if profile.histogram is not None and parse_dtype(profile.dtype).kind not in AGED:
        numbers = _from_histogram(profile, profile.histogram)
        return Distribution(rows, nulls, numbers, numbers.edges[:-1])
    if is_categorical(parse_dtype(profile.dtype)):
        named = Counter({_name(top.value): top.count for top in profile.top})
        unnamed = rows - nulls - named.total()
        return Distribution(rows, nulls, CategoryCounts(named, unnamed), np.zeros(0))
    return Distribution(rows, nulls, None, np.zeros(0))


def _name(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _from_histogram(profile: FeatureProfile, histogram: Histogram) -> NumberCounts:
    low, high = (float(end) for end in (profile.minimum, profile.maximum) if end is not None)
    edges = np.array([*histogram.lower_edges, np.nextafter(high, np.inf)], dtype=np.float64)
    counts = np.array([0, *histogram.counts, 0], dtype=np.int64)
    widths = np.diff(np.append(edges[:-1], high))
    if profile.dtype == "int64":
        # The last whole number of a bin lies one below the next edge.
        widths[:-1] -= 1
    sums = np.concatenate([[0.0], counts[1:-1] * widths / 2.0, [0.0]])
    numbers = NumberCounts(edges, counts, sums, np.zeros(2), np.array([low, high]))
    middles = edges[:-1] + widths / 2.0
    distances = middles - edges[len(edges) // 2]
    numbers.moments[:] = (counts[1:-1] * distances).sum(), (counts[1:-1] * distances**2).sum()
    if profile.mean is not None and profile.std is not None:
        total, shift = numbers.total, profile.mean - float(edges[len(edges) // 2])
        numbers.moments[:] = total * shift, profile.std**2 * (total - 1) + total * shift**2
    return numbers
