"""Waiting for names that one process holds alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from featurestore.core.errors import StateError
from featurestore.online.stores.store import OnlineStore


@contextmanager
def held(
    store: OnlineStore, name: str, *, wait_seconds: float, first_wait: float = 0.0002, longest_wait: float = 0.01
) -> Iterator[None]:
    """Hold a name alone among all processes; wait for it if need be.

    Args:
        store: The store the name is about.
        name: The name.
        wait_seconds: How long to wait; 0 is not at all.
        first_wait: Seconds until the second attempt; later ones are further apart.
        longest_wait: At most so far.

    Raises:
        StateError: Somebody else held it all the time (``busy``).
    """
    with ExitStack() as stack:
        waited, wait = 0.0, first_wait
        while True:
            try:
                stack.enter_context(store.exclusive(name))
                break
            except StateError as error:
                if error.code != "busy" or waited >= wait_seconds:
                    raise
            pause = min(wait, wait_seconds - waited)
            time.sleep(pause)
            waited, wait = waited + pause, min(2 * wait, longest_wait)
        yield
