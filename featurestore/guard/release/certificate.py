"""The certificate of a verification, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from featurestore.guard.audit.report import AuditReport
from featurestore.guard.report import CANNOT_TELL, FAIL, PASS, Judged, Report
from featurestore.offline.manifest import ManifestSource


@dataclass(frozen=True)
class Phase:
    """The comparison of answers from one kind of state.

    Attributes:
        name: ``"refreshed"``: the state had all events known before the instant. ``"stale"``: it had the events of the
            previous refresh. ``"pushed"``: it had these, and half of what was pushed since.
        rows: Pairs of entity and instant.
        complete: Those whose answer reported complete state; they were compared with the training set, the others with
            a training set of the events that the state had.
        values: Values compared.
        different: Values that differ.
        report: The comparison.
    """

    name: str
    rows: int
    complete: int
    values: int
    different: int
    report: AuditReport


@dataclass(frozen=True)
class Certificate(Report, Judged):
    """The result of replaying the history of a service.

    Attributes:
        service: Name of the service.
        fingerprint: Fingerprint of the plan that was verified.
        views: Fingerprints of its views, by name.
        ran_at: When it was verified.
        since: First instant asked about.
        until: Last instant asked about.
        instants: Count of instants.
        between: Count of instants that do not lie beside an edge.
        edges: By kind of edge, the count of instants beside one; 0 for kinds that were not asked at.
        store: Kind of the online store that was filled.
        phases: The comparisons by kind of state; kinds that never occurred are left out.
        sources: The sources of the views, with the sizes and row counts of files.
        rows_not_found: Rows for which no view has an event; about a tenth of all rows ask about unknown entities.
        libraries: Versions of Python and of the libraries that compute values.
        schema: Name and version of the JSON form.
    """

    SCHEMA: ClassVar[str] = "featurestore-certificate-2"
    KIND: ClassVar[str] = "certificate"

    service: str
    fingerprint: str
    views: dict[str, str]
    ran_at: str
    since: str
    until: str
    instants: int
    between: int
    edges: dict[str, int]
    store: str
    phases: tuple[Phase, ...]
    sources: tuple[ManifestSource, ...]
    libraries: dict[str, str]
    rows_not_found: int = 0
    schema: str = SCHEMA

    @property
    def rows(self) -> int:
        """Count of pairs of entity and instant, over all phases."""
        return sum(phase.rows for phase in self.phases)

    @property
    def values(self) -> int:
        """Count of values compared."""
        return sum(phase.values for phase in self.phases)

    @property
    def different(self) -> int:
        """Count of values that differ."""
        return sum(phase.different for phase in self.phases)

    @property
    def not_asked(self) -> tuple[str, ...]:
        """Kinds of edges that were not asked at, because history is too short or instants were too few."""
        return tuple(kind for kind, instants in self.edges.items() if not instants)

    @property
    def verdict(self) -> str:
        """``"fail"`` if any value differs, else ``"cannot tell"`` if any phase could not tell, else ``"pass"``."""
        return next(
            (word for word in (FAIL, CANNOT_TELL) for phase in self.phases if phase.report.verdict == word), PASS
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons of a verdict other than ``"pass"``."""
        judged = [(phase, reason) for phase in self.phases for reason in phase.report.reasons]
        return tuple(f"{phase.name}: {reason}" for phase, reason in judged if phase.report.verdict != PASS)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Limits of the verdict."""
        if self.rows_not_found <= self.rows / 2:
            return ()
        return (
            f"in {self.rows_not_found:,} of {self.rows:,} rows no view found an event. If the ingest_time of a"
            " source is the time of a later load or update, remove it from the definition",
        )

    def __str__(self) -> str:
        return (
            f"{self.service}: {self.verdict}; {self.values - self.different:,} of {self.values:,} values of"
            f" {self.rows:,} rows at {self.instants} instants from {self.since} to {self.until} are equal to the bit;"
            f" plan {self.fingerprint[:12]}"
        )
