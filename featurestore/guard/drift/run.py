"""Comparing the distributions of what a service served with those of a reference.

The features of both samples are counted, their distances are measured, and the policy says what is drift. If the
served rows are recomputed as well, every distance is split by its cause.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from featurestore.core.dtypes import DType
from featurestore.core.temporal import Clock, format_instant
from featurestore.guard.drift.assess import assess
from featurestore.guard.drift.collect import Collector, Pair
from featurestore.guard.drift.distribution import AGED, Distribution, from_profile
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.reference import Definition, Period, Reference, reference_of
from featurestore.guard.drift.report import DriftReport, FeatureDrift
from featurestore.guard.drift.rows import EntityCounter, Layout, Rows
from featurestore.guard.drift.split import split
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


class Recomputed(NamedTuple):
    """A batch of the current rows in three versions.

    Attributes:
        by_reference: Computed with the definition of the reference.
        by_answering: Computed with the definition that answered.
        served: As they were served.
    """

    by_reference: pa.Table
    by_answering: pa.Table
    served: pa.Table


def compare_drift(
    *,
    service: str,
    reference: Reference,
    current: Rows,
    current_dtypes: Mapping[str, DType],
    policy: DriftPolicy,
    since: str,
    until: str,
    ran_at: str,
    current_entities: Mapping[str, str] | None = None,
    recomputed: Callable[[], Iterable[Recomputed]] | None = None,
    threads: int = 2,
) -> DriftReport:
    """Compare two samples and judge.

    Args:
        service: Name of the feature service.
        reference: The sample to compare with.
        current: Reads the current rows.
        current_dtypes: Dtypes of their features, by column.
        policy: Decides what is drift.
        since: First instant of the current rows, for the report.
        until: One past the last.
        ran_at: The present instant, for the report.
        current_entities: By feature, the column of the current rows that holds the bucket of the entity.
        recomputed: Reads the current rows that could be recomputed; if given, distances are split by cause.
        threads: Count of threads that count; the result does not depend on it.

    Returns:
        The judged report, features by name.
    """
    shared, not_compared = _shared(reference, current_dtypes)
    profiles = {name: from_profile(profile) for name, profile in (reference.profiles or {}).items() if name in shared}
    bins = {name: profile.bins for name, profile in profiles.items() if len(profile.bins)}
    collector = Collector(shared, threads, bins)
    before, now = EntityCounter(reference.entities), EntityCounter(current_entities or {})
    if (rows := reference.rows) is not None:
        pairs = collector.pairs(reference=lambda: before.counted(rows()), current=lambda: now.counted(current()))
    else:
        counted = collector.like(profiles, now.counted(current()))
        pairs = {name: Pair(profiles[name], counted[name]) for name in shared}
    pairs = {name: _weighed(pair, before.worth(name), now.worth(name)) for name, pair in pairs.items()}
    significance = policy.significance
    features = tuple(_assessed(name, shared[name], pairs[name], significance) for name in sorted(shared))
    if recomputed is not None:
        references = {name: pair.reference for name, pair in pairs.items()}
        samples = collector.all_like(references, recomputed(), samples=len(Recomputed._fields))
        features = tuple(_split(feature, references[feature.name], *samples) for feature in features)
    return policy.judge(
        DriftReport(
            service=service,
            reference=reference.label,
            since=since,
            until=until,
            ran_at=ran_at,
            reference_rows=max((feature.reference_rows for feature in features), default=0),
            current_rows=max((feature.current_rows for feature in features), default=0),
            features=features,
            not_compared=not_compared,
        )
    )


def _shared(reference: Reference, current: Mapping[str, DType]) -> tuple[dict[str, DType], dict[str, str]]:
    """Return the features that can be compared, and for the others the reason why not."""
    shared, reasons = {}, {}
    known = reference.dtypes
    for name in sorted(known.keys() | current.keys()):
        if name not in current:
            reasons[name] = "only the reference has it"
        elif name not in known:
            reasons[name] = "only the current sample has it"
        elif known[name] != current[name]:
            reasons[name] = f"its dtype was {known[name]} and is {current[name]}"
        elif known[name].kind in AGED and reference.rows is None:
            reasons[name] = "a manifest alone does not have the ages of its values before as_of"
        else:
            shared[name] = known[name]
    return shared, reasons


def _weighed(pair: Pair, reference: float, current: float) -> Pair:
    return Pair(replace(pair.reference, worth=reference), replace(pair.current, worth=current))


def _assessed(name: str, dtype: DType, pair: Pair, significance: float) -> FeatureDrift:
    # Samples that are far apart give infinities on the way to a probability of zero.
    with np.errstate(over="ignore", under="ignore"):
        return assess(name, str(dtype), reference=pair.reference, current=pair.current, significance=significance)


def _split(feature: FeatureDrift, reference: Distribution, *samples: Mapping[str, Distribution]) -> FeatureDrift:
    each = Recomputed._make(sample[feature.name] for sample in samples)
    return replace(feature, split=split(reference=reference, **each._asdict()))
