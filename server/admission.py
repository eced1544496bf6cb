"""Admission: the one place that decides which requests are answered, and how long each may take.

Both ways of answering go through it: ASGI, which can wait for API keys and bodies, and direct answers below ASGI
(``server.protocol``), which cannot. Both apply the same checks in the same order: the API key, the encoding and the
size of the body, the number of requests in flight. Deadlines are read here for both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette.types import Receive

from featurestore.config import ServerConfig
from featurestore.server.auth import ApiKeyCheck
from featurestore.server.bodies import body_too_large, declared_bytes, read_body, require_identity_encoding
from featurestore.server.calls import METRICS_PATH, Call, is_push_path
from featurestore.server.problems import RefusedError
from featurestore.store import FeatureStore

DEADLINE_HEADER = "x-deadline-ms"

_DEADLINE_HEADER = DEADLINE_HEADER.encode()
_MAX_DEADLINE_DIGITS = 12
_NEVER_SHED = frozenset({"/healthz", "/readyz", "/health", METRICS_PATH})


class Admission:
    """Admits requests.

    Attributes:
        in_flight: How many requests are being answered. A request whose body is still arriving does not count.
    """

    def __init__(self, store: Callable[[], FeatureStore], is_route: Callable[[str], bool]) -> None:
        """Create an admission for one application.

        Args:
            store: Returns the store; raises ``RefusedError`` before the server has started.
            is_route: Returns whether the application has a route at a path.
        """
        self.in_flight = 0
        self._store = store
        self._keys = ApiKeyCheck(lambda: store().api_keys, lambda: store().clock, is_route)

    @property
    def limits(self) -> ServerConfig:
        """The configured limits."""
        return self._store().config.server

    async def admit(self, call: Call, receive: Receive) -> bytes | None:
        """Admit a request under ASGI: wait for the API keys and the body. The caller must call ``leave`` afterwards.

        Returns:
            The whole body; ``None`` if the client has disconnected. Then there is nothing to leave.

        Raises:
            RefusedError: See ``check`` and ``enter``; or the body is too slow (408), or too large although its header
                does not say so (413).
            RegistryError: No API keys were ever read, and they cannot be read now.
        """
        limits = self.limits
        if limits.auth == "keys" and self._keys.is_outdated_for(call):
            await self._keys.refresh()
        self.check(call, declared_bytes(call))
        max_bytes = _max_body_bytes(call, limits)
        body = await read_body(call, receive, max_bytes=max_bytes, seconds=limits.deadline_seconds)
        if body is not None:
            self.enter(call)
        return body

    def admit_without_waiting(self, call: Call, body_bytes: int) -> None:
        """Admit a request whose body has arrived. The caller must call ``leave`` afterwards.

        Raises:
            RefusedError: See ``check`` and ``enter``; or the API keys must be read again first (503).
        """
        if self.limits.auth == "keys" and self._keys.is_outdated_for(call):
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The API keys must be read first.", "no-keys-yet")
        self.check(call, body_bytes)
        self.enter(call)

    def check(self, call: Call, body_bytes: int) -> None:
        """Check everything that the head of a request and the size of its body say.

        Args:
            call: The request.
            body_bytes: Size of the body, or what the header ``Content-Length`` says of it.

        Raises:
            RefusedError: There is no valid key (401), or its scope does not suffice (403); the body is compressed (415)
                or too large (413).
        """
        limits = self.limits
        if limits.auth == "keys":
            self._keys.check(call)
        require_identity_encoding(call)
        max_bytes = _max_body_bytes(call, limits)
        if body_bytes > max_bytes:
            raise body_too_large(max_bytes)

    def enter(self, call: Call) -> None:
        """Count a request as in flight, unless there are too many. Probes and metrics are never refused.

        Raises:
            RefusedError: There are too many (503).
        """
        max_requests = self.limits.max_requests
        if self.in_flight >= max_requests and call.path not in _NEVER_SHED:
            detail = f"There are {max_requests} requests under way. Ask again in a moment."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "too-many-requests")
        self.in_flight += 1

    def leave(self) -> None:
        """Count a request that was admitted as answered."""
        self.in_flight -= 1


def _max_body_bytes(call: Call, limits: ServerConfig) -> int:
    return limits.max_push if is_push_path(call.path) else limits.max_body


def allowed_seconds(headers: Mapping[bytes, bytes], max_seconds: float, timeout_ms: int | None = None) -> float:
    """Return how long after its arrival a request may be answered: as it says, but no longer than ``max_seconds``.

    Raises:
        RefusedError: The deadline header is not a whole number (422).
    """
    seconds = requested_seconds(headers, timeout_ms)
    return max_seconds if seconds is None else min(seconds, max_seconds)


def requested_seconds(headers: Mapping[bytes, bytes], timeout_ms: int | None) -> float | None:
    """Return how long after its arrival a request wants to be answered; ``None`` if it does not say.

    Args:
        headers: Headers of the request; ``X-Deadline-Ms`` is in milliseconds.
        timeout_ms: Timeout in the body. The shorter of both applies.

    Raises:
        RefusedError: The header is not a whole number (422).
    """
    header = headers.get(_DEADLINE_HEADER)
    if header is None:
        return None if timeout_ms is None else timeout_ms / 1_000
    text = header.strip()
    if not text.isdigit() or len(text) > _MAX_DEADLINE_DIGITS:
        detail = f"X-Deadline-Ms is {header.decode('latin-1')!r}; write whole milliseconds, for instance 250."
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "deadline")
    milliseconds = int(text) if timeout_ms is None else min(int(text), timeout_ms)
    return milliseconds / 1_000
