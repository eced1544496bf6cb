"""Counts of a feature's values that can be merged: numbers in cells, strings and booleans by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Floats, Ints


@dataclass
class NumberCounts:
    """Numbers counted into cells.

    Cell 0 lies below the first edge, cell ``i`` from edge ``i - 1`` (inclusive) to edge ``i`` (exclusive), the last one
    from the last edge on. Counts are exact. The sums give the area between two distributions cell by cell.

    Attributes:
        edges: Ascending.
        counts: Values per cell, one cell more than edges.
        sums: Per cell the sum of the distances of its values from the cell's lower edge; in cell 0 from the first edge,
            hence negative.
        moments: Sum and sum of squares of the distances of all values from the middle edge.
        extremes: Smallest and largest value; ``[inf, -inf]`` before the first value.
    """

    edges: Floats
    counts: Ints
    sums: Floats
    moments: Floats
    extremes: Floats

    @classmethod
    def empty(cls, edges: Floats) -> NumberCounts:
        """Return empty counts.

        Args:
            edges: Ascending, at least one.
        """
        cells = len(edges) + 1
        return cls(edges, np.zeros(cells, np.int64), np.zeros(cells), np.zeros(2), np.array([np.inf, -np.inf]))

    @property
    def total(self) -> int:
        """Count of all values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean of all values; there must be one."""
        return float(self._middle + self.moments[0] / self.total)

    @property
    def std(self) -> float:
        """Standard deviation of all values, divided by their count; there must be one."""
        total = self.total
        return float(np.sqrt(max(0.0, self.moments[1] - self.moments[0] ** 2 / total) / total))

    @property
    def _middle(self) -> float:
        return float(self.edges[len(self.edges) // 2])

    def add(self, values: Floats) -> None:
        """Count more values; they must be finite.

        The values are sorted and the few edges are looked up among them. Looking up the cell of each value takes
        several times as long.
        """
        if len(values) == 0:
            return
        ordered = np.sort(values)
        starts = np.concatenate([[0], np.searchsorted(ordered, self.edges)])
        counts = np.diff(starts, append=len(ordered))
        lower = np.concatenate([self.edges[:1], self.edges])
        filled = np.flatnonzero(counts)
        distances = ordered - np.repeat(lower, counts)
        self.counts += counts
        self.sums[filled] += np.add.reduceat(distances, starts[filled])
        from_middle = ordered - self._middle
        self.moments += from_middle.sum(), np.square(from_middle).sum()
        self.extremes[:] = min(self.extremes[0], ordered[0]), max(self.extremes[1], ordered[-1])

    def __add__(self, other: NumberCounts) -> NumberCounts:
        """Count the values of both; their edges must be the same."""
        low, high = min(self.extremes[0], other.extremes[0]), max(self.extremes[1], other.extremes[1])
        return NumberCounts(
            self.edges,
            self.counts + other.counts,
            self.sums + other.sums,
            self.moments + other.moments,
            np.array([low, high]),
        )

    def shares_below(self) -> Floats:
        """Return for each edge the share of values below it; there must be a value."""
        return np.cumsum(self.counts)[:-1] / self.total

    def areas(self) -> Floats:
        """Return per cell the area under the distribution function.

        In cell 0 that is the area from minus infinity on. In the last cell it is the area between the distribution
        function and 1, negated, so that differences of two distributions are right in both cells.
        """
        total = self.total
        areas = np.empty(len(self.counts))
        areas[0] = -self.sums[0] / total
        areas[-1] = -self.sums[-1] / total
        if len(self.edges) > 1:
            widths = np.diff(self.edges)
            inner = self.counts[1:-1] * widths - self.sums[1:-1]
            areas[1:-1] = self.shares_below()[:-1] * widths + inner / total
        return areas


MOST_CATEGORIES = 1 << 16
"""Largest count of values counted by name; with more, counts are too low by at most ``rows / 65,537``."""


@dataclass
class CategoryCounts:
    """Values counted by name, exact for at most ``MOST_CATEGORIES`` different values.

    With more values the rarest are dropped and counted without a name. The other counts are lowered by the same number,
    which bounds the error of every count, also after merging.

    Attributes:
        counts: Count by value, booleans as ``"true"`` and ``"false"``.
        unnamed: Count of values that are not in ``counts``.
        lowered: Largest error of a count, which is too low by it; 0 if all counts are exact.

    Source:
        Misra and Gries 1982; merging after Agarwal et al. 2012, "Mergeable summaries".
    """

    counts: Counter[str] = field(default_factory=Counter)
    unnamed: int = 0
    lowered: int = 0

    @property
    def total(self) -> int:
        """Count of all values."""
        return self.counts.total() + self.unnamed

    def add(self, values: pa.Array) -> None:
        """Count more strings or booleans; nulls are left out."""
        counts = pc.value_counts(values.drop_null())
        names = counts.field("values").cast(pa.string()).to_pylist()
        for name, count in zip(names, counts.field("counts").to_pylist(), strict=True):
            self.counts[name] += count
        self._bound()

    def __add__(self, other: CategoryCounts) -> CategoryCounts:
        """Count the values of both."""
        merged = CategoryCounts(self.counts + other.counts, self.unnamed + other.unnamed, self.lowered + other.lowered)
        merged._bound()
        return merged

    def _bound(self) -> None:
        if len(self.counts) <= MOST_CATEGORIES:
            return
        sizes = np.fromiter(self.counts.values(), np.int64, len(self.counts))
        lower = int(np.partition(sizes, -MOST_CATEGORIES - 1)[-MOST_CATEGORIES - 1])
        before = self.counts.total()
        self.counts = Counter({name: count - lower for name, count in self.counts.items() if count > lower})
        self.unnamed += before - self.counts.total()
        self.lowered += lower
