"""``POST /v1/sources/{source}/events``: events on their way into the log of a streamed source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response
from msgspec import Meta, Struct

from featurestore.config import ServerConfig
from featurestore.online.result import PushResult
from featurestore.store import FeatureStore
from featurestore.temporal import format_instant
from server.bodies import read_body
from server.messages import to_bytes
from server.problems import MEDIA_TYPE, RefusedError, encode, problem_of

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """Events to push."""

    events: Annotated[
        list[Any],
        Meta(
            description="One object per event: a value for each column that views read. When an event became known is "
            "the log's to say. Instants are ISO 8601 text with a zone, decimals text, binary base64.",
            examples=[[{"carrier": "UA", "arr_delay": 3.5, "arrived_at": "2013-12-01T11:41:00Z"}]],
        ),
    ]


class RejectedEvent(Struct, frozen=True):
    """An event that was not taken."""

    row: Annotated[int, Meta(description="Its place among the events, from 0.")]
    field: Annotated[str, Meta(description="The column that is wrong; empty if the event itself is.")]
    problem: str


class Pushed(Struct, frozen=True):
    """What became of pushed events. Those accepted are committed."""

    accepted: Annotated[int, Meta(description="Events that are new in the log.")]
    duplicates: Annotated[int, Meta(description="Events whose id was known, or came twice; they change nothing.")]
    sequence: Annotated[int, Meta(description="Number of the last event in the log, -1 if it has none.")]
    ingest_time: Annotated[str, Meta(description="Every event of the push became known before this instant.")]
    is_followed: Annotated[bool, Meta(description="Whether online state has them; if not, it catches up.")]
    rejected: Annotated[list[RejectedEvent], Meta(description="Events not taken, if partial was asked for.")]


def routes(store: Callable[[], FeatureStore], limits: Callable[[], ServerConfig]) -> APIRouter:
    """Return the route.

    Args:
        store: Gives the store once the server has started.
        limits: Gives what the server takes, likewise.
    """
    router = APIRouter()

    @router.post("/v1/sources/{source}/events", summary="Push events", openapi_extra=_DESCRIPTION)
    async def push(
        request: Request,
        source: str,
        partial: Annotated[bool, Query(description="Take the good events if others are wrong.")] = False,
    ) -> Response:
        try:
            body = await read_body(request, limits().max_push)
            events = _read(request.headers.get("content-type", JSON), body)
            result = await asyncio.to_thread(store().push, source, events, partial=partial)
            return Response(to_bytes(message_of(result)), media_type=JSON)
        except Exception as error:  # the edge of the program: whatever it is, the caller gets an answer
            problem = problem_of(error, Events)
            return Response(encode(problem), status_code=problem.status, media_type=MEDIA_TYPE)

    return router


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of these messages by name."""
    _, components = msgspec.json.schema_components([Events, Pushed], ref_template="#/components/schemas/{name}")
    return components


def _read(content_type: str, body: bytes) -> list[Any] | pa.Table:
    """Read a body as its header says.

    Raises:
        RefusedError: It is of another type, or no sound Arrow stream.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        return _decode(body).events
    if kind != ARROW_STREAM:
        detail = f"The body is {kind or 'of no type'}; send {JSON} or {ARROW_STREAM}."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")
    try:
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        detail = f"The body is no Arrow IPC stream: {error}."
        raise RefusedError(HTTPStatus.BAD_REQUEST, detail, "malformed-arrow") from None
    return table


def message_of(result: PushResult) -> Pushed:
    """Return the message for what became of a push."""
    return Pushed(
        accepted=result.accepted,
        duplicates=result.duplicates,
        sequence=result.sequence,
        ingest_time=format_instant(result.ingest_time_us),
        is_followed=result.is_followed,
        rejected=[RejectedEvent(row.row, row.field, row.problem) for row in result.rejected],
    )


_decode: Callable[[bytes], Events] = msgspec.json.Decoder(Events).decode


def _refusal(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


_DESCRIPTION: dict[str, Any] = {
    "operationId": "push_events",
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"$ref": "#/components/schemas/Events"}},
            ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "The events are committed; training sets and lookups count them.",
            "content": {JSON: {"schema": {"$ref": "#/components/schemas/Pushed"}}},
        },
        "400": _refusal("The body is no JSON, or no Arrow IPC stream."),
        "404": _refusal("There is no such source, or it accepts no pushes."),
        "413": _refusal("The body is too large."),
        "415": _refusal("The body is neither JSON nor an Arrow IPC stream."),
        "422": _refusal("An event is wrong; none was taken."),
        "503": _refusal("The log or the registry cannot be used."),
    },
}
