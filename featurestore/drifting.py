"""Drift of applied services: the serving log against a training set, its manifest, or another period."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from featurestore.catalog import Catalog
from featurestore.config import PolicyConfig
from featurestore.dtypes import DType, parse_dtype
from featurestore.errors import TrainingSetError
from featurestore.offline.build import AS_OF
from featurestore.offline.dataset import TrainingSet
from featurestore.offline.manifest import Manifest
from featurestore.offline.training_set import compute_reference
from featurestore.online.serving_log import ServingLog
from featurestore.plan.model import Plan
from featurestore.registry import DriftRecord, Registry
from featurestore.skew.drift.compare import Reference, compare_drift
from featurestore.skew.drift.policy import DriftPolicy
from featurestore.skew.drift.report import DriftReport
from featurestore.sources import ReadSettings
from featurestore.temporal import Clock, format_instant

Period = tuple[int, int]
"""First instant and one past the last, in microseconds."""

_VALUE = "value__"
_BATCH_ROWS = 500_000


@dataclass(frozen=True)
class Drifter:
    """The parts that comparing distributions needs.

    Attributes:
        catalog: Knows the plans that answered, and their sources.
        registry: Takes the report down.
        log: What was served.
        settings: What reading may use.
        clock: Tells the present instant.
    """

    catalog: Catalog
    registry: Registry
    log: ServingLog
    settings: ReadSettings
    clock: Clock

    def drift(
        self,
        service: str,
        *,
        reference: str | os.PathLike[str] | TrainingSet | Period,
        since_us: int,
        until_us: int,
        policy: DriftPolicy,
        recompute: bool,
        record: bool,
    ) -> DriftReport:
        """Compare the distributions of what a service served, judge, and record the report.

        Args:
            service: Name of the service.
            reference: A training set, the folder of one, the path of a manifest alone, or another period of the log.
            since_us: First ``as_of`` of the current rows.
            until_us: One past the last.
            policy: What is drift.
            recompute: Whether to recompute the current rows offline and split the distances by cause.
            record: Whether the registry keeps the report.

        Returns:
            The judged report.

        Raises:
            UnknownServiceError: No service of that name is applied.
            TrainingSetError: The reference is no training set, or one of another service.
            StorageError: The serving log cannot be written or read.
            SourceError: A source cannot give its rows.
        """
        plan = self.catalog.plan(service)
        self.log.flush()

        dtypes = {output.name: output.dtype for output in plan.outputs}

        def served(first_us: int, last_us: int) -> Iterator[pa.Table]:
            for table in self.log.read(service, since_us=first_us, until_us=last_us):
                yield _values(table, dtypes)

        def recomputed() -> Iterator[pa.Table]:
            plans = {known.fingerprint: known for known in (*self.catalog.past_plans(service), plan)}
            log = self.log.read(service, since_us=since_us, until_us=until_us)
            for answered_by, questions in _questions(plans, log):
                sources = self.catalog.sources(use.view.source.name for use in answered_by.uses)
                features, _ = compute_reference(answered_by, questions, sources=sources, settings=self.settings)
                yield _of_dtypes(pa.table(features.values), dtypes)

        if isinstance(reference, tuple):
            first_us, last_us = reference
            label = f"what was served about {format_instant(first_us)} to {format_instant(last_us)}"
            known = Reference(label, dtypes, rows=lambda: served(first_us, last_us))
        else:
            known = _training(service, reference)
        ran_at_us = self.clock.now_us()
        report = compare_drift(
            service=service,
            reference=known,
            current=lambda: served(since_us, until_us),
            current_dtypes=dtypes,
            policy=policy,
            since=format_instant(since_us),
            until=format_instant(until_us),
            ran_at=format_instant(ran_at_us),
            recomputed=recomputed if recompute else None,
            threads=self.settings.threads,
        )
        if record:
            found = DriftRecord(service, since_us, until_us, ran_at_us, report.verdict, report.to_json())
            report = replace(report, id=self.registry.add_drift(found))
        return report


def configured(policy: PolicyConfig) -> DriftPolicy:
    """Return what drift is as a configuration says it.

    Raises:
        ConfigError: It names a measure or a threshold that there is not.
    """
    return DriftPolicy(**policy.drift.model_dump(exclude_none=True))


def read_reference(text: str, folder: Path = Path()) -> str | tuple[str, str]:
    """Read a reference: a period ``SINCE..UNTIL``, else the path of a training set or of its manifest.

    What exists is a path, also with two dots in its name.

    Args:
        text: Two instants, or how long back they are (``"14d..7d"``); or a path.
        folder: Where relative paths count from.

    Example:
        >>> read_reference("14d..7d")
        ('14d', '7d')
        >>> read_reference("training", Path("/models"))
        '/models/training'
    """
    path = folder / text
    since, dots, until = text.partition("..")
    return (since, until) if dots and since and until and not path.exists() else str(path)


def _training(service: str, reference: str | os.PathLike[str] | TrainingSet) -> Reference:
    if isinstance(reference, TrainingSet):
        return _of_training_set(service, reference)
    path = Path(reference)
    if path.is_file():
        manifest = Manifest.from_json(path.read_bytes(), where=f"manifest '{path}'")
        return _of_manifest(service, manifest, f"the manifest '{path}'")
    return _of_training_set(service, TrainingSet.open(path))


def _of_training_set(service: str, training_set: TrainingSet) -> Reference:
    known = _of_manifest(service, training_set.manifest, f"the training set '{training_set.path}'")
    names = list(known.dtypes)
    return Reference(known.label, known.dtypes, rows=lambda: training_set.scan(names), profiles=known.profiles)


def _of_manifest(service: str, manifest: Manifest, label: str) -> Reference:
    if manifest.service != service:
        raise TrainingSetError(
            f"it is one of the service '{manifest.service}', the service asked about is '{service}'",
            where=label,
            hint="Name a training set of the same service.",
            code="other-service",
        )
    profiles = {feature.name: feature for feature in manifest.features}
    return Reference(label, {name: parse_dtype(one.dtype) for name, one in profiles.items()}, profiles=profiles)


def _values(table: pa.Table, dtypes: Mapping[str, DType]) -> pa.Table:
    """Return what was served in a piece of the log, columns named as the features are."""
    names = [name for name in table.column_names if name.startswith(_VALUE)]
    renamed = table.select(names).rename_columns([name.removeprefix(_VALUE) for name in names])
    return _of_dtypes(renamed, dtypes)


def _of_dtypes(table: pa.Table, dtypes: Mapping[str, DType]) -> pa.Table:
    """Leave out what another definition answered in another dtype."""
    wanted = {name: dtype.arrow for name, dtype in dtypes.items()}
    return table.select([field.name for field in table.schema if wanted.get(field.name) == field.type])


def _questions(plans: Mapping[str, Plan], tables: Iterable[pa.Table]) -> Iterator[tuple[Plan, pa.Table]]:
    """Put what was asked together per plan, many rows at a time: for each time the sources are read once."""
    waiting: dict[str, list[pa.Table]] = {}
    for table in tables:
        fingerprint = str(table.column("fingerprint")[0].as_py())
        if fingerprint not in plans:
            continue
        group = waiting.setdefault(fingerprint, [])
        group.append(_asked(plans[fingerprint], table))
        if sum(piece.num_rows for piece in group) >= _BATCH_ROWS:
            yield plans[fingerprint], pa.concat_tables(waiting.pop(fingerprint))
    for fingerprint, group in waiting.items():
        yield plans[fingerprint], pa.concat_tables(group)


def _asked(plan: Plan, log: pa.Table) -> pa.Table:
    columns = {AS_OF: log.column(AS_OF)}
    columns |= {column.name: log.column(f"key__{column.name}") for column in plan.join_keys}
    columns |= {column.name: log.column(f"request__{column.name}") for column in plan.request}
    return pa.table(columns)
