"""Waiting and retrying: the pauses between attempts, and the time after which waiting ends.

Time is measured on the monotonic clock, so setting the wall clock neither shortens nor prolongs a wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")


@dataclass(frozen=True)
class Backoff:
    """Pauses between attempts: each is twice as long as the one before, up to the longest.

    Attributes:
        first_seconds: The first pause.
        longest_seconds: The longest pause.
        jitter: The largest share by which a pause is shortened, from 0 to 1. The share differs between processes,
            threads and attempts, so that those that wait for one thing do not all come back at once. It involves no
            random numbers.
    """

    first_seconds: float
    longest_seconds: float = inf
    jitter: float = 0.0

    def after(self, pause_seconds: float) -> float:
        """Return the pause that follows another one, without jitter; after a pause of 0 the first one.

        Example:
            >>> Backoff(0.5, longest_seconds=5.0).after(4.0)
            5.0
        """
        return min(max(2 * pause_seconds, self.first_seconds), self.longest_seconds)

    def pauses(self) -> Iterator[float]:
        """Yield the pauses without end, in seconds."""
        pause = 0.0
        for attempt in count():
            pause = self.after(pause)
            yield pause * (1 - self.jitter * _fraction(attempt)) if self.jitter else pause


AT_ONCE = Backoff(0.0)
"""No pause between attempts."""


def retry(
    work: Callable[[], T],
    *,
    is_transient: Callable[[Exception], bool],
    attempts: float = inf,
    timeout_seconds: float = inf,
    backoff: Backoff = AT_ONCE,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Do work until it succeeds; the first attempt is always made.

    Args:
        work: The work; it can be repeated after any error that is transient.
        is_transient: Returns whether another attempt after an error may succeed.
        attempts: The highest number of attempts.
        timeout_seconds: How long to go on; the last attempt begins when this time is over. 0 allows one attempt.
        backoff: The pauses between attempts.
        sleep: Waits for some seconds; an exception of it ends the waiting.

    Returns:
        The result of the attempt that succeeded.

    Raises:
        Exception: The error of the last attempt, or the first error that is not transient.
    """
    deadline = time.monotonic() + timeout_seconds
    for attempt, pause in enumerate(backoff.pauses(), start=1):
        try:
            return work()
        except Exception as error:
            seconds_left = deadline - time.monotonic()
            if attempt >= attempts or seconds_left <= 0 or not is_transient(error):
                raise
        if pause:
            sleep(min(pause, seconds_left))
    raise AssertionError("pauses have no end")


def wait_for(is_done: Callable[[], bool], *, timeout_seconds: float, pause_seconds: float) -> bool:
    """Wait until a condition holds; return whether it did before the time was over.

    Args:
        is_done: The condition; it is checked at least once.
        timeout_seconds: How long to wait.
        pause_seconds: The pause between two checks.
    """
    deadline = time.monotonic() + timeout_seconds
    while not is_done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_seconds)
    return True


def _fraction(attempt: int) -> float:
    """Return a number from 0 to 1 that differs between processes, threads and attempts."""
    return crc32(f"{os.getpid()} {threading.get_ident()} {attempt}".encode()) / 2**32
