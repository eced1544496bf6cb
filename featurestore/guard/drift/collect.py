"""Reading samples into distributions: in batches, each sample at most twice, with bounded memory.

Numbers are counted in cells. The edges of the cells come from the reference and are fixed before counting, so counts
are exact and add up, whatever the order, the batches or the machine; edges only decide how finely a distribution is
seen. If both samples have few values of a feature, every value has a cell of its own; otherwise the edges are placed by
a sample of the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Floats
from featurestore.core.dtypes import DType
from featurestore.guard.drift.counts import CategoryCounts, NumberCounts
from featurestore.guard.drift.distribution import Distribution, is_categorical, to_numbers
from featurestore.guard.drift.rows import Batch, Rows
from featurestore.offline.profile import place_edges

FINE_CELLS = 512
"""Cells of about equal weight in which large data are counted."""

COARSE_BINS = 20
"""Count of bins, for the measures that need bins, if there is no manifest that has them."""

MOST_KEPT = 1 << 15
"""Values kept of each feature to place edges. Samples with at most so many values are counted value by value."""


def fine_edges(ordered: Floats, bins: Floats) -> Floats:
    """Return the edges of many cells, among them those of the bins.

    A frequent value has a cell of its own, and so has every value if there are few: values close to it are counted
    apart.

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
        extremes: Smallest and largest of all values; ``(inf, -inf)`` before the first value.
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
        """Add the next values of the stream."""
        kept = values[(-self._seen) % self._step :: self._step]
        self._seen += len(values)
        if len(values):
            low, high = self.extremes
            self.extremes = min(low, float(values.min())), max(high, float(values.max()))
        self._parts.append(np.array(kept))
        self._kept += len(kept)
        while self._kept > MOST_KEPT:
            halved = np.concatenate(self._parts)[::2]
            self._parts, self._kept, self._step = [halved], len(halved), self._step * 2

    def ordered(self) -> Floats:
        """Return the kept values, ascending."""
        return np.sort(np.concatenate(self._parts)) if self._parts else np.zeros(0)


Sink = Sample | NumberCounts | CategoryCounts

_NO_BINS: Floats = np.zeros(0)


@dataclass
class _FeatureCounter:
    """Counts the rows of one feature."""

    dtype: DType
    sink: Sink
    row_count: int = 0
    null_count: int = 0

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        self.row_count += len(column)
        self.null_count += column.null_count
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else (column,):
            if isinstance(self.sink, CategoryCounts):
                self.sink.add(chunk)
            else:
                self.sink.add(to_numbers(chunk, self.dtype))


@dataclass(frozen=True)
class Pair:
    """Two samples of one feature, counted in the same cells."""

    reference: Distribution
    current: Distribution


@dataclass(frozen=True)
class _Cells:
    """The cells and bins of one feature, by their edges."""

    edges: Floats
    bins: Floats


