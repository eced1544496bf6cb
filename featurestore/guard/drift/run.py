"""Comparing the distributions of what a service served with those of a reference.

The features of both samples are counted, their distances are measured, and the policy says what is drift. If the
served rows are recomputed as well, every distance is split by its cause.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from featurestore.core.temporal import Clock, format_instant
from featurestore.guard.drift.compare import Recomputed, compare_drift
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.reference import Definition, Period, Reference, reference_of
from featurestore.guard.drift.report import DriftReport
from featurestore.guard.drift.rows import Layout
from featurestore.offline.dataset import TrainingSet
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

_RECOMPUTED_COLUMNS = (KEY_PREFIX, VALUE_PREFIX, REQUEST_PREFIX)
_BATCH_ROWS = 500_000


@dataclass(frozen=True)
class DriftDetector:
    """Compares distributions of applied services.

    Attributes:
        catalog: The plans that answered, and their sources.
        registry: Keeps the reports.
        log: The serving log.
        settings: Resources for reading.
        clock: The present instant.
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
        """Compare the distributions of what a service served with a reference, judge, and record the report.

        Args:
            service: Name of the service.
            reference: A training set, its folder, the file of a manifest alone, or another period of the log.
            since_us: First ``as_of`` of the current rows.
            until_us: One past the last.
            policy: Decides what is drift.
            recompute: Whether to recompute the current rows offline and split the distances by cause.
            record: Whether the registry keeps the report.

        Returns:
            The judged report.

        Raises:
            UnknownServiceError: No service of that name is applied.
            TrainingSetError: The reference is not a training set, or is a training set of another service.
            StorageError: The serving log cannot be written or read.
            SourceError: A source cannot be read.
            RegistryError: The registry failed, or a source needed for recomputing is no longer in it.
        """
        plan = self.catalog.plan(service)
        layout = Layout.of(plan)
        self.log.flush()
        if isinstance(reference, tuple):
            sample, definition = self._period(service, layout, *reference)
        else:
            sample, definition = reference_of(service, reference)
        not_recomputed: Counter[str] = Counter()

        def current() -> Iterator[pa.Table]:
            return self.log.read(service, since_us=since_us, until_us=until_us)

        def recomputed() -> Iterator[Recomputed]:
            plans = {past.fingerprint: past for past in (*self.catalog.past_plans(service), plan)}
            return self._recomputed(current(), layout, plans, definition, not_recomputed)

        ran_at_us = self.clock.now_us()
        report = compare_drift(
            service=service,
            reference=sample,
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
        report = replace(report, not_recomputed=dict(not_recomputed))
        if record:
            row = DriftRecord(service, since_us, until_us, ran_at_us, report.verdict, report.to_json())
            report = replace(report, id=self.registry.add_drift(row))
        return report

    def _period(self, service: str, layout: Layout, since_us: int, until_us: int) -> tuple[Reference, Definition]:
        """Return another period of the log as a reference, and the definition that answered most of it."""
        definition = Definition()

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
        definition: Definition,
        not_recomputed: Counter[str],
    ) -> Iterator[Recomputed]:
        """Recompute served rows with the definition that answered and with the definition of the reference.

        Args:
            tables: Rows of the serving log.
            layout: The columns to count.
            plans: Plans that may have answered, by fingerprint.
            definition: The definition of the reference.
            not_recomputed: Receives the count of rows that could not be recomputed, by reason.
        """
        trained, hindsight = definition.among(plans), definition.hindsight
        for fingerprint, table in _batches(tables):
            answered_by = plans.get(fingerprint)
            if answered_by is None:
                not_recomputed["the registry does not have the definition that answered"] += table.num_rows
            elif trained is None:
                not_recomputed["the registry does not have the definition of the reference"] += table.num_rows
            elif missing := _missing(trained, table):
                reason = f"the definition of the reference needs {missing}, which the log does not have"
                not_recomputed[reason] += table.num_rows
            else:
                served = layout.of_log(table)
                by_answering = self._offline(answered_by, layout, table)
                is_same = trained.fingerprint == fingerprint and not hindsight
                by_reference = by_answering if is_same else self._offline(trained, layout, table, hindsight=hindsight)
                samples = by_reference, by_answering, served
                names = [name for name in layout.dtypes if all(name in sample.column_names for sample in samples)]
                yield Recomputed._make(sample.select(names) for sample in samples)

    def _offline(self, plan: Plan, layout: Layout, log: pa.Table, *, hindsight: bool = False) -> pa.Table:
        """Return the features that a training set would have for rows of a log."""
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        features, _ = compute_reference(
            plan, _spine(plan, log), sources=sources, settings=self.settings, hindsight=hindsight
        )
        return layout.features(pa.table(features.values), log.column(AS_OF))


def _batches(tables: Iterable[pa.Table]) -> Iterator[tuple[str, pa.Table]]:
    """Concatenate tables of one plan to batches that are worth one reading of the sources."""
    waiting: dict[str, list[pa.Table]] = {}
    for table in tables:
        fingerprint = _fingerprint(table)
        group = waiting.setdefault(fingerprint, [])
        names = [name for name in table.column_names if name == AS_OF or name.startswith(_RECOMPUTED_COLUMNS)]
        group.append(table.select(names))
        if sum(piece.num_rows for piece in group) >= _BATCH_ROWS:
            yield fingerprint, pa.concat_tables(waiting.pop(fingerprint))
    for fingerprint, group in waiting.items():
        yield fingerprint, pa.concat_tables(group)


def _fingerprint(table: pa.Table) -> str:
    return str(table.column(FINGERPRINT)[0].as_py())


def _inputs(plan: Plan) -> dict[str, Column]:
    """Return the columns that a plan needs of a question, by the column of the log that holds each."""
    keys = {key_column(column.name): column for column in plan.join_keys}
    return keys | {request_column(column.name): column for column in plan.request}


def _missing(plan: Plan, log: pa.Table) -> str:
    """Return the first column that a plan needs and a log does not have; empty if the log has all."""
    types = {field.name: field.type for field in log.schema}
    return next((c.name for name, c in _inputs(plan).items() if types.get(name) != c.dtype.arrow), "")


def _spine(plan: Plan, log: pa.Table) -> pa.Table:
    return pa.table({AS_OF: log.column(AS_OF)} | {c.name: log.column(name) for name, c in _inputs(plan).items()})
