"""Judging leakage: which features tell of a label only because they see what nobody could know.

A feature that sees the event it predicts loses what it tells as soon as it is asked a moment earlier. So it is asked a
microsecond, a minute, an hour and a day earlier. A loss at a microsecond has no honest reason. Over longer shifts an
honest feature may lose much, because what is new matters; a loss speaks against it only where the shift is small beside
its window: a tenth or less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import NormalDist
from typing import Any

import msgspec

from featurestore.plan.model import Plan
from featurestore.skew.association import Association
from featurestore.skew.causes.world import operands
from featurestore.temporal import MICROSECONDS

SCHEMA = "featurestore-leakage-1"
"""Name and version of the report's JSON form."""

SHIFTS: Mapping[str, int] = {"1us": 1, "1m": MICROSECONDS["m"], "1h": MICROSECONDS["h"], "1d": MICROSECONDS["d"]}
"""How much earlier features are asked, by name."""

HINDSIGHT = "hindsight"
LEAST_EFFECT = 0.01
"""Share of the label's entropy that must be lost to speak of a loss."""

LEAST_LOSS = 0.5
"""Share of what a feature tells that must be lost."""

MISTAKES = 0.01
"""Chance that an honest training set has any feature flagged, over all features and shifts."""

_SMALL = 10


@dataclass(frozen=True)
class FeaturePower:
    """What one feature tells of the label.

    Attributes:
        name: Column of the training set.
        share: Share of the label's entropy that it removes.
        error: Standard error of it.
        earlier: The same when asked earlier, by ``SHIFTS``; and with ``hindsight``, or without if the training set has
            it.
        flags: Why it looks like a leak; none if it does not.
        notes: What else is worth knowing.
        changed: Values in the training set that its sources give otherwise now.
    """

    name: str
    share: float
    error: float
    earlier: dict[str, float]
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    changed: int = 0


@dataclass(frozen=True)
class SourceDelay:
    """How long after they happened events of a source became known.

    Attributes:
        view: The view that reads it.
        source: Name of the source.
        median_s: Median delay in seconds.
        p95_s: Its 95th percentile.
        longest_s: The longest.
        beyond_lag: Share of events that became known later than the view's refresh lag allows.
    """

    view: str
    source: str
    median_s: float
    p95_s: float
    longest_s: float
    beyond_lag: float


@dataclass(frozen=True)
class LeakageReport:
    """What was found in a training set.

    Attributes:
        service: Name of the feature service.
        fingerprint: Of its plan.
        label: Column that is predicted.
        rows: Rows looked at.
        features: What each feature tells, most telling first.
        sources: Delays of sources, largest share beyond the lag first.
        schema: Name and version of this form.
    """

    service: str
    fingerprint: str
    label: str
    rows: int
    features: tuple[FeaturePower, ...]
    sources: tuple[SourceDelay, ...]
    schema: str = SCHEMA

    @property
    def flagged(self) -> tuple[FeaturePower, ...]:
        """The features that look like leaks."""
        return tuple(feature for feature in self.features if feature.flags)

    @property
    def exit_code(self) -> int:
        """1 if any feature looks like a leak, else 0."""
        return int(bool(self.flagged))

    def to_json(self) -> str:
        """Return the report as JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the report's JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}"}
        return title | msgspec.json.schema(cls)


def judge(
    plan: Plan,
    base: Mapping[str, Association],
    moved: Mapping[str, Mapping[str, Association]],
    *,
    has_hindsight: bool,
    changed: Mapping[str, int],
) -> tuple[FeaturePower, ...]:
    """Tell which features look like leaks.

    Args:
        plan: The training set's plan.
        base: What each feature tells as the training set asks.
        moved: By shift (and ``HINDSIGHT``) the same, asked otherwise.
        has_hindsight: Whether the training set was built with hindsight; then ``HINDSIGHT`` holds it without.
        changed: Values per feature that sources give otherwise now.

    Returns:
        The features, most telling first.
    """
    spans = feature_spans(plan)
    deviations = NormalDist().inv_cdf(1 - MISTAKES / max(1, len(base) * len(moved)))
    found = []
    for name, power in base.items():
        flags = [
            f"asked {shift} earlier it loses {_lost(power, moved[shift][name]):.0%} of what it tells: {_reason(shift)}"
            for shift, length in SHIFTS.items()
            if (length == 1 or length * _SMALL <= spans[name]) and _vanishes(power, moved[shift][name], deviations)
        ]
        notes = []
        other = moved[HINDSIGHT][name]
        if has_hindsight and _vanishes(power, other, deviations):
            flags.append(f"without hindsight it loses {_lost(power, other):.0%} of what it tells: nobody knew it yet")
        elif not has_hindsight and _grows(power, other, deviations):
            notes.append(f"with hindsight it would tell {other.share:.3f}: of events that became known too late")
        found.append(
            FeaturePower(
                name=name,
                share=power.share,
                error=power.error,
                earlier={shift: powers[name].share for shift, powers in moved.items()},
                flags=tuple(flags),
                notes=tuple(notes),
                changed=changed[name],
            )
        )
    return tuple(sorted(found, key=lambda feature: (not feature.flags, -feature.share, feature.name)))


def feature_spans(plan: Plan) -> dict[str, int]:
    """Return the shortest window that each output is made of, in microseconds; 0 if any of it has none.

    Latest values and lifetimes have none: what came last may honestly be what tells most.
    """
    windows = {
        f"{use.alias}__{feature.name}": 0 if feature.aggregation in _ORDERED else feature.window_us or 0
        for use in plan.uses
        for feature in use.view.features
    }
    return {
        output.name: min((windows[column] for column in operands(plan, output.name) if column in windows), default=0)
        for output in plan.outputs
    }


_ORDERED = ("first", "first_n", "last", "last_n", "time_since_last")


def _vanishes(before: Association, after: Association, deviations: float) -> bool:
    loss = before.share - after.share
    is_large = loss >= LEAST_EFFECT and loss >= LEAST_LOSS * before.share
    return is_large and loss > deviations * hypot(before.error, after.error)


def _grows(before: Association, after: Association, deviations: float) -> bool:
    return after.share - before.share > max(LEAST_EFFECT, deviations * hypot(before.error, after.error))


def _lost(before: Association, after: Association) -> float:
    return 1 - after.share / before.share if before.share else 0.0


def _reason(shift: str) -> str:
    if SHIFTS[shift] == 1:
        return "it sees an event of the very instant; is its source inclusive, or as_of the label's own time?"
    return "it tells mostly of what happened just before; do its events bear the time when they were known?"


def ordered_delays(delays: Sequence[SourceDelay]) -> tuple[SourceDelay, ...]:
    """Return delays with those first that matter most."""
    return tuple(sorted(delays, key=lambda delay: (-delay.beyond_lag, -delay.longest_s, delay.view)))
