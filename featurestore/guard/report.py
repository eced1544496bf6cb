"""What all reports of the guard have in common: a JSON form that survives a round trip, and a verdict.

A report is data. ``featurestore.reports`` renders it, and a policy judges it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import msgspec

from featurestore.core.errors import RegistryError

PASS = "pass"
WARN = "warn"
FAIL = "fail"
CANNOT_TELL = "cannot tell"
DOUBTFUL = "doubtful"

_EXIT_CODES = {PASS: 0, WARN: 0, DOUBTFUL: 0, FAIL: 1}


class Report:
    """Base of every report: a frozen dataclass of JSON values.

    Attributes:
        SCHEMA: Name and version of the JSON form.
        KIND: What error messages call the report.
        schema: ``SCHEMA`` of the library that wrote the report.
    """

    SCHEMA: ClassVar[str]
    KIND: ClassVar[str]
    schema: str

    def to_json(self) -> str:
        """Return the report as JSON, fields in the order they are declared."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a report written by ``to_json``.

        Raises:
            RegistryError: The text is not a report of this kind, or has another version of its form.
        """
        try:
            report = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            problem = f"the JSON text is not a valid {cls.KIND}: {error}"
            raise RegistryError(problem, where=cls.KIND, code="unreadable") from None
        if report.schema != cls.SCHEMA:
            problem = f"it has the form '{report.schema}', this library reads '{cls.SCHEMA}'"
            raise RegistryError(problem, where=cls.KIND, code="unreadable")
        return report

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{cls.SCHEMA}"}
        return title | msgspec.json.schema(cls)


class Judged(ABC):
    """A result with a verdict."""

    @property
    @abstractmethod
    def verdict(self) -> str:
        """One of the verdicts of this module; empty until a policy has judged the report."""

    @property
    def exit_code(self) -> int:
        """Exit code of a command: 0 for pass, warn and doubtful, 1 for fail, else 2."""
        return _EXIT_CODES.get(self.verdict, 2)
