"""The connections of one process: how many there may be, and how long each may keep the server waiting.

Every connection is in one phase. Each phase keeps its connections in the order in which they entered it, so that the
one that has waited longest is always the first: looking for expired ones, or for one to close in favour of a new
caller, costs the same however many there are. No connection has a timer of its own.
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
    from featurestore.server.gathering import GatheringProtocol

_LOGGER = logging.getLogger("featurestore.server")

SWEEP_SECONDS = 0.25
"""How often expired connections are looked for."""

DISCARD_SECONDS = 2.0
"""So long the rest of a request that was refused is read and thrown away: else its caller may not see the refusal."""

_OFFERED_FILES = 1_048_576
"""No more open files than this are asked for."""

_SLOW_SECONDS = 1.0
"""A body that has taken longer than this is closed in favour of new callers before idle connections are."""

_MOST_BACKLOG = 2_048

_STORE_FILES = 2_500
"""So many files are kept for the store and for connections that wait; two thirds of them where there are few."""


class Phase(IntEnum):
    """What a connection waits for.

    ``OPENED``: the first head. ``HEAD``: the rest of a later head. ``BODY``: the rest of a body. ``SERVED``: an answer,
    or the next request. ``CLOSING``: that the caller takes the last answer. ``DISCARDING``: that the caller stops
    sending a request that is answered already.
    """

    OPENED = 0
    HEAD = 1
    BODY = 2
    SERVED = 3
    CLOSING = 4
    DISCARDING = 5


class Connections:
    """Makes the protocol of each connection, and closes connections that wait too long or are too many.

    Attributes:
        limits: What the server takes.
        head_seconds: How long a head may take.
        is_draining: Whether the server is about to end: each answer closes its connection.
    """

    def __init__(self, limits: ServerConfig) -> None:
        """Take the limits; the connections are those of the process in which the first one is made."""
        self.limits = limits
        self.is_draining = False
        self._most = min(limits.max_connections, _most_by_files())
        self._count = 0
        self._phases: tuple[OrderedDict[GatheringProtocol, float], ...] = tuple(OrderedDict() for _ in Phase)
        self.head_seconds = min(limits.head_seconds, limits.deadline_seconds)
        self._seconds = {
            Phase.OPENED: self.head_seconds,
            Phase.HEAD: self.head_seconds,
            Phase.SERVED: limits.keep_alive_seconds,
            Phase.CLOSING: limits.deadline_seconds,
            Phase.DISCARDING: DISCARD_SECONDS,
        }
        self._sweeping: asyncio.TimerHandle | None = None

    def __call__(self, **arguments: Any) -> GatheringProtocol:
        """Return the protocol of a new connection; uvicorn gives the arguments of its own."""
        from featurestore.server.gathering import GatheringProtocol

        return GatheringProtocol(self, **arguments)

    def add(self, connection: GatheringProtocol) -> None:
        """Take a connection; if there are too many, close the one that has waited longest, or else this one."""
        self._count += 1
        self._phases[Phase.OPENED][connection] = connection.loop.time()
        if self._sweeping is None:
            self._sweeping = connection.loop.call_later(SWEEP_SECONDS, self._sweep, connection.loop)
        if self._count > self._most:
            victim = self._victim(connection)
            _LOGGER.warning("there are more than %d connections; one was closed for a new one", self._most)
            victim.give_way()

    def remove(self, connection: GatheringProtocol) -> None:
        """Forget a connection that is closed."""
        if self._phases[connection.phase].pop(connection, None) is not None:
            self._count -= 1

    def enter(self, connection: GatheringProtocol, phase: Phase) -> None:
        """Note that a connection has entered a phase."""
        if self._phases[connection.phase].pop(connection, None) is not None:
            connection.phase = phase
            self._phases[phase][connection] = connection.loop.time()

    def served(self, connection: GatheringProtocol) -> None:
        """Note that another answer was given on a connection; from now on the next request is waited for."""
        waiting = self._phases[Phase.SERVED]
        if connection in waiting:
            waiting[connection] = connection.loop.time()
            waiting.move_to_end(connection)

    def drain(self) -> None:
        """Let every answer from now on close its connection."""
        self.is_draining = True
        for connection in self.all():
            connection.close_after_answer()

    def all(self) -> list[GatheringProtocol]:
        """Return all connections."""
        return [connection for waiting in self._phases for connection in waiting]

    def _victim(self, newcomer: GatheringProtocol) -> GatheringProtocol:
        """Return the connection that is closed for a new one: nothing is lost with one that has asked nothing yet."""
        for phase in (Phase.DISCARDING, Phase.CLOSING, Phase.OPENED, Phase.HEAD):
            first = next(iter(self._phases[phase]), newcomer)
            if first is not newcomer:
                return first
        slowest, since = next(iter(self._phases[Phase.BODY].items()), (newcomer, 0.0))
        if slowest is not newcomer and since < newcomer.loop.time() - _SLOW_SECONDS:
            return slowest
        return next((one for one in self._phases[Phase.SERVED] if one.is_idle()), slowest)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close connections that have waited too long, and look again later while there are any."""
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
    """Let the process open as many files as it is allowed to: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OFFERED_FILES if hard == resource.RLIM_INFINITY else min(hard, _OFFERED_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def backlog(limits: ServerConfig) -> int:
    """Return how many connections may wait to be accepted.

    All of them are accepted at once, before any can be closed: they must not use up the files that the store needs.
    """
    spare = _most_files() - min(limits.max_connections, _most_by_files())
    return max(1, min(_MOST_BACKLOG, spare // 2))


def _most_by_files() -> int:
    """Return how many connections leave enough files to the store: databases, logs, locks."""
    files = _most_files()
    return max(1, files - min(_STORE_FILES, files * 2 // 3))


def _most_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OFFERED_FILES if soft == resource.RLIM_INFINITY else soft
