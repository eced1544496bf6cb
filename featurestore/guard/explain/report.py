"""An explanation, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from featurestore.guard.report import Report

USED = "used"
REJECTED = "rejected"
DUPLICATE = "duplicate"
"""Fates of events; the other fates are those of ``kernels.selection.Fate``, in lower case."""


@dataclass(frozen=True)
class Answer:
    """The answer of a path.

    Attributes:
        value: The value as text; ``None`` is null.
        status: Name of the status.
    """

    value: str | None
    status: str


@dataclass(frozen=True)
class PathAnswer:
    """The answer of another path, compared with the training path.

    Attributes:
        told: The answer; ``None`` if there is none.
        agrees: Whether it is equal to the bit, including the status; ``None`` if there is no answer.
        said: Why there is no answer, or the cause of the difference if it is known.
    """

    told: Answer | None
    agrees: bool | None = None
    said: str = ""


@dataclass(frozen=True)
class Event:
    """One event of the entity.

    Attributes:
        number: Place in the order of the kernels, from 1; rows that are not events of the view are among them by time.
        event_time: When it happened.
        ingest_time: When it became known.
        columns: The columns that decide about it, as text.
        value: The value that the aggregation would use, as text; ``None`` for null, and if events are counted.
        fate: ``"used"``, or the rule that excludes it.
        said: The rule in words; empty if it is used.
        is_value: Whether the value of the feature is the value of this event.
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
    """One operand of an on-demand feature."""

    name: str
    kind: str
    value: str | None


@dataclass(frozen=True)
class Value:
    """One feature, explained.

    Attributes:
        name: Column of the answer; ``alias__feature`` for an operand that is not a column of it.
        dtype: Its dtype.
        declared: Its definition.
        offline: Answer of the training path.
        online: Answer of the online path at the same instant.
        served: Answer in the serving log; ``None`` if none was logged.
        arithmetic: The computation of the value in words.
        is_checked: Whether evaluating the plan with the used events alone gives the same bits.
        view: Alias of the view that has its events; empty for an on-demand feature.
        window_start: First instant of the window; empty if it has none.
        fates: Count of events by fate.
        events: Events in the order of the kernels, newest last; not all of them if there are many.
        operands: The operands of an on-demand feature.
    """

    name: str
    dtype: str
    declared: str
    offline: Answer
    online: PathAnswer
    served: PathAnswer | None
    arithmetic: str
    is_checked: bool
    view: str = ""
    window_start: str = ""
    fates: dict[str, int] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    operands: tuple[Operand, ...] = ()

    @property
    def agrees(self) -> bool:
        """Whether no path differs from the training path."""
        return not any(path is not None and path.agrees is False for path in (self.online, self.served))


@dataclass(frozen=True)
class StateFacts:
    """The completeness of a view's state when it answered.

    Attributes:
        watermark: The state has every event that became known before this instant.
        is_stale: Whether the watermark is behind the refresh.
    """

    watermark: str
    is_stale: bool


@dataclass(frozen=True)
class ViewFacts:
    """Facts about a view, the same for all its features.

    Attributes:
        alias: Name of the view in the service.
        view: Name of the view.
        source: Name of its source.
        keys: The key of the entity, as text.
        refresh: Its refresh policy in words.
        visible: The events that a question may see, in words: both horizons.
        event_horizon: Exclusive bound of event times.
        ingest_horizon: Exclusive bound of ingest times.
        where: Condition of the view; empty if it has none.
        rows: Count of rows of the entity in the source, with every delivery.
        newest_visible: Number of the newest visible event; ``None`` if the entity has none.
        other_spellings: Rows whose key differs only by case, spaces around it or leading zeros.
        online: Completeness of the state that answered online; ``None`` if it did not answer.
        served: Completeness of the state that answered then; ``None`` if no such answer is known.
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
class Explanation(Report):
    """Why the features of one entity have their values.

    Attributes:
        service: Name of the service.
        fingerprint: Fingerprint of the plan.
        keys: The key of the entity, as text.
        requests: The request inputs, as text.
        as_of: Instant asked about.
        values: The features, then the operands that are not columns of the answer.
        views: The views of the features.
        served: The row of the serving log about this entity and instant; ``None`` if there is none.
        notes: Notes for readers.
        schema: Name and version of the JSON form.
    """

    SCHEMA: ClassVar[str] = "featurestore-explanation-1"
    KIND: ClassVar[str] = "explanation"

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
        """Whether all paths that answered agree on every feature."""
        return all(value.agrees for value in self.values)

    @property
    def is_checked(self) -> bool:
        """Whether every list of events was checked."""
        return all(value.is_checked for value in self.values)


def view_of(explanation: Explanation, value: Value) -> ViewFacts | None:
    """Return the view that has the events of a feature; ``None`` for an on-demand feature."""
    return next((view for view in explanation.views if view.alias == value.view), None)
