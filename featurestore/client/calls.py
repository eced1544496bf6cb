"""The calls of a client without I/O: each is a generator that yields the requests to send and the pauses to make.

A driver sends and waits, with or without ``await``, and returns the responses to the generator. So the synchronous and
the asynchronous client share everything but their few lines of I/O.
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
class SendRequest:
    """A step of a call: send a request.

    Attributes:
        method: ``GET`` or ``POST``.
        path: Below the server's address, with a leading slash.
        timeout_seconds: How long the response may take.
        content: The body, if there is one.
        media_type: Media type of the body.
        headers: Further headers.
    """

    method: str
    path: str
    timeout_seconds: float
    content: bytes | None = None
    media_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Wait:
    """A step of a call: wait before the next request."""

    seconds: float


@dataclass(frozen=True)
class Response:
    """A response of the server.

    Attributes:
        status: HTTP status.
        body: The body, decompressed.
        retry_after: The header ``Retry-After``; ``None`` if there is none.
    """

    status: int
    body: bytes
    retry_after: str | None = None


_OUTCOME_UNKNOWN = "push-outcome-unknown"
"""Code of the problem that it is unknown whether events were committed."""

T = TypeVar("T")

Steps: TypeAlias = Generator[SendRequest | Wait, Response | None, T]
"""A call. It receives the response to each ``SendRequest`` and ``None`` after each ``Wait``, and returns its result."""


@dataclass(frozen=True)
class Calls:
    """Creates the calls of one client.

    Attributes:
        timeout_seconds: Timeout of a call, retries and pauses included, unless the call has its own.
        retries: When a request is retried.
        pins: For each service the fingerprint of the plan that must answer.
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
        """Look features up."""
        if request_id is not None and not is_request_id(request_id):
            raise RequestError(
                f"{request_id[:200]!r} is not a valid request id",
                hint="Use up to 128 letters, digits and ._:- without spaces.",
                code="request-id",
            )
        options["expected_fingerprint"] = options.get("expected_fingerprint") or self.pins.get(service)
        question = messages.write_question(service, entities, request, as_of, options)
        headers = {} if request_id is None else {"X-Request-Id": request_id}
        body = yield from self._ask("POST", "/v1/features", timeout, question, headers=headers)
        return _read(lambda: messages.read_features(body, question))

    def services(self, timeout: float | None) -> Steps[tuple[ServiceInfo, ...]]:
        """List the services."""
        body = yield from self._ask("GET", "/v1/services", timeout)
        return _read(lambda: messages.read_services(body))

    def push(
        self, source: str, events: Any, partial: bool, timeout: float | None, idempotency_key: str | None = None
    ) -> Steps[PushResult]:
        """Push events; each push has an idempotency key, so that a retry counts nothing twice."""
        path = f"/v1/sources/{quote(source, safe='')}/events" + ("?partial=true" if partial else "")
        if isinstance(events, Sequence) and not isinstance(events, str | bytes):
            content, media_type = messages.write_events(events), JSON
        elif hasattr(events, "__arrow_c_stream__"):
            content, media_type = _arrow_stream(events), ARROW_STREAM
        else:
            raise RequestError(
                f"got {type(events).__name__}, expected events",
                field="/events",
                hint="Give a list of mappings, or a pyarrow, pandas or Polars table.",
            )
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = yield from self._ask("POST", path, timeout, content, media_type, headers, is_idempotent_push=True)
        return _read(lambda: messages.read_pushed(source, body))

    def health(self, timeout: float | None) -> Steps[Health]:
        """Check whether every service can be answered; this request is never retried."""
        allowed = self.timeout_seconds if timeout is None else timeout
        response = yield SendRequest("GET", "/readyz", allowed)
        assert response is not None
        if response.status == HTTPStatus.OK:
            return Health(is_ready=True)
        error = error_of(response.status, response.body)
        if response.status == HTTPStatus.SERVICE_UNAVAILABLE and error.code != "no-problem-document":
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
        is_idempotent_push: bool = False,
    ) -> Steps[bytes]:
        """Send a request, and retry it while the answer is 503 and time and retries are left.

        A push with an idempotency key is also retried if it is unknown whether it was committed. If the caller has set
        a timeout, the server receives it as a deadline, so that it can give up in time.
        """
        deadline = time.monotonic() + (self.timeout_seconds if timeout is None else timeout)
        retry_count = 0
        while True:
            left = max(deadline - time.monotonic(), 0.001)
            deadline_header = {} if timeout is None else {"X-Deadline-Ms": str(max(1, int(left * 1_000)))}
            response = yield SendRequest(method, path, left, content, media_type, {**headers, **deadline_header})
            assert response is not None
            if response.status == HTTPStatus.OK:
                return response.body
            error = error_of(response.status, response.body)
            wait = None
            if response.status == HTTPStatus.SERVICE_UNAVAILABLE or (
                is_idempotent_push and error.code == _OUTCOME_UNKNOWN
            ):
                wait = self.retries.wait_seconds(retry_count, response.retry_after, deadline - time.monotonic())
            if wait is None:
                raise error
            yield Wait(wait)
            retry_count += 1


def unreachable(address: str, error: Exception, *, is_timeout: bool) -> UnreachableError:
    """Return the error of a request without a response.

    Args:
        address: The server's address.
        error: The error of the transport.
        is_timeout: Whether the timeout is over.
    """
    if is_timeout:
        return UnreachableError(
            f"{address} did not answer in time", hint="Increase the timeout, or ask for fewer entities.", code="timeout"
        )
    return UnreachableError(
        f"{address} cannot be reached ({error})" if str(error) else f"{address} cannot be reached",
        hint="Check that the server is running and that this is its address.",
    )


def _read(read: Callable[[], T]) -> T:
    """Decode a response; a malformed one is the server's failure."""
    try:
        return read()
    except (ValueError, LookupError, TypeError) as error:
        raise ServerError(
            f"its response cannot be decoded: {error!r}",
            status=int(HTTPStatus.OK),
            hint="Check that this is the address of a feature server of a version that the client supports.",
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
