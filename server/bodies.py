"""Reading request bodies: whole, within a bound of bytes and of time, and as JSON."""

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
"""Said where a body was not read to its end: what still comes of it is no next request."""

T = TypeVar("T")


async def read_body(call: Call, receive: Receive, *, most: int, seconds: float) -> bytes | None:
    """Read a body; ``None`` if the caller went away.

    Args:
        call: The request.
        receive: Gives the pieces of the body.
        most: Bytes it may have, whatever its header says.
        seconds: How long after the request's beginning it must be complete.

    Raises:
        RefusedError: It is too large (413), too slow (408), or compressed (415).
    """
    coding = call.headers.get(b"content-encoding", b"identity").strip().lower()
    if coding != b"identity":
        detail = f"The body has Content-Encoding: {coding.decode('latin-1')}; send it as it is."
        headers = {"accept-encoding": "identity", **_CLOSE}
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-encoding", headers=headers)
    length = call.headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > most:
        raise _too_long(most)
    if call.has_body:
        return await _read(receive, most)
    try:
        async with asyncio.timeout(max(0.0, seconds - call.elapsed_seconds())):
            return await _read(receive, most)
    except TimeoutError:
        detail = f"The body was not complete within {seconds:g} s."
        raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, detail, "slow-body", headers=_CLOSE) from None


async def _read(receive: Receive, most: int) -> bytes | None:
    body: bytes | bytearray = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        is_whole = not message.get("more_body", False)
        if is_whole and not body:
            body = piece
        else:
            body = body if isinstance(body, bytearray) else bytearray(body)
            body += piece
        if len(body) > most:
            raise _too_long(most)
        if is_whole:
            return bytes(body)


def giving(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read already, and then what else comes."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def given() -> Message:
        return waiting.pop() if waiting else await receive()

    return given


def decode(read: Callable[[bytes], T], body: bytes) -> T:
    """Read a body as JSON of some shape: the only place where it is told what is none.

    Args:
        read: A decoder of msgspec.
        body: The body.

    Raises:
        RefusedError: It is no JSON in UTF-8, or nested deeper than anything that could be meant (400).
        msgspec.ValidationError: It is JSON of another shape.
    """
    try:
        return read(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"The body is not JSON: {error}.", "malformed-json") from None
    except RecursionError:
        raise too_deep() from None


def too_deep() -> RefusedError:
    """Return the refusal of JSON that is nested too deeply to be worked on."""
    return RefusedError(HTTPStatus.BAD_REQUEST, "The body is nested too deeply.", "malformed-json")


def _too_long(most: int) -> RefusedError:
    detail = f"The body is larger than {most} bytes. Send several requests."
    return too_large(detail, headers=_CLOSE)
