"""Noticing that a part of a view's states is gone, or that they hold events which the event log has no more.

A view's record says how many states there are and how far the log went when it was followed. The record itself is read
by every lookup, so a loss that is written into it is known to every process at once, without reading anything more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from featurestore.core.errors import StateError
from featurestore.core.retrying import retry
from featurestore.core.temporal import NOTHING_YET, format_duration
from featurestore.kernels.retention import longest_us
from featurestore.online.stores.store import (
    AHEAD_OF_LOG,
    UNCOUNTED,
    Loss,
    OnlineStore,
    PlanOfView,
    ViewRecord,
    count_states,
    decode_record,
    encode_record,
    record_key,
    state_prefix,
)
from featurestore.plan.model import ViewPlan
from featurestore.sources.event_log import Head

if TYPE_CHECKING:
    from featurestore.online.filling.streaming import PushedLog

_ATTEMPTS = 20
"""How often to try to record a loss while other processes change the record."""


def check_expiry(view: ViewPlan, store: OnlineStore) -> None:
    """Make sure that a store keeps the states of a view for as long as its events matter.

    Raises:
        StateError: It drops them earlier: a known entity would look like one that was never seen, and its next event
            would begin a new state.
    """
    drops_after_us = int(getattr(store, "drops_after_us", 0))
    longest = longest_us(view)
    if not drops_after_us or (longest is not None and longest <= drops_after_us):
        return
    needed = "for ever" if longest is None else f"for {format_duration(longest)}"
    raise StateError(
        f"the online store drops a state {format_duration(drops_after_us)} after its last write, and events of the view"
        f" matter {needed}",
        where=f"feature view '{view.name}'",
        hint="Take the option 'expire' out of the store's URL or make it longer, or give the features shorter windows.",
        code="store-expires",
    )


def missing_states(view: PlanOfView, store: OnlineStore) -> str:
    """Count the states of a view; return what is wrong if there are fewer than its record says, else an empty text.

    Counting takes a store some tenths of a second for each million states.

    Raises:
        StateError: The record is damaged.
        StorageError: The store cannot be read.
    """
    key = record_key(view)
    before = decode_record(view, store.read([key]).get(key))
    if before.watermark_us == NOTHING_YET or before.states == UNCOUNTED:
        return ""
    count = count_states(store, state_prefix(view, before.generation))
    if count is None or count >= before.states:
        return ""
    after = decode_record(view, store.read([key]).get(key))
    # States are removed on purpose only by what changes these.
    if (after.generation, after.forgets) != (before.generation, before.forgets):
        return ""
    return f"{before.states - count} of its {before.states} states are gone from the online store"


def log_mismatch(record: ViewRecord, pushed: PushedLog, head: Head) -> Loss | None:
    """Return what is wrong if states hold events that the log has no more, else ``None``.

    A log that lost nothing but the promise that no earlier event will come is given that promise again.

    Args:
        record: The view's record.
        pushed: The log.
        head: How far the log goes.

    Raises:
        StorageError: The log cannot be read, or not be written.
    """
    if record.watermark_us == NOTHING_YET:
        return None
    is_known = record.log_sequence != UNCOUNTED
    followed = Head(record.log_sequence, record.log_us, record.log_mark)
    if is_known and not followed.is_behind_same_event(head) and not pushed.is_past(followed):
        counts = f"it has {head.next_sequence} events, where it had {record.log_sequence}"
        if record.log_sequence > head.next_sequence:
            return _ahead(counts, sound_us=head.next_ingest_us)
        return _ahead(f"of its first {record.log_sequence} events some are others than they were")
    if record.log_us <= head.next_ingest_us:
        return None
    if is_known:
        pushed.seal(record.log_us)
        if record.log_us <= pushed.head().next_ingest_us:
            return None
    return _ahead("it has not reached the instant up to which they are complete", sound_us=head.next_ingest_us)


def _ahead(found: str, *, sound_us: int = 0) -> Loss:
    return Loss(AHEAD_OF_LOG, f"its states hold events that the event log has no more: {found}", max(0, sound_us))


def note_loss(view: PlanOfView, store: OnlineStore, loss: Loss) -> None:
    """Write into a view's record that its states cannot be used, so that no process uses them.

    Args:
        view: The view.
        store: Where states are kept.
        loss: What was found.

    Raises:
        StateError: The record is damaged, or changes all the time.
        StorageError: The store cannot be written.
    """
    key = record_key(view)

    def write() -> None:
        stored = store.read([key]).get(key)
        record = decode_record(view, stored)
        if stored is not None and record.lost is None:
            store.write([(key, encode_record(msgspec.structs.replace(record, lost=loss)))], expected={key: stored})

    retry(write, is_transient=_is_conflict, attempts=_ATTEMPTS)


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, StateError) and error.code == "conflict"
