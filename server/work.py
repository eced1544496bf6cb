"""Threads for what may block, so that the event loop need not: each answer within its request's time."""

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
from featurestore.server.deadlines import too_late

T = TypeVar("T")


class Threads:
    """Some threads. None of them keeps the program from ending: what is not done when time is up is left.

    What they were asked for and have not begun is not done once nobody waits for it.
    """

    def __init__(self, most: int, name: str) -> None:
        """Start none yet.

        Args:
            most: How many there are at most.
            name: What they are called.
        """
        self._most = most
        self._name = name
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._idle = Semaphore(0)
        self._count = 0
        self._lock = Lock()

    async def do(self, call: Call, work: Callable[[], T], *, seconds: float) -> T:
        """Do work in a thread.

        Args:
            call: The request that it is done for.
            work: What to do; reads of the online store end when time is up.
            seconds: How long after the request's beginning it is of use; infinity if always.

        Raises:
            RefusedError: It was not done in time (504). It may still be under way.
        """
        until = call.began + seconds
        context = copy_context()
        context.run(set_deadline, until)
        doing = self.submit(lambda: context.run(work))
        try:
            async with asyncio.timeout(None if seconds == inf else max(0.0, until - time.perf_counter())):
                return await asyncio.wrap_future(doing)
        except TimeoutError:
            raise too_late(seconds) from None
        except StorageError as error:
            if error.code not in (OUT_OF_TIME, STILL_ASKING):
                raise
            raise too_late(seconds) from None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have work done in a thread as soon as one is free."""
        doing: Future[T] = Future()
        self._waiting.put((doing, work))
        self._see_to_it()
        return doing

    def _see_to_it(self) -> None:
        """Start a thread if all are at work and there may be more."""
        if self._idle.acquire(blocking=False):
            return
        with self._lock:
            if self._count < self._most:
                self._count += 1
                Thread(target=self._run, name=f"{self._name}-{self._count}", daemon=True).start()

    def _run(self) -> None:
        while True:
            doing, work = self._waiting.get()
            if doing.set_running_or_notify_cancel():
                try:
                    doing.set_result(work())
                except BaseException as error:  # it is the asker's
                    doing.set_exception(error)
            del doing, work
            self._idle.release()
