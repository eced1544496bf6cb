"""Who may ask: API keys, checked before anything else is done for a request.

A key comes as ``Authorization: Bearer fs_…``. The keys are read from the registry at most once a second, so a revoked
key is refused after a second at the latest. While the registry cannot be read, the keys that were known last hold on:
serving does not depend on the registry.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from threading import Lock

from featurestore.errors import RegistryError
from featurestore.registry.api_keys import ApiKey, ApiKeys, Scope, split_key
from featurestore.temporal import Clock, duration_us
from server.calls import Call
from server.problems import RefusedError

_LOGGER = logging.getLogger("featurestore.server")
_RECHECK_US = duration_us("1s")
_OPEN = frozenset({"/healthz", "/readyz", "/health", "/openapi.json", "/docs", "/redoc", "/docs/oauth2-redirect"})
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


class Doorkeeper:
    """Lets requests in that have a key for what they ask."""

    def __init__(self, keys: Callable[[], ApiKeys], clock: Callable[[], Clock]) -> None:
        """Take the parts.

        Args:
            keys: Gives the keys of the registry.
            clock: Tells when the keys were read last.
        """
        self._keys = keys
        self._clock = clock
        self._known: Mapping[str, ApiKey] | None = None
        self._checked: dict[bytes, ApiKey] = {}
        self._read_at_us = 0
        self._lock = Lock()

    def check(self, call: Call) -> None:
        """Let a request in, or raise.

        Raises:
            RefusedError: It has no key (401), or one that is not allowed what it asks (403).
        """
        needed = needed_scope(call.path)
        if needed is None:
            return
        key = self._key(call.headers.get(b"authorization"))
        if not key.allows(needed):
            detail = f"The key '{key.name}' has no scope '{needed}', which this needs."
            challenge = {"www-authenticate": f'{_CHALLENGE["www-authenticate"]}, error="insufficient_scope"'}
            raise RefusedError(HTTPStatus.FORBIDDEN, detail, "forbidden", headers=challenge)

    def _key(self, given: bytes | None) -> ApiKey:
        if given is None:
            raise RefusedError(HTTPStatus.UNAUTHORIZED, f"There is no key. {_HINT}", "no-key", headers=_CHALLENGE)
        with self._lock:
            self._refresh()
            found = self._checked.get(given)
            if found is None:
                found = self._opened(given)
                self._checked[given] = found
        return found

    def _opened(self, given: bytes) -> ApiKey:
        kind, _, text = given.decode("latin-1").partition(" ")
        parts = split_key(text.strip()) if kind.lower() == "bearer" else None
        key = (self._known or {}).get(parts[0]) if parts is not None else None
        if key is None or parts is None or not key.is_opened_by(parts[1]):
            detail = f"The key is unknown or revoked. {_HINT}"
            raise RefusedError(HTTPStatus.UNAUTHORIZED, detail, "unknown-key", headers=_CHALLENGE)
        return key

    def _refresh(self) -> None:
        now_us = self._clock().now_us()
        if self._known is not None and 0 <= now_us - self._read_at_us < _RECHECK_US:
            return
        try:
            known = {key.id: key for key in self._keys().all()}
        except RegistryError:
            if self._known is None:
                raise
            _LOGGER.warning("the API keys cannot be read; those known last hold on", exc_info=True)
            known = dict(self._known)
        if known != self._known:
            self._known = known
            self._checked.clear()
        self._read_at_us = now_us
