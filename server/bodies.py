"""Reading request bodies: whole, within a limit of bytes and of time, and as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.types import Message, Receive

from featurestore.server.calls import Call
from featurestore.server.problems import RefusedError, too_large

_CLOSE = {"connection": "close"}
"""Sent when a body was not read to its end: the rest of it must not be read as the next request."""

T = TypeVar("T")


def declared_bytes(call: Call) -> int:
    """Return what the header ``Content-Length`` says; 0 without a readable one."""
    length = call.headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


def require_identity_encoding(call: Call) -> None:
    """Refuse a compressed body.

    Raises:
        RefusedError: The body is compressed (415).
    """
    coding = call.headers.get(b"content-encoding", b"identity").strip().lower()
    if coding != b"identity":
        detail = f"The body has Content-Encoding: {coding.decode('latin-1')}; send it uncompressed."
        headers = {"accept-encoding": "identity", **_CLOSE}
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-encoding", headers=headers)


async def read_body(call: Call, receive: Receive, *, max_bytes: int, seconds: float) -> bytes | None:
    """Read a body; ``None`` if the client has disconnected.

    Args:
        call: The request.
        receive: Returns the pieces of the body.
        max_bytes: Largest body, whatever its header says.
        seconds: How long after the arrival of the request the body must be complete.

    Raises:
        RefusedError: The body is too large (413) or too slow (408).
    """
    if call.has_body:
        return await _read(receive, max_bytes)
    try:
        async with asyncio.timeout(max(0.0, seconds - call.elapsed_seconds())):
            return await _read(receive, max_bytes)
    except TimeoutError:
        detail = f"The body was not complete within {seconds:g} s."
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, detail, "slow-body", headers=_CLOSE) from None


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    body: bytes | bytearray = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        is_complete = not message.get("more_body", False)
        if is_complete and not body:
            body = piece
        else:
            body = body if isinstance(body, bytearray) else bytearray(body)
            body += piece
        if len(body) > max_bytes:
            raise body_too_large(max_bytes)
        if is_complete:
            return bytes(body)


def replaying(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that first returns a body that was read already, and then what else arrives."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def decode(read: Callable[[bytes], T], body: bytes) -> T:
    """Decode a JSON body. Every route that reads JSON reports malformed JSON through this function.

    Args:
        read: A decoder of msgspec.
        body: The body.

    Raises:
        RefusedError: The body is not JSON in UTF-8, or it is nested deeper than any message (400).
        msgspec.ValidationError: The body is JSON of another shape.
    """
    try:
        return read(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {error}.", "malformed-json") from None
    except RecursionError:
        detail = "The body is nested too deeply."
        raise RefusedError(HTTPStatus.BAD_REQUEST, detail, "malformed-json") from None


def body_too_large(max_bytes: int) -> RefusedError:
    """Return the refusal of a body that is too large (413)."""
    return too_large(f"The body is larger than {max_bytes} bytes. Send several requests.", headers=_CLOSE)
