"""A name that is held for as long as somebody keeps saying so: exclusion in stores that know only keys.

The holder renews its lease from a thread of its own. If it dies, the lease runs out; if it cannot renew in time, it is
told when it asks, and when it gives the name back.

A command that was not answered may have been done all the same, also much later by a store that hung. So a name that
could not be taken, or given back, for sure is given back before the process calls it busy.
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
"""What is raised where a store cannot be asked; the next time may succeed."""


class Hold(Protocol):
    """A name while it is held."""

    def is_held(self) -> bool:
        """Ask whether the name is still held; may be called from several threads, until it is given back.

        Once ``False``, always ``False``: somebody else holds the name, or may from now on. A store that cannot be asked
        raises nothing: the name is held for as long as nobody else can have got it. ``True`` is true when it is said;
        who works for long asks again and again.
        """
        ...


def busy(name: str, where: str) -> StateError:
    """Return the error for a name that somebody else holds.

    Args:
        name: The name.
        where: The store that says so.
    """
    return StateError(f"somebody else holds '{name}'", where=where, hint="Wait until it has ended.", code="busy")


def lost(name: str, where: str) -> StateError:
    """Return the error for a name that was held and is not any more.

    Args:
        name: The name.
        where: The store that says so.
    """
    return StateError(
        f"'{name}' was no longer held when the work ended: the store was away for too long, or somebody took it away",
        where=where,
        hint="Somebody else may have held it meanwhile; conditional writes were still safe. Run it again.",
        code="lease-lost",
    )


_MOST_DOUBTFUL = 16
"""Tokens of one name that are remembered, the latest."""


class LeaseStore(Protocol):
    """Where leases are kept; each operation is atomic.

    Where they cannot be asked, a ``StorageError`` or ``RegistryError`` says so.
    """

    def take(self, name: str, token: bytes, seconds: float) -> bool:
        """Make a token the holder of a name that nobody holds; tell whether it is now."""
        ...

    def renew(self, name: str, token: bytes, seconds: float) -> bool:
        """Let a token hold a name for so long from now; tell whether it held it still."""
        ...

    def release(self, name: str, token: bytes) -> bool:
        """Let nobody hold a name that a token holds; tell whether it held it still."""
        ...


class LeaseHolder:
    """Holds names for a process. One thread renews all of them, and ends when there are none."""

    def __init__(self, leases: LeaseStore, seconds: float, where: str) -> None:
        """Hold nothing yet.

        Args:
            leases: Where leases are kept.
            seconds: How long a name stays held after the process has died.
            where: The store, for messages and as the name of the thread.
        """
        self._leases = leases
        self._seconds = seconds
        self._where = where
        self._held: dict[bytes, str] = {}
        self._until: dict[bytes, float] = {}
        self._lost: set[bytes] = set()
        self._doubtful: dict[str, list[bytes]] = {}
        self._lock = threading.Lock()
        self._renewer: threading.Thread | None = None
        self._is_closed = threading.Event()

    @contextmanager
    def hold(self, name: str) -> Iterator[Hold]:
        """Hold a name.

        Raises:
            StateError: Somebody else holds it, or it was lost while it was held.
            StorageError, RegistryError: The store cannot be asked.
        """
        token, asked = uuid.uuid4().bytes, time.monotonic()
        if not self._take(name, token) and not (self._give_back(name) and self._take(name, token)):
            raise busy(name, self._where)
        self._begin(name, token, asked)
        try:
            yield _Lease(self, token)
        except BaseException:
            self._end(name, token)
            raise
        if not self._end(name, token):
            raise lost(name, self._where)

    def close(self) -> None:
        """Let the thread end now if nothing is held."""
        self._is_closed.set()

    def is_held(self, token: bytes) -> bool:
        """Renew a lease, and tell whether it was never lost; without an answer it lasts for as long as it was given."""
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
        """Take a name; tell whether it is held now."""
        try:
            return self._leases.take(name, token, self._seconds)
        except UNANSWERED:
            self._doubt(name, token)
            raise

    def _doubt(self, name: str, token: bytes) -> None:
        """Remember that a token may hold a name, or may yet, though nobody uses it."""
        with self._lock:
            self._doubtful[name] = [*self._doubtful.get(name, ()), token][-_MOST_DOUBTFUL:]

    def _give_back(self, name: str) -> bool:
        """Give a name back that a token holds which nobody uses; tell whether one did."""
        with self._lock:
            tokens = self._doubtful.get(name, [])
        if not any(self._leases.release(name, token) for token in tokens):
            return False
        with self._lock:
            self._doubtful.pop(name, None)
        return True

    def _begin(self, name: str, token: bytes, asked: float) -> None:
        with self._lock:
            self._held[token] = name
            self._until[token] = asked + self._seconds
            if self._renewer is None:
                self._is_closed.clear()
                self._renewer = threading.Thread(target=self._renew, name=f"{self._where} leases", daemon=True)
                self._renewer.start()

    def _end(self, name: str, token: bytes) -> bool:
        """Give a name back; tell whether it was held all the time, as far as the store can be asked."""
        with self._lock:
            del self._held[token], self._until[token]
            is_lost = token in self._lost
            self._lost.discard(token)
        try:
            return self._leases.release(name, token) and not is_lost
        except UNANSWERED:  # a store that does not answer lets the lease run out
            self._doubt(name, token)
            return not is_lost

    def _renew(self) -> None:
        """Renew what is held three times in the length of a lease."""
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
        """Renew a lease; one that is lost stays lost, and what was given back meanwhile is not."""
        asked = time.monotonic()
        with suppress(*UNANSWERED):  # the next time may succeed
            is_renewed = self._leases.renew(name, token, self._seconds)
            with self._lock:
                if token in self._held and is_renewed:
                    self._until[token] = asked + self._seconds
                elif token in self._held:
                    self._lost.add(token)


class _Lease:
    """A name that a token holds."""

    def __init__(self, holder: LeaseHolder, token: bytes) -> None:
        self._holder = holder
        self._token = token

    def is_held(self) -> bool:
        """Renew the lease; tell whether it was held all the time."""
        return self._holder.is_held(self._token)
