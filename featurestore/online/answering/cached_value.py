"""A value that may change elsewhere: refreshed now and then in a background thread, while the cached value is used.

A refresh may hang, because the database that it reads does. So callers wait for a bounded time: after that they get the
cached value, or an error if there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from math import inf
from threading import Lock, Thread
from typing import Generic, TypeVar

from featurestore.core.errors import StorageError
from featurestore.core.temporal import Clock, duration_us
from featurestore.online.stores.deadline import seconds_left

T = TypeVar("T")

RECHECK_US = duration_us("1s")
"""The age at which a value is refreshed."""

WAIT_SECONDS = 0.5
"""How long a caller with a deadline waits for a refresh while a cached value exists."""

LONGEST_WAIT_SECONDS = 5.0
"""How long a caller without a deadline waits for a refresh while a cached value exists."""

SLOW_SECONDS = 5.0
"""How long no caller with a cached value waits, after one has waited in vain."""

STILL_ASKING = "still-asking"
"""Error code of callers that have no value in time: the first refresh is still under way."""


@dataclass(frozen=True)
class _Entry(Generic[T]):
    value: T
    at_us: int


class RecentTimeout:
    """Records that a database has lately not answered in time; shared by all values that are read from it.

    Attributes:
        until: An instant of ``time.perf_counter``: before it no caller with a cached value waits.
    """

    def __init__(self) -> None:
        self.until = -inf


class CachedValue(Generic[T]):
    """A value that is refreshed in the background. May be used from several threads."""

    def __init__(
        self, refresh: Callable[[T | None], T], clock: Clock, recent_timeout: RecentTimeout, *, where: str
    ) -> None:
        """Take the parts; nothing is read yet.

        Args:
            refresh: Returns the new value, given the cached one or ``None``. Its error is raised to the callers that
                wait, and discards the cached value.
            clock: Measures the age of the value.
            recent_timeout: Records whether the database has lately not answered in time.
            where: The database, for messages.
        """
        self._refresh = refresh
        self._clock = clock
        self._where = where
        self._entry: _Entry[T] | None = None
        self._under_way: Future[T] | None = None
        self._recent_timeout = recent_timeout
        self._lock = Lock()

    @property
    def value(self) -> T | None:
        """The cached value, however old; ``None`` if there is none."""
        entry = self._entry
        return None if entry is None else entry.value

    def get(self) -> T:
        """Return the value, at most about a second old unless the refresh takes too long.

        Raises:
            StorageError: There is no cached value, and the refresh took too long (``STILL_ASKING``).
            Exception: The error of the refresh.
        """
        entry, now_us = self._entry, self._clock.now_us()
        if entry is not None and 0 <= now_us - entry.at_us < RECHECK_US:
            return entry.value
        with self._lock:
            future = self._under_way
            if is_first := future is None:
                future = self._under_way = Future()
                Thread(target=self._run, args=(future, entry, now_us), name=self._where, daemon=True).start()
        if entry is not None and (not is_first or time.perf_counter() < self._recent_timeout.until):
            return entry.value
        try:
            return future.result(_wait_seconds(has_value=entry is not None))
        except TimeoutError:
            if entry is not None:
                self._recent_timeout.until = time.perf_counter() + SLOW_SECONDS
                return entry.value
        raise StorageError(
            f"{self._where} did not answer in time", where=self._where, hint="Ask again.", code=STILL_ASKING
        )

    def _run(self, future: Future[T], entry: _Entry[T] | None, now_us: int) -> None:
        try:
            value = self._refresh(None if entry is None else entry.value)
        except Exception as error:  # the callers get it
            self._entry, self._under_way = None, None
            self._recent_timeout.until = -inf
            future.set_exception(error)
        else:
            self._entry, self._under_way = _Entry(value, now_us), None
            self._recent_timeout.until = -inf
            future.set_result(value)


def _wait_seconds(*, has_value: bool) -> float | None:
    left = seconds_left()
    if not has_value:
        return None if left == inf else left / 2
    return LONGEST_WAIT_SECONDS if left == inf else min(left / 2, WAIT_SECONDS)
