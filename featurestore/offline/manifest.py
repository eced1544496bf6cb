"""The manifest of a training set: what was asked, what was read, what came out; one JSON file beside the data."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from featurestore.core.errors import TrainingSetError
from featurestore.core.temporal import format_instant
from featurestore.offline.coverage import RowsWithoutValues
from featurestore.offline.profile import FeatureProfile
from featurestore.plan.model import Plan, ViewPlan
from featurestore.sources.scan import Scan

FORMAT_VERSION = 1
"""Raised when a manifest of an older library could be misread."""

_LIBRARIES = ("featurestore", "pyarrow", "numpy", "numba", "duckdb", "pandas")


@dataclass(frozen=True)
class ManifestFile:
    """A file of a training set or of a source.

    Attributes:
        path: Name within the training set's folder; for sources, where the file lay.
        size: Bytes.
        row_count: Rows.
    """

    path: str
    size: int
    row_count: int


@dataclass(frozen=True)
class ManifestSource:
    """A source as one view read it.

    Attributes:
        name: Name of the source.
        view: The view that read it.
        row_count: Events: rows that were not dropped.
        null_rows: Rows dropped because a key or time was null.
        nulls: Null count of each key and time column that had any.
        duplicate_rows: Rows dropped because another delivery of their event counts.
        not_finite: Count of NaN and infinities that became null, for each column that had any.
        newest_event_time: ISO 8601; ``None`` if there are no events.
        newest_ingest_time: ISO 8601; ``None`` if there are no events.
        files: The files; none for frames and databases.
    """

    name: str
    view: str
    row_count: int
    null_rows: int = 0
    nulls: dict[str, int] = field(default_factory=dict)
    duplicate_rows: int = 0
    not_finite: dict[str, int] = field(default_factory=dict)
    newest_event_time: str | None = None
    newest_ingest_time: str | None = None
    files: tuple[ManifestFile, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The contents and the origin of a training set.

    Attributes:
        service: Name of the feature service.
        plan: The plan, as ``Plan.to_json`` writes it, parsed.
        fingerprint: The plan's.
        view_fingerprints: Those of its views, by name.
        spine_digest: Content digest of the spine, keys and instants as they were read.
        spine_columns: The spine's columns, in order.
        row_count: Rows; the spine's.
        rows_beyond_newest_event: Rows whose horizon is beyond the newest event of some source: their values
            may still change.
        sources: What was read, one entry per view.
        features: Profile of each feature.
        has_statuses: Whether status columns are in it.
        hindsight: Whether ingest times were ignored.
        content_digest: Hash of all names, types and values in row order.
        files: The Parquet files, in row order.
        libraries: Versions of what computed it.
        created_at: ISO 8601. The only field that differs when the same is built again from the same files.
        rows_without_values: For each view that found nothing in more than half of the rows: why, in counts.
        as_of: Column that holds the instants asked about.
        format_version: Version of this form.
    """

    service: str
    plan: dict[str, Any]
    fingerprint: str
    view_fingerprints: dict[str, str]
    spine_digest: str
    spine_columns: tuple[str, ...]
    row_count: int
    rows_beyond_newest_event: int
    sources: tuple[ManifestSource, ...]
    features: tuple[FeatureProfile, ...]
    has_statuses: bool
    hindsight: bool
    content_digest: str
    files: tuple[ManifestFile, ...]
    libraries: dict[str, str]
    created_at: str
    rows_without_values: tuple[RowsWithoutValues, ...] = ()
    as_of: str = "as_of"
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """Return the manifest as indented JSON, for people too."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, text: bytes | str, *, where: str = "manifest") -> Manifest:
        """Read a manifest written by ``to_json``.

        Args:
            text: The JSON.
            where: The place, for messages.

        Raises:
            TrainingSetError: It is not a manifest, or of a version that this library does not read.
        """
        try:
            manifest = msgspec.json.decode(text, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise TrainingSetError(
                f"the manifest cannot be read: {error}", where=where, hint="Build it again.", code="manifest"
            ) from error
        if manifest.format_version != FORMAT_VERSION:
            raise TrainingSetError(
                f"the manifest has version {manifest.format_version}, this library reads {FORMAT_VERSION}",
                where=where,
                hint="Read it with the library that wrote it, or build it again.",
                code="manifest",
            )
        return manifest

    def read_plan(self) -> Plan:
        """Return the plan that computed the training set.

        Raises:
            RegistryError: It is of a version that this library does not read.
        """
        return Plan.from_json(msgspec.json.encode(self.plan))

    def profile(self, column: str) -> FeatureProfile:
        """Return the profile of one feature; ``KeyError`` if the column does not exist."""
        return {feature.name: feature for feature in self.features}[column]


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that take part in a value."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return a plan as the JSON object that a manifest holds."""
    document: dict[str, Any] = msgspec.json.decode(plan.to_json())
    return document


def source_entry(view: ViewPlan, scan: Scan) -> ManifestSource:
    """Return what a view read of its source.

    Args:
        view: The view.
        scan: Its scan, after everything was read.
    """
    stats = scan.stats()
    newest = stats.newest_event_time_us, stats.newest_ingest_time_us
    event_time, ingest_time = (None if instant is None else format_instant(instant) for instant in newest)
    return ManifestSource(
        name=view.source.name,
        view=view.name,
        row_count=stats.row_count,
        null_rows=stats.null_rows,
        nulls=dict(stats.nulls),
        duplicate_rows=stats.duplicate_rows,
        not_finite=dict(stats.not_finite),
        newest_event_time=event_time,
        newest_ingest_time=ingest_time,
        files=tuple(ManifestFile(file.path, file.size, file.row_count) for file in scan.files),
    )
