"""Reads of an online store that fail fast while the store is down, and are counted.

After a failed read nobody asks the store for a moment: every further read is refused at once. Then one read goes
through as a probe; if it fails too, the pause doubles, up to a bound. So callers of a store that is down wait for
nothing, and a store that comes back is not met by all of them at once. The probe is made beside its caller, who is
refused too if it has no answer in a moment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from threading import Lock, Thread

from featurestore.core.errors import StorageError
from featurestore.core.retrying import Backoff
from featurestore.online.stores.deadline import OUT_OF_TIME, seconds_left
from featurestore.online.stores.store import StateReads

FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0

_BACKOFF = Backoff(FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS)

PROBE_SECONDS = 0.05
"""So long the caller of a probe waits for its answer."""

FAIR_SECONDS = 0.5
"""A store that was given so long and did not answer has failed; one that had less time may be sound."""


class CircuitBreaker:
    """Reads through a circuit breaker. May be used from several threads.

    Attributes:
        keeps_time: Whether reads end within ``patience``.
    """

    def __init__(self, store: StateReads, elapsed_seconds: Callable[[], float] = time.perf_counter) -> None:
        """Take the parts.

        Args:
            store: What is read.
            elapsed_seconds: A clock that never goes back; where it begins does not matter.
        """
        self.keeps_time: bool = getattr(store, "keeps_time", False)
        self._store = store
        self._elapsed = elapsed_seconds
        self._lock = Lock()
        self._pause = 0.0
        self._closed_until = 0.0
        self._is_probing = False
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
        return self._probe(keys) if self._pause else self._read(keys)

    def _read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        began = self._elapsed()
        try:
            return self._store.read(keys)
        except StorageError as error:
            if error.code != OUT_OF_TIME or self._elapsed() - began >= FAIR_SECONDS:
                self._failed(error.problem)
            raise

    def _failed(self, why: str) -> None:
        """Refuse reads for a moment."""
        with self._lock:
            self._pause = _BACKOFF.after(self._pause)
            self._closed_until = self._elapsed() + self._pause
            self._why = why

    def _probe(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Let one read through once the pause is over, and refuse the others until it has an answer."""
        with self._lock:
            if not self._pause:
                is_over = True
            elif self._is_probing or self._elapsed() < self._closed_until:
                raise self._refusal()
            else:
                is_over, self._is_probing = False, True
        if is_over:
            return self._read(keys)
        probe: Future[Mapping[bytes, bytes]] = Future()
        Thread(target=self._answer, args=(probe, keys), name="probe", daemon=True).start()
        try:
            return probe.result(min(PROBE_SECONDS, seconds_left()))
        except TimeoutError:
            raise self._refusal() from None

    def _answer(self, probe: Future[Mapping[bytes, bytes]], keys: Sequence[bytes]) -> None:
        try:
            found = self._read(keys)
        except BaseException as error:  # it is the caller's
            self._is_probing = False
            probe.set_exception(error)
        else:
            self._pause, self._is_probing = 0.0, False
            probe.set_result(found)

    def _refusal(self) -> StorageError:
        left = max(0.0, self._closed_until - self._elapsed())
        return StorageError(
            f"it failed a moment ago and is left alone for {left:.2f} s: {self._why}",
            where="online store",
            hint="Ask again then.",
            code="store-down",
            retry_seconds=left,
        )
