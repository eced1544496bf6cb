"""Judging leakage: which features tell of a label only because they see what nobody could know.

What is proven is told apart from what is only suspicious. A feature that sees the event it predicts loses what it tells
when it is asked a microsecond earlier, or just before the label's own event: no honest feature does, and it is flagged.
Asked a minute or an hour earlier an honest feature may lose as much, because what is new matters, and one that is fed
by events dated before they were known looks just the same. No count of values can tell these two apart, so such a loss
is a doubt, with what is known about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import NormalDist
from typing import Any

import msgspec

from featurestore.core.temporal import MICROSECONDS
from featurestore.guard.release.association import Association
from featurestore.guard.world.world import operands
from featurestore.plan.aggregations import Kind, aggregate_of
from featurestore.plan.model import Plan

SCHEMA = "featurestore-leakage-2"
"""Name and version of the report's JSON form."""

SHIFTS: Mapping[str, int] = {"1us": 1, "1m": MICROSECONDS["m"], "1h": MICROSECONDS["h"], "1d": MICROSECONDS["d"]}
"""How much earlier features are asked, by name."""

HINDSIGHT = "hindsight"
LABEL_TIME = "label time"
LEAST_TOLD = 0.05
"""Share of the label's entropy that a feature must tell for its losses to be doubted."""

LEAST_EFFECT = 0.01
"""Share of the label's entropy that must be lost to speak of a loss."""

LEAST_LOSS = 0.5
"""Share of what a feature tells that must be lost."""

MISTAKES = 0.01
"""Chance that noise alone has any feature flagged or doubted, over all features and shifts, rows being independent."""

_SOON_US = MICROSECONDS["h"]
_SMALL = 10


