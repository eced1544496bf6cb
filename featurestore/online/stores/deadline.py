"""The deadline of reads from an online store.

A request sets it once, and it holds for all reads in the same context. A store that keeps to it has an attribute
``keeps_time`` that is true.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from math import inf

from featurestore.core.errors import StorageError
from featurestore.online.stores.errors import WHERE

OUT_OF_TIME = "out-of-time"
"""Error code of reads that were aborted at their deadline; the store may be healthy."""

SHORT_SECONDS = 0.1
"""A read with less time left opens no connection, because opening one may take long."""

_UNTIL: ContextVar[float] = ContextVar("until", default=inf)


def set_deadline(instant: float) -> None:
    """Set the deadline of reads in this context, as an instant of ``time.perf_counter``."""
    _UNTIL.set(instant)


class Deadline:
    """A context manager that shortens the deadline of the reads inside it."""

    __slots__ = ("_before", "_seconds")

    def __init__(self, seconds: float) -> None:
        """Set how long the reads may take, counted from the entry."""
        self._seconds = seconds

    def __enter__(self) -> None:
        self._before = _UNTIL.set(min(_UNTIL.get(), time.perf_counter() + self._seconds))

    def __exit__(self, *_: object) -> None:
        _UNTIL.reset(self._before)


def seconds_left() -> float:
    """Return the seconds until the deadline; infinity if there is none, zero if it has passed."""
    until = _UNTIL.get()
    return inf if until == inf else max(0.0, until - time.perf_counter())


def out_of_time(place: str) -> StorageError:
    """Return the error for a read that was aborted at its deadline.

    Args:
        place: The store, without secrets.
    """
    return StorageError(f"{place} did not answer in time", where=WHERE, hint="Allow more time.", code=OUT_OF_TIME)
