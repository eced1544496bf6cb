"""Lots: rows that are explained at a time, because the events of all of them would not fit into memory.

A lot holds every row of its entities. Of a lot that is done only its rows are kept, and the events that explain any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.guard.causes.model import Case, Facts
from featurestore.guard.causes.prove import Proof
from featurestore.guard.comparing.sampling import key_buckets
from featurestore.guard.world.events import Events, loose
from featurestore.guard.world.world import Values, World
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import Plan
from featurestore.serving_log.columns import key_column

MOST_EVENTS = 2_000_000
"""Events that a lot may have, all views together; an entity with more of them is a lot by itself."""


def lots_of(plan: Plan, log: pa.Table, facts: Facts, *, most_events: int = MOST_EVENTS) -> list[Ints]:
    """Share rows out by entity, in an order that follows from keys alone.

    Args:
        plan: The plan that answered the rows.
        log: The rows.
        facts: Counts events.
        most_events: Events that a lot may have.

    Returns:
        The rows of each lot, ascending; every row is in one.
    """
    index, codes = KeyIndex.build([loose(log.column(key_column(key.name)).combine_chunks()) for key in plan.join_keys])
    place = np.zeros(len(index), dtype=np.int64)
    row = np.zeros(len(index), dtype=np.int64)
    place[codes], row[codes] = key_buckets(plan, log), np.arange(log.num_rows)
    order = np.argsort(place, kind="stable")
    entities, weights = [], []
    for use in plan.uses:
        keys = [log.column(key_column(name)).combine_chunks() for name in use.keys]
        _, own = KeyIndex.build([loose(key) for key in keys])
        rows = row[order]
        entities.append(own[rows].tolist())
        weights.append(facts.count_events(use.view, keys)[rows].tolist())
    lot = np.empty(len(index), dtype=np.int64)
    lot[order] = _filled(entities, weights, most_events)
    of_row = lot[codes]
    return [np.flatnonzero(of_row == number) for number in range(int(of_row.max(initial=-1)) + 1)]


def _filled(entities: Sequence[Sequence[int]], weights: Sequence[Sequence[int]], most: int) -> list[int]:
    """Return for each key the number of the lot it goes into: a new one when the last is full.

    Args:
        entities: By view the entity that each key names there; several keys may name one, which then weighs once.
        weights: By view the events of that entity.
        most: Events that a lot may have.
    """
    found = []
    number = held = 0
    inside: set[tuple[int, int]] = set()
    for named, counts in zip(zip(*entities, strict=True), zip(*weights, strict=True), strict=True):
        fresh = sum(count for own, count in zip(enumerate(named), counts, strict=True) if own not in inside)
        if held and held + fresh > most:
            number, held, inside = number + 1, 0, set()
            fresh = sum(counts)
        held += fresh
        inside.update(enumerate(named))
        found.append(number)
    return found


@dataclass(frozen=True)
class Part:
    """What is kept of a lot that is done.

    Attributes:
        case: Its rows, with only those events that explain any.
        owner: Per output and row the assumption that explains the value.
    """

    case: Case
    owner: Mapping[str, Ints]

    @classmethod
    def of(cls, case: Case, proof: Proof) -> Part:
        """Keep what is needed of a case and its proof."""
        views = {}
        for alias, view in case.world.views.items():
            named = [variant.events[alias] for variant in proof.variants if alias in variant.events]
            wanted = np.unique(np.concatenate(named)) if named else np.zeros(0, dtype=np.int64)
            rows = view.events.rows_of(wanted)
            table = view.events.table.take(pa.array(rows))
            views[alias] = replace(view, events=Events(table, view.events.keys, None, view.events.numbers_of(rows)))
        return cls(replace(case, world=replace(case.world, views=views), memo={}), proof.owner)


def joined(parts: Sequence[Part]) -> tuple[Case, dict[str, Ints]]:
    """Put lots together again.

    Args:
        parts: The lots, at least one.

    Returns:
        One case of all rows, whose events are those that explain any; and the owners of its rows.
    """
    first = parts[0]
    names = list(first.case.differs)
    owner = {name: np.concatenate([part.owner[name] for part in parts]) for name in names}
    if len(parts) == 1:
        return first.case, owner
    cases = [part.case for part in parts]
    worlds = [case.world for case in cases]
    case = replace(
        first.case,
        world=_world(worlds),
        reference={name: _values([case.reference[name] for case in cases]) for name in names},
        served={name: _values([case.served[name] for case in cases]) for name in names},
        differs={name: np.concatenate([case.differs[name] for case in cases]) for name in names},
        holds={name: np.concatenate([case.holds[name] for case in cases]) for name in names},
    )
    return case, owner


def _world(worlds: Sequence[World]) -> World:
    first = worlds[0]
    views = {}
    for alias, view in first.views.items():
        own = [world.views[alias] for world in worlds]
        events = Events(
            pa.concat_tables([found.events.table for found in own]).combine_chunks(),
            view.events.keys,
            None,
            np.concatenate([_numbers(found.events) for found in own]),
        )
        keys = tuple(pa.concat_arrays(columns) for columns in zip(*(found.keys for found in own), strict=True))
        views[alias] = replace(view, events=events, keys=keys)
    return replace(
        first,
        log=pa.concat_tables([world.log for world in worlds]).combine_chunks(),
        as_of=np.concatenate([world.as_of for world in worlds]),
        views=views,
        requests={name: pa.concat_arrays([world.requests[name] for world in worlds]) for name in first.requests},
    )


def _numbers(events: Events) -> Ints:
    return events.numbers_of(np.arange(events.table.num_rows, dtype=np.int64))


def _values(parts: Sequence[Values]) -> Values:
    return Values(pa.concat_arrays([part.values for part in parts]), np.concatenate([part.statuses for part in parts]))
