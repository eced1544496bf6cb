"""What can be told to people: one form for whatever is done again and again and may find something wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.verdicts import FAIL, PASS
from featurestore.guard.drift.report import DriftReport
from featurestore.registry import DONE, SKIPPED, JobRecord

_SHOWN = 3


@dataclass(frozen=True)
class News:
    """What one run of something found.

    Attributes:
        kind: What it was: ``"audit"``, ``"drift"``, or ``"job"`` for whether a job could be done at all.
        job: What is done again and again; what was told before is kept by it.
        service: Name of the service; empty if it is about none.
        verdict: What was found, in a word.
        state: What is wrong, one stable text for each thing; nothing if all is well.
        text: What was found, in a line.
        id: Number of the report in the registry; ``None`` if there is none.
        details: What else a message has.
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
        """What the registry keeps it under: what a job finds, and whether it can be done at all, are two things."""
        return f"job {self.job}" if self.kind == "job" else self.job


def news_of_audit(report: AuditReport, job: str = "") -> News:
    """Return what an audit found.

    What is wrong are the features that differ, each with its causes, so that a second feature is news beside a first.

    Args:
        report: The judged report.
        job: The job that it is part of; left out, audits of the service of one kind and share are one.
    """
    share = "" if report.sample >= 1 else f" sample {report.sample:g}"
    kind = "" if report.kind == "log" else f" {report.kind}"
    return News(
        kind="audit",
        job=job or f"audit {report.service}{kind}{share}",
        service=report.service,
        verdict=report.verdict,
        state=_wrong(report),
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


def _wrong(report: AuditReport) -> tuple[str, ...]:
    if report.verdict == PASS:
        return ()
    if report.verdict != FAIL:
        return (report.verdict,)
    causes: dict[str, set[str]] = {feature.name: set() for feature in report.features if feature.different}
    for finding in report.findings:
        for name in finding.features:
            causes.setdefault(name, set()).add(finding.cause)
    found = (f"{name}: {cause}" if cause else name for name in causes for cause in causes[name] or {""})
    return tuple(sorted(found)) or (report.verdict,)


def news_of_drift(report: DriftReport, job: str = "") -> News:
    """Return what a comparison of distributions found; what is wrong are the features that drifted.

    Args:
        report: The judged report.
        job: The job that it is part of; left out, all comparisons of the service are one.
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
    """Return whether a job could be done."""
    state = () if record.outcome in (DONE, SKIPPED) else (record.outcome,)
    return News(kind="job", job=record.name, service="", verdict=record.outcome, state=state, text=record.said)
