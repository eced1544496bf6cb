"""What the routes behind the hot one share: the store, what the server takes, and how a request is answered."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from http import HTTPStatus
from math import inf

from fastapi import Request, Response
from msgspec import Struct

from featurestore.config import ServerConfig
from featurestore.core.errors import FeatureStoreError, RegistryError
from featurestore.online.answering.health import Readiness
from featurestore.server.calls import Call, call_of
from featurestore.server.deadlines import allowed_seconds
from featurestore.server.messages import Question
from featurestore.server.probing import Probe, until
from featurestore.server.problems import RefusedError, draining, response_of
from featurestore.server.work import Threads
from featurestore.store import FeatureStore

_THREADS = 16
_PROBES = 4


class Desk:
    """Answers requests in threads: what they do may block.

    Attributes:
        is_draining: Whether the server is about to end.
    """

    def __init__(self, store: Callable[[], FeatureStore]) -> None:
        """Take the parts.

        Args:
            store: Gives the store once the server has started.
        """
        self._store = store
        self._threads = Threads(_THREADS, "answering")
        self.is_draining = False
        self._probing = Threads(_PROBES, "probing")
        self._readiness = Probe(self._look, "readiness")
        self._problems = Probe(self._look_for_problems, "problems")

    @property
    def store(self) -> FeatureStore:
        """What answers."""
        return self._store()

    @property
    def limits(self) -> ServerConfig:
        """What the server takes."""
        return self.store.config.server

    def readiness(self) -> Readiness:
        """Return which services can be answered.

        Raises:
            RefusedError: It is not ready (503): it is about to end; a service cannot be answered that could, or none
                can be; or it could not be told in time.
        """
        if self.is_draining:
            raise draining()
        try:
            found = self._readiness.ask()
        except TimeoutError:
            detail = "It cannot be told in time whether services can be answered: something hangs that they need."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "not-ready-in-time") from None
        if found.problem is not None:
            lost = [f"service '{one.service}': {one.problem}" for one in found.unready] or [str(found.problem)]
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(lost), found.problem.code)
        return found

    def begin_problems(self) -> Future[tuple[FeatureStoreError, ...]]:
        """Begin to look for what is wrong with parts of the store."""
        return self._problems.begin()

    def problems(self, looking: Future[tuple[FeatureStoreError, ...]], deadline: float) -> list[str]:
        """Return what is wrong with parts of the store though every service can be answered, as anybody may read it.

        What a database says of itself is left out but for its code.

        Args:
            looking: What ``begin_problems`` gave.
            deadline: Instant of ``time.perf_counter`` until which the look may take.
        """
        found = until(looking, deadline)
        if found is None:
            return ["not-ready-in-time"]
        return [
            problem.code if isinstance(problem, RegistryError) or problem.code.endswith("unavailable") else str(problem)
            for problem in found
        ]

    def _look_for_problems(self) -> tuple[FeatureStoreError, ...]:
        return self.store.problems()

    def _look(self) -> Readiness:
        return self.store.readiness()

    async def probe(self, request: Request, work: Callable[[Call], Response]) -> Response:
        """Answer a question about the server itself in threads of its own: others may all hang."""
        call = call_of(request.scope)
        try:
            seconds = allowed_seconds(call.headers, self.limits.deadline_seconds)
            return await self._probing.do(call, lambda: work(call), seconds=seconds)
        except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
            response, call.code = response_of(error)
            return response

    async def answer(
        self,
        request: Request,
        work: Callable[[Call], Response],
        *,
        shape: type[Struct] = Question,
        takes_its_time: bool = False,
    ) -> Response:
        """Answer a request; every failure becomes a problem document.

        Args:
            request: The request.
            work: Makes the answer, in a thread.
            shape: What the body should be.
            takes_its_time: Whether only the caller says how long it may take.
        """
        call = call_of(request.scope)
        try:
            most = inf if takes_its_time else self.limits.deadline_seconds
            return await self._threads.do(call, lambda: work(call), seconds=allowed_seconds(call.headers, most))
        except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
            response, call.code = response_of(error, shape)
            return response
