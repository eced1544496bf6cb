"""The events of one entity in one view: read from the source, ordered, and with the fate of each in a feature.

The kernels order and select the events; this module asks them, and numbers the rows of the source accordingly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Bytes, Ints
from featurestore.core.errors import ValueOverflowError
from featurestore.core.temporal import NO_WATERMARK
from featurestore.guard.explain.report import DUPLICATE, REJECTED
from featurestore.guard.explain.words import bounds
from featurestore.guard.world.events import Arranged, Events, ReadEvents
from featurestore.guard.world.world import Values
from featurestore.kernels.evaluate import bind
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.kernels.selection import Fate, Selection
from featurestore.plan.model import FeaturePlan, ViewPlan


@dataclass(frozen=True)
class Candidates:
    """Rows of a source about one entity.

    Attributes:
        table: The events, each once.
        repeated: Repeated deliveries of events.
        other_spellings: Count of rows with other spellings of the key.
    """

    table: pa.Table
    repeated: pa.Table
    other_spellings: int


def read_candidates(view: ViewPlan, keys: Sequence[pa.Array], read: ReadEvents) -> Candidates:
    """Read the rows of a view's source about an entity.

    Args:
        view: The view.
        keys: The key of the entity, one row.
        read: Reads the events of an entity, including other spellings of its key.
    """
    rows = read(view, keys, False)
    table = _exact(view, keys, rows)
    repeated = table.slice(0, 0)
    if view.source.event_id is not None:
        every = _exact(view, keys, read(view, keys, True))
        if every.num_rows > table.num_rows:
            repeated = every.take(pa.array(list(_left_out(every.to_pylist(), table.to_pylist())), pa.int64()))
    return Candidates(table, repeated, rows.num_rows - table.num_rows)


def _exact(view: ViewPlan, keys: Sequence[pa.Array], table: pa.Table) -> pa.Table:
    index, _ = KeyIndex.build(keys)
    columns = [table.column(key.name).combine_chunks() for key in view.entity.keys]
    return table.filter(pa.array(index.codes(columns) != UNKNOWN)).combine_chunks()


def _left_out(every: list[dict[str, Any]], kept: list[dict[str, Any]]) -> Iterator[int]:
    """Yield the places of rows that are not in ``kept``, which has the same order."""
    place = 0
    for number, row in enumerate(every):
        if place < len(kept) and row == kept[place]:
            place += 1
        else:
            yield number


FATES = (*(fate.name.lower() for fate in Fate), REJECTED, DUPLICATE)
"""Names of fates by code: those of the kernels, then those of rows that are not events of the view."""

_USED = int(Fate.USED)
_REJECTED, _DUPLICATE = len(Fate), len(Fate) + 1


class EntityEvents:
    """The events of one entity, as one view reads them at one instant.

    Rows of the source are numbered by time, from 0: events in the order of the kernels, and among them the rows that
    are not events of the view.

    Attributes:
        view: The view.
        as_of_us: The instant asked about.
        candidates: The rows of its source.
        rows: All rows, repeated deliveries last.
        order: Row of each number.
        event_time: Per row, µs.
        ingest_time: Per row, µs.
        is_event: Per row, whether it is an event of the view.
    """

    def __init__(self, view: ViewPlan, candidates: Candidates, as_of_us: int) -> None:
        """Order the events.

        Args:
            view: The view.
            candidates: The rows of its source.
            as_of_us: The instant asked about.
        """
        self.view = view
        self.as_of_us = as_of_us
        self.candidates = candidates
        self.rows = pa.concat_tables([candidates.table, candidates.repeated]).combine_chunks()
        self.event_time = _instants(self.rows, view.source.event_time)
        self.ingest_time = _instants(self.rows, view.source.ingest_time or view.source.event_time)
        self._arranged = self._arrange(candidates.table)
        place = np.full(self.rows.num_rows, self.rows.num_rows, dtype=np.int64)
        place[self._arranged.rows] = np.arange(len(self._arranged.rows))
        self.is_event = place < self.rows.num_rows
        self.order: Ints = np.lexsort([place, self.ingest_time, self.event_time]).astype(np.int64)
        self._number_of_row = np.empty_like(self.order)
        self._number_of_row[self.order] = np.arange(len(self.order))
        self._selections: dict[int, Selection] = {}

    @property
    def newest_visible(self) -> int | None:
        """Number of the newest visible event; ``None`` if there is none."""
        place = self._selection(NO_WATERMARK).newest
        return None if place < 0 else int(self._number_of_row[self._arranged.rows[place]])

    def answer(
        self, feature: FeaturePlan, *, rows: Ints | None = None, watermark_us: int = NO_WATERMARK
    ) -> Values | None:
        """Compute a feature with the kernels.

        Args:
            feature: The feature, or another feature of an input of the view.
            rows: Rows of the table to use; ``None`` for all.
            watermark_us: Exclusive bound of the ingest times that are complete.

        Returns:
            The value, one row; ``None`` if an integer sum does not fit.
        """
        block = self._arranged.block
        if rows is not None:
            block = self._arrange(self.candidates.table.take(pa.array(rows))).block
        entity = np.array([0 if len(block.offsets) > 1 else -1], dtype=np.int64)
        as_of = np.array([self.as_of_us], dtype=np.int64)
        try:
            features = bind(replace(self.view, features=(feature,))).evaluate(
                block, entity, as_of, watermark=watermark_us
            )
        except ValueOverflowError:
            return None
        return Values(features.column(0), features.statuses[0])

    def from_used(self, feature: FeaturePlan) -> Values | None:
        """Compute a feature with the kernels from its used events alone.

        The newest visible event is included: it makes the entity known if there is no value.
        """
        selection = self._selection(NO_WATERMARK)
        fates = selection.fates(feature)
        chosen = (fates == Fate.USED) | (fates == Fate.EXPIRED)
        if selection.newest >= 0:
            chosen[selection.newest] = True
        return self.answer(feature, rows=np.sort(self._arranged.rows[chosen]))

    def codes(self, feature: FeaturePlan, *, watermark_us: int = NO_WATERMARK) -> Bytes:
        """Return the fate of each number, a place in ``FATES``."""
        by_row = np.full(self.rows.num_rows, _REJECTED, dtype=np.uint8)
        by_row[self.candidates.table.num_rows :] = _DUPLICATE
        by_row[self._arranged.rows] = self._selection(watermark_us).fates(feature)
        return by_row[self.order]

    def used(self, feature: FeaturePlan, *, watermark_us: int = NO_WATERMARK) -> Ints:
        """Return the numbers of the events used."""
        return np.flatnonzero(self.codes(feature, watermark_us=watermark_us) == _USED)

    def listed(self, codes: Bytes, most: int) -> Ints:
        """Return the numbers of the events to list, ascending.

        These are the newest used events, and of the other events those nearest to the event horizon, the fates in turn.

        Args:
            codes: The fates.
            most: Largest count of used events, and of other events.
        """
        used = np.flatnonzero(codes == _USED)
        event_bound, _ = bounds(self.view, self.as_of_us)
        distance = np.abs(self.event_time[self.order] - event_bound)
        ranked: list[tuple[int, int, int]] = []
        for code in np.unique(codes[codes != _USED]).tolist():
            numbers = np.flatnonzero(codes == code)
            nearest = numbers[np.argsort(distance[numbers], kind="stable")[:most]]
            ranked += zip(range(most), distance[nearest].tolist(), nearest.tolist(), strict=False)
        others = [number for _, _, number in sorted(ranked)[:most]]
        return np.sort(np.concatenate([used[len(used) - min(most, len(used)) :], np.array(others, dtype=np.int64)]))

    def _selection(self, watermark_us: int) -> Selection:
        if watermark_us not in self._selections:
            self._selections[watermark_us] = Selection(
                self.view, self._arranged.block, self.as_of_us, watermark=watermark_us
            )
        return self._selections[watermark_us]

    def _arrange(self, table: pa.Table) -> Arranged:
        return Events(table, tuple(key.name for key in self.view.entity.keys)).arranged(self.view)


def _instants(table: pa.Table, name: str) -> Ints:
    column = table.column(name).combine_chunks().cast(pa.int64())
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.int64)
