"""The connections of one process: their maximum number, and the timeouts of each phase.

Every connection is in one phase. Each phase keeps its connections in the order in which they entered it, so the first
one has always waited longest: finding expired connections, or one to evict for a new client, costs the same however
many there are. No connection has a timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections import OrderedDict
from contextlib import suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from featurestore.config import ServerConfig

if TYPE_CHECKING:
    from featurestore.server.protocol import CoalescingProtocol

_LOGGER = logging.getLogger("featurestore.server")

SWEEP_SECONDS = 0.25
"""How often expired connections are closed."""

DISCARD_SECONDS = 2.0
"""How long the rest of a refused request is read and discarded: else its client may not see the refusal."""

_MAX_FILES = 1_048_576
"""The limit of open files is never raised above this."""

_SLOW_SECONDS = 1.0
"""A connection whose body takes longer than this is evicted for new clients before idle connections are."""

_MAX_BACKLOG = 2_048

_RESERVED_FILES = 2_500
"""Open files that are reserved for the store and for waiting connections; at most two thirds of all."""


class Phase(IntEnum):
    """What a connection waits for.

    ``OPENED``: the first head. ``HEAD``: the rest of a later head. ``BODY``: the rest of a body. ``SERVED``: an answer,
    or the next request. ``CLOSING``: the client reads the last answer. ``DISCARDING``: the client stops sending a
    request that is answered already.
    """

    OPENED = 0
    HEAD = 1
    BODY = 2
    SERVED = 3
    CLOSING = 4
    DISCARDING = 5


class Connections:
    """Creates the protocol of each connection, and closes connections that time out or are too many.

    Attributes:
        limits: The configured limits.
        head_seconds: How long a head may take.
        is_draining: Whether the server is about to stop: each answer closes its connection.
    """

    def __init__(self, limits: ServerConfig) -> None:
        """Create the table of connections of this process, which is empty."""
        self.limits = limits
        self.is_draining = False
        self._max_count = min(limits.max_connections, _max_connections_by_files())
        self._count = 0
        self._phases: tuple[OrderedDict[CoalescingProtocol, float], ...] = tuple(OrderedDict() for _ in Phase)
        self.head_seconds = min(limits.head_seconds, limits.deadline_seconds)
        self._seconds = {
            Phase.OPENED: self.head_seconds,
            Phase.HEAD: self.head_seconds,
            Phase.SERVED: limits.keep_alive_seconds,
            Phase.CLOSING: limits.deadline_seconds,
            Phase.DISCARDING: DISCARD_SECONDS,
        }
        self._sweeping: asyncio.TimerHandle | None = None

    def __call__(self, **arguments: Any) -> CoalescingProtocol:
        """Return the protocol of a new connection; ``arguments`` are uvicorn's."""
        # Imported here: the protocol needs the phases above.
        from featurestore.server.protocol import CoalescingProtocol

        return CoalescingProtocol(self, **arguments)

    def add(self, connection: CoalescingProtocol) -> None:
        """Add a connection; if there are too many, evict the one that has waited longest, or else this one."""
        self._count += 1
        self._phases[Phase.OPENED][connection] = connection.loop.time()
        if self._sweeping is None:
            self._sweeping = connection.loop.call_later(SWEEP_SECONDS, self._sweep, connection.loop)
        if self._count > self._max_count:
            victim = self._victim(connection)
            _LOGGER.warning(
                "there are more than %d connections; one was closed in favour of a new one", self._max_count
            )
            victim.evict()

    def remove(self, connection: CoalescingProtocol) -> None:
        """Remove a closed connection."""
        if self._phases[connection.phase].pop(connection, None) is not None:
            self._count -= 1

    def enter(self, connection: CoalescingProtocol, phase: Phase) -> None:
        """Move a connection to a phase."""
        if self._phases[connection.phase].pop(connection, None) is not None:
            connection.phase = phase
            self._phases[phase][connection] = connection.loop.time()

    def served(self, connection: CoalescingProtocol) -> None:
        """Restart the keep-alive timeout of a connection whose request was answered."""
        waiting = self._phases[Phase.SERVED]
        if connection in waiting:
            waiting[connection] = connection.loop.time()
            waiting.move_to_end(connection)

    def drain(self) -> None:
        """Close every connection after its next answer."""
        self.is_draining = True
        for connection in self.all():
            connection.close_after_answer()

    def all(self) -> list[CoalescingProtocol]:
        """Return all connections."""
        return [connection for waiting in self._phases for connection in waiting]

    def _victim(self, newcomer: CoalescingProtocol) -> CoalescingProtocol:
        """Return the connection to evict for a new one: preferably one without a request, so that nothing is lost."""
        for phase in (Phase.DISCARDING, Phase.CLOSING, Phase.OPENED, Phase.HEAD):
            first = next(iter(self._phases[phase]), newcomer)
            if first is not newcomer:
                return first
        slowest, since = next(iter(self._phases[Phase.BODY].items()), (newcomer, 0.0))
        if slowest is not newcomer and since < newcomer.loop.time() - _SLOW_SECONDS:
            return slowest
        return next((connection for connection in self._phases[Phase.SERVED] if connection.is_idle()), slowest)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close connections that have timed out, and schedule the next sweep while there are connections."""
        now = loop.time()
        for phase, seconds in self._seconds.items():
            waiting = self._phases[phase]
            expired = []
            for connection, since in waiting.items():
                if now - since < seconds:
                    break
                expired.append(connection)
            for connection in expired:
                waiting.move_to_end(connection)
                waiting[connection] = now
                connection.expire()
        self._sweeping = loop.call_later(SWEEP_SECONDS, self._sweep, loop) if self._count else None


def raise_file_limit() -> None:
    """Raise the limit of open files to the allowed maximum: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def backlog(limits: ServerConfig) -> int:
    """Return how many connections may wait to be accepted.

    All of them are accepted at once, before any can be closed. They must not use up the files that the store needs.
    """
    spare = _max_open_files() - min(limits.max_connections, _max_connections_by_files())
    return max(1, min(_MAX_BACKLOG, spare // 2))


def _max_connections_by_files() -> int:
    """Return how many connections leave enough open files for the store: databases, logs, locks."""
    files = _max_open_files()
    return max(1, files - min(_RESERVED_FILES, files * 2 // 3))


def _max_open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
