"""Events of the entities that an audit is about, arranged for the kernels in the orders it may suspect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Ints, Words
from featurestore.core.temporal import NOTHING_YET
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import EventBlock, PreparedEvents, arrange, take_columns, tied_places, time_order
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import ViewPlan
from featurestore.sources.content import row_hashes

TieOrder = Literal["content", "content reversed", "source", "source reversed"]
"""The order of events with equal times: by content as the contract says, by rows of the source, or one reversed."""

ReadEvents = Callable[[ViewPlan, Sequence[pa.Array], bool], pa.Table]
"""Reads the events of some entities, given by key columns; with every delivery of an event if the last argument is
true. Columns are those of the view's source plan, in contract dtypes."""

CountEvents = Callable[[ViewPlan, Sequence[pa.Array]], Ints]
"""Counts the events of entities given by key columns, row by row, whatever the spelling of the key."""


@dataclass(frozen=True)
class Arranged:
    """A block of events, and the row of the table behind each place.

    Attributes:
        block: Events in kernel order.
        rows: Per place the row of the table.
    """

    block: EventBlock
    rows: Ints


@dataclass(eq=False)
class Events:
    """A table of events; the blocks arranged from it are cached.

    Attributes:
        table: The source's columns that a view needs.
        keys: Names of the key columns, in entity order.
        delays: Numbers of events that became known later than they say, and for each the instant from which on, µs.
        numbers: Per row of the table the number that identifies the event in all tables taken from this one; ``None``
            for the number of the row. Rows that are one event have the same number.
    """

    table: pa.Table
    keys: tuple[str, ...]
    delays: tuple[Ints, Ints] | None = None
    numbers: Ints | None = None
    _arranged: dict[tuple[str, bool, TieOrder], Arranged] = field(default_factory=dict)

    @cached_property
    def index(self) -> tuple[KeyIndex, Ints]:
        """The distinct keys, and the code of each event."""
        return KeyIndex.build([self.table.column(name).combine_chunks() for name in self.keys])

    def numbers_of(self, rows: Ints) -> Ints:
        """Return the numbers of the events in some rows of the table."""
        return rows if self.numbers is None else self.numbers[rows]

    def rows_of(self, numbers: Ints) -> Ints:
        """Return for each of some events that is in the table a row that holds it."""
        if self.numbers is None:
            rows = numbers[numbers < self.table.num_rows]
        elif len(self.numbers) == 0:
            rows = np.zeros(0, dtype=np.int64)
        else:
            order = np.argsort(self.numbers, kind="stable")
            place = np.searchsorted(self.numbers[order], numbers)
            rows = order[np.minimum(place, len(order) - 1)]
            rows = rows[self.numbers[rows] == numbers]
        return np.asarray(rows, dtype=np.int64)

    @cached_property
    def hashes(self) -> Words:
        """A hash of each row by which it is found again in the source (``sources.content``)."""
        return row_hashes(self.table)

    @cached_property
    def loose_index(self) -> tuple[KeyIndex, Ints]:
        """The distinct keys, with the spellings of a text unified, and the code of each event."""
        return KeyIndex.build([loose(self.table.column(name).combine_chunks()) for name in self.keys])

    def only(self, keys: Sequence[pa.Array]) -> Events:
        """Return the events of some entities, given by key columns in any spelling."""
        index, codes = self.loose_index
        keys = [loose(key) for key in keys]
        wanted = np.zeros(len(index) + 1, dtype=np.bool_)
        wanted[index.codes(keys)] = True
        wanted[-1] = False
        rows = np.flatnonzero(wanted[codes])
        if len(rows) == self.table.num_rows:
            return self
        return Events(self.table.take(pa.array(rows)).combine_chunks(), self.keys, self.delays, self.numbers_of(rows))

    def arranged(self, view: ViewPlan, *, hindsight: bool = False, ties: TieOrder = "content") -> Arranged:
        """Return the events as a view reads them.

        Args:
            view: The view, with all inputs by which it orders events.
            hindsight: Whether every event counts as known from its event time on.
            ties: The order of events with equal times.
        """
        key = (repr((view.where, view.inputs, view.source)), hindsight, ties)
        if key not in self._arranged:
            self._arranged[key] = self._arrange(view, hindsight, ties)
        return self._arranged[key]

    def _arrange(self, view: ViewPlan, hindsight: bool, ties: TieOrder) -> Arranged:
        index, codes = self.index
        prepared = bind(view).prepare(self.table)
        if hindsight:
            prepared = replace(prepared, ingest_time=prepared.event_time)
        if self.delays is not None:
            prepared = replace(prepared, ingest_time=_delayed(prepared, self.numbers_of(prepared.rows), *self.delays))
        entity = codes[prepared.rows]
        # The rows are one more input, so that the order shows where each event came from.
        rows = np.arange(len(prepared), dtype=np.int64)
        tagged = replace(
            prepared,
            values=np.vstack([prepared.values, rows[None, :]]),
            flags=np.vstack([prepared.flags, np.zeros((1, len(rows)), dtype=np.uint8)]),
            dictionaries=(*prepared.dictionaries, None),
            is_float=(*prepared.is_float, False),
        )
        if ties == "content":
            block = arrange(tagged, entity, len(index))
            order = block.values[-1]
        else:
            order, _, _ = time_order(entity, len(index), tagged.event_time, tagged.ingest_time)
            block = arrange(tagged, entity, len(index))
            if ties == "content reversed":
                order = block.values[-1].copy()
            if ties != "source":
                order = _reversed_ties(block, order)
        return Arranged(
            EventBlock(
                offsets=block.offsets,
                event_time=prepared.event_time[order],
                ingest_time=prepared.ingest_time[order],
                values=take_columns(prepared.values, order),
                flags=take_columns(prepared.flags, order),
                dictionaries=prepared.dictionaries,
            ),
            prepared.rows[order],
        )


