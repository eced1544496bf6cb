"""Feast's routes: how they are called, and that every mistake gets an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from featurestore.config import ServerConfig
from featurestore.errors import FeatureStoreError
from featurestore.store import FeatureStore
from server.bodies import read_body
from server.feast import writes
from server.feast.answers import answer
from server.feast.messages import FeastMaterialize, FeastPush, FeastQuestion
from server.messages import to_bytes
from server.problems import MEDIA_TYPE, RefusedError, encode, problem_of

_JSON = "application/json"

_M = TypeVar("_M", bound=msgspec.Struct)


def routes(store: Callable[[], FeatureStore], limits: Callable[[], ServerConfig]) -> APIRouter:
    """Return the routes.

    Args:
        store: Gives the store once the server has started.
        limits: Gives what the server takes, likewise.
    """
    router = APIRouter(tags=["Feast"])

    def answered(shape: type[_M], work: Callable[[_M], Any]) -> Callable[[Request], Any]:
        """Return a route that reads a message, does its work in a thread, and sends what comes of it."""

        async def route(request: Request) -> Response:
            try:
                message = msgspec.json.decode(await read_body(request, limits().max_body), type=shape)
                found = await asyncio.to_thread(work, message)
                return Response(b"null" if found is None else to_bytes(found), media_type=_JSON)
            except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
                problem = problem_of(error, shape)
                return Response(encode(problem), status_code=problem.status, media_type=MEDIA_TYPE)

        return route

    def add(path: str, summary: str, shape: type[_M], work: Callable[[_M], Any], reply: str = "") -> None:
        description = _description(shape.__name__, reply)
        router.add_api_route(path, answered(shape, work), methods=["POST"], summary=summary, openapi_extra=description)

    def materialized(message: FeastMaterialize) -> None:
        writes.materialize(store(), message)

    add(
        "/get-online-features",
        "Get features, as Feast does",
        FeastQuestion,
        lambda question: answer(store(), question, most=limits().max_entities),
        "FeastReply",
    )
    add("/push", "Push events, as Feast does", FeastPush, lambda message: writes.push(store(), message))
    add("/materialize", "Fold what is new, as Feast does", FeastMaterialize, materialized)
    add("/materialize-incremental", "Fold what is new, as Feast does", FeastMaterialize, materialized)

    @router.get(
        "/health",
        summary="Tell whether the server can answer, as Feast does",
        response_class=Response,
        responses={HTTPStatus.SERVICE_UNAVAILABLE: {"description": "A service cannot be answered."}},
    )
    def health() -> Response:
        try:
            store().check()
        except (FeatureStoreError, RefusedError):
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        return Response()

    return router


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
            "413": {"description": "The body or the list of entities is too large.", **problem},
            "422": {"description": "A field is missing, or of a wrong type.", **problem},
            "503": {"description": "The registry or the online store cannot answer.", **problem},
        },
    }
