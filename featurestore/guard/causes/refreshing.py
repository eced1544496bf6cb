"""State that was older or newer than the view's refresh promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MIN_INSTANT_US,
    NO_WATERMARK,
    Refresh,
    format_duration,
    format_instant,
)
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.world.world import (
    ViewWorld,
    World,
    each_view,
    event_bounds,
    of_view,
)
from featurestore.plan.model import ViewPlan
from featurestore.serving_log.columns import watermark_column

ON_TIME = "Refresh as often and as soon as the view promises."
"""What to do about any missed refresh; findings put in its place how late refreshes were and what to declare."""

_MOST_PERIODS = 6
_CONTRADICTED_BITS = 25.0
"""What it costs to assume an old state against what the log says."""

_MOST_RUNS = 40
_BEHIND_US = tuple(minutes * 60_000_000 for minutes in (1, 5, 10, 15, 30, 60, 120, 360, 720, 1440, 2880))


def logged_watermarks(world: World, alias: str) -> Ints | None:
    """Return the watermarks a log has for a view, ``None`` if it has none."""
    name = watermark_column(alias)
    if name not in world.log.column_names:
        return None
    column = world.column(name).cast(pa.int64())
    if column.null_count == len(column):
        return None
    return np.asarray(column.fill_null(NO_WATERMARK).to_numpy(zero_copy_only=False), dtype=np.int64)


def promised(view: ViewPlan, as_of: Ints) -> Ints:
    """Return the watermarks that a view's refresh promises to questions: up to here state must be complete."""
    return event_bounds(view, as_of)[1]


def missed_refresh(case: Case) -> Iterator[Variant]:
    """Propose the watermarks that the log names, then those of recorded runs, then ages on a grid."""
    world = case.world
    if any(logged_watermarks(world, alias) is not None for alias in world.views):
        yield Variant(
            "missed_refresh",
            "the state was complete only up to the watermark in the log",
            _at_logged_watermarks,
            {"watermark": "log"},
            fix=ON_TIME,
        )
    bits = _CONTRADICTED_BITS if _says_on_time(world) else 7.0
    for variant in _at_runs(case):
        yield replace(variant, bits=bits)
    for behind in _ages(world):
        yield Variant(
            "missed_refresh",
            f"the state was {_behind_said(world, behind)} promised",
            _standing_back(behind),
            {"behind_us": behind},
            fix=ON_TIME,
            bits=bits,
        )


def _says_on_time(world: World) -> bool:
    """Tell whether the log claims that most states were as new as promised."""
    behind = [
        (promised(view.view, world.as_of) > marks).mean()
        for alias, view in world.views.items()
        if (marks := logged_watermarks(world, alias)) is not None
    ]
    return bool(behind) and max(behind) < 0.5


def _at_logged_watermarks(world: World) -> World | None:
    marks = {alias: logged_watermarks(world, alias) for alias in world.views}
    if all(mark is None for mark in marks.values()):
        return None
    return replace(
        world,
        views={alias: replace(view, watermark=marks[alias]) for alias, view in world.views.items()},
    )


def _at_runs(case: Case) -> Iterator[Variant]:
    """Propose that state stood where one of the recorded runs had left it."""
    as_of = case.world.as_of
    if len(as_of) == 0:
        return
    since, until = int(as_of.min()), int(as_of.max())
    for alias, view in case.world.views.items():
        marks = sorted({run.until_us for run in case.facts.runs.get(view.view.name, ())})
        useful = [mark for mark in marks if mark <= until][-_MOST_RUNS:]
        for mark in useful:
            if mark < since - 30 * _BEHIND_US[-1] or not MIN_INSTANT_US <= mark <= MAX_INSTANT_US:
                continue
            yield Variant(
                "missed_refresh",
                f"the state stood at the run up to {format_instant(mark)}",
                of_view(alias, _standing_at, mark),
                {"watermark": format_instant(mark), "view": alias},
                fix=ON_TIME,
            )


def _standing_at(view: ViewWorld, mark: int) -> ViewWorld:
    return replace(view, watermark=np.full(len(view.keys[0]), mark, dtype=np.int64))


def _behind_said(world: World, behind_us: int) -> str:
    periods = {view.view.refresh.period_us for view in world.views.values()} - {0}
    count, rest = divmod(behind_us, min(periods)) if len(periods) == 1 else (0, 0)
    if count == 0 or rest:
        return f"{format_duration(behind_us)} older than"
    return "one refresh behind what was" if count == 1 else f"{count} refreshes behind what was"


def _ages(world: World) -> list[int]:
    """Return how much older than promised a state may have been: whole periods, then common durations."""
    periods = {view.view.refresh.period_us for view in world.views.values()} - {0}
    ages = [period * count for period in sorted(periods) for count in range(1, _MOST_PERIODS + 1)]
    return list(dict.fromkeys([*ages, *_BEHIND_US]))


def _standing_back(behind_us: int) -> Callable[[World], World | None]:
    return lambda world: world.with_views(lambda view: _older(view, world.as_of, behind_us))


def _older(view: ViewWorld, as_of: Ints, behind_us: int) -> ViewWorld:
    return replace(view, watermark=promised(view.view, as_of) - behind_us)


def refresh_ahead(case: Case) -> Iterator[Variant]:
    """Propose that state was newer than promised: without a grid, without the lag, or some periods ahead."""
    if any(view.view.refresh.period_us for view in case.world.views.values()):
        yield Variant(
            "refresh_ahead",
            "answers used every event up to the instant asked about, as refresh=continuous() does",
            each_view(_continuous),
            {"refresh": "continuous"},
            fix="Declare refresh=continuous() on the view, or let serving keep to the grid it declares.",
        )
    if any(view.view.refresh.lag_us for view in case.world.views.values()):
        yield Variant(
            "refresh_ahead",
            "a refresh was served at once, without the lag the view declares",
            each_view(_without_lag),
            {"lag_us": 0},
            fix="Declare refresh=every(…) without lag, or let serving wait for it.",
        )
    for periods in (1, 2, 3):
        if any(view.view.refresh.period_us for view in case.world.views.values()):
            yield Variant(
                "refresh_ahead",
                f"the state was {periods} refresh{'es' if periods > 1 else ''} ahead of the view's grid",
                each_view(_ahead, periods),
                {"periods": periods},
                fix="Let serving keep to the grid that refresh=every(…) declares, or declare the refresh that is run.",
            )


def _continuous(view: ViewWorld) -> ViewWorld | None:
    return replace(view, view=replace(view.view, refresh=Refresh())) if view.view.refresh.period_us else None


def _without_lag(view: ViewWorld) -> ViewWorld | None:
    refresh = view.view.refresh
    return replace(view, view=replace(view.view, refresh=replace(refresh, lag_us=0))) if refresh.lag_us else None


def _ahead(view: ViewWorld, periods: int) -> ViewWorld | None:
    """Let each question find the grid instant of a later one."""
    period_us = view.view.refresh.period_us
    return replace(view, shift_us=view.shift_us + periods * period_us) if period_us else None


REFRESHING = (
    Hypothesis(
        "missed_refresh", "the state was older than the view's refresh promises", missed_refresh, explains_absence=True
    ),
    Hypothesis("refresh_ahead", "the state was newer than the view's refresh promises", refresh_ahead),
)
