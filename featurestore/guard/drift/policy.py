"""The drift thresholds, and judging a drift report by them.

By default a distance is drift if chance does not explain it (its p-value, corrected for the count of features and
measures, is below ``significance``) and if it is large enough to matter (at least ``LEAST_EFFECTS``). Instead, fixed
thresholds such as ``"psi-0.2"`` can be named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from featurestore.config import PolicyConfig
from featurestore.core.errors import ConfigError, listing
from featurestore.guard.drift.report import MEASURES, DriftReport, FeatureDrift, Measured
from featurestore.guard.report import CANNOT_TELL, FAIL, PASS

Correction = Literal["holm", "benjamini-hochberg", "none"]

LEAST_EFFECTS: Mapping[str, float] = {
    "kolmogorov_smirnov": 0.05,
    "jensen_shannon": 0.07,
    "null_share": 0.02,
    "beyond_range": 0.02,
    "new_categories": 0.02,
}
"""The measures that are judged by chance, and the least distance of each that matters.

A share of one half that becomes 40 %, or a share of 1 % that becomes 4 %, has a Jensen-Shannon distance of 0.07.
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
    """A fixed threshold of one measure.

    Attributes:
        name: Measure and bound, such as ``"psi-0.2"``; ``"ks-p-0.05"`` is a bound of the p-value, uncorrected.
        measure: Name of the measure.
        bound: A distance of at least this, or a p-value below this, is drift.
        of_p_value: Whether it is a bound of the p-value.
    """

    name: str
    measure: str
    bound: float
    of_p_value: bool

    @classmethod
    def named(cls, name: str) -> FixedThreshold:
        """Parse the name of a threshold.

        Raises:
            ConfigError: There is no such measure, or the bound is not a number above 0.

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
                f"'{name}' is not a valid drift threshold", where="drift policy", hint=hint, code="threshold"
            )
        return cls(name, _ALIASES[measure], bound, of_p_value=measure.endswith("-p"))

    def is_exceeded(self, measured: Measured) -> bool:
        """Return whether a distance is drift."""
        return measured.p_value < self.bound if self.of_p_value else abs(measured.value) >= self.bound


@dataclass(frozen=True)
class DriftPolicy:
    """What is drift, and how many features may drift.

    Attributes:
        significance: Over everything judged, the probability of any false alarm with ``"holm"``, or the expected share
            of false alarms with ``"benjamini-hochberg"``.
        correction: Correction of p-values for their count. Holm's is valid however features depend on each other.
        least_effects: The measures that are judged, and the least distance of each that matters.
        fixed: Names of fixed thresholds; if there are any, they alone decide.
        allowed_features: Count of features that may drift.
        least_rows: Count of independent rows that both samples must be worth for a verdict.
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
                raise ConfigError(
                    f"'{measure}' is not a measure of drift", where="drift policy", hint=hint, code="measure"
                )
        if not 0 < self.significance < 1:
            problem = f"the significance is {self.significance}, expected a number between 0 and 1"
            raise ConfigError(problem, where="drift policy", hint="Use for example 0.01.")

    @classmethod
    def configured(cls, policy: PolicyConfig) -> DriftPolicy:
        """Return the drift policy of a configuration.

        Raises:
            ConfigError: It names an unknown measure or threshold.
        """
        return cls(**policy.drift.model_dump(exclude_none=True))

    def judge(self, report: DriftReport) -> DriftReport:
        """Return the report with its drift marked, a verdict and its reasons.

        The verdict is "cannot tell" if rows are too few, or no feature could be compared.
        """
        features = self._by_fixed(report.features) if self.fixed else self._by_chance(report.features)
        judged = replace(report, features=features, policy=str(self))
        fewest = min(report.effective_rows)
        if fewest < self.least_rows:
            reason = f"the smaller sample is worth {fewest} independent rows, at least {self.least_rows} are needed"
            return replace(judged, verdict=CANNOT_TELL, reasons=(reason,))
        if not features:
            return replace(judged, verdict=CANNOT_TELL, reasons=("no feature is in both samples",))
        if len(judged.drifted) > self.allowed_features:
            return replace(judged, verdict=FAIL, reasons=tuple(map(_reason, judged.drifted)))
        reason = f"{len(judged.drifted)} of {len(features)} features drifted"
        return replace(judged, verdict=PASS, reasons=(reason if judged.drifted else "no feature drifted",))

    def __str__(self) -> str:
        if self.fixed:
            return f"fixed thresholds: {', '.join(self.fixed)}"
        effects = ", ".join(f"{measure} {least:g}" for measure, least in self.least_effects.items())
        return f"significance {self.significance:g}, corrected ({self.correction}); least effects: {effects}"

    def _by_fixed(self, features: Sequence[FeatureDrift]) -> tuple[FeatureDrift, ...]:
        fixed = [FixedThreshold.named(name) for name in self.fixed]

        def judged(distance: Measured) -> Measured:
            is_drift = any(bound.measure == distance.measure and bound.is_exceeded(distance) for bound in fixed)
            return replace(distance, is_drift=is_drift)

        return tuple(replace(feature, measures=tuple(map(judged, feature.measures))) for feature in features)

    def _by_chance(self, features: Sequence[FeatureDrift]) -> tuple[FeatureDrift, ...]:
        tests = [
            (feature.name, distance)
            for feature in features
            for distance in feature.measures
            if distance.measure in self.least_effects
        ]
        adjusted = adjust([distance.p_value for _, distance in tests], self.correction)
        by_test = {(name, distance.measure): p for (name, distance), p in zip(tests, adjusted, strict=True)}

        def judged(name: str, distance: Measured) -> Measured:
            p_value = by_test.get((name, distance.measure))
            if p_value is None:
                return replace(distance, adjusted=None, is_drift=False)
            is_large = abs(distance.value) >= self.least_effects[distance.measure]
            return replace(distance, adjusted=p_value, is_drift=is_large and p_value < self.significance)

        return tuple(
            replace(feature, measures=tuple(judged(feature.name, distance) for distance in feature.measures))
            for feature in features
        )


def adjust(p_values: Sequence[float], correction: Correction) -> list[float]:
    """Correct p-values for their count.

    Args:
        p_values: The p-values of everything that is judged together.
        correction: ``"holm"`` bounds the probability of any false alarm, ``"benjamini-hochberg"`` the expected share of
            false alarms among all alarms.

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
    distances = (f"{part.measure} {part.value:.3g}" for part in feature.measures if part.is_drift)
    return f"{feature.name}: {', '.join(distances)}"
