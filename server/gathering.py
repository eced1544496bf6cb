"""Our protocol on top of uvicorn's: what it does beside that.

An answer's head and body are written to the socket at once; ordinary questions are answered without a task of ASGI;
what is on its way is not broken off when the server ends; heads are bounded; requests that offer another protocol are
answered in this one; what is not HTTP is answered with a problem document. ``server.connections`` says how long a
connection may wait.

Of uvicorn's internals only this module knows; ``pyproject.toml`` holds uvicorn below its next minor version.
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
"""A server that ends keeps idle connections for so long: requests that were sent to it already are answered."""


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which writes head and body one after the other: here they leave in one piece.

    Each write is a system call that wakes the caller, who cannot do anything with a head alone.

    When the server ends, uvicorn closes idle connections at once, also those on which a request lies unread; its caller
    sees the connection break. Here such a request is answered, and the caller told to come no more on this connection.

    Attributes:
        phase: What the connection waits for.
    """

    transport: _Gathering  # type: ignore[assignment]

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        """Take what all connections share, and uvicorn's own arguments."""
        super().__init__(**arguments)
        self.phase = Phase.OPENED
        self._connections = connections
        self._max_head = connections.limits.max_head
        self._is_ending = False
        self._is_feeding = False
        self._is_deaf = False
        self._is_in_head = False
        self._keeps_alive = False
        self._held: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._answering: RequestResponseCycle | None = None
        self._last_word: RefusedError | None = None
        self._plain_head: bytes | None = None
        self._piece_bytes = 0
        self._head_bytes = 0
        self._idle_bytes = 0
        self._discarded_bytes = 0
        self._heard_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(_Gathering(transport, self))  # type: ignore[arg-type]
        self._connections.add(self)
        if self._connections.is_draining:
            self._is_ending = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._connections.remove(self)
        super().connection_lost(exc)
        self.transport.release()

    def data_received(self, data: bytes) -> None:
        """Take what has come. A request that comes as a whole may be answered without a task of its own."""
        if self._is_deaf:
            self._discard(len(data))
            return
        self._is_feeding = True
        rest: bytes | None = data
        try:
            while rest is not None:
                rest = self._fed(rest)
        finally:
            self._is_feeding = False
        held, self._held = self._held, None
        if held is not None and not self._answers_directly(*held):
            super()._start_asgi_task(*held)
        if self._is_in_head or self.phase is not Phase.SERVED or self.cycle.more_body:
            self._note_phase()

    def _fed(self, data: bytes) -> bytes | None:
        """Parse some bytes; return what is to be parsed yet.

        An offer to go on in another protocol is ignored, as RFC 9110 has it (7.8). The parser takes what follows such a
        head for that protocol, body and all; so the head is given to a new parser once more, without its offer.
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
                self._refuse(_head_too_large(self._max_head) if self._is_in_head else _no_body_in(self._max_head))
        return None

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = self._piece_bytes  # at most: it may have begun anywhere in this piece

    def on_headers_complete(self) -> None:
        """Begin a request.

        Raises:
            RefusedError: Its head is too large (431), or it wants a tunnel (405). The parser wraps it.
        """
        self._is_in_head = False
        self._idle_bytes = 0
        if self._head_bytes > self._max_head and self._exact_head_bytes() > self._max_head:
            raise _head_too_large(self._max_head)
        if self.parser.should_upgrade():
            self._plain_head = self._head_without_upgrade()
            return
        super().on_headers_complete()
        self.headers = []  # what follows the body (trailers) is no part of the head
        self._keeps_alive = self.cycle.keep_alive
        self.cycle.keep_alive = False  # whoever is answered before the body has come is not asked for more of it

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._idle_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of a request's body: mostly that is before its answering begins."""
        self._idle_bytes = 0
        if self._plain_head is not None:
            return
        super().on_message_complete()
        self.scope["extensions"] = _WITH_BODY
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive and not self._is_ending

    def on_response_complete(self) -> None:
        """Go on with the next request, as uvicorn does; how long it is waited for is not for a timer of our own."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last_word is not None:
            self._say_last(self._last_word)
        elif self._is_in_head or self.phase is not Phase.SERVED:
            self._note_phase()
        else:
            self._connections.served(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        if self._is_feeding:  # the body may come yet, with the same data
            self._held = cycle, app
        else:
            super()._start_asgi_task(cycle, app)

    def _answers_directly(self, cycle: RequestResponseCycle, app: ASGI3Application) -> bool:
        """Have a request answered without ASGI, if it has come as a whole, and its caller takes what he is sent."""
        answer_directly = getattr(app, "answer_directly", None)
        if answer_directly is None or cycle.more_body or cycle.access_log or self.flow.write_paused:
            return False
        return bool(answer_directly(cycle.scope, cycle.body, _Reply(self, cycle, app)))

    def _exact_head_bytes(self) -> int:
        """Return how large the head is, but for the method and the version."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_without_upgrade(self) -> bytes:
        """Return the head as it is without the offer of another protocol.

        Raises:
            RefusedError: It asks for a tunnel (CONNECT), which is nothing that could be left out.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "This server is no proxy.", "method-not-allowed")
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _note_phase(self) -> None:
        if self._is_in_head:
            self._heard_at = self.loop.time()
        phase = self._phase()
        if phase is not self.phase:
            self._connections.enter(self, phase)

    def _phase(self) -> Phase:
        if self._is_deaf or self.phase is Phase.CLOSING:
            return self.phase
        if self.cycle is None:
            return Phase.OPENED
        if self.is_idle():
            return Phase.HEAD if self._is_in_head else Phase.SERVED
        return Phase.BODY if self.cycle.more_body and not self.pipeline else Phase.SERVED

    def expire(self) -> None:
        """End the wait that took too long."""
        match self.phase:
            case Phase.OPENED | Phase.HEAD if self._is_in_head and self._still_sends():
                self._refuse(_head_too_slow())
            case Phase.OPENED | Phase.HEAD:
                self.transport.close()
            case Phase.SERVED if self.is_idle() and self.transport.get_write_buffer_size() == 0:
                self.transport.close()
            case Phase.SERVED if self.is_idle() or self.flow.write_paused:  # the caller does not take what he is sent
                self.transport.abort()
            case Phase.CLOSING | Phase.DISCARDING:
                self.transport.abort()
            case Phase.SERVED | Phase.BODY:
                pass

    def _still_sends(self) -> bool:
        """Tell whether a part of the head has come lately: who has fallen silent in it waits for no answer."""
        return self.loop.time() - self._heard_at < self._connections.head_seconds / 2

    def give_way(self) -> None:
        """Close the connection at once in favour of another caller, with a refusal if a request was on its way."""
        if self._is_deaf or self.transport.is_closing():
            self.transport.abort()
            return
        is_started = self.phase is Phase.BODY and self.cycle.response_started
        if self.phase is not Phase.SERVED and not is_started:
            self.transport.write(self._refusal(_too_many_connections()))
        self._is_deaf = True
        self.transport.close_now()

    def _refuse(self, reason: RefusedError) -> None:
        """Refuse what is no request, or none that is taken, and listen to this connection no longer.

        Requests that came before it are answered first, and it is refused in its turn.
        """
        _LOGGER.warning("a request was refused: %s [%s]", reason.detail, reason.code)
        self._is_deaf = True
        cycle = self.cycle
        if cycle is not None and cycle.more_body:
            if self.pipeline:
                self.pipeline.popleft()  # the request itself, which came last
            elif cycle.response_started:
                return
            else:
                self._abandon(cycle)
        if self._answering is not None and not self._answering.response_complete:
            self._last_word = reason
        else:
            self._say_last(reason)

    def _say_last(self, reason: RefusedError) -> None:
        self.transport.write(self._refusal(reason))
        self.linger()

    def _abandon(self, cycle: RequestResponseCycle) -> None:
        """Let nobody answer a request any more, or wait for its body."""
        self._held = self._answering = None
        cycle.on_response = _do_nothing  # as uvicorn does once a request is answered: it leads back to us
        cycle.disconnected = True
        cycle.message_event.set()

    def _refusal(self, reason: RefusedError) -> bytes:
        """Return an answer that refuses, after which the connection is closed."""
        headers, content = document_of(reason)
        lines = [STATUS_LINE[reason.status]]
        for name, value in (*self.server_state.default_headers, *headers, (b"connection", b"close")):
            lines += (name, b": ", value, b"\r\n")
        return b"".join([*lines, b"\r\n", content])

    def linger(self) -> None:
        """Close the connection, but read and throw away for a moment what the caller still sends.

        To close a socket on which something lies unread resets the connection: the caller might never see the answer.
        """
        self._is_deaf = True
        self._connections.enter(self, Phase.DISCARDING)
        self.transport.write_eof()
        self.flow.resume_reading()

    def enter_closing(self) -> None:
        """Wait for nothing but that the caller takes the last answer."""
        self._connections.enter(self, Phase.CLOSING)

    def is_sending(self) -> bool:
        """Tell whether the caller may still be sending a request that is answered already."""
        return self._is_in_head or (self.cycle is not None and self.cycle.more_body)

    def _discard(self, byte_count: int) -> None:
        self._discarded_bytes += byte_count
        if self._discarded_bytes > self._connections.limits.max_push:
            self.transport.abort()

    def close_after_answer(self) -> None:
        """Let the next answer close the connection."""
        self._is_ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """End the connection once what is on its way is answered."""
        self.close_after_answer()
        if self.is_idle():
            self.loop.call_later(LINGER_SECONDS, self._end_if_idle)

    def is_idle(self) -> bool:
        """Tell whether nothing is to be answered."""
        return self.cycle is None or self.cycle.response_complete

    def _end_if_idle(self) -> None:
        if self.is_idle():
            self.transport.close()


def _malformed(error: httptools.HttpParserError) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, f"This is no HTTP request: {error}.", "malformed-request")


def _head_too_large(most: int) -> RefusedError:
    detail = f"The request line and the headers are larger than {most} bytes."
    return RefusedError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail, "head-too-large")


def _head_too_slow() -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_TIMEOUT, "The request's head did not come in time.", "slow-head")


def _no_body_in(most: int) -> RefusedError:
    detail = f"There are {most} bytes of extensions or trailers without a piece of the body."
    return RefusedError(HTTPStatus.BAD_REQUEST, detail, "malformed-request")


def _too_many_connections() -> RefusedError:
    detail = "There are more connections than the server takes. Ask again in a moment."
    headers = {"retry-after": "1"}
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "too-many-connections", headers=headers)


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
    """A transport that keeps what is written until the event loop's turn ends.

    It is closed only once the caller has stopped sending, or for a moment had the chance to.
    """

    def __init__(self, transport: asyncio.Transport, protocol: GatheringProtocol) -> None:
        self._transport = transport
        self._loop = protocol.loop
        self._protocol: GatheringProtocol | None = protocol
        self._kept: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        protocol = self._protocol
        return protocol is None or protocol.phase is Phase.DISCARDING or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        if not self._kept:
            self._loop.call_soon(self._flush)
        self._kept.append(data)

    def close(self) -> None:
        if self._protocol is None or self.is_closing():
            return
        if self._protocol.is_sending():
            self._protocol.linger()
        else:
            self.close_now()

    def close_now(self) -> None:
        """Close without waiting for the caller."""
        self._flush()
        if self._protocol is not None:
            self._protocol.enter_closing()
        self._transport.close()

    def write_eof(self) -> None:
        """Send what is kept, and that nothing follows."""
        self._flush()
        self._transport.write_eof()

    def release(self) -> None:
        """Forget the protocol, which is not called any more: each would keep the other in memory."""
        self._protocol = None
        self._kept.clear()

    def _flush(self) -> None:
        kept, self._kept = self._kept, []
        if kept:
            self._transport.write(b"".join(kept))
