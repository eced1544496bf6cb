"""Reads of an online store that fail fast while the store is down, and are counted.

After a failed read nobody asks the store for a moment: every further read is refused at once. Then one read goes
through as a probe; if it fails too, the pause doubles, up to a bound. So callers of a store that is down wait for
nothing, and a store that comes back is not met by all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from featurestore.errors import StorageError
from featurestore.online.store import StateReads

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0


class Guarded:
    """Reads through a circuit breaker. May be used from several threads."""

    def __init__(self, store: StateReads, elapsed_seconds: Callable[[], float] = time.perf_counter) -> None:
        """Take the parts.

        Args:
            store: What is read.
            elapsed_seconds: A clock that never goes back; where it begins does not matter.
        """
        self._store = store
        self._elapsed = elapsed_seconds
        self._lock = Lock()
        self._pause = 0.0
        self._closed_until = 0.0
        self._why = ""

    @property
    def is_open(self) -> bool:
        """Whether reads are refused, or one of them is a probe."""
        return self._pause > 0

    def read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment.

        Raises:
            StorageError: The store cannot be read, or could not a moment ago.
        """
        if self._pause:
            self._enter()
        try:
            found = self._store.read(keys)
        except StorageError as error:
            self._failed(error.problem)
            raise
        if self._pause:
            self._pause = 0.0
        return found

    def _failed(self, why: str) -> None:
        """Refuse reads for a moment."""
        with self._lock:
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._closed_until = self._elapsed() + self._pause
            self._why = why

    def _enter(self) -> None:
        """Let one read through once the pause is over, and refuse the others until it has an answer."""
        with self._lock:
            now = self._elapsed()
            if self._pause and now < self._closed_until:
                raise StorageError(
                    f"it failed a moment ago and is left alone for {self._closed_until - now:.2f} s: {self._why}",
                    where="online store",
                    hint="Ask again then.",
                    code="store-down",
                )
            self._closed_until = now + max(self._pause, FIRST_PAUSE_SECONDS)
