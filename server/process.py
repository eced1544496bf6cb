"""A serving process: how uvicorn is configured, and how the process drains and stops after a signal."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from types import FrameType

import uvicorn

from featurestore.config import ServerConfig
from featurestore.server.app import Application
from featurestore.server.connections import Connections, backlog, raise_file_limit
from featurestore.server.logs import CONFIG

DRAIN_SECONDS = 5.0
"""How long a server that other machines can reach keeps answering after SIGTERM, unless configured otherwise."""

SWITCH_SECONDS = 0.0005
"""Requests wait no longer than this for threads that write logs."""


class Server(uvicorn.Server):
    """uvicorn's server, which announces when it accepts requests and answers all of them before it stops."""

    def __init__(self, app: Application, limits: ServerConfig, announce: Callable[[], None]) -> None:
        """Configure the server.

        Args:
            app: The application.
            limits: The configured limits.
            announce: Called once the server accepts requests.
        """
        raise_file_limit()
        logging.captureWarnings(capture=True)
        self._app = app
        self._limits = limits
        self._announce = announce
        self._connections = Connections(limits)
        self._skips_draining = False
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=self._connections,  # type: ignore[arg-type]  # uvicorn calls it as it would the class
                ws="none",
                access_log=False,
                log_config=CONFIG,
                server_header=False,
                proxy_headers=False,
                backlog=backlog(limits),
                timeout_graceful_shutdown=limits.shutdown_seconds,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests."""
        await super().startup(sockets)
        if self.started:
            sys.setswitchinterval(SWITCH_SECONDS)
            freeze_gc()
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: at SIGTERM after draining, at SIGINT and at a second signal without draining."""
        self._skips_draining = self.should_exit or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then accept no more connections and finish all requests."""
        await self._drain(drain_seconds(self._limits, sockets or ()))
        waiting = [listening.dup() for listening in sockets or ()]
        accepting = asyncio.create_task(self._accept_pending(waiting))
        await super().shutdown(sockets)
        await accepting
        gc.unfreeze()

    async def _drain(self, seconds: float) -> None:
        """Keep answering, but report the server as not ready and close each connection after its next answer."""
        self._app.drain()
        self._connections.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while loop.time() < deadline and not self._skips_draining:
            await self.on_tick(0)
            await asyncio.sleep(0.1)

    async def _accept_pending(self, listening: Sequence[socket.socket]) -> None:
        """Accept the connections that the system has established and the server has not seen, then close the sockets.

        uvicorn has closed its own sockets by now. When the last socket closes, the system resets pending connections.
        """
        loop = asyncio.get_running_loop()
        accepted: list[socket.socket] = []
        for listener in listening:
            with listener:
                listener.setblocking(False)
                try:
                    while True:
                        accepted.append(listener.accept()[0])
                except OSError:  # no connection is pending, or there are no files left
                    pass
        for connection in accepted:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        state = self.lifespan.state
        protocol = self._connections(config=self.config, server_state=self.server_state, app_state=state)
        protocol.loop.call_soon(protocol.shutdown)
        return protocol


def freeze_gc() -> None:
    """Exclude all loaded objects from garbage collection: they live as long as the process.

    There are some hundred thousand of them. Scanning all, as a full collection does, blocks every answer for a tenth of
    a second.
    """
    gc.collect()
    gc.freeze()


def drain_seconds(limits: ServerConfig, sockets: Sequence[socket.socket]) -> float:
    """Return how long a server keeps answering after SIGTERM; by default 0 if only its own machine can reach it."""
    if limits.drain_seconds is not None:
        return limits.drain_seconds
    return 0.0 if all(is_loopback(listening) for listening in sockets) else DRAIN_SECONDS


def is_loopback(listening: socket.socket) -> bool:
    """Return whether only the machine itself can reach a socket."""
    return ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
