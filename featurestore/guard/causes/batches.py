"""Batches of rows that are explained at a time, because the events of all rows would not fit into memory.

A batch holds every row of its entities. Of a batch that is explained only its rows are kept, and the events that
explain any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.guard.causes.explanation import Proof
from featurestore.guard.causes.model import Case, Facts
from featurestore.guard.comparing.sampling import key_buckets
from featurestore.guard.world.events import Events, loose
from featurestore.guard.world.world import Values, World
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import Plan
from featurestore.serving_log.columns import key_column

MOST_EVENTS = 2_000_000
"""Events that a batch may have, all views together; an entity with more of them is a batch by itself."""


def batches_of(plan: Plan, log: pa.Table, facts: Facts, *, most_events: int = MOST_EVENTS) -> list[Ints]:
    """Divide rows into batches by entity, in an order that follows from keys alone.

    Args:
        plan: The plan that answered the rows.
        log: The rows.
        facts: Counts events.
        most_events: Events that a batch may have.

    Returns:
        The rows of each batch, ascending; every row is in one.
    """
    index, codes = KeyIndex.build([loose(log.column(key_column(key.name)).combine_chunks()) for key in plan.join_keys])
    bucket = np.zeros(len(index), dtype=np.int64)
    row = np.zeros(len(index), dtype=np.int64)
    bucket[codes], row[codes] = key_buckets(plan, log), np.arange(log.num_rows)
    order = np.argsort(bucket, kind="stable")
    entities, event_counts = [], []
    for use in plan.uses:
        keys = [log.column(key_column(name)).combine_chunks() for name in use.keys]
        _, view_codes = KeyIndex.build([loose(key) for key in keys])
        rows = row[order]
        entities.append(view_codes[rows].tolist())
        event_counts.append(facts.count_events(use.view, keys)[rows].tolist())
    batch_of_key = np.empty(len(index), dtype=np.int64)
    batch_of_key[order] = _numbered(entities, event_counts, most_events)
    batch_of_row = batch_of_key[codes]
    return [np.flatnonzero(batch_of_row == number) for number in range(int(batch_of_row.max(initial=-1)) + 1)]


def _numbered(entities: Sequence[Sequence[int]], event_counts: Sequence[Sequence[int]], most_events: int) -> list[int]:
    """Return for each key the number of its batch: a new batch begins when the last is full.

    Args:
        entities: By view the entity that each key names there; several keys may name one, which then counts once.
        event_counts: By view the events of that entity.
        most_events: Events that a batch may have.
    """
    numbers = []
    number = size = 0
    inside: set[tuple[int, int]] = set()
    for key_entities, counts in zip(zip(*entities, strict=True), zip(*event_counts, strict=True), strict=True):
        named = list(enumerate(key_entities))
        added = sum(count for entity, count in zip(named, counts, strict=True) if entity not in inside)
        if size and size + added > most_events:
            number, size, inside = number + 1, 0, set()
            added = sum(counts)
        size += added
        inside.update(named)
        numbers.append(number)
    return numbers


@dataclass(frozen=True)
class ExplainedBatch:
    """What is kept of a batch once it is explained.

    Attributes:
        case: Its rows, with only those events that explain any.
        owner: Per output and row the assumption that explains the value.
    """

    case: Case
    owner: Mapping[str, Ints]

    @classmethod
    def of(cls, case: Case, proof: Proof) -> ExplainedBatch:
        """Keep what is needed of a case and its proof."""
        views = {}
        for alias, view in case.world.views.items():
            parts = [assumption.events[alias] for assumption in proof.assumptions if alias in assumption.events]
            numbers = np.unique(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)
            rows = view.events.rows_of(numbers)
            table = view.events.table.take(pa.array(rows))
            views[alias] = replace(view, events=Events(table, view.events.keys, None, view.events.numbers_of(rows)))
        return cls(replace(case, world=replace(case.world, views=views), memo={}), proof.owner)


def joined(batches: Sequence[ExplainedBatch]) -> tuple[Case, dict[str, Ints]]:
    """Put batches together again.

    Args:
        batches: The batches, at least one.

    Returns:
        One case of all rows, whose events are those that explain any; and the owners of its rows.
    """
    first = batches[0]
    names = list(first.case.differs)
    owner = {name: np.concatenate([batch.owner[name] for batch in batches]) for name in names}
    if len(batches) == 1:
        return first.case, owner
    cases = [batch.case for batch in batches]
    case = replace(
        first.case,
        world=_joined_world([case.world for case in cases]),
        reference={name: _joined_values([case.reference[name] for case in cases]) for name in names},
        served={name: _joined_values([case.served[name] for case in cases]) for name in names},
        differs={name: np.concatenate([case.differs[name] for case in cases]) for name in names},
        holds={name: np.concatenate([case.holds[name] for case in cases]) for name in names},
    )
    return case, owner


def _joined_world(worlds: Sequence[World]) -> World:
    first = worlds[0]
    views = {}
    for alias, first_view in first.views.items():
        parts = [world.views[alias] for world in worlds]
        events = Events(
            pa.concat_tables([view.events.table for view in parts]).combine_chunks(),
            first_view.events.keys,
            None,
            np.concatenate([_numbers(view.events) for view in parts]),
        )
        keys = tuple(pa.concat_arrays(columns) for columns in zip(*(view.keys for view in parts), strict=True))
        views[alias] = replace(first_view, events=events, keys=keys)
    return replace(
        first,
        log=pa.concat_tables([world.log for world in worlds]).combine_chunks(),
        as_of=np.concatenate([world.as_of for world in worlds]),
        views=views,
        requests={name: pa.concat_arrays([world.requests[name] for world in worlds]) for name in first.requests},
    )


def _numbers(events: Events) -> Ints:
    return events.numbers_of(np.arange(events.table.num_rows, dtype=np.int64))


def _joined_values(parts: Sequence[Values]) -> Values:
    return Values(pa.concat_arrays([part.values for part in parts]), np.concatenate([part.statuses for part in parts]))
