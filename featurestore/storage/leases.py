"""Leases: locks that expire unless their holder renews them, for stores that have only keys or rows.

A thread of the holder renews its leases. If the holder dies, its leases expire. If it cannot renew in time, ``is_held``
and the release report the loss.

A command without an answer may have been executed, also much later by a store that hung. If the outcome of an acquire
or release is unknown, that token is released before the lock is reported as busy.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from featurestore.core.errors import RegistryError, StateError, StorageError

UNANSWERED = (RegistryError, StorageError)
"""Errors of a store that cannot be reached; the next attempt may succeed."""


class Hold(Protocol):
    """A lock while it is held."""

    def is_held(self) -> bool:
        """Check whether the lock is still held. May be called from several threads until the lock is released.

        Once ``False``, always ``False``: another process holds the lock, or may from now on. An unreachable store is
        not an error: the lock counts as held for as long as no other process can have taken it. ``True`` holds at the
        time of the call, so long work checks again and again.
        """
        ...


def busy(name: str, where: str) -> StateError:
    """Return the error for a lock that another process holds.

    Args:
        name: Name of the lock.
        where: The store of the lock.
    """
    hint = "Wait until it has ended."
    return StateError(f"another process holds the lock '{name}'", where=where, hint=hint, code="busy")


def lost(name: str, where: str) -> StateError:
    """Return the error for a lock that was lost while it was held.

    Args:
        name: Name of the lock.
        where: The store of the lock.
    """
    return StateError(
        f"the lock '{name}' was lost before the work ended: the store was unreachable for too long, or the lock was "
        "removed",
        where=where,
        hint="Another process may have held it meanwhile. Conditional writes were still safe. Run it again.",
        code="lease-lost",
    )


_MOST_UNCERTAIN = 16
"""How many of the latest tokens of one lock with an unknown outcome are remembered."""


class LeaseStore(Protocol):
    """A store of leases; each operation is atomic.

    If the store cannot be reached, an operation raises ``StorageError`` or ``RegistryError``.
    """

    def take(self, name: str, token: bytes, seconds: float) -> bool:
        """Take a free lease for a token; return whether the token holds it now."""
        ...

    def renew(self, name: str, token: bytes, seconds: float) -> bool:
        """Renew a lease from now on; return whether the token still held it."""
        ...

    def release(self, name: str, token: bytes) -> bool:
        """Release the lease of a token; return whether the token still held it."""
        ...


class LeaseHolder:
    """Holds locks for a process by leases. One thread renews all of them, and ends when there are none."""

    def __init__(self, leases: LeaseStore, seconds: float, where: str) -> None:
        """Take the parts; no lock is held yet.

        Args:
            leases: The store of the leases.
            seconds: How long a lock stays held after the process has died.
            where: The store, for messages and the name of the thread.
        """
        self._leases = leases
        self._seconds = seconds
        self._where = where
        self._held: dict[bytes, str] = {}
        self._until: dict[bytes, float] = {}
        self._lost: set[bytes] = set()
        self._uncertain: dict[str, list[bytes]] = {}
        self._lock = threading.Lock()
        self._renewer: threading.Thread | None = None
        self._is_closed = threading.Event()

    @contextmanager
    def hold(self, name: str) -> Iterator[Hold]:
        """Hold a lock.

        Raises:
            StateError: Another process holds it, or it was lost while it was held.
            StorageError, RegistryError: The store cannot be reached.
        """
        token, began = uuid.uuid4().bytes, time.monotonic()
        if not self._take(name, token) and not (self._release_uncertain(name) and self._take(name, token)):
            raise busy(name, self._where)
        self._begin(name, token, began)
        try:
            yield _Lease(self, token)
        except BaseException:
            self._end(name, token)
            raise
        if not self._end(name, token):
            raise lost(name, self._where)

    def close(self) -> None:
        """End the thread now if no lock is held."""
        self._is_closed.set()

    def is_held(self, token: bytes) -> bool:
        """Renew a lease and return whether it was never lost; without an answer it lasts until it expires."""
        with self._lock:
            name = self._held.get(token)
        if name is None:
            return False
        self._renew_one(token, name)
        with self._lock:
            if time.monotonic() >= self._until.get(token, 0.0):
                self._lost.add(token)
            return token in self._held and token not in self._lost

    def _take(self, name: str, token: bytes) -> bool:
        """Take a lock; return whether it is held now."""
        try:
            return self._leases.take(name, token, self._seconds)
        except UNANSWERED:
            self._remember(name, token)
            raise

    def _remember(self, name: str, token: bytes) -> None:
        """Remember a token that may hold a lock, or may take it later, although it is not used."""
        with self._lock:
            self._uncertain[name] = [*self._uncertain.get(name, ()), token][-_MOST_UNCERTAIN:]

    def _release_uncertain(self, name: str) -> bool:
        """Release a lock if a remembered token holds it; return whether one did."""
        with self._lock:
            tokens = self._uncertain.get(name, [])
        if not any(self._leases.release(name, token) for token in tokens):
            return False
        with self._lock:
            self._uncertain.pop(name, None)
        return True

    def _begin(self, name: str, token: bytes, began: float) -> None:
        with self._lock:
            self._held[token] = name
            self._until[token] = began + self._seconds
            if self._renewer is None:
                self._is_closed.clear()
                self._renewer = threading.Thread(target=self._renew, name=f"{self._where} leases", daemon=True)
                self._renewer.start()

    def _end(self, name: str, token: bytes) -> bool:
        """Release a lock; return whether it was held all the time, as far as the store answers."""
        with self._lock:
            del self._held[token], self._until[token]
            is_lost = token in self._lost
            self._lost.discard(token)
        try:
            return self._leases.release(name, token) and not is_lost
        except UNANSWERED:  # the lease expires
            self._remember(name, token)
            return not is_lost

    def _renew(self) -> None:
        """Renew all leases three times within their length."""
        while True:
            is_closed = self._is_closed.wait(self._seconds / 3)
            with self._lock:
                held = dict(self._held)
                if not held:
                    self._renewer = None
                    return
            if is_closed:
                self._is_closed.clear()
            for token, name in held.items():
                self._renew_one(token, name)

    def _renew_one(self, token: bytes, name: str) -> None:
        """Renew a lease. A lost lease stays lost; one that was released meanwhile is not."""
        began = time.monotonic()
        with suppress(*UNANSWERED):  # the next attempt may succeed
            is_renewed = self._leases.renew(name, token, self._seconds)
            with self._lock:
                if token in self._held and is_renewed:
                    self._until[token] = began + self._seconds
                elif token in self._held:
                    self._lost.add(token)


class _Lease:
    """A lock that a token holds."""

    def __init__(self, holder: LeaseHolder, token: bytes) -> None:
        self._holder = holder
        self._token = token

    def is_held(self) -> bool:
        """Renew the lease; return whether it was held all the time."""
        return self._holder.is_held(self._token)
