"""Drift of applied services: the serving log against a training set, its manifest, or another period."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pyarrow as pa

from featurestore.config import PolicyConfig
from featurestore.core.errors import TrainingSetError
from featurestore.core.temporal import Clock, format_instant
from featurestore.guard.drift.compare import Recomputed, Reference, compare_drift
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.report import DriftReport
from featurestore.guard.drift.rows import Layout
from featurestore.offline.dataset import TrainingSet, read_manifest
from featurestore.offline.manifest import Manifest
from featurestore.offline.training_set import compute_reference
from featurestore.plan.model import Column, Plan
from featurestore.plan.names import AS_OF
from featurestore.registry import DriftRecord, Registry
from featurestore.registry.catalog import Catalog
from featurestore.serving_log import ServingLog
from featurestore.serving_log.columns import (
    FINGERPRINT,
    KEY_PREFIX,
    REQUEST_PREFIX,
    VALUE_PREFIX,
    key_column,
    request_column,
)
from featurestore.sources import ReadSettings

Period = tuple[int, int]
"""First instant and one past the last, in microseconds."""

_WANTED = (KEY_PREFIX, VALUE_PREFIX, REQUEST_PREFIX)
_BATCH_ROWS = 500_000


@dataclass(frozen=True)
class _Definition:
    """How the values of a reference were computed.

    Attributes:
        plan: By this plan; ``None`` for a period of the log.
        hindsight: Whether every event counted as known from its event time on.
        answered: Of a period of the log, rows by the fingerprint of the plan that answered, counted as they are read.
    """

    plan: Plan | None = None
    hindsight: bool = False
    answered: Counter[str] = field(default_factory=Counter)

    def among(self, plans: Mapping[str, Plan]) -> Plan | None:
        """Return the plan, of a period the one that answered most; ``None`` if it is not among the known ones."""
        return self.plan or next((plans.get(print_) for print_, _ in self.answered.most_common(1)), None)


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
            RegistryError: The registry failed, or knows a source no more that recomputing needs.
        """
        plan = self.catalog.plan(service)
        layout = Layout.of(plan)
        self.log.flush()
        if isinstance(reference, tuple):
            known, definition = self._of_period(service, layout, *reference)
        else:
            known, definition = _trained(service, reference)
        left_out: Counter[str] = Counter()

        def current() -> Iterator[pa.Table]:
            return self.log.read(service, since_us=since_us, until_us=until_us)

        def recomputed() -> Iterator[Recomputed]:
            plans = {past.fingerprint: past for past in (*self.catalog.past_plans(service), plan)}
            return self._recomputed(current(), layout, plans, definition, left_out)

        ran_at_us = self.clock.now_us()
        report = compare_drift(
            service=service,
            reference=known,
            current=lambda: map(layout.of_log, current()),
            current_dtypes=layout.dtypes,
            current_entities=layout.entities,
            policy=policy,
            since=format_instant(since_us),
            until=format_instant(until_us),
            ran_at=format_instant(ran_at_us),
            recomputed=recomputed if recompute else None,
            threads=self.settings.threads,
        )
        report = replace(report, not_recomputed=dict(left_out))
        if record:
            found = DriftRecord(service, since_us, until_us, ran_at_us, report.verdict, report.to_json())
            report = replace(report, id=self.registry.add_drift(found))
        return report

    def _of_period(self, service: str, layout: Layout, since_us: int, until_us: int) -> tuple[Reference, _Definition]:
        """Return what was served in another period, and the definition that answered most of it."""
        definition = _Definition()

        def rows() -> Iterator[pa.Table]:
            for table in self.log.read(service, since_us=since_us, until_us=until_us):
                definition.answered[_fingerprint(table)] += table.num_rows
                yield layout.of_log(table)

        label = f"what was served about {format_instant(since_us)} to {format_instant(until_us)}"
        return Reference(label, layout.dtypes, rows=rows, entities=layout.entities), definition

    def _recomputed(
        self,
        tables: Iterable[pa.Table],
        layout: Layout,
        plans: Mapping[str, Plan],
        definition: _Definition,
        left_out: Counter[str],
    ) -> Iterator[Recomputed]:
        """Recompute what was served by the definition that answered and by the reference's.

        Args:
            tables: What was served.
            layout: What is counted of it.
            plans: Plans that may have answered, by fingerprint.
            definition: The reference's.
            left_out: Receives how many rows could not be recomputed, and why.
        """
        trained, hindsight = definition.among(plans), definition.hindsight
        for fingerprint, table in _together(tables):
            answered_by = plans.get(fingerprint)
            if answered_by is None:
                left_out["the registry does not know the definition that answered"] += table.num_rows
            elif trained is None:
                left_out["the registry does not know the definition of the reference"] += table.num_rows
            elif missing := _missing(trained, table):
                left_out[f"the reference's definition needs {missing}, which was not asked with"] += table.num_rows
            else:
                served = layout.of_log(table)
                by_answering = self._offline(answered_by, layout, table)
                is_same = trained.fingerprint == fingerprint and not hindsight
                by_reference = by_answering if is_same else self._offline(trained, layout, table, hindsight=hindsight)
                samples = by_reference, by_answering, served
                names = [name for name in layout.dtypes if all(name in sample.column_names for sample in samples)]
                yield Recomputed._make(sample.select(names) for sample in samples)

    def _offline(self, plan: Plan, layout: Layout, log: pa.Table, *, hindsight: bool = False) -> pa.Table:
        """Return what a training set would hold of the rows of a log."""
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        features, _ = compute_reference(
            plan, _asked(plan, log), sources=sources, settings=self.settings, hindsight=hindsight
        )
        return layout.features(pa.table(features.values), log.column(AS_OF))


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


