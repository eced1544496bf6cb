"""``POST /v1/sources/{source}/events``: events on their way into the log of a streamed source."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response
from msgspec import Meta, Raw, Struct

from featurestore.config import ServerConfig
from featurestore.core.answers import PushResult
from featurestore.core.temporal import format_instant
from featurestore.server.arrow import read_stream, too_many_columns
from featurestore.server.bodies import decode
from featurestore.server.calls import Call
from featurestore.server.desk import Desk
from featurestore.server.messages import to_bytes
from featurestore.server.problems import MEDIA_TYPE, RefusedError, too_large

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"

IDEMPOTENCY_KEY = "idempotency-key"
"""Header that names a push, so that it can be repeated."""

UNPACKED_FACTOR = 4
"""Events may be so many times larger, once they are unpacked, than a request that brings them."""

_PATH = "/v1/sources/{source}/events"
_PATHS = re.compile(_PATH.replace("{source}", "[^/]+"))
_AT_ONCE = 500
"""So many events are decoded before other threads have their turn."""


class _Undecoded(Struct, frozen=True, forbid_unknown_fields=True):
    """Events of which is known only how many there are."""

    events: list[Raw]


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


def takes(path: str) -> bool:
    """Tell whether a path is one to which events are pushed."""
    return _PATHS.fullmatch(path) is not None


def routes(desk: Desk) -> APIRouter:
    """Return the route, which is answered at a desk."""
    router = APIRouter()

    @router.post(_PATH, summary="Push events", openapi_extra=_DESCRIPTION)
    async def push(
        request: Request,
        source: str,
        partial: Annotated[bool, Query(description="Take the good events if others are wrong.")] = False,
    ) -> Response:
        body = await request.body()
        content_type = request.headers.get("content-type", JSON)
        key = request.headers.get(IDEMPOTENCY_KEY)

        def pushed(_: Call) -> Response:
            events = _read(content_type, body, desk.limits)
            result = desk.store.push(source, events, partial=partial, idempotency_key=key)
            return Response(to_bytes(message_of(result)), media_type=JSON)

        return await desk.answer(request, pushed, shape=Events)

    return router


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of these messages by name."""
    _, components = msgspec.json.schema_components([Events, Pushed], ref_template="#/components/schemas/{name}")
    return components


def _read(content_type: str, body: bytes, limits: ServerConfig) -> list[Any] | pa.Table:
    """Read a body as its header says.

    Raises:
        RefusedError: It is of another type, has too many events, or is no sound Arrow stream.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON:
        return _read_json(body, limits.max_events, limits.max_columns)
    if kind != ARROW_STREAM:
        detail = f"The body is {kind or 'of no type'}; send {JSON} or {ARROW_STREAM}."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")
    return read_stream(
        body,
        most_rows=limits.max_events,
        most_bytes=UNPACKED_FACTOR * limits.max_push,
        most_columns=limits.max_columns,
    )


def _read_json(body: bytes, most: int, most_columns: int) -> list[Any]:
    """Read events: first how many there are, then some at a time, for a decoder lets no other thread work meanwhile.

    Raises:
        RefusedError: There are too many, or they have too many columns, or the body is no JSON.
    """
    undecoded = decode(_count_events, body).events
    if len(undecoded) > most:
        raise too_many(len(undecoded), most, field="/events")
    found: list[Any] = []
    columns: set[str] = set()
    for first in range(0, len(undecoded), _AT_ONCE):
        events = decode(_decode_events, b"[" + b",".join(undecoded[first : first + _AT_ONCE]) + b"]")
        columns.update(*(event for event in events if isinstance(event, dict)))
        if len(columns) > most_columns:
            raise too_many_columns(most_columns)
        found += events
    return found


def too_many(count: int, most: int, *, field: str) -> RefusedError:
    """Return the refusal of more events than a request may have."""
    return too_large(f"There are {count} events; one request may have {most}. Send several requests.", field=field)


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


_count_events = msgspec.json.Decoder(_Undecoded).decode
_decode_events = msgspec.json.Decoder(list[Any]).decode


def _refusal(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}


_DESCRIPTION: dict[str, Any] = {
    "operationId": "push_events",
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Names the push. The same key with the same events is taken once, for a day at least; the"
            " same key with other events is refused.",
            "schema": {"type": "string", "maxLength": 255},
        }
    ],
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
        "408": _refusal("The body did not come in time."),
        "413": _refusal("The body is too large, or there are too many events or columns."),
        "415": _refusal("The body is neither JSON nor an Arrow IPC stream, or it is compressed."),
        "422": _refusal("An event is wrong, or the idempotency key was used for other events; none was taken."),
        "503": _refusal("The log or the registry cannot be used."),
        "504": _refusal(
            "There was no answer in time, or the log did not say whether it committed (push-outcome-unknown). The"
            " events may be committed or not: repeat the push with its idempotency key."
        ),
    },
}
