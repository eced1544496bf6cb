"""Reading a source's events in steps that fit in memory, with a digest of their content."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Protocol, TypeVar, cast

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.dtypes import INT64
from featurestore.core.temporal import NOTHING_YET
from featurestore.core.values import one_chunk
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.plan.model import Column, TypedExpr, ViewPlan
from featurestore.sources.content import content_of, joined
from featurestore.sources.rows import SourceFile

Reduce = Callable[[pa.Table], pa.Table]
_T = TypeVar("_T")

_SAMPLED = 64
_NEAR = 0.25
"""How far a cut between steps may be moved, as a share of a step."""


class Events(Protocol):
    """The events of a source, in contract dtypes."""

    @property
    def ingest_column(self) -> str:
        """The column with the ingest time."""
        ...

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files of the events; empty for other sources."""
        ...

    def each(
        self, columns: Sequence[str], work: Callable[[pa.Table], _T], *, ingest: tuple[int, int] | None = None
    ) -> list[_T]:
        """Apply a function to some columns of the events with an ingest time in a range, table by table.

        The function runs in several threads. Its results are returned in the stored order of the events.
        """
        ...

    def batches(self, columns: Sequence[str], *, ingest: tuple[int, int] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the same columns in batches."""
        ...

    def count_below(self, ingest_us: int) -> int:
        """Count the events that became known before an instant."""
        ...

    def files_below(self, ingest_us: int) -> Collection[SourceFile]:
        """Return the files with events that became known before an instant, and perhaps others."""
        ...

    def repeats_logged(self, ingest: tuple[int, int], *, before_us: int) -> bool:
        """Report whether events that became known in a range replace deliveries that the event log had before."""
        ...

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the source is no longer what it was when it was opened."""
        ...


@dataclass(frozen=True)
class PreviousRead:
    """What an earlier run has read.

    Attributes:
        row_count: Events below the bound of the run.
        content: Their content.
        files: The files it read.
    """

    row_count: int
    content: int
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class Step:
    """A range of ingest times, and its approximate count of events."""

    begin: int
    end: int
    events: int


@dataclass(frozen=True)
class StepEvents:
    """The events of a step.

    Attributes:
        content: The digest of their content.
        row_count: Their count.
        tables: The useful events in tables, each with the count of events before useless ones were dropped; all
            events of an entity are in one table.
    """

    content: int
    row_count: int
    tables: Iterable[tuple[int, pa.Table]]


def prefetch(items: Iterable[_T]) -> Iterator[_T]:
    """Yield the items of an iterable, each computed in another thread while the one before is in use."""
    iterator = iter(items)
    nothing = object()
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, iterator, nothing)
        while (item := following.result()) is not nothing:
            following = pool.submit(next, iterator, nothing)
            yield cast(_T, item)


