"""The messages of the HTTP API: question, reply, problem, and their JSON schemas for OpenAPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from featurestore.core.temporal import MAX_INSTANT_US, MIN_INSTANT_US, to_datetime

if TYPE_CHECKING:
    from featurestore.core.answers import OnlineFeatures
    from featurestore.core.answers import ViewState as State

_SERVICE = "delay_model"
_FINGERPRINT = "5e0c6a3f0b6d4f0c9a7e2d1b8c4f6a1e5e0c6a3f0b6d4f0c9a7e2d1b8c4f6a1e"


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """A question for the features of some entities."""

    service: Annotated[str, Meta(description="The feature service.", examples=[_SERVICE])]
    entities: Annotated[
        list[dict[str, Any]],
        Meta(
            description="One object per row of the answer, with a value for each key column of the service.",
            examples=[[{"carrier": "UA", "origin": "EWR"}]],
        ),
    ]
    request: Annotated[
        list[dict[str, Any]] | dict[str, Any] | None,
        Meta(
            description="Request inputs: one object per entity in the same order, or one object for all.",
            examples=[{"dep_delay": 12.5}],
        ),
    ] = None
    as_of: Annotated[
        str | None,
        Meta(
            description="The instant of the answer, ISO 8601 with a time zone; exclusive. Now if left out.",
            examples=["2013-12-01T12:00:00Z"],
        ),
    ] = None
    expected_fingerprint: Annotated[
        str | None,
        Meta(description="Answer with this plan, live or not; 409 without state.", examples=[_FINGERPRINT]),
    ] = None
    model: Annotated[
        str | None, Meta(description="The model that uses the answer, for the serving log.", examples=["delay"])
    ] = None
    model_version: Annotated[str | None, Meta(description="Its version.", examples=["7"])] = None
    describe: Annotated[bool, Meta(description="Add the dtypes of columns, keys and request inputs.")] = False
    event_times: Annotated[bool, Meta(description="Add per row and view the event time of the newest event.")] = True
    partial: Annotated[
        bool,
        Meta(
            description="If some views cannot answer, return the others: the values of failed views are null with "
            "status ERROR, and errors has the reasons. Such an answer is not written to the serving log."
        ),
    ] = False
    timeout_ms: Annotated[
        Annotated[int, Meta(ge=0, le=3_600_000)] | None,
        Meta(description="Refuse with 504 if there is no answer this long after the request arrived."),
    ] = None


class Row(Struct, frozen=True):
    """The answer for one entity."""

    values: Annotated[
        list[Any],
        Meta(
            description="Values in the order of columns. Instants are ISO 8601 text, decimals text, binary base64.",
            examples=[[12, 7.25, None]],
        ),
    ]
    statuses: Annotated[
        Sequence[str],
        Meta(
            description="PRESENT; NULL: known entity, no value; NOT_FOUND: no event of this entity; EXPIRED: too old; "
            "ERROR: the view cannot answer.",
            examples=[["PRESENT", "PRESENT", "NULL"]],
        ),
    ]
    event_times: Annotated[
        dict[str, datetime | None],
        Meta(
            description="Per view the event time of the newest event that was visible; empty if not wanted.",
            examples=[{"carrier_delays": "2013-12-01T11:41:00Z"}],
        ),
    ]


class ViewState(Struct, frozen=True):
    """How complete a view's state was."""

    horizon: Annotated[datetime | None, Meta(description="Events before this instant were visible.")]
    watermark: Annotated[datetime | None, Meta(description="All events known before this instant are included.")]
    complete_until: Annotated[datetime | None, Meta(description="All events before this instant are included.")]
    is_stale: Annotated[bool, Meta(description="Whether the watermark is older than the view promises.")]


class Dtypes(Struct, frozen=True):
    """The dtypes of the values in a message."""

    columns: Annotated[list[str], Meta(description="Of the answer, in its order.", examples=[["int64", "float64"]])]
    keys: Annotated[dict[str, str], Meta(description="Of the fields of entities.", examples=[{"carrier": "string"}])]
    request: Annotated[dict[str, str], Meta(description="Of request inputs.", examples=[{"dep_delay": "float64"}])]


