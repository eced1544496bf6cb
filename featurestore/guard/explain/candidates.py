"""Reading what a source has about one entity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from featurestore.guard.world.events import ReadEvents
from featurestore.kernels.keys import UNKNOWN, KeyIndex
from featurestore.plan.model import ViewPlan


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
