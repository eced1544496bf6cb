"""How late refreshes were, and with which refresh policy serving and training would have been equal.

A policy determines which refresh answers each request. The kernels evaluate once what every answer would have been some
refreshes back. From that follows, for any lag, how many answers it would have made equal, and the best lags are
evaluated in full. This needs no watermarks, so logs of other systems are judged as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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
from featurestore.guard.causes.model import Case
from featurestore.guard.causes.trials import same_as_served, spread_rows
from featurestore.guard.world.events import Events
from featurestore.guard.world.world import answer, promised_watermarks, views_read
from featurestore.kernels.keys import KeyIndex
from featurestore.plan.model import ViewPlan
from featurestore.registry import RunRecord

_MINUTE, _SECOND = MICROSECONDS["m"], MICROSECONDS["s"]
_PERIODS = tuple(minutes * _MINUTE for minutes in (5, 15, 30, 60, 180, 360, 1440))
"""Periods that are tried for a view without a grid if nothing says how often it was refreshed."""

_MULTIPLES = (1, 2, 3, 4, 6)
"""How many times slower than declared refreshes may have been."""

_MOST_REFRESHES_BACK = 12
_MOST_ROWS = 10_000
_MOST_EVENTS = 2_000_000
_WORTH_SHARE = 0.1
"""Share of the differing values that a policy must make equal to be proposed; and most values must be equal then."""


@dataclass(frozen=True)
class Lateness:
    """How late refreshes were, in words.

    Attributes:
        evidence: What was observed, one sentence each.
        fix: What to refresh or to declare instead; empty if nothing is to be proposed.
    """

    evidence: list[str]
    fix: str


@dataclass(frozen=True)
class ValueCounts:
    """How many values the log has of which a case holds some.

    Attributes:
        clean: Per output the count of values that do not differ.
        different: Values that differ, of all outputs.
    """

    clean: Mapping[str, int]
    different: int


@dataclass(frozen=True)
class _ServedView:
    """The served values of one view, to be compared with those under other policies.

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
        view_world = world.views[self.alias]
        view = replace(view_world.view, refresh=refresh)
        watermark = promised_watermarks(view, world.as_of) - back * refresh.period_us if back else None
        changed = replace(world, views={**world.views, self.alias: replace(view_world, view=view, watermark=watermark)})
        try:
            answers = answer(changed, list(self.weights), threads=self.case.facts.threads)
        except FeatureStoreError:
            return np.zeros(len(world))
        same = [weight * same_as_served(self.case, name, answers[name]) for name, weight in self.weights.items()]
        return np.asarray(np.sum(same, axis=0), dtype=np.float64)


def lateness_of(case: Case, explained: Mapping[str, Flags], counts: ValueCounts) -> Lateness:
    """Return how late refreshes were where a missed refresh explains values, and what to declare instead.

    Args:
        case: The rows.
        explained: Per output the values that a missed refresh explains.
        counts: How many values there are in all.
    """
    evidence: list[str] = []
    fixes: list[str] = []
    names = [name for name, flags in explained.items() if bool(flags.any())]
    for alias in case.world.views:
        if any(alias in views_read(case.world.plan, name) for name in names):
            memo_name = f"late refreshes of {alias}"
            if memo_name not in case.memo:
                case.memo[memo_name] = _lateness_of_view(case, alias, counts)
            lateness: Lateness = case.memo[memo_name]
            evidence += lateness.evidence
            fixes.append(lateness.fix)
    return Lateness(evidence, " ".join(fix for fix in fixes if fix))


