"""API keys: which scope each path needs, and whether a request has it.

A key comes as ``Authorization: Bearer fs_…``. The keys are read from the registry at most once per second, so a revoked
key is refused after one second at the latest. While the registry cannot be read, the keys that were read last stay
valid: serving does not depend on the registry.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from featurestore.core.errors import RegistryError
from featurestore.core.temporal import Clock, duration_us
from featurestore.registry.api_keys import ApiKey, ApiKeys, Scope, split_key
from featurestore.server.calls import FEATURES_PATH, METRICS_PATH, Call, is_push_path
from featurestore.server.problems import RefusedError
from featurestore.server.thread_pool import ThreadPool

_LOGGER = logging.getLogger("featurestore.server")
_REFRESH_US = duration_us("1s")
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/health", "/openapi.json", "/docs"})
_SCOPES: Mapping[str, Scope] = {
    FEATURES_PATH: Scope.READ,
    "/v1/services": Scope.READ,
    METRICS_PATH: Scope.READ,
    "/get-online-features": Scope.READ,
    "/push": Scope.WRITE,
    "/materialize": Scope.ADMIN,
    "/materialize-incremental": Scope.ADMIN,
}
_REFRESH_TIMEOUT_SECONDS = 0.25
"""Requests wait at most this long for keys that are read again; then the keys that were read last apply."""

_FIRST_READ_TIMEOUT_SECONDS = 5.0
"""Requests wait at most this long while no keys were read yet."""

_CHALLENGE = {"www-authenticate": 'Bearer realm="featurestore"'}
_HINT = "Send 'Authorization: Bearer <key>'; 'featurestore keys create' makes one."


def needed_scope(path: str) -> Scope | None:
    """Return the scope that a key needs for a path; ``None`` if the path needs no key.

    A path that is not listed here needs the scope admin: a route is closed until it is opened.

    Args:
        path: The path as routes are declared, without the path that the server is mounted under.
    """
    scope = _SCOPES.get(path)
    if scope is not None:
        return scope
    if path in _OPEN_PATHS:
        return None
    return Scope.WRITE if is_push_path(path) else Scope.ADMIN


@dataclass(frozen=True)
class _KeySnapshot:
    """The API keys as they were read once.

    Attributes:
        keys: Keys by id.
        read_at_us: When they were read.
        verified: Keys by their text, those that were verified already: never more than there are keys.
    """

    keys: Mapping[str, ApiKey]
    read_at_us: int
    verified: dict[bytes, ApiKey] = field(default_factory=dict)

    def verify(self, header: bytes) -> ApiKey:
        """Return the key that an ``Authorization`` header holds.

        Raises:
            RefusedError: The header holds no key, or one that is unknown or revoked (401).
        """
        text = _key_text(header)
        key = self.verified.get(text)
        if key is None:
            parts = split_key(text.decode("latin-1"))
            key = self.keys.get(parts[0]) if parts is not None else None
            if key is None or parts is None or not key.is_opened_by(parts[1]):
                detail = f"The key is unknown or revoked. {_HINT}"
                raise RefusedError(HTTPStatus.UNAUTHORIZED, detail, "unknown-key", headers=_CHALLENGE)
            self.verified[text] = key
        return key


def _key_text(header: bytes) -> bytes:
    """Return the key of ``Authorization: Bearer …`` without surrounding spaces; empty for another scheme.

    One key has one text, however the header is written.
    """
    scheme, _, text = header.partition(b" ")
    return text.strip() if scheme.lower() == b"bearer" else b""


class ApiKeyCheck:
    """Checks that a request has a key with the scope that its path needs."""

    def __init__(
        self, keys: Callable[[], ApiKeys], clock: Callable[[], Clock], is_route: Callable[[str], bool]
    ) -> None:
        """Create a check; no keys are read yet.

        Args:
            keys: Returns the keys of the registry.
            clock: Returns the clock by which the age of the keys is measured.
            is_route: Returns whether the server has a route at a path.
        """
        self._is_route = is_route
        self._keys = keys
        self._clock = clock
        self._snapshot: _KeySnapshot | None = None
        self._threads = ThreadPool(1, "keys")
        self._reading: Future[None] | None = None
        self._reading_since = 0.0

    def is_outdated_for(self, call: Call) -> bool:
        """Return whether the keys must be read again before a request can be checked."""
        if needed_scope(call.path) is None or b"authorization" not in call.headers:
            return False
        snapshot = self._snapshot
        return snapshot is None or not 0 <= self._clock().now_us() - snapshot.read_at_us < _REFRESH_US

    def check(self, call: Call) -> None:
        """Check a request against the keys that were read last. Any valid key may learn that a path does not exist.

        Raises:
            RefusedError: There is no valid key (401), its scope does not suffice (403), or no keys were read yet (503).
        """
        scope = needed_scope(call.path)
        if scope is None:
            return
        header = call.headers.get(b"authorization")
        if header is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, f"There is no key. {_HINT}", "no-key", headers=_CHALLENGE)
        if self._snapshot is None:
            detail = "The API keys cannot be read yet: the registry does not answer. Ask again in a moment."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "no-keys-yet")
        key = self._snapshot.verify(header)
        if not key.allows(scope) and self._is_route(call.path):
            detail = f"The key '{key.name}' has no scope '{scope}', which this needs."
            challenge = {"www-authenticate": f'{_CHALLENGE["www-authenticate"]}, error="insufficient_scope"'}
            raise RefusedError(HTTPStatus.FORBIDDEN, detail, "forbidden", headers=challenge)

    async def refresh(self) -> None:
        """Read the keys again in a thread. If that takes too long, the keys that were read last stay valid.

        Raises:
            RegistryError: No keys were ever read, and they cannot be read now.
        """
        if self._reading is None or self._reading.done():
            self._reading, self._reading_since = self._threads.submit(self._read), time.perf_counter()
        timeout = _FIRST_READ_TIMEOUT_SECONDS if self._snapshot is None else _REFRESH_TIMEOUT_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._reading_since + timeout - time.perf_counter())):
                await asyncio.shield(asyncio.wrap_future(self._reading))

    def _read(self) -> None:
        now_us = self._clock().now_us()
        previous = self._snapshot
        try:
            keys: Mapping[str, ApiKey] = {key.id: key for key in self._keys().all()}
        except RegistryError as error:
            if previous is None:
                raise
            _LOGGER.warning("the API keys cannot be read; the keys that were read last stay valid: %s", error)
            keys = previous.keys
        is_same = previous is not None and keys == previous.keys
        self._snapshot = _KeySnapshot(keys, now_us, previous.verified if is_same and previous is not None else {})
