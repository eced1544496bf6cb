"""A value that may change elsewhere: found out again now and then, in a thread, while the last one is used.

What finds it out may hang, because the database that it asks does. So callers wait for a bounded time: those that
have a value use it, those that have none are refused when their time is up.
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
"""How old a value may be before it is found out again."""

WAIT_SECONDS = 0.5
"""How long a caller with a deadline waits for a newer value than the one there is."""

LONGEST_WAIT_SECONDS = 5.0
"""How long a caller without a deadline does."""

SLOW_SECONDS = 5.0
"""After a caller waited for nothing, no other waits for so long."""

STILL_ASKING = "still-asking"
"""Code of the refusal of callers that have no value in time: somebody still finds it out."""


@dataclass(frozen=True)
class _Found(Generic[T]):
    value: T
    at_us: int


class RecentTimeout:
    """Whether a database has lately not answered in time; shared by all values that it gives.

    Attributes:
        until: An instant of ``time.perf_counter``: before it no caller that has a value waits.
    """

    def __init__(self) -> None:
        self.until = -inf


class CachedValue(Generic[T]):
    """A value and what finds it out. May be used from several threads."""

    def __init__(self, find: Callable[[T | None], T], clock: Clock, stall: RecentTimeout, *, where: str) -> None:
        """Take the parts; nothing is found out yet.

        Args:
            find: Finds the value out, given the last one; ``None`` if there is none. What it raises is raised to those
                who wait, and the last value is not used any more.
            clock: Tells how old the value is.
            stall: Whether what is asked has lately not answered in time.
            where: What is asked, for messages.
        """
        self._find = find
        self._clock = clock
        self._where = where
        self._found: _Found[T] | None = None
        self._under_way: Future[T] | None = None
        self._stall = stall
        self._lock = Lock()

    @property
    def value(self) -> T | None:
        """The value found last, however old; ``None`` if there is none."""
        found = self._found
        return None if found is None else found.value

    def get(self) -> T:
        """Return the value, at most about a second old unless it cannot be found out in time.

        Raises:
            StorageError: There is no value yet and no time to wait for it; its code is ``STILL_ASKING``.
            Exception: What finding it out raised.
        """
        known, now_us = self._found, self._clock.now_us()
        if known is not None and 0 <= now_us - known.at_us < RECHECK_US:
            return known.value
        with self._lock:
            finding = self._under_way
            if is_first := finding is None:
                finding = self._under_way = Future()
                Thread(target=self._run, args=(finding, known, now_us), name=self._where, daemon=True).start()
        if known is not None and (not is_first or time.perf_counter() < self._stall.until):
            return known.value
        try:
            return finding.result(_wait_seconds(has_value=known is not None))
        except TimeoutError:
            if known is not None:
                self._stall.until = time.perf_counter() + SLOW_SECONDS
                return known.value
        raise StorageError(
            f"{self._where} did not answer in time", where=self._where, hint="Ask again.", code=STILL_ASKING
        )

    def _run(self, finding: Future[T], known: _Found[T] | None, now_us: int) -> None:
        try:
            value = self._find(None if known is None else known.value)
        except Exception as error:  # it is the askers'
            self._found, self._under_way = None, None
            self._stall.until = -inf
            finding.set_exception(error)
        else:
            self._found, self._under_way = _Found(value, now_us), None
            self._stall.until = -inf
            finding.set_result(value)


def _wait_seconds(*, has_value: bool) -> float | None:
    left = seconds_left()
    if not has_value:
        return None if left == inf else left / 2
    return LONGEST_WAIT_SECONDS if left == inf else min(left / 2, WAIT_SECONDS)
