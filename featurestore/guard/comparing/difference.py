"""How far apart numbers lie that should be equal: sums and a sketch that can be added piece by piece. Pure.

Quantiles come from a histogram on a logarithmic scale, so that two pieces of a log can be measured separately and
added, and no difference has to be kept.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Floats
from featurestore.core.dtypes import DType

_GROWTH = 1.01
_LOG_GROWTH = math.log(_GROWTH)
_QUANTILES = (0.5, 0.9, 0.99)
_LARGEST = float(np.finfo(np.float64).max)
_MOST_BINS = 16


@dataclass(frozen=True)
class DifferenceBin:
    """Absolute differences of about one size.

    Attributes:
        up_to: Largest difference that is counted; the previous bin ends where this one begins.
        pairs: Count of differences.
    """

    up_to: float
    pairs: int


@dataclass(frozen=True)
class NumberDifferences:
    """How far apart the numbers of one feature lie, where both roads have one and they differ.

    Attributes:
        count: Pairs of numbers that differ.
        largest_absolute: Largest ``|current - reference|``.
        mean_absolute: Mean of the same.
        largest_relative: Largest ``|current - reference| / |reference|``; ``None`` if every reference is 0.
        mean_relative: Mean of the same, over references other than 0.
        mean_symmetric: Mean of ``2 |current - reference| / (|current| + |reference|)``, 0 to 2.
        mean_signed: Mean of ``current - reference``: positive if serving lies above.
        median: Median of the absolute difference, accurate to 0.5 %.
        p90: Its 90th percentile, accurate to 0.5 %.
        p99: Its 99th percentile, accurate to 0.5 %.
        largest_ulp: Largest count of floats between the two; ``None`` for other dtypes.
        histogram: Absolute differences other than 0 by size, on a logarithmic scale, smallest first.
    """

    count: int
    largest_absolute: float
    mean_absolute: float
    largest_relative: float | None
    mean_relative: float | None
    mean_symmetric: float
    mean_signed: float
    median: float
    p90: float
    p99: float
    largest_ulp: int | None
    histogram: tuple[DifferenceBin, ...] = ()


@dataclass
class DifferenceTally:
    """Sums over differences; tallies of two pieces can be added."""

    count: int = 0
    absolute: float = 0.0
    signed: float = 0.0
    symmetric: float = 0.0
    relative: float = 0.0
    with_relative: int = 0
    largest_absolute: float = 0.0
    largest_relative: float = 0.0
    largest_ulp: int | None = None
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, other: DifferenceTally) -> None:
        """Count what another tally counted."""
        self.count += other.count
        self.absolute = _bounded(self.absolute + other.absolute)
        self.signed = _bounded(self.signed + other.signed)
        self.symmetric += other.symmetric
        self.relative = _bounded(self.relative + other.relative)
        self.with_relative += other.with_relative
        self.largest_absolute = max(self.largest_absolute, other.largest_absolute)
        self.largest_relative = max(self.largest_relative, other.largest_relative)
        ulps = [ulp for ulp in (self.largest_ulp, other.largest_ulp) if ulp is not None]
        self.largest_ulp = max(ulps, default=None)
        self.buckets.update(other.buckets)

    def summary(self) -> NumberDifferences | None:
        """Return means, extremes and quantiles; ``None`` if no pair was counted."""
        if self.count == 0:
            return None
        median, p90, p99 = (self._quantile(share) for share in _QUANTILES)
        return NumberDifferences(
            count=self.count,
            largest_absolute=self.largest_absolute,
            mean_absolute=self.absolute / self.count,
            largest_relative=self.largest_relative if self.with_relative else None,
            mean_relative=self.relative / self.with_relative if self.with_relative else None,
            mean_symmetric=self.symmetric / self.count,
            mean_signed=self.signed / self.count,
            median=median,
            p90=p90,
            p99=p99,
            largest_ulp=self.largest_ulp,
            histogram=self._histogram(),
        )

    def _histogram(self) -> tuple[DifferenceBin, ...]:
        if not self.buckets:
            return ()
        first, last = min(self.buckets), max(self.buckets)
        width = max(1, -(-(last - first + 1) // _MOST_BINS))
        counts: Counter[int] = Counter()
        for bucket, count in self.buckets.items():
            counts[(bucket - first) // width] += count
        edges = (first + (place + 1) * width - 1 for place in range(max(counts) + 1))
        return tuple(
            DifferenceBin(min(math.exp(min(edge * _LOG_GROWTH, 709.0)), self.largest_absolute), counts[place])
            for place, edge in enumerate(edges)
        )

    def _quantile(self, share: float) -> float:
        """Return the middle of the bucket in which a quantile lies, never more than the largest difference."""
        rank = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                middle = 2 * math.exp(bucket * _LOG_GROWTH) / (_GROWTH + 1)
                return min(middle, self.largest_absolute)
        return self.largest_absolute


def tally_differences(reference: pa.Array, current: pa.Array, dtype: DType) -> tuple[DifferenceTally, Floats]:
    """Measure pairs of numbers that differ.

    Args:
        reference: Numbers of one road, no nulls.
        current: Numbers of the other, of the same dtype.
        dtype: ``int64``, ``float64`` or ``decimal``.

    Returns:
        The tally, and the absolute difference of each pair.
    """
    left, right = _floats(reference), _floats(current)
    absolute = _absolute(reference, current, dtype, left, right)
    if len(absolute) == 0:
        return DifferenceTally(), absolute
    signed = np.where(right >= left, absolute, -absolute)
    size = np.abs(left)
    has_relative = size > 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        relative = np.minimum(absolute[has_relative] / size[has_relative], _LARGEST)
        # Divided by the larger one first: neither sums nor tiny numbers leave the range of floats.
        larger = np.maximum(size, np.abs(right))
        symmetric = 2 * (absolute / larger) / (size / larger + np.abs(right) / larger)
        symmetric = np.where(larger > 0, symmetric, 0.0)
    tally = DifferenceTally(
        count=len(absolute),
        absolute=_total(absolute),
        signed=_total(signed),
        symmetric=_total(np.minimum(symmetric, 2.0)),
        relative=_total(relative),
        with_relative=int(has_relative.sum()),
        largest_absolute=float(absolute.max()),
        largest_relative=float(relative.max()) if len(relative) else 0.0,
        largest_ulp=_largest_ulp(left, right) if dtype.kind == "float64" else None,
        buckets=_bucketed(absolute),
    )
    return tally, absolute


def _total(values: Floats) -> float:
    """Return a sum; the largest float if it is too large for one."""
    with np.errstate(over="ignore"):
        return _bounded(float(values.sum()))


def _bounded(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)


def _floats(array: pa.Array) -> Floats:
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def _absolute(reference: pa.Array, current: pa.Array, dtype: DType, left: Floats, right: Floats) -> Floats:
    """Return absolute differences; of whole numbers and decimals exactly, rounded once."""
    if dtype.kind == "float64":
        with np.errstate(over="ignore"):
            return np.minimum(np.abs(right - left), _LARGEST)
    pairs = zip(reference.to_pylist(), current.to_pylist(), strict=True)
    return np.array([float(abs(now - then)) for then, now in pairs], dtype=np.float64)


def _bucketed(absolute: Floats) -> Counter[int]:
    positive = absolute[absolute > 0]
    numbers, counts = np.unique(np.ceil(np.log(positive) / _LOG_GROWTH).astype(np.int64), return_counts=True)
    return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))


def distances(
    reference: pa.Array, current: pa.Array, dtype: DType
) -> tuple[Floats, Floats, npt.NDArray[np.uint64] | None]:
    """Return for pairs of numbers how far apart they lie, the size of the first, and the count of floats between them.

    Args:
        reference: Numbers of one road, no nulls.
        current: Numbers of the other, of the same dtype.
        dtype: ``int64``, ``float64`` or ``decimal``; floats are counted for ``float64`` only.
    """
    left, right = _floats(reference), _floats(current)
    steps = _steps(left, right) if dtype.kind == "float64" else None
    return _absolute(reference, current, dtype, left, right), np.abs(left), steps


def _largest_ulp(left: Floats, right: Floats) -> int:
    """Return the largest count of steps from one float to the other."""
    return int(_steps(left, right).max())


def _steps(left: Floats, right: Floats) -> npt.NDArray[np.uint64]:
    first, second = (_ordered(side) for side in (left, right))
    return np.where(first > second, first - second, second - first)


def _ordered(values: Floats) -> npt.NDArray[np.uint64]:
    """Return whole numbers that count floats in ascending order."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    top = np.uint64(1 << 63)
    # Zero and negative zero are one number.
    return np.where(bits & top != 0, top - (bits & ~top), bits + top)