class Reader:
    """Reads the events of a source for one view."""

    def __init__(self, view: ViewPlan, source: Events, events_at_once: int) -> None:
        """Take the parts; nothing is read yet.

        Args:
            view: The view.
            source: Its events.
            events_at_once: The approximate number of events in memory.
        """
        self._view = view
        self._source = source
        self._events_at_once = events_at_once
        self._columns = [column.name for column in view.source.columns]

    def steps(self, begin: int, end: int) -> list[Step]:
        """Cut a range of ingest times into steps that fit in memory.

        A cut is moved to a boundary between tables of the source if one is near: otherwise the table that it divides
        would be read for both steps.
        """
        ingest_column = self._source.ingest_column
        parts = [part for part in self._source.each([ingest_column], _Times.of, ingest=(begin, end)) if part.count]
        times = np.sort(np.concatenate([part.sampled for part in parts] or [np.zeros(0, dtype=np.int64)]))
        count = sum(part.count for part in parts)
        wanted = -(-count // self._events_at_once)
        seams = _seams(parts)
        cuts = {_cut(times, i, wanted, seams) for i in range(1, wanted)}
        steps = []
        for low, high in pairwise([begin, *sorted(cuts - {begin}), end]):
            share = np.diff(np.searchsorted(times, [low, high]))[0] / max(1, len(times))
            steps.append(Step(low, high, int(count * share)))
        return steps

    def pieces(self, steps: Sequence[Step], reduce: Reduce) -> Iterator[tuple[Step, StepEvents]]:
        """Read the events of steps, each while the one before is folded.

        Args:
            steps: The steps.
            reduce: Drops the useless events of a table; called from several threads.
        """
        return prefetch((step, self._piece(step, reduce)) for step in steps)

    def _piece(self, step: Step, reduce: Reduce) -> StepEvents:
        """Read the events of a step; in several passes by entity if too many became known at one instant."""
        ingest = (step.begin, step.end)
        buckets = step.events // (2 * self._events_at_once) + 1
        hashed = [key for key in self._view.entity.keys if key.dtype.kind != "decimal"]
        if buckets == 1 or not hashed:
            parts = self._source.each(self._columns, lambda table: _Part.of(table, reduce), ingest=ingest)
            count = sum(part.row_count for part in parts)
            content = joined(*(part.content for part in parts))
            tables = [(count, pa.concat_tables([part.events for part in parts]))] if count else []
            return StepEvents(content, count, tables)
        content = content_of(self._source.batches(self._columns, ingest=ingest))
        per_bucket = self._buckets(ingest, hashed, buckets)
        return StepEvents(content, step.events, ((table.num_rows, table) for table in per_bucket if table.num_rows))

    def content_below(self, ingest_us: int) -> int:
        """Read all events that became known before an instant; return the digest of their content."""
        return content_of(self._source.batches(self._columns, ingest=(NOTHING_YET, ingest_us)))

    def lie_in(self, files: Iterable[SourceFile], *, below_us: int) -> bool:
        """Return whether the events below an instant lie in some files, all of which are unchanged.

        Another file with such an event may hold another delivery of an event in one of these files: then the count of
        events is the same but their content differs. For sources without files the answer is ``False``.
        """
        known = set(files)
        if not known or not known <= set(self._source.files):
            return False
        return self._view.source.event_id is None or known.issuperset(self._source.files_below(below_us))

    def _buckets(self, ingest: tuple[int, int], keys: Sequence[Column], count: int) -> Iterator[pa.Table]:
        for bucket in range(count):
            batches = self._source.batches(self._columns, ingest=ingest)
            kept = (batch.filter(pa.array(_bucket_of(keys, batch, count) == bucket)) for batch in batches)
            first = next(kept, None)
            if first is not None:
                yield pa.Table.from_batches(chain([first], kept))


@dataclass(frozen=True)
class _Part:
    """A table of events.

    Attributes:
        row_count: The count of its events.
        content: The digest of their content.
        events: The useful events.
    """

    row_count: int
    content: int
    events: pa.Table

    @classmethod
    def of(cls, table: pa.Table, reduce: Reduce) -> _Part:
        """Digest a table, and drop its useless events."""
        return cls(table.num_rows, content_of([table]), reduce(table) if table.num_rows else table)


@dataclass(frozen=True)
class _Times:
    """The ingest times of a table.

    Attributes:
        count: The count of events.
        first: The earliest ingest time.
        last: The latest ingest time.
        sampled: The ingest times of some events.
    """

    count: int
    first: int
    last: int
    sampled: Ints

    @classmethod
    def of(cls, table: pa.Table) -> _Times:
        """Summarize the only column of a table."""
        times = one_chunk(table.column(0)).cast(pa.int64()).to_numpy()
        if not len(times):
            return cls(0, 0, 0, times)
        return cls(len(times), int(times.min()), int(times.max()), times[::_SAMPLED].copy())


def _seams(parts: Sequence[_Times]) -> Ints:
    """Return the instants, ascending, at which a table begins and all earlier tables have ended."""
    ordered = sorted(parts, key=lambda part: part.first)
    firsts = np.array([part.first for part in ordered], dtype=np.int64)
    lasts = np.maximum.accumulate(np.array([part.last for part in ordered], dtype=np.int64))
    return firsts[1:][firsts[1:] > lasts[:-1]]


def _cut(times: Ints, number: int, steps: int, seams: Ints) -> int:
    """Return where one of several steps of about equal size begins: at a seam if one is near.

    Args:
        times: Sampled ingest times, ascending.
        number: Number of the step, from 0.
        steps: Count of steps.
        seams: The seams, ascending.
    """
    size = len(times) / steps
    place = number * size
    away = np.abs(np.searchsorted(times, seams) - place)
    if len(seams) and away.min() <= size * _NEAR:
        return int(seams[away.argmin()])
    return int(times[int(place)])


def _bucket_of(keys: Sequence[Column], batch: pa.RecordBatch, count: int) -> Ints:
    """Return the bucket of each row, by a hash of its entity."""
    environment = Environment(columns={key.name: batch.column(key.name) for key in keys}, length=batch.num_rows)
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for key in keys:
        column = TypedExpr("column", key.dtype, params=(("name", key.name),))
        hashed = TypedExpr("hash_bucket", INT64, args=(column,), params=(("count", count),))
        total += evaluate(hashed, environment).to_numpy(zero_copy_only=False)
    return total % count
