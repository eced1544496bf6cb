"""Reading samples into distributions: in batches, each sample at most twice, memory bounded.

The edges of cells come from the reference. Where both samples have few values of a feature these are counted one by
one, exactly; else in cells that are placed by a sample of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Floats
from featurestore.core.dtypes import DType
from featurestore.guard.drift.categories import CategoryCounts
from featurestore.guard.drift.distribution import Distribution, is_categorical, to_numbers
from featurestore.guard.drift.entities import Batch
from featurestore.guard.drift.grid import COARSE_BINS, Sample, fine_edges
from featurestore.guard.drift.numbers import NumberCounts
from featurestore.offline.profile import place_edges

Rows = Callable[[], Iterable[Batch]]
"""Reads a sample from its beginning, in batches with one column per feature; may be called twice.

A batch may lack columns: its rows are then no rows of these features. Instants and dates are ages, as ``to_ages`` gives
them.
"""

Sink = Sample | NumberCounts | CategoryCounts

_NO_BINS: Floats = np.zeros(0)


@dataclass
class _Intake:
    """What is kept of one feature while its rows pass."""

    dtype: DType
    into: Sink
    row_count: int = 0
    null_count: int = 0

    def add(self, column: pa.Array | pa.ChunkedArray) -> None:
        self.row_count += len(column)
        self.null_count += column.null_count
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else (column,):
            if isinstance(self.into, CategoryCounts):
                self.into.add(chunk)
            else:
                self.into.add(to_numbers(chunk, self.dtype))


@dataclass(frozen=True)
class Pair:
    """Two samples of one feature, counted alike."""

    reference: Distribution
    current: Distribution


@dataclass(frozen=True)
class _Layout:
    """Where one feature's numbers are counted."""

    edges: Floats
    bins: Floats


@dataclass
class Collector:
    """Counts samples of the same features.

    Attributes:
        dtypes: The features' dtypes, by column.
        threads: Threads that count; the result does not depend on it.
        bins: Fixed lower edges of bins, by column; where there are none they are placed by the reference.
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
        first = self._intakes({name: self._sink(name) for name in self.dtypes})
        self._read(reference(), first)
        layouts = {name: self._layout(name, intake) for name, intake in first.items()}
        second = self._intakes({name: self._second_sink(name, first, layouts) for name in self.dtypes})
        self._read(current(), second)
        again: dict[str, _Layout] = {}
        for name, layout in layouts.items():
            mine, theirs = first[name].into, second[name].into
            if isinstance(mine, Sample) and isinstance(theirs, Sample) and theirs.is_complete:
                values = np.concatenate([mine.ordered(), theirs.ordered()])
                exact = np.unique(np.concatenate([layout.edges, values]))
                if len(exact) == 0:
                    continue
                for intake, kept in ((first[name], mine), (second[name], theirs)):
                    intake.into = NumberCounts.empty(exact)
                    intake.into.add(kept.ordered())
            elif isinstance(mine, Sample):
                again[name] = layout
        self._recount(reference, first, again)
        late = {name: layout for name, layout in again.items() if isinstance(second[name].into, Sample)}
        self._recount(current, second, late)
        return {
            name: Pair(_finished(first[name], layouts.get(name)), _finished(second[name], layouts.get(name)))
            for name in self.dtypes
        }

    def like(self, reference: Mapping[str, Distribution], rows: Iterable[Batch]) -> dict[str, Distribution]:
        """Count a sample as known distributions are counted.

        Args:
            reference: Distributions, by column.
            rows: The sample, read once.
        """
        (found,) = self.all_like(reference, ((batch,) for batch in rows), samples=1)
        return found

    def all_like(
        self, reference: Mapping[str, Distribution], rows: Iterable[Sequence[Batch]], *, samples: int
    ) -> tuple[dict[str, Distribution], ...]:
        """Count samples that are read together as known distributions are counted.

        Args:
            reference: Distributions, by column.
            rows: A batch of each sample at a time, read once.
            samples: How many samples there are.
        """
        found = [
            self._intakes({name: self._sink_like(name, reference[name]) for name in self.dtypes})
            for _ in range(samples)
        ]
        for batches in rows:
            for batch, intakes in zip(batches, found, strict=True):
                self._read([batch], intakes)
        return tuple(
            {name: _finished(one, _Layout(_NO_BINS, reference[name].bins)) for name, one in intakes.items()}
            for intakes in found
        )

    def _sink(self, name: str) -> Sink:
        return CategoryCounts() if is_categorical(self.dtypes[name]) else Sample()

    def _sink_like(self, name: str, known: Distribution) -> Sink:
        return NumberCounts.empty(known.values.edges) if isinstance(known.values, NumberCounts) else self._sink(name)

    def _second_sink(self, name: str, first: Mapping[str, _Intake], layouts: Mapping[str, _Layout]) -> Sink:
        into = first[name].into
        if isinstance(into, Sample) and not into.is_complete:
            return NumberCounts.empty(layouts[name].edges)
        return self._sink(name)

    def _layout(self, name: str, intake: _Intake) -> _Layout:
        if not isinstance(intake.into, Sample) or intake.null_count == intake.row_count:
            return _Layout(_NO_BINS, _NO_BINS)
        ordered = intake.into.ordered()
        low, high = intake.into.extremes
        bins = self.bins.get(name)
        if bins is None:
            bins = place_edges(ordered, COARSE_BINS)
            bins[0] = low
        ends = np.array([low, np.nextafter(high, np.inf)])
        return _Layout(np.unique(np.concatenate([fine_edges(ordered, bins), ends])), bins)

    def _intakes(self, sinks: Mapping[str, Sink]) -> dict[str, _Intake]:
        return {name: _Intake(self.dtypes[name], sink) for name, sink in sinks.items()}

    def _read(self, rows: Iterable[Batch], found: Mapping[str, _Intake]) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            for batch in rows:
                known = [name for name in found if name in batch.schema.names]
                for _ in pool.map(lambda name, batch=batch: found[name].add(batch.column(name)), known):
                    pass

    def _recount(self, rows: Rows, intakes: dict[str, _Intake], layouts: Mapping[str, _Layout]) -> None:
        wanted = {name: NumberCounts.empty(layout.edges) for name, layout in layouts.items() if len(layout.edges)}
        if not wanted:
            return
        again = self._intakes(wanted)
        self._read(rows(), again)
        intakes |= again


def _finished(intake: _Intake, layout: _Layout | None) -> Distribution:
    values = None if isinstance(intake.into, Sample) else intake.into
    return Distribution(intake.row_count, intake.null_count, values, _NO_BINS if layout is None else layout.bins)