def _lateness_of_view(case: Case, alias: str, counts: ValueCounts) -> Lateness:
    served = _served_view(case, alias, counts)
    if served is None:
        return Lateness([], "")
    declared = served.view.refresh
    equal_as_declared = served.equal(declared)
    if bool((equal_as_declared == served.total).all()):
        return Lateness([], "")
    watermarks = served.case.world.logged_watermarks(alias)
    runs = [run for run in case.facts.runs.get(served.view.name, ()) if run.is_done]
    tables = {grid: _equal_by_age(served, grid) for grid in _grids(declared, watermarks)}
    evidence = [] if watermarks is None else [_age_in_words(served, watermarks)]
    has_come = True
    if declared.period_us:
        late = _late_refreshes(served, _served_horizons(served, watermarks, tables[declared]), runs)
        evidence = list(_late_refreshes_in_words(served, late))
        has_come = any(refresh.has_come for refresh in late)
    best, equal = declared, float(equal_as_declared.sum())
    for policy in _policies(served, tables, runs) if has_come else ():
        equal_under_policy = float(served.equal(policy).sum())
        if (round(equal_under_policy, 6), -_staleness(policy)) > (round(equal, 6), -_staleness(best)):
            best, equal = policy, equal_under_policy
    return Lateness(evidence, _fix(served, best, equal, float(equal_as_declared.sum())))


def _served_view(case: Case, alias: str, counts: ValueCounts) -> _ServedView | None:
    """Choose rows and read the view's events for them; ``None`` if no output is of this view alone."""
    outputs = [name for name in case.differs if views_read(case.world.plan, name) & case.world.views.keys() == {alias}]
    if not outputs:
        return None
    part = case.take(_chosen(case, alias))
    kept = sum(int(flags.sum()) for flags in case.differs.values())
    weights = {}
    for name in outputs:
        differs, holds = part.differs[name], part.holds[name]
        differing = int(case.differs[name].sum()) * counts.different / max(1, kept)
        weights[name] = np.where(
            differs, differing / max(1, int(differs.sum())), counts.clean[name] / max(1, int(holds.sum()))
        )
    view = part.world.views[alias]
    table = case.facts.read_events(view.view, view.keys, False)
    events = Events(table, tuple(key.name for key in view.view.entity.keys))
    world = replace(part.world, views={**part.world.views, alias: replace(view, events=events)}, transforms=())
    is_sample = any(bool((weight != 1.0).any()) for weight in weights.values())
    return _ServedView(replace(part, world=world), alias, weights, is_sample)


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


