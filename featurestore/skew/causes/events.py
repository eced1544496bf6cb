"""Events of the entities that an audit has questions about, arranged for the kernels in the orders it may suspect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import EventBlock, PreparedEvents, arrange, take_columns, tied_places, time_order
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import Plan, ViewPlan
from featurestore.temporal import NOTHING_YET

Ints = npt.NDArray[np.int64]

TieOrder = Literal["content", "content reversed", "source", "source reversed"]
"""How events of equal times stand: by content as the contract says, by rows of the source, or either backwards."""

ReadEvents = Callable[[ViewPlan, Sequence[pa.Array], bool], pa.Table]
"""Reads the events of some entities, given by key columns; with every delivery of an event if the last argument says
so. Columns are those of the view's source plan, in contract dtypes."""


@dataclass(frozen=True)
class Arranged:
    """A block of events and which row of the table each place holds.

    Attributes:
        block: Events in kernel order.
        rows: Per place the row of the table.
    """

    block: EventBlock
    rows: Ints


@dataclass(eq=False)
class Events:
    """A table of events; blocks made of it are kept as long as it lives.

    Attributes:
        table: The source's columns that a view needs.
        keys: Names of the key columns, in entity order.
        delays: Rows of the table that became known only later than they say, and from when on.
    """

    table: pa.Table
    keys: tuple[str, ...]
    delays: tuple[Ints, Ints] | None = None
    _arranged: dict[tuple[str, bool, TieOrder], Arranged] = field(default_factory=dict)

    @cached_property
    def index(self) -> tuple[KeyIndex, Ints]:
        """The distinct keys, and the code of each event."""
        return KeyIndex.build([self.table.column(name).combine_chunks() for name in self.keys])

    def arranged(self, view: ViewPlan, *, hindsight: bool = False, ties: TieOrder = "content") -> Arranged:
        """Return the events as a view reads them.

        Args:
            view: The view, with all inputs by which it orders events.
            hindsight: Whether every event counts as known from its event time on.
            ties: How events of equal times stand.
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
            prepared = replace(prepared, ingest_time=_delayed(prepared, *self.delays))
        own = codes[prepared.rows]
        # A second, tagged set of rows rides along as one more input, so that the order tells where events came from.
        rows = np.arange(len(prepared), dtype=np.int64)
        tagged = replace(
            prepared,
            values=np.vstack([prepared.values, rows[None, :]]),
            flags=np.vstack([prepared.flags, np.zeros((1, len(rows)), dtype=np.uint8)]),
            dictionaries=(*prepared.dictionaries, None),
            is_float=(*prepared.is_float, False),
        )
        if ties == "content":
            block = arrange(tagged, own, len(index))
            order = block.values[-1]
        else:
            order, _, _ = time_order(own, len(index), tagged.event_time, tagged.ingest_time)
            block = arrange(tagged, own, len(index))
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


def _delayed(prepared: PreparedEvents, rows: Ints, instants: Ints) -> Ints:
    """Return ingest times with those of some rows of the table moved."""
    moved = np.full(max(int(prepared.rows.max(initial=0)), int(rows.max(initial=0))) + 1, NOTHING_YET, dtype=np.int64)
    moved[rows] = instants
    return np.maximum(prepared.ingest_time, moved[prepared.rows])


def _reversed_ties(block: EventBlock, order: Ints) -> Ints:
    """Turn every run of events equal in entity and both times around."""
    places, runs = tied_places(
        block.offsets, np.arange(len(block), dtype=np.int64), block.event_time, block.ingest_time
    )
    turned = order.copy()
    turned[places] = order[places[np.lexsort([-places, runs])]]
    return turned


def picked(block: EventBlock, places: Ints, offsets: Ints) -> EventBlock:
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


def spread(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Return all whole numbers of several ranges behind each other, and the offsets of the ranges.

    Example:
        >>> [part.tolist() for part in spread(np.array([0, 5]), np.array([2, 7]))]
        [[0, 1, 5, 6], [0, 2, 4]]
    """
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1] - begin, lengths)
    return places, offsets


def views_of(plan: Plan) -> dict[str, ViewPlan]:
    """Return the views of a service by alias."""
    return {use.alias: use.view for use in plan.uses}
