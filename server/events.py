"""``POST /v1/sources/{source}/events``: pushing events into the log of a streamed source."""

from __future__ import annotations

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
from featurestore.server.calls import EVENTS_PATH, Call
from featurestore.server.formats import ARROW_STREAM, JSON
from featurestore.server.messages import to_bytes
from featurestore.server.openapi import PUSH
from featurestore.server.problems import RefusedError, too_large
from featurestore.server.threaded_routes import ThreadedRoutes

IDEMPOTENCY_KEY = "idempotency-key"
"""Header that names a push, so that it can be repeated."""

UNPACKED_FACTOR = 4
"""How many times larger than the largest request its events may be once they are unpacked."""

_DECODED_AT_ONCE = 500
"""How many events are decoded before other threads can run."""


class _RawEvents(Struct, frozen=True, forbid_unknown_fields=True):
    """Events that can be counted but are not decoded yet."""

    events: list[Raw]


class Events(Struct, frozen=True, forbid_unknown_fields=True):
    """Events to push."""

    events: Annotated[
        list[Any],
        Meta(
            description="One object per event: a value for each column that views read. Leave the ingest time out: the "
            "server sets it. Instants are ISO 8601 text with a time zone, decimals text, binary base64.",
            examples=[[{"carrier": "UA", "arr_delay": 3.5, "arrived_at": "2013-12-01T11:41:00Z"}]],
        ),
    ]


class RejectedEvent(Struct, frozen=True):
    """An event that was not accepted."""

    row: Annotated[int, Meta(description="Its position among the events, from 0.")]
    field: Annotated[str, Meta(description="The column that is wrong; empty if the event itself is.")]
    problem: str


class Pushed(Struct, frozen=True):
    """The result of a push. Accepted events are committed."""

    accepted: Annotated[int, Meta(description="Events that were added to the log.")]
    duplicates: Annotated[
        int, Meta(description="Events whose id was known already, or came twice. They change nothing.")
    ]
    sequence: Annotated[int, Meta(description="Number of the last event in the log, -1 if it has none.")]
    ingest_time: Annotated[str, Meta(description="Every event of the push became known before this instant.")]
    is_followed: Annotated[
        bool, Meta(description="Whether online state includes the events; if not, it will catch up.")
    ]
    rejected: Annotated[list[RejectedEvent], Meta(description="Events that were not accepted, with partial=true.")]


def events_router(threads: ThreadedRoutes) -> APIRouter:
    """Return the router of the push route."""
    router = APIRouter()

    @router.post(EVENTS_PATH, summary="Push events", openapi_extra=PUSH)
    async def push(
        request: Request,
        source: str,
        partial: Annotated[bool, Query(description="Accept the valid events if others are invalid.")] = False,
    ) -> Response:
        body = await request.body()
        content_type = request.headers.get("content-type", JSON)
        key = request.headers.get(IDEMPOTENCY_KEY)

        def push_events(_: Call) -> Response:
            events = _read(content_type, body, threads.limits)
            result = threads.store.push(source, events, partial=partial, idempotency_key=key)
            return Response(to_bytes(message_of(result)), media_type=JSON)

        return await threads.answer(request, push_events, shape=Events)

    return router


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of these messages by name."""
    _, components = msgspec.json.schema_components([Events, Pushed], ref_template="#/components/schemas/{name}")
    return components


def _read(content_type: str, body: bytes, limits: ServerConfig) -> list[Any] | pa.Table:
    """Decode a body according to its media type.

    Raises:
        RefusedError: The media type is not supported, there are too many events or columns, or the body is malformed.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == JSON:
        return _read_json(body, limits.max_events, limits.max_columns)
    if media_type != ARROW_STREAM:
        detail = f"The body is {media_type or 'of no type'}; send {JSON} or {ARROW_STREAM}."
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "unsupported-media-type")
    return read_stream(
        body,
        max_rows=limits.max_events,
        max_bytes=UNPACKED_FACTOR * limits.max_push,
        max_columns=limits.max_columns,
    )


def _read_json(body: bytes, max_events: int, max_columns: int) -> list[Any]:
    """Decode events: count them first, then decode some at a time, because a decoder blocks all other threads.

    Raises:
        RefusedError: There are too many events or columns, or the body is not JSON.
    """
    raw_events = decode(_read_raw_events, body).events
    if len(raw_events) > max_events:
        raise too_many_events(len(raw_events), max_events, field="/events")
    events: list[Any] = []
    columns: set[str] = set()
    for first in range(0, len(raw_events), _DECODED_AT_ONCE):
        decoded = decode(_decode_events, b"[" + b",".join(raw_events[first : first + _DECODED_AT_ONCE]) + b"]")
        columns.update(*(event for event in decoded if isinstance(event, dict)))
        if len(columns) > max_columns:
            raise too_many_columns(max_columns)
        events += decoded
    return events


def too_many_events(count: int, max_events: int, *, field: str) -> RefusedError:
    """Return the refusal of a push with more events than a request may have (413)."""
    return too_large(
        f"There are {count} events; one request may have {max_events}. Send several requests.", field=field
    )


def message_of(result: PushResult) -> Pushed:
    """Return the message for the result of a push."""
    return Pushed(
        accepted=result.accepted,
        duplicates=result.duplicates,
        sequence=result.sequence,
        ingest_time=format_instant(result.ingest_time_us),
        is_followed=result.is_followed,
        rejected=[RejectedEvent(row.row, row.field, row.problem) for row in result.rejected],
    )


_read_raw_events = msgspec.json.Decoder(_RawEvents).decode
_decode_events = msgspec.json.Decoder(list[Any]).decode
