"""``missed_refresh``: the state was older than the view's refresh promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from featurestore.core.columns import Ints
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MICROSECONDS,
    MIN_INSTANT_US,
    format_duration,
    format_instant,
)
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import (
    ViewWorld,
    World,
    of_view,
    promised_watermarks,
)

NAME = "missed_refresh"

FIX = "Refresh as often and as soon as the view promises."
"""What to do about any missed refresh; findings put in its place how late refreshes were and what to declare."""

_MOST_RUNS = 40
_MOST_PERIODS = 6
_AGES_US = tuple(minutes * MICROSECONDS["m"] for minutes in (1, 5, 10, 15, 30, 60, 120, 360, 720, 1440, 2880))
_OLDEST_RUN_US = 30 * _AGES_US[-1]
"""How long before the first request a run may have ended whose state still answered."""


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose the watermarks that the log names, then those of recorded runs, then ages on a grid."""
    world = case.world
    if any(world.logged_watermarks(alias) is not None for alias in world.views):
        yield Assumption(
            "the state was complete only up to the watermark in the log",
            _at_logged_watermarks,
            {"watermark": "log"},
            fix=FIX,
        )
    naming_bits = WEIGHTS.naming_contradicted if _says_fresh(world) else WEIGHTS.naming
    for assumption in _at_runs(case):
        yield replace(assumption, naming_bits=naming_bits)
    for age_us in _ages(world):
        yield Assumption(
            f"the state was {_age_in_words(world, age_us)} promised",
            _older_by(age_us),
            {"behind_us": age_us},
            fix=FIX,
            naming_bits=naming_bits,
        )


def _says_fresh(world: World) -> bool:
    """Return whether the log claims that most states were as new as promised."""
    stale_shares = [
        (promised_watermarks(view.view, world.as_of) > watermarks).mean()
        for alias, view in world.views.items()
        if (watermarks := world.logged_watermarks(alias)) is not None
    ]
    return bool(stale_shares) and max(stale_shares) < WEIGHTS.fresh_share


def _at_logged_watermarks(world: World) -> World | None:
    watermarks = {alias: world.logged_watermarks(alias) for alias in world.views}
    if all(watermark is None for watermark in watermarks.values()):
        return None
    return replace(
        world,
        views={alias: replace(view, watermark=watermarks[alias]) for alias, view in world.views.items()},
    )


def _at_runs(case: Case) -> Iterator[Assumption]:
    """Propose that the state of a view was what one of the recorded runs had left."""
    as_of = case.world.as_of
    if len(as_of) == 0:
        return
    first, last = int(as_of.min()), int(as_of.max())
    for alias, view in case.world.views.items():
        bounds = sorted({run.until_us for run in case.facts.runs.get(view.view.name, ())})
        for bound in [bound for bound in bounds if bound <= last][-_MOST_RUNS:]:
            if bound < first - _OLDEST_RUN_US or not MIN_INSTANT_US <= bound <= MAX_INSTANT_US:
                continue
            yield Assumption(
                f"the state stood at the run up to {format_instant(bound)}",
                of_view(alias, _at_run, bound),
                {"watermark": format_instant(bound), "view": alias},
                fix=FIX,
            )


def _at_run(view: ViewWorld, bound: int) -> ViewWorld:
    return replace(view, watermark=np.full(len(view.keys[0]), bound, dtype=np.int64))


def _age_in_words(world: World, age_us: int) -> str:
    periods = {view.view.refresh.period_us for view in world.views.values()} - {0}
    count, rest = divmod(age_us, min(periods)) if len(periods) == 1 else (0, 0)
    if count == 0 or rest:
        return f"{format_duration(age_us)} older than"
    return "one refresh behind what was" if count == 1 else f"{count} refreshes behind what was"


def _ages(world: World) -> list[int]:
    """Return how much older than promised a state may have been: whole periods, then common durations."""
    periods = {view.view.refresh.period_us for view in world.views.values()} - {0}
    ages = [period * count for period in sorted(periods) for count in range(1, _MOST_PERIODS + 1)]
    return list(dict.fromkeys([*ages, *_AGES_US]))


def _older_by(age_us: int) -> Callable[[World], World | None]:
    return lambda world: world.with_views(lambda view: _older(view, world.as_of, age_us))


def _older(view: ViewWorld, as_of: Ints, age_us: int) -> ViewWorld:
    return replace(view, watermark=promised_watermarks(view.view, as_of) - age_us)


MISSED_REFRESH = Hypothesis(
    NAME,
    rank=50,
    meaning="the state was older than the view's refresh promises",
    propose=_propose,
    explains_absence=True,
)
