"""What an audit found, as data: it prints nothing and judges nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import msgspec

from featurestore.core.errors import RegistryError
from featurestore.guard.audit.slices import Bucket, Slice
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.comparing.findings import Event, Finding

SCHEMA = "featurestore-audit-3"
"""Name and version of the report's JSON form."""

WORST_ROWS = 20
"""How many of the rows that differ most a report shows."""


@dataclass(frozen=True)
class Mismatch:
    """One value on which the roads disagree.

    Attributes:
        feature: Column of the answer.
        request_id: The request it was served in.
        row: Place of the entity in that request.
        keys: The entity, as text that commands take.
        as_of: Instant asked about.
        reference: What the training set has, as text; ``None`` is null.
        current: What was served, as text; ``None`` is null.
        reference_status: Status in the training set.
        current_status: Status that was served.
        is_stale: Whether a view of the service was behind its refresh.
        watermarks: Per view up to where its state was complete.
        size: Absolute difference of numbers; ``None`` if only one road has a value or they are no numbers.
        cause: What explains it; empty if it was not examined.
        events: Events that make the difference, oldest first, where it is about single events.
        requests: The request inputs it was asked with, as text that commands take.
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
    """Rows that were served and not compared, and why."""

    reason: str
    rows: int


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        service: Name of the feature service.
        since: First instant of the range of ``as_of``.
        until: One past its last instant.
        ran_at: When the audit ran.
        served: Rows that were served, also those that the log lost; ``compared`` and the skipped ones add up to it.
        compared: Rows recomputed and compared.
        stale: Compared rows that were answered by a view behind its refresh.
        beyond_newest_event: Compared rows whose horizon lies beyond the newest event some source holds: a later audit
            may see other values.
        fingerprints: Compared rows per fingerprint of the plan that answered them.
        features: Counts per feature, sorted by name.
        worst: The values that differ most.
        skipped: Rows not compared.
        verdict: The policy's word; empty until it has spoken.
        reasons: Why.
        schema: Name and version of this form.
        kind: ``"log"`` for what was served, ``"live"`` for what both roads say now, ``"replay"`` for history replayed,
            ``"foreign"`` for the log of another system.
        sample: Share of the entities that were looked at, by hash of their key; 1 for all.
        sums: What adds up to what, in one line; ``audit`` has made sure that it does.
        findings: Why values differ, most values first; the values of all findings add up to ``examined``.
        examined: Values that differ and were examined for causes: all of them, unless those are very many, or what was
            served is no value of its feature.
        over_time: Rows compared and rows that differ, by stretches of time.
        slices: Properties that rows that differ have more often than all rows, most telling first.
        telling: One line if one slice holds most of the rows that differ; else empty.
        policy: What was allowed, in words; empty until the policy has spoken.
        notes: What else a reader should know, one line each.
        id: Its number in the registry; ``None`` where it is not kept, and inside what is kept.
    """

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
        """Count of values on which the roads disagree."""
        return sum(feature.different for feature in self.features)

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The values that differ most; all of them if there are few."""
        return self.worst

    @property
    def causes(self) -> dict[str, int]:
        """Values per cause, most first."""
        found: dict[str, int] = {}
        for finding in self.findings:
            found[finding.cause] = found.get(finding.cause, 0) + finding.values
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    @property
    def exit_code(self) -> int:
        """0 if the roads agree as far as the policy asks, a warning included; 1 if not; 2 if it could not tell."""
        return {"pass": 0, "warn": 0, "fail": 1}.get(self.verdict, 2)

    def to_json(self) -> str:
        """Return the report as JSON, fields in the order they are declared."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the report's JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}"}
        return title | msgspec.json.schema(cls)

    @classmethod
    def from_json(cls, text: str | bytes) -> AuditReport:
        """Read a report written by ``to_json``.

        Raises:
            RegistryError: The text is no report of this form.
        """
        try:
            report = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise RegistryError(f"it is no audit report: {error}", where="audit report", code="unreadable") from None
        if report.schema != SCHEMA:
            raise RegistryError(
                f"it has the form '{report.schema}', this library reads '{SCHEMA}'",
                where="audit report",
                code="unreadable",
            )
        return report


REPORT_FIELDS = tuple(part.name for part in fields(AuditReport))
"""Names of the report's fields: the keys of its JSON form."""
