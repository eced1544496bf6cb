"""The list of a value's events: what became of each, the rule in words, and the columns that decide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.temporal import format_duration
from featurestore.guard.explain.entity import FATES, EntityEvents
from featurestore.guard.explain.model import (
    DUPLICATE,
    REJECTED,
    USED,
    Event,
)
from featurestore.guard.explain.words import (
    expression_words,
    instant,
    numbered,
    text,
)
from featurestore.kernels.evaluate import input_array
from featurestore.kernels.selection import Fate
from featurestore.plan.aggregations import End, Result, aggregate_of
from featurestore.plan.model import FeaturePlan


class EventList:
    """Events of one entity in one feature.

    Attributes:
        used: Numbers of the events used, ascending.
        counts: How many events came to which fate, those used first.
    """

    def __init__(self, events: EntityEvents, feature: FeaturePlan) -> None:
        """Ask what became of the events."""
        self._events = events
        self._feature = feature
        self._codes = events.codes(feature)
        self.used = events.used(feature)
        # Events that expired took precedence all the same.
        self._first = self.used if len(self.used) else np.flatnonzero(self._codes == int(Fate.EXPIRED))
        found = {FATES[code]: count for code, count in Counter(self._codes.tolist()).items()}
        self.counts = dict(sorted(found.items(), key=lambda item: (item[0] != USED, item[0])))

    def telling(self, value: Any, most: int) -> tuple[Event, ...]:
        """Return the events worth listing, oldest first.

        Args:
            value: The feature's value, to tell whose it is.
            most: How many of those used, and of the others.
        """
        numbers = self._events.telling(self._codes, most)
        rows = self._events.order[numbers]
        taken = self._events.rows.take(pa.array(rows)).to_pylist()
        values = self._values(rows)
        return tuple(
            self._event(number, row, columns, found, value)
            for number, row, columns, found in zip(numbers.tolist(), rows.tolist(), taken, values, strict=True)
        )

    def _event(self, number: int, row: int, columns: dict[str, Any], found: Any, value: Any) -> Event:
        feature, fate = self._feature, FATES[self._codes[number]]
        return Event(
            number=number + 1,
            event_time=instant(int(self._events.event_time[row])),
            ingest_time=instant(int(self._events.ingest_time[row])),
            columns={name: text(columns[name]) for name in self._decisive()},
            value=text(found),
            fate=fate,
            said="" if fate == USED else self._said(fate, columns),
            is_value=fate == USED
            and aggregate_of(feature).result is Result.VALUE
            and value is not None
            and bool(found == value),
        )

    def _said(self, fate: str, columns: dict[str, Any]) -> str:
        """Say the rule that keeps an event out."""
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
        """Return what the aggregation would fold of some rows; ``None`` where it folds nothing."""
        own = [row for row in rows.tolist() if self._events.is_event[row]]
        taken = self._events.rows.take(pa.array(own, pa.int64()))
        columns = {name: taken.column(name).combine_chunks() for name in taken.column_names}
        array, _ = input_array(self._events.view.inputs[self._feature.input], columns, len(own))
        found = {} if array is None else dict(zip(own, array.to_pylist(), strict=True))
        return [found.get(row) for row in rows.tolist()]

    def _decisive(self) -> list[str]:
        """Return the columns that decide about an event, beside keys and times."""
        view = self._events.view
        source = view.source
        names = set(view.inputs[self._feature.input].columns())
        names |= set() if view.where is None else view.where.columns()
        names |= set() if source.event_id is None else {source.event_id}
        return sorted(names - {source.event_time, source.ingest_time} - {key.name for key in view.entity.keys})
