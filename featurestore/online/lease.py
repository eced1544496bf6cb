"""A name that is held for as long as somebody keeps saying so: exclusion in stores that know only keys.

The holder renews its lease from a thread of its own. If it dies, the lease runs out; if it cannot renew in time, it is
told when it gives the name back.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from featurestore.errors import StorageError
from featurestore.online.refusals import busy, lost


class Leases(Protocol):
    """Where leases are kept; each operation is atomic."""

    def take(self, name: str, token: bytes, seconds: float) -> bool:
        """Make a token the holder of a name that nobody holds; tell whether it is now."""
        ...

    def renew(self, name: str, token: bytes, seconds: float) -> bool:
        """Let a token hold a name for so long from now; tell whether it held it still."""
        ...

    def release(self, name: str, token: bytes) -> bool:
        """Let nobody hold a name that a token holds; tell whether it held it still."""
        ...


@contextmanager
def leased(leases: Leases, name: str, seconds: float) -> Iterator[None]:
    """Hold a name.

    Args:
        leases: Where leases are kept.
        name: The name.
        seconds: How long it stays held after the holder has died.

    Raises:
        StateError: Somebody else holds it, or it was lost while it was held.
        StorageError: The store cannot be asked.
    """
    token = uuid.uuid4().bytes
    if not leases.take(name, token, seconds):
        raise busy(name)
    ended, is_lost = threading.Event(), threading.Event()
    renewer = threading.Thread(
        target=_renew, args=(leases, name, token, seconds, ended, is_lost), name=f"lease {name}", daemon=True
    )
    renewer.start()
    is_done = False
    try:
        yield
        is_done = True
    finally:
        ended.set()
        renewer.join()
        with suppress(StorageError):  # a store that does not answer lets the lease run out
            if not leases.release(name, token):
                is_lost.set()
    if is_done and is_lost.is_set():
        raise lost(name)


def _renew(
    leases: Leases, name: str, token: bytes, seconds: float, ended: threading.Event, is_lost: threading.Event
) -> None:
    """Renew a lease three times in its length, until the work ends or the lease is another's."""
    while not ended.wait(seconds / 3):
        with suppress(StorageError):  # the next round may succeed
            if not leases.renew(name, token, seconds):
                is_lost.set()
                return
