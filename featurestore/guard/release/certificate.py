"""Certificates: what a verification replayed, and that both roads agreed, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from featurestore.core.errors import RegistryError
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.verdicts import CANNOT_TELL, FAIL, PASS
from featurestore.offline.manifest import ManifestSource

SCHEMA = "featurestore-certificate-2"
"""Name and version of the certificate's JSON form."""


@dataclass(frozen=True)
class Phase:
    """What was asked of one kind of state.

    Attributes:
        name: ``"refreshed"``: state had everything known before the instant. ``"stale"``: it had what the refresh
            before this one gave it. ``"pushed"``: that, and half of what was pushed since.
        rows: Pairs of entity and instant.
        complete: Those of them whose answer said itself complete and on time; they were compared with the training
            set, the others with what it would be made of such state.
        values: Values compared.
        different: Values on which the roads disagree.
        report: The comparison.
    """

    name: str
    rows: int
    complete: int
    values: int
    different: int
    report: AuditReport


@dataclass(frozen=True)
class Certificate:
    """What was replayed of a service's history, and what came out.

    Attributes:
        service: Name of the service.
        fingerprint: Of the plan that was verified.
        views: Fingerprints of the views it uses, by name.
        ran_at: When it was verified.
        since: First instant asked about.
        until: Last instant asked about.
        instants: How many instants.
        between: How many of them lie at no edge.
        edges: By kind of edge how many instants lie beside one; 0 for kinds that were not asked at.
        store: Which kind of online store was filled.
        phases: What was asked of which state; those that never occurred are left out.
        sources: What the views read, files with sizes and row counts among it.
        rows_not_found: Rows for which no view found an event; about a tenth of all are asked about unknown entities.
        libraries: Versions of Python and of the libraries that take part in a value.
        schema: Name and version of this form.
    """

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
        """Pairs of entity and instant, once for each phase."""
        return sum(phase.rows for phase in self.phases)

    @property
    def values(self) -> int:
        """Values compared."""
        return sum(phase.values for phase in self.phases)

    @property
    def different(self) -> int:
        """Values on which the roads disagree."""
        return sum(phase.different for phase in self.phases)

    @property
    def not_asked(self) -> tuple[str, ...]:
        """Kinds of edges that were not asked at: history is too short for them, or there were too few instants."""
        return tuple(kind for kind, instants in self.edges.items() if not instants)

    @property
    def verdict(self) -> str:
        """``"pass"`` if both roads agree to the bit, ``"fail"`` if not, else ``"cannot tell"``."""
        return next(
            (word for word in (FAIL, CANNOT_TELL) for phase in self.phases if phase.report.verdict == word), PASS
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the verdict is not ``"pass"``."""
        judged = [(phase, reason) for phase in self.phases for reason in phase.report.reasons]
        return tuple(f"{phase.name}: {reason}" for phase, reason in judged if phase.report.verdict != PASS)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the verdict say less than it seems to."""
        if self.rows_not_found <= self.rows / 2:
            return ()
        return (
            f"in {self.rows_not_found:,} of {self.rows:,} rows no view found an event. If a source declares the time of"
            " a later load or update as ingest_time, leave it out",
        )

    @property
    def exit_code(self) -> int:
        """0 if both roads agree, 1 if they do not, 2 if it could not tell."""
        return {PASS: 0, FAIL: 1}.get(self.verdict, 2)

    def __str__(self) -> str:
        return (
            f"{self.service}: {self.verdict}; {self.values - self.different:,} of {self.values:,} values of"
            f" {self.rows:,} rows at {self.instants} instants from {self.since} to {self.until} are equal to the bit;"
            f" plan {self.fingerprint[:12]}"
        )

    def to_json(self) -> str:
        """Return the certificate as JSON."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Certificate:
        """Read a certificate written by ``to_json``.

        Raises:
            RegistryError: The text is no certificate of this form.
        """
        try:
            found = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise RegistryError(f"it is no certificate: {error}", where="certificate", code="unreadable") from None
        if found.schema != SCHEMA:
            problem = f"it has the form '{found.schema}', this library reads '{SCHEMA}'"
            raise RegistryError(problem, where="certificate", code="unreadable")
        return found

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the certificate's JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}"}
        return title | msgspec.json.schema(cls)
