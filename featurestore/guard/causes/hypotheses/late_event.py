"""``late_event``: events became known only after the request that misses them.

Three hypotheses come to it, the most certain first:

1. Records of materialize runs show which rows were not in the source yet.
2. The source says when events became known, and serving used them before that: values were computed with hindsight.
3. Single events are searched without which the served values come out (``event_search``). They are called late, not
   lost (``event_lost``), if assuming that they came later explains more: a later request shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from featurestore.core.columns import Ints, Words
from featurestore.core.temporal import (
    NO_WATERMARK,
    NOTHING_YET,
    format_instant,
    horizons,
)
from featurestore.guard.causes.event_search import events_in_words, missing_events, with_known_delays
from featurestore.guard.causes.model import (
    Assumption,
    Case,
    Hypothesis,
    LateRows,
)
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import ViewWorld, World, each_view, of_view

_NAME = "late_event"
_MEANING = "events became known only after the request"

_FIX = (
    "Name a column that says when a row became known: ingest_time='…' on the source; then training leaves late events"
    " out as serving had to. Or declare refresh=every(…, lag='…') with a lag as long as events may be late."
)
_FIX_OF_INGEST_TIME = (
    "Let the column that ingest_time names say when a row can be read from the source: these came later than it says."
    " Or declare refresh=every(…, lag='…') with a lag as long as rows may be late."
)


def _propose_recorded(case: Case) -> Iterator[Assumption]:
    """Propose that rows were not in their source yet which materialize runs did not find there."""
    changes = {
        alias: change
        for alias, view in case.world.views.items()
        if (change := case.facts.changes(view.view)) is not None and change.late_rows
    }
    if not changes:
        return
    late_rows = {alias: change.late_rows for alias, change in changes.items()}
    counts = {change.source: sum(len(rows.hashes) for rows in change.late_rows) for change in changes.values()}
    count = sum(counts.values())
    events = {alias: _late_events(case.world.views[alias], rows)[0] for alias, rows in late_rows.items()}
    described = " and ".join(f"{events_in_words(number)} of {source}" for source, number in sorted(counts.items()))
    first = min(rows.read_until_us for runs in late_rows.values() for rows in runs)
    has_ingest_time = any(case.world.views[alias].view.source.ingest_time for alias in late_rows)
    descriptions = [line for change in changes.values() for line in change.descriptions]
    yield Assumption(
        f"{described} came later than {'it says' if count == 1 else 'they say'}: when the source was read for"
        " these answers, only what came before was there",
        lambda world: _before_they_came(world, late_rows),
        {"events": count, "since": format_instant(first)},
        fix=_FIX_OF_INGEST_TIME if has_ingest_time else _FIX,
        events={alias: numbers for alias, numbers in events.items() if len(numbers)},
        evidence=tuple(dict.fromkeys(descriptions)),
        naming_bits=WEIGHTS.naming_recorded,
    )


def _before_they_came(world: World, late_rows: Mapping[str, Sequence[LateRows]]) -> World | None:
    changed = {}
    for alias, view in world.views.items():
        numbers, instants = _late_events(view, late_rows.get(alias, ()))
        if len(numbers):
            changed[alias] = view.with_delays(numbers, instants)
    return replace(world, views={**world.views, **changed}) if changed else None


def _late_events(view: ViewWorld, late_rows: Sequence[LateRows]) -> tuple[Ints, Ints]:
    """Return the numbers of a view's events that came later, and from when on answers had each."""
    numbers, instants = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for rows in late_rows:
        of_rows = view.events.numbers_of(_last_with_hashes(view.events.hashes, rows.hashes))
        numbers.append(of_rows)
        instants.append(np.full(len(of_rows), _known_from(view, rows), dtype=np.int64))
    return np.concatenate(numbers), np.concatenate(instants)


def _last_with_hashes(hashes: Words, wanted: Words) -> Ints:
    """Return the rows with some hashes; of several equal rows the last, as many as are wanted."""
    distinct, counts = np.unique(wanted, return_counts=True)
    rows = np.flatnonzero(np.isin(hashes, distinct))[::-1]
    ordered_rows = rows[np.argsort(hashes[rows], kind="stable")]
    ordered = hashes[ordered_rows]
    nth = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return np.sort(ordered_rows[nth < counts[np.searchsorted(distinct, ordered)]])


def _known_from(view: ViewWorld, late_rows: LateRows) -> int:
    """Return the instant from which on answers had rows that came later; ``NO_WATERMARK`` if none had them yet.

    On a refresh grid it is the bound of the last refresh without them, otherwise when the first run with them ended.
    """
    if late_rows.seen_at_us is None:
        return NO_WATERMARK
    refresh, inclusive = view.view.refresh, int(view.view.source.inclusive)
    if refresh.period_us == 0:
        return late_rows.seen_at_us
    return horizons(NO_WATERMARK, late_rows.read_until_us, refresh.period_us, refresh.lag_us, inclusive)[1]


def _propose_hindsight(case: Case) -> Iterator[Assumption]:
    """Propose that serving used events by the time they happened, however late they became known."""
    if any(view.view.source.ingest_time is not None for view in case.world.views.values()):
        yield Assumption(
            "events count from their event time on, also those that became known only after the request",
            each_view(_with_hindsight),
            {"hindsight": True},
            fix="Values were computed after the fact: log what was served, or build the training set with"
            " hindsight=True to see what it would hold.",
        )


def _with_hindsight(view: ViewWorld) -> ViewWorld | None:
    return replace(view, hindsight=True) if view.view.source.ingest_time is not None else None


def _propose_searched(case: Case) -> Iterator[Assumption]:
    """Propose events that were not there when they were asked for, but later."""
    for events in missing_events(case):
        numbers, instants = with_known_delays(case, events.alias, events.numbers, events.last + 1)
        yield Assumption(
            f"{events_in_words(len(numbers))} of {events.alias} became known only after the requests that miss"
            f" {'it' if len(numbers) == 1 else 'them'}",
            of_view(events.alias, ViewWorld.with_delays, numbers, instants),
            {"view": events.alias, "events": len(numbers), "known_after": _known_after(instants)},
            events={events.alias: numbers},
            fix=_FIX,
            events_per_row=events.events_per_row,
        )


def _known_after(instants: Ints) -> str:
    """Return the last instant at which an event that came later was still missed."""
    return format_instant(int(instants[instants < NO_WATERMARK].max(initial=NOTHING_YET)) - 1)


RECORDED = Hypothesis(_NAME, rank=30, meaning=_MEANING, propose=_propose_recorded, explains_absence=True)
HINDSIGHT = Hypothesis(_NAME, rank=60, meaning=_MEANING, propose=_propose_hindsight)
SEARCHED = Hypothesis(
    _NAME,
    rank=240,
    meaning=_MEANING,
    propose=_propose_searched,
    row_bits=WEIGHTS.row_with_late_event,
    explains_absence=True,
    searches_events=True,
)
