"""Folding a source's events into the online state of one view, incrementally by ingest time.

A run folds the events with ``watermark <= ingest_time < until`` into the states of their entities and writes the new
watermark last. Every state holds the ingest time up to which it is complete, so a run that is repeated, or that died
half-way, folds no event twice. Lookups use no event beyond the watermark, so they see the state before the run or after
it.

This requires that the source still holds the same events below the watermark. A run detects:

- more or fewer events, always (late rows of a source without an ingest time, a partition that was deleted);
- other events, if a local file that was folded is gone or has another size or modification time, or if a new file has a
  delivery below the watermark that counts, and always for sources outside local files: then all events below the
  watermark are read and their content is compared;
- deliveries beyond the watermark that replace pushed events, which are folded already.

It does not detect a local file that was rewritten with the same size, modification time and count of rows, or changes
in columns that the view does not read. If the events differ, the view is rebuilt beside its old state and switched in
one step, so that no event is ever lost. The same check covers the events that a dead run had begun to fold. A rebuild
that died continues after its last finished step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat

import msgspec

from featurestore.core.errors import SourceError, StateError
from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET, duration_us
from featurestore.kernels.retention import keeps_everything
from featurestore.online.filling.folding import KeyValues, NewEvents, StateUpdater
from featurestore.online.filling.reading import (
    Events,
    PreviousRead,
    Reader,
    Step,
    StepEvents,
)
from featurestore.online.filling.streaming import (
    Stream,
    at_head,
    folding,
    follow,
)
from featurestore.online.state.losses import check_expiry, log_mismatch, missing_states
from featurestore.online.stores.locks import LONG_WAITS, hold_lock, is_busy, run_lock
from featurestore.online.stores.store import (
    ENTITY_FORGOTTEN,
    UNCOUNTED,
    FillProgress,
    OnlineStore,
    ViewRecord,
    count_states,
    decode_record,
    encode_record,
    items_at_once,
    record_key,
    state_prefix,
)
from featurestore.plan.model import ViewPlan
from featurestore.sources.content import joined
from featurestore.sources.event_log import Head

DEFAULT_HISTORY_US = duration_us("2d")
"""How far before the watermark lookups can ask, by default."""

EVENTS_AT_ONCE = 2_000_000
"""The approximate number of source events that a run holds in memory."""

CACHED_BYTES = 64_000_000
"""Memory in which a run that fills a view caches the states it wrote, so that it does not read them back."""

_ENTRY_BYTES = 200
"""Memory that a cached key and state take beside the bytes of the state."""

_STATE_BYTES_AT_ONCE = 32_000_000
_ENTITIES_AT_FIRST = 1_000
_SAMPLED = 16

Progress = Callable[[int, int], None]
"""Takes the number of events that a run has folded so far and the number it will fold."""


@dataclass(frozen=True)
class ViewRun:
    """The result of one run on one view.

    Attributes:
        view: Name of the view.
        from_us: Watermark before the run; ``NOTHING_YET`` if it began from nothing.
        until_us: Watermark after it.
        events: Events read.
        entities: States written; an entity counts once for each step of the run with events of it.
        rebuilt: Why all events were folded again; empty if the run was incremental.
        row_count: Events of the source, without pushed ones, that are folded in now.
        content: Their content (``sources.content``); ``None`` if unknown.
        late_events: Events of the source that happened before ``until_us`` and become known only later; only counted
            if few of its events are folded in.
    """

    view: str
    from_us: int
    until_us: int
    events: int
    entities: int
    rebuilt: str = ""
    row_count: int = 0
    content: int | None = None
    late_events: int = 0


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
    previous_read: PreviousRead | None = None,
    wait_seconds: float = 0,
    on_begin: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> ViewRun:
    """Fold a view's events into its online state.

    Args:
        view: The plan.
        source: Its events.
        store: Where states are kept.
        until_us: Exclusive bound of the ingest times to fold; an earlier bound than the watermark has no effect.
        full: Whether to fold all events again, beside the old state.
        history_us: How far before the watermark lookups can ask; events that matter only earlier are dropped.
        events_at_once: The approximate number of events in memory.
        stream: The pushed events of a source that accepts them. Then ``source`` holds the rows outside the log, and no
            event that is pushed from now on may get an ingest time before ``until_us``.
        previous_read: What the last run of the plan read, if that is known: with it, unchanged files are not read
            again for the comparison.
        wait_seconds: How long to wait for another run on the view to end; by default the call fails at once.
        on_begin: Called when no other run on the view is under way, before anything is done.
        progress: Called with the progress, from the thread that folds.

    Returns:
        The result of the run.

    Raises:
        SourceError: The source cannot give its rows, or changed while it was read.
        StateError: Another run on the view is under way, a stored state is damaged, or the store drops states while
            their events still matter.
        StorageError: The store cannot be written; running again completes the work.
    """
    check_expiry(view, store)
    with _run_lock(view, store, wait_seconds):
        if on_begin is not None:
            on_begin()
        run = _Run(view, source, store, history_us, events_at_once, stream, previous_read, progress)
        return run.execute(until_us, full=full)


@contextmanager
def _run_lock(view: ViewPlan, store: OnlineStore, wait_seconds: float) -> Iterator[None]:
    """Exclude other runs on a view."""
    with ExitStack() as stack:
        try:
            stack.enter_context(
                hold_lock(store, run_lock(view.fingerprint), wait_seconds=wait_seconds, backoff=LONG_WAITS)
            )
        except StateError as error:
            if not is_busy(error):
                raise
            raise StateError(
                "another run on it is under way",
                where=f"feature view '{view.name}'",
                hint="Run it again later, or set how long to wait: wait_seconds=60.",
                code="busy",
            ) from None
        yield


class _Run:
    """One run on one view. It keeps the view's record as stored: every write is conditional on it."""

    def __init__(
        self,
        view: ViewPlan,
        source: Events,
        store: OnlineStore,
        history_us: int,
        events_at_once: int,
        stream: Stream | None,
        previous_read: PreviousRead | None,
        progress: Progress | None,
    ) -> None:
        self._view = view
        self._source = source
        self._reader = Reader(view, source, events_at_once)
        self._store = store
        self._history_us = history_us
        self._events_at_once = events_at_once
        self._updater = StateUpdater(view, store)
        self._keeps_all = keeps_everything(view)
        self._stream = None if stream is None else stream.read_back()
        self._previous_read = previous_read
        self._progress = progress
        self._folded = self._expected = 0
        self._has_lock = False
        self._written = 0
        """How many new states the record does not count yet; ``UNCOUNTED`` if that is not known."""
        self._key = record_key(view)
        self._load()

    def _load(self) -> None:
        self._stored = self._store.read([self._key]).get(self._key)
        self._record = decode_record(self._view, self._stored)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Exclude pushes, which change the record as well. May be nested."""
        if self._stream is None or self._has_lock:
            yield
            return
        with folding([self._view], self._store):
            self._load()
            self._has_lock = True
            try:
                yield
            finally:
                self._has_lock = False

    def execute(self, until_us: int, *, full: bool) -> ViewRun:
        """Extend the states, or fill them from the beginning if the record or the source requires it."""
        self._clear_leftover()
        before = self._record
        is_first = before.watermark_us == NOTHING_YET
        loss = "" if is_first else self._loss()
        until_us = max(until_us, before.watermark_us if not loss else self._promised_us(before.watermark_us))
        try:
            reason = loss or ("asked for" if full else "" if is_first else self._why_rebuild(until_us))
            if is_first or reason:
                generation = before.generation if is_first else before.generation + 1
                obstacle = self._why_restart(until_us, generation)
                reason = (reason or obstacle) if before.filling is not None or not is_first else ""
                events, entities = self._fill(until_us, generation, can_continue=not obstacle)
            else:
                events, entities = self._extend(until_us)
        except SourceError:
            self._distrust()
            raise
        except StateError as error:
            if error.code in ("corrupt-state", "foreign-state"):
                self._distrust()
            raise
        after = self._record
        return ViewRun(
            self._view.name,
            before.watermark_us,
            until_us,
            events,
            entities,
            reason,
            row_count=after.rows_below,
            content=after.content,
        )

    def _distrust(self) -> None:
        """Let the next run rebuild if states may hold events of a source that has changed since."""
        with self._exclusive():
            record = self._record
            if record.filling is not None:
                self._put(msgspec.structs.replace(record, filling=_distrusted(record.filling)))
            elif record.pending_us > record.watermark_us:
                self._put(msgspec.structs.replace(record, pending_rows=-1))

    def _loss(self) -> str:
        """Describe lost states, or events in states that the log no longer has; empty if there are none."""
        record = self._record
        if record.lost is not None:
            return record.lost.problem
        pushed = None if self._stream is None else self._stream.pushed
        if pushed is not None and (mismatch := log_mismatch(record, pushed, pushed.head())) is not None:
            return mismatch.problem
        return missing_states(self._view, self._store)

    def _promised_us(self, watermark_us: int) -> int:
        """Return a watermark, or the log's head if that is earlier: later events may still become known."""
        return watermark_us if self._stream is None else min(watermark_us, self._stream.pushed.head().next_ingest_us)

    def _why_rebuild(self, until_us: int) -> str:
        """Return the reason why states cannot be extended up to an instant; empty if they can."""
        record = self._record
        if record.rows_below == ENTITY_FORGOTTEN:
            return "an entity was forgotten"
        count = self._source.count_below(record.watermark_us)
        if count != record.rows_below:
            return f"the source has {count} events below the watermark, where it had {record.rows_below}"
        if self._source.repeats_logged((record.watermark_us, until_us), before_us=record.log_us):
            return "the source has earlier deliveries of pushed events"
        if record.pending_us > record.watermark_us:
            is_same = self._is_same(record.pending_us, record.pending_rows, record.pending_content)
            return "" if is_same else "the source changed after a run that did not end"
        if record.content is None or self._is_untouched(record):
            return ""
        is_same = self._reader.content_below(record.watermark_us) == record.content
        return "" if is_same else "the source has other events below the watermark than it had"

    def _is_untouched(self, record: ViewRecord) -> bool:
        """Return whether the source's files prove that the events below the watermark are those that were folded.

        The number of events there is known to be unchanged.
        """
        previous = self._previous_read
        if previous is None or (previous.row_count, previous.content) != (record.rows_below, record.content):
            return False
        return self._reader.lie_in(previous.files, below_us=record.watermark_us)

    def _is_same(self, below_us: int, row_count: int, content: int | None) -> bool:
        """Return whether the source has the same events below an instant as before; it may read them."""
        if self._source.count_below(below_us) != row_count:
            return False
        return content is None or self._reader.content_below(below_us) == content

    def _why_restart(self, until_us: int, generation: int) -> str:
        """Return the reason why a fill cannot continue an interrupted one; empty if it can."""
        filling = self._record.filling
        if filling is None or filling.generation != generation:
            return "there is none"
        if self._stream is not None:
            return "states do not record which pushed events they hold"
        if max(filling.done_us, filling.pending_us) > until_us or filling.reach_us > self._reach_us(until_us):
            return "an interrupted first run had a later bound"
        if not self._is_same(filling.pending_us, filling.pending_rows, filling.pending_content):
            return "the source changed after a run that did not end"
        return ""

    def _reach_us(self, watermark_us: int) -> int:
        return NOTHING_YET if self._keeps_all else watermark_us - self._history_us

    def _fill(self, until_us: int, generation: int, *, can_continue: bool) -> tuple[int, int]:
        """Fold all events into a generation that is not published yet, and switch to it.

        Events that matter only before the reach to be published are dropped at once.
        """
        filling = self._record.filling
        if filling is None or not can_continue:
            filling = self._begin_fill(generation, self._reach_us(until_us))
        is_empty = filling.pending_us == NOTHING_YET
        cache = _StateCache(self._store, self._record.forgets, is_empty=is_empty)
        self._written = 0 if is_empty else UNCOUNTED
        events = entities = 0
        for step, piece in self._pieces(filling.done_us, until_us, filling.reach_us):
            filling = msgspec.structs.replace(
                filling,
                pending_us=step.end,
                pending_rows=self._source.count_below(step.end),
                pending_content=joined(filling.done_content, piece.content),
            )
            with self._exclusive():
                self._put(msgspec.structs.replace(self._record, filling=filling))
            cache.is_last_step = step.end == until_us
            counts = self._fold(piece, generation, step.end, filling.reach_us, cache)
            filling = msgspec.structs.replace(filling, done_us=step.end, done_content=filling.pending_content)
            events, entities = events + counts[0], entities + counts[1]
        events += self._fold_pushed(generation, NOTHING_YET, until_us, filling.reach_us)
        self._source.check_unchanged()
        old = self._record.generation
        with self._exclusive():
            head = Head() if self._stream is None else self._stream.pushed.head()
            log_us = max(until_us, head.next_ingest_us)
            events += self._fold_pushed(generation, until_us, log_us, filling.reach_us)
            final = self._final_record(until_us, generation, filling.reach_us, log_us, filling.done_content)
            self._put(msgspec.structs.replace(at_head(final, head), leftover=None if old == generation else old))
        self._clear_leftover()
        return events, entities

    def _clear_leftover(self) -> None:
        """Delete the states that a switch has replaced, if an earlier run died before that."""
        leftover = self._record.leftover
        if leftover is not None:
            self._store.delete(state_prefix(self._view, leftover))
            with self._exclusive():
                self._put(msgspec.structs.replace(self._record, leftover=None))

    def _begin_fill(self, generation: int, reach_us: int) -> FillProgress:
        """Record a fill that begins from nothing."""
        with self._exclusive():
            if self._record.filling is not None:
                self._put(msgspec.structs.replace(self._record, filling=None))
        self._store.delete(state_prefix(self._view, generation))
        filling = FillProgress(generation, reach_us)
        with self._exclusive():
            self._put(msgspec.structs.replace(self._record, filling=filling))
        return filling

    def _fold_pushed(self, generation: int, from_us: int, until_us: int, reach_us: int) -> int:
        """Fold pushed events into a generation that is not published yet; return how many."""
        events = 0
        if self._stream is not None:
            for _, table in self._stream.pushed.steps(from_us, until_us, self._events_at_once):
                self._fold_events(self._updater.arrange(table, generation, reach_us), None, reach_us)
                events += table.num_rows
        return events

    def _extend(self, until_us: int) -> tuple[int, int]:
        """Fold the events that became known since the watermark; each step moves it.

        Events are dropped by the published reach, never by the reach that a step is going to publish.
        """
        events = entities = 0
        if self._stream is not None:
            events = follow(self._view, self._stream, self._store, until_us=until_us, history_us=self._history_us) or 0
            self._load()
        if self._record.states == UNCOUNTED or self._record.is_counting:
            with self._exclusive():
                counted = self._count(self._record.generation)
                self._put(msgspec.structs.replace(self._record, states=counted, is_counting=False))
        if until_us <= self._record.watermark_us:
            return events, entities
        published = self._record
        for step, piece in self._pieces(published.watermark_us, until_us, published.reach_us):
            content_after = None if self._record.content is None else joined(self._record.content, piece.content)
            if piece.row_count:
                with self._exclusive():
                    self._put(self._pending_record(step.end, content_after))
            record = self._record
            self._written = 0
            counts = self._fold(piece, record.generation, step.end, record.reach_us)
            self._source.check_unchanged()
            with self._exclusive():
                watermark_us = max(step.end, self._record.watermark_us)
                reach_us = max(record.reach_us, self._reach_us(watermark_us))
                log_us = self._record.log_us
                self._put(self._final_record(watermark_us, record.generation, reach_us, log_us, content_after))
            events, entities = events + counts[0], entities + counts[1]
        return events, entities

    def _pending_record(self, until_us: int, content: int | None) -> ViewRecord:
        """Return the record of a step under way: states may be ahead of the watermark up to an instant."""
        if until_us <= self._record.pending_us:
            return msgspec.structs.replace(self._record, is_counting=True)
        return msgspec.structs.replace(
            self._record,
            is_counting=True,
            pending_us=until_us,
            pending_rows=self._source.count_below(until_us),
            pending_content=content,
        )

    def _final_record(
        self, watermark_us: int, generation: int, reach_us: int, log_us: int, content: int | None
    ) -> ViewRecord:
        """Return the record after a step: the watermark has moved."""
        is_same = generation == self._record.generation and self._record.watermark_us != NOTHING_YET
        rows_below = self._source.count_below(watermark_us)
        has_all = self._stream is not None and rows_below == self._source.count_below(NO_WATERMARK)
        old_states = self._record.states if is_same else 0
        is_counted = UNCOUNTED not in (old_states, self._written)
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
            content=content,
            pending_content=self._record.pending_content if is_same else None,
            filling=self._record.filling if is_same else None,
            forgets=self._record.forgets,
            states=old_states + self._written if is_counted else self._count(generation),
            log_sequence=self._record.log_sequence,
            log_mark=self._record.log_mark,
        )

    def _count(self, generation: int) -> int:
        """Count the states of a generation while no other process writes any."""
        count = count_states(self._store, state_prefix(self._view, generation))
        return UNCOUNTED if count is None else count

    def _put(self, record: ViewRecord) -> None:
        if record == self._record:
            return
        stored = encode_record(record)
        self._store.write([(self._key, stored)], expected={self._key: self._stored})
        self._stored, self._record = stored, record

    def _pieces(self, begin: int, end: int, reach_us: int) -> Iterator[tuple[Step, StepEvents]]:
        """Read a range of ingest times in steps, without the events that matter only before a reach."""
        steps = self._reader.steps(begin, end)
        self._expected = sum(step.events for step in steps)
        self._report(0)
        return self._reader.pieces(steps, lambda table: self._updater.drop_useless(table, reach_us))

    def _report(self, events: int) -> None:
        self._folded += events
        if self._progress is not None:
            self._progress(self._folded, max(self._folded, self._expected))

    def _fold(
        self, piece: StepEvents, generation: int, bound_us: int, reach_us: int, cache: _StateCache | None = None
    ) -> tuple[int, int]:
        """Fold one step into the states of its entities; return counts of events and entities."""
        events = entities = 0
        for count, table in piece.tables:
            events += count
            new = self._updater.arrange(table, generation, reach_us)
            entities += self._fold_events(new, bound_us, reach_us, cache)
            self._report(count)
        return events, entities

    def _fold_events(
        self, new: NewEvents, bound_us: int | None, reach_us: int, cache: _StateCache | None = None
    ) -> int:
        """Fold all events that some entities have in a step; return the count of entities.

        While states are written, the next ones are computed, except while pushes are excluded.
        """
        at, size = 0, _ENTITIES_AT_FIRST
        with ThreadPoolExecutor(1) as writer:
            written: Future[None] | None = None
            while at < len(new.keys):
                stop = min(at + size, len(new.keys))
                with self._exclusive():
                    read = None if cache is None else cache.reader(self._record.forgets)
                    items = self._updater.update(new, at, stop, bound_us, reach_us, read=read)
                    if self._written != UNCOUNTED:
                        self._written += items.new
                    if cache is not None:
                        cache.keep(items)
                    if written is not None:
                        written.result()
                    written = writer.submit(self._store.write, items, expected={self._key: self._stored})
                    if self._has_lock:
                        written.result()
                state_bytes = _SAMPLED * sum(len(state) for _, state in items[::_SAMPLED])
                size = min(items_at_once(self._store), _STATE_BYTES_AT_ONCE * (stop - at) // max(1, state_bytes))
                size = max(1, size)
                at = stop
            if written is not None:
                written.result()
        return len(new.keys)


class _StateCache:
    """The states of a generation that this run fills, cached so that they are not read back.

    Only ``forget`` changes them meanwhile; from then on they are read from the store.

    Attributes:
        is_last_step: Whether states that are written now are not read again.
    """

    def __init__(self, store: OnlineStore, forgets: int, *, is_empty: bool) -> None:
        """Take the parts.

        Args:
            store: Where the states are kept.
            forgets: The count of removals in the view's record.
            is_empty: Whether the store has no state of the generation yet; otherwise nothing is cached.
        """
        self._store = store
        self._forgets = forgets
        self._states: dict[bytes, bytes] | None = {} if is_empty else None
        self._bytes = 0
        self.is_last_step = False

    def reader(self, forgets: int) -> Callable[[Sequence[bytes]], Mapping[bytes, bytes]]:
        """Return the function that reads states, given the count of removals in the view's record."""
        if forgets != self._forgets:
            self._states = None
        states = self._states
        return self._store.read if states is None else lambda _: states

    def keep(self, items: KeyValues) -> None:
        """Cache states that are written now; when the cache becomes too large, drop it."""
        if self._states is None or self.is_last_step:
            return
        keys, states = zip(*items, strict=True)
        self._bytes += sum(map(len, states)) - sum(map(len, map(self._states.get, keys, repeat(b""))))
        self._states.update(items)
        if self._bytes + len(self._states) * _ENTRY_BYTES > CACHED_BYTES:
            self._states = None


def _distrusted(filling: FillProgress) -> FillProgress:
    return msgspec.structs.replace(filling, pending_rows=-1)
