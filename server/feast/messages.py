"""Feast's requests and answers. Unknown fields are ignored, as Feast ignores them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

PUSH_TARGETS = ("online", "online_and_offline")
"""Values of ``to`` in a push."""

_INSTANT = {"format": "date-time"}


class FeastQuestion(Struct, frozen=True):
    """A question for features, in the form of Feast."""

    entities: Annotated[
        dict[str, list[Any]],
        Meta(
            description="Columns of entity keys and request inputs, all of one length. Unknown ones are ignored.",
            examples=[{"carrier": ["UA", "DL"]}],
        ),
    ]
    features: Annotated[
        list[str] | None, Meta(description='Features as "view:feature".', examples=[["carrier_delays:mean_delay_7d"]])
    ] = None
    feature_service: Annotated[str | None, Meta(description="A feature service, instead of features.")] = None
    expected_fingerprint: Annotated[
        str | None,
        Meta(description="Not part of Feast: answer with this plan, live or not; 409 without state."),
    ] = None
    full_feature_names: Annotated[bool, Meta(description="Whether names are view__feature, not feature.")] = False


class FeastColumn(Struct, frozen=True):
    """One column of the answer."""

    values: Annotated[list[Any], Meta(description="Instants are seconds since 1970, decimals text, binary base64.")]
    statuses: Annotated[
        list[str], Meta(description="PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE", examples=[["PRESENT"]])
    ]
    event_timestamps: Annotated[list[str], Meta(description="Of the newest visible event; the epoch if there is none.")]


class FeastNames(Struct, frozen=True):
    """Names of the columns of the answer."""

    feature_names: Annotated[list[str], Meta(description="Names of the results, keys first.")]


class FeastReply(Struct, frozen=True):
    """The answer: keys first, then features; each has one value per entity."""

    metadata: FeastNames
    results: list[FeastColumn]


class FeastPush(Struct, frozen=True):
    """Events for a source, column by column."""

    push_source_name: Annotated[str, Meta(description="The source; it is declared with stream=True.")]
    df: Annotated[
        dict[str, list[Any] | dict[str, Any]],
        Meta(
            description="Columns as lists, or as objects by row label. Instants without a zone are UTC.",
            examples=[{"carrier": ["UA"], "arr_delay": [3.5], "arrived_at": ["2013-12-01T11:41:00Z"]}],
        ),
    ]
    to: Annotated[
        str,
        Meta(
            description="online or online_and_offline, which mean the same here: all answers read one log.",
            extra_json_schema={"enum": list(PUSH_TARGETS)},
        ),
    ] = "online"


class FeastMaterialize(Struct, frozen=True):
    """A request to materialize views."""

    end_ts: Annotated[
        str | None,
        Meta(
            description="Until when, exclusive, ISO 8601; UTC if it names no zone. Now if left out.",
            extra_json_schema=_INSTANT,
        ),
    ] = None
    start_ts: Annotated[
        str | None,
        Meta(
            description="Must not be after end_ts. It has no other effect: state is complete from the first event.",
            extra_json_schema=_INSTANT,
        ),
    ] = None
    feature_views: Annotated[list[str] | None, Meta(description="Names of views; all if left out.")] = None


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of these messages by name."""
    shapes = [FeastQuestion, FeastReply, FeastPush, FeastMaterialize]
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    return components
