"""A process that serves: how uvicorn is set up, what happens between the signal that stops it and its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from types import FrameType

import uvicorn

from featurestore.config import ServerConfig
from featurestore.server.app import Application
from featurestore.server.connections import Connections, backlog, raise_file_limit
from featurestore.server.logs import CONFIG

DRAIN_SECONDS = 5.0
"""How long a server that other machines reach goes on answering after SIGTERM, if the configuration does not say."""


class Server(uvicorn.Server):
    """A server that says when it takes requests, and breaks none off when it ends."""

    def __init__(self, app: Application, limits: ServerConfig, announce: Callable[[], None]) -> None:
        """Take the parts.

        Args:
            app: What is served.
            limits: What the server takes.
            announce: Called once the server takes requests.
        """
        raise_file_limit()
        logging.captureWarnings(capture=True)
        self._app = app
        self._limits = limits
        self._announce = announce
        self._connections = Connections(limits)
        self._is_in_haste = False
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
        """Begin to take requests."""
        await super().startup(sockets)
        if self.started:
            self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop: at SIGTERM after a while, at SIGINT and at a second signal without delay."""
        self._is_in_haste = self.should_exit or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on for a while, then take no more connections and finish what is under way."""
        await self._drain(drain_seconds(self._limits, sockets or ()))
        waiting = [listening.dup() for listening in sockets or ()]
        accepting = asyncio.create_task(self._accept_the_last(waiting))
        await super().shutdown(sockets)
        await accepting

    async def _drain(self, seconds: float) -> None:
        """Answer on, close every connection with its next answer, and be not ready."""
        self._app.drain()
        self._connections.drain()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self._is_in_haste:
            await self.on_tick(0)
            await asyncio.sleep(0.1)

    async def _accept_the_last(self, listening: Sequence[socket.socket]) -> None:
        """Accept the connections that the system has made and the server has not seen yet, then close the sockets.

        uvicorn has closed its own by now. With the last one the system would reset what still waits there.
        """
        loop = asyncio.get_running_loop()
        found: list[socket.socket] = []
        for one in listening:
            with one:
                one.setblocking(False)
                try:
                    while True:
                        found.append(one.accept()[0])
                except OSError:  # nothing waits, or there are no files left
                    pass
        for connection in found:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        state = self.lifespan.state
        protocol = self._connections(config=self.config, server_state=self.server_state, app_state=state)
        protocol.loop.call_soon(protocol.shutdown)
        return protocol


def drain_seconds(limits: ServerConfig, sockets: Sequence[socket.socket]) -> float:
    """Return how long a server goes on answering after SIGTERM; by default not if only its own machine reaches it."""
    if limits.drain_seconds is not None:
        return limits.drain_seconds
    return 0.0 if all(is_loopback(listening) for listening in sockets) else DRAIN_SECONDS


def is_loopback(listening: socket.socket) -> bool:
    """Tell whether only the machine itself reaches a socket."""
    return ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback
