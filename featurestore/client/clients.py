"""The clients: one for threads, one for event loops. They drive what ``calls`` says and know nothing of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from featurestore.client.calls import JSON, Answer, Calls, Sending, Steps, T, Waiting, unreachable
from featurestore.client.messages import Health, ServiceInfo
from featurestore.client.pins import pinned_by
from featurestore.client.retries import Retries
from featurestore.core.answers import OnlineFeatures, PushResult
from featurestore.core.errors import ConfigError

try:
    import httpx
except ModuleNotFoundError:  # pragma: no cover - the tests' environment has it
    raise ConfigError(
        "httpx is not installed", where="client", hint="pip install 'featurestore[client]'", code="missing-extra"
    ) from None


class ArrowStream(Protocol):
    """A table that offers itself as an Arrow stream: of pyarrow, pandas, Polars, DuckDB."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the stream in a capsule."""
        ...


Events: TypeAlias = Sequence[Mapping[str, Any]] | ArrowStream
"""Events to push: one mapping of column to value each, or a table."""

Instant = datetime | str
"""An aware ``datetime``, or ISO 8601 text with a time zone."""

TIMEOUT_SECONDS = 10.0

_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=3.0)
"""Idle connections are given up before servers give them up (plain uvicorn after five seconds): no request meets a
closing one."""


class FeatureStoreClient:
    """Asks a feature server. May be used from several threads; close it in the end, or use it as a context manager.

    Answers and errors are those of ``FeatureStore``. Besides these a call raises ``UnreachableError`` if there is no
    answer within its time, and ``ServerError`` if the server refuses the caller or fails.

    Attributes:
        url: The server's address.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        retries: Retries | None = None,
        trained_on: str | os.PathLike[str] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Take the address; nothing is connected yet.

        Args:
            url: Address of the server, for instance ``"https://features.example.com"``.
            api_key: Sent as ``Authorization: Bearer …`` if given.
            timeout: Seconds that a call may take, repetitions included. Nothing is sent later; to connect, to send and
                to be answered may each take what was left when it began.
            retries: When a request answered 503 is repeated; ``Retries()`` if ``None``.
            trained_on: Folder of a training set, or its manifest: its service is answered by the plan it pins,
                as if each call named it as ``expected_fingerprint``.
            transport: What carries requests instead of the network's sockets: a proxy, another TLS context, a test.

        Raises:
            ConfigError: The address is none, the key cannot be one, or there is no such manifest.
        """
        self.url = _address(url)
        self._calls = Calls(timeout, retries or Retries(), pinned_by(trained_on))
        self._http = httpx.Client(base_url=self.url, headers=_headers(api_key), transport=transport, limits=_LIMITS)

    def get_online_features(
        self,
        service: str,
        entities: Sequence[Mapping[str, Any]],
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        as_of: Instant | None = None,
        *,
        expected_fingerprint: str | None = None,
        request_id: str | None = None,
        partial: bool = False,
        model: str | None = None,
        model_version: str | None = None,
        timeout: float | None = None,
    ) -> OnlineFeatures:
        """Answer a service for some entities at one instant, as ``FeatureStore.get_online_features`` does.

        Args:
            service: Name of the service.
            entities: For each row of the answer the key columns by name.
            request: Request inputs by name: one mapping for all entities, or one per entity.
            as_of: Instant asked about, exclusive; the server's present one if ``None``.
            expected_fingerprint: The plan the caller was trained on. It answers, live or not, as long as it has online
                state; else it is an error.
            request_id: Name of the request in the server's logs, of letters, digits and ``._:-``; made up by the server
                if ``None``.
            partial: Whether views may answer if others cannot: their values are null with status ``ERROR``, and
                ``errors`` says why.
            model: Name of the model that asks, for the serving log.
            model_version: Its version.
            timeout: Seconds this call may take; the client's if ``None``. The server is told and gives up in time too.

        Returns:
            What the server's own store gives, in every value and dtype.

        Raises:
            UnknownServiceError: No service of that name is applied.
            RequestError: A field is missing, unknown or of a wrong type; ``field`` points at it.
            OutOfReachError: ``as_of`` is earlier than the state of a view reaches.
            FingerprintMismatchError: The live plan is another than expected.
            StateError: A view has no online state, or a damaged one.
            StorageError: The online store cannot be read.
            UnreachableError: The server cannot be reached or does not answer in time.
            ServerError: The server refuses the caller, or fails.
        """
        return self._run(
            self._calls.features(
                service,
                entities,
                request,
                as_of,
                timeout,
                request_id,
                expected_fingerprint=expected_fingerprint,
                partial=partial,
                model=model,
                model_version=model_version,
            )
        )

    def push(
        self,
        source: str,
        events: Events,
        *,
        partial: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> PushResult:
        """Hand over events of a streamed source. What is accepted is committed when this returns.

        Each push is sent with an idempotency key, under which the server takes it once: it is repeated by itself also
        if the server does not know whether it was committed. A push that fails by time or connection in the end may or
        may not have been committed. Give a key of your own to be able to repeat it; events with an ``event_id`` count
        once in any case.

        Args:
            source: Name of the source.
            events: Mappings of column to value, one per event, or a table (pyarrow, pandas, Polars), which is sent as
                Arrow and needs pyarrow here.
            partial: Whether the good events are taken if others are wrong; otherwise one wrong event rejects all.
            timeout: Seconds this call may take; the client's if ``None``.
            idempotency_key: Name of this push, up to 255 visible characters of ASCII; made up if ``None``. The same key
                with the same events is taken once, for a day at least; with other events it is refused.

        Returns:
            How many were accepted, and which were not; of a push that was taken before, what it did then.

        Raises:
            RequestError: There is no such source, or an event is wrong; ``field`` points at it.
            StorageError: The log cannot be written; or it is not known whether the events were committed
                (``push-outcome-unknown``).
            UnreachableError: The server cannot be reached or does not answer in time.
            ServerError: The server refuses the caller, or fails.
        """
        return self._run(self._calls.push(source, events, partial, timeout, idempotency_key))

    def services(self, *, timeout: float | None = None) -> tuple[ServiceInfo, ...]:
        """Return what services there are, sorted by name.

        Raises:
            RegistryError: The registry cannot be read.
            UnreachableError: The server cannot be reached or does not answer in time.
            ServerError: The server refuses the caller, or fails.
        """
        return self._run(self._calls.services(timeout))

    def health(self, *, timeout: float | None = None) -> Health:
        """Tell whether the server can answer every service. It is asked once; nothing is repeated.

        Raises:
            UnreachableError: The server cannot be reached or does not answer in time.
            ServerError: What answers is no feature server.
        """
        return self._run(self._calls.health(timeout))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> FeatureStoreClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _run(self, steps: Steps[T]) -> T:
        """Do what a call says, step by step."""
        answer: Answer | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]  # typeshed does not say what a generator returned
            if isinstance(step, Waiting):
                time.sleep(step.seconds)
                answer = None
                continue
            try:
                answer = self._fetch(step)
            except httpx.TransportError as error:
                raise _failed(self.url, error) from error

    def _fetch(self, sending: Sending) -> Answer:
        """Send a request and read its answer; one that comes in drops is given up when its time is over."""
        deadline = time.monotonic() + sending.timeout_seconds
        with closing(self._http.send(_built(self._http, sending), stream=True)) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer is not complete in time")
        return _answer(response, bytes(body))


