"""Feast's requests and answers. Fields that are not named here are ignored, as Feast ignores what it does not know."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

ROADS = ("online", "online_and_offline")
"""Where a push may be meant to go."""

_INSTANT = {"format": "date-time"}


class FeastQuestion(Struct, frozen=True):
    """A question for features, as clients of Feast ask it."""

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
        Meta(description="Not Feast's: answer the feature service by this plan, live or not; 409 if it has no state."),
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
    """What the columns of the answer are."""

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
            description="online or online_and_offline, which are the same here: both roads read one log.",
            extra_json_schema={"enum": list(ROADS)},
        ),
    ] = "online"


class FeastMaterialize(Struct, frozen=True):
    """What to materialize."""

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
            description="Not after end_ts; else without effect: state is always complete from the first event.",
            extra_json_schema=_INSTANT,
        ),
    ] = None
    feature_views: Annotated[list[str] | None, Meta(description="Names of views; all if left out.")] = None


def schemas() -> dict[str, Any]:
    """Return the JSON schemas of these messages by name."""
    shapes = [FeastQuestion, FeastReply, FeastPush, FeastMaterialize]
    _, components = msgspec.json.schema_components(shapes, ref_template="#/components/schemas/{name}")
    return components
