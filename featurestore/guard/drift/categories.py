"""Counting strings and booleans: the mergeable form of a categorical feature's distribution."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST_CATEGORIES = 1 << 16
"""Different values counted by name; with more, counts are too low by at most ``rows / 65,537``."""


@dataclass
class CategoryCounts:
    """Values counted by name, exact while there are no more than ``MOST_CATEGORIES`` different ones.

    Beyond that the rarest are dropped and counted without a name. The counts that stay are lowered with them, which
    bounds how much any count can be too low, also after merging.

    Attributes:
        counts: Count by value, booleans as ``"true"`` and ``"false"``.
        unnamed: Count of values that are not in ``counts``.
        lowered: By how much at most a count is too low; 0 if all are exact.

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
        found = pc.value_counts(values.drop_null())
        names = found.field("values").cast(pa.string()).to_pylist()
        for name, count in zip(names, found.field("counts").to_pylist(), strict=True):
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
