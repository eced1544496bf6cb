"""Who may ask: API keys, checked before anything else is done for a request.

A key comes as ``Authorization: Bearer fs_…``. The keys are read from the registry at most once a second, so a revoked
key is refused after a second at the latest. While the registry cannot be read, the keys that were known last hold on:
serving does not depend on the registry.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from featurestore.core.errors import RegistryError
from featurestore.core.temporal import Clock, duration_us
from featurestore.registry.api_keys import ApiKey, ApiKeys, Scope, split_key
from featurestore.server.calls import Call
from featurestore.server.problems import RefusedError
from featurestore.server.work import Threads

_LOGGER = logging.getLogger("featurestore.server")
_RECHECK_US = duration_us("1s")
_OPEN = frozenset({"/healthz", "/readyz", "/health", "/openapi.json", "/docs"})
_SCOPES: Mapping[str, Scope] = {
    "/v1/features": Scope.READ,
    "/v1/services": Scope.READ,
    "/metrics": Scope.READ,
    "/get-online-features": Scope.READ,
    "/push": Scope.WRITE,
    "/materialize": Scope.ADMIN,
    "/materialize-incremental": Scope.ADMIN,
}
_EVENTS = re.compile(r"/v1/sources/[^/]+/events")
_PATIENCE_SECONDS = 0.25
"""So long requests wait for keys that are read anew; then those known last hold."""

_FIRST_SECONDS = 5.0
"""So long they wait if no keys are known yet."""

_CHALLENGE = {"www-authenticate": 'Bearer realm="featurestore"'}
_HINT = "Send 'Authorization: Bearer <key>'; 'featurestore keys create' makes one."


def needed_scope(path: str) -> Scope | None:
    """Return what a key must be allowed to use a path; ``None`` for what everybody may.

    What is not named here takes a key that may do everything: a route is closed until it is opened.

    Args:
        path: As routes are declared, without the path that the server is mounted under.
    """
    known = _SCOPES.get(path)
    if known is not None:
        return known
    if path in _OPEN:
        return None
    return Scope.WRITE if _EVENTS.fullmatch(path) else Scope.ADMIN


@dataclass(frozen=True)
class _Known:
    """The keys as they were read once.

    Attributes:
        keys: By id.
        at_us: When they were read.
        opened: By their text, those that were checked already: no more than there are keys.
    """

    keys: Mapping[str, ApiKey]
    at_us: int
    opened: dict[bytes, ApiKey] = field(default_factory=dict)

    def open(self, given: bytes) -> ApiKey:
        """Return the key that a header brings.

        Raises:
            RefusedError: There is none, or it does not hold.
        """
        text = key_text(given)
        found = self.opened.get(text)
        if found is None:
            found = self.opened[text] = self._checked(text)
        return found

    def _checked(self, text: bytes) -> ApiKey:
        parts = split_key(text.decode("latin-1"))
        key = self.keys.get(parts[0]) if parts is not None else None
        if key is None or parts is None or not key.is_opened_by(parts[1]):
            detail = f"The key is unknown or revoked. {_HINT}"
            raise RefusedError(HTTPStatus.UNAUTHORIZED, detail, "unknown-key", headers=_CHALLENGE)
        return key


def key_text(header: bytes) -> bytes:
    """Return the key of ``Authorization: Bearer …`` without what may stand around it; empty if it is of another kind.

    One key has one text, however the header is written.
    """
    kind, _, text = header.partition(b" ")
    return text.strip() if kind.lower() == b"bearer" else b""


class Doorkeeper:
    """Lets requests in that have a key for what they ask."""

    def __init__(
        self, keys: Callable[[], ApiKeys], clock: Callable[[], Clock], is_route: Callable[[str], bool]
    ) -> None:
        """Take the parts.

        Args:
            keys: Gives the keys of the registry.
            clock: Tells when the keys were read last.
            is_route: Tells whether there is something at a path.
        """
        self._is_route = is_route
        self._keys = keys
        self._clock = clock
        self._known: _Known | None = None
        self._threads = Threads(1, "keys")
        self._reading: Future[None] | None = None
        self._began = 0.0

    def knows(self, call: Call) -> bool:
        """Tell whether a request has a key for what it asks, if that is known without looking it up."""
        needed, known = needed_scope(call.path), self._fresh()
        if needed is None or known is None:
            return needed is None
        key = known.opened.get(key_text(call.headers.get(b"authorization", b"")))
        return key is not None and key.allows(needed)

    async def check(self, call: Call) -> None:
        """Let a request in, or raise. Where there is nothing, every key may learn that.

        Raises:
            RefusedError: It has no key (401), or one that is not allowed what it asks (403).
        """
        needed = needed_scope(call.path)
        if needed is None:
            return
        given = call.headers.get(b"authorization")
        if given is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, f"There is no key. {_HINT}", "no-key", headers=_CHALLENGE)
        known = self._fresh()
        if known is None:
            known = await self._read_anew()
        key = known.open(given)
        if not key.allows(needed) and self._is_route(call.path):
            detail = f"The key '{key.name}' has no scope '{needed}', which this needs."
            challenge = {"www-authenticate": f'{_CHALLENGE["www-authenticate"]}, error="insufficient_scope"'}
            raise RefusedError(HTTPStatus.FORBIDDEN, detail, "forbidden", headers=challenge)

    def _fresh(self) -> _Known | None:
        """Return the keys if they were read a moment ago."""
        known = self._known
        return known if known is not None and 0 <= self._clock().now_us() - known.at_us < _RECHECK_US else None

    async def _read_anew(self) -> _Known:
        """Return the keys, read anew in a thread; those known last if that takes more than a moment.

        Raises:
            RegistryError: None are known, and they cannot be read.
            RefusedError: None are known, and the registry does not answer.
        """
        if self._reading is None or self._reading.done():
            self._reading, self._began = self._threads.submit(self._read), time.perf_counter()
        most = _FIRST_SECONDS if self._known is None else _PATIENCE_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._began + most - time.perf_counter())):
                await asyncio.shield(asyncio.wrap_future(self._reading))
        if self._known is None:
            detail = "The API keys cannot be read yet: the registry does not answer. Ask again in a moment."
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "no-keys-yet")
        return self._known

    def _read(self) -> None:
        now_us = self._clock().now_us()
        try:
            keys: Mapping[str, ApiKey] = {key.id: key for key in self._keys().all()}
        except RegistryError as error:
            if self._known is None:
                raise
            _LOGGER.warning("the API keys cannot be read; those known last hold on: %s", error)
            keys = self._known.keys
        is_same = self._known is not None and keys == self._known.keys
        self._known = _Known(keys, now_us, self._known.opened if is_same and self._known is not None else {})
