"""An explanation, as data: it prints nothing and judges nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

SCHEMA = "featurestore-explanation-1"
"""Name and version of the JSON form."""

USED = "used"
REJECTED = "rejected"
DUPLICATE = "duplicate"
"""Fates of events; the others are those of ``kernels.selection.Fate``, in small letters."""


@dataclass(frozen=True)
class Told:
    """What a road says.

    Attributes:
        value: As text; ``None`` is null.
        status: Name of the status.
    """

    value: str | None
    status: str


@dataclass(frozen=True)
class Road:
    """What a road says of a feature, beside the training road.

    Attributes:
        told: Its answer; ``None`` if it has none.
        agrees: Whether that is equal to the bit, status included; ``None`` if there is no answer.
        said: Why there is no answer, or what makes the difference if that is known.
    """

    told: Told | None
    agrees: bool | None = None
    said: str = ""


@dataclass(frozen=True)
class Event:
    """One event of the entity.

    Attributes:
        number: Place in the order of the kernels, from 1; rows that are no events of the view stand among them by time.
        event_time: When it happened.
        ingest_time: When it became known.
        columns: The columns that decide about it, as text.
        value: What the aggregation would fold, as text; ``None`` if that is null, or if events are counted.
        fate: ``"used"``, or the rule that keeps it out.
        said: The rule in words; empty if it is used.
        is_value: Whether the value is this event's.
    """

    number: int
    event_time: str
    ingest_time: str
    columns: dict[str, str | None]
    value: str | None
    fate: str
    said: str = ""
    is_value: bool = False


@dataclass(frozen=True)
class Operand:
    """One operand of a feature that is computed on demand."""

    name: str
    kind: str
    value: str | None


@dataclass(frozen=True)
class Value:
    """One feature, explained.

    Attributes:
        name: Column of the answer; of an operand that is no column of it, ``alias__feature``.
        dtype: Its dtype.
        declared: How it is defined.
        offline: What a training set holds.
        online: What the online road answers at the same instant.
        served: What the serving log says was answered; ``None`` if nothing was logged or looked for.
        arithmetic: How the value comes about.
        is_checked: Whether evaluating the plan over nothing but the events listed as used gives the same bits.
        view: Alias of the view that has its events; empty for a feature computed on demand.
        window_start: First instant of the window; empty if it has none.
        fates: How many events came to which fate.
        events: Events in the order of the kernels, newest last: not all, if there are many.
        operands: What it is computed of on demand.
    """

    name: str
    dtype: str
    declared: str
    offline: Told
    online: Road
    served: Road | None
    arithmetic: str
    is_checked: bool
    view: str = ""
    window_start: str = ""
    fates: dict[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    operands: tuple[Operand, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether no road says anything else than the training road."""
        return not any(road is not None and road.agrees is False for road in (self.online, self.served))


@dataclass(frozen=True)
class StateFacts:
    """How complete a view's state was when it answered.

    Attributes:
        watermark: Every event that became known before it was folded in.
        is_stale: Whether that lies behind what the refresh promises.
    """

    watermark: str
    is_stale: bool


@dataclass(frozen=True)
class ViewFacts:
    """What is the same for all features of a view.

    Attributes:
        alias: Name of the view in the service.
        view: Name of the view.
        source: Name of its source.
        keys: The entity, as text.
        refresh: Its refresh policy in words.
        visible: Which events a question may see, in words: both horizons.
        event_horizon: Exclusive bound of event times.
        ingest_horizon: Exclusive bound of ingest times.
        where: Condition of the view; empty if it has none.
        rows: Rows of the entity in the source, every delivery counted.
        newest_visible: Number of the newest visible event; ``None`` if the entity is not known.
        other_spellings: Rows whose key differs only by case, spaces around it or leading zeros.
        online: How complete the state was that answered online; ``None`` if it did not answer.
        served: How complete it was that answered then; ``None`` if no such answer is known.
    """

    alias: str
    view: str
    source: str
    keys: dict[str, str | None]
    refresh: str
    visible: str
    event_horizon: str
    ingest_horizon: str
    where: str
    rows: int
    newest_visible: int | None
    other_spellings: int
    online: StateFacts | None
    served: StateFacts | None


@dataclass(frozen=True)
class LogFacts:
    """The row of the serving log."""

    request_id: str
    row: int
    as_of: str
    logged_at: str
    fingerprint: str
    model: str | None


@dataclass(frozen=True)
class Explanation:
    """Why features of one entity have the values they have.

    Attributes:
        service: Name of the service.
        fingerprint: Plan that is explained.
        keys: The entity, as text.
        requests: Request inputs, as text.
        as_of: Instant asked about.
        values: The features, and after them the operands that are no columns of the answer.
        views: The views they come from.
        served: The row of the serving log; ``None`` if none is about this entity and instant.
        notes: What else must be known to read this.
        schema: Form of the JSON.
    """

    service: str
    fingerprint: str
    keys: dict[str, str | None]
    requests: dict[str, str | None]
    as_of: str
    values: tuple[Value, ...]
    views: tuple[ViewFacts, ...]
    served: LogFacts | None
    notes: tuple[str, ...] = ()
    schema: str = SCHEMA

    @property
    def agrees(self) -> bool:
        """Whether all roads that answered say the same of every feature."""
        return all(value.agrees for value in self.values)

    @property
    def is_checked(self) -> bool:
        """Whether every list of events gives its value."""
        return all(value.is_checked for value in self.values)

    def to_json(self) -> str:
        """Return the explanation as JSON, fields in the order they are declared."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}"}
        return title | msgspec.json.schema(cls)


def view_of(explanation: Explanation, value: Value) -> ViewFacts | None:
    """Return the view that has a feature's events; ``None`` for one computed on demand."""
    return next((view for view in explanation.views if view.alias == value.view), None)