class AsyncFeatureStoreClient:
    """Asks a feature server from an event loop; see ``FeatureStoreClient``.

    Attributes:
        url: The server's address.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
        retries: Retries | None = None,
        trained_on: str | os.PathLike[str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Take the address, as ``FeatureStoreClient`` does."""
        self.url = _address(url)
        self._calls = Calls(timeout, retries or Retries(), pinned_by(trained_on))
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=_headers(api_key), transport=transport, limits=_LIMITS
        )

    async def get_online_features(
        self,
        service: str,
        entities: Sequence[Mapping[str, Any]],
        request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        as_of: Instant | None = None,
        *,
        expected_fingerprint: str | None = None,
        request_id: str | None = None,
        partial: bool = False,
        model: str | None = None,
        model_version: str | None = None,
        timeout: float | None = None,
    ) -> OnlineFeatures:
        """Answer a service for some entities; see ``FeatureStoreClient.get_online_features``."""
        return await self._run(
            self._calls.features(
                service,
                entities,
                request,
                as_of,
                timeout,
                request_id,
                expected_fingerprint=expected_fingerprint,
                partial=partial,
                model=model,
                model_version=model_version,
            )
        )

    async def push(
        self,
        source: str,
        events: Events,
        *,
        partial: bool = False,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> PushResult:
        """Hand over events of a streamed source; see ``FeatureStoreClient.push``."""
        return await self._run(self._calls.push(source, events, partial, timeout, idempotency_key))

    async def services(self, *, timeout: float | None = None) -> tuple[ServiceInfo, ...]:
        """Return what services there are; see ``FeatureStoreClient.services``."""
        return await self._run(self._calls.services(timeout))

    async def health(self, *, timeout: float | None = None) -> Health:
        """Tell whether the server can answer; see ``FeatureStoreClient.health``."""
        return await self._run(self._calls.health(timeout))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncFeatureStoreClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def _run(self, steps: Steps[T]) -> T:
        """Do what a call says, step by step."""
        answer: Answer | None = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]  # typeshed does not say what a generator returned
            if isinstance(step, Waiting):
                await asyncio.sleep(step.seconds)
                answer = None
                continue
            try:
                async with asyncio.timeout(step.timeout_seconds):
                    response = await self._http.send(_built(self._http, step))
                    answer = _answer(response, response.content)
            except (httpx.TransportError, TimeoutError) as error:
                raise _failed(self.url, error) from error


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise _no_address(url) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise _no_address(url)
    return str(parsed).rstrip("/")


def _no_address(url: object) -> ConfigError:
    return ConfigError(
        f"{url!r} is no server's address", where="client", hint="Write 'http://host:port'.", code="address"
    )


def _headers(api_key: str | None) -> dict[str, str]:
    accepted = {"Accept": JSON}
    if api_key is None:
        return accepted
    if not api_key or any(not "!" <= letter <= "~" for letter in api_key):
        raise ConfigError(
            "the API key is empty or has characters that no key has",
            where="client",
            hint="A key is one line of ASCII without spaces; was it read with its line end?",
            code="api-key",
        )
    return {**accepted, "Authorization": f"Bearer {api_key}"}


def _built(http: httpx.Client | httpx.AsyncClient, sending: Sending) -> httpx.Request:
    headers = dict(sending.headers)
    if sending.content is not None:
        headers["Content-Type"] = sending.media_type
    return http.build_request(
        sending.method, sending.path, content=sending.content, headers=headers, timeout=sending.timeout_seconds
    )


def _answer(response: httpx.Response, body: bytes) -> Answer:
    return Answer(response.status_code, body, response.headers.get("Retry-After"))


def _failed(url: str, error: Exception) -> Exception:
    return unreachable(url, error, is_timeout=isinstance(error, httpx.TimeoutException | TimeoutError))
