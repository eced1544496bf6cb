"""``boundary``: an event at the very edge of a window, or a value at the edge of its ttl, was counted or was not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.world import ViewWorld, each_view
from featurestore.plan.model import FeaturePlan


def _propose(_: Case) -> Iterator[Assumption]:
    """Propose that one of the three edges was read the other way round."""
    yield Assumption(
        "an event at the horizon itself counts where the definition excludes it, or the other way round (<= for <)",
        each_view(_with_other_horizon),
        {"edge": "horizon"},
        fix="Compare event times with < on both roads; say inclusive=True on the source if its rows hold from their"
        " instant on.",
    )
    for step_us, reading in ((-1, "excludes"), (1, "reaches 1 µs beyond")):
        yield Assumption(
            f"a window {reading} its lower edge",
            each_view(_with_moved_windows, step_us),
            {"edge": "window", "step_us": step_us},
            fix="A window is horizon - length <= event_time < horizon; let serving use the same edge.",
        )
    for step_us in (-1, 1):
        yield Assumption(
            f"a value exactly as old as its ttl is {'expired' if step_us < 0 else 'kept 1 µs longer'}",
            each_view(_with_moved_ttls, step_us),
            {"edge": "ttl", "step_us": step_us},
            fix="A value expires when event_time < as_of - ttl; let serving use the same edge.",
        )


def _with_other_horizon(view: ViewWorld) -> ViewWorld:
    source = view.view.source
    return replace(view, view=replace(view.view, source=replace(source, inclusive=not source.inclusive)))


def _with_moved_windows(view: ViewWorld, step_us: int) -> ViewWorld | None:
    def moved(feature: FeaturePlan) -> FeaturePlan | None:
        return None if feature.window_us is None else replace(feature, window_us=feature.window_us + step_us)

    return view.with_features(moved)


def _with_moved_ttls(view: ViewWorld, step_us: int) -> ViewWorld | None:
    def moved(feature: FeaturePlan) -> FeaturePlan | None:
        return None if feature.ttl_us is None else replace(feature, ttl_us=feature.ttl_us + step_us)

    return view.with_features(moved)


BOUNDARY = Hypothesis(
    "boundary",
    rank=80,
    meaning="an edge was inclusive where the contract says exclusive, or the reverse",
    propose=_propose,
)
