"""The hot route, ``POST /v1/features``: plain ASGI, because here the cost of a framework is most of the cost.

A question with few entities is answered in the event loop, where it takes less time than handing it to a thread; one
with many, one with a deadline of its own, and all of them while the store is slow, are answered in threads, so that
others need not wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

from featurestore.config import ServerConfig
from featurestore.store import FeatureStore
from server.calls import Call, call_of
from server.deadlines import asked_seconds, too_late
from server.forms import Coding, Form, body_of, compressed, form_of
from server.messages import Question, read_question
from server.problems import RefusedError, refuse, too_large

PATH = "/v1/features"

ENTITIES_IN_LOOP = 10
"""Questions with up to so many entities are answered in the event loop."""

SLOW_SECONDS = 0.05
"""An answer that kept the event loop so long sends the next ones to threads."""

SLOW_FOR_SECONDS = 2.0
"""For how long; then one is answered in the loop again."""

_JSON = b"application/json"
_THREADS = 2
_THREADS_WHEN_SLOW = 16


class _Body(NamedTuple):
    """An answer as bytes."""

    content: bytes
    media_type: str
    coding: Coding


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
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="features")
        self._slow_pool = ThreadPoolExecutor(_THREADS_WHEN_SLOW, thread_name_prefix="features-slow")
        self._slow_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure becomes a problem document."""
        call = call_of(scope)
        call.route = PATH
        try:
            form = _check(call)
            content = await _read(call, receive, self._limits().max_body)
            if content is None:
                return
            await _send(send, await self._answer(call, form, content))
        except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
            call.code = await refuse(send, error)

    def close(self) -> None:
        """Wait for questions in threads."""
        self._pool.shutdown()
        self._slow_pool.shutdown()

    async def _answer(self, call: Call, form: Form, content: bytes) -> _Body:
        question = read_question(content)
        limits = self._limits()
        count, most = len(question.entities), limits.max_entities
        if count > most:
            detail = f"There are {count} entities; one request may have {most}. Send several requests."
            raise too_large(detail, field="/entities")
        asked = asked_seconds(call.headers, question.timeout_ms)
        now = time.perf_counter()
        is_slow = now < self._slow_until
        if asked is None and count <= ENTITIES_IN_LOOP and not is_slow:
            body = self._look_up(call, form, question)
            if time.perf_counter() - now > SLOW_SECONDS:
                self._slow_until = now + SLOW_FOR_SECONDS
            return body
        pool = self._slow_pool if is_slow else self._pool
        answering = asyncio.get_running_loop().run_in_executor(pool, self._look_up, call, form, question)
        seconds = limits.deadline_seconds if asked is None else min(asked, limits.deadline_seconds)
        try:
            return await asyncio.wait_for(answering, max(0.0, seconds - call.elapsed_seconds()))
        except TimeoutError:
            self._slow_until = time.perf_counter() + (SLOW_FOR_SECONDS if seconds > SLOW_SECONDS else 0.0)
            raise too_late(seconds) from None

    def _look_up(self, call: Call, form: Form, question: Question) -> _Body:
        is_strict = self._limits().on_fingerprint_mismatch == "refuse"
        result = self._store().get_online_features(
            question.service,
            question.entities,
            request=question.request,
            as_of=question.as_of,
            expected_fingerprint=question.expected_fingerprint if is_strict else None,
            request_id=call.request_id,
            partial=question.partial,
            model=question.model,
            model_version=question.model_version,
        )
        call.answer = result
        if question.expected_fingerprint not in (None, result.fingerprint):
            call.mismatch = result.fingerprint
        content = body_of(result, form, describe=question.describe, event_times=question.event_times)
        if not form.coding or len(content) < self._limits().compress_from:
            return _Body(content, form.media_type, "")
        return _Body(compressed(content, form.coding), form.media_type, form.coding)


def _check(call: Call) -> Form:
    """Refuse what is no POST of JSON, or wants no form there is, before its body is read."""
    if call.method != "POST":
        detail = f"{PATH} takes POST, not {call.method}."
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, detail, "method-not-allowed", headers={"allow": "POST"})
    kind = call.headers.get(b"content-type")
    if kind is not None and kind.partition(b";")[0].strip().lower() != _JSON:
        detail = f"The body is {kind.decode('latin-1')}; send application/json."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")
    return form_of(call.headers.get(b"accept"), call.headers.get(b"accept-encoding"))


async def _read(call: Call, receive: Receive, most: int) -> bytes | None:
    """Read the body; ``None`` if the caller went away.

    Raises:
        RefusedError: It is larger than the server takes, whatever its header says.
    """
    length = call.headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length) > most:
        raise _too_long(most)
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_long(most)
        if not message.get("more_body", False):
            return body


def _too_long(most: int) -> RefusedError:
    return too_large(f"The body is larger than {most} bytes. Send several requests.")


async def _send(send: Send, body: _Body) -> None:
    headers = [
        (b"content-type", body.media_type.encode()),
        (b"content-length", str(len(body.content)).encode()),
    ]
    if body.coding:
        headers += [(b"content-encoding", body.coding.encode()), (b"vary", b"accept-encoding")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body.content})
