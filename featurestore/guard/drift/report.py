"""The drift report: data only, with a JSON form that survives a round trip. Others judge and show it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from featurestore.core.errors import RegistryError

SCHEMA = "featurestore-drift-2"
"""Name and version of the report's JSON form."""


@dataclass(frozen=True)
class Measured:
    """One distance of one feature.

    Attributes:
        measure: Its name, such as ``"psi"``.
        value: The distance; that of nulls has a sign.
        p_value: Probability that chance alone sets two samples at least so far apart, for these sizes.
        by_chance: Distance that chance exceeds with the policy's significance; ``None`` if that takes more than sizes,
            or more rows.
        error: By how much the distance may be larger, because values were counted in cells.
        adjusted: The p-value corrected for all that were judged; ``None`` if it was not judged by chance.
        is_drift: Whether the policy calls it drift.
    """

    measure: str
    value: float
    p_value: float
    by_chance: float | None = None
    error: float = 0.0
    adjusted: float | None = None
    is_drift: bool = False


@dataclass(frozen=True)
class Bins:
    """Both samples in the same bins.

    Attributes:
        lower_edges: Ascending; values below the first are in the first bin. Ages of instants in microseconds, of dates
            in days.
        reference: Count per bin.
        current: Count per bin.
    """

    lower_edges: tuple[float, ...]
    reference: tuple[int, ...]
    current: tuple[int, ...]


@dataclass(frozen=True)
class Category:
    """A category and how often it occurs in both samples."""

    value: str
    reference: int
    current: int


@dataclass(frozen=True)
class Split:
    """A distance between reference and serving, by cause; the three parts add up to it.

    A part is what its step contributes in the direction in which the whole lies; a negative part leads back.

    Attributes:
        measure: Name of the measure.
        total: Distance of what was served from the reference, for the rows that could be recomputed.
        population: Part of what the reference's definition gives for the rows that were asked about: they are others.
        definition: Part of what the definition that answered gives for them: it is another.
        skew: Part of serving other values than that definition gives offline for the same rows.
    """

    measure: str
    total: float
    population: float
    definition: float
    skew: float


@dataclass(frozen=True)
class FeatureDrift:
    """How one feature's distribution moved.

    Attributes:
        name: Column.
        dtype: Its dtype.
        reference_rows: Rows of the reference.
        current_rows: Rows of the current sample.
        reference_effective_rows: How many independent rows those of the reference are worth: rows about one entity are
            worth about one.
        current_effective_rows: How many those of the current sample are worth.
        reference_nulls: Rows without a value in the reference.
        current_nulls: Rows without a value in the current sample.
        measures: Distances, in a fixed order.
        reference_range: Smallest and largest number of the reference; ``None`` for categories and without values. Of
            instants and dates it is their age before ``as_of``, in microseconds or days, as are means and bins.
        current_range: Those of the current sample.
        reference_mean: Mean of the reference's numbers.
        current_mean: Mean of the current numbers.
        bins: Numbers in bins.
        categories: The most frequent categories of both, by frequency.
        new_categories: Categories that only the current sample has, most frequent first; at most 20.
        vanished_categories: Categories that only the reference has.
        split: Distances by cause, if what was served was recomputed.
    """

    name: str
    dtype: str
    reference_rows: int
    current_rows: int
    reference_effective_rows: int
    current_effective_rows: int
    reference_nulls: int
    current_nulls: int
    measures: tuple[Measured, ...]
    reference_range: tuple[float, float] | None = None
    current_range: tuple[float, float] | None = None
    reference_mean: float | None = None
    current_mean: float | None = None
    bins: Bins | None = None
    categories: tuple[Category, ...] = ()
    new_categories: tuple[Category, ...] = ()
    vanished_categories: tuple[Category, ...] = ()
    split: tuple[Split, ...] = ()

    @property
    def is_drift(self) -> bool:
        """Whether the policy calls any distance drift."""
        return any(measured.is_drift for measured in self.measures)

    def measured(self, measure: str) -> Measured | None:
        """Return a distance by its name; ``None`` if it was not measured."""
        return next((one for one in self.measures if one.measure == measure), None)


@dataclass(frozen=True)
class DriftReport:
    """How the distributions of a service's features moved.

    Attributes:
        service: Name of the feature service.
        reference: What was compared with, in words.
        since: First ``as_of`` of the current sample.
        until: One past its last.
        ran_at: When it was compared.
        reference_rows: Rows of the reference.
        current_rows: Rows of the current sample.
        features: Every feature compared, by name.
        not_compared: Columns that only one side has or that changed their dtype, with the reason.
        not_recomputed: Rows that distances could not be split for, by the reason; empty if none were to be.
        policy: What was allowed, in words.
        verdict: The policy's word; empty until it has spoken.
        reasons: Why.
        schema: Name and version of this form.
        id: Its number in the registry; ``None`` where it is not kept, and inside what is kept.
    """

    service: str
    reference: str
    since: str
    until: str
    ran_at: str
    reference_rows: int
    current_rows: int
    features: tuple[FeatureDrift, ...]
    not_compared: dict[str, str]
    not_recomputed: dict[str, int] = field(default_factory=dict)
    policy: str = ""
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    schema: str = SCHEMA
    id: int | None = None

    @property
    def effective_rows(self) -> tuple[int, int]:
        """How many independent rows the reference's and the current ones are worth, of the feature with the most."""
        reference = max((feature.reference_effective_rows for feature in self.features), default=0)
        return reference, max((feature.current_effective_rows for feature in self.features), default=0)

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """The features that drifted."""
        return tuple(feature for feature in self.features if feature.is_drift)

    @property
    def exit_code(self) -> int:
        """0 if nothing drifted, 1 if something did, 2 if it cannot be told."""
        return {"pass": 0, "fail": 1}.get(self.verdict, 2)

    def to_json(self) -> str:
        """Return the report as JSON, fields in the order they are declared."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of the report's JSON form."""
        title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:{SCHEMA}"}
        return title | msgspec.json.schema(cls)

    @classmethod
    def from_json(cls, text: str | bytes) -> DriftReport:
        """Read a report written by ``to_json``.

        Raises:
            RegistryError: The text is no report of this form.
        """
        try:
            report = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise RegistryError(f"it is no drift report: {error}", where="drift report", code="unreadable") from None
        if report.schema != SCHEMA:
            problem = f"it has the form '{report.schema}', this library reads '{SCHEMA}'"
            raise RegistryError(problem, where="drift report", code="unreadable")
        return report
