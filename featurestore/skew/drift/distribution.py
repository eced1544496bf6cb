"""One feature's distribution: nulls, and either numbers in cells or categories by name. Mergeable."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import DType, parse_dtype
from featurestore.offline.profile import FeatureProfile, Histogram
from featurestore.skew.drift.categories import CategoryCounts
from featurestore.skew.drift.numbers import NumberCounts
from featurestore.temporal import instant_us

Floats = npt.NDArray[np.float64]
Values = NumberCounts | CategoryCounts | None

_CATEGORICAL = frozenset({"string", "bool"})
_WHOLE = frozenset({"int64", "date"})
_EPOCH = date(1970, 1, 1)


@dataclass
class Distribution:
    """What the values of a feature look like in one sample.

    Attributes:
        row_count: Rows.
        null_count: Rows without a value.
        values: The others: numbers, instants (microseconds), dates (days) and lengths of lists and bytes in cells,
            strings and booleans by name. ``None`` if no edges are known because the reference has no number.
        bins: Edges of the bins among those of the cells; empty for categories.
    """

    row_count: int
    null_count: int
    values: Values
    bins: Floats

    def __add__(self, other: Distribution) -> Distribution:
        """Count the rows of both, which must be counted alike."""
        rows, nulls = self.row_count + other.row_count, self.null_count + other.null_count
        return Distribution(rows, nulls, _merged(self.values, other.values), self.bins)


def _merged(left: Values, right: Values) -> Values:
    if isinstance(left, NumberCounts) and isinstance(right, NumberCounts):
        return left + right
    if isinstance(left, CategoryCounts) and isinstance(right, CategoryCounts):
        return left + right
    return None


def is_categorical(dtype: DType) -> bool:
    """Tell whether values are counted by name."""
    return dtype.kind in _CATEGORICAL


def to_numbers(array: pa.Array, dtype: DType) -> Floats:
    """Return the values of a column as numbers, nulls left out.

    Args:
        array: Values in the contract's Arrow type.
        dtype: Their dtype, neither string nor bool.
    """
    known = array.drop_null() if array.null_count else array
    if dtype.kind == "list":
        known = pc.list_value_length(known)
    elif dtype.kind == "binary":
        known = pc.binary_length(known)
    elif dtype.kind in {"timestamp", "date"}:
        known = known.cast(pa.int64() if dtype.kind == "timestamp" else pa.int32())
    elif dtype.kind != "float64":
        known = known.cast(pa.float64(), safe=False)
    return np.ascontiguousarray(known.to_numpy(zero_copy_only=False), dtype=np.float64)


def from_profile(profile: FeatureProfile) -> Distribution:
    """Return the distribution that a training set's manifest describes.

    Bins and counts are the manifest's. Inside a bin values are taken to be spread evenly, which is stated as the error
    of what is measured with them; of categories those beyond the most frequent have no name.

    Args:
        profile: Profile of the feature.
    """
    rows, nulls = profile.row_count, profile.null_count
    if profile.histogram is not None:
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
    low, high = _number(profile.minimum), _number(profile.maximum)
    edges = np.array([*histogram.lower_edges, np.nextafter(high, np.inf)], dtype=np.float64)
    counts = np.array([0, *histogram.counts, 0], dtype=np.int64)
    widths = np.diff(np.append(edges[:-1], high))
    if parse_dtype(profile.dtype).kind in _WHOLE:
        # The last whole number of a bin lies one below the next edge.
        widths[:-1] -= 1
    sums = np.concatenate([[0.0], counts[1:-1] * widths / 2.0, [0.0]])
    found = NumberCounts(edges, counts, sums, np.zeros(2), np.array([low, high]))
    middles = edges[:-1] + widths / 2.0
    distances = middles - edges[len(edges) // 2]
    found.moments[:] = (counts[1:-1] * distances).sum(), (counts[1:-1] * distances**2).sum()
    if profile.mean is not None and profile.std is not None:
        total, shift = found.total, profile.mean - float(edges[len(edges) // 2])
        found.moments[:] = total * shift, profile.std**2 * (total - 1) + total * shift**2
    return found


def _number(value: float | int | str | None) -> float:
    if isinstance(value, str):
        if "T" in value:
            return float(instant_us(value, where="profile"))
        return float((date.fromisoformat(value) - _EPOCH).days)
    assert value is not None, "a histogram has a smallest and a largest value"
    return float(value)
