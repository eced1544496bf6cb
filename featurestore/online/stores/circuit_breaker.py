"""A circuit breaker for reads of an online store: while the store is down, reads fail at once.

After a failed read the breaker is open: for a moment every further read is refused. Then one read goes through as a
probe; if it fails as well, the pause doubles, up to a bound. So callers do not wait for a store that is down, and a
store that recovers does not get all their reads at once. The probe runs in its own thread; its caller is refused as
well if the probe has no answer in a moment.
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
"""How long the caller of a probe waits for its answer."""

FAIR_SECONDS = 0.5
"""A store that had so long and did not answer has failed; one that had less time may be healthy."""


class CircuitBreaker:
    """Reads through a circuit breaker. May be used from several threads.

    Attributes:
        keeps_time: Whether reads end at their deadline.
    """

    def __init__(self, store: StateReads, elapsed_seconds: Callable[[], float] = time.perf_counter) -> None:
        """Take the parts.

        Args:
            store: The store to read.
            elapsed_seconds: A monotonic clock.
        """
        self.keeps_time: bool = getattr(store, "keeps_time", False)
        self._store = store
        self._elapsed = elapsed_seconds
        self._lock = Lock()
        self._pause = 0.0
        self._open_until = 0.0
        self._is_probing = False
        self._reason = ""

    @property
    def is_open(self) -> bool:
        """Whether reads are refused, or one of them is a probe."""
        return self._pause > 0

    def read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those keys that exist, all from one moment.

        Raises:
            StorageError: The store cannot be read, or the breaker is open (``store-down``).
        """
        return self._probe(keys) if self._pause else self._read(keys)

    def _read(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        began = self._elapsed()
        try:
            return self._store.read(keys)
        except StorageError as error:
            if error.code != OUT_OF_TIME or self._elapsed() - began >= FAIR_SECONDS:
                self._open(error.problem)
            raise

    def _open(self, reason: str) -> None:
        """Refuse reads for a while, twice as long as before."""
        with self._lock:
            self._pause = _BACKOFF.after(self._pause)
            self._open_until = self._elapsed() + self._pause
            self._reason = reason

    def _probe(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Let one read through once the pause is over; refuse the others until it has an answer."""
        with self._lock:
            is_closed = not self._pause
            if not is_closed:
                if self._is_probing or self._elapsed() < self._open_until:
                    raise self._refusal()
                self._is_probing = True
        if is_closed:
            return self._read(keys)
        probe: Future[Mapping[bytes, bytes]] = Future()
        Thread(target=self._run_probe, args=(probe, keys), name="probe", daemon=True).start()
        try:
            return probe.result(min(PROBE_SECONDS, seconds_left()))
        except TimeoutError:
            raise self._refusal() from None

    def _run_probe(self, probe: Future[Mapping[bytes, bytes]], keys: Sequence[bytes]) -> None:
        try:
            values = self._read(keys)
        except BaseException as error:  # the caller gets it
            self._is_probing = False
            probe.set_exception(error)
        else:
            self._pause, self._is_probing = 0.0, False
            probe.set_result(values)

    def _refusal(self) -> StorageError:
        left = max(0.0, self._open_until - self._elapsed())
        return StorageError(
            f"it failed a moment ago and is left alone for {left:.2f} s: {self._reason}",
            where="online store",
            hint="Ask again then.",
            code="store-down",
            retry_seconds=left,
        )
