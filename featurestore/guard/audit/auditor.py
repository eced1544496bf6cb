"""Auditing applied services: the serving log against the offline road, and the report into the registry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from featurestore.config import PolicyConfig
from featurestore.core.errors import RequestError, listing
from featurestore.core.temporal import Clock, check_period, duration_us
from featurestore.guard.audit.asking import ask_live
from featurestore.guard.audit.audit import (
    Options,
    Progress,
    Reference,
    Remarks,
    audit,
)
from featurestore.guard.audit.changed_sources import source_comparer
from featurestore.guard.audit.collecting import Collected
from featurestore.guard.audit.export import MismatchFile
from featurestore.guard.audit.facts import (
    event_counter,
    event_reader,
    state_reader,
    with_lost_events,
)
from featurestore.guard.audit.foreign import ForeignLog, ForeignMapping
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.proving import (
    Explained,
    ExplainRows,
    Place,
    explain,
)
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.causes.model import Facts
from featurestore.guard.comparing.tolerance import Tolerance
from featurestore.offline.build import Features
from featurestore.offline.training_set import compute_reference
from featurestore.online.stores.store import OnlineStore
from featurestore.plan.model import Plan
from featurestore.registry import AuditRecord, Registry, RunRecord
from featurestore.registry.catalog import Catalog
from featurestore.registry.data_folders import DataFolders
from featurestore.serving_log import ServingLog, log_schema
from featurestore.sources import ReadSettings

_NAMED = 8
_MOST_RUNS = 1_000
_RECENT_US = duration_us("7d")


@dataclass(frozen=True)
class Auditor:
    """The parts an audit needs.

    Attributes:
        catalog: Knows the plans that answered, and their sources.
        registry: Knows runs, and takes the report down.
        log: What was served.
        online: Where states are kept.
        settings: What reading may use.
        clock: Tells the present instant.
        folders: Knows the data folders of other machines, which have serving logs of their own.
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
        """Recompute offline what a service served, compare, explain, judge, and record the report.

        Args:
            service: Name of the service.
            since_us: First ``as_of`` of the rows to compare.
            until_us: One past the last.
            policy: What is allowed.
            sample: Share of the entities to look at, by hash of their key.
            by: Columns of the log to look for slices in.
            causes: Whether to prove why values differ.
            explain_rows: Of how many rows that differ; ``None`` for all.
            mismatches: Folder that receives all values that differ as Parquet; ``None`` writes none.
            progress: Is told how far the audit is.

        Returns:
            The judged report.
        """
        self._check_by(service, by)
        self.log.flush()
        tables = self.log.read(service, since_us=since_us, until_us=until_us)
        lost = self.log.losses(service, since_us=since_us, until_us=until_us)
        rows = self.log.count(service, since_us=since_us, until_us=until_us) if progress is not None else 0
        return self._run(
            service,
            tables,
            since_us=since_us,
            until_us=until_us,
            policy=policy,
            options=lambda explainer: Options(
                sample=sample,
                by=by,
                explain=explainer,
                explain_rows=explain_rows,
                progress=progress,
                lost=lost,
                rows=rows,
                remarks=Remarks(list(self._unseen(since_us))),
            ),
            causes=causes,
            mismatches=mismatches,
        )

    def _unseen(self, since_us: int) -> Iterator[str]:
        """Say which serving logs an audit does not see: those in data folders of other machines used since then."""
        others = self.folders.others(since_us=since_us)
        if others:
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            yield (
                "only rows served by processes with this machine's data folder were looked at; rows may have been "
                f"served and logged in {', '.join(map(str, others[:_NAMED]))}{more}: audit there as well, "
                "or let all processes have one data folder"
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
        """Ask both roads about some entities at the present instant, compare, explain, judge, and record the report.

        Args:
            service: Name of the service.
            entities: How many to ask about.
            policy: What is allowed.
            causes: Whether to prove why values differ.
            mismatches: Folder that receives all values that differ as Parquet; ``None`` writes none.
            progress: Is told how far the audit is.

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
            options=lambda explainer: Options(explain=explainer, progress=progress, kind="live", remarks=remarks),
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
        """Compare what another system served with what training sets hold; see ``FeatureStore.audit_foreign``."""
        if since_us is not None and until_us is not None:
            check_period(since_us, until_us, where="audit")
        log = ForeignLog.open(self.catalog.plan(service), place, mapping, self.settings, by=by)
        first_us, end_us = log.range_us(since_us=since_us, until_us=until_us)
        log.remarks.notes.append("the log says no statuses: values alone were compared")
        if log.left_out:
            named = ", ".join(log.left_out[:_NAMED])
            more = f" and {len(log.left_out) - _NAMED} more" if len(log.left_out) > _NAMED else ""
            log.remarks.notes.append(f"not in the log: {named}{more}")
        return self._run(
            service,
            log.tables(since_us=since_us, until_us=until_us),
            since_us=first_us,
            until_us=end_us,
            policy=policy,
            options=lambda explainer: Options(
                sample=sample,
                by=by,
                explain=explainer,
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
        """Make sure that the log has the columns that slices are to be looked for in."""
        plans = (self.catalog.plan(service), *self.catalog.past_plans(service))
        own = {column.name for plan in plans for column in (*plan.join_keys, *plan.request)}
        known = own | {name for plan in plans for name in log_schema(plan).names}
        for name in by:
            if name not in known:
                hint = listing("It has", sorted({*own, "model", "model_version"}), wrong=name)
                problem = f"the serving log has no column '{name}'"
                raise RequestError(problem, field="/by", hint=hint, code="unknown-column")

    def recent(self, service: str) -> Iterator[pa.Table]:
        """Return what was served of a service lately, the newest tables first."""
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
        options: Callable[[ExplainRows | None], Options],
        causes: bool,
        mismatches: Path | None,
        foreign: Plan | None = None,
    ) -> AuditReport:
        """Compare rows with the offline road, judge and record.

        Of what another system served no run and no state is known here; ``foreign`` is what it is compared with.
        """
        known = (*self.catalog.past_plans(service), foreign or self.catalog.plan(service))
        plans = {plan.fingerprint: plan for plan in known}
        facts = self._facts if foreign is None else self._foreign_facts
        ran_at_us = self.clock.now_us()

        def run(file: MismatchFile | None) -> AuditReport:
            def explainer(collected: Collected, asked: Sequence[Place], progress: Progress | None) -> Explained:
                each = None if file is None else file.add
                return explain(collected, facts(collected.plan, plans), asked=asked, each=each, progress=progress)

            return audit(
                service,
                tables,
                plans=plans,
                reference=self._reference(),
                since_us=since_us,
                until_us=until_us,
                ran_at_us=ran_at_us,
                options=replace(
                    options(explainer if causes else None),
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

    def _reference(self) -> Reference:
        def reference(plan: Plan, spine: pa.Table) -> tuple[Features, Mapping[str, int | None]]:
            sources = self.catalog.sources(use.view.source.name for use in plan.uses)
            return compute_reference(plan, spine, sources=sources, settings=self.settings)

        return reference

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


def configured(policy: PolicyConfig) -> Policy:
    """Return a policy as a configuration says it."""
    return Policy(
        allowed_share=policy.allowed_share,
        warn_share=policy.warn_share,
        least_rows=policy.least_rows,
        allow_skipped=policy.allow_skipped,
        tolerances={
            name: Tolerance(found.absolute, found.relative, found.ulps) for name, found in policy.tolerances.items()
        },
        causes=policy.causes,
    )
