"""Folding a source's events into online state, incrementally by the time they became known.

A run folds the events with ``watermark <= ingest_time < until`` into the states of their entities and then moves the
watermark; it is the last thing written. Every state says itself up to which ingest time it is complete, so a run that
is repeated, or that died half-way, folds nothing twice. Lookups use no event from beyond the watermark, so they see
the state before the run or after it.

That rests on the source holding the same events below the watermark as when they were folded. What is noticed:

- more or fewer of them, always (late rows of a source without an ingest time, a partition that was deleted);
- other ones, if a local file that was folded has gone or has another size or time of writing, or if a new one has a
  delivery below the watermark that counts, and always for sources that do not lie in local files: then everything below
  the watermark is read and its content compared;
- deliveries beyond the watermark that replace pushed events, which are folded already.

What is not noticed is a local file rewritten with the same size, time of writing and count of rows, and what columns
say that the view does not read. If the events are not the same, the view is rebuilt beside its old state and switched
in one step, so that no event is ever lost. The same is checked for what a dead run had begun to fold. A rebuild that
died goes on after the last step it had finished.
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
"""How far before the watermark lookups may ask, if nothing else is said."""

EVENTS_AT_ONCE = 2_000_000
"""About how many events of the source a run holds in memory."""

REMEMBERED_BYTES = 64_000_000
"""So many bytes a run that fills a view may take to keep the states it wrote, and need not read them back."""

_ENTRY_BYTES = 200
"""What a key and its state take beside the state's own bytes."""

_STATE_BYTES_AT_ONCE = 32_000_000
_ENTITIES_AT_FIRST = 1_000
_SAMPLED = 16

