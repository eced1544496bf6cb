"""``refresh_ahead``: the state was newer than the view's refresh promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from featurestore.core.temporal import Refresh
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.world import ViewWorld, each_view

_PERIODS_AHEAD = (1, 2, 3)


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that answers kept to no grid, to no lag, or to one some periods ahead."""
    refreshes = [view.view.refresh for view in case.world.views.values()]
    has_grid = any(refresh.period_us for refresh in refreshes)
    if has_grid:
        yield Assumption(
            "answers used every event up to the instant asked about, as refresh=continuous() does",
            each_view(_continuous),
            {"refresh": "continuous"},
            fix="Declare refresh=continuous() on the view, or let serving keep to the grid it declares.",
        )
    if any(refresh.lag_us for refresh in refreshes):
        yield Assumption(
            "a refresh was served at once, without the lag the view declares",
            each_view(_without_lag),
            {"lag_us": 0},
            fix="Declare refresh=every(…) without lag, or let serving wait for it.",
        )
    for periods in _PERIODS_AHEAD if has_grid else ():
        yield Assumption(
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
    """Answer each request from the grid instant of a later one."""
    period_us = view.view.refresh.period_us
    return replace(view, shift_us=view.shift_us + periods * period_us) if period_us else None


REFRESH_AHEAD = Hypothesis(
    "refresh_ahead", rank=70, meaning="the state was newer than the view's refresh promises", propose=_propose
)
