"""How long whoever asks will wait: a read of an online store takes no longer.

It is said once, by whoever has to keep a promise, and holds for all that is done in the same context. Stores that keep
to it say so by an attribute ``keeps_time``.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from math import inf

from featurestore.core.errors import StorageError
from featurestore.online.stores.errors import WHERE

OUT_OF_TIME = "out-of-time"
"""Code of reads that were given up because nobody waits any longer; the store may be sound."""

SHORT_SECONDS = 0.1
"""A read that has less time than that opens no connection: nobody knows how long it would take."""

_UNTIL: ContextVar[float] = ContextVar("until", default=inf)


def set_deadline(instant: float) -> None:
    """Let reads in this context end by an instant of ``time.perf_counter``."""
    _UNTIL.set(instant)


class Deadline:
    """A short time for reads in this context, as a context manager."""

    __slots__ = ("_before", "_seconds")

    def __init__(self, seconds: float) -> None:
        """Take how long reads inside may take, from its beginning on."""
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = _UNTIL.set(min(_UNTIL.get(), time.perf_counter() + self._seconds))

    def __exit__(self, *_: object) -> None:
        _UNTIL.reset(self._before)


def seconds_left() -> float:
    """Return how long a read may take that begins now; infinity if nobody said, zero if time is up."""
    until = _UNTIL.get()
    return inf if until == inf else max(0.0, until - time.perf_counter())


def out_of_time(place: str) -> StorageError:
    """Return the error for a read that was given up.

    Args:
        place: The store, without secrets.
    """
    return StorageError(f"{place} did not answer in time", where=WHERE, hint="Allow more time.", code=OUT_OF_TIME)
