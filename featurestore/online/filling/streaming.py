"""Following the event log: pushed events are folded into online state in the order of the log, at once or later.

The view's record holds how far the view has followed the log and is written together with the states, so no event is
folded twice or left out, whichever process dies. A process that changes states which lookups read holds the view's
folding lock meanwhile: concurrent pushes of several processes and a run of ``materialize`` lose no events.

A push is announced in the records of its views before its ingest time is chosen, and the write that folds it removes
the announcement. So a lookup learns from a record whether events of the present instant may still be missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol

import msgspec
import pyarrow as pa

from featurestore.core.errors import StateError, StorageError
from featurestore.core.temporal import NOTHING_YET
from featurestore.kernels.retention import keeps_everything
from featurestore.online.filling.folding import KeyValues, StateUpdater
from featurestore.online.state.losses import check_expiry, log_mismatch, note_loss
from featurestore.online.stores.locks import hold_lock
from featurestore.online.stores.store import (
    UNCOUNTED,
    OnlineStore,
    PlanOfView,
    ViewRecord,
    decode_record,
    encode_record,
    loss_error,
    record_key,
)
from featurestore.plan.model import ViewPlan
from featurestore.sources.event_log import Head

MOST_EVENTS = 5_000
"""The approximate number of pushed events that are folded in one write."""

_LOCK_SECONDS = 60.0


class PushedLog(Protocol):
    """The pushed events of a source, for one view."""

    def head(self) -> Head:
        """Return the head of the log."""
        ...

    def is_past(self, head: Head, /) -> bool:
        """Return whether the log once had this head, and still has all events before it."""
        ...

    def seal(self, until_us: int, /) -> None:
        """Seal the log: no later event gets an ingest time before an instant."""
        ...

    def steps(self, from_us: int, until_us: int, most_events: int, /) -> Iterator[tuple[int, pa.Table]]:
        """Yield events in the order of ingest time: for each step its exclusive bound and its events."""
        ...

    def read_back(self) -> PushedLog:
        """Return the same events, read from the log instead of from memory."""
        ...


@contextmanager
def folding(views: Iterable[PlanOfView], store: OnlineStore) -> Iterator[None]:
    """Hold the folding locks of some views, which every process needs to change states that lookups read.

    This is the only place where they are taken, and it prevents deadlocks by two rules. A thread takes all locks that
    it needs at once, in the order of the fingerprints, and takes no other while it holds any. The lock of a run on a
    view (``run_lock``) is taken before them, never after.

    Raises:
        StateError: Another process held one of them for a minute.
    """
    ordered = sorted({view.fingerprint for view in views})
    assert not getattr(_HELD, "fingerprints", ()), f"folding locks are held already: {_HELD.fingerprints}"
    with ExitStack() as stack:
        for fingerprint in ordered:
            stack.enter_context(hold_lock(store, f"fold-{fingerprint[:16]}", wait_seconds=_LOCK_SECONDS))
        _HELD.fingerprints = ordered
        try:
            yield
        finally:
            _HELD.fingerprints = ()


_HELD = threading.local()
"""The folding locks that the present thread holds."""


@dataclass(frozen=True)
class Stream:
    """The pushed events that a view follows.

    Attributes:
        pushed: The pushed events of its source.
        outside: Identity of the present rows outside the log; empty if it is not known. As long as it is that of a run
            which folded all of them, the watermark follows the log.
    """

    pushed: PushedLog
    outside: str = ""

    def read_back(self) -> Stream:
        """Return the same events, read from the log instead of from memory.

        Events in memory may have been removed from the log, unless the folding lock was held all the time.
        """
        return replace(self, pushed=self.pushed.read_back())


def follow(
    view: ViewPlan, stream: Stream, store: OnlineStore, *, until_us: int | None = None, history_us: int
) -> int | None:
    """Fold the pushed events that a view's state does not hold yet.

    A view that was never materialized is skipped: its first run folds the log together with the rows outside.

    Args:
        view: The view.
        stream: The pushed events.
        store: Where states are kept.
        until_us: Exclusive bound of the ingest times to fold; ``None`` folds all.
        history_us: How far before the watermark lookups can ask.

    Returns:
        The count of folded events; ``None`` for a view that was never materialized.

    Raises:
        StateError: A stored state is damaged.
        StorageError: The store cannot be written; a second call completes the work.
    """
    with folding([view], store):
        return _follow(view, stream, store, until_us, history_us)


def materialized(views: Sequence[ViewPlan], store: OnlineStore) -> tuple[ViewPlan, ...]:
    """Return the views that have online state; their records are read at once.

    A damaged record counts as state: the call that uses it reports the error.

    Raises:
        StorageError: The store cannot be read.
    """
    stored = store.read([record_key(view) for view in views])
    return tuple(view for view in views if _is_materialized(view, stored.get(record_key(view))))


def _is_materialized(view: ViewPlan, stored: bytes | None) -> bool:
    try:
        return decode_record(view, stored).watermark_us != NOTHING_YET
    except StateError:
        return True


class Announcement:
    """Announces a push to lookups. The push does not fail if the online store cannot be written.

    Meanwhile the folding locks of the announced views are held.

    Attributes:
        is_made: Whether the push was announced, and the locks were held all the time.
        views: The announced views. The others had no state; a view that got state since is followed after the
            announcement has ended, by the rules of ``folding``.
    """

    def __init__(self, views: Sequence[ViewPlan], store: OnlineStore, now_us: Callable[[], int]) -> None:
        """Take the parts; nothing is announced yet. Views that were never materialized do not answer and are skipped.

        Args:
            views: The views of the source that is pushed to.
            store: Where states are kept.
            now_us: Returns the present instant.
        """
        self._candidates = views
        self._store = store
        self._now_us = now_us
        self._locks = ExitStack()
        self._announced: dict[bytes, bytes] = {}
        self.views: tuple[ViewPlan, ...] = ()
        self.is_made = False

    def __enter__(self) -> Announcement:
        try:
            self._announce()
            self.is_made = True
        except (StateError, StorageError):
            self._release()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release()

    def follow(self, view: ViewPlan, stream: Stream, *, history_us: int) -> int | None:
        """Fold the push into one of the announced views; see ``follow``."""
        announced = self._announced[record_key(view)]
        return _follow(view, stream, self._store, None, history_us, announced)

    def _announce(self) -> None:
        views = materialized(self._candidates, self._store)
        self._locks.enter_context(folding(views, self._store))
        keys = {record_key(view): view for view in views}
        stored = self._store.read(list(keys))
        now_us = self._now_us()
        records = {key: decode_record(view, stored.get(key)) for key, view in keys.items()}
        items = [
            (key, encode_record(msgspec.structs.replace(record, push_us=now_us))) for key, record in records.items()
        ]
        self._store.write(items, expected=stored)
        self._announced = dict(items)
        self.views = views

    def _release(self) -> None:
        try:
            self._locks.close()
        except (StateError, StorageError):
            self.is_made = False


def _follow(
    view: ViewPlan,
    stream: Stream,
    store: OnlineStore,
    until_us: int | None,
    history_us: int,
    announced: bytes | None = None,
) -> int | None:
    """Follow the log while the view's folding lock is held.

    Events in memory are used only if the record is still the announced one: then the lock was held all the time, and no
    event can have been removed from the log since.
    """
    key = record_key(view)
    updater = StateUpdater(view, store)
    keeps_all = keeps_everything(view)
    events = 0
    stored = store.read([key]).get(key)
    record = decode_record(view, stored)
    if record.watermark_us == NOTHING_YET:
        return None
    check_expiry(view, store)
    if record.lost is not None:
        raise loss_error(view.name, record.lost)
    if stored != announced:
        stream = stream.read_back()
    head = stream.pushed.head()
    if (loss := log_mismatch(record, stream.pushed, head)) is not None:
        note_loss(view, store, loss)
        raise loss_error(view.name, loss)
    end_us = head.next_ingest_us if until_us is None else until_us
    if record.log_us >= end_us:
        if record.push_us is not None:
            # The announcing process no longer holds the lock: the push was folded by another one, or never committed.
            store.write([(key, encode_record(msgspec.structs.replace(record, push_us=None)))], expected={key: stored})
        return 0
    for step_us, table in stream.pushed.steps(record.log_us, end_us, MOST_EVENTS):
        items = pushed_items(updater, table, record.generation, record.reach_us)
        record = _advance(record, step_us, stream.outside, history_us, keeps_all=keeps_all)
        record = at_head(record, head)
        if record.states != UNCOUNTED:
            record = msgspec.structs.replace(record, states=record.states + items.new)
        if step_us == end_us:
            record = msgspec.structs.replace(record, push_us=None)
        following = encode_record(record)
        store.write([*items, (key, following)], expected={key: stored})
        stored = following
        events += table.num_rows
    return events


def at_head(record: ViewRecord, head: Head) -> ViewRecord:
    """Return a record with the log's event at which the states are, which is known only at the log's head."""
    if record.log_us < head.next_ingest_us:
        return msgspec.structs.replace(record, log_sequence=UNCOUNTED, log_mark="")
    return msgspec.structs.replace(record, log_sequence=head.next_sequence, log_mark=head.mark)


def pushed_items(updater: StateUpdater, table: pa.Table, generation: int, reach_us: int) -> KeyValues:
    """Merge pushed events into the states of their entities; nothing is written."""
    new = updater.arrange(table, generation, reach_us) if table.num_rows else None
    return updater.update(new, 0, len(new.keys), None, reach_us) if new and new.keys else KeyValues((), ())


def _advance(record: ViewRecord, log_us: int, outside: str, history_us: int, *, keeps_all: bool) -> ViewRecord:
    """Return the record after the log was followed up to an instant."""
    if not outside or outside != record.outside or log_us <= record.watermark_us:
        return msgspec.structs.replace(record, log_us=log_us)
    reach_us = NOTHING_YET if keeps_all else max(record.reach_us, log_us - history_us)
    return msgspec.structs.replace(record, log_us=log_us, watermark_us=log_us, reach_us=reach_us)
