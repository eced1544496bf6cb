"""Running an audit: rows that were served are recomputed offline at their own instant and compared.

Three kinds of rows are audited: those of the serving log, answers of the online store to questions asked now, and the
log of another system. All take the same way: ``audit_tables`` recomputes and compares them in batches, causes are
proven, the policy judges the report, and the registry keeps it.

A row is recomputed with the plan that answered it, so a definition that changed since then does not look like skew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.core.columns import Flags
from featurestore.core.errors import RequestError, listing
from featurestore.core.temporal import Clock, check_period, duration_us
from featurestore.guard.audit.changed_sources import source_comparer
from featurestore.guard.audit.export import MismatchFile
from featurestore.guard.audit.facts import event_counter, event_reader, state_reader, with_lost_events
from featurestore.guard.audit.foreign import ForeignLog, ForeignMapping
from featurestore.guard.audit.kept_rows import KeptRows
from featurestore.guard.audit.live import ask_live
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.proving import Explained, ExplainRows, Place, explain
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.audit.tally import AuditTally, Remarks, instants, rows_behind_refresh, status_codes
from featurestore.guard.causes.model import Facts
from featurestore.guard.comparing.compare import compare, is_unread
from featurestore.guard.comparing.sampling import sampled
from featurestore.guard.comparing.tolerance import Tolerance
from featurestore.offline.build import Features
from featurestore.offline.coverage import count_beyond_newest
from featurestore.offline.training_set import compute_reference
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.registry import AuditRecord, Registry, RunRecord
from featurestore.registry.catalog import Catalog
from featurestore.registry.data_folders import DataFolders
from featurestore.serving_log import ServingLog, log_schema
from featurestore.serving_log.columns import (
    FINGERPRINT,
    VALUE_PREFIX,
    key_column,
    names_of,
    request_column,
    value_column,
)
from featurestore.sources import ReadSettings
from featurestore.storage.progress import Progress

Reference = Callable[[Plan, pa.Table], tuple[Features, Mapping[str, int | None]]]
"""Computes a spine offline: its features with statuses, and the newest event time per view."""

UnexaminedSink = Callable[[Plan, pa.Table, Features, Mapping[str, Flags]], None]
"""Receives a plan, rows of its log, their offline values, and per output the rows that differ and are not explained."""

BATCH_VALUES = 13_000_000
"""Values recomputed at a time. Every batch reads the sources once."""

_MOST_NAMES = 8
_MOST_RUNS = 1_000
_RECENT_US = duration_us("7d")


@dataclass(frozen=True)
class Options:
    """Options of a comparison.

    Attributes:
        sample: Share of the entities to compare, chosen by a hash of their key.
        by: Columns of the log to look for slices in, beside the usual properties.
        explain: Proves the causes of differences; ``None`` skips causes.
        explain_rows: Count of differing rows to explain; ``None`` for all.
        progress: Receives the progress of the audit.
        kind: Kind of the rows: ``"log"``, ``"live"``, ``"replay"`` or ``"foreign"``.
        batch_values: Values recomputed at a time.
        lost: Count of rows that were served and are missing from the log.
        rows: Count of all rows, for the progress; 0 if it is not known.
        unexamined: Receives the differing values that are not explained.
        remarks: Remarks on the rows by those who read them, complete after the last table.
        tolerance: Returns how far the numbers of a feature may lie apart; ``None`` for not at all.
    """

    sample: float = 1.0
    by: Sequence[str] = ()
    explain: ExplainRows | None = None
    explain_rows: int | None = None
    progress: Progress | None = None
    kind: str = "log"
    batch_values: int = BATCH_VALUES
    lost: int = 0
    rows: int = 0
    unexamined: UnexaminedSink | None = None
    remarks: Remarks = field(default_factory=Remarks)
    tolerance: Callable[[str], Tolerance | None] = lambda _: None


@dataclass(frozen=True)
class Auditor:
    """Audits applied services.

    Attributes:
        catalog: The plans that answered, and their sources.
        registry: The runs; it also keeps the reports.
        log: The serving log.
        online: The online store.
        settings: Resources for reading.
        clock: The present instant.
        folders: The data folders of other machines, which have serving logs of their own.
    """

    catalog: Catalog
    registry: Registry
    log: ServingLog
    online: OnlineStore
    settings: ReadSettings
    clock: Clock
    folders: DataFolders

    def audit(
        self,
        service: str,
        *,
        since_us: int,
        until_us: int,
        policy: Policy,
        sample: float = 1.0,
        by: Sequence[str] = (),
        causes: bool = True,
        explain_rows: int | None = None,
        mismatches: Path | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Audit the rows of the serving log, and record the report.

        Args:
            service: Name of the service.
            since_us: First ``as_of`` of the rows to compare.
            until_us: One past the last.
            policy: What is allowed.
            sample: Share of the entities to compare, chosen by a hash of their key.
            by: Columns of the log to look for slices in.
            causes: Whether to prove why values differ.
            explain_rows: Count of differing rows to explain; ``None`` for all.
            mismatches: Folder that receives all differing values as Parquet; ``None`` writes none.
            progress: Receives the progress of the audit.

        Returns:
            The judged report.
        """
        self._check_by(service, by)
        self.log.flush()
        tables = self.log.read(service, since_us=since_us, until_us=until_us)
        lost = self.log.losses(service, since_us=since_us, until_us=until_us)
        rows = self.log.count(service, since_us=since_us, until_us=until_us) if progress is not None else 0
        options = Options(
            sample=sample,
            by=by,
            explain_rows=explain_rows,
            progress=progress,
            lost=lost,
            rows=rows,
            remarks=Remarks(list(self._other_folders(since_us))),
        )
        return self._run(
            service,
            tables,
            since_us=since_us,
            until_us=until_us,
            policy=policy,
            options=options,
            causes=causes,
            mismatches=mismatches,
        )

    def _other_folders(self, since_us: int) -> Iterator[str]:
        """Name the data folders of other machines used since an instant: an audit does not see their serving logs."""
        others = self.folders.others(since_us=since_us)
        if others:
            yield (
                "only rows served by processes with this machine's data folder were compared; rows may have been "
                f"served and logged in {_first_names(list(map(str, others)))}: audit there as well, "
                "or configure one data folder for all processes"
            )

    def audit_live(
        self,
        service: str,
        entities: int,
        *,
        policy: Policy,
        causes: bool = True,
        mismatches: Path | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Ask the online store about some entities at the present instant, audit the answers, and record the report.

        Args:
            service: Name of the service.
            entities: Count of entities to ask about.
            policy: What is allowed.
            causes: Whether to prove why values differ.
            mismatches: Folder that receives all differing values as Parquet; ``None`` writes none.
            progress: Receives the progress of the audit.

        Returns:
            The judged report.
        """
        self.log.flush()
        plan = self.catalog.plan(service)
        now_us = self.clock.now_us()
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        remarks = Remarks()
        table = ask_live(
            plan,
            entities,
            now_us=now_us,
            online=self.online,
            clock=self.clock,
            sources=sources,
            settings=self.settings,
            recent=self.recent(service),
            remarks=remarks,
        )
        return self._run(
            service,
            [table] if table.num_rows else [],
            since_us=now_us,
            until_us=now_us + 1,
            policy=policy,
            options=Options(progress=progress, kind="live", remarks=remarks),
            causes=causes,
            mismatches=mismatches,
        )

    def audit_foreign(
        self,
        service: str,
        place: Any,
        mapping: ForeignMapping,
        *,
        since_us: int | None,
        until_us: int | None,
        policy: Policy,
        sample: float = 1.0,
        by: Sequence[str] = (),
        causes: bool = True,
        explain_rows: int | None = None,
        mismatches: Path | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Audit the log of another system, and record the report; see ``FeatureStore.audit_foreign``."""
        if since_us is not None and until_us is not None:
            check_period(since_us, until_us, where="audit")
        log = ForeignLog.open(self.catalog.plan(service), place, mapping, self.settings, by=by)
        first_us, end_us = log.range_us(since_us=since_us, until_us=until_us)
        log.remarks.notes.append("the log has no statuses: only values were compared")
        if log.left_out:
            log.remarks.notes.append(f"not in the log: {_first_names(log.left_out)}")
        return self._run(
            service,
            log.tables(since_us=since_us, until_us=until_us),
            since_us=first_us,
            until_us=end_us,
            policy=policy,
            options=Options(
                sample=sample,
                by=by,
                explain_rows=explain_rows,
                progress=progress,
                kind="foreign",
                remarks=log.remarks,
            ),
            causes=causes,
            mismatches=mismatches,
            foreign=log.plan,
        )

    def _check_by(self, service: str, by: Sequence[str]) -> None:
        """Raise ``RequestError`` if the serving log lacks a column to look for slices in."""
        plans = (self.catalog.plan(service), *self.catalog.past_plans(service))
        asked = {column.name for plan in plans for column in (*plan.join_keys, *plan.request)}
        known = asked | {name for plan in plans for name in log_schema(plan).names}
        for name in by:
            if name not in known:
                hint = listing("It has", sorted({*asked, "model", "model_version"}), wrong=name)
                problem = f"the serving log has no column '{name}'"
                raise RequestError(problem, field="/by", hint=hint, code="unknown-column")

    def recent(self, service: str) -> Iterator[pa.Table]:
        """Return the serving log of the last seven days, newest tables first."""
        now_us = self.clock.now_us()
        return self.log.read(service, since_us=now_us - _RECENT_US, until_us=now_us + 1, newest_first=True)

    def _run(
        self,
        service: str,
        tables: Iterable[pa.Table],
        *,
        since_us: int,
        until_us: int,
        policy: Policy,
        options: Options,
        causes: bool,
        mismatches: Path | None,
        foreign: Plan | None = None,
    ) -> AuditReport:
        """Compare rows with the offline computation, judge, and record the report.

        ``foreign`` is the plan for the log of another system. No runs and no online state are known for such a log.
        """
        known = (*self.catalog.past_plans(service), foreign or self.catalog.plan(service))
        plans = {plan.fingerprint: plan for plan in known}
        facts = self._facts if foreign is None else self._foreign_facts
        ran_at_us = self.clock.now_us()

        def run(file: MismatchFile | None) -> AuditReport:
            def explainer(rows: KeptRows, asked: Sequence[Place], progress: Progress | None) -> Explained:
                each = None if file is None else file.add
                return explain(rows, facts(rows.plan, plans), asked=asked, each=each, progress=progress)

            return audit_tables(
                service,
                tables,
                plans=plans,
                reference=self._reference,
                since_us=since_us,
                until_us=until_us,
                ran_at_us=ran_at_us,
                options=replace(
                    options,
                    explain=explainer if causes else None,
                    unexamined=None if file is None else file.add_unexamined,
                    tolerance=policy.tolerance_of,
                ),
            )

        if mismatches is None:
            report = policy.judge(run(None))
        else:
            with MismatchFile(mismatches) as file:
                report = policy.judge(run(file))
        number = self.registry.add_audit(
            AuditRecord(service, since_us, until_us, ran_at_us, report.verdict, report.to_json(), kind=report.kind)
        )
        return replace(report, id=number)

    def _reference(self, plan: Plan, spine: pa.Table) -> tuple[Features, Mapping[str, int | None]]:
        sources = self.catalog.sources(use.view.source.name for use in plan.uses)
        return compute_reference(plan, spine, sources=sources, settings=self.settings)

    def _facts(self, plan: Plan, plans: Mapping[str, Plan]) -> Facts:
        return Facts(
            other_plans=[other for fingerprint, other in plans.items() if fingerprint != plan.fingerprint],
            read_events=event_reader(self.catalog.sources, self.settings),
            count_events=event_counter(self.catalog.sources, self.settings),
            runs={use.view.name: self._runs(use.view.name) for use in plan.uses},
            held=state_reader(self.online, self.clock),
            changes=with_lost_events(source_comparer(self.catalog.sources, self.registry, self.settings), self.online),
            threads=self.settings.threads,
        )

    def _foreign_facts(self, plan: Plan, plans: Mapping[str, Plan]) -> Facts:
        return replace(self._facts(plan, plans), runs={}, held=lambda _, __: None, changes=lambda _: None)

    def _runs(self, view: str) -> tuple[RunRecord, ...]:
        return self.registry.runs(view, limit=_MOST_RUNS)


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def audit_tables(
    service: str,
    tables: Iterable[pa.Table],
    *,
    plans: Mapping[str, Plan],
    reference: Reference,
    since_us: int,
    until_us: int,
    ran_at_us: int,
    options: Options | None = None,
) -> AuditReport:
    """Recompute and compare tables in the form of a serving log.

    Args:
        service: Name of the feature service.
        tables: Tables, each of one plan.
        plans: All plans that may have answered, by fingerprint.
        reference: Computes rows offline.
        since_us: First instant of the range that was read.
        until_us: One past its last instant.
        ran_at_us: The present instant.
        options: Options of the comparison.

    Returns:
        The report, not judged.
    """
    options = options or Options()
    tally = AuditTally.over(since_us, until_us)
    kept: dict[str, KeptRows] = {}
    try:
        _compare_all(tables, plans, reference, tally, kept, options)
        explained = _explain(kept, reference, tally, options)
    finally:
        for rows in kept.values():
            rows.close()
    tally.add_skipped(options.remarks.skipped, lost=options.lost)
    return tally.report(
        service,
        explained,
        since_us=since_us,
        until_us=until_us,
        ran_at_us=ran_at_us,
        kind=options.kind,
        sample=options.sample,
        notes=options.remarks.notes,
    )


def _compare_all(
    tables: Iterable[pa.Table],
    plans: Mapping[str, Plan],
    reference: Reference,
    tally: AuditTally,
    kept: dict[str, KeptRows],
    options: Options,
) -> None:
    """Compare batch by batch; no batch is left in memory when this returns."""
    seen = 0
    for batch in _batches(tables, options.batch_values):
        plan = plans.get(_fingerprint(batch))
        if plan is None:
            tally.add_unknown_plan(batch)
        else:
            _compare_sample(plan, batch, reference, tally, kept, options)
        seen += batch.num_rows
        del batch
        pa.default_memory_pool().release_unused()
        if options.progress is not None:
            options.progress("rows compared", seen, max(seen, options.rows))


def _batches(tables: Iterable[pa.Table], batch_values: int) -> Iterator[pa.Table]:
    """Concatenate small tables of one plan to batches that are worth one reading of the sources."""
    waiting: dict[str, list[pa.Table]] = {}
    for table in tables:
        fingerprint = _fingerprint(table)
        group = waiting.setdefault(fingerprint, [])
        group.append(table)
        values = len(names_of(VALUE_PREFIX, table.column_names))
        if values * sum(piece.num_rows for piece in group) >= batch_values:
            yield pa.concat_tables(waiting.pop(fingerprint))
    for group in waiting.values():
        yield pa.concat_tables(group)


def _fingerprint(table: pa.Table) -> str:
    return str(table.column(FINGERPRINT)[0].as_py())


def _compare_sample(
    plan: Plan,
    batch: pa.Table,
    reference: Reference,
    tally: AuditTally,
    kept: dict[str, KeptRows],
    options: Options,
) -> None:
    """Recompute the sampled rows of a batch of one plan, and compare every feature."""
    log = sampled(plan, batch, options.sample)
    if not log.num_rows:
        return
    expected, newest = reference(plan, spine_of(plan, log))
    is_stale = rows_behind_refresh(plan, log)
    tally.begin_batch(plan, log, is_stale, beyond=count_beyond_newest(plan, instants(log, AS_OF), newest))
    differs: dict[str, Flags] = {}
    unread: dict[str, Flags] = {}
    for output in plan.outputs:
        name = output.name
        unread[name] = is_unread(log, name)
        compared = compare(
            name=name,
            dtype=output.dtype,
            reference=expected.values[name],
            current=log.column(value_column(name)).combine_chunks(),
            reference_statuses=expected.statuses[name],
            current_statuses=status_codes(log, name),
            is_stale=is_stale,
            tolerance=options.tolerance(name),
            unread=unread[name],
        )
        tally.add_feature(plan, name, log, expected, compared, is_stale=is_stale, unread=unread[name])
        differs[name] = compared.differs
    tally.add_slices(plan, log, expected, is_stale, differs, by=options.by)
    unexamined = differs
    if options.explain is not None:
        # A served text that is not a value of the feature cannot be reproduced, so it is not examined.
        examined = {name: flags & ~unread[name] for name, flags in differs.items()}
        kept.setdefault(plan.fingerprint, KeptRows(plan, options.explain_rows)).add(log, examined)
        unexamined = {name: flags & unread[name] for name, flags in differs.items()}
    if options.unexamined is not None:
        options.unexamined(plan, log, expected, unexamined)


def _explain(
    kept: Mapping[str, KeptRows], reference: Reference, tally: AuditTally, options: Options
) -> list[Explained]:
    """Explain the differing rows plan by plan; rows that are not to be explained go to ``options.unexamined``."""
    if options.explain is None:
        return []
    asked = [(mismatch.feature, mismatch.request_id, mismatch.row) for _, mismatch in tally.worst]
    explained = []
    for _, rows in sorted(kept.items()):
        if rows.differing_rows:
            explained.append(options.explain(rows, asked, options.progress))
            if options.unexamined is not None:
                for table, flags in rows.rest():
                    expected, _ = reference(rows.plan, spine_of(rows.plan, table))
                    options.unexamined(rows.plan, table, expected, flags)
    return explained


def spine_of(plan: Plan, log: pa.Table) -> pa.Table:
    """Return the questions of some rows of a log as a spine: keys, instants and request inputs."""
    columns = {AS_OF: log.column(AS_OF)}
    columns |= {column.name: log.column(key_column(column.name)) for column in plan.join_keys}
    columns |= {column.name: log.column(request_column(column.name)) for column in plan.request}
    return pa.table(columns)
