"""Judging an audit: the report has the differences, the policy says which are allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from featurestore.config import PolicyConfig
from featurestore.definitions.services import ANY_FEATURE
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.tolerance import Tolerance
from featurestore.guard.report import CANNOT_TELL, FAIL, PASS, WARN


@dataclass(frozen=True)
class Policy:
    """The differences that an audit allows. By default none, and at least one row must be compared.

    Allowed differences are still counted: reports show them, and why they pass.

    Attributes:
        allowed_share: Share of a feature's compared values that may differ.
        warn_share: Share of a feature's compared values above which allowed differences make the verdict a warning;
            ``None`` for never.
        least_rows: Rows that must have been compared for a verdict.
        allow_skipped: Whether rows may be skipped without making the verdict "cannot tell".
        tolerances: Allowed distance of numbers, by feature; ``"*"`` stands for all others.
        causes: Share of all compared values that may differ for a proven cause, by name of the cause.
    """

    allowed_share: float = 0.0
    warn_share: float | None = None
    least_rows: int = 1
    allow_skipped: bool = False
    tolerances: Mapping[str, Tolerance] = field(default_factory=dict)
    causes: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def configured(cls, policy: PolicyConfig) -> Policy:
        """Return the audit policy of a configuration."""
        return cls(
            allowed_share=policy.allowed_share,
            warn_share=policy.warn_share,
            least_rows=policy.least_rows,
            allow_skipped=policy.allow_skipped,
            tolerances={
                name: Tolerance(allowed.absolute, allowed.relative, allowed.ulps)
                for name, allowed in policy.tolerances.items()
            },
            causes=policy.causes,
        )

    def tolerance_of(self, feature: str) -> Tolerance | None:
        """Return the allowed distance of the numbers of a feature; ``None`` if they must be equal."""
        return self.tolerances.get(feature, self.tolerances.get(ANY_FEATURE))

    def judge(self, report: AuditReport) -> AuditReport:
        """Return the report with a verdict and its reasons, features that differ most first.

        A difference that is not allowed fails. Otherwise the verdict is "cannot tell" if rows are too few, or if rows
        were skipped.
        """
        report = replace(report, policy=str(self))
        excused = self._excused(report)
        worst_first = sorted(report.features, key=lambda feature: (-feature.share, feature.name))
        broken = [
            f"{feature.name}: {feature.different} of {feature.compared} values differ"
            + (f", {excused[feature.name]} of them are allowed" if excused[feature.name] else "")
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
        reason = f"{report.different} of {values} values differ, which is allowed"
        if report.different == 0:
            reason = f"all {values} values are equal to the bit"
        return replace(report, verdict=PASS, reasons=(reason,))

    def _excused(self, report: AuditReport) -> dict[str, int]:
        """Count per feature the differences that a tolerance or an allowed cause allows.

        One value may be counted by both, so the larger count is used, not the sum.
        """
        values = sum(feature.compared for feature in report.features)
        by_cause: dict[str, int] = {}
        for cause, count in report.causes.items():
            if cause in self.causes and count <= self.causes[cause] * values:
                for finding in report.findings:
                    if finding.cause == cause and finding.is_proven:
                        for name, values_of in finding.features.items():
                            by_cause[name] = by_cause.get(name, 0) + values_of
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
                yield f"{feature.name}: {feature.different} of {feature.compared} values differ, which is allowed"

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
