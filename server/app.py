"""The server's ASGI application: the hot route, and FastAPI for all other routes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Protocol

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from featurestore.config import CONFIG_VARIABLE, FILE_NAME
from featurestore.core.errors import FeatureStoreError
from featurestore.server import problems
from featurestore.server.admission import Admission
from featurestore.server.bodies import replaying
from featurestore.server.calls import FEATURES_PATH, REQUEST_ID, Call, Header, call_of
from featurestore.server.features import FeaturesRoute
from featurestore.server.routes import fastapi_app
from featurestore.server.telemetry import Telemetry
from featurestore.server.threaded_routes import ThreadedRoutes
from featurestore.store import FeatureStore

_LOGGER = logging.getLogger("featurestore.server")
_RETRY_SECONDS = 1.0


class DirectReply(Protocol):
    """Sends the answer to one request for which no ASGI task was started."""

    def send(self, headers: Sequence[Header], content: bytes) -> bool:
        """Send an answer with status 200; return ``False`` if the client has disconnected."""
        ...

    def fall_back(self) -> None:
        """Start an ASGI task, which answers instead."""
        ...


class Application:
    """The server as an ASGI application.

    Attributes:
        admission: Decides which requests are answered, and counts those in flight.
        threads: Answers every route but the hot one.
        telemetry: Metrics, logs and traces of requests; ``None`` before the server has started.
    """

    def __init__(self, store: FeatureStore | None = None) -> None:
        """Create an application.

        Args:
            store: The store that answers. The caller closes it. If ``None``, a store is opened from the configuration
                when the server starts, and closed when it stops.
        """
        self._opens_store = store is None
        self._opened_store = store
        self.telemetry = Telemetry(store) if store is not None else None
        self.admission = Admission(lambda: self.store, self._is_route)
        self.threads = ThreadedRoutes(lambda: self.store)
        self._features = FeaturesRoute(lambda: self.store)
        self._fastapi = fastapi_app(self.threads, lambda: self.telemetry, lifespan=self.lifespan)

    @property
    def store(self) -> FeatureStore:
        """The store that answers.

        Raises:
            RefusedError: The server has not started, or has stopped (503).
        """
        if self._opened_store is None:
            raise problems.not_started()
        return self._opened_store

    def drain(self) -> None:
        """Report the server as not ready from now on: it is about to stop."""
        self.threads.is_draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the application's lifespan."""
        if scope["type"] != "http":
            await self._fastapi(scope, receive, send)
            return
        call = call_of(scope)
        REQUEST_ID.set(call.request_id)
        recording_send = call.recording(send)
        try:
            body = await self.admission.admit(call, receive)
            if body is not None:
                try:
                    if call.path == FEATURES_PATH:
                        await self._features(call, body, recording_send)
                    else:
                        await self._fastapi(scope, replaying(body, receive), recording_send)
                finally:
                    self.admission.leave()
        except (FeatureStoreError, problems.RefusedError) as error:
            if call.status:  # the answer has begun
                raise
            call.code = await problems.refuse(recording_send, error)
        finally:
            self._finish(call, scope)

    def answer_directly(self, scope: Scope, body: bytes | bytearray, reply: DirectReply) -> bool:
        """Answer a request whose body has arrived without an ASGI task, if it is a small question for features.

        All other requests, refused ones and those that fail are left to ASGI.

        Args:
            scope: The request, as ASGI describes it.
            body: Its body.
            reply: Sends the answer.

        Returns:
            Whether ``reply`` will be called. If not, nothing was done, and ASGI must answer.
        """
        call = call_of(scope)
        if call.path != FEATURES_PATH:
            return False
        try:
            self.admission.admit_without_waiting(call, len(body))
        except problems.RefusedError:  # ASGI comes to the same refusal and reports it
            return False

        def respond(headers: Sequence[Header], content: bytes) -> None:
            self.admission.leave()
            if reply.send(call.with_ids(headers), content):
                call.status, call.sent = HTTPStatus.OK.value, len(content)
            self._finish(call, scope)

        def fall_back() -> None:
            self.admission.leave()
            reply.fall_back()

        is_direct = self._features.answer_directly(call, bytes(body), respond, fall_back)
        if not is_direct:
            self.admission.leave()
        return is_direct

    def _finish(self, call: Call, scope: Scope) -> None:
        call.end(scope)
        if self.telemetry is not None:
            self.telemetry.record(call)

    def _is_route(self, path: str) -> bool:
        """Return whether there is a route at a path."""
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
        return path == FEATURES_PATH or any(route.matches(scope)[0] is not Match.NONE for route in self._fastapi.routes)

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Open the store and load what answers need; at the end write pending logs and close the store."""
        if self._opens_store:
            self._opened_store = await asyncio.to_thread(FeatureStore.open, os.environ.get(CONFIG_VARIABLE, FILE_NAME))
        try:
            await asyncio.to_thread(self._warm)
            following = asyncio.create_task(self._follow())
            telemetry = self.telemetry = self.telemetry or Telemetry(self.store)
            publishing = asyncio.create_task(telemetry.publish())
            try:
                yield
            finally:
                publishing.cancel()
                following.cancel()
                telemetry.close()
        finally:
            if self._opens_store and self._opened_store is not None:
                await asyncio.to_thread(self._opened_store.close)
                self._opened_store = None

    def _warm(self) -> None:
        """Load what answers need, so that the first caller does not wait for it."""
        readiness = self.store.readiness()
        for state in readiness.unready:
            _LOGGER.warning("service '%s' cannot be answered yet: %s", state.service, state.problem)
        if readiness.registry_problem is not None:
            _LOGGER.warning("the registry cannot be read: %s", readiness.registry_problem)

    async def _follow(self) -> None:
        """Start following pushed events as soon as the registry and the event log can be opened."""
        while True:
            try:
                return await asyncio.to_thread(self.store.start_following)
            except FeatureStoreError:
                await asyncio.sleep(_RETRY_SECONDS)


def create_app(store: FeatureStore | None = None) -> Application:
    """Return the server's application.

    Args:
        store: The store that answers. If ``None``, the server opens one when it starts, from the file that
            ``FEATURESTORE_CONFIG`` names, or from ``featurestore.toml``.
    """
    return Application(store)