def loose(column: pa.Array) -> pa.Array:
    """Return a key column with the spellings of a text unified.

    Case, surrounding spaces, leading zeros and the ``.0`` of a float are ignored.
    """
    if not pa.types.is_string(column.type):
        return column
    encoded = column.dictionary_encode()
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(encoded.dictionary))
    texts = pc.utf8_ltrim(pc.replace_substring_regex(texts, r"^(-?[0-9]+)\.0*$", r"\1"), "0")
    return texts.take(encoded.indices)


def _delayed(prepared: PreparedEvents, numbers: Ints, delayed: Ints, instants: Ints) -> Ints:
    """Return ingest times with those of some events moved; of several instants of an event the last in order holds."""
    order = np.argsort(delayed, kind="stable")
    place = np.searchsorted(delayed[order], numbers, side="right") - 1
    is_delayed = (place >= 0) & (delayed[order[np.maximum(place, 0)]] == numbers)
    until = np.where(is_delayed, instants[order[np.maximum(place, 0)]], NOTHING_YET)
    return np.maximum(prepared.ingest_time, until)


def _reversed_ties(block: EventBlock, order: Ints) -> Ints:
    """Reverse every run of events equal in entity and both times."""
    places, runs = tied_places(
        block.offsets, np.arange(len(block), dtype=np.int64), block.event_time, block.ingest_time
    )
    reversed_order = order.copy()
    reversed_order[places] = order[places[np.lexsort([-places, runs])]]
    return reversed_order


def pick(block: EventBlock, places: Ints, offsets: Ints) -> EventBlock:
    """Return a block of chosen places of another; each place may be chosen several times, in ascending order.

    Args:
        block: The other block.
        places: Places in it, entity by entity.
        offsets: Bounds of the new entities within ``places``.
    """
    return EventBlock(
        offsets=offsets,
        event_time=block.event_time[places],
        ingest_time=block.ingest_time[places],
        values=take_columns(block.values, places),
        flags=take_columns(block.flags, places),
        dictionaries=block.dictionaries,
    )


def join_ranges(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Return the numbers of several ranges, one range after the other, and the offsets of the ranges.

    Example:
        >>> [part.tolist() for part in join_ranges(np.array([0, 5]), np.array([2, 7]))]
        [[0, 1, 5, 6], [0, 2, 4]]
    """
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1] - begin, lengths)
    return places, offsets
