"""The HTTP/1.1 protocol of the server: uvicorn's, extended.

Head and body of an answer are written in one system call. Small questions are answered without an ASGI task. Requests
that have arrived are answered before the server stops. Heads have a maximum size. An offer to upgrade to another
protocol is ignored. Input that is not HTTP is answered with a problem document. The timeouts are in
``server.connections``.

Only this module uses uvicorn's internals; ``pyproject.toml`` pins uvicorn below its next minor version.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from featurestore.server.calls import WHOLE_BODY, Header
from featurestore.server.connections import Connections, Phase
from featurestore.server.problems import RefusedError, document_of

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

_LOGGER = logging.getLogger("featurestore.server")
_WITH_BODY: dict[str, dict[object, object]] = {WHOLE_BODY: {}}

LINGER_SECONDS = 0.3
"""A server that stops keeps idle connections this long, to answer requests that were sent already."""


class CoalescingProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with the writes of one event-loop iteration coalesced into one.

    uvicorn writes head and body one after the other. Each write is a system call that wakes the client, which cannot
    use a head alone.

    When the server stops, uvicorn closes idle connections at once, also those with an unread request; its client sees a
    broken connection. This protocol answers such a request with ``Connection: close``.

    Attributes:
        phase: What the connection waits for.
    """

    transport: _CoalescingTransport  # type: ignore[assignment]

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        """Create the protocol of one connection; ``arguments`` are uvicorn's."""
        super().__init__(**arguments)
        self.phase = Phase.OPENED
        self._connections = connections
        self._max_head = connections.limits.max_head
        self._closes_after_answer = False
        self._is_feeding = False
        self._ignores_input = False
        self._is_in_head = False
        self._keeps_alive = False
        self._deferred: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._answering: RequestResponseCycle | None = None
        self._final_refusal: RefusedError | None = None
        self._plain_head: bytes | None = None
        self._piece_bytes = 0
        self._head_bytes = 0
        self._idle_bytes = 0
        self._discarded_bytes = 0
        self._last_head_data_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register a new connection."""
        super().connection_made(_CoalescingTransport(transport, self))  # type: ignore[arg-type]
        self._connections.add(self)
        if self._connections.is_draining:
            self._closes_after_answer = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Unregister the connection."""
        self._connections.remove(self)
        super().connection_lost(exc)
        self.transport.release()

    def data_received(self, data: bytes) -> None:
        """Parse received data. A request that arrives whole may be answered without an ASGI task."""
        if self._ignores_input:
            self._discard(len(data))
            return
        self._is_feeding = True
        rest: bytes | None = data
        try:
            while rest is not None:
                rest = self._parse(rest)
        finally:
            self._is_feeding = False
        deferred, self._deferred = self._deferred, None
        if deferred is not None and not self._answers_directly(*deferred):
            super()._start_asgi_task(*deferred)
        if self._is_in_head or self.phase is not Phase.SERVED or self.cycle.more_body:
            self._update_phase()

    def _parse(self, data: bytes) -> bytes | None:
        """Parse data; return what must still be parsed.

        An offer to upgrade to another protocol is ignored, which RFC 9110 (7.8) allows. The parser takes all data after
        such a head for the other protocol; therefore the head is parsed again without its offer, by a new parser.
        """
        size = len(data)
        self._piece_bytes = size
        self._idle_bytes += size
        self._head_bytes += size
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            assert self._plain_head is not None
            head, self._plain_head = self._plain_head, None
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            return head + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            reason = error.__context__
            self._refuse(reason if isinstance(reason, RefusedError) else _malformed(error))
        else:
            if self._idle_bytes > self._max_head:
                self._refuse(
                    _head_too_large(self._max_head) if self._is_in_head else _extensions_too_large(self._max_head)
                )
        return None

    def on_message_begin(self) -> None:
        """Start a head."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = self._piece_bytes  # an upper bound: the head may begin anywhere in this data

    def on_headers_complete(self) -> None:
        """Start a request.

        Raises:
            RefusedError: Its head is too large (431), or it asks for a tunnel (405). The parser wraps the error.
        """
        self._is_in_head = False
        self._idle_bytes = 0
        if self._head_bytes > self._max_head and self._exact_head_bytes() > self._max_head:
            raise _head_too_large(self._max_head)
        if self.parser.should_upgrade():
            self._plain_head = self._head_without_upgrade()
            return
        super().on_headers_complete()
        self.headers = []  # trailers, which follow the body, are not part of the head
        self._keeps_alive = self.cycle.keep_alive
        self.cycle.keep_alive = False  # an answer before the end of the body closes the connection

    def on_body(self, body: bytes) -> None:
        """Receive a piece of a body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Receive the end of a body, mostly before the request is answered."""
        self._idle_bytes = 0
        if self._plain_head is not None:
            return
        super().on_message_complete()
        self.scope["extensions"] = _WITH_BODY
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive and not self._closes_after_answer

    def on_response_complete(self) -> None:
        """Continue with the next request, as uvicorn does, but without a timer per connection."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._final_refusal is not None:
            self._send_final_refusal(self._final_refusal)
        elif self._is_in_head or self.phase is not Phase.SERVED:
            self._update_phase()
        else:
            self._connections.served(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if self._is_feeding:  # the same data may still hold the body
            self._deferred = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _answers_directly(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        """Answer a complete request without an ASGI task, if its client reads answers and the application can."""
        answer_directly = getattr(app, "answer_directly", None)
        if answer_directly is None or cycle.more_body or cycle.access_log or self.flow.write_paused:
            return False
        return bool(answer_directly(cycle.scope, cycle.body, _DirectReply(self, cycle, app)))

    def _exact_head_bytes(self) -> int:
        """Return the size of the head without method and version."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_without_upgrade(self) -> bytes:
        """Return the head without its offer to upgrade.

        Raises:
            RefusedError: The request asks for a tunnel (CONNECT) (405).
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "This server is not a proxy.", "method-not-allowed")
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _update_phase(self) -> None:
        if self._is_in_head:
            self._last_head_data_at = self.loop.time()
        phase = self._current_phase()
        if phase is not self.phase:
            self._connections.enter(self, phase)

    def _current_phase(self) -> Phase:
        if self._ignores_input or self.phase is Phase.CLOSING:
            return self.phase
        if self.cycle is None:
            return Phase.OPENED
        if self.is_idle():
            return Phase.HEAD if self._is_in_head else Phase.SERVED
        return Phase.BODY if self.cycle.more_body and not self.pipeline else Phase.SERVED

    def expire(self) -> None:
        """Handle a timeout of the current phase."""
        match self.phase:
            case Phase.OPENED | Phase.HEAD if self._is_in_head and self._is_still_sending_head():
                self._refuse(_head_too_slow())
            case Phase.OPENED | Phase.HEAD:
                self.transport.close()
            case Phase.SERVED if self.is_idle() and self.transport.get_write_buffer_size() == 0:
                self.transport.close()
            case Phase.SERVED if self.is_idle() or self.flow.write_paused:  # the client does not read its answer
                self.transport.abort()
            case Phase.CLOSING | Phase.DISCARDING:
                self.transport.abort()
            case Phase.SERVED | Phase.BODY:
                pass

    def _is_still_sending_head(self) -> bool:
        """Return whether a part of the head has arrived lately: a client that went silent waits for no answer."""
        return self.loop.time() - self._last_head_data_at < self._connections.head_seconds / 2

    def evict(self) -> None:
        """Close the connection at once in favour of a new one; refuse the request that was arriving, if any."""
        if self._ignores_input or self.transport.is_closing():
            self.transport.abort()
            return
        is_started = self.phase is Phase.BODY and self.cycle.response_started
        if self.phase is not Phase.SERVED and not is_started:
            self.transport.write(self._refusal(_too_many_connections()))
        self._ignores_input = True
        self.transport.close_now()

    def _refuse(self, reason: RefusedError) -> None:
        """Refuse the current input and ignore all further input of this connection.

        Requests that arrived before it are answered first.
        """
        _LOGGER.warning("a request was refused: %s [%s]", reason.detail, reason.code)
        self._ignores_input = True
        cycle = self.cycle
        if cycle is not None and cycle.more_body:
            if self.pipeline:
                self.pipeline.popleft()  # the refused request itself, which arrived last
            elif cycle.response_started:
                return
            else:
                self._abandon(cycle)
        if self._answering is not None and not self._answering.response_complete:
            self._final_refusal = reason
        else:
            self._send_final_refusal(reason)

    def _send_final_refusal(self, reason: RefusedError) -> None:
        self.transport.write(self._refusal(reason))
        self.linger()

    def _abandon(self, cycle: RequestResponseCycle) -> None:
        """Stop answering a request and waiting for its body."""
        self._deferred = self._answering = None
        cycle.on_response = _do_nothing  # as uvicorn does once a request is answered: breaks the reference cycle
        cycle.disconnected = True
        cycle.message_event.set()

    def _refusal(self, reason: RefusedError) -> bytes:
        """Return the bytes of a refusal that closes the connection."""
        headers, content = document_of(reason)
        lines = [STATUS_LINE[reason.status]]
        for name, value in (*self.server_state.default_headers, *headers, (b"connection", b"close")):
            lines += (name, b": ", value, b"\r\n")
        return b"".join([*lines, b"\r\n", content])

    def linger(self) -> None:
        """Close the connection, but first read and discard for a moment what the client still sends.

        Closing a socket with unread data resets the connection: the client might never see the answer.
        """
        self._ignores_input = True
        self._connections.enter(self, Phase.DISCARDING)
        self.transport.write_eof()
        self.flow.resume_reading()

    def enter_closing(self) -> None:
        """Only wait until the client has read the last answer."""
        self._connections.enter(self, Phase.CLOSING)

    def is_sending(self) -> bool:
        """Return whether the client may still be sending a request that is answered already."""
        return self._is_in_head or (self.cycle is not None and self.cycle.more_body)

    def _discard(self, byte_count: int) -> None:
        self._discarded_bytes += byte_count
        if self._discarded_bytes > self._connections.limits.max_push:
            self.transport.abort()

    def close_after_answer(self) -> None:
        """Close the connection after the next answer."""
        self._closes_after_answer = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection once all received requests are answered."""
        self.close_after_answer()
        if self.is_idle():
            self.loop.call_later(LINGER_SECONDS, self._close_if_idle)

    def is_idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self) -> None:
        if self.is_idle():
            self.transport.close()


def _malformed(error: httptools.HttpParserError) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, f"This is not an HTTP request: {error}.", "malformed-request")


def _head_too_large(max_bytes: int) -> RefusedError:
    detail = f"The request line and the headers are larger than {max_bytes} bytes."
    return RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail, "head-too-large")


def _head_too_slow() -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_TIMEOUT, "The head of the request did not arrive in time.", "slow-head")


def _extensions_too_large(max_bytes: int) -> RefusedError:
    detail = f"There are {max_bytes} bytes of extensions or trailers without a piece of the body."
    return RefusedError(HTTPStatus.BAD_REQUEST, detail, "malformed-request")


def _too_many_connections() -> RefusedError:
    detail = "The server has no room for more connections. Try again in a moment."
    headers = {"retry-after": "1"}
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "too-many-connections", headers=headers)


class _DirectReply:
    """Sends the answer to one request for which no ASGI task was started."""

    def __init__(self, protocol: CoalescingProtocol, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._protocol = protocol
        self._cycle = cycle
        self._app = app

    def send(self, headers: Sequence[Header], content: bytes) -> bool:
        """Send an answer, as uvicorn would; return ``False`` if the client has disconnected."""
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
        on_response, cycle.on_response = cycle.on_response, _do_nothing  # as uvicorn does: breaks the reference cycle
        on_response()
        return True

    def fall_back(self) -> None:
        """Start an ASGI task, which answers instead."""
        self._protocol._start_asgi_task(self._cycle, self._app)


def _do_nothing() -> None:
    """Do nothing."""


class _CoalescingTransport:
    """A transport that collects writes until the end of the event loop's iteration.

    It is closed only once the client has stopped sending, or has had a moment to do so.
    """

    def __init__(self, transport: asyncio.Transport, protocol: CoalescingProtocol) -> None:
        self._transport = transport
        self._loop = protocol.loop
        self._protocol: CoalescingProtocol | None = protocol
        self._buffer: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        protocol = self._protocol
        return protocol is None or protocol.phase is Phase.DISCARDING or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._buffer:
            self._loop.call_soon(self._flush)
        self._buffer.append(data)

    def close(self) -> None:
        if self._protocol is None or self.is_closing():
            return
        if self._protocol.is_sending():
            self._protocol.linger()
        else:
            self.close_now()

    def close_now(self) -> None:
        """Close without waiting for the client."""
        self._flush()
        if self._protocol is not None:
            self._protocol.enter_closing()
        self._transport.close()

    def write_eof(self) -> None:
        """Send the buffered writes, then the end of the stream."""
        self._flush()
        self._transport.write_eof()

    def release(self) -> None:
        """Drop the protocol, which is not called any more: else each keeps the other in memory."""
        self._protocol = None
        self._buffer.clear()

    def _flush(self) -> None:
        buffer, self._buffer = self._buffer, []
        if buffer:
            self._transport.write(b"".join(buffer))
