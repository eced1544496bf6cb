"""``event_lost``: events never reached serving.

Two hypotheses come to it: a rule says which events were lost, by how late they became known (a job never looked back);
or those of one materialize run were lost, or single ones, which are searched (``event_search``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from featurestore.core.columns import Flags, Ints
from featurestore.core.temporal import (
    MICROSECONDS,
    NO_WATERMARK,
    format_duration,
    format_instant,
    next_refresh,
)
from featurestore.guard.causes.event_search import events_in_words, missing_events, with_known_delays
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import ViewWorld, of_view

_NAME = "event_lost"
_MEANING = "an event never reached serving"

_PERIODS_US = tuple(MICROSECONDS[unit] for unit in ("m", "h", "d"))
_DELAYS_US = (0, *_PERIODS_US)
_MOST_RUNS = 40

_FIX = (
    "Find why the event never reached the state: a source that was rewritten, a poll that was skipped, a consumer that"
    " dropped it. materialize(full=True) folds everything again."
)
_FIX_OF_JOB = (
    "Let the job that fills online state read by the time events became known, not by the time they happened, as"
    " store.materialize does; or read some time back again at every run."
)

_IsLost = Callable[[Ints, Ints], Flags]
"""Returns which events were lost, from when each happened and when it became known."""


def _propose_late(case: Case) -> Iterator[Assumption]:
    """Propose that what became known late never arrived: later than some time, or after its period had been read."""
    for alias, view in case.world.views.items():
        if view.view.source.ingest_time is None or not bool((view.ingest_times() > view.event_times()).any()):
            continue
        for delay_us in _DELAYS_US:
            after = f"more than {format_duration(delay_us)} after they happened" if delay_us else "after they happened"
            yield Assumption(
                f"events of {alias} that became known {after} never arrived",
                of_view(alias, _losing, _later_than(delay_us)),
                {"view": alias, "delay_us": delay_us},
                fix=_FIX_OF_JOB,
            )
        for period_us in dict.fromkeys([*filter(None, [view.view.refresh.period_us]), *_PERIODS_US]):
            yield Assumption(
                f"events of {alias} that became known after the {format_duration(period_us)} they happened in never"
                " arrived: a job read every such period once",
                of_view(alias, _losing, _after_period(period_us)),
                {"view": alias, "period_us": period_us},
                fix=_FIX_OF_JOB,
            )


def _later_than(delay_us: int) -> _IsLost:
    return lambda happened, known: known - happened > delay_us


def _after_period(period_us: int) -> _IsLost:
    return lambda happened, known: known >= next_refresh(happened, period_us, 0)


def _losing(view: ViewWorld, is_lost: _IsLost) -> ViewWorld | None:
    rows = np.flatnonzero(is_lost(view.event_times(), view.ingest_times()))
    return _without(view, view.events.numbers_of(rows)) if len(rows) else None


def _without(view: ViewWorld, numbers: Ints) -> ViewWorld:
    """Let some events never become known."""
    return view.with_delays(numbers, np.full(len(numbers), NO_WATERMARK, dtype=np.int64))


def _propose_searched(case: Case) -> Iterator[Assumption]:
    """Propose events that never reached serving: those of one run, then single ones."""
    yield from _lost_runs(case)
    for events in missing_events(case):
        alias = events.alias
        if _came_after_a_run(case, alias, events.numbers):
            continue
        never = np.full(len(events.numbers), NO_WATERMARK, dtype=np.int64)
        numbers, instants = with_known_delays(case, alias, events.numbers, never)
        yield Assumption(
            f"{events_in_words(len(numbers))} of {alias} never reached serving",
            of_view(alias, ViewWorld.with_delays, numbers, instants),
            {"view": alias, "events": len(numbers)},
            events={alias: numbers},
            fix=_FIX,
            events_per_row=events.events_per_row,
        )


def _lost_runs(case: Case) -> Iterator[Assumption]:
    """Propose that what one materialize run was to read never arrived."""
    for alias, view in case.world.views.items():
        times = view.ingest_times()
        if len(times) == 0:
            continue
        first, last = int(times.min()), int(times.max()) + MICROSECONDS["d"]
        bounds = sorted({run.until_us for run in case.facts.runs.get(view.view.name, ())})
        for since, until in pairwise([bound for bound in bounds if first <= bound <= last][-_MOST_RUNS:]):
            numbers = _numbers_between(view, since, until)
            if len(numbers) == 0 or _came_after_a_run(case, alias, numbers):
                continue
            yield Assumption(
                f"what became known from {format_instant(since)} to {format_instant(until)} never reached serving",
                of_view(alias, _losing_between, since, until),
                {"view": alias, "since": format_instant(since), "until": format_instant(until)},
                events={alias: numbers},
                fix=_FIX,
            )


def _losing_between(view: ViewWorld, since: int, until: int) -> ViewWorld:
    """Let what became known within a range of time never arrive."""
    return _without(view, _numbers_between(view, since, until))


def _numbers_between(view: ViewWorld, since: int, until: int) -> Ints:
    """Return the numbers of the events that became known from an instant to before another."""
    times = view.ingest_times()
    return view.events.numbers_of(np.flatnonzero((times >= since) & (times < until)))


def _came_after_a_run(case: Case, alias: str, numbers: Ints) -> bool:
    """Return whether events lie where the source had fewer rows when it was read: so they are late, not lost."""
    view = case.world.views[alias]
    change = case.facts.changes(view.view)
    if change is None or change.grown_until_us is None:
        return False
    return bool((view.ingest_times()[view.events.rows_of(numbers)] < change.grown_until_us).all())


LATE = Hypothesis(_NAME, rank=220, meaning=_MEANING, propose=_propose_late)
SEARCHED = Hypothesis(
    _NAME,
    rank=230,
    meaning=_MEANING,
    propose=_propose_searched,
    row_bits=WEIGHTS.row_with_lost_event,
    most_where_bits=WEIGHTS.where_lost,
    explains_absence=True,
    searches_events=True,
)