def _grids(declared: Refresh, watermarks: Ints | None) -> list[Refresh]:
    """Return the grids that are tried: the view's own, or those on which its state may have been refreshed."""
    if declared.period_us:
        return [declared]
    known = np.zeros(0, dtype=np.int64) if watermarks is None else np.unique(watermarks[watermarks < NO_WATERMARK])
    if len(known) < 2:
        return [Refresh(period) for period in _PERIODS]
    gap = max(_MINUTE, int(np.median(np.diff(known))) // _MINUTE * _MINUTE)
    near = [period for period in _PERIODS if gap // 2 <= period <= gap * 2]
    return [Refresh(period) for period in dict.fromkeys([gap, *near])]


def _equal_by_age(served: _ServedView, grid: Refresh) -> Floats:
    """Return per count of refreshes back and row how many values are what was served."""
    return np.stack([served.equal(grid, back) for back in range(_MOST_REFRESHES_BACK + 1)])


def _policies(served: _ServedView, tables: Mapping[Refresh, Floats], runs: Sequence[RunRecord]) -> Iterator[Refresh]:
    """Yield the best policy for each period."""
    for grid, table in tables.items():
        for multiple in _MULTIPLES if served.view.refresh.period_us else (1,):
            lags = _best_lags(served.case.world.as_of, grid, table, multiple)
            yield Refresh(grid.period_us * multiple, _lag_within(lags, grid, runs))


class _Lags(NamedTuple):
    """Lags that are all alike: they give the same refresh to every request.

    Attributes:
        above: All are above this one, µs.
        longest: The longest of them, µs.
    """

    above: int
    longest: int


def _best_lags(as_of: Ints, grid: Refresh, table: Floats, multiple: int) -> _Lags:
    """Return the shortest lags with which most values are equal.

    From one request to the next, counted from the refresh before it, all lags are alike.
    """
    period = grid.period_us * multiple
    offset = as_of - newest_refresh(as_of, period, grid.lag_us)
    newest = newest_refresh(offset, grid.period_us, grid.lag_us) // grid.period_us
    order = np.argsort(offset, kind="stable")
    starts, first = np.unique(offset[order], return_index=True)
    most_equal, best = -1.0, _Lags(0, 0)
    for periods_back in range((len(table) - 1) // multiple):
        at_once = _looked_up(table, newest + periods_back * multiple)[order]
        one_before = _looked_up(table, newest + (periods_back + 1) * multiple)[order]
        equal = np.concatenate([[0.0], np.cumsum(one_before - at_once)])[first] + at_once.sum()
        place = int(np.argmax(np.round(equal, 6)))
        if round(float(equal[place]), 6) > most_equal:
            below = int(starts[place - 1]) if place else int(starts[-1]) - period
            shift = periods_back * period
            most_equal, best = round(float(equal[place]), 6), _Lags(below + shift, int(starts[place]) + shift)
    return _Lags(max(grid.lag_us - 1, best.above), best.longest)


def _looked_up(table: Floats, back: Ints) -> Floats:
    """Return of each row the value so many refreshes back; 0 beyond the table."""
    inside = np.minimum(back, len(table) - 1)
    return np.where(back < len(table), table[inside, np.arange(table.shape[1])], 0.0)


def _lag_within(lags: _Lags, grid: Refresh, runs: Sequence[RunRecord]) -> int:
    """Return one of some lags: that of recorded runs, the declared one, or else one that is easily said."""
    lags_of_runs = [run.finished_at_us - _horizon(run.until_us, grid) for run in runs]
    lags_of_runs = [-(-lag // _SECOND) * _SECOND for lag in lags_of_runs]
    if inside := [lag for lag in lags_of_runs if lags.above < lag <= lags.longest]:
        return max(inside)
    if lags.above < grid.lag_us <= lags.longest:
        return grid.lag_us
    rounded = (lags.longest // unit * unit for unit in (_MINUTE, _SECOND, MICROSECONDS["ms"]))
    return next((lag for lag in rounded if lag > lags.above), lags.longest)


def _horizon(watermark: int, refresh: Refresh, inclusive: int = 0) -> int:
    """Return the grid instant that a state complete up to a watermark answers as of."""
    return horizons(NO_WATERMARK, watermark, refresh.period_us, refresh.lag_us, inclusive)[0] - inclusive


def _staleness(policy: Refresh) -> int:
    """Return twice how old the horizon of an answer is on average."""
    return policy.period_us + 2 * policy.lag_us


def _fix(served: _ServedView, best: Refresh, equal: float, equal_as_declared: float) -> str:
    """Return what to do about a view."""
    alias, declared = served.alias, served.view.refresh
    total = float(served.total.sum())
    on_time = f"Refresh {alias} as often and as soon as promised ({declared})"
    if declared.period_us == 0:
        on_time = f"Refresh {alias} more often"
    if equal - equal_as_declared <= _WORTH_SHARE * (total - equal_as_declared) or equal <= total / 2:
        return f"{on_time}: no refresh=every(…) would have made most of what was served equal."
    if not served.is_sample:
        effect = (
            f"{equal:.0f} of {total:.0f} served values equal; with {_declaration(declared)} it is"
            f" {equal_as_declared:.0f}"
        )
    else:
        effect = (
            f"about {equal / total:.1%} of its served values equal; with {_declaration(declared)} it is about"
            f" {equal_as_declared / total:.1%} (both estimated from {len(served.case.world):,} rows)"
        )
    return f"{on_time}, or declare {_declaration(best)}: it would have made {effect}."


def _declaration(refresh: Refresh) -> str:
    """Return a policy as definitions declare it."""
    if refresh.period_us == 0:
        return "refresh=continuous()"
    lag = f", lag='{format_duration(refresh.lag_us)}'" if refresh.lag_us else ""
    return f"refresh=every('{format_duration(refresh.period_us)}'{lag})"


@dataclass(frozen=True)
class _Horizons:
    """Which refresh each request was answered from.

    Attributes:
        served: The grid instant it was answered as of.
        promised: The one it should have been answered as of.
        is_known: Whether that is certain.
    """

    served: Ints
    promised: Ints
    is_known: Flags


def _served_horizons(served: _ServedView, watermarks: Ints | None, table: Floats) -> _Horizons:
    """Return which refresh answered each request: by watermarks, or else by which refresh reproduces its values."""
    view, as_of = served.view, served.case.world.as_of
    period_us, lag_us = view.refresh.period_us, view.refresh.lag_us
    promised = newest_refresh(as_of, period_us, lag_us)
    if watermarks is not None:
        of_watermarks = newest_refresh(watermarks - int(view.source.inclusive), period_us, lag_us)
        return _Horizons(np.minimum(of_watermarks, promised), promised, watermarks < NO_WATERMARK)
    is_equal = table >= served.total - 1e-6
    is_late = ~is_equal[0] & is_equal.any(axis=0)
    is_on_time = is_equal[0] & ~is_equal[1]
    return _Horizons(promised - np.argmax(is_equal, axis=0) * period_us, promised, is_late | is_on_time)


@dataclass(frozen=True)
class _LateRefresh:
    """A refresh that came after it was promised.

    Attributes:
        instant: Its instant on the grid.
        late_us: How long after it was promised it came, or had not come yet.
        has_come: Whether it came before the last request.
        seen_us: When it had come, or the last request it had not come for.
    """

    instant: int
    late_us: int
    has_come: bool
    seen_us: int


def _late_refreshes(served: _ServedView, horizon_of: _Horizons, runs: Sequence[RunRecord]) -> list[_LateRefresh]:
    """Return the refreshes that requests missed: for each request the first one after that which answered it."""
    refresh, inclusive = served.view.refresh, int(served.view.source.inclusive)
    order = np.argsort(served.case.world.as_of, kind="stable")
    order = order[horizon_of.is_known[order]]
    as_of, answered = served.case.world.as_of[order], horizon_of.served[order]
    missed = np.where(answered < horizon_of.promised[order], answered + refresh.period_us, NO_WATERMARK)
    newest = np.maximum.accumulate(answered)
    late = []
    for instant in np.unique(missed[missed < NO_WATERMARK]).tolist():
        last_without = int(as_of[missed == instant].max())
        place = int(np.searchsorted(newest, instant))
        seen = max(last_without, int(as_of[place])) if place < len(newest) else NO_WATERMARK
        ended = [run.finished_at_us for run in runs if _horizon(run.until_us, refresh, inclusive) >= instant]
        seen = min((end for end in ended if last_without < end <= seen), default=seen)
        has_come = seen < NO_WATERMARK
        seen = seen if has_come else last_without
        late.append(_LateRefresh(instant, seen - instant - refresh.lag_us, has_come, seen))
    return late


def _late_refreshes_in_words(served: _ServedView, late: Sequence[_LateRefresh]) -> Iterator[str]:
    """Yield how long after they were promised refreshes came."""
    view = f"{served.alias} ({served.view.refresh})"
    came = [refresh for refresh in late if refresh.has_come]
    if came:
        worst = max(came, key=lambda refresh: refresh.late_us)
        longest = format_duration(_whole_seconds(worst.late_us))
        median = format_duration(_whole_seconds(int(np.median([refresh.late_us for refresh in came]))))
        summary = (
            f"{len(came)} refreshes came late, up to {longest} after they were promised, median {median}; the worst"
        )
        if len(came) == 1:
            summary = f"1 refresh came late, {longest} after it was promised; it"
        yield f"{view}: {summary} was that of {format_instant(worst.instant)}"
    for refresh in late:
        if not refresh.has_come:
            yield (
                f"{view}: the refresh of {format_instant(refresh.instant)} had not come by"
                f" {format_instant(refresh.seen_us)}, {format_duration(_whole_seconds(refresh.late_us))} after it was"
                " promised"
            )


def _age_in_words(served: _ServedView, watermarks: Ints) -> str:
    """Return how old the state of a view without a grid was."""
    as_of = served.case.world.as_of
    age = np.maximum(as_of - watermarks, 0)
    worst = int(np.argmax(age))
    median, longest = (format_duration(_whole_seconds(int(length))) for length in (np.median(age), age[worst]))
    return (
        f"{served.alias} ({served.view.refresh}): the state was complete only up to {median} before the question"
        f" (median), at worst {longest}, at {format_instant(int(as_of[worst]))}"
    )


def _whole_seconds(length_us: int) -> int:
    """Return a duration without parts of a second, if it has whole ones."""
    return length_us // _SECOND * _SECOND if length_us >= _SECOND else length_us
