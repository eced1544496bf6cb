"""News: the result of one run of an audit, a drift comparison or a job, in one form for all alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.guard.audit.report import AuditReport
from featurestore.guard.drift.report import DriftReport
from featurestore.guard.report import FAIL, PASS
from featurestore.registry import DONE, SKIPPED, JobRecord

_SHOWN = 3


@dataclass(frozen=True)
class News:
    """The result of one run.

    Attributes:
        kind: ``"audit"``, ``"drift"``, or ``"job"`` for the outcome of a job itself.
        job: Name of the repeated job, by which the sent alerts are recorded.
        service: Name of the service; empty if there is none.
        verdict: The verdict or outcome.
        state: The problems, one stable text for each; empty if there are none.
        text: The result in one line.
        id: Number of the report in the registry; ``None`` if there is none.
        details: Further fields of the message.
    """

    kind: str
    job: str
    service: str
    verdict: str
    state: tuple[str, ...]
    text: str
    id: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Key of the sent alerts in the registry; the findings of a job and its own outcome have separate keys."""
        return f"job {self.job}" if self.kind == "job" else self.job


def news_of_audit(report: AuditReport, job: str = "") -> News:
    """Return the news of an audit.

    Each differing feature with each of its causes is a problem of its own, so that a second feature is news after a
    first.

    Args:
        report: The judged report.
        job: Name of the job; by default all audits of the service of one kind and sample share one name.
    """
    share = "" if report.sample >= 1 else f" sample {report.sample:g}"
    kind = "" if report.kind == "log" else f" {report.kind}"
    return News(
        kind="audit",
        job=job or f"audit {report.service}{kind}{share}",
        service=report.service,
        verdict=report.verdict,
        state=_problems(report),
        text="; ".join(report.reasons[:_SHOWN]),
        id=report.id,
        details={
            "since": report.since,
            "until": report.until,
            "ran_at": report.ran_at,
            "different": report.different,
            "causes": report.causes,
            "fixes": list(dict.fromkeys(finding.fix for finding in report.findings if finding.fix))[:_SHOWN],
        },
    )


def _problems(report: AuditReport) -> tuple[str, ...]:
    if report.verdict == PASS:
        return ()
    if report.verdict != FAIL:
        return (report.verdict,)
    causes: dict[str, set[str]] = {feature.name: set() for feature in report.features if feature.different}
    for finding in report.findings:
        for name in finding.features:
            causes.setdefault(name, set()).add(finding.cause)
    problems = (f"{name}: {cause}" if cause else name for name in causes for cause in causes[name] or {""})
    return tuple(sorted(problems)) or (report.verdict,)


def news_of_drift(report: DriftReport, job: str = "") -> News:
    """Return the news of a drift report; the problems are the features that drifted.

    Args:
        report: The judged report.
        job: Name of the job; by default all drift comparisons of the service share one name.
    """
    drifted = tuple(sorted(feature.name for feature in report.drifted))
    return News(
        kind="drift",
        job=job or f"drift {report.service}",
        service=report.service,
        verdict=report.verdict,
        state=() if report.verdict == PASS else drifted or (report.verdict,),
        text="; ".join(report.reasons[:_SHOWN]),
        id=report.id,
        details={
            "since": report.since,
            "until": report.until,
            "ran_at": report.ran_at,
            "reference": report.reference,
            "drifted": drifted,
        },
    )


def news_of_job(record: JobRecord) -> News:
    """Return the news of the outcome of a job."""
    state = () if record.outcome in (DONE, SKIPPED) else (record.outcome,)
    return News(kind="job", job=record.name, service="", verdict=record.outcome, state=state, text=record.said)
