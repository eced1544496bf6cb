"""Judging a report. The report says what is, the policy what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from featurestore.definitions.services import ANY_FEATURE
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.tolerance import Tolerance
from featurestore.guard.comparing.verdicts import CANNOT_TELL, FAIL, PASS, WARN


@dataclass(frozen=True)
class Policy:
    """What an audit allows. By default: exact equality of everything, and at least one row to judge by.

    Whatever is allowed, differences are counted as what they are: reports show them, and what let them pass.

    Attributes:
        allowed_share: Share of a feature's compared values that may differ.
        warn_share: Share of a feature's compared values from which on differences that are allowed make the verdict a
            warning; ``None`` for never.
        least_rows: Rows that must have been compared for a verdict.
        allow_skipped: Whether rows that could not be compared may pass unseen.
        tolerances: How far numbers may lie apart, by feature; ``"*"`` stands for all others.
        causes: Share of all compared values that may differ for a proven cause, by its name.
    """

    allowed_share: float = 0.0
    warn_share: float | None = None
    least_rows: int = 1
    allow_skipped: bool = False
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    causes: Mapping[str, float] = field(default_factory=dict)

    def tolerance_of(self, feature: str) -> Tolerance | None:
        """Return how far the numbers of a feature may lie apart; ``None`` for not at all."""
        return self.tolerances.get(feature, self.tolerances.get(ANY_FEATURE))

    def judge(self, report: AuditReport) -> AuditReport:
        """Return the report with a verdict and its reasons, of features those first that differ most.

        A difference that is not allowed fails. Without one, too few rows, or rows that could not be compared, mean that
        the audit cannot tell.
        """
        report = replace(report, policy=str(self))
        excused = self._excused(report)
        worst_first = sorted(report.features, key=lambda feature: (-feature.share, feature.name))
        broken = [
            f"{feature.name}: {feature.different} of {feature.compared} values differ"
            + (f", {excused[feature.name]} of them as is allowed" if excused[feature.name] else "")
            for feature in worst_first
            if feature.different - excused[feature.name] > self.allowed_share * feature.compared
        ]
        if broken:
            return replace(report, verdict=FAIL, reasons=tuple(broken))
        if doubts := tuple(self._doubts(report)):
            return replace(report, verdict=CANNOT_TELL, reasons=doubts)
        if warnings := tuple(self._warnings(worst_first)):
            return replace(report, verdict=WARN, reasons=warnings)
        values = sum(feature.compared for feature in report.features)
        said = f"{report.different} of {values} values differ, which is allowed"
        if report.different == 0:
            said = f"all {values} values are equal to the bit"
        return replace(report, verdict=PASS, reasons=(said,))

    def _excused(self, report: AuditReport) -> dict[str, int]:
        """Count per feature the differences that a tolerance or an allowed cause lets pass.

        A value may be near enough and have a cause: the larger of both counts is certain to be let pass, their sum is
        not.
        """
        values = sum(feature.compared for feature in report.features)
        by_cause: dict[str, int] = {}
        for cause, count in report.causes.items():
            if cause in self.causes and count <= self.causes[cause] * values:
                for finding in report.findings:
                    if finding.cause == cause and finding.is_proven:
                        for name, own in finding.features.items():
                            by_cause[name] = by_cause.get(name, 0) + own
        return {
            feature.name: max(feature.within_tolerance, by_cause.get(feature.name, 0)) for feature in report.features
        }

    def _doubts(self, report: AuditReport) -> Iterator[str]:
        if report.compared < self.least_rows:
            yield f"{report.compared} rows were compared, at least {self.least_rows} are needed"
        if report.skipped and not self.allow_skipped:
            for skipped in report.skipped:
                yield f"{skipped.rows} rows were not compared: {skipped.reason}"

    def _warnings(self, features: Sequence[FeatureCounts]) -> Iterator[str]:
        for feature in features:
            if self.warn_share is not None and feature.different > self.warn_share * feature.compared:
                yield f"{feature.name}: {feature.different} of {feature.compared} values differ, as is allowed"

    def __str__(self) -> str:
        allowed = (
            f"{self.allowed_share:.3%} of a feature's values may differ" if self.allowed_share else "nothing may differ"
        )
        rows = f"at least {self.least_rows} {'row' if self.least_rows == 1 else 'rows'} compared"
        parts = [allowed, rows, "rows may be skipped" if self.allow_skipped else "no row skipped"]
        parts += [f"{name} may be off by {tolerance}" for name, tolerance in sorted(self.tolerances.items())]
        parts += [f"{share:.3%} of all values for {cause}" for cause, share in sorted(self.causes.items())]
        if self.warn_share is not None:
            parts.append(f"a warning above {self.warn_share:.3%}")
        return "; ".join(parts)
