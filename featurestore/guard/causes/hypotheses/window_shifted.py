"""``window_shifted``: windows that end, begin or are cut a whole unit elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from featurestore.core.temporal import (
    MICROSECONDS,
    Refresh,
    format_duration,
)
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import ViewWorld, each_view
from featurestore.plan.model import FeaturePlan

_SHIFTS_US = tuple(MICROSECONDS[unit] for unit in ("s", "m", "h", "d", "w"))
_GRIDS_US = tuple(MICROSECONDS[unit] for unit in ("m", "h", "d"))
_LENGTHS_US = (*_GRIDS_US, MICROSECONDS["w"])
_HOURS = tuple(sign * hours for hours in range(2, 15) for sign in (-1, 1))


def _propose(_: Case) -> Iterator[Assumption]:
    """Propose shifted ends, shifted instants, grids, and other lengths."""
    for unit in _SHIFTS_US:
        for shift_us in (-unit, unit):
            yield _ending(shift_us)
            yield _asked_at(shift_us)
    for hours in _HOURS:
        for assumption in (_ending(hours * MICROSECONDS["h"]), _asked_at(hours * MICROSECONDS["h"])):
            yield replace(assumption, naming_bits=WEIGHTS.naming_hours)
    for grid in _GRIDS_US:
        yield Assumption(
            f"windows end at the last full {_unit(grid)}, not at the instant asked about",
            each_view(_on_grid, grid),
            {"grid_us": grid},
            fix=f"Declare refresh=every('{format_duration(grid)}'), or let serving end windows at as_of.",
        )
    for unit in _LENGTHS_US:
        for step in (-unit, unit):
            yield Assumption(
                f"windows are {format_duration(unit)} {'longer' if step > 0 else 'shorter'} than defined",
                each_view(_longer, step),
                {"longer_us": step},
                fix="Let serving use the length that .over(…) declares.",
            )
    yield Assumption(
        "windows have no lower edge: everything that ever happened counts",
        each_view(_without_window),
        {"window": "lifetime"},
        fix="Let serving apply the length that .over(…) declares, or declare .lifetime().",
    )


def _unit(length_us: int) -> str:
    return {MICROSECONDS["m"]: "minute", MICROSECONDS["h"]: "hour", MICROSECONDS["d"]: "day"}[length_us]


def _ending(shift_us: int) -> Assumption:
    direction = "later" if shift_us > 0 else "earlier"
    return Assumption(
        f"windows end {format_duration(abs(shift_us))} {direction} than they should",
        each_view(_shifted, shift_us),
        {"shift_us": shift_us},
        fix="Let windows end at the horizon on both roads: as_of, or the refresh grid's last instant.",
    )


def _asked_at(shift_us: int) -> Assumption:
    direction = "later" if shift_us > 0 else "earlier"
    return Assumption(
        f"questions were answered as of an instant {format_duration(abs(shift_us))} {direction} than the log says",
        lambda world: replace(world, as_of=world.as_of + shift_us),
        {"as_of_shift_us": shift_us},
        fix="Log the instant that is asked about, to the microsecond, and ask about the one that is logged.",
    )


def _shifted(view: ViewWorld, shift_us: int) -> ViewWorld:
    return replace(view, shift_us=view.shift_us + shift_us)


def _on_grid(view: ViewWorld, grid_us: int) -> ViewWorld | None:
    if view.view.refresh.period_us == grid_us:
        return None
    return replace(view, view=replace(view.view, refresh=Refresh(period_us=grid_us)))


def _longer(view: ViewWorld, step_us: int) -> ViewWorld | None:
    def longer(feature: FeaturePlan) -> FeaturePlan | None:
        if feature.window_us is None or feature.window_us + step_us <= 0:
            return None
        return replace(feature, window_us=feature.window_us + step_us)

    return view.with_features(longer)


def _without_window(view: ViewWorld) -> ViewWorld | None:
    def without(feature: FeaturePlan) -> FeaturePlan | None:
        return None if feature.window_us is None else replace(feature, window_us=None, resolution_us=0)

    return view.with_features(without)


WINDOW_SHIFTED = Hypothesis(
    "window_shifted", rank=160, meaning="windows lie or end a whole unit elsewhere", propose=_propose
)
