"""A thread pool for work that may block the event loop; each answer must be ready within its request's deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from math import inf
from queue import SimpleQueue
from threading import Lock, Semaphore, Thread
from typing import Any, TypeVar

from featurestore.core.errors import StorageError
from featurestore.online.answering.cached_value import STILL_ASKING
from featurestore.online.stores.deadline import OUT_OF_TIME, set_deadline
from featurestore.server.calls import Call
from featurestore.server.problems import deadline_exceeded

T = TypeVar("T")


class ThreadPool:
    """A pool of daemon threads: unfinished work does not keep the process from ending.

    Work that has not begun is dropped once its caller no longer waits for it.
    """

    def __init__(self, max_threads: int, name: str) -> None:
        """Create a pool without threads.

        Args:
            max_threads: Most threads.
            name: Prefix of their names.
        """
        self._max_threads = max_threads
        self._name = name
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._idle = Semaphore(0)
        self._count = 0
        self._lock = Lock()

    async def run(self, call: Call, work: Callable[[], T], *, seconds: float) -> T:
        """Run work for a request in a thread.

        Args:
            call: The request.
            work: The work; its reads of the online store end at the deadline.
            seconds: The deadline, counted from the arrival of the request; infinity for none.

        Raises:
            RefusedError: The work was not done by the deadline (504). It may still be running.
        """
        deadline = call.began + seconds
        context = copy_context()
        context.run(set_deadline, deadline)
        future = self.submit(lambda: context.run(work))
        try:
            async with asyncio.timeout(None if seconds == inf else max(0.0, deadline - time.perf_counter())):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise deadline_exceeded(seconds) from None
        except StorageError as error:
            if error.code not in (OUT_OF_TIME, STILL_ASKING):
                raise
            raise deadline_exceeded(seconds) from None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run work as soon as a thread is free."""
        future: Future[T] = Future()
        self._queue.put((future, work))
        if not self._idle.acquire(blocking=False):
            with self._lock:
                if self._count < self._max_threads:
                    self._count += 1
                    Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            future, work = self._queue.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:  # the caller gets it
                    future.set_exception(error)
            del future, work
            self._idle.release()
