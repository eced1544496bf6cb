"""Our protocol on top of uvicorn's: what it does beside that.

An answer's head and body are written to the socket at once; ordinary questions are answered without a task of ASGI; and
what is on its way is not broken off when the server ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from server.calls import WHOLE_BODY, Header

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

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
    _is_feeding = False
    _held: tuple[RequestResponseCycle, ASGI3Application] | None = None

    def data_received(self, data: bytes) -> None:
        """Take what has come. A request that comes as a whole may be answered without a task of its own."""
        self._is_feeding = True
        try:
            super().data_received(data)
        finally:
            self._is_feeding = False
        held, self._held = self._held, None
        if held is not None and not self._answers_directly(*held):
            super()._start_asgi_task(*held)

    def _answers_directly(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        """Have a request answered without ASGI, if it has come as a whole, and its caller takes what he is sent."""
        answer_directly = getattr(app, "answer_directly", None)
        if answer_directly is None or cycle.more_body or cycle.access_log or self.flow.write_paused:
            return False
        return bool(answer_directly(cycle.scope, cycle.body, _Reply(self, cycle, app)))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self._is_feeding:  # the body may come yet, with the same data
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

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


class _Reply:
    """Takes the answer to one request that ASGI was not asked about."""

    def __init__(self, protocol: GatheringProtocol, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._app = app

    def send(self, headers: Sequence[Header], content: bytes) -> bool:
        """Send an answer, as uvicorn would; ``False`` if the caller has gone away."""
        cycle = self._cycle
        if cycle.disconnected or cycle.transport.is_closing():
            return False
        head = [STATUS_LINE[200]]
        for name, value in (*cycle.default_headers, *headers):
            head += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        cycle.response_started = cycle.response_complete = True
        cycle.transport.write(b"".join([*head, b"\r\n", content]))
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        on_response, cycle.on_response = cycle.on_response, _do_nothing  # as uvicorn does: it leads back to the cycle
        on_response()
        return True

    def give_up(self) -> None:
        """Have ASGI answer."""
        self._protocol._start_asgi_task(self._cycle, self._app)


def _do_nothing() -> None:
    """Do nothing."""


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
