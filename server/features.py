"""The hot route, ``POST /v1/features``: plain ASGI, because here the cost of a framework is most of the cost.

A question with few entities is answered in the event loop, where it takes less time than handing it to a thread; one
with many is answered in a thread, so that others need not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from starlette.types import Receive, Scope, Send

from featurestore.config import ServerConfig
from featurestore.store import FeatureStore
from server.messages import Question, read_question, reply, to_bytes
from server.problems import MEDIA_TYPE, RefusedError, encode, problem_of, too_large

PATH = "/v1/features"

ENTITIES_IN_LOOP = 10
"""Questions with up to so many entities are answered in the event loop."""

_JSON = b"application/json"


class FeaturesRoute:
    """The ASGI application of the hot route."""

    def __init__(self, store: Callable[[], FeatureStore], limits: Callable[[], ServerConfig]) -> None:
        """Take the parts.

        Args:
            store: Gives the store once the server has started.
            limits: Gives what the server takes, likewise.
        """
        self._store = store
        self._limits = limits
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="features")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure becomes a problem document."""
        try:
            _check(scope)
            body = await _read(scope, receive, self._limits().max_body)
            if body is None:
                return
            await _send(send, HTTPStatus.OK, _JSON, await self._answer(body))
        except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
            problem = problem_of(error)
            await _send(send, problem.status, MEDIA_TYPE.encode(), encode(problem))

    def close(self) -> None:
        """Wait for questions in threads."""
        self._pool.shutdown()

    async def _answer(self, body: bytes) -> bytes:
        question = read_question(body)
        count, most = len(question.entities), self._limits().max_entities
        if count > most:
            detail = f"There are {count} entities; one request may have {most}. Send several requests."
            raise too_large(detail, field="/entities")
        if count <= ENTITIES_IN_LOOP:
            return self._look_up(question)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._look_up, question)

    def _look_up(self, question: Question) -> bytes:
        result = self._store().get_online_features(
            question.service,
            question.entities,
            request=question.request,
            as_of=question.as_of,
            expected_fingerprint=question.expected_fingerprint,
        )
        return to_bytes(reply(result, describe=question.describe))


def _check(scope: Scope) -> None:
    """Refuse what is no POST of JSON before its body is read."""
    if scope["method"] != "POST":
        detail = f"{PATH} takes POST, not {scope['method']}."
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, detail, "method-not-allowed")
    kind = _header(scope, b"content-type")
    if kind is not None and kind.partition(b";")[0].strip().lower() != _JSON:
        detail = f"The body is {kind.decode('latin-1')}; send application/json."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")


async def _read(scope: Scope, receive: Receive, most: int) -> bytes | None:
    """Read the body; ``None`` if the caller went away.

    Raises:
        RefusedError: It is larger than the server takes, whatever its header says.
    """
    length = _header(scope, b"content-length")
    refusal = too_large(f"The body is larger than {most} bytes. Send several requests.")
    if length is not None and length.isdigit() and int(length) > most:
        raise refusal
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise refusal
        if not message.get("more_body", False):
            return body


def _header(scope: Scope, name: bytes) -> bytes | None:
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    return next((value for key, value in headers if key == name), None)


async def _send(send: Send, status: int, media_type: bytes, body: bytes) -> None:
    headers = [(b"content-type", media_type), (b"content-length", str(len(body)).encode())]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", b"POST"))
    start: dict[str, Any] = {"type": "http.response.start", "status": int(status), "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})
