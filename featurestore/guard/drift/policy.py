"""Judging a drift report: what chance explains, what is too small to matter, and what is drift.

By default a distance is drift if chance does not explain it, after correction for the number of features and measures
judged, and if it is large enough to matter. Fixed thresholds that people know go by names such as ``"psi-0.2"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from featurestore.core.errors import ConfigError, listing
from featurestore.guard.comparing.verdicts import CANNOT_TELL, FAIL, PASS
from featurestore.guard.drift.assess import MEASURES
from featurestore.guard.drift.report import DriftReport, FeatureDrift, Measured

Correction = Literal["holm", "benjamini-hochberg", "none"]

LEAST_EFFECTS: Mapping[str, float] = {
    "kolmogorov_smirnov": 0.05,
    "jensen_shannon": 0.07,
    "null_share": 0.02,
    "beyond_range": 0.02,
    "new_categories": 0.02,
}
"""What is judged by chance, and the least distance that matters.

A Jensen-Shannon distance of 0.07 is half of all rows becoming 40 % of them, or one in a hundred becoming four.
Cramér's V is not judged: it shrinks as one sample outgrows the other.
"""

_ALIASES = {
    "psi": "psi",
    "js": "jensen_shannon",
    "ks": "kolmogorov_smirnov",
    "wasserstein": "wasserstein",
    "linf": "l_infinity",
    "cramer": "chi_square",
    "nulls": "null_share",
    "ks-p": "kolmogorov_smirnov",
    "chi2-p": "chi_square",
}


@dataclass(frozen=True)
class FixedThreshold:
    """A threshold people know by its name.

    Attributes:
        name: Its name: measure and bound, such as ``"psi-0.2"``; ``"ks-p-0.05"`` bounds a p-value, uncorrected.
        measure: The measure it is about.
        bound: A distance of at least this, or a p-value below this, is drift.
        of_p_value: Whether it bounds the p-value.
    """

    name: str
    measure: str
    bound: float
    of_p_value: bool

    @classmethod
    def named(cls, name: str) -> FixedThreshold:
        """Return a threshold by its name.

        Raises:
            ConfigError: There is no such measure, or the bound is no number above 0.

        Example:
            >>> FixedThreshold.named("psi-0.2").bound
            0.2
        """
        measure, _, text = name.rpartition("-")
        try:
            bound = float(text)
        except ValueError:
            bound = math.nan
        if measure not in _ALIASES or not 0 < bound < math.inf:
            hint = f"Write a measure and a bound, such as 'psi-0.2'. {listing('Measures', _ALIASES, wrong=measure)}"
            raise ConfigError(
                f"there is no drift threshold '{name}'", where="drift policy", hint=hint, code="threshold"
            )
        return cls(name, _ALIASES[measure], bound, of_p_value=measure.endswith("-p"))

    def is_exceeded(self, measured: Measured) -> bool:
        """Tell whether a distance is drift."""
        return measured.p_value < self.bound if self.of_p_value else abs(measured.value) >= self.bound


@dataclass(frozen=True)
class DriftPolicy:
    """What drift is, and how much of it is allowed.

    Attributes:
        significance: Probability, over everything judged, of calling chance drift: of any false call with ``"holm"``,
            the expected share of false calls with ``"benjamini-hochberg"``.
        correction: How p-values are corrected for their number. Holm's holds however features depend on each other.
        least_effects: What is judged, and the least distance that matters.
        fixed: Names of fixed thresholds; if there are any, they alone decide.
        allowed_features: How many features may drift.
        least_rows: How many independent rows those of both samples must be worth for a verdict.
    """

    significance: float = 0.01
    correction: Correction = "holm"
    least_effects: Mapping[str, float] = field(default_factory=lambda: dict(LEAST_EFFECTS))
    fixed: tuple[str, ...] = ()
    allowed_features: int = 0
    least_rows: int = 50

    def __post_init__(self) -> None:
        for name in self.fixed:
            FixedThreshold.named(name)
        for measure in self.least_effects:
            if measure not in MEASURES:
                hint = listing("Measures", MEASURES, wrong=measure)
                raise ConfigError(f"there is no measure '{measure}'", where="drift policy", hint=hint, code="measure")
        if not 0 < self.significance < 1:
            raise ConfigError(f"the significance is {self.significance}", where="drift policy", hint="Between 0 and 1.")

    def judge(self, report: DriftReport) -> DriftReport:
        """Return the report with what is drift, a verdict and its reasons.

        Too few rows, or no feature to compare, mean that it cannot be told.
        """
        features = self._by_names(report.features) if self.fixed else self._by_chance(report.features)
        judged = replace(report, features=features, policy=str(self))
        fewest = min(report.effective_rows)
        if fewest < self.least_rows:
            reason = f"the smaller sample is worth {fewest} independent rows, at least {self.least_rows} are needed"
            return replace(judged, verdict=CANNOT_TELL, reasons=(reason,))
        if not features:
            return replace(judged, verdict=CANNOT_TELL, reasons=("no feature is on both sides",))
        if len(judged.drifted) > self.allowed_features:
            return replace(judged, verdict=FAIL, reasons=tuple(map(_reason, judged.drifted)))
        said = f"{len(judged.drifted)} of {len(features)} features drifted"
        return replace(judged, verdict=PASS, reasons=(said if judged.drifted else "no feature drifted",))

    def __str__(self) -> str:
        if self.fixed:
            return f"fixed thresholds: {', '.join(self.fixed)}"
        effects = ", ".join(f"{measure} {least:g}" for measure, least in self.least_effects.items())
        return f"significance {self.significance:g}, corrected ({self.correction}); least effects: {effects}"

    def _by_names(self, features: Sequence[FeatureDrift]) -> tuple[FeatureDrift, ...]:
        fixed = [FixedThreshold.named(name) for name in self.fixed]

        def judged(one: Measured) -> Measured:
            return replace(one, is_drift=any(f.measure == one.measure and f.is_exceeded(one) for f in fixed))

        return tuple(replace(feature, measures=tuple(map(judged, feature.measures))) for feature in features)

    def _by_chance(self, features: Sequence[FeatureDrift]) -> tuple[FeatureDrift, ...]:
        tests = [
            (feature.name, one) for feature in features for one in feature.measures if one.measure in self.least_effects
        ]
        adjusted = adjust([one.p_value for _, one in tests], self.correction)
        known = {(name, one.measure): p for (name, one), p in zip(tests, adjusted, strict=True)}

        def judged(name: str, one: Measured) -> Measured:
            p_value = known.get((name, one.measure))
            if p_value is None:
                return replace(one, adjusted=None, is_drift=False)
            large = abs(one.value) >= self.least_effects[one.measure]
            return replace(one, adjusted=p_value, is_drift=large and p_value < self.significance)

        return tuple(
            replace(feature, measures=tuple(judged(feature.name, one) for one in feature.measures))
            for feature in features
        )


def adjust(p_values: Sequence[float], correction: Correction) -> list[float]:
    """Correct p-values for their number.

    Args:
        p_values: Of everything that is judged together.
        correction: ``"holm"`` bounds the probability of any false call, ``"benjamini-hochberg"`` the expected share of
            false ones among all calls.

    Source:
        Holm 1979; Benjamini and Hochberg 1995.
    """
    if correction == "none":
        return list(p_values)
    count = len(p_values)
    order = sorted(range(count), key=lambda i: p_values[i])
    adjusted = [0.0] * count
    if correction == "holm":
        least = 0.0
        for rank, i in enumerate(order):
            least = adjusted[i] = max(least, min(1.0, p_values[i] * (count - rank)))
        return adjusted
    most = 1.0
    for rank, i in reversed(list(enumerate(order))):
        most = adjusted[i] = min(most, p_values[i] * count / (rank + 1))
    return adjusted


def _reason(feature: FeatureDrift) -> str:
    found = (f"{one.measure} {one.value:.3g}" for one in feature.measures if one.is_drift)
    return f"{feature.name}: {', '.join(found)}"
