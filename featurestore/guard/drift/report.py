"""The drift report, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from featurestore.guard.report import Judged, Report

MEASURES = (
    "kolmogorov_smirnov",
    "wasserstein",
    "l_infinity",
    "psi",
    "jensen_shannon",
    "chi_square",
    "null_share",
    "beyond_range",
    "new_categories",
    "vanished_categories",
)
"""Names of all measures."""


@dataclass(frozen=True)
class Measured:
    """One distance of one feature.

    Attributes:
        measure: Its name, such as ``"psi"``.
        value: The distance; the distance of nulls has a sign.
        p_value: Probability that chance alone gives at least this distance between samples of these sizes.
        by_chance: Distance that chance exceeds with the significance of the policy; ``None`` if it depends on more than
            the sizes, or rows are too few.
        error: The distance may be larger by this, because values were counted in cells.
        adjusted: The p-value corrected for the count of p-values; ``None`` if it was not judged by chance.
        is_drift: Whether it is drift according to the policy.
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
        lower_edges: Ascending; values below the first edge are in the first bin. Ages of instants in microseconds, of
            dates in days.
        reference: Count per bin.
        current: Count per bin.
    """

    lower_edges: tuple[float, ...]
    reference: tuple[int, ...]
    current: tuple[int, ...]


@dataclass(frozen=True)
class Category:
    """A category and its count in both samples."""

    value: str
    reference: int
    current: int


@dataclass(frozen=True)
class Split:
    """A distance between reference and serving, by cause; the three parts add up to it.

    A part is the contribution of its step in the direction of the whole; a negative part is against it.

    Attributes:
        measure: Name of the measure.
        total: Distance of the served values from the reference, for the rows that could be recomputed.
        population: Part of other rows: those asked about instead of those of the reference.
        definition: Part of another definition: the one that answered instead of the one of the reference.
        skew: Part of serving other values than the definition that answered gives offline for the same rows.
    """

    measure: str
    total: float
    population: float
    definition: float
    skew: float


@dataclass(frozen=True)
class FeatureDrift:
    """How the distribution of one feature moved.

    Attributes:
        name: Column.
        dtype: Its dtype.
        reference_rows: Rows of the reference.
        current_rows: Rows of the current sample.
        reference_effective_rows: Count of independent rows that the reference is worth: all rows about one entity are
            worth about one row.
        current_effective_rows: Count of independent rows that the current sample is worth.
        reference_nulls: Rows without a value in the reference.
        current_nulls: Rows without a value in the current sample.
        measures: Distances, in a fixed order.
        reference_range: Smallest and largest number of the reference; ``None`` for categories and without values. For
            instants and dates, ranges, means and bins are of their ages before ``as_of``, in microseconds or days.
        current_range: Smallest and largest number of the current sample.
        reference_mean: Mean of the numbers of the reference.
        current_mean: Mean of the current numbers.
        bins: Numbers in bins.
        categories: The most frequent categories of both samples, by frequency.
        new_categories: Categories that only the current sample has, most frequent first; at most 20.
        vanished_categories: Categories that only the reference has.
        split: Distances by cause, if the served rows were recomputed.
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
        """Whether any distance is drift according to the policy."""
        return any(measured.is_drift for measured in self.measures)

    def measured(self, measure: str) -> Measured | None:
        """Return a distance by its name; ``None`` if it was not measured."""
        return next((measured for measured in self.measures if measured.measure == measure), None)


@dataclass(frozen=True)
class DriftReport(Report, Judged):
    """How the distributions of the features of a service moved.

    Attributes:
        service: Name of the feature service.
        reference: The reference, in words.
        since: First ``as_of`` of the current sample.
        until: One past its last.
        ran_at: When the samples were compared.
        reference_rows: Rows of the reference.
        current_rows: Rows of the current sample.
        features: Every feature compared, by name.
        not_compared: Columns that were not compared, with the reason: only one side has them, or their dtype changed.
        not_recomputed: Count of rows that could not be recomputed, by reason; empty if rows were not to be recomputed.
        policy: The policy, in words.
        verdict: The verdict of the policy; empty until it has judged.
        reasons: Reasons of the verdict.
        schema: Name and version of the JSON form.
        id: Number of the report in the registry; ``None`` if the registry does not keep it, and inside the kept form.
    """

    SCHEMA: ClassVar[str] = "featurestore-drift-2"
    KIND: ClassVar[str] = "drift report"

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
        """Counts of independent rows of the reference and of the current sample, of the feature with the most."""
        reference = max((feature.reference_effective_rows for feature in self.features), default=0)
        return reference, max((feature.current_effective_rows for feature in self.features), default=0)

    @property
    def drifted(self) -> tuple[FeatureDrift, ...]:
        """The features that drifted."""
        return tuple(feature for feature in self.features if feature.is_drift)
