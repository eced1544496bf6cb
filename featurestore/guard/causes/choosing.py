"""Choosing a few of many rows, always the same ones."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from featurestore.core.columns import Flags, Ints
from featurestore.guard.world.world import World

_FEWEST = 60
"""Rows that are taken whatever the count of their events."""


def light_rows(world: World, rows: Ints, most_events: int) -> Ints:
    """Take of some rows those of entities with few events, as many as there is room for."""
    weights = np.zeros(len(rows), dtype=np.int64)
    entity = np.zeros(len(rows), dtype=np.int64)
    for view in world.views.values():
        block, codes = view.entities()
        own = codes[rows]
        weights += np.where(own >= 0, np.diff(block.offsets)[np.maximum(own, 0)] if len(block.offsets) > 1 else 0, 0)
        entity = np.unique(np.column_stack([entity, own]), axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(weights, kind="stable")
    _, first = np.unique(entity[order], return_index=True)
    added = np.zeros(len(rows), dtype=np.int64)
    added[first] = weights[order][first]
    count = max(_FEWEST, int(np.searchsorted(np.cumsum(added), most_events, side="right")))
    return np.sort(rows[order[:count]])


def spread_rows(rows: Ints, most: int) -> Ints:
    """Take at most so many of some rows, evenly spread."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def count_of(flags: Iterable[Flags]) -> int:
    """Return how often some flags are set."""
    return sum(int(found.sum()) for found in flags)