@dataclass
class Collector:
    """Counts samples of the same features.

    Attributes:
        dtypes: The features' dtypes, by column.
        threads: Count of threads that count; the result does not depend on it.
        bins: Lower edges of bins, by column; columns without them get bins placed by the reference.
    """

    dtypes: Mapping[str, DType]
    threads: int = 2
    bins: Mapping[str, Floats] = field(default_factory=dict)

    def pairs(self, *, reference: Rows, current: Rows) -> dict[str, Pair]:
        """Count two samples.

        Args:
            reference: The earlier or offline sample.
            current: The later or served one.

        Returns:
            Both distributions of every feature.
        """
        first = self._counters({name: self._sink(name) for name in self.dtypes})
        self._read(reference(), first)
        cells = {name: self._cells(name, counter) for name, counter in first.items()}
        second = self._counters({name: self._second_sink(name, first, cells) for name in self.dtypes})
        self._read(current(), second)
        again: dict[str, _Cells] = {}
        for name, placed in cells.items():
            left, right = first[name].sink, second[name].sink
            if isinstance(left, Sample) and isinstance(right, Sample) and right.is_complete:
                values = np.concatenate([left.ordered(), right.ordered()])
                exact = np.unique(np.concatenate([placed.edges, values]))
                if len(exact) == 0:
                    continue
                for counter, sample in ((first[name], left), (second[name], right)):
                    counter.sink = NumberCounts.empty(exact)
                    counter.sink.add(sample.ordered())
            elif isinstance(left, Sample):
                again[name] = placed
        self._recount(reference, first, again)
        self._recount(
            current, second, {name: placed for name, placed in again.items() if isinstance(second[name].sink, Sample)}
        )
        return {
            name: Pair(_distribution(first[name], cells.get(name)), _distribution(second[name], cells.get(name)))
            for name in self.dtypes
        }

    def like(self, reference: Mapping[str, Distribution], rows: Iterable[Batch]) -> dict[str, Distribution]:
        """Count a sample in the cells of known distributions.

        Args:
            reference: Distributions, by column.
            rows: The sample, read once.
        """
        (distributions,) = self.all_like(reference, ((batch,) for batch in rows), samples=1)
        return distributions

    def all_like(
        self, reference: Mapping[str, Distribution], rows: Iterable[Sequence[Batch]], *, samples: int
    ) -> tuple[dict[str, Distribution], ...]:
        """Count samples that are read together in the cells of known distributions.

        Args:
            reference: Distributions, by column.
            rows: A batch of each sample at a time, read once.
            samples: Count of samples.
        """
        counters = [
            self._counters({name: self._sink_like(name, reference[name]) for name in self.dtypes})
            for _ in range(samples)
        ]
        for batches in rows:
            for batch, of_sample in zip(batches, counters, strict=True):
                self._read([batch], of_sample)
        return tuple(
            {
                name: _distribution(counter, _Cells(_NO_BINS, reference[name].bins))
                for name, counter in of_sample.items()
            }
            for of_sample in counters
        )

    def _sink(self, name: str) -> Sink:
        return CategoryCounts() if is_categorical(self.dtypes[name]) else Sample()

    def _sink_like(self, name: str, known: Distribution) -> Sink:
        return NumberCounts.empty(known.values.edges) if isinstance(known.values, NumberCounts) else self._sink(name)

    def _second_sink(self, name: str, first: Mapping[str, _FeatureCounter], cells: Mapping[str, _Cells]) -> Sink:
        sink = first[name].sink
        if isinstance(sink, Sample) and not sink.is_complete:
            return NumberCounts.empty(cells[name].edges)
        return self._sink(name)

    def _cells(self, name: str, counter: _FeatureCounter) -> _Cells:
        if not isinstance(counter.sink, Sample) or counter.null_count == counter.row_count:
            return _Cells(_NO_BINS, _NO_BINS)
        ordered = counter.sink.ordered()
        low, high = counter.sink.extremes
        bins = self.bins.get(name)
        if bins is None:
            bins = place_edges(ordered, COARSE_BINS)
            bins[0] = low
        ends = np.array([low, np.nextafter(high, np.inf)])
        return _Cells(np.unique(np.concatenate([fine_edges(ordered, bins), ends])), bins)

    def _counters(self, sinks: Mapping[str, Sink]) -> dict[str, _FeatureCounter]:
        return {name: _FeatureCounter(self.dtypes[name], sink) for name, sink in sinks.items()}

    def _read(self, rows: Iterable[Batch], counters: Mapping[str, _FeatureCounter]) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            for batch in rows:
                names = [name for name in counters if name in batch.schema.names]
                for _ in pool.map(lambda name, batch=batch: counters[name].add(batch.column(name)), names):
                    pass

    def _recount(self, rows: Rows, counters: dict[str, _FeatureCounter], cells: Mapping[str, _Cells]) -> None:
        sinks = {name: NumberCounts.empty(placed.edges) for name, placed in cells.items() if len(placed.edges)}
        if not sinks:
            return
        again = self._counters(sinks)
        self._read(rows(), again)
        counters |= again


def _distribution(counter: _FeatureCounter, cells: _Cells | None) -> Distribution:
    values = None if isinstance(counter.sink, Sample) else counter.sink
    return Distribution(counter.row_count, counter.null_count, values, _NO_BINS if cells is None else cells.bins)
