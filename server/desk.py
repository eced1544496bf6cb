"""What the routes behind the hot one share: the store, what the server takes, and how a request is answered."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from fastapi import Request, Response
from msgspec import Struct

from featurestore.config import ServerConfig
from featurestore.store import FeatureStore
from server.calls import Call, call_of
from server.deadlines import allowed_seconds
from server.messages import Question
from server.problems import draining, response_of
from server.work import Threads

_THREADS = 16


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

    @property
    def store(self) -> FeatureStore:
        """What answers."""
        return self._store()

    @property
    def limits(self) -> ServerConfig:
        """What the server takes."""
        return self.store.config.server

    def check(self) -> None:
        """Make sure that the server is ready.

        Raises:
            RefusedError: It is about to end (503).
            FeatureStoreError: The store cannot answer.
        """
        if self.is_draining:
            raise draining()
        self.store.check()

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
