"""The events of a value, each with its fate and rule in words, and the computation of the value in one sentence.

All numbers come from the kernels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import Formatter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.core.statuses import Status
from featurestore.core.temporal import format_duration
from featurestore.guard.explain.entity import FATES, EntityEvents
from featurestore.guard.explain.report import (
    DUPLICATE,
    REJECTED,
    USED,
    Answer,
    Event,
)
from featurestore.guard.explain.words import (
    counted,
    expression_words,
    instant,
    numbered,
    shown,
    text,
)
from featurestore.kernels.evaluate import input_array
from featurestore.kernels.selection import Fate
from featurestore.plan.aggregations import AGGREGATES, End, Result, aggregate_of
from featurestore.plan.model import FeaturePlan


class EventList:
    """The events of one entity in one feature.

    Attributes:
        used: Numbers of the used events, ascending.
        counts: Count of events by fate, used events first.
    """

    def __init__(self, events: EntityEvents, feature: FeaturePlan) -> None:
        """Ask the kernels for the fates of the events."""
        self._events = events
        self._feature = feature
        self._codes = events.codes(feature)
        self.used = events.used(feature)
        # Expired events still outrank others.
        self._first = self.used if len(self.used) else np.flatnonzero(self._codes == int(Fate.EXPIRED))
        counts = {FATES[code]: count for code, count in Counter(self._codes.tolist()).items()}
        self.counts = dict(sorted(counts.items(), key=lambda item: (item[0] != USED, item[0])))

    def listed(self, value: Any, most: int) -> tuple[Event, ...]:
        """Return the events to list, oldest first.

        Args:
            value: The value of the feature, to mark the event that has it.
            most: Largest count of used events, and of other events.
        """
        numbers = self._events.listed(self._codes, most)
        rows = self._events.order[numbers]
        columns = self._events.rows.take(pa.array(rows)).to_pylist()
        values = self._values(rows)
        return tuple(
            self._event(number, row, of_row, used_value, value)
            for number, row, of_row, used_value in zip(numbers.tolist(), rows.tolist(), columns, values, strict=True)
        )

    def _event(self, number: int, row: int, columns: dict[str, Any], used_value: Any, value: Any) -> Event:
        feature, fate = self._feature, FATES[self._codes[number]]
        return Event(
            number=number + 1,
            event_time=instant(int(self._events.event_time[row])),
            ingest_time=instant(int(self._events.ingest_time[row])),
            columns={name: text(columns[name]) for name in self._decisive()},
            value=text(used_value),
            fate=fate,
            said="" if fate == USED else self._rule(fate, columns),
            is_value=fate == USED
            and aggregate_of(feature).result is Result.VALUE
            and value is not None
            and bool(used_value == value),
        )

    def _rule(self, fate: str, columns: dict[str, Any]) -> str:
        """Write the rule that excludes an event."""
        view, feature = self._events.view, self._feature
        source = view.inputs[feature.input]
        if fate == REJECTED:
            return f"the view's where is not true: {expression_words(view.where)}"
        if fate == DUPLICATE:
            return f"another delivery of {view.source.event_id} {columns[str(view.source.event_id)]} counts"
        rules: dict[Fate, Callable[[], str]] = {
            Fate.AFTER_HORIZON: lambda: "it happened after the event horizon",
            Fate.NOT_YET_KNOWN: lambda: "it was not yet known at the ingest horizon",
            Fate.BEFORE_WINDOW: lambda: "it happened before the window",
            Fate.NOT_MEMBER: lambda: f"the feature's where is not true: {expression_words(source.where)}",
            Fate.NULL: lambda: "its value is null, which is skipped",
            Fate.OUTRANKED: lambda: f"{numbered(self._first)} {self._ranked()} it",
            Fate.EXPIRED: lambda: f"older than the ttl of {format_duration(feature.ttl_us or 0)}",
        }
        return rules[Fate[fate.upper()]]()

    def _ranked(self) -> str:
        verb = "comes" if len(self._first) == 1 else "come"
        return f"{verb} {'before' if aggregate_of(self._feature).end is End.OLDEST else 'after'}"

    def _values(self, rows: npt.NDArray[np.int64]) -> Sequence[Any]:
        """Return the values of some rows that the aggregation would use; ``None`` for rows without such a value."""
        events = [row for row in rows.tolist() if self._events.is_event[row]]
        table = self._events.rows.take(pa.array(events, pa.int64()))
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        array, _ = input_array(self._events.view.inputs[self._feature.input], columns, len(events))
        values = {} if array is None else dict(zip(events, array.to_pylist(), strict=True))
        return [values.get(row) for row in rows.tolist()]

    def _decisive(self) -> list[str]:
        """Return the columns that decide about an event, beside keys and times."""
        view = self._events.view
        source = view.source
        names = set(view.inputs[self._feature.input].columns())
        names |= set() if view.where is None else view.where.columns()
        names |= set() if source.event_id is None else {source.event_id}
        return sorted(names - {source.event_time, source.ingest_time} - {key.name for key in view.entity.keys})


def arithmetic(events: EntityEvents, feature: FeaturePlan, listed: EventList, answer: Answer) -> str:
    """Write the computation of a feature of a view.

    Args:
        events: The events.
        feature: The feature.
        listed: The fates of the events.
        answer: The answer of the training path.
    """
    used = listed.used
    if answer.status == Status.NOT_FOUND.name:
        return "no event of this entity is visible, so the entity is not known"
    if answer.status == Status.EXPIRED.name:
        return f"the newest value is older than its ttl of {format_duration(feature.ttl_us or 0)}"
    aggregate = aggregate_of(feature)
    if len(used) == 0 and aggregate.over_no_rows is None:
        return "the entity is known, but no event has a value to use: null"
    noun = "event" if events.view.inputs[feature.input].value is None else "value"
    others = {str(name) for _, name, _, _ in Formatter().parse(aggregate.sentence)} & AGGREGATES.keys()
    fields = _options(feature) | {name: _of_same_events(events, feature, name) for name in others}
    return aggregate.sentence.format(
        value=shown(answer.value),
        events=counted(len(used), noun),
        number=len(used),
        used=numbered(used),
        members=len(used) + listed.counts.get("outranked", 0),
        **fields,
    )


def _options(feature: FeaturePlan) -> dict[str, str]:
    """Return the options of a feature by the names that users write; lengths of time are written as durations."""
    return {
        name.removesuffix("_us"): format_duration(int(str(value))) if name.endswith("_us") else str(value)
        for name, value in feature.params
    }


def _of_same_events(events: EntityEvents, feature: FeaturePlan, aggregation: str) -> str:
    """Return the value of another aggregation of the same events."""
    source = events.view.inputs[feature.input]
    assert source.value is not None
    dtype = AGGREGATES[aggregation].gives(source.value.dtype)
    assert isinstance(dtype, DType)
    values = events.answer(replace(feature, aggregation=aggregation, dtype=dtype, params=()))
    return "(too large for int64)" if values is None else shown(text(values.values[0].as_py()))
