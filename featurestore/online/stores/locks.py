"""Locks of an online store, with a time to wait for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from featurestore.core.errors import StateError
from featurestore.core.retrying import Backoff, retry
from featurestore.online.stores.store import OnlineStore

SHORT_WAITS = Backoff(0.0002, longest_seconds=0.01, jitter=0.5)
"""Pauses where a lock is held for milliseconds, as for a push."""

LONG_WAITS = Backoff(0.01, longest_seconds=0.25, jitter=0.5)
"""Pauses where a lock is held for seconds or longer, as for a run of ``materialize``."""


@contextmanager
def hold_lock(store: OnlineStore, name: str, *, wait_seconds: float, backoff: Backoff = SHORT_WAITS) -> Iterator[None]:
    """Hold a lock exclusively among all processes; wait until it is free.

    Args:
        store: The store whose data the lock protects.
        name: Name of the lock.
        wait_seconds: How long to wait; 0 makes one attempt.
        backoff: The pauses between attempts.

    Raises:
        StateError: Another process held the lock all the time (``busy``).
    """
    with ExitStack() as stack:
        retry(
            lambda: stack.enter_context(store.exclusive(name)),
            is_transient=is_busy,
            timeout_seconds=wait_seconds,
            backoff=backoff,
        )
        yield


def run_lock(fingerprint: str) -> str:
    """Return the name of the lock that a run of ``materialize`` holds on the view with that fingerprint."""
    return f"materialize-{fingerprint[:16]}"


def is_busy(error: Exception) -> bool:
    """Return whether an error says that another process holds a lock."""
    return isinstance(error, StateError) and error.code == "busy"
