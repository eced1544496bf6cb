"""Where to count: edges that cut numbers into cells.

Edges are fixed before counting, so counts are exact for every value, whatever the order, the batches or the machine,
and add up. Edges decide only how finely a distribution is seen.
"""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Floats
from featurestore.offline.profile import place_edges

FINE_CELLS = 512
"""Cells of about equal weight in which large data are counted."""

COARSE_BINS = 20
"""Bins for the measures that need bins, where a training set's manifest does not say which."""

MOST_KEPT = 1 << 15
"""Values kept of each feature to place edges; data with no more of them are counted value by value."""


def fine_edges(ordered: Floats, bins: Floats) -> Floats:
    """Return the edges of many cells, among them those of the bins.

    A value that occurs often, and every one of a few, is alone in its cell: what lies close to it but is not equal is
    told apart.

    Args:
        ordered: Values of the reference, ascending, at least one.
        bins: Lower edges of the bins.
    """
    values, counts = np.unique(ordered, return_counts=True)
    alone = values if len(values) <= FINE_CELLS else values[counts * FINE_CELLS >= 2 * len(ordered)]
    return np.unique(np.concatenate([place_edges(ordered, FINE_CELLS), np.nextafter(alone, np.inf), bins]))


class Sample:
    """Every k-th value of a stream, k doubling as the stream grows: bounded, and the same for any batches.

    Attributes:
        extremes: Smallest and largest of all values; infinite, the wrong way round, while there is none.
    """

    def __init__(self) -> None:
        self._parts: list[Floats] = []
        self._kept = 0
        self._step = 1
        self._seen = 0
        self.extremes = np.inf, -np.inf

    @property
    def is_complete(self) -> bool:
        """Whether every value was kept."""
        return self._step == 1

    def add(self, values: Floats) -> None:
        """Take the next values of the stream."""
        taken = values[(-self._seen) % self._step :: self._step]
        self._seen += len(values)
        if len(values):
            low, high = self.extremes
            self.extremes = min(low, float(values.min())), max(high, float(values.max()))
        self._parts.append(np.array(taken))
        self._kept += len(taken)
        while self._kept > MOST_KEPT:
            halved = np.concatenate(self._parts)[::2]
            self._parts, self._kept, self._step = [halved], len(halved), self._step * 2

    def ordered(self) -> Floats:
        """Return what was kept, ascending."""
        return np.sort(np.concatenate(self._parts)) if self._parts else np.zeros(0)
