"""What a client does, without doing it: each call is a generator that says what to send and how long to wait.

A driver sends and waits, with or without ``await``, and hands back what was answered. So the clients for threads and
for event loops share everything but their few lines of driving.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from featurestore.client import messages
from featurestore.client.messages import Health, ServiceInfo
from featurestore.client.problems import error_of
from featurestore.client.retries import Retries
from featurestore.core.answers import OnlineFeatures, PushResult
from featurestore.core.errors import RequestError, ServerError, UnreachableError
from featurestore.core.request_ids import is_request_id

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"


@dataclass(frozen=True)
class Sending:
    """A request to be sent.

    Attributes:
        method: ``GET`` or ``POST``.
        path: Below the server's address, with a leading slash.
        timeout_seconds: How long its answer may take.
        content: Its body, if it has one.
        media_type: What the body is.
        headers: What else is said of it.
    """

    method: str
    path: str
    timeout_seconds: float
    content: bytes | None = None
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Waiting:
    """A pause before the next request."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status.
        body: Its content, decompressed.
        retry_after: The header of that name; ``None`` if there is none.
    """

    status: int
    body: bytes
    retry_after: str | None = None


_OUTCOME_UNKNOWN = "push-outcome-unknown"
"""Code of a server's answer that does not know whether events were committed."""

T = TypeVar("T")

Steps: TypeAlias = Generator[Sending | Waiting, Answer | None, T]
"""A call: it is sent the answer to each ``Sending`` and ``None`` after each ``Waiting``, and returns its result."""


@dataclass(frozen=True)
class Calls:
    """Makes the calls of one client.

    Attributes:
        timeout_seconds: Time of a call, repetitions and pauses included, if the caller names no other.
        retries: When a request is repeated.
        pins: By service the plan that every answer must be of.
    """

    timeout_seconds: float
    retries: Retries
    pins: Mapping[str, str] = field(default_factory=dict)

    def features(
        self,
        service: str,
        entities: Sequence[Mapping[str, Any]],
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None,
        as_of: datetime | str | None,
        timeout: float | None,
        request_id: str | None,
        **options: Any,
    ) -> Steps[OnlineFeatures]:
        """Ask for features."""
        if request_id is not None and not is_request_id(request_id):
            raise RequestError(
                f"{request_id[:200]!r} cannot name a request",
                hint="Use up to 128 letters, digits and ._:- without spaces.",
                code="request-id",
            )
        options["expected_fingerprint"] = options.get("expected_fingerprint") or self.pins.get(service)
        question = messages.write_question(service, entities, request, as_of, options)
        headers = {} if request_id is None else {"X-Request-Id": request_id}
        body = yield from self._ask("POST", "/v1/features", timeout, question, headers=headers)
        return _read(lambda: messages.read_features(body, question))

    def services(self, timeout: float | None) -> Steps[tuple[ServiceInfo, ...]]:
        """Ask which services there are."""
        body = yield from self._ask("GET", "/v1/services", timeout)
        return _read(lambda: messages.read_services(body))

    def push(
        self, source: str, events: Any, partial: bool, timeout: float | None, idempotency_key: str | None = None
    ) -> Steps[PushResult]:
        """Hand over events; each push has an idempotency key, so that repeating it counts nothing twice."""
        path = f"/v1/sources/{quote(source, safe='')}/events" + ("?partial=true" if partial else "")
        if isinstance(events, Sequence) and not isinstance(events, str | bytes):
            content, media_type = messages.write_events(events), JSON
        elif hasattr(events, "__arrow_c_stream__"):
            content, media_type = _arrow_stream(events), ARROW_STREAM
        else:
            raise RequestError(
                f"got {type(events).__name__}, expected events",
                field="/events",
                hint="Give a list of mappings, or what offers an Arrow stream: a pyarrow, pandas or Polars table.",
            )
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = yield from self._ask("POST", path, timeout, content, media_type, headers, is_named=True)
        return _read(lambda: messages.read_pushed(source, body))

    def health(self, timeout: float | None) -> Steps[Health]:
        """Ask whether every service can be answered; a server that is not ready is asked no second time."""
        allowed = self.timeout_seconds if timeout is None else timeout
        answer = yield Sending("GET", "/readyz", allowed)
        assert answer is not None
        if answer.status == HTTPStatus.OK:
            return Health(is_ready=True)
        error = error_of(answer.status, answer.body)
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE and error.code != "no-problem-document":
            return Health(is_ready=False, problem=error.problem)
        raise error

    def _ask(
        self,
        method: str,
        path: str,
        timeout: float | None,
        content: bytes | None = None,
        media_type: str = JSON,
        headers: Mapping[str, str] = MappingProxyType({}),
        *,
        is_named: bool = False,
    ) -> Steps[bytes]:
        """Send a request until it is answered other than by 503, or time or repetitions are used up.

        A request that is named by an idempotency key is also repeated if the server does not know whether it was done.
        The server is told how long a call may take if its caller said so: what is of no use any more it need not do.
        """
        deadline = time.monotonic() + (self.timeout_seconds if timeout is None else timeout)
        repeated = 0
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            told = {} if timeout is None else {"X-Deadline-Ms": str(max(1, int(left * 1_000)))}
            answer = yield Sending(method, path, left, content, media_type, {**headers, **told})
            assert answer is not None
            if answer.status == HTTPStatus.OK:
                return answer.body
            error = error_of(answer.status, answer.body)
            wait = None
            if answer.status == HTTPStatus.SERVICE_UNAVAILABLE or (is_named and error.code == _OUTCOME_UNKNOWN):
                wait = self.retries.wait_seconds(repeated, answer.retry_after, deadline - time.monotonic())
            if wait is None:
                raise error
            yield Waiting(wait)
            repeated += 1


def unreachable(address: str, error: Exception, *, is_timeout: bool) -> UnreachableError:
    """Return the error of a request that was not answered.

    Args:
        address: The server's address.
        error: What happened.
        is_timeout: Whether the caller's time was used up.
    """
    if is_timeout:
        return UnreachableError(
            f"{address} did not answer in time", hint="Allow more time, or ask for fewer entities.", code="timeout"
        )
    return UnreachableError(
        f"{address} cannot be reached ({error})" if str(error) else f"{address} cannot be reached",
        hint="Is the server running, and is this its address?",
    )


def _read(read: Callable[[], T]) -> T:
    """Read an answer; one that is no answer is the server's failure."""
    try:
        return read()
    except (ValueError, LookupError, TypeError) as error:
        raise ServerError(
            f"its answer cannot be read: {error!r}",
            status=int(HTTPStatus.OK),
            hint="Is this the address of a feature server, of a version that this client knows?",
            code="unreadable-answer",
        ) from error


def _arrow_stream(events: Any) -> bytes:
    """Return a table as an Arrow IPC stream in few batches: each costs the server as much as many rows."""
    import pyarrow as pa

    reader = pa.RecordBatchReader.from_stream(events)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, reader.schema) as writer:
        writer.write_table(reader.read_all().combine_chunks())
    return bytes(sink.getvalue())
