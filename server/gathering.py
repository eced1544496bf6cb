"""Writing an answer's head and body to the socket at once; and ending without breaking off what is on its way."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.calls import WHOLE_BODY

_WITH_BODY: dict[str, dict[object, object]] = {WHOLE_BODY: {}}

LINGER_SECONDS = 0.3
"""A server that ends keeps idle connections for so long: requests that were sent to it already are answered."""


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which writes head and body one after the other: here they leave in one piece.

    Each write is a system call that wakes the caller, who cannot do anything with a head alone.

    When the server ends, uvicorn closes idle connections at once, also those on which a request lies unread; its caller
    sees the connection break. Here such a request is answered, and the caller told to come no more on this connection.
    """

    _is_ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]

    def on_headers_complete(self) -> None:
        """Begin a request."""
        super().on_headers_complete()
        if self._is_ending and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Take the end of a request's body: mostly that is before its answering begins."""
        super().on_message_complete()
        self.scope["extensions"] = _WITH_BODY

    def shutdown(self) -> None:
        """End the connection once what is on its way is answered."""
        self._is_ending = True
        if self._is_idle():
            self.loop.call_later(LINGER_SECONDS, self._end_if_idle)
        else:
            self.cycle.keep_alive = False

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _end_if_idle(self) -> None:
        if self._is_idle():
            self.transport.close()


class _Gathering:
    """A transport that keeps what is written until the event loop's turn ends."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._kept: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._kept:
            self._loop.call_soon(self._flush)
        self._kept.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        kept, self._kept = self._kept, []
        if kept:
            self._transport.write(b"".join(kept))
