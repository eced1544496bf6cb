"""Routes of Feast's protocol: they decode a message, do its work, and encode the reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from featurestore.server.bodies import decode
from featurestore.server.calls import Call
from featurestore.server.feast import writes
from featurestore.server.feast.answers import answer
from featurestore.server.feast.messages import FeastMaterialize, FeastPush, FeastQuestion
from featurestore.server.formats import JSON
from featurestore.server.messages import to_bytes
from featurestore.server.openapi import feast_operation
from featurestore.server.threaded_routes import ThreadedRoutes

_M = TypeVar("_M", bound=msgspec.Struct)


def feast_router(threads: ThreadedRoutes) -> APIRouter:
    """Return the router of Feast's routes."""
    router = APIRouter(tags=["Feast"])

    def add(
        path: str,
        summary: str,
        shape: type[_M],
        work: Callable[[_M, Call], Any],
        *,
        reply: str = "",
        is_long: bool = False,
        further_refusals: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        """Add a route that decodes a message and answers with what its work returns."""
        read = msgspec.json.Decoder(shape).decode

        async def route(request: Request) -> Response:
            body = await request.body()

            def decode_and_work(call: Call) -> Response:
                return Response(to_bytes(work(decode(read, body), call)), media_type=JSON)

            return await threads.answer(request, decode_and_work, shape=shape, is_long=is_long)

        operation = feast_operation(shape.__name__, reply, further_refusals)
        router.add_api_route(path, route, methods=["POST"], summary=summary, openapi_extra=operation)

    def get_features(question: FeastQuestion, call: Call) -> Any:
        reply, call.answer = answer(threads.store, question, threads.limits, request_id=call.request_id)
        return reply

    add(
        "/get-online-features",
        "Get features, as Feast does",
        FeastQuestion,
        get_features,
        reply="FeastReply",
        further_refusals={409: "The expected plan has no online state."},
    )

    def push_events(message: FeastPush, call: Call) -> None:
        header = call.headers.get(b"idempotency-key")
        key = None if header is None else header.decode("latin-1")
        writes.push(threads.store, message, threads.limits, idempotency_key=key)

    add("/push", "Push events, as Feast does", FeastPush, push_events)
    for path in ("/materialize", "/materialize-incremental"):
        add(
            path,
            "Materialize new events, as Feast does",
            FeastMaterialize,
            lambda message, _: writes.materialize(threads.store, message),
            is_long=True,
        )

    @router.head("/health", include_in_schema=False)
    @router.get(
        "/health",
        summary="Check that the server can answer, as Feast does",
        response_class=Response,
        responses={HTTPStatus.SERVICE_UNAVAILABLE: {"description": "A service cannot be answered."}},
    )
    async def health(request: Request) -> Response:
        def check(_: Call) -> Response:
            threads.readiness()
            return Response()

        response = await threads.probe(request, check)
        is_ready = response.status_code == HTTPStatus.OK
        return Response(status_code=HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)

    return router
