"""How late refreshes were, and with which refresh policy serving and training would have been equal.

A policy says which refresh answers each question. What every answer would have been some refreshes back is asked of the
kernels once; then it can be told of any lag how many answers it would have made equal, and the best are asked in full.
No watermarks are needed for it, so logs of other systems are judged as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Floats, Ints
from featurestore.core.errors import FeatureStoreError
from featurestore.core.temporal import (
    MICROSECONDS,
    NO_WATERMARK,
    Refresh,
    format_duration,
    format_instant,
    horizons,
    newest_refresh,
)
from featurestore.guard.causes.choosing import spread_rows
from featurestore.guard.causes.model import Case
from featurestore.guard.causes.refreshing import logged_watermarks, promised
from featurestore.guard.causes.trials import same_as_served
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import answer, operands
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import ViewPlan
from featurestore.plan.names import view_of
from featurestore.registry import RunRecord

_MINUTE, _SECOND = MICROSECONDS["m"], MICROSECONDS["s"]
_PERIODS = tuple(minutes * _MINUTE for minutes in (5, 15, 30, 60, 180, 360, 1440))
"""Periods that are tried for a view without a grid if nothing says how often it was refreshed."""

_MULTIPLES = (1, 2, 3, 4, 6)
"""How many times slower than declared refreshes may have been."""

_BACK = 12
_MOST_ROWS = 10_000
_MOST_EVENTS = 2_000_000
_WORTH = 0.1
"""Share of the values that differ that a policy must make equal to be proposed; and most values must be equal then."""


@dataclass(frozen=True)
class Told:
    """What is said about late refreshes."""

    evidence: list[str]
    fix: str


@dataclass(frozen=True)
class Counted:
    """How many values the log has of which a case holds some.

    Attributes:
        clean: Per output the count of values that do not differ.
        different: Values that differ, of all outputs.
    """

    clean: Mapping[str, int]
    different: int


@dataclass(frozen=True)
class _Answers:
    """What was served of one view, to be asked again under other policies.

    Attributes:
        case: The rows, with the view's events.
        alias: The view.
        weights: Per output and row for how many values of the log each stands.
        is_sample: Whether they stand for others than themselves.
    """

    case: Case
    alias: str
    weights: Mapping[str, Floats]
    is_sample: bool

    @property
    def view(self) -> ViewPlan:
        return self.case.world.views[self.alias].view

    @property
    def total(self) -> Floats:
        """The values of each row."""
        return np.asarray(np.sum(list(self.weights.values()), axis=0), dtype=np.float64)

    def equal(self, refresh: Refresh, back: int = 0) -> Floats:
        """Return how many values of each row are what was served under a policy, or some refreshes before it."""
        world = self.case.world
        own = world.views[self.alias]
        view = replace(own.view, refresh=refresh)
        mark = promised(view, world.as_of) - back * refresh.period_us if back else None
        asked = replace(world, views={**world.views, self.alias: replace(own, view=view, watermark=mark)})
        try:
            found = answer(asked, list(self.weights), threads=self.case.facts.threads)
        except FeatureStoreError:
            return np.zeros(len(world))
        same = [weight * same_as_served(self.case, name, found[name]) for name, weight in self.weights.items()]
        return np.asarray(np.sum(same, axis=0), dtype=np.float64)


def lag_evidence(case: Case, owned: Mapping[str, Flags], counted: Counted) -> Told:
    """Tell how late refreshes were where a missed refresh explains values, and what to declare instead.

    Args:
        case: The rows.
        owned: Per output the values that a missed refresh explains.
        counted: How many values there are in all.
    """
    evidence: list[str] = []
    fixes: list[str] = []
    for alias in case.world.views:
        if any(_is_of(case, name, alias) and bool(flags.any()) for name, flags in owned.items()):
            name = f"late refreshes of {alias}"
            if name not in case.memo:
                case.memo[name] = _told(case, alias, counted)
            told: Told = case.memo[name]
            evidence += told.evidence
            fixes.append(told.fix)
    return Told(evidence, " ".join(fix for fix in fixes if fix))


def _is_of(case: Case, output: str, alias: str) -> bool:
    return any(column.startswith(f"{alias}__") for column in operands(case.world.plan, output))


def _told(case: Case, alias: str, counted: Counted) -> Told:
    answers = _answers(case, alias, counted)
    if answers is None:
        return Told([], "")
    present = answers.view.refresh
    at_present = answers.equal(present)
    if bool((at_present == answers.total).all()):
        return Told([], "")
    marks = logged_watermarks(answers.case.world, alias)
    runs = [run for run in case.facts.runs.get(answers.view.name, ()) if run.is_done]
    tables = {base: _by_age(answers, base) for base in _bases(present, marks)}
    said = [] if marks is None else [_age_said(answers, marks)]
    has_come = True
    if present.period_us:
        late = _late_refreshes(answers, _served_horizons(answers, marks, tables[present]), runs)
        said = list(_lateness_said(answers, late))
        has_come = any(one.has_come for one in late)
    best, equal = present, float(at_present.sum())
    for policy in _proposed(answers, tables, runs) if has_come else ():
        found = float(answers.equal(policy).sum())
        if (round(found, 6), -_staleness(policy)) > (round(equal, 6), -_staleness(best)):
            best, equal = policy, found
    return Told(said, _fix(answers, best, equal, float(at_present.sum())))


def _answers(case: Case, alias: str, counted: Counted) -> _Answers | None:
    """Choose rows and read the view's events for them; ``None`` if no output is of this view alone."""
    plan, views = case.world.plan, case.world.views
    outputs = [
        name for name in case.differs if {view_of(column) for column in operands(plan, name)} & views.keys() == {alias}
    ]
    if not outputs:
        return None
    part = case.take(_chosen(case, alias))
    kept = sum(int(flags.sum()) for flags in case.differs.values())
    weights = {}
    for name in outputs:
        differs, holds = part.differs[name], part.holds[name]
        of_differing = int(case.differs[name].sum()) * counted.different / max(1, kept)
        weights[name] = np.where(
            differs, of_differing / max(1, int(differs.sum())), counted.clean[name] / max(1, int(holds.sum()))
        )
    own = part.world.views[alias]
    table = case.facts.read_events(own.view, own.keys, False)
    events = Events(table, tuple(key.name for key in own.view.entity.keys))
    world = replace(part.world, views={**part.world.views, alias: replace(own, events=events)}, transforms=())
    is_sample = any(bool((weight != 1.0).any()) for weight in weights.values())
    return _Answers(replace(part, world=world), alias, weights, is_sample)


