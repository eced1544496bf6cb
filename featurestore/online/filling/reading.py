"""Reading a source's events in pieces that memory holds, and knowing what they say together."""

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
"""How far a cut may be moved, as a share of a step."""


class Events(Protocol):
    """The events of a source, in contract dtypes."""

    @property
    def ingest_column(self) -> str:
        """The column that says when an event became known."""
        ...

    @property
    def files(self) -> tuple[SourceFile, ...]:
        """The files they lie in; none for what lies elsewhere."""
        ...

    def each(
        self, columns: Sequence[str], work: Callable[[pa.Table], _T], *, ingest: tuple[int, int] | None = None
    ) -> list[_T]:
        """Hand some columns of the events that became known in a range to some work, table by table.

        The work is done in several threads. Its results are returned in the order of the events as they lie.
        """
        ...

    def batches(self, columns: Sequence[str], *, ingest: tuple[int, int] | None = None) -> Iterator[pa.RecordBatch]:
        """Return the same in batches."""
        ...

    def count_below(self, ingest_us: int) -> int:
        """Count the events that became known before an instant."""
        ...

    def files_below(self, ingest_us: int) -> Collection[SourceFile]:
        """Return the files in which events lie that became known before an instant, and perhaps others."""
        ...

    def repeats_logged(self, ingest: tuple[int, int], *, before_us: int) -> bool:
        """Report whether events that became known in a range replace deliveries that the event log had before."""
        ...

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the source is no longer what it was when it was opened."""
        ...


@dataclass(frozen=True)
class PreviousRead:
    """What a run that ended had read.

    Attributes:
        row_count: Events below the bound it went to.
        content: Their content.
        files: The files it read.
    """

    row_count: int
    content: int
    files: tuple[SourceFile, ...]


@dataclass(frozen=True)
class Step:
    """A range of ingest times, and about how many events it has."""

    begin: int
    end: int
    events: int


@dataclass(frozen=True)
class StepEvents:
    """The events of a step.

    Attributes:
        content: What they say together.
        row_count: How many there are.
        tables: Those of use, with how many each table was made of; all of an entity are in one table.
    """

    content: int
    row_count: int
    tables: Iterable[tuple[int, pa.Table]]


def ahead(items: Iterable[_T]) -> Iterator[_T]:
    """Give the items of an iterable, each made in another thread while the one before is worked on."""
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
            events_at_once: About how many of them are held in memory.
        """
        self._view = view
        self._source = source
        self._events_at_once = events_at_once
        self._columns = [column.name for column in view.source.columns]

    def steps(self, begin: int, end: int) -> list[Step]:
        """Cut a range of ingest times into pieces of about as many events as memory may hold.

        A cut is moved to where the source has one itself, if there is one near: else the table it goes through would be
        read for both steps.
        """
        ingest_column = self._source.ingest_column
        parts = [part for part in self._source.each([ingest_column], _Times.of, ingest=(begin, end)) if part.count]
        times = np.sort(np.concatenate([part.sampled for part in parts] or [np.zeros(0, dtype=np.int64)]))
        count = sum(part.count for part in parts)
        wanted = -(-count // self._events_at_once)
        seams = _seams(parts)
        cuts = {_cut(times, i, wanted, seams) for i in range(1, wanted)}
        found = []
        for low, high in pairwise([begin, *sorted(cuts - {begin}), end]):
            share = np.diff(np.searchsorted(times, [low, high]))[0] / max(1, len(times))
            found.append(Step(low, high, int(count * share)))
        return found

    def pieces(self, steps: Sequence[Step], reduce: Reduce) -> Iterator[tuple[Step, StepEvents]]:
        """Read the events of steps, each while the one before is worked on.

        Args:
            steps: The steps.
            reduce: Leaves out of a table what is of no use; done on several tables at once.
        """
        return ahead((step, self._piece(step, reduce)) for step in steps)

    def _piece(self, step: Step, reduce: Reduce) -> StepEvents:
        """Read the events of a step; by entity, in several goes, if too many became known at one instant."""
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
        found = self._buckets(ingest, hashed, buckets)
        return StepEvents(content, step.events, ((table.num_rows, table) for table in found if table.num_rows))

    def content_below(self, ingest_us: int) -> int:
        """Return the content of all events that became known before an instant; they are read for it."""
        return content_of(self._source.batches(self._columns, ingest=(NOTHING_YET, ingest_us)))

    def lie_in(self, files: Iterable[SourceFile], *, below_us: int) -> bool:
        """Tell whether the events below an instant lie in some files, all of which are still just as they were.

        A file beside them with such an event may hold another delivery of an event that one of them has: then the
        count of events is the same, and what they say is not. What lies in no files cannot tell.
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
        row_count: How many there are.
        content: What they say.
        events: Those of use.
    """

    row_count: int
    content: int
    events: pa.Table

    @classmethod
    def of(cls, table: pa.Table, reduce: Reduce) -> _Part:
        """Look at a table, and keep what is of use."""
        return cls(table.num_rows, content_of([table]), reduce(table) if table.num_rows else table)


@dataclass(frozen=True)
class _Times:
    """When the events of a table became known.

    Attributes:
        count: How many events there are.
        first: The earliest instant.
        last: The latest.
        sampled: The instants of some of them.
    """

    count: int
    first: int
    last: int
    sampled: Ints

    @classmethod
    def of(cls, table: pa.Table) -> _Times:
        """Look at a table's only column."""
        times = one_chunk(table.column(0)).cast(pa.int64()).to_numpy()
        if not len(times):
            return cls(0, 0, 0, times)
        return cls(len(times), int(times.min()), int(times.max()), times[::_SAMPLED].copy())


def _seams(parts: Sequence[_Times]) -> Ints:
    """Return the instants, ascending, at which tables begin and across which none lies."""
    ordered = sorted(parts, key=lambda part: part.first)
    firsts = np.array([part.first for part in ordered], dtype=np.int64)
    lasts = np.maximum.accumulate(np.array([part.last for part in ordered], dtype=np.int64))
    return firsts[1:][firsts[1:] > lasts[:-1]]


def _cut(times: Ints, number: int, steps: int, seams: Ints) -> int:
    """Return where one of several steps of about as many events begins: at a seam if one is near.

    Args:
        times: Sampled instants, ascending.
        number: Number of the step, from 0 on.
        steps: How many there are.
        seams: The seams, ascending.
    """
    size = len(times) / steps
    place = number * size
    away = np.abs(np.searchsorted(times, seams) - place)
    if len(seams) and away.min() <= size * _NEAR:
        return int(seams[away.argmin()])
    return int(times[int(place)])


def _bucket_of(keys: Sequence[Column], batch: pa.RecordBatch, count: int) -> Ints:
    """Spread entities over buckets."""
    environment = Environment(columns={key.name: batch.column(key.name) for key in keys}, length=batch.num_rows)
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for key in keys:
        column = TypedExpr("column", key.dtype, params=(("name", key.name),))
        hashed = TypedExpr("hash_bucket", INT64, args=(column,), params=(("count", count),))
        total += evaluate(hashed, environment).to_numpy(zero_copy_only=False)
    return total % count
