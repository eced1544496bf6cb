"""How late refreshes were, and which refresh policy would have kept its promise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from featurestore.plan.model import ViewPlan
from featurestore.skew.causes.model import Case
from featurestore.skew.causes.refreshing import logged_watermarks, promised
from featurestore.skew.causes.world import operands
from featurestore.temporal import MICROSECONDS, Refresh, format_duration, format_instant, is_stale

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_MINUTE = MICROSECONDS["m"]
_PERIODS = tuple(minutes * _MINUTE for minutes in (1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440))
_LAGS = tuple(minutes * _MINUTE for minutes in (0, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 360, 720))
_ASKED = 400
_WORTH = 0.02
"""By how much the share of kept promises must grow for a policy to be proposed."""


@dataclass(frozen=True)
class Told:
    """What is said about late refreshes."""

    evidence: list[str]
    fix: str


@dataclass(frozen=True)
class Suggestion:
    """A refresh policy and how often its promise would have been kept.

    Attributes:
        refresh: The policy.
        kept: Share of questions whose state was as new as it promises.
    """

    refresh: Refresh
    kept: float

    def __str__(self) -> str:
        lag = f", lag='{format_duration(self.refresh.lag_us)}'" if self.refresh.lag_us else ""
        return f"refresh=every('{format_duration(self.refresh.period_us)}'{lag})"


def suggest_refresh(view: ViewPlan, as_of: Ints, watermark: Ints) -> Suggestion | None:
    """Return the freshest policy whose promise the logged watermarks would have kept most often.

    With it declared, a training set sees what serving could see: equal values without a faster refresh.

    Args:
        view: The view with its present policy.
        as_of: Instants asked about.
        watermark: What the state was complete up to at each.

    Returns:
        The policy, ``None`` if there is nothing to judge by.
    """
    if len(as_of) == 0:
        return None
    rows = np.linspace(0, len(as_of) - 1, min(_ASKED, len(as_of))).astype(np.int64)
    asked, marks = as_of[rows].tolist(), watermark[rows].tolist()
    inclusive = int(view.source.inclusive)
    least = view.refresh.period_us or _PERIODS[0]
    best: Suggestion | None = None
    for period in dict.fromkeys([least, *(period for period in _PERIODS if period >= least)]):
        for lag in sorted({view.refresh.lag_us, *_LAGS}):
            stale = sum(is_stale(at, mark, period, lag, inclusive) for at, mark in zip(asked, marks, strict=True))
            kept = round(1 - stale / len(asked), 3)
            if best is None or kept > best.kept:
                best = Suggestion(Refresh(period, lag), kept)
    return best


def lag_evidence(case: Case, owned: Mapping[str, Flags]) -> Told:
    """Tell how late the state was in the values that a missed refresh explains, and what to declare instead."""
    evidence: list[str] = []
    fixes: dict[str, list[str]] = {}
    world = case.world
    for alias, view in world.views.items():
        marks = logged_watermarks(world, alias)
        rows = np.zeros(len(world), dtype=np.bool_)
        for name, flags in owned.items():
            if any(column.startswith(f"{alias}__") for column in operands(world.plan, name)):
                rows |= flags
        if marks is None or not bool(rows.any()):
            continue
        behind = promised(view.view, world.as_of) - marks
        late = rows & (behind > 0)
        if not bool(late.any()):
            continue
        worst = int(np.argmax(np.where(late, behind, np.iinfo(np.int64).min)))
        refresh = view.view.refresh
        allowed = f" promises {format_duration(refresh.lag_us)} after each period" if refresh.period_us else ""
        evidence.append(
            f"{alias} ({refresh}){allowed}: the state was up to {format_duration(int(behind[worst]))} older than"
            f" promised, worst at {format_instant(int(world.as_of[worst]))}; median"
            f" {format_duration(int(np.median(behind[late])))}"
        )
        fixes.setdefault(_fix(view.view, world.as_of, marks), []).append(alias)
    return Told(evidence, " ".join(f"Refresh {', '.join(aliases)} {fix}" for fix, aliases in fixes.items()))


def _fix(view: ViewPlan, as_of: Ints, marks: Ints) -> str:
    """Return what to do about a view, to follow its name."""
    found = suggest_refresh(view, as_of, marks)
    on_time = f"as often and as soon as promised ({view.refresh})"
    if found is None:
        return f"{on_time}."
    kept = float((promised(view, as_of) <= marks).mean())
    if found.kept < kept + _WORTH:
        return f"{on_time}: no policy that is as slow as its refreshes were would have been kept more often."
    said = f"{found.kept:.1%} of these answers would have kept that promise ({kept:.1%} keep the present one)"
    return f"{on_time}, or declare {found}: {said}."
