"""What is known of a request while it is answered: its name, how long it took, what it was about.

Whoever answers fills the fields in; metrics, logs and traces read them when the answer is on its way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import ContextVar
from http import HTTPStatus
from typing import TypeAlias

from starlette._utils import get_route_path  # what the router itself goes by: both must agree who may do what
from starlette.types import Message, Scope, Send

from featurestore.core.answers import OnlineFeatures
from featurestore.core.request_ids import is_request_id, new_request_id

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The request that is being answered, for log lines."""

RETRY_AFTER = b"1"
"""Seconds after which a request answered 503 may be repeated, if the refusal does not say."""

WHOLE_BODY = "featurestore.whole_body"
"""Extension of a scope by which our protocol says that the body has come: it need not be waited for."""

_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE.value
_SCOPE_KEY = "featurestore.call"


Header: TypeAlias = tuple[bytes, bytes]
"""Name and value."""


class Call:
    """One request.

    Attributes:
        began: When it came, by ``time.perf_counter``.
        headers: The request's headers, the last of each name.
        request_id: The caller's ``X-Request-Id`` if it is a plain word, else made up.
        method: HTTP method.
        has_body: Whether it is known that its body has come as a whole.
        path: The path asked for, below the one that the server is mounted under.
        route: The route's path as it is declared; ``"other"`` for paths that are none.
        status: HTTP status of the answer; 0 before there is one, and if the caller went away.
        sent: Bytes of the answer's body.
        seconds: How long it took, known once it has ended.
        answer: What the library answered, if it did.
        failure: What answering failed by before ASGI was called, which is to tell it; ``None`` if it has not.
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
        given = self.headers.get(b"x-request-id")
        name = given.decode("latin-1") if given else ""
        self.request_id = name if name and is_request_id(name) else new_request_id()
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
        """Return how long ago the request came."""
        return time.perf_counter() - self.began

    def sending(self, send: Send) -> Send:
        """Return what sends the answer: it adds the request's name, and notes what is sent."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = int(message["status"])
                headers = self.named(message.get("headers", ()))
                if self.status == _UNAVAILABLE and all(name != b"retry-after" for name, _ in headers):
                    headers.append((b"retry-after", RETRY_AFTER))
                message["headers"] = headers
            else:
                self.sent += len(message.get("body", b""))
            await send(message)

        return noting

    def named(self, headers: Iterable[Header]) -> list[Header]:
        """Return the headers of the answer with those that say which request and which plan it was."""
        found = [*headers, (b"x-request-id", self.request_id.encode())]
        if self.mismatch:
            found.append((b"x-fingerprint-mismatch", self.mismatch.encode()))
        return found

    def end(self, scope: Scope) -> None:
        """Note how long it took, and which route it was."""
        self.seconds = self.elapsed_seconds()
        route = scope.get("route")
        if route is not None:
            self.route = getattr(route, "path", self.route)


def call_of(scope: Scope) -> Call:
    """Return what is known of the request of a scope; its first call begins it."""
    call: Call | None = scope.get(_SCOPE_KEY)
    return Call(scope) if call is None else call
