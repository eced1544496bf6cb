"""Judging a report. The report says what is, the policy what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from featurestore.skew.report import AuditReport

PASS = "pass"
FAIL = "fail"
CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Policy:
    """What an audit allows. By default: exact equality of everything, and at least one row to judge by.

    Attributes:
        allowed_share: Share of a feature's compared values that may differ.
        least_rows: Rows that must have been compared for a verdict.
        allow_skipped: Whether rows that could not be compared may pass unseen.
    """

    allowed_share: float = 0.0
    least_rows: int = 1
    allow_skipped: bool = False

    def judge(self, report: AuditReport) -> AuditReport:
        """Return the report with a verdict and its reasons.

        A difference that is not allowed fails. Without one, too few rows, or rows that could not be compared, mean that
        the audit cannot tell.
        """
        report = replace(report, policy=str(self))
        broken = [
            f"{feature.name}: {feature.different} of {feature.compared} values differ"
            for feature in report.features
            if feature.different > self.allowed_share * feature.compared
        ]
        if broken:
            return replace(report, verdict=FAIL, reasons=tuple(broken))
        doubts = []
        if report.compared < self.least_rows:
            doubts.append(f"{report.compared} rows were compared, at least {self.least_rows} are needed")
        if report.skipped and not self.allow_skipped:
            doubts += [f"{skipped.rows} rows were not compared: {skipped.reason}" for skipped in report.skipped]
        if doubts:
            return replace(report, verdict=CANNOT_TELL, reasons=tuple(doubts))
        values = sum(feature.compared for feature in report.features)
        said = f"{report.different} of {values} values differ, which is allowed"
        if report.different == 0:
            said = f"all {values} values are equal to the bit"
        return replace(report, verdict=PASS, reasons=(said,))

    def __str__(self) -> str:
        allowed = (
            f"{self.allowed_share:.3%} of a feature's values may differ" if self.allowed_share else "nothing may differ"
        )
        rows = f"at least {self.least_rows} {'row' if self.least_rows == 1 else 'rows'} compared"
        return f"{allowed}; {rows}; {'rows may be skipped' if self.allow_skipped else 'no row skipped'}"
