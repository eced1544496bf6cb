"""Feast's routes: how they are called, and that every mistake gets an answer."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from featurestore.server.bodies import decode
from featurestore.server.calls import Call
from featurestore.server.desk import Desk
from featurestore.server.feast import writes
from featurestore.server.feast.answers import answer
from featurestore.server.feast.messages import FeastMaterialize, FeastPush, FeastQuestion
from featurestore.server.messages import to_bytes
from featurestore.server.problems import MEDIA_TYPE

_JSON = "application/json"

_M = TypeVar("_M", bound=msgspec.Struct)


def routes(desk: Desk) -> APIRouter:
    """Return the routes, which are answered at a desk."""
    router = APIRouter(tags=["Feast"])

    def add(
        path: str,
        summary: str,
        shape: type[_M],
        work: Callable[[_M, Call], Any],
        *,
        reply: str = "",
        takes_its_time: bool = False,
    ) -> None:
        """Add a route that reads a message, does its work, and sends what comes of it."""
        read = msgspec.json.Decoder(shape).decode

        async def route(request: Request) -> Response:
            body = await request.body()

            def worked(call: Call) -> Response:
                return Response(to_bytes(work(decode(read, body), call)), media_type=_JSON)

            return await desk.answer(request, worked, shape=shape, takes_its_time=takes_its_time)

        description = _description(shape.__name__, reply)
        router.add_api_route(path, route, methods=["POST"], summary=summary, openapi_extra=description)

    def answered(question: FeastQuestion, call: Call) -> Any:
        reply, call.answer = answer(desk.store, question, desk.limits, request_id=call.request_id)
        return reply

    add("/get-online-features", "Get features, as Feast does", FeastQuestion, answered, reply="FeastReply")

    def pushed(message: FeastPush, call: Call) -> None:
        key = call.headers.get(b"idempotency-key")
        name = None if key is None else key.decode("latin-1")
        writes.push(desk.store, message, desk.limits, idempotency_key=name)

    add("/push", "Push events, as Feast does", FeastPush, pushed)
    for path in ("/materialize", "/materialize-incremental"):
        add(
            path,
            "Fold what is new, as Feast does",
            FeastMaterialize,
            lambda message, _: writes.materialize(desk.store, message),
            takes_its_time=True,
        )

    @router.head("/health", include_in_schema=False)
    @router.get(
        "/health",
        summary="Tell whether the server can answer, as Feast does",
        response_class=Response,
        responses={HTTPStatus.SERVICE_UNAVAILABLE: {"description": "A service cannot be answered."}},
    )
    async def health(request: Request) -> Response:
        def checked(_: Call) -> Response:
            desk.readiness()
            return Response()

        found = await desk.probe(request, checked)
        return Response(status_code=HTTPStatus.OK if found.status_code == HTTPStatus.OK else _UNAVAILABLE)

    return router


_UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


def _description(message: str, reply: str) -> dict[str, Any]:
    """Return what OpenAPI says of a route that reads one message and answers with another, or with null."""
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    success = {"$ref": f"#/components/schemas/{reply}"} if reply else {"type": "null"}
    return {
        "requestBody": {
            "required": True,
            "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{message}"}}},
        },
        "responses": {
            "200": {"description": "Done.", "content": {_JSON: {"schema": success}}},
            "400": {"description": "The body is not JSON.", **problem},
            "404": {"description": "There is no such view, feature, service or source.", **problem},
            "413": {"description": "The body, the list of entities or the answer is too large.", **problem},
            "422": {"description": "A field is missing, or of a wrong type.", **problem},
            "415": {"description": "The body is compressed.", **problem},
            "503": {"description": "The registry or the online store cannot answer.", **problem},
            "504": {"description": "There was no answer in time.", **problem},
        },
    }
