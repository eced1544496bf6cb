"""Looks at parts of a store that may hang: one thread at a time each, and callers wait for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, TypeVar

from featurestore.online.stores.deadline import Deadline

T = TypeVar("T")

PROBE_SECONDS = 0.8
"""How long a look may take: Kubernetes gives a probe one second, Prometheus a page ten."""


class Probe(Generic[T]):
    """One look. While it hangs no other is begun: those who ask meanwhile wait for the same one."""

    def __init__(self, work: Callable[[], T], name: str) -> None:
        """Take the work; nothing is done yet.

        Args:
            work: The look. What it reads of the online store ends in time by itself.
            name: Name of the thread.
        """
        self._work = work
        self._name = name
        self._under_way: Future[T] | None = None
        self._lock = Lock()

    def begin(self) -> Future[T]:
        """Begin to look, unless somebody does already."""
        with self._lock:
            looking = self._under_way
            if looking is None:
                looking = self._under_way = Future()
                Thread(target=self._run, args=(looking,), name=self._name, daemon=True).start()
            return looking

    def ask(self) -> T:
        """Look.

        Raises:
            TimeoutError: It took longer than ``PROBE_SECONDS``.
            Exception: What the look failed by.
        """
        return self.begin().result(PROBE_SECONDS)

    def _run(self, looking: Future[T]) -> None:
        try:
            with Deadline(PROBE_SECONDS):
                found = self._work()
        except Exception as error:  # it is the askers'
            self._under_way = None
            looking.set_exception(error)
        else:
            self._under_way = None
            looking.set_result(found)


def until(looking: Future[T], deadline: float) -> T | None:
    """Wait for a look; ``None`` if it fails, or if it takes longer.

    Args:
        looking: The look.
        deadline: An instant of ``time.perf_counter``.
    """
    try:
        return looking.result(max(0.0, deadline - time.perf_counter()))
    except Exception:  # what a look fails by is told by its absence
        return None
