"""Folding a source's events into online state, incrementally by the time they became known.

A run folds the events with ``watermark <= ingest_time < until`` into the states of their entities and then moves the
watermark; it is the last thing written. Every state says itself up to which ingest time it is complete, so a run that
is repeated, or that died half-way, folds nothing twice. Lookups use no event from beyond the watermark, so they see
the state before the run or after it.

That rests on the source holding the same events below the watermark as when they were folded. If there are more or
fewer of them (late rows of a source without an ingest time, a rewritten file), the view is rebuilt beside its old state
and switched in one step, so that no event is ever lost. The same is checked for what a dead run had begun to fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.dtypes import INT64
from featurestore.errors import SourceError
from featurestore.kernels.expressions import Environment, evaluate
from featurestore.kernels.retention import keeps_everything
from featurestore.online.folding import Folder, taken
from featurestore.online.store import OnlineStore, ViewRecord, decode_record, encode_record, record_key, state_prefix
from featurestore.online.streaming import Stream, folding, follow
from featurestore.plan.model import Column, TypedExpr, ViewPlan
from featurestore.temporal import NO_WATERMARK, NOTHING_YET, duration_us

Ints = npt.NDArray[np.int64]

DEFAULT_HISTORY_US = duration_us("2d")
"""How far before the watermark lookups may ask, if nothing else is said."""

EVENTS_AT_ONCE = 2_000_000
"""About how many events of the source a run holds in memory."""

_STATE_BYTES_AT_ONCE = 32_000_000
_ENTITIES_AT_FIRST = 1_000
_MOST_ENTITIES_AT_ONCE = 20_000
_SAMPLED = 64


class Events(Protocol):
    """The events of a source, in contract dtypes."""

    @property
    def ingest_column(self) -> str:
        """The column that says when an event became known."""
        ...

    def read(self, columns: Sequence[str], *, ingest: tuple[int, int] | None = None) -> pa.Table:
        """Return some columns of the events that became known in a range."""
        ...

    def batches(self, columns: Sequence[str], *, ingest: tuple[int, int] | None = None) -> Iterator[pa.RecordBatch]:
        """Return the same in batches."""
        ...

    def count_below(self, ingest_us: int) -> int:
        """Count the events that became known before an instant."""
        ...

    def check_unchanged(self) -> None:
        """Raise ``SourceError`` if the source is no longer what it was when it was opened."""
        ...


@dataclass(frozen=True)
class ViewRun:
    """What one run did to one view.

    Attributes:
        view: Name of the view.
        from_us: Watermark before the run; ``NOTHING_YET`` if it began from nothing.
        until_us: Watermark after it.
        events: Events read.
        entities: States written; an entity counts once for each step of the run that brought it events.
        rebuilt: Why everything was folded again; empty if the run was incremental.
    """

    view: str
    from_us: int
    until_us: int
    events: int
    entities: int
    rebuilt: str = ""


def materialize_view(
    view: ViewPlan,
    source: Events,
    store: OnlineStore,
    *,
    until_us: int,
    full: bool = False,
    history_us: int = DEFAULT_HISTORY_US,
    events_at_once: int = EVENTS_AT_ONCE,
    stream: Stream | None = None,
) -> ViewRun:
    """Fold a view's events into its online state.

    Args:
        view: The plan.
        source: Its events.
        store: Where states are kept.
        until_us: Exclusive bound of the ingest times to fold; nothing is ever unfolded by an earlier one.
        full: Whether to fold everything again, beside the old state.
        history_us: How far before the watermark lookups may ask; events that matter only earlier are dropped.
        events_at_once: About how many events are held in memory.
        stream: The pushed events, of a source that accepts them; ``source`` is what lies outside then, and no event
            that is pushed from now on may become known before ``until_us``.

    Returns:
        What was done.

    Raises:
        SourceError: The source cannot give its rows, or changed while it was read.
        StateError: Another run on the view is under way, or a stored state is damaged.
        StorageError: The store cannot be written; running again completes the work.
    """
    with store.exclusive(f"materialize-{view.fingerprint[:16]}"):
        return _Run(view, source, store, history_us, events_at_once, stream).go(until_us, full=full)


@dataclass(frozen=True)
class _Step:
    """A range of ingest times, and about how many events it has."""

    begin: int
    end: int
    events: int


class _Run:
    """One run on one view. Holds the view's record as it stands in the store: every write is on its condition."""

    def __init__(
        self,
        view: ViewPlan,
        source: Events,
        store: OnlineStore,
        history_us: int,
        events_at_once: int,
        stream: Stream | None,
    ) -> None:
        self._view = view
        self._source = source
        self._store = store
        self._history_us = history_us
        self._events_at_once = events_at_once
        self._folder = Folder(view, store)
        self._keeps_all = keeps_everything(view)
        self._stream = stream
        self._is_alone = False
        self._key = record_key(view)
        self._load()

    def _load(self) -> None:
        self._stored = self._store.read([self._key]).get(self._key)
        self._record = decode_record(self._view, self._stored)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off whoever follows the log, which moves the record too. May be nested."""
        if self._stream is None or self._is_alone:
            yield
            return
        with folding(self._view, self._store):
            self._load()
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def go(self, until_us: int, *, full: bool) -> ViewRun:
        """Do what the record and the source call for."""
        before = self._record
        if before.generation > 0:
            self._store.delete(state_prefix(self._view, before.generation - 1))
        is_new = before == ViewRecord(before.view, before.fingerprint)
        reason = "" if is_new else "asked for" if full else self._why_rebuild(until_us)
        until_us = max(until_us, before.watermark_us)
        try:
            events, entities = self._fold_all(until_us, is_rebuild=bool(reason))
        except SourceError:
            self._distrust()
            raise
        return ViewRun(self._view.name, before.watermark_us, until_us, events, entities, reason)

    def _fold_all(self, until_us: int, *, is_rebuild: bool) -> tuple[int, int]:
        if is_rebuild:
            return self._rebuild(until_us)
        if until_us == self._record.watermark_us:
            return 0, 0
        return self._fill(until_us) if self._record.watermark_us == NOTHING_YET else self._extend(until_us)

    def _distrust(self) -> None:
        """Make the next run rebuild if states may hold events of a source that has changed since."""
        with self._alone():
            if self._record.pending_us > self._record.watermark_us:
                self._put(msgspec.structs.replace(self._record, pending_rows=-1))

    def _why_rebuild(self, until_us: int) -> str:
        """Tell why states cannot be extended; empty if they can."""
        record, count_below = self._record, self._source.count_below
        if record.watermark_us != NOTHING_YET and (count := count_below(record.watermark_us)) != record.rows_below:
            return f"the source has {count} events below the watermark, where it had {record.rows_below}"
        if record.pending_us > record.watermark_us and count_below(record.pending_us) != record.pending_rows:
            return "the source changed after a run that did not end"
        if record.watermark_us == NOTHING_YET and until_us < record.pending_us:
            return "a first run that did not end was to go further"
        return ""

    def _rebuild(self, until_us: int) -> tuple[int, int]:
        """Fold everything into the next generation, then switch to it."""
        old = self._record
        self._store.delete(state_prefix(self._view, old.generation + 1))
        counts = self._from_nothing(until_us, old.generation + 1)
        self._store.delete(state_prefix(self._view, old.generation))
        return counts

    def _fill(self, until_us: int) -> tuple[int, int]:
        """Fold everything for the first time, or go on with a first run that died.

        States do not say which pushed events they have, so a run that has any begins again.
        """
        if self._stream is not None:
            self._store.delete(state_prefix(self._view, self._record.generation))
        with self._alone():
            self._put(self._announcing(until_us))
        return self._from_nothing(until_us, self._record.generation)

    def _from_nothing(self, until_us: int, generation: int) -> tuple[int, int]:
        """Fold everything into a generation that nobody reads yet; its record is written in the end.

        What matters only before the reach that will be published then is dropped at once.
        """
        reach_us = NOTHING_YET if self._keeps_all else until_us - self._history_us
        events = entities = 0
        for step in self._steps(NOTHING_YET, until_us):
            counts = self._fold(generation, step, reach_us)
            events, entities = events + counts[0], entities + counts[1]
        events += self._fold_pushed(generation, NOTHING_YET, until_us, reach_us)
        self._source.check_unchanged()
        with self._alone():
            log_us = max(until_us, self._record.log_us)
            events += self._fold_pushed(generation, until_us, log_us, reach_us)
            self._put(self._ended(until_us, generation, reach_us, log_us))
        return events, entities

    def _fold_pushed(self, generation: int, from_us: int, until_us: int, reach_us: int) -> int:
        """Fold pushed events into a generation that nobody reads yet; return how many."""
        events = 0
        if self._stream is not None:
            for _, table in self._stream.pushed.steps(from_us, until_us, self._events_at_once):
                self._fold_table(table, generation, None, reach_us)
                events += table.num_rows
        return events

    def _extend(self, until_us: int) -> tuple[int, int]:
        """Fold what became known since the watermark; each step moves it.

        Events are dropped by the reach that lookups were already told, never by the one that a step will publish.
        """
        events = entities = 0
        if self._stream is not None:
            events = follow(self._view, self._stream, self._store, until_us=until_us, history_us=self._history_us) or 0
            self._load()
        for step in self._steps(self._record.watermark_us, until_us):
            with self._alone():
                self._put(self._announcing(step.end))
            record = self._record
            counts = self._fold(record.generation, step, record.reach_us)
            self._source.check_unchanged()
            with self._alone():
                watermark_us = max(step.end, self._record.watermark_us)
                reach_us = NOTHING_YET if self._keeps_all else max(record.reach_us, watermark_us - self._history_us)
                self._put(self._ended(watermark_us, record.generation, reach_us, self._record.log_us))
            events, entities = events + counts[0], entities + counts[1]
        return events, entities

    def _announcing(self, until_us: int) -> ViewRecord:
        """Return the record that says how far states may be ahead of the watermark from now on."""
        pending_us = max(until_us, self._record.pending_us)
        return msgspec.structs.replace(
            self._record, pending_us=pending_us, pending_rows=self._source.count_below(pending_us)
        )

    def _ended(self, watermark_us: int, generation: int, reach_us: int, log_us: int) -> ViewRecord:
        is_same = generation == self._record.generation
        rows_below = self._source.count_below(watermark_us)
        has_all = self._stream is not None and rows_below == self._source.count_below(NO_WATERMARK)
        return ViewRecord(
            view=self._view.name,
            fingerprint=self._view.fingerprint,
            generation=generation,
            watermark_us=watermark_us,
            reach_us=reach_us,
            rows_below=rows_below,
            pending_us=self._record.pending_us if is_same else watermark_us,
            pending_rows=self._record.pending_rows if is_same else 0,
            log_us=NOTHING_YET if self._stream is None else log_us,
            outside=self._stream.outside if self._stream is not None and has_all else "",
        )

    def _put(self, record: ViewRecord) -> None:
        stored = encode_record(record)
        self._store.write([(self._key, stored)], expected={self._key: self._stored})
        self._stored, self._record = stored, record

    def _steps(self, begin: int, end: int) -> Iterator[_Step]:
        """Cut a range of ingest times into pieces of about as many events as memory may hold."""
        sampled = [np.zeros(0, dtype=np.int64)]
        count = 0
        for batch in self._source.batches([self._source.ingest_column], ingest=(begin, end)):
            count += batch.num_rows
            sampled.append(batch.column(0).cast(pa.int64()).to_numpy()[::_SAMPLED])
        times = np.sort(np.concatenate(sampled))
        pieces = -(-count // self._events_at_once)
        cuts = sorted({int(times[len(times) * i // pieces]) for i in range(1, pieces)} - {begin})
        for low, high in pairwise([begin, *cuts, end]):
            share = np.diff(np.searchsorted(times, [low, high]))[0] / max(1, len(times))
            yield _Step(low, high, int(count * share))

    def _fold(self, generation: int, step: _Step, reach_us: int) -> tuple[int, int]:
        """Fold one range of ingest times into the states of its entities; return counts of events and entities."""
        events = entities = 0
        for table in self._tables(step):
            events += table.num_rows
            entities += self._fold_table(table, generation, step.end, reach_us)
        return events, entities

    def _tables(self, step: _Step) -> Iterator[pa.Table]:
        """Read the events of a range; by entity, in several goes, if too many became known at one instant."""
        columns = [column.name for column in self._view.source.columns]
        ingest = (step.begin, step.end)
        buckets = step.events // (2 * self._events_at_once) + 1
        hashed = [key for key in self._view.entity.keys if key.dtype.kind != "decimal"]
        if buckets == 1 or not hashed:
            yield self._source.read(columns, ingest=ingest)
            return
        for bucket in range(buckets):
            batches = self._source.batches(columns, ingest=ingest)
            yield pa.Table.from_batches(
                [batch.filter(pa.array(_buckets(hashed, batch, buckets) == bucket)) for batch in batches]
            )

    def _fold_table(self, table: pa.Table, generation: int, bound_us: int | None, reach_us: int) -> int:
        """Fold all events that some entities have in a range; return the count of entities."""
        prepared, codes, keys = self._folder.numbered(table, generation)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(keys) + 1))
        at, size = 0, _ENTITIES_AT_FIRST
        while at < len(keys):
            stop = min(at + size, len(keys))
            rows = order[starts[at] : starts[stop]]
            events = taken(prepared, rows)
            with self._alone():
                items = self._folder.folded(keys[at:stop], events, codes[rows] - at, bound_us, reach_us)
                self._store.write(items, expected={self._key: self._stored})
            written = sum(len(state) for _, state in items)
            size = max(1, min(_MOST_ENTITIES_AT_ONCE, _STATE_BYTES_AT_ONCE * (stop - at) // max(1, written)))
            at = stop
        return len(keys)


def _buckets(keys: Sequence[Column], batch: pa.RecordBatch, count: int) -> Ints:
    """Spread entities over buckets."""
    environment = Environment(columns={key.name: batch.column(key.name) for key in keys}, length=batch.num_rows)
    total = np.zeros(batch.num_rows, dtype=np.int64)
    for key in keys:
        column = TypedExpr("column", key.dtype, params=(("name", key.name),))
        hashed = TypedExpr("hash_bucket", INT64, args=(column,), params=(("count", count),))
        total += evaluate(hashed, environment).to_numpy(zero_copy_only=False)
    return total % count