@dataclass(frozen=True)
class FeaturePower:
    """What one feature tells of the label.

    Attributes:
        name: Column of the training set.
        share: Share of the label's entropy that it removes.
        error: Standard error of it.
        earlier: The same when asked earlier, by ``SHIFTS``; with ``hindsight``, or without if the training set has it;
            and just before the label's event, if its time is known.
        flags: Why it is a leak; none if that is not proven.
        doubts: Why it may be one; none for a feature that is flagged.
        evidence: What is known about a doubt.
        notes: What else is worth knowing.
        changed: Values in the training set that its sources give otherwise now.
    """

    name: str
    share: float
    error: float
    earlier: dict[str, float]
    flags: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
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
        says_when_known: Whether the source says when its events became known.
    """

    view: str
    source: str
    median_s: float
    p95_s: float
    longest_s: float
    beyond_lag: float
    says_when_known: bool


@dataclass(frozen=True)
class LeakageReport:
    """What was found in a training set.

    Attributes:
        service: Name of the feature service.
        fingerprint: Of its plan.
        label: Column that is predicted.
        rows: Rows looked at.
        sampled_of: Rows of the training set.
        label_time: Column that says when the label's event happened; empty if none was named.
        after_label: Rows whose ``as_of`` lies after the label's event.
        features: What each feature tells: flagged ones first, then doubted ones, most telling first.
        sources: Delays of sources, largest share beyond the lag first.
        schema: Name and version of this form.
    """

    service: str
    fingerprint: str
    label: str
    rows: int
    sampled_of: int
    label_time: str
    after_label: int
    features: tuple[FeaturePower, ...]
    sources: tuple[SourceDelay, ...]
    schema: str = SCHEMA

    @property
    def flagged(self) -> tuple[FeaturePower, ...]:
        """The features that are leaks."""
        return tuple(feature for feature in self.features if feature.flags)

    @property
    def doubted(self) -> tuple[FeaturePower, ...]:
        """The features that may be leaks."""
        return tuple(feature for feature in self.features if feature.doubts)

    @property
    def exit_code(self) -> int:
        """1 if any feature is a leak, else 0; doubts do not count."""
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
    """Tell which features are leaks, and which may be.

    Args:
        plan: The training set's plan.
        base: What each feature tells as the training set asks.
        moved: By shift (and ``HINDSIGHT``, and ``LABEL_TIME`` if it is known) the same, asked otherwise.
        has_hindsight: Whether the training set was built with hindsight; then ``HINDSIGHT`` holds it without.
        changed: Values per feature that sources give otherwise now.

    Returns:
        The features: flagged ones first, then doubted ones, most telling first.
    """
    spans = feature_spans(plan)
    deviations = NormalDist().inv_cdf(1 - MISTAKES / max(1, len(base) * len(moved)))
    found = []
    for name, power in base.items():
        others = {move: powers[name] for move, powers in moved.items()}
        flags = tuple(_flags(power, others, deviations, has_hindsight=has_hindsight))
        other = others[HINDSIGHT]
        notes = []
        if not has_hindsight and _grows(power, other, deviations):
            notes.append(f"with hindsight it would tell {other.share:.3f}: of events that became known too late")
        found.append(
            FeaturePower(
                name=name,
                share=power.share,
                error=power.error,
                earlier={move: moved.share for move, moved in others.items()},
                flags=flags,
                doubts=() if flags else tuple(_doubts(power, others, deviations, spans[name])),
                notes=tuple(notes),
                changed=changed[name],
            )
        )
    return tuple(
        sorted(found, key=lambda feature: (not feature.flags, not feature.doubts, -feature.share, feature.name))
    )


def _flags(
    power: Association, others: Mapping[str, Association], deviations: float, *, has_hindsight: bool
) -> Iterator[str]:
    at_once = others["1us"]
    if _vanishes(power, at_once, deviations):
        yield (
            f"asked 1us earlier it loses {_lost(power, at_once):.0%} of what it tells: it sees an event of the very"
            " instant; is its source inclusive, or as_of the label's own time?"
        )
    at_label = others.get(LABEL_TIME)
    if at_label is not None and _shrinks(power, at_label, deviations):
        yield (
            f"asked just before the label's own event it loses {_lost(power, at_label):.0%} of what it tells: it sees"
            " what came of the label"
        )
    if has_hindsight and _vanishes(power, others[HINDSIGHT], deviations):
        yield f"without hindsight it loses {_lost(power, others[HINDSIGHT]):.0%} of what it tells: nobody knew it yet"


def _doubts(power: Association, others: Mapping[str, Association], deviations: float, span_us: int) -> Iterator[str]:
    """Yield the shortest shift at which a telling feature loses half, if that is short, also beside its window."""
    for shift, length in SHIFTS.items():
        is_short = length <= _SOON_US or length * _SMALL <= span_us
        if power.share >= LEAST_TOLD and is_short and _vanishes(power, others[shift], deviations):
            yield (
                f"asked {shift} earlier it loses {_lost(power, others[shift]):.0%} of what it tells: a leak if its"
                " newest events bear a time before they were known, honest if not"
            )
            return


def feature_spans(plan: Plan) -> dict[str, int]:
    """Return the shortest window that each output is made of, in microseconds; 0 if any of it has none.

    Latest values and lifetimes have none: what came last may honestly be what tells most.
    """
    windows = {
        column: 0 if aggregate_of(feature).kind is Kind.ORDERED else feature.window_us or 0
        for use in plan.uses
        for column, feature in zip(use.columns, use.view.features, strict=True)
    }
    return {
        output.name: min((windows[column] for column in operands(plan, output.name) if column in windows), default=0)
        for output in plan.outputs
    }


def _vanishes(before: Association, after: Association, deviations: float) -> bool:
    loss = before.share - after.share
    is_large = loss >= LEAST_EFFECT and loss >= LEAST_LOSS * before.share
    return is_large and loss > deviations * hypot(before.error, after.error)


def _shrinks(before: Association, after: Association, deviations: float) -> bool:
    return before.share - after.share > max(LEAST_EFFECT, deviations * hypot(before.error, after.error))


def _grows(before: Association, after: Association, deviations: float) -> bool:
    return _shrinks(after, before, deviations)


def _lost(before: Association, after: Association) -> float:
    return 1 - after.share / before.share if before.share else 0.0


def ordered_delays(delays: Sequence[SourceDelay]) -> tuple[SourceDelay, ...]:
    """Return delays with those first that matter most."""
    return tuple(sorted(delays, key=lambda delay: (-delay.beyond_lag, -delay.longest_s, delay.view)))
