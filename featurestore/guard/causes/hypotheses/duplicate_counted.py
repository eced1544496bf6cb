"""``duplicate_counted``: one event counted more than once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.guard.causes.event_search import DOUBLED, accepted_searches, events_in_words, search_events
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import ViewWorld, of_view

_NAME = "duplicate_counted"

_FIX = "Name the column that identifies an event: event_id='…' on the source; deliveries of one event count once."


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that deliveries of one event counted each, that all events counted twice, or single ones."""
    for alias, view in case.world.views.items():
        event_id = view.view.source.event_id
        if event_id is not None:
            yield Assumption(
                f"every delivery of an event of {alias} counted, also those with the same {event_id}",
                of_view(alias, _with_every_delivery, case),
                {"view": alias, "event_id": event_id},
                fix=f"Let serving drop deliveries whose {event_id} it has seen.",
            )
        yield Assumption(
            f"every event of {alias} counted twice",
            of_view(alias, _with_all_twice),
            {"view": alias, "events": "all"},
            fix=_FIX,
        )
    yield from _single_duplicates(case)


def _single_duplicates(case: Case) -> Iterator[Assumption]:
    """Propose single events that counted twice, beside those events already."""
    for events in search_events(case, (_NAME,), DOUBLED):
        known = [
            assumption.events[events.alias]
            for assumption in accepted_searches(case, (_NAME,))
            if events.alias in assumption.events
        ]
        numbers = np.concatenate([*known[-1:], events.numbers])
        yield Assumption(
            f"{events_in_words(len(numbers))} of {events.alias} counted twice",
            of_view(events.alias, _with_some_twice, numbers),
            {"view": events.alias, "events": len(numbers)},
            events={events.alias: numbers},
            fix=_FIX,
            events_per_row=events.events_per_row,
        )


def _with_every_delivery(view: ViewWorld, case: Case) -> ViewWorld:
    """Read the events again with every delivery; once per case."""
    whole = case.whole or case
    alias = next(alias for alias, other in whole.world.views.items() if other.view.name == view.view.name)
    name = f"every delivery of {alias}"
    if name not in whole.memo:
        table = case.facts.read_events(view.view, whole.world.views[alias].keys, True)
        whole.memo[name] = Events(table, view.events.keys)
    events: Events = whole.memo[name]
    return replace(view, events=events.only(view.keys))


def _with_all_twice(view: ViewWorld) -> ViewWorld:
    return _with_rows_twice(view, np.arange(view.events.table.num_rows, dtype=np.int64))


def _with_some_twice(view: ViewWorld, numbers: Ints) -> ViewWorld:
    return _with_rows_twice(view, view.events.rows_of(numbers))


def _with_rows_twice(view: ViewWorld, rows: Ints) -> ViewWorld:
    """Add some rows of the table of events once more."""
    events = view.events
    table = pa.concat_tables([events.table, events.table.take(pa.array(rows))])
    numbers = events.numbers_of(np.concatenate([np.arange(events.table.num_rows, dtype=np.int64), rows]))
    return replace(view, events=Events(table, events.keys, events.delays, numbers))


DUPLICATE_COUNTED = Hypothesis(
    _NAME,
    rank=210,
    meaning="one event counted more than once",
    propose=_propose,
    row_bits=WEIGHTS.row_with_doubled_event,
    most_where_bits=WEIGHTS.where_doubled,
    searches_events=True,
)
