"""Certificates: what a verification replayed, and that both roads agreed, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from featurestore.errors import RegistryError
from featurestore.offline.manifest import ManifestSource
from featurestore.skew.report import AuditReport

SCHEMA = "featurestore-certificate-1"
"""Name and version of the certificate's JSON form."""


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
        instants: How many instants; at each, state was filled up to it and asked.
        rows: Pairs of entity and instant.
        values: Values compared.
        different: Values on which the roads disagree.
        sources: What the views read, files with sizes and row counts among it.
        libraries: Versions of Python and of the libraries that take part in a value.
        report: The comparison; its verdict is the certificate's.
        schema: Name and version of this form.
    """

    service: str
    fingerprint: str
    views: dict[str, str]
    ran_at: str
    since: str
    until: str
    instants: int
    rows: int
    values: int
    different: int
    sources: tuple[ManifestSource, ...]
    libraries: dict[str, str]
    report: AuditReport
    schema: str = SCHEMA

    @property
    def verdict(self) -> str:
        """``"pass"`` if both roads agree to the bit, ``"fail"`` if not, else ``"cannot tell"``."""
        return self.report.verdict

    @property
    def exit_code(self) -> int:
        """0 if both roads agree, 1 if they do not, 2 if it could not tell."""
        return self.report.exit_code

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
