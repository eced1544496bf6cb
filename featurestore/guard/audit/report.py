"""The report of an audit, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar

from featurestore.guard.audit.slices import Bucket, Slice
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.findings import Event, Finding
from featurestore.guard.report import Judged, Report

WORST_ROWS = 20
"""Largest count of values in ``worst``."""


@dataclass(frozen=True)
class Mismatch:
    """One value that differs.

    Attributes:
        feature: Column of the answer.
        request_id: Id of the request.
        row: Place of the entity in the request.
        keys: The key of the entity, as text that commands accept.
        as_of: Instant asked about.
        reference: Value of the training set, as text; ``None`` is null.
        current: Value that was served, as text; ``None`` is null.
        reference_status: Status in the training set.
        current_status: Status that was served.
        is_stale: Whether a view of the service was behind its refresh.
        watermarks: Watermark of the state per view.
        size: Absolute difference of numbers; ``None`` for other values, and if one of the values is null.
        cause: The cause of the difference; empty if it was not examined.
        events: Events that make the difference, oldest first, if the cause is about single events.
        requests: The request inputs, as text that commands accept.
    """

    feature: str
    request_id: str
    row: int
    keys: dict[str, str | None]
    as_of: str
    reference: str | None
    current: str | None
    reference_status: str
    current_status: str
    is_stale: bool
    watermarks: dict[str, str]
    size: float | None = None
    cause: str = ""
    events: tuple[Event, ...] = ()
    requests: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """Count of rows that were served and not compared, with the reason."""

    reason: str
    rows: int


@dataclass(frozen=True)
class AuditReport(Report, Judged):
    """The result of an audit.

    Attributes:
        service: Name of the feature service.
        since: First instant of the range of ``as_of``.
        until: One past its last instant.
        ran_at: Instant of the audit.
        served: Rows that were served, including rows that the log lost: the sum of ``compared`` and the skipped rows.
        compared: Rows recomputed and compared.
        stale: Compared rows that were answered by a view behind its refresh.
        beyond_newest_event: Compared rows whose horizon is after the newest event of some source: a later audit may
            compute other values.
        fingerprints: Compared rows per fingerprint of the plan that answered.
        features: Counts per feature, by name.
        worst: The values that differ most.
        skipped: Rows not compared.
        verdict: The verdict of the policy; empty until it has judged.
        reasons: Reasons of the verdict.
        schema: Name and version of the JSON form.
        kind: ``"log"`` for the serving log, ``"live"`` for answers at the instant of the audit, ``"replay"`` for
            replayed history, ``"foreign"`` for the log of another system.
        sample: Share of the entities that were compared, chosen by a hash of their key; 1 for all.
        sums: The sums of rows and values in one line; they have been checked.
        findings: Causes of differences, most values first; the values of all findings add up to ``examined``.
        examined: Count of differing values that were examined for causes: all of them, unless rows to explain were
            limited, or the served text is not a value of the feature.
        over_time: Compared and differing rows by stretch of time.
        slices: Properties that differing rows have more often than all rows, largest difference first.
        telling: One line if most differing rows are in one slice; else empty.
        policy: The policy in words; empty until it has judged.
        notes: Notes for readers, one line each.
        id: Number of the report in the registry; ``None`` if the registry does not keep it, and inside the kept form.
    """

    SCHEMA: ClassVar[str] = "featurestore-audit-3"
    KIND: ClassVar[str] = "audit report"

    service: str
    since: str
    until: str
    ran_at: str
    served: int
    compared: int
    stale: int
    beyond_newest_event: int
    fingerprints: dict[str, int]
    features: tuple[FeatureCounts, ...]
    worst: tuple[Mismatch, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    verdict: str = ""
    reasons: tuple[str, ...] = field(default=())
    schema: str = SCHEMA
    kind: str = "log"
    sample: float = 1.0
    sums: str = ""
    findings: tuple[Finding, ...] = ()
    examined: int = 0
    over_time: tuple[Bucket, ...] = ()
    slices: tuple[Slice, ...] = ()
    telling: str = ""
    policy: str = ""
    notes: tuple[str, ...] = ()
    id: int | None = None

    @property
    def different(self) -> int:
        """Count of values that differ."""
        return sum(feature.different for feature in self.features)

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The values that differ most; all differing values if there are few."""
        return self.worst

    @property
    def causes(self) -> dict[str, int]:
        """Count of values per cause, most first."""
        values: dict[str, int] = {}
        for finding in self.findings:
            values[finding.cause] = values.get(finding.cause, 0) + finding.values
        return dict(sorted(values.items(), key=lambda item: (-item[1], item[0])))


REPORT_FIELDS = tuple(part.name for part in fields(AuditReport))
"""Names of the report's fields: the keys of its JSON form."""