def _chosen(case: Case, alias: str) -> Ints:
    """Choose rows, evenly spread, whose events fit into memory together."""
    rows = spread_rows(np.arange(len(case.world), dtype=np.int64), _MOST_ROWS)
    view = case.world.views[alias]
    keys = [key.take(pa.array(rows)) for key in view.keys]
    _, codes = KeyIndex.build(keys)
    _, first = np.unique(codes, return_index=True)
    added = np.zeros(len(rows), dtype=np.int64)
    added[first] = case.facts.count_events(view.view, keys)[first]
    return rows[: max(1, int(np.searchsorted(np.cumsum(added), _MOST_EVENTS, side="right")))]


def _bases(present: Refresh, marks: Ints | None) -> list[Refresh]:
    """Return the grids that are tried: the view's own, or those on which its state may have been refreshed."""
    if present.period_us:
        return [present]
    known = np.zeros(0, dtype=np.int64) if marks is None else np.unique(marks[marks < NO_WATERMARK])
    if len(known) < 2:
        return [Refresh(period) for period in _PERIODS]
    gap = max(_MINUTE, int(np.median(np.diff(known))) // _MINUTE * _MINUTE)
    near = [period for period in _PERIODS if gap // 2 <= period <= gap * 2]
    return [Refresh(period) for period in dict.fromkeys([gap, *near])]


def _by_age(answers: _Answers, base: Refresh) -> Floats:
    """Return per count of refreshes back and row how many values are what was served."""
    return np.stack([answers.equal(base, back) for back in range(_BACK + 1)])


def _proposed(answers: _Answers, tables: Mapping[Refresh, Floats], runs: Sequence[RunRecord]) -> Iterator[Refresh]:
    """Yield the best policy for each period."""
    for base, table in tables.items():
        for multiple in _MULTIPLES if answers.view.refresh.period_us else (1,):
            after, lag = _best_lag(answers.case.world.as_of, base, table, multiple)
            yield Refresh(base.period_us * multiple, _between(after, lag, base, runs))


def _best_lag(as_of: Ints, base: Refresh, table: Floats, multiple: int) -> tuple[int, int]:
    """Return the smallest lag with which most values are equal, and the lag that it must be above.

    From one question to the next, counted from the refresh before it, all lags are alike: they give the same refresh.
    """
    period = base.period_us * multiple
    offset = as_of - newest_refresh(as_of, period, base.lag_us)
    newest = newest_refresh(offset, base.period_us, base.lag_us) // base.period_us
    order = np.argsort(offset, kind="stable")
    starts, first = np.unique(offset[order], return_index=True)
    best = (-1.0, 0, 0)
    for turns in range((len(table) - 1) // multiple):
        at_once = _looked_up(table, newest + turns * multiple)[order]
        before = _looked_up(table, newest + (turns + 1) * multiple)[order]
        gained = np.concatenate([[0.0], np.cumsum(before - at_once)])[first] + at_once.sum()
        place = int(np.argmax(np.round(gained, 6)))
        if round(float(gained[place]), 6) > best[0]:
            below = int(starts[place - 1]) if place else int(starts[-1]) - period
            shift = turns * period
            best = (round(float(gained[place]), 6), below + shift, int(starts[place]) + shift)
    return max(base.lag_us - 1, best[1]), best[2]


def _looked_up(table: Floats, back: Ints) -> Floats:
    """Return of each row the value so many refreshes back; 0 beyond the table."""
    inside = np.minimum(back, len(table) - 1)
    return np.where(back < len(table), table[inside, np.arange(table.shape[1])], 0.0)


def _between(after: int, lag: int, base: Refresh, runs: Sequence[RunRecord]) -> int:
    """Return a lag above one and up to another: when runs came, or else one that is easily said."""
    came = [run.finished_at_us - _horizon(run.until_us, base) for run in runs]
    came = [-(-own // _SECOND) * _SECOND for own in came]
    if inside := [own for own in came if after < own <= lag]:
        return max(inside)
    if after < base.lag_us <= lag:
        return base.lag_us
    return next(
        (lag // unit * unit for unit in (_MINUTE, _SECOND, MICROSECONDS["ms"]) if lag // unit * unit > after), lag
    )


def _horizon(watermark: int, refresh: Refresh, inclusive: int = 0) -> int:
    """Return the grid instant that a state complete up to a watermark answers as of."""
    return horizons(NO_WATERMARK, watermark, refresh.period_us, refresh.lag_us, inclusive)[0] - inclusive


def _staleness(policy: Refresh) -> int:
    """Return twice how old the horizon of an answer is on average."""
    return policy.period_us + 2 * policy.lag_us


def _fix(answers: _Answers, best: Refresh, equal: float, at_present: float) -> str:
    """Return what to do about a view."""
    alias, present = answers.alias, answers.view.refresh
    total = float(answers.total.sum())
    on_time = f"Refresh {alias} as often and as soon as promised ({present})"
    if present.period_us == 0:
        on_time = f"Refresh {alias} more often"
    if equal - at_present <= _WORTH * (total - at_present) or equal <= total / 2:
        return f"{on_time}: no refresh=every(…) would have made most of what was served equal."
    if not answers.is_sample:
        said = f"{equal:.0f} of {total:.0f} served values equal; with {_declared(present)} it is {at_present:.0f}"
    else:
        said = (
            f"about {equal / total:.1%} of its served values equal; with {_declared(present)} it is about"
            f" {at_present / total:.1%} (both estimated from {len(answers.case.world):,} rows)"
        )
    return f"{on_time}, or declare {_declared(best)}: it would have made {said}."


def _declared(refresh: Refresh) -> str:
    """Write a policy as definitions do."""
    if refresh.period_us == 0:
        return "refresh=continuous()"
    lag = f", lag='{format_duration(refresh.lag_us)}'" if refresh.lag_us else ""
    return f"refresh=every('{format_duration(refresh.period_us)}'{lag})"


@dataclass(frozen=True)
class _Horizons:
    """Which refresh each question was answered from.

    Attributes:
        served: The grid instant it was answered as of.
        promised: The one it should have been answered as of.
        is_known: Whether that can be told.
    """

    served: Ints
    promised: Ints
    is_known: Flags


def _served_horizons(answers: _Answers, marks: Ints | None, table: Floats) -> _Horizons:
    """Tell from watermarks which refresh answered each question, without them from what reproduces its values."""
    view, as_of = answers.view, answers.case.world.as_of
    period_us, lag_us = view.refresh.period_us, view.refresh.lag_us
    due = newest_refresh(as_of, period_us, lag_us)
    if marks is not None:
        held = newest_refresh(marks - int(view.source.inclusive), period_us, lag_us)
        return _Horizons(np.minimum(held, due), due, marks < NO_WATERMARK)
    is_equal = table >= answers.total - 1e-6
    is_late = ~is_equal[0] & is_equal.any(axis=0)
    return _Horizons(due - np.argmax(is_equal, axis=0) * period_us, due, is_late | (is_equal[0] & ~is_equal[1]))


@dataclass(frozen=True)
class _LateRefresh:
    """A refresh that came after it was promised.

    Attributes:
        instant: Its instant on the grid.
        late_us: How long after it was promised it came, or had not come yet.
        has_come: Whether it came while questions were asked.
        seen_us: When it had come, or the last question it had not come for.
    """

    instant: int
    late_us: int
    has_come: bool
    seen_us: int


def _late_refreshes(answers: _Answers, found: _Horizons, runs: Sequence[RunRecord]) -> list[_LateRefresh]:
    """Return the refreshes that questions missed: for each question the first one after that which answered it."""
    refresh, inclusive = answers.view.refresh, int(answers.view.source.inclusive)
    order = np.argsort(answers.case.world.as_of, kind="stable")
    order = order[found.is_known[order]]
    as_of, served, due = answers.case.world.as_of[order], found.served[order], found.promised[order]
    missing = np.where(served < due, served + refresh.period_us, NO_WATERMARK)
    newest = np.maximum.accumulate(served)
    late = []
    for instant in np.unique(missing[missing < NO_WATERMARK]).tolist():
        last = int(as_of[missing == instant].max())
        place = int(np.searchsorted(newest, instant))
        seen = max(last, int(as_of[place])) if place < len(newest) else NO_WATERMARK
        ran = [run.finished_at_us for run in runs if _horizon(run.until_us, refresh, inclusive) >= instant]
        seen = min((own for own in ran if last < own <= seen), default=seen)
        has_come = seen < NO_WATERMARK
        seen = seen if has_come else last
        late.append(_LateRefresh(instant, seen - instant - refresh.lag_us, has_come, seen))
    return late


def _lateness_said(answers: _Answers, late: Sequence[_LateRefresh]) -> Iterator[str]:
    """Tell how long after they were promised refreshes came."""
    came = [one for one in late if one.has_come]
    who = f"{answers.alias} ({answers.view.refresh})"
    if came:
        worst = max(came, key=lambda one: one.late_us)
        longest = format_duration(_whole(worst.late_us))
        median = format_duration(_whole(int(np.median([one.late_us for one in came]))))
        told = f"{len(came)} refreshes came late, up to {longest} after they were promised, median {median}; the worst"
        if len(came) == 1:
            told = f"1 refresh came late, {longest} after it was promised; it"
        yield f"{who}: {told} was that of {format_instant(worst.instant)}"
    for one in late:
        if not one.has_come:
            yield (
                f"{who}: the refresh of {format_instant(one.instant)} had not come by {format_instant(one.seen_us)},"
                f" {format_duration(_whole(one.late_us))} after it was promised"
            )


def _age_said(answers: _Answers, marks: Ints) -> str:
    """Tell how old the state of a view without a grid was."""
    as_of = answers.case.world.as_of
    age = np.maximum(as_of - marks, 0)
    worst = int(np.argmax(age))
    median, longest = (format_duration(_whole(int(own))) for own in (np.median(age), age[worst]))
    return (
        f"{answers.alias} ({answers.view.refresh}): the state was complete only up to {median} before the question"
        f" (median), at worst {longest}, at {format_instant(int(as_of[worst]))}"
    )


def _whole(length_us: int) -> int:
    """Return a duration without parts of a second, if it has whole ones."""
    return length_us // _SECOND * _SECOND if length_us >= _SECOND else length_us
