"""Probes: checks of parts of a store that may hang. Each uses one thread at a time, and callers wait a bounded time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, TypeVar

from featurestore.online.stores.deadline import Deadline

T = TypeVar("T")

PROBE_SECONDS = 0.8
"""How long a check may take: Kubernetes waits one second for a probe, Prometheus ten for a page."""


class Probe(Generic[T]):
    """One check. While it hangs, no other is started: callers that come meanwhile wait for the same one."""

    def __init__(self, check: Callable[[], T], name: str) -> None:
        """Create a probe; nothing is checked yet.

        Args:
            check: The check. Its reads of the online store end in time by themselves.
            name: Name of the thread.
        """
        self._check = check
        self._name = name
        self._running: Future[T] | None = None
        self._lock = Lock()

    def begin(self) -> Future[T]:
        """Start the check unless it is running; return its result to come."""
        with self._lock:
            future = self._running
            if future is None:
                future = self._running = Future()
                Thread(target=self._run, args=(future,), name=self._name, daemon=True).start()
            return future

    def _run(self, future: Future[T]) -> None:
        try:
            with Deadline(PROBE_SECONDS):
                result = self._check()
        except Exception as error:  # the callers get it
            self._running = None
            future.set_exception(error)
        else:
            self._running = None
            future.set_result(result)


def result_or_none(future: Future[T], deadline: float) -> T | None:
    """Wait for a check; return ``None`` if it fails or is not done by the deadline.

    Args:
        future: The running check.
        deadline: An instant of ``time.perf_counter``.
    """
    try:
        return future.result(max(0.0, deadline - time.perf_counter()))
    except Exception:  # the caller reports the part as unknown
        return None