def _trained(service: str, given: str | os.PathLike[str] | TrainingSet) -> tuple[Reference, _Definition]:
    """Return a training set, or its manifest alone, and how its values were computed."""
    if not isinstance(given, TrainingSet) and Path(given).is_file():
        return _of_manifest(service, read_manifest(given), f"the manifest '{given}'")
    built = given if isinstance(given, TrainingSet) else TrainingSet.open(given)
    known, definition = _of_manifest(service, built.manifest, f"the training set '{built.path}'")
    assert definition.plan is not None, "a manifest has one"
    layout = Layout.of(definition.plan)

    def rows() -> Iterator[pa.Table]:
        return map(layout.of_training_set, built.scan_questions([*layout.dtypes, *layout.keys]))

    return replace(known, rows=rows, entities=layout.entities), definition


def _of_manifest(service: str, manifest: Manifest, label: str) -> tuple[Reference, _Definition]:
    if manifest.service != service:
        raise TrainingSetError(
            f"it is one of the service '{manifest.service}', the service asked about is '{service}'",
            where=label,
            hint="Name a training set of the same service.",
            code="other-service",
        )
    plan = Plan.from_json(msgspec.json.encode(manifest.plan))
    profiles = {feature.name: feature for feature in manifest.features}
    return Reference(label, Layout.of(plan).dtypes, profiles=profiles), _Definition(plan, manifest.hindsight)


def _together(tables: Iterable[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """Put together what one plan answered, many rows at a time: for each time the sources are read once."""
    waiting: dict[str, list[pa.Table]] = {}
    for table in tables:
        group = waiting.setdefault(_fingerprint(table), [])
        group.append(table.select([name for name in table.column_names if name == AS_OF or name.startswith(_WANTED)]))
        if sum(piece.num_rows for piece in group) >= _BATCH_ROWS:
            yield _fingerprint(table), pa.concat_tables(waiting.pop(_fingerprint(table)))
    for fingerprint, group in waiting.items():
        yield fingerprint, pa.concat_tables(group)


def _fingerprint(table: pa.Table) -> str:
    return str(table.column(FINGERPRINT)[0].as_py())


def _columns(plan: Plan) -> dict[str, Column]:
    """Return what a plan must be asked with, by the column of the log that holds it."""
    keys = {key_column(column.name): column for column in plan.join_keys}
    return keys | {request_column(column.name): column for column in plan.request}


def _missing(plan: Plan, log: pa.Table) -> str:
    """Return the first column that a plan must be asked with and that a log does not have; empty if it has all."""
    known = {field.name: field.type for field in log.schema}
    return next((c.name for name, c in _columns(plan).items() if known.get(name) != c.dtype.arrow), "")


def _asked(plan: Plan, log: pa.Table) -> pa.Table:
    return pa.table({AS_OF: log.column(AS_OF)} | {c.name: log.column(name) for name, c in _columns(plan).items()})
