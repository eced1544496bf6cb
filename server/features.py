"""The hot route, ``POST /v1/features``: plain ASGI, because here the cost of a framework is most of the cost.

A question with few entities is answered in the event loop, together with others that have just come: that takes less
time than handing it to a thread, if the store keeps to the time it is given. Should it not answer in a moment, the
question is asked again in a thread. One with many entities, one with a deadline of its own, and all of them while the
store is slow, are answered in threads at once, so that others need not wait.

Of what is answered in the event loop most needs no task of its own either: where our own protocol serves
(``server.gathering``), it is answered directly, and only what is refused, or comes to nothing, is left to ASGI.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from http import HTTPStatus
from typing import NamedTuple

from starlette.types import Send

from featurestore.config import ServerConfig
from featurestore.core.answers import OnlineFeatures, OnlineQuestion
from featurestore.core.errors import StorageError
from featurestore.online.answering.cached_value import STILL_ASKING
from featurestore.online.stores.deadline import OUT_OF_TIME, Deadline
from featurestore.server.bodies import decode
from featurestore.server.calls import Call, Header
from featurestore.server.deadlines import HEADER as DEADLINE_HEADER
from featurestore.server.deadlines import allowed_seconds, asked_seconds
from featurestore.server.forms import Coding, Form, body_of, compressed, form_of
from featurestore.server.messages import Question, read_question
from featurestore.server.problems import RefusedError, refuse, too_large
from featurestore.server.turns import Turns
from featurestore.server.work import Threads
from featurestore.store import FeatureStore

PATH = "/v1/features"

ENTITIES_IN_LOOP = 10
"""Questions with up to so many entities are answered in the event loop."""

ENTITIES_AT_ONCE = 32
"""Questions that come at once are answered together, up to so many entities: the event loop does nothing else then."""

SLOW_SECONDS = 0.05
"""A store may keep the event loop so long; that sends this question and the next ones to threads."""

SLOW_FOR_SECONDS = 2.0
"""For how long; then one is answered in the loop again."""

_JSON = b"application/json"
_DEADLINE = DEADLINE_HEADER.encode()
_VARY = (b"vary", b"accept, accept-encoding")
_THREADS = 2
_THREADS_WHEN_SLOW = 16


class _Body(NamedTuple):
    """An answer as bytes."""

    content: bytes
    media_type: str
    coding: Coding


class FeaturesRoute:
    """The hot route."""

    def __init__(self, store: Callable[[], FeatureStore], limits: Callable[[], ServerConfig]) -> None:
        """Take the parts.

        Args:
            store: Gives the store once the server has started.
            limits: Gives what the server takes, likewise.
        """
        self._store = store
        self._limits = limits
        self._threads = Threads(_THREADS, "features")
        self._slow_threads = Threads(_THREADS_WHEN_SLOW, "features-slow")
        self._slow_until = 0.0
        self._turns: Turns[OnlineQuestion, OnlineFeatures | None] = Turns(
            self._answer_at_once, kind=_kind, size=_size, most=ENTITIES_AT_ONCE
        )

    async def __call__(self, call: Call, content: bytes, send: Send) -> None:
        """Answer one request that has come as a whole; every failure becomes a problem document."""
        call.route = PATH
        try:
            form = _check(call)
            await _send(send, await self._answer(call, form, content))
        except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
            call.code = await refuse(send, error)

    async def _answer(self, call: Call, form: Form, content: bytes) -> _Body:
        limits = self._limits()
        question = _read(content, limits)
        if call.failure is not None:
            raise call.failure
        told = _asking(call, question, limits)
        is_slow = time.perf_counter() < self._slow_until
        if not is_slow and self._is_quick(call, question):
            result = await self._turns.ask(told)
            if result is not None:
                return _body(call, form, question, result, limits)
            is_slow = True
        threads = self._slow_threads if is_slow else self._threads
        seconds = allowed_seconds(call.headers, limits.deadline_seconds, question.timeout_ms)

        def look_up() -> _Body:
            (result,) = self._store().get_online_features_together([told])
            if isinstance(result, Exception):
                raise result
            return _body(call, form, question, result, limits)

        try:
            return await threads.do(call, look_up, seconds=seconds)
        except RefusedError as error:
            if error.status == HTTPStatus.GATEWAY_TIMEOUT and seconds > SLOW_SECONDS:
                self._is_slow()
            raise

    def answer_directly(
        self, call: Call, content: bytes, tell: Callable[[Sequence[Header], bytes], None], give_up: Callable[[], None]
    ) -> bool:
        """Answer a request without being called as ASGI, if it is one of those that are answered in the event loop.

        Whatever it is besides an answer is left to ASGI, which is told by the call what it failed by.

        Args:
            call: The request.
            content: Its body.
            tell: Is told headers and body of the answer.
            give_up: Is called instead if there is no answer.

        Returns:
            Whether one of them will be called.
        """
        if _DEADLINE in call.headers or time.perf_counter() < self._slow_until:
            return False
        limits = self._limits()
        try:
            form, question = _check(call), _read(content, limits)
            if not self._is_quick(call, question):
                return False
        except Exception:  # whoever asks again is told
            return False
        call.route = PATH

        def answered(result: OnlineFeatures | Exception | None) -> None:
            if isinstance(result, OnlineFeatures):
                try:
                    body = _body(call, form, question, result, limits)
                except Exception as error:  # ASGI tells the caller
                    call.failure = error
                else:
                    tell(_headers(body), body.content)
                    return
            else:
                call.failure = result
            give_up()

        self._turns.put(_asking(call, question, limits), answered)
        return True

    def _is_quick(self, call: Call, question: Question) -> bool:
        """Tell whether a question may be answered in the event loop."""
        is_small = len(question.entities) <= ENTITIES_IN_LOOP
        return is_small and self._store().keeps_time and asked_seconds(call.headers, question.timeout_ms) is None

    def _answer_at_once(self, questions: Sequence[OnlineQuestion]) -> Sequence[OnlineFeatures | Exception | None]:
        """Answer in the event loop; ``None`` for those for which the store takes too long for that."""
        with Deadline(SLOW_SECONDS):
            answers = self._store().get_online_features_together(questions)
        if any(_took_long(found) for found in answers):
            self._is_slow()
        return [None if _is_late(found) else found for found in answers]

    def _is_slow(self) -> None:
        self._slow_until = time.perf_counter() + SLOW_FOR_SECONDS


def _read(content: bytes, limits: ServerConfig) -> Question:
    """Read a question."""
    question = decode(read_question, content)
    count, most = len(question.entities), limits.max_entities
    if count > most:
        detail = f"There are {count} entities; one request may have {most}. Send several requests."
        raise too_large(detail, field="/entities")
    return question


def _kind(question: OnlineQuestion) -> Hashable:
    """Return what questions have in common that one read of the store and one call of the kernels can answer."""
    return question.service, question.as_of, question.partial


def _size(question: OnlineQuestion) -> int:
    return max(1, len(question.entities))


def _is_out_of_time(found: OnlineFeatures | Exception) -> bool:
    return isinstance(found, StorageError) and found.code == OUT_OF_TIME


def _is_late(found: OnlineFeatures | Exception) -> bool:
    """Tell whether a question is to be asked again in a thread: the store, or what finds its plan, took too long."""
    return isinstance(found, StorageError) and found.code in (OUT_OF_TIME, STILL_ASKING)


def _took_long(found: OnlineFeatures | Exception) -> bool:
    """Tell whether the store kept the event loop longer than it may."""
    return found.effort.read_seconds > SLOW_SECONDS if isinstance(found, OnlineFeatures) else _is_out_of_time(found)


def _asking(call: Call, question: Question, limits: ServerConfig) -> OnlineQuestion:
    """Return a question as the library is asked."""
    is_strict = limits.on_fingerprint_mismatch == "refuse"
    return OnlineQuestion(
        question.service,
        question.entities,
        question.request,
        question.as_of,
        question.expected_fingerprint,
        call.request_id,
        question.partial,
        question.model,
        question.model_version,
        takes_live_plan=not is_strict,
    )


def _body(call: Call, form: Form, question: Question, result: OnlineFeatures, limits: ServerConfig) -> _Body:
    """Return an answer as bytes."""
    call.answer = result
    if question.expected_fingerprint not in (None, result.fingerprint):
        call.mismatch = result.fingerprint
    content = body_of(
        result, form, describe=question.describe, event_times=question.event_times, most=limits.max_answer
    )
    if not form.coding or len(content) < limits.compress_from:
        return _Body(content, form.media_type, "")
    return _Body(compressed(content, form.coding), form.media_type, form.coding)


def _check(call: Call) -> Form:
    """Refuse what is no POST of JSON, or wants no form there is."""
    if call.method != "POST":
        detail = f"{PATH} takes POST, not {call.method}."
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, detail, "method-not-allowed", headers={"allow": "POST"})
    kind = call.headers.get(b"content-type")
    if kind is not None and kind.partition(b";")[0].strip().lower() != _JSON:
        detail = f"The body is {kind.decode('latin-1')}; send application/json."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")
    return form_of(call.headers.get(b"accept"), call.headers.get(b"accept-encoding"))


async def _send(send: Send, body: _Body) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _headers(body)})
    await send({"type": "http.response.body", "body": body.content})


def _headers(body: _Body) -> list[Header]:
    headers = [
        (b"content-type", body.media_type.encode()),
        (b"content-length", str(len(body.content)).encode()),
        _VARY,
    ]
    if body.coding:
        headers.append((b"content-encoding", body.coding.encode()))
    return headers
