"""The context of one request: its id, its paths, and what metrics, logs and traces need to know about its answer.

The code that answers fills the fields in; metrics, logs and traces read them once the answer is sent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from http import HTTPStatus
from typing import TypeAlias

from starlette._utils import (
    get_route_path,
)  # the router's own function: authorization must see the path that the router sees
from starlette.types import Message, Scope, Send

from featurestore.core.answers import OnlineFeatures
from featurestore.core.request_ids import is_request_id, new_request_id

FEATURES_PATH = "/v1/features"
EVENTS_PATH = "/v1/sources/{source}/events"
METRICS_PATH = "/metrics"

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Id of the request that is being answered, for log lines."""

RETRY_AFTER = b"1"
"""Seconds after which a request answered 503 may be repeated, if the refusal does not say."""

WHOLE_BODY = "featurestore.whole_body"
"""Extension of a scope: ``CoalescingProtocol`` sets it when the whole body has arrived and nothing must be awaited."""

_PUSH_PATHS = re.compile(EVENTS_PATH.replace("{source}", "[^/]+"))
_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE.value
_SCOPE_KEY = "featurestore.call"

Header: TypeAlias = tuple[bytes, bytes]
"""Name and value."""


class Call:
    """One request.

    Attributes:
        began: When it arrived, by ``time.perf_counter``.
        headers: The request's headers; of repeated ones the last.
        request_id: The caller's ``X-Request-Id`` if it is valid, else a generated one.
        method: HTTP method.
        has_body: Whether the whole body is known to have arrived.
        path: The requested path, below the path that the server is mounted under.
        route: The route's path as it is declared; ``"other"`` for paths without a route.
        status: HTTP status of the answer; 0 before it is sent, and if the client has disconnected.
        sent: Bytes of the answer's body.
        seconds: Duration from arrival to answer, set by ``end``.
        answer: The library's answer, if there is one.
        failure: Error raised on the direct path; the ASGI fallback reports it. ``None`` if there is none.
        code: Code of the problem, if the answer is one.
        mismatch: Fingerprint of the plan that answered, if the caller expected another one; else empty.
    """

    __slots__ = (
        "answer",
        "began",
        "code",
        "failure",
        "has_body",
        "headers",
        "method",
        "mismatch",
        "path",
        "request_id",
        "route",
        "seconds",
        "sent",
        "status",
    )

    def __init__(self, scope: Scope) -> None:
        self.began = time.perf_counter()
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        header = self.headers.get(b"x-request-id")
        request_id = header.decode("latin-1") if header else ""
        self.request_id = request_id if request_id and is_request_id(request_id) else new_request_id()
        self.has_body = WHOLE_BODY in scope.get("extensions", ())
        self.method: str = scope["method"]
        self.path = get_route_path(scope)
        self.route = "other"
        self.status = 0
        self.sent = 0
        self.seconds = 0.0
        self.answer: OnlineFeatures | None = None
        self.failure: Exception | None = None
        self.code = ""
        self.mismatch = ""
        scope[_SCOPE_KEY] = self

    def elapsed_seconds(self) -> float:
        """Return how long ago the request arrived."""
        return time.perf_counter() - self.began

    def recording(self, send: Send) -> Send:
        """Return a ``send`` that adds the headers of ``with_ids`` and records the status and size of the answer."""

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = int(message["status"])
                headers = self.with_ids(message.get("headers", ()))
                if self.status == _UNAVAILABLE and all(name != b"retry-after" for name, _ in headers):
                    headers.append((b"retry-after", RETRY_AFTER))
                message["headers"] = headers
            else:
                self.sent += len(message.get("body", b""))
            await send(message)

        return recorded

    def with_ids(self, headers: Iterable[Header]) -> list[Header]:
        """Return the headers of an answer with the request's id and, if it is not the expected one, the plan's."""
        extended = [*headers, (b"x-request-id", self.request_id.encode())]
        if self.mismatch:
            extended.append((b"x-fingerprint-mismatch", self.mismatch.encode()))
        return extended

    def end(self, scope: Scope) -> None:
        """Set the duration, and the route that FastAPI found."""
        self.seconds = self.elapsed_seconds()
        route = scope.get("route")
        if route is not None:
            self.route = getattr(route, "path", self.route)


def is_push_path(path: str) -> bool:
    """Return whether events are pushed to a path."""
    return _PUSH_PATHS.fullmatch(path) is not None


def call_of(scope: Scope) -> Call:
    """Return the context of a scope's request; the first call creates it."""
    call: Call | None = scope.get(_SCOPE_KEY)
    return Call(scope) if call is None else call
