"""Removing online state: if the process dies meanwhile, no partly removed state answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from featurestore.online.filling.streaming import folding
from featurestore.online.stores.locks import hold_lock, run_lock
from featurestore.online.stores.store import (
    OnlineStore,
    PlanOfView,
    ViewRecord,
    decode_record,
    encode_record,
    record_key,
    state_prefix,
)


def discard(store: OnlineStore, view: PlanOfView, *, is_needed: Callable[[], bool]) -> int | None:
    """Remove all state of a view's plan, unless it is needed.

    The record is emptied first: from then on nothing is materialized, and a run fills the view from the beginning. If
        the
    plan comes to be needed before that, the record is restored; later the plan counts as not materialized.

    Args:
        store: Where states are kept.
        view: The plan.
        is_needed: Returns whether the plan is needed now.

    Returns:
        The count of removed keys; ``None`` if the plan is needed.

    Raises:
        StateError: A run is updating it (``busy``).
        StorageError: The store cannot be written; a second call completes the work.
    """
    key = record_key(view)
    with ExitStack() as stack:
        stack.enter_context(hold_lock(store, run_lock(view.fingerprint), wait_seconds=0))
        stack.enter_context(folding([view], store))
        if is_needed():
            return None
        stored = store.read([key]).get(key)
        if stored is not None:
            empty = encode_record(ViewRecord(view.name, view.fingerprint))
            store.write([(key, empty)], expected={key: stored})
            if is_needed():
                store.write([(key, stored)], expected={key: empty})
                return None
        return store.delete(key)


def discard_dead(store: OnlineStore, view: PlanOfView) -> int:
    """Remove the generations of a view that are neither published nor being filled; return the count of removed keys.

    Raises:
        StateError: A run is updating it (``busy``), or its record is damaged.
        StorageError: The store cannot be written.
    """
    key = record_key(view)
    with hold_lock(store, run_lock(view.fingerprint), wait_seconds=0):
        record = decode_record(view, store.read([key]).get(key))
        dead = [record.generation - 1] if record.generation else []
        if record.filling is None:
            dead.append(record.generation + 1)
        return sum(store.delete(state_prefix(view, generation)) for generation in dead)