class ViewProblem(Struct, frozen=True):
    """Why a view could not answer."""

    code: Annotated[str, Meta(description="Stable name of the failure.", examples=["not-materialized"])]
    detail: Annotated[str, Meta(description="What is wrong, and how to fix it.")]


class Reply(Struct, frozen=True, omit_defaults=True):
    """The answer to a question."""

    service: Annotated[str, Meta(examples=[_SERVICE])]
    fingerprint: Annotated[str, Meta(description="Fingerprint of the plan that answered.", examples=[_FINGERPRINT])]
    request_id: Annotated[str, Meta(description="Id of this answer in the serving log.")]
    as_of: Annotated[datetime, Meta(examples=["2013-12-01T12:00:00Z"])]
    columns: Annotated[Sequence[str], Meta(examples=[["carrier_delays__flights_1d", "carrier_delays__mean_delay_7d"]])]
    rows: Annotated[list[Row], Meta(description="One per entity, in the order of the question.")]
    views: Annotated[dict[str, ViewState], Meta(description="Per view, by its name or alias.")]
    dtypes: Annotated[Dtypes | None, Meta(description="Only if the question sets describe.")] = None
    errors: Annotated[
        dict[str, ViewProblem] | None, Meta(description="Views that could not answer, if the question sets partial.")
    ] = None


class Problem(Struct, frozen=True, omit_defaults=True):
    """A problem document of RFC 9457."""

    type: Annotated[str, Meta(description="URN that ends in the code.")]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What is wrong with this request, and what is expected.")]
    code: Annotated[str, Meta(description="Stable name of the mistake.", examples=["unknown-service"])]
    field: Annotated[str, Meta(description="JSON pointer into the request.", examples=["/entities/3/carrier"])] = ""
    hint: Annotated[str, Meta(description="The part of the detail that says how to fix it.")] = ""
    error: Annotated[str, Meta(description="Class of the error in the library.", examples=["RequestError"])] = ""


read_question: Callable[[bytes], Question] = msgspec.json.Decoder(Question).decode
to_bytes: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def reply(result: OnlineFeatures, *, describe: bool = False, event_times: bool = True) -> Reply:
    """Return the message for a result.

    Args:
        result: The answer.
        describe: Whether to add the dtypes.
        event_times: Whether to add the event times of the newest events.
    """
    times = result.event_times if event_times else {}
    rows = [
        Row(values, result.statuses_of(i), {alias: _instant(of_rows[i]) for alias, of_rows in times.items()})
        for i, values in enumerate(result.rows)
    ]
    return Reply(
        service=result.service,
        fingerprint=result.fingerprint,
        request_id=result.request_id,
        as_of=to_datetime(result.as_of_us),
        columns=result.columns,
        rows=rows,
        views={alias: _view_state(view) for alias, view in result.views.items()},
        dtypes=_dtypes(result) if describe else None,
        errors={alias: ViewProblem(error.code, error.problem) for alias, error in result.errors.items()} or None,
    )


def _dtypes(result: OnlineFeatures) -> Dtypes:
    return Dtypes(
        columns=[str(dtype) for dtype in result.dtypes],
        keys={name: str(dtype) for name, dtype in result.keys.items()},
        request={name: str(dtype) for name, dtype in result.inputs.items()},
    )


@lru_cache(maxsize=4096)
def _instant(instant_us: int | None) -> datetime | None:
    """Return an instant for a message; ``None`` for the bounds "never" and "always".

    The cache pays since the few instants of an answer repeat over rows, views and the next answers.
    """
    if instant_us is None or not MIN_INSTANT_US <= instant_us <= MAX_INSTANT_US:
        return None
    return to_datetime(instant_us)


@lru_cache(maxsize=256)
def _view_state(view: State) -> ViewState:
    """Return the message for a view's state. The cache pays since many views of an answer share one state."""
    return ViewState(
        horizon=_instant(view.horizon_us),
        watermark=_instant(view.watermark_us),
        complete_until=_instant(view.complete_until_us),
        is_stale=view.is_stale,
    )


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of all messages by name."""
    _, components = msgspec.json.schema_components(
        [Question, Reply, Problem], ref_template="#/components/schemas/{name}"
    )
    return components
