"""The hot route, ``POST /v1/features``: plain ASGI, because the cost of a framework would be most of the cost here.

A question with few entities is answered in the event loop, batched with others that have just arrived: that takes less
time than handing it to a thread, as long as the store answers quickly. If the store does not answer in a moment, the
question is asked again in a thread. Questions with many entities, questions with a deadline of their own, and all
questions while the store is slow, are answered in threads at once, so that the others need not wait.

Most questions that are answered in the event loop need no ASGI task either: ``server.protocol`` has them answered
directly. Requests that are refused or fail on the direct path are left to ASGI.
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
from featurestore.server.admission import allowed_seconds, requested_seconds
from featurestore.server.batching import RequestBatcher
from featurestore.server.bodies import decode
from featurestore.server.calls import FEATURES_PATH, Call, Header
from featurestore.server.formats import AnswerFormat, Coding, body_of, compressed, negotiate_format
from featurestore.server.messages import Question, read_question
from featurestore.server.problems import RefusedError, refuse, too_large
from featurestore.server.thread_pool import ThreadPool
from featurestore.store import FeatureStore

ENTITIES_IN_LOOP = 10
"""Questions with up to this many entities are answered in the event loop."""

ENTITIES_PER_BATCH = 32
"""Questions are batched up to this many entities: the event loop does nothing else meanwhile."""

SLOW_SECONDS = 0.05
"""The store may block the event loop this long. After that, this question and the next ones go to threads."""

SLOW_FOR_SECONDS = 2.0
"""How long questions go to threads before one is tried in the event loop again."""

_JSON = b"application/json"
_VARY = (b"vary", b"accept, accept-encoding")
_THREADS = 2
_THREADS_WHEN_SLOW = 16


class _Body(NamedTuple):
    """An encoded answer."""

    content: bytes
    media_type: str
    coding: Coding


class FeaturesRoute:
    """Answers questions for features, in the event loop or in threads."""

    def __init__(self, store: Callable[[], FeatureStore]) -> None:
        """Create the route.

        Args:
            store: Returns the store once the server has started.
        """
        self._store = store
        self._threads = ThreadPool(_THREADS, "features")
        self._slow_threads = ThreadPool(_THREADS_WHEN_SLOW, "features-slow")
        self._slow_until = 0.0
        self._batcher: RequestBatcher[OnlineQuestion, OnlineFeatures | None] = RequestBatcher(
            self._answer_batch, kind=_kind, size=_size, max_size=ENTITIES_PER_BATCH
        )

    @property
    def _limits(self) -> ServerConfig:
        return self._store().config.server

    async def __call__(self, call: Call, content: bytes, send: Send) -> None:
        """Answer one request whose body has arrived; every failure becomes a problem document."""
        call.route = FEATURES_PATH
        try:
            answer_format = _check_head(call)
            body = await self._answer(call, answer_format, content)
            await send({"type": "http.response.start", "status": 200, "headers": _headers(body)})
            await send({"type": "http.response.body", "body": body.content})
        except Exception as error:  # the outermost level: every failure becomes a problem document
            call.code = await refuse(send, error)

    async def _answer(self, call: Call, answer_format: AnswerFormat, content: bytes) -> _Body:
        limits = self._limits
        question = _read(content, limits)
        if call.failure is not None:
            raise call.failure
        online_question = _online_question(call, question, limits)
        is_slow = time.perf_counter() < self._slow_until
        if not is_slow and self._fits_event_loop(call, question):
            result = await self._batcher.ask(online_question)
            if result is not None:
                return _body(call, answer_format, question, result, limits)
            is_slow = True
        threads = self._slow_threads if is_slow else self._threads
        seconds = allowed_seconds(call.headers, limits.deadline_seconds, question.timeout_ms)

        def look_up() -> _Body:
            (result,) = self._store().get_online_features_together([online_question])
            if isinstance(result, Exception):
                raise result
            return _body(call, answer_format, question, result, limits)

        try:
            return await threads.run(call, look_up, seconds=seconds)
        except RefusedError as error:
            if error.status == HTTPStatus.GATEWAY_TIMEOUT and seconds > SLOW_SECONDS:
                self._mark_slow()
            raise

    def answer_directly(
        self,
        call: Call,
        content: bytes,
        respond: Callable[[Sequence[Header], bytes], None],
        fall_back: Callable[[], None],
    ) -> bool:
        """Answer a request without an ASGI task, if it is one that is answered in the event loop.

        Args:
            call: The request.
            content: Its body.
            respond: Receives headers and body of the answer.
            fall_back: Called instead if answering fails; ``call.failure`` has the error for ASGI to report.

        Returns:
            Whether one of the two will be called. If not, ASGI must answer.
        """
        if time.perf_counter() < self._slow_until:
            return False
        limits = self._limits
        try:
            answer_format, question = _check_head(call), _read(content, limits)
            if not self._fits_event_loop(call, question):
                return False
        except Exception:  # ASGI comes to the same error and reports it
            return False
        call.route = FEATURES_PATH

        def receive_answer(result: OnlineFeatures | Exception | None) -> None:
            if isinstance(result, OnlineFeatures):
                try:
                    body = _body(call, answer_format, question, result, limits)
                except Exception as error:  # ASGI reports it
                    call.failure = error
                else:
                    respond(_headers(body), body.content)
                    return
            else:
                call.failure = result
            fall_back()

        self._batcher.submit(_online_question(call, question, limits), receive_answer)
        return True

    def _fits_event_loop(self, call: Call, question: Question) -> bool:
        """Return whether a question may be answered in the event loop."""
        is_small = len(question.entities) <= ENTITIES_IN_LOOP
        return is_small and self._store().keeps_time and requested_seconds(call.headers, question.timeout_ms) is None

    def _answer_batch(self, questions: Sequence[OnlineQuestion]) -> Sequence[OnlineFeatures | Exception | None]:
        """Answer questions in the event loop; ``None`` for those that the store cannot answer quickly enough."""
        with Deadline(SLOW_SECONDS):
            answers = self._store().get_online_features_together(questions)
        if any(_was_slow(answer) for answer in answers):
            self._mark_slow()
        return [None if _must_ask_again(answer) else answer for answer in answers]

    def _mark_slow(self) -> None:
        self._slow_until = time.perf_counter() + SLOW_FOR_SECONDS


def _read(content: bytes, limits: ServerConfig) -> Question:
    """Decode a question and check how many entities it has."""
    question = decode(read_question, content)
    count = len(question.entities)
    if count > limits.max_entities:
        detail = f"There are {count} entities; one request may have {limits.max_entities}. Send several requests."
        raise too_large(detail, field="/entities")
    return question


def _kind(question: OnlineQuestion) -> Hashable:
    """Return what questions must share to be answered by one read of the store and one call of the kernels."""
    return question.service, question.as_of, question.partial


def _size(question: OnlineQuestion) -> int:
    return max(1, len(question.entities))


def _must_ask_again(answer: OnlineFeatures | Exception) -> bool:
    """Return whether a question must be asked again in a thread: the store, or finding the plan, took too long."""
    return isinstance(answer, StorageError) and answer.code in (OUT_OF_TIME, STILL_ASKING)


def _was_slow(answer: OnlineFeatures | Exception) -> bool:
    """Return whether the store blocked the event loop longer than it may."""
    if isinstance(answer, OnlineFeatures):
        return answer.effort.read_seconds > SLOW_SECONDS
    return isinstance(answer, StorageError) and answer.code == OUT_OF_TIME


def _online_question(call: Call, question: Question, limits: ServerConfig) -> OnlineQuestion:
    """Return a question in the form that the library takes."""
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
        takes_live_plan=limits.on_fingerprint_mismatch != "refuse",
    )


def _body(
    call: Call, answer_format: AnswerFormat, question: Question, result: OnlineFeatures, limits: ServerConfig
) -> _Body:
    """Encode an answer, and record it in the request's context."""
    call.answer = result
    if question.expected_fingerprint not in (None, result.fingerprint):
        call.mismatch = result.fingerprint
    content = body_of(
        result,
        answer_format,
        describe=question.describe,
        event_times=question.event_times,
        max_bytes=limits.max_answer,
    )
    if not answer_format.coding or len(content) < limits.compress_from:
        return _Body(content, answer_format.media_type, "")
    return _Body(compressed(content, answer_format.coding), answer_format.media_type, answer_format.coding)


def _check_head(call: Call) -> AnswerFormat:
    """Check the method and the media type; return the format of the answer.

    Raises:
        RefusedError: The request is not a POST (405) of JSON (415), or accepts no format that there is (406).
    """
    if call.method != "POST":
        detail = f"{FEATURES_PATH} takes POST, not {call.method}."
        raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, detail, "method-not-allowed", headers={"allow": "POST"})
    media_type = call.headers.get(b"content-type")
    if media_type is not None and media_type.partition(b";")[0].strip().lower() != _JSON:
        detail = f"The body is {media_type.decode('latin-1')}; send application/json."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")
    return negotiate_format(call.headers.get(b"accept"), call.headers.get(b"accept-encoding"))


def _headers(body: _Body) -> list[Header]:
    headers = [
        (b"content-type", body.media_type.encode()),
        (b"content-length", str(len(body.content)).encode()),
        _VARY,
    ]
    if body.coding:
        headers.append((b"content-encoding", body.coding.encode()))
    return headers
