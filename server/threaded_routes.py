"""What all routes but the hot one share: the store, the limits, and answering in threads, since the store may block."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from math import inf

from fastapi import Request, Response
from msgspec import Struct

from featurestore.config import ServerConfig
from featurestore.core.errors import FeatureStoreError, RegistryError
from featurestore.online.answering.health import Readiness
from featurestore.server.admission import allowed_seconds
from featurestore.server.calls import Call, call_of
from featurestore.server.messages import Question
from featurestore.server.probes import PROBE_SECONDS, Probe, result_or_none
from featurestore.server.problems import RefusedError, draining, response_of
from featurestore.server.thread_pool import ThreadPool
from featurestore.store import FeatureStore

_THREADS = 16
_PROBE_THREADS = 4


class ThreadedRoutes:
    """Answers requests in threads.

    Attributes:
        is_draining: Whether the server is about to stop.
    """

    def __init__(self, store: Callable[[], FeatureStore]) -> None:
        """Create the thread pools; no thread is started yet.

        Args:
            store: Returns the store; raises ``RefusedError`` before the server has started.
        """
        self._store = store
        self.is_draining = False
        self._threads = ThreadPool(_THREADS, "answering")
        self._probe_threads = ThreadPool(_PROBE_THREADS, "probing")
        self._readiness = Probe(self._check_readiness, "readiness")
        self._problems = Probe(self._check_problems, "problems")

    @property
    def store(self) -> FeatureStore:
        """The store that answers."""
        return self._store()

    @property
    def limits(self) -> ServerConfig:
        """The configured limits."""
        return self.store.config.server

    def readiness(self) -> Readiness:
        """Return which services can be answered.

        Raises:
            RefusedError: The server is not ready (503): it is about to stop; a service that could be answered cannot be
                answered any more, or none can be; or the check did not end in time.
        """
        if self.is_draining:
            raise draining()
        try:
            readiness = self._readiness.begin().result(PROBE_SECONDS)
        except TimeoutError:
            detail = "The readiness check did not end in time: something that services need does not respond."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "not-ready-in-time") from None
        if readiness.problem is not None:
            problems = [f"service '{state.service}': {state.problem}" for state in readiness.unready]
            detail = " ".join(problems or [str(readiness.problem)])
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, readiness.problem.code)
        return readiness

    def readiness_and_problems(self) -> tuple[Readiness, list[str]]:
        """Return which services can be answered, and what else is wrong with the store.

        The problems are texts that anyone may read: errors of databases are reduced to their codes. Both checks start
        at once, so that together they take no longer than a probe waits.

        Raises:
            RefusedError: See ``readiness``.
        """
        deadline = time.perf_counter() + PROBE_SECONDS
        running: Future[tuple[FeatureStoreError, ...]] = self._problems.begin()
        readiness = self.readiness()
        problems = result_or_none(running, deadline)
        if problems is None:
            return readiness, ["not-ready-in-time"]
        return readiness, [
            problem.code if isinstance(problem, RegistryError) or problem.code.endswith("unavailable") else str(problem)
            for problem in problems
        ]

    def _check_readiness(self) -> Readiness:
        return self.store.readiness()  # the store is not open yet when the probe is created

    def _check_problems(self) -> tuple[FeatureStoreError, ...]:
        return self.store.problems()

    async def probe(self, request: Request, work: Callable[[Call], Response]) -> Response:
        """Answer a question about the server itself, in threads of its own: all other threads may hang."""
        return await self._run(self._probe_threads, request, work, self.limits.deadline_seconds, Question)

    async def answer(
        self,
        request: Request,
        work: Callable[[Call], Response],
        *,
        shape: type[Struct] = Question,
        is_long: bool = False,
    ) -> Response:
        """Answer a request; every failure becomes a problem document.

        Args:
            request: The request.
            work: Makes the answer, in a thread.
            shape: Expected shape of the body.
            is_long: Whether only the request itself limits how long it may take.
        """
        max_seconds = inf if is_long else self.limits.deadline_seconds
        return await self._run(self._threads, request, work, max_seconds, shape)

    async def _run(
        self,
        threads: ThreadPool,
        request: Request,
        work: Callable[[Call], Response],
        max_seconds: float,
        shape: type[Struct],
    ) -> Response:
        call = call_of(request.scope)
        try:
            seconds = allowed_seconds(call.headers, max_seconds)
            return await threads.run(call, lambda: work(call), seconds=seconds)
        except Exception as error:  # the outermost level: every failure becomes a problem document
            response, call.code = response_of(error, shape)
            return response
