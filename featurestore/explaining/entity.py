"""One entity's events in one view: which there are, and what became of each in a feature.

The kernels order and select; what stands here asks them, and lays their answers out event by event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import ValueOverflowError
from featurestore.explaining.model import DUPLICATE, REJECTED, Event
from featurestore.explaining.words import instant, numbered, text, window_words
from featurestore.kernels.evaluate import bind, input_array
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.kernels.selection import Fate, Selection
from featurestore.plan.model import FeaturePlan, ViewPlan
from featurestore.skew.causes.changes import shown as expression_text
from featurestore.skew.causes.events import Arranged, Events, ReadEvents
from featurestore.skew.causes.world import Values
from featurestore.temporal import NO_WATERMARK, format_duration

Ints = npt.NDArray[np.int64]

_VALUE_IS_AN_EVENTS = frozenset({"min", "max", "mode", "first", "last"})


@dataclass(frozen=True)
class Candidates:
    """Rows of a source about one entity.

    Attributes:
        table: Its events, each once.
        repeated: Deliveries of events of which another delivery counts.
        other_spellings: Rows of keys that are almost the same.
    """

    table: pa.Table
    repeated: pa.Table
    other_spellings: int


def read_candidates(view: ViewPlan, keys: Sequence[pa.Array], read: ReadEvents) -> Candidates:
    """Read what a view's source has about an entity.

    Args:
        view: The view.
        keys: The entity's key, one row.
        read: Reads the events of an entity, and of keys that are spelled alike.
    """
    found = read(view, keys, False)
    table = _exact(view, keys, found)
    repeated = table.slice(0, 0)
    if view.source.event_id is not None:
        every = _exact(view, keys, read(view, keys, True))
        if every.num_rows > table.num_rows:
            repeated = every.take(pa.array(list(_left_out(every.to_pylist(), table.to_pylist())), pa.int64()))
    return Candidates(table, repeated, found.num_rows - table.num_rows)


def _exact(view: ViewPlan, keys: Sequence[pa.Array], table: pa.Table) -> pa.Table:
    index, _ = KeyIndex.build(keys)
    own = [table.column(key.name).combine_chunks() for key in view.entity.keys]
    return table.filter(pa.array(index.codes(own) != UNKNOWN)).combine_chunks()


def _left_out(every: list[dict[str, Any]], kept: list[dict[str, Any]]) -> Iterator[int]:
    """Yield the places of rows that were left out; those kept stand in the same order."""
    place = 0
    for number, row in enumerate(every):
        if place < len(kept) and row == kept[place]:
            place += 1
        else:
            yield number


class EntityEvents:
    """One entity's events, as one view reads them at one instant.

    Attributes:
        view: The view.
        candidates: The rows of its source.
        newest_visible: Number of the newest visible event; ``None`` if the entity is not known.
    """

    def __init__(self, view: ViewPlan, candidates: Candidates, as_of_us: int) -> None:
        """Arrange the events.

        Args:
            view: The view.
            candidates: The rows of its source.
            as_of_us: The instant asked about.
        """
        self.view = view
        self.candidates = candidates
        self._as_of_us = as_of_us
        self._arranged = self._arrange(candidates.table)
        self._selections: dict[int, Selection] = {}
        newest = self._selection(NO_WATERMARK).newest
        self.newest_visible = None if newest < 0 else self._number_of_place(newest)

    def answer(
        self, feature: FeaturePlan, *, rows: Ints | None = None, watermark_us: int = NO_WATERMARK
    ) -> Values | None:
        """Let the kernels compute a feature.

        Args:
            feature: The feature, or another one over an input of the view.
            rows: Only from these rows of the table.
            watermark_us: Exclusive bound of the ingest times that are known in full.

        Returns:
            The value, one row; ``None`` if an integer sum does not fit.
        """
        block = self._arranged.block
        if rows is not None:
            block = self._arrange(self.candidates.table.take(pa.array(rows))).block
        entity = np.array([0 if len(block.offsets) > 1 else -1], dtype=np.int64)
        as_of = np.array([self._as_of_us], dtype=np.int64)
        try:
            found = bind(replace(self.view, features=(feature,))).evaluate(block, entity, as_of, watermark=watermark_us)
        except ValueOverflowError:
            return None
        return Values(found.column(0), found.statuses[0])

    def from_used(self, feature: FeaturePlan) -> Values | None:
        """Let the kernels compute a feature from nothing but the events listed as used.

        The newest visible event comes along: by it an entity is known that has no value.
        """
        selection = self._selection(NO_WATERMARK)
        fates = selection.fates(feature)
        chosen = (fates == Fate.USED) | (fates == Fate.EXPIRED)
        if selection.newest >= 0:
            chosen[selection.newest] = True
        return self.answer(feature, rows=np.sort(self._arranged.rows[chosen]))

    def used(self, feature: FeaturePlan, *, watermark_us: int = NO_WATERMARK) -> list[int]:
        """Return the numbers of the events used."""
        fates = self._selection(watermark_us).fates(feature)
        return [self._number_of_place(int(place)) for place in np.flatnonzero(fates == Fate.USED)]

    def fates(self, feature: FeaturePlan) -> dict[str, int]:
        """Return how many rows came to which fate."""
        counts = Counter(fate for fate in self._fates(feature) if fate is not None)
        return dict(sorted(counts.items(), key=lambda item: (item[0] != Fate.USED.name.lower(), item[0])))

    def events(self, feature: FeaturePlan, value: Any, most: int) -> tuple[Event, ...]:
        """Return the events, oldest first: of those used and of the others the newest ones each.

        Args:
            feature: The feature.
            value: Its value, to tell whose it is.
            most: How many of either kind.
        """
        fates = self._fates(feature)
        is_used = [fate == Fate.USED.name.lower() for fate in fates]
        used = [place for place, claim in enumerate(is_used) if claim]
        others = [place for place, claim in enumerate(is_used) if not claim]
        chosen = sorted((used[-most:] if most else []) + (others[-most:] if most else []))
        picked = [number + 1 for number in used]
        values = self._values(feature, [self._order[place] for place in chosen])
        return tuple(
            self._event(feature, place, fates[place], picked, found, value)
            for place, found in zip(chosen, values, strict=True)
        )

    def _event(self, feature: FeaturePlan, place: int, fate: str, used: list[int], found: Any, value: Any) -> Event:
        row = self._row(self._order[place])
        is_used = fate == Fate.USED.name.lower()
        return Event(
            number=place + 1,
            event_time=instant(self._times[0][self._order[place]]),
            ingest_time=instant(self._times[1][self._order[place]]),
            columns={name: text(row[name]) for name in self._decisive(feature)},
            value=text(found),
            fate=fate,
            said="" if is_used else self._said(feature, fate, used, row),
            is_value=is_used and feature.aggregation in _VALUE_IS_AN_EVENTS and value is not None and found == value,
        )

    def _said(self, feature: FeaturePlan, fate: str, used: list[int], row: dict[str, Any]) -> str:
        """Say the rule that keeps an event out."""
        source = self.view.inputs[feature.input]
        if fate == REJECTED:
            assert self.view.where is not None
            return f"the view's where is not true: {expression_text(self.view.where)}"
        if fate == DUPLICATE:
            return f"another delivery of {self.view.source.event_id} {row[str(self.view.source.event_id)]} counts"
        rules: dict[Fate, Callable[[], str]] = {
            Fate.AFTER_HORIZON: lambda: "it happened after the event horizon",
            Fate.NOT_YET_KNOWN: lambda: "it was not yet known at the ingest horizon",
            Fate.BEFORE_WINDOW: lambda: f"before the window, which begins at {self._window(feature)}",
            Fate.NOT_MEMBER: lambda: (
                f"the feature's where is not true: {expression_text(source.where) if source.where else ''}"
            ),
            Fate.NULL: lambda: "its value is null, which is skipped",
            Fate.OUTRANKED: lambda: (
                f"{numbered(used)} {'come' if len(used) > 1 else 'comes'}"
                f" {'before' if feature.aggregation.startswith('first') else 'after'} it"
            ),
            Fate.EXPIRED: lambda: f"older than the ttl of {format_duration(feature.ttl_us or 0)}",
        }
        return rules[Fate[fate.upper()]]()

    def _window(self, feature: FeaturePlan) -> str:
        return window_words(self.view, feature, self._as_of_us)

    def _values(self, feature: FeaturePlan, rows: list[int]) -> list[Any]:
        """Return what the aggregation would fold of some rows; ``None`` where it folds nothing."""
        count = self.candidates.table.num_rows
        arranged = set(self._arranged.rows.tolist())
        own = [row for row in rows if row < count and row in arranged]
        source = self.view.inputs[feature.input]
        taken = self.candidates.table.take(pa.array(own, pa.int64()))
        columns = {name: taken.column(name).combine_chunks() for name in taken.column_names}
        array, _ = input_array(source, columns, len(own))
        found = {} if array is None else dict(zip(own, array.to_pylist(), strict=True))
        return [found.get(row) for row in rows]

    def _decisive(self, feature: FeaturePlan) -> list[str]:
        """Return the columns that decide about an event, beside keys and times."""
        source = self.view.source
        names = set(self.view.inputs[feature.input].columns())
        names |= set() if self.view.where is None else self.view.where.columns()
        names |= set() if source.event_id is None else {source.event_id}
        return sorted(names - {source.event_time, source.ingest_time} - {key.name for key in self.view.entity.keys})

    def _selection(self, watermark_us: int) -> Selection:
        if watermark_us not in self._selections:
            self._selections[watermark_us] = Selection(
                self.view, self._arranged.block, self._as_of_us, watermark=watermark_us
            )
        return self._selections[watermark_us]

    def _arrange(self, table: pa.Table) -> Arranged:
        return Events(table, tuple(key.name for key in self.view.entity.keys)).arranged(self.view)

    def _fates(self, feature: FeaturePlan) -> list[str]:
        """Return the fate of each row, in the order of numbers."""
        found = [DUPLICATE if row >= self.candidates.table.num_rows else REJECTED for row in range(len(self._times[0]))]
        fates = self._selection(NO_WATERMARK).fates(feature)
        for row, fate in zip(self._arranged.rows.tolist(), fates.tolist(), strict=True):
            found[row] = Fate(fate).name.lower()
        return [found[row] for row in self._order]

    def _row(self, row: int) -> dict[str, Any]:
        count = self.candidates.table.num_rows
        table = self.candidates.table if row < count else self.candidates.repeated
        found: dict[str, Any] = table.slice(row if row < count else row - count, 1).to_pylist()[0]
        return found

    @cached_property
    def _times(self) -> tuple[list[int], list[int]]:
        """Event and ingest times of all rows, those of repeated deliveries last."""
        source = self.view.source
        both = pa.concat_tables([self.candidates.table, self.candidates.repeated])
        event_time = both.column(source.event_time).cast(pa.int64()).to_pylist()
        ingest = source.ingest_time
        return event_time, event_time if ingest is None else both.column(ingest).cast(pa.int64()).to_pylist()

    @cached_property
    def _order(self) -> list[int]:
        """All rows as they are numbered: by time, and as the kernels order those of equal times."""
        place_of = {row: place for place, row in enumerate(self._arranged.rows.tolist())}
        event_times, ingest_times = self._times
        last = len(event_times)
        return sorted(range(last), key=lambda row: (event_times[row], ingest_times[row], place_of.get(row, last), row))

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {row: place + 1 for place, row in enumerate(self._order)}

    def _number_of_place(self, place: int) -> int:
        return self._numbers[int(self._arranged.rows[place])]
