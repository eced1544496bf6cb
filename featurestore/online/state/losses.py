"""Detecting lost states of a view, and states with events that the event log no longer has.

A view's record holds the count of its states and the head of the log up to which they were updated. Every lookup reads
the record, so a loss that is written into it is known to every process at once, without another read.
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
    """Check that a store keeps the states of a view for as long as its events matter.

    Raises:
        StateError: States expire earlier: a known entity would look like one that was never seen, and its next event
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
        hint="Remove the option 'expire' from the store's URL or make it longer, or give the features shorter windows.",
        code="store-expires",
    )


def missing_states(view: PlanOfView, store: OnlineStore) -> str:
    """Count the states of a view; describe the loss if there are fewer than in its record, else return an empty text.

    Counting a million states takes a store some tenths of a second.

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
    # Every intended removal of states changes these.
    if (after.generation, after.forgets) != (before.generation, before.forgets):
        return ""
    return f"{before.states - count} of its {before.states} states are gone from the online store"


def log_mismatch(record: ViewRecord, pushed: PushedLog, head: Head) -> Loss | None:
    """Return the loss if states hold events that the log no longer has, else ``None``.

    A log that has lost only its seal, but no event, is sealed again.

    Args:
        record: The view's record.
        pushed: The log.
        head: The head of the log.

    Raises:
        StorageError: The log cannot be read or written.
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


def _ahead(detail: str, *, sound_us: int = 0) -> Loss:
    return Loss(AHEAD_OF_LOG, f"its states hold events that the event log has no more: {detail}", max(0, sound_us))


def note_loss(view: PlanOfView, store: OnlineStore, loss: Loss) -> None:
    """Write a loss into a view's record, so that no process uses its states.

    Args:
        view: The view.
        store: Where states are kept.
        loss: The loss.

    Raises:
        StateError: The record is damaged, or other processes change it at every attempt.
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