Progress = Callable[[int, int], None]
"""Is told how many events a run has folded so far, and how many it will fold."""


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
        row_count: Events of the source, pushed ones apart, that are folded in now.
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
    read_before: PreviousRead | None = None,
    wait_seconds: float = 0,
    began: Callable[[], None] | None = None,
    progress: Progress | None = None,
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
        read_before: What the last run of the plan had read, if that is known: it saves reading what was folded again
            to see that it is the same.
        wait_seconds: How long to wait for another run on the view to end; by default not at all.
        began: Called when no other run on the view is under way, before anything is done.
        progress: Told about progress, from whatever thread folds.

    Returns:
        What was done.

    Raises:
        SourceError: The source cannot give its rows, or changed while it was read.
        StateError: Another run on the view is under way, a stored state is damaged, or the store drops states while
            their events still matter.
        StorageError: The store cannot be written; running again completes the work.
    """
    check_expiry(view, store)
    with _alone_on(view, store, wait_seconds):
        if began is not None:
            began()
        return _Run(view, source, store, history_us, events_at_once, stream, read_before, progress).go(
            until_us, full=full
        )


@contextmanager
def _alone_on(view: ViewPlan, store: OnlineStore, wait_seconds: float) -> Iterator[None]:
    """Hold off other runs on a view."""
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
                hint="Run it again later, or say how long to wait: wait_seconds=60.",
                code="busy",
            ) from None
        yield


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
        read_before: PreviousRead | None,
        progress: Progress | None,
    ) -> None:
        self._view = view
        self._source = source
        self._reader = Reader(view, source, events_at_once)
        self._store = store
        self._history_us = history_us
        self._events_at_once = events_at_once
        self._folder = StateUpdater(view, store)
        self._keeps_all = keeps_everything(view)
        self._stream = None if stream is None else stream.read_back()
        self._read_before = read_before
        self._progress = progress
        self._folded = self._expected = 0
        self._is_alone = False
        self._written = 0
        """How many states were made that the record leaves out; ``UNCOUNTED`` if that is not known."""
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
        with folding([self._view], self._store):
            self._load()
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def go(self, until_us: int, *, full: bool) -> ViewRun:
        """Do what the record and the source call for."""
        self._clear_leftover()
        before = self._record
        is_first = before.watermark_us == NOTHING_YET
        loss = "" if is_first else self._loss()
        until_us = max(until_us, before.watermark_us if not loss else self._promised_us(before.watermark_us))
        try:
            reason = loss or ("asked for" if full else "" if is_first else self._why_rebuild(until_us))
            if is_first or reason:
                generation = before.generation if is_first else before.generation + 1
                why = self._why_begin_again(until_us, generation)
                reason = (reason or why) if before.filling is not None or not is_first else ""
                events, entities = self._fill(until_us, generation, can_go_on=not why)
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
        """Make the next run rebuild if states may hold events of a source that has changed since."""
        with self._alone():
            record = self._record
            if record.filling is not None:
                self._put(msgspec.structs.replace(record, filling=_distrusted(record.filling)))
            elif record.pending_us > record.watermark_us:
                self._put(msgspec.structs.replace(record, pending_rows=-1))

    def _loss(self) -> str:
        """Tell whether a part of the states is gone, or they hold what the log has no more; empty if all is there."""
        record = self._record
        if record.lost is not None:
            return record.lost.problem
        pushed = None if self._stream is None else self._stream.pushed
        if pushed is not None and (mismatch := log_mismatch(record, pushed, pushed.head())) is not None:
            return mismatch.problem
        return missing_states(self._view, self._store)

    def _promised_us(self, watermark_us: int) -> int:
        """Return a watermark, or the log's head if that is earlier: events may become known from there on."""
        return watermark_us if self._stream is None else min(watermark_us, self._stream.pushed.head().next_ingest_us)

    def _why_rebuild(self, until_us: int) -> str:
        """Tell why states cannot be extended up to an instant; empty if they can."""
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
        """Tell whether files say by themselves that they hold below the watermark what was folded, and nothing else.

        The source has as many events there as it had.
        """
        before = self._read_before
        if before is None or (before.row_count, before.content) != (record.rows_below, record.content):
            return False
        return self._reader.lie_in(before.files, below_us=record.watermark_us)

    def _is_same(self, below_us: int, row_count: int, content: int | None) -> bool:
        """Tell whether the source still has the events below an instant that it had; they are read for it."""
        if self._source.count_below(below_us) != row_count:
            return False
        return content is None or self._reader.content_below(below_us) == content

    def _why_begin_again(self, until_us: int, generation: int) -> str:
        """Tell why a fill cannot go on where one died; empty if it can."""
        filling = self._record.filling
        if filling is None or filling.generation != generation:
            return "there is none"
        if self._stream is not None:
            return "states do not say which pushed events they have"
        if max(filling.done_us, filling.pending_us) > until_us or filling.reach_us > self._reach_us(until_us):
            return "a first run that did not end was to go further"
        if not self._is_same(filling.pending_us, filling.pending_rows, filling.pending_content):
            return "the source changed after a run that did not end"
        return ""

    def _reach_us(self, watermark_us: int) -> int:
        return NOTHING_YET if self._keeps_all else watermark_us - self._history_us

    def _fill(self, until_us: int, generation: int, *, can_go_on: bool) -> tuple[int, int]:
        """Fold everything into a generation that nobody reads yet, and switch to it.

        What matters only before the reach that will be published is dropped at once.
        """
        filling = self._record.filling
        if filling is None or not can_go_on:
            filling = self._begun(generation, self._reach_us(until_us))
        is_empty = filling.pending_us == NOTHING_YET
        filled = _StateCache(self._store, self._record.forgets, is_empty=is_empty)
        self._written = 0 if is_empty else UNCOUNTED
        events = entities = 0
        for step, piece in self._pieces(filling.done_us, until_us, filling.reach_us):
            filling = msgspec.structs.replace(
                filling,
                pending_us=step.end,
                pending_rows=self._source.count_below(step.end),
                pending_content=joined(filling.done_content, piece.content),
            )
            with self._alone():
                self._put(msgspec.structs.replace(self._record, filling=filling))
            filled.is_last = step.end == until_us
            counts = self._fold(piece, generation, step.end, filling.reach_us, filled)
            filling = msgspec.structs.replace(filling, done_us=step.end, done_content=filling.pending_content)
            events, entities = events + counts[0], entities + counts[1]
        events += self._fold_pushed(generation, NOTHING_YET, until_us, filling.reach_us)
        self._source.check_unchanged()
        old = self._record.generation
        with self._alone():
            head = Head() if self._stream is None else self._stream.pushed.head()
            log_us = max(until_us, head.next_ingest_us)
            events += self._fold_pushed(generation, until_us, log_us, filling.reach_us)
            ended = self._ended(until_us, generation, filling.reach_us, log_us, filling.done_content)
            self._put(msgspec.structs.replace(at_head(ended, head), leftover=None if old == generation else old))
        self._clear_leftover()
        return events, entities

    def _clear_leftover(self) -> None:
        """Delete the states that a switch has replaced; a run that died may not have come to it."""
        leftover = self._record.leftover
        if leftover is not None:
            self._store.delete(state_prefix(self._view, leftover))
            with self._alone():
                self._put(msgspec.structs.replace(self._record, leftover=None))

    def _begun(self, generation: int, reach_us: int) -> FillProgress:
        """Announce a fill that begins from nothing."""
        with self._alone():
            if self._record.filling is not None:
                self._put(msgspec.structs.replace(self._record, filling=None))
        self._store.delete(state_prefix(self._view, generation))
        filling = FillProgress(generation, reach_us)
        with self._alone():
            self._put(msgspec.structs.replace(self._record, filling=filling))
        return filling

    def _fold_pushed(self, generation: int, from_us: int, until_us: int, reach_us: int) -> int:
        """Fold pushed events into a generation that nobody reads yet; return how many."""
        events = 0
        if self._stream is not None:
            for _, table in self._stream.pushed.steps(from_us, until_us, self._events_at_once):
                self._fold_fresh(self._folder.arranged(table, generation, reach_us), None, reach_us)
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
        if self._record.states == UNCOUNTED or self._record.is_counting:
            with self._alone():
                counted = self._count(self._record.generation)
                self._put(msgspec.structs.replace(self._record, states=counted, is_counting=False))
        if until_us <= self._record.watermark_us:
            return events, entities
        told = self._record
        for step, piece in self._pieces(told.watermark_us, until_us, told.reach_us):
            content_after = None if self._record.content is None else joined(self._record.content, piece.content)
            if piece.row_count:
                with self._alone():
                    self._put(self._announcing(step.end, content_after))
            record = self._record
            self._written = 0
            counts = self._fold(piece, record.generation, step.end, record.reach_us)
            self._source.check_unchanged()
            with self._alone():
                watermark_us = max(step.end, self._record.watermark_us)
                reach_us = max(record.reach_us, self._reach_us(watermark_us))
                log_us = self._record.log_us
                self._put(self._ended(watermark_us, record.generation, reach_us, log_us, content_after))
            events, entities = events + counts[0], entities + counts[1]
        return events, entities

    def _announcing(self, until_us: int, content: int | None) -> ViewRecord:
        """Return the record that says how far states may be ahead of the watermark from now on."""
        if until_us <= self._record.pending_us:
            return msgspec.structs.replace(self._record, is_counting=True)
        return msgspec.structs.replace(
            self._record,
            is_counting=True,
            pending_us=until_us,
            pending_rows=self._source.count_below(until_us),
            pending_content=content,
        )

    def _ended(self, watermark_us: int, generation: int, reach_us: int, log_us: int, content: int | None) -> ViewRecord:
        is_same = generation == self._record.generation and self._record.watermark_us != NOTHING_YET
        rows_below = self._source.count_below(watermark_us)
        has_all = self._stream is not None and rows_below == self._source.count_below(NO_WATERMARK)
        known = self._record.states if is_same else 0
        is_counted = UNCOUNTED not in (known, self._written)
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
            states=known + self._written if is_counted else self._count(generation),
            log_sequence=self._record.log_sequence,
            log_mark=self._record.log_mark,
        )

    def _count(self, generation: int) -> int:
        """Count the states of a generation; nobody else writes any meanwhile."""
        count = count_states(self._store, state_prefix(self._view, generation))
        return UNCOUNTED if count is None else count

    def _put(self, record: ViewRecord) -> None:
        if record == self._record:
            return
        stored = encode_record(record)
        self._store.write([(self._key, stored)], expected={self._key: self._stored})
        self._stored, self._record = stored, record

    def _pieces(self, begin: int, end: int, reach_us: int) -> Iterator[tuple[Step, StepEvents]]:
        """Read a range of ingest times in steps, without what matters only before a reach."""
        steps = self._reader.steps(begin, end)
        self._expected = sum(step.events for step in steps)
        self._told(0)
        return self._reader.pieces(steps, lambda table: self._folder.of_use(table, reach_us))

    def _told(self, events: int) -> None:
        self._folded += events
        if self._progress is not None:
            self._progress(self._folded, max(self._folded, self._expected))

    def _fold(
        self, piece: StepEvents, generation: int, bound_us: int, reach_us: int, filled: _StateCache | None = None
    ) -> tuple[int, int]:
        """Fold one step into the states of its entities; return counts of events and entities."""
        events = entities = 0
        for count, table in piece.tables:
            events += count
            fresh = self._folder.arranged(table, generation, reach_us)
            entities += self._fold_fresh(fresh, bound_us, reach_us, filled)
            self._told(count)
        return events, entities

    def _fold_fresh(
        self, fresh: NewEvents, bound_us: int | None, reach_us: int, filled: _StateCache | None = None
    ) -> int:
        """Fold all events that some entities have in a step; return the count of entities.

        While states are written, the next ones are made; beside pushes, which write the same states, they are not.
        """
        at, size = 0, _ENTITIES_AT_FIRST
        with ThreadPoolExecutor(1) as writer:
            written: Future[None] | None = None
            while at < len(fresh.keys):
                stop = min(at + size, len(fresh.keys))
                with self._alone():
                    read = None if filled is None else filled.reader(self._record.forgets)
                    items = self._folder.folded(fresh, at, stop, bound_us, reach_us, read=read)
                    if self._written != UNCOUNTED:
                        self._written += items.new
                    if filled is not None:
                        filled.keep(items)
                    if written is not None:
                        written.result()
                    written = writer.submit(self._store.write, items, expected={self._key: self._stored})
                    if self._is_alone:
                        written.result()
                state_bytes = _SAMPLED * sum(len(state) for _, state in items[::_SAMPLED])
                size = min(items_at_once(self._store), _STATE_BYTES_AT_ONCE * (stop - at) // max(1, state_bytes))
                size = max(1, size)
                at = stop
            if written is not None:
                written.result()
        return len(fresh.keys)


class _StateCache:
    """The states of a generation that this run fills: it knows what it wrote, and need not read that again.

    Nobody else changes them but who forgets an entity; from then on they are read from the store.

    Attributes:
        is_last: Whether what is written now is not read again.
    """

    def __init__(self, store: OnlineStore, forgets: int, *, is_empty: bool) -> None:
        """Take the parts.

        Args:
            store: Where they are kept.
            forgets: How often states of the view were removed, by its record.
            is_empty: Whether the store has no state of the generation yet; otherwise nothing is known.
        """
        self._store = store
        self._forgets = forgets
        self._known: dict[bytes, bytes] | None = {} if is_empty else None
        self._bytes = 0
        self.is_last = False

    def reader(self, forgets: int) -> Callable[[Sequence[bytes]], Mapping[bytes, bytes]]:
        """Return what gives those states that some keys have, while the view's record says so many removals."""
        if forgets != self._forgets:
            self._known = None
        known = self._known
        return self._store.read if known is None else lambda _: known

    def keep(self, items: KeyValues) -> None:
        """Know states that are written now. Once they are too large together, all are read from the store again."""
        if self._known is None or self.is_last:
            return
        keys, states = zip(*items, strict=True)
        self._bytes += sum(map(len, states)) - sum(map(len, map(self._known.get, keys, repeat(b""))))
        self._known.update(items)
        if self._bytes + len(self._known) * _ENTRY_BYTES > REMEMBERED_BYTES:
            self._known = None


def _distrusted(filling: FillProgress) -> FillProgress:
    return msgspec.structs.replace(filling, pending_rows=-1)
