"""The verbs of the guard: audits, drift, explanations, and the checks before a release.

Each verb reads its arguments, applies the configured policy, and hands the parts to the module that does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from featurestore.config import PolicyConfig
from featurestore.core.errors import unknown_view
from featurestore.core.temporal import Instant, Refresh, duration_us, instant_us, moment_us, parse_refresh, period_us
from featurestore.guard.alerts import Alerts, news_of_audit, news_of_drift
from featurestore.guard.audit.foreign import ForeignMapping, read_mapping
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.audit.run import Auditor
from featurestore.guard.comparing.sampling import check_rows, check_share
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.report import DriftReport
from featurestore.guard.drift.run import DriftDetector
from featurestore.guard.explain.report import Explanation
from featurestore.guard.explain.run import Explainer
from featurestore.guard.policies import policy_of
from featurestore.guard.release.certificate import Certificate
from featurestore.guard.release.gate import Gate, GateChecker
from featurestore.guard.release.leakage import LeakageReport, look_for_leaks
from featurestore.guard.release.simulate import Simulation, served_questions, simulate
from featurestore.guard.release.verify import Verifier
from featurestore.offline.dataset import TrainingSet, read_manifest
from featurestore.parts import Parts
from featurestore.registry import AuditRecord, DriftRecord
from featurestore.storage.progress import Progress


class GuardVerbs:
    """The verbs of a feature store about skew, drift and releases.

    Attributes:
        parts: The parts of the store.
    """

    parts: Parts

    def audit(
        self,
        service: str,
        since: Instant | timedelta = "24h",
        until: Instant | timedelta | None = None,
        *,
        sample: float | None = None,
        policy: Policy | None = None,
        by: Sequence[str] = (),
        causes: bool = True,
        explain_rows: int | None = None,
        mismatches: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Recompute the served values offline, compare them bit for bit, and prove the causes of differences.

        Args:
            service: Name of the service.
            since: First ``as_of`` of the answers to compare: an instant, or a time before now (``"24h"``).
            until: One past the last ``as_of``; now if ``None``.
            sample: Share of the entities to audit, chosen by a hash of their key; ``None`` audits all.
            policy: What is allowed; by default the configured policy, else that of the definition, else only equality.
            by: Columns of the log (keys, request inputs) to search for slices, beside the usual properties.
            causes: Whether to prove why values differ; without it an audit only counts.
            explain_rows: How many of the differing rows get proven causes; ``None`` for all.
            mismatches: Folder that receives every differing value as Parquet, with its cause.
            progress: Called with the name of the step, the work done and the work to do.

        Returns:
            The judged report; the registry keeps it as well.

        Raises:
            UnknownServiceError: No service of that name is applied.
            InstantError: A bound is not an instant, or the last is not after the first.
            ConfigError: The sample is not a share, or ``explain_rows`` is not a count.
            SourceError: A source cannot be read.
            StorageError: The serving log cannot be written or read, or the disk refuses the rows to explain.
        """
        since_us, until_us = period_us(since, until, now_us=self.parts.clock.now_us(), where="audit")
        return self._auditor.audit(
            service,
            since_us=since_us,
            until_us=until_us,
            policy=policy or self._audit_policy(service),
            sample=check_share(sample),
            by=by,
            causes=causes,
            explain_rows=check_rows(explain_rows),
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def verify(
        self,
        service: str,
        *,
        rows: int = 2_000,
        instants: int | None = None,
        between: int = 10,
        progress: Progress | None = None,
    ) -> Certificate:
        """Replay a service's history on both roads before its release, and compare the values bit for bit.

        The instants lie on both sides of the edges at which events begin or cease to count, and between them; the
        sources give them. For each instant, online state is filled in a temporary store as it would have been then.
        Lookups for entities that occur, and some that do not, run before that refresh, amid pushes (if a source accepts
        pushes), and after it. The serving store is not touched.

        Args:
            service: Name of the service; it must be applied and need not be materialized.
            rows: The approximate number of pairs of entity and instant.
            instants: The number of instants beside edges; each costs a refresh of all views. ``None`` for at least 20,
                and as many as every kind of edge needs.
            between: The number of instants anywhere in the span of these.
            progress: Called with the name of the step, the work done and the work to do.

        Returns:
            The certificate, with its verdict; the registry keeps it as well.

        Raises:
            UnknownServiceError: No service of that name is applied.
            SourceError: A source cannot be read, has no rows, or changes during the replay.
        """
        now_us = self.parts.clock.now_us()
        verifier = Verifier(self.parts.catalog, self.parts.registry, self.parts.settings, self._auditor.recent)
        return verifier.verify(
            service, rows=rows, instant_count=instants, between_count=between, now_us=now_us, progress=progress
        )

    def simulate(
        self,
        view: str,
        policies: Sequence[Refresh | str],
        *,
        spine: Any = None,
        as_of: str = "as_of",
        rows: int = 20_000,
    ) -> Simulation:
        """Measure on real history how far a view's values would lie from fresh ones under several refresh policies.

        Args:
            view: Name of the view.
            policies: ``every(…)``, ``continuous()``, or text: ``"every 1h lag 10m"``.
            spine: The rows to compute, in any form that training sets take. If ``None``, the rows served in the last
                week; if these are few, rows at and soon after the entities' own events.
            as_of: Column of the spine that holds the instants.
            rows: How many rows to choose.

        Returns:
            Per policy the share and sizes of differing values, staleness, and runs and states per day.

        Raises:
            RequestError: The view does not exist.
            InstantError: A policy is not valid.
            SourceError: The source cannot be read, or has no rows.
            SpineError: The spine lacks a column.
        """
        refreshes = [parse_refresh(policy) if isinstance(policy, str) else policy for policy in policies]
        views = self.parts.catalog.views()
        if view not in views:
            raise unknown_view(view, views).in_request("/view")
        return simulate(
            views[view],
            refreshes,
            sources=self.parts.catalog.sources([views[view].source.name]),
            settings=self.parts.settings,
            spine=spine,
            as_of=as_of,
            served=served_questions(views[view], self.parts.catalog.services().values(), self._auditor.recent),
            rows=rows,
            now_us=self.parts.clock.now_us(),
        )

    def leakage(
        self,
        training_set: TrainingSet | str | os.PathLike[str],
        label: str,
        *,
        label_time: str | None = None,
        rows: int = 50_000,
    ) -> LeakageReport:
        """Find features of a training set that predict the label only because they contain later knowledge.

        The rows are computed again a microsecond, a minute, an hour and a day earlier, with hindsight, and just before
        the label's own event if its time is known. The information that a feature loses proves a leak or raises a
        doubt.

        Args:
            training_set: The set, or its folder.
            label: Column of the spine that the model predicts.
            label_time: Column of the spine with the instant of the label's event, null where none happened.
            rows: How many rows to use, chosen by a hash of key and instant.

        Returns:
            For each feature its association with the label and the changes of it, leaks first, then doubts; and how
            late events of the sources became known.

        Raises:
            TrainingSetError: The training set does not exist, or is damaged.
            RequestError: The label does not exist, has only one value, or its time is not an instant.
            SourceError: A source cannot be read.
        """
        built = training_set if isinstance(training_set, TrainingSet) else TrainingSet.open(training_set)
        names = (source.name for source in built.manifest.sources)
        return look_for_leaks(
            built,
            label,
            label_time=label_time,
            sources=self.parts.catalog.sources(names),
            settings=self.parts.settings,
            rows=rows,
        )

    def policy(self, service: str) -> PolicyConfig:
        """Return the policy of a service: the configured one, else that of its definition, else the default.

        Args:
            service: Name of the service; it need not be applied.

        Raises:
            ConfigError: A policy, also that of another service, names something that does not exist.
        """
        return policy_of(service, self.parts.config, self.parts.catalog.services())

    def gate(
        self,
        training_set: str | os.PathLike[str],
        *,
        max_audit_age: timedelta | str | None = None,
        max_state_age: timedelta | str | None = None,
    ) -> Gate:
        """Check whether the features served now are those that a training set was built from.

        The checks are: the definition, the columns of answers, the columns of sources, hindsight of the set, online
        state, and the verdict and age of the last audit.

        Args:
            training_set: Its folder, or the file of its manifest.
            max_audit_age: The largest age of the newest audited answers; the configured one (7 days) if ``None``.
            max_state_age: The largest age of the state of views with ``continuous()``; the configured one (1 day) if
                ``None``.

        Returns:
            The checks and the verdict.

        Raises:
            TrainingSetError: The training set does not exist, or its manifest is damaged.
        """
        checker = GateChecker(
            self.parts.catalog, self.parts.registry, self.parts.online, self.parts.settings, self.parts.live_plans.plan
        )
        manifest = read_manifest(training_set)
        policy = self.policy(manifest.service)
        return checker.check(
            manifest,
            max_audit_age_us=duration_us(policy.max_audit_age if max_audit_age is None else max_audit_age),
            max_state_age_us=duration_us(policy.max_state_age if max_state_age is None else max_state_age),
            now_us=self.parts.clock.now_us(),
        )

    def certificates(self, service: str | None = None, *, limit: int = 100) -> tuple[Certificate, ...]:
        """Return the certificates of verifications, newest first.

        Args:
            service: Certificates of this service only; of all if ``None``.
            limit: At most so many.
        """
        records = self.parts.registry.certificates(service, limit=limit)
        return tuple(Certificate.from_json(record.document) for record in records)

    def audit_foreign(
        self,
        service: str,
        log: Any,
        mapping: ForeignMapping | str | os.PathLike[str],
        *,
        since: Instant | timedelta | None = None,
        until: Instant | timedelta | None = None,
        sample: float | None = None,
        policy: Policy | None = None,
        by: Sequence[str] = (),
        causes: bool = True,
        explain_rows: int | None = None,
        mismatches: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Compare the values that another system served with those of training sets at the same instants, bit for bit.

        Args:
            service: Name of the service that defines the features.
            log: The served rows: a Parquet or CSV file or glob, the SQLAlchemy URL of a database, or a frame (pandas,
                Polars, pyarrow: whatever a ``FrameSource`` takes).
            mapping: The meaning of its columns: a TOML file, or the same as an object.
            since: First ``as_of`` to compare: an instant, or a time before now; the first of the log if ``None``.
            until: One past the last ``as_of``; the last of the log is included if ``None``.
            sample: Share of the entities to audit, chosen by a hash of their key; ``None`` audits all.
            policy: What is allowed; by default the configured policy, else that of the definition, else only equality.
            by: Keys or request inputs to search for slices.
            causes: Whether to prove why values differ.
            explain_rows: How many of the differing rows get proven causes, as in ``audit``.
            mismatches: Folder that receives every differing value as Parquet, with its cause.
            progress: Called with the name of the step, the work done and, if known, the work to do.

        Returns:
            The judged report; the registry keeps it as well. Features that the log lacks are not compared.

        Raises:
            UnknownServiceError: No service of that name is applied.
            ConfigError: The mapping is not valid, or does not fit the service.
            SourceError: The log cannot be read, or lacks a column.
        """
        now_us = self.parts.clock.now_us()
        return self._auditor.audit_foreign(
            service,
            os.fspath(log) if isinstance(log, os.PathLike) else log,
            mapping if isinstance(mapping, ForeignMapping) else read_mapping(mapping),
            since_us=None if since is None else moment_us(since, now_us=now_us, where="since"),
            until_us=None if until is None else moment_us(until, now_us=now_us, where="until"),
            policy=policy or self._audit_policy(service),
            sample=check_share(sample),
            by=by,
            causes=causes,
            explain_rows=check_rows(explain_rows),
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def audit_live(
        self,
        service: str,
        entities: int = 1_000,
        *,
        policy: Policy | None = None,
        causes: bool = True,
        mismatches: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> AuditReport:
        """Ask both roads about some entities at the present instant, and compare their answers bit for bit.

        The entities come from the sources and the serving log. A hash of the key chooses them, evenly over the statuses
        of their answers (known, expired, not found) and over the times of their last updates. Nothing is logged.

        Args:
            service: Name of the service.
            entities: How many to ask about.
            policy: What is allowed; by default the configured policy, else that of the definition, else only equality.
            causes: Whether to prove why values differ.
            mismatches: Folder that receives every differing value as Parquet, with its cause.
            progress: Called with the name of the step, the work done and the work to do.

        Returns:
            The judged report; the registry keeps it as well.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view has no online state.
            SourceError: A source cannot be read.
            StorageError: The serving log or the online store cannot be read.
        """
        return self._auditor.audit_live(
            service,
            entities,
            policy=policy or self._audit_policy(service),
            causes=causes,
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def audits(self, service: str | None = None, *, limit: int = 100) -> tuple[AuditRecord, ...]:
        """Return the audits that the registry keeps, newest first.

        Args:
            service: Audits of this service only.
            limit: At most so many.
        """
        return self.parts.registry.audits(service, limit=limit)

    def audit_report(self, number: int) -> AuditReport:
        """Return the report of an audit that the registry keeps.

        Args:
            number: Number of the audit in the registry.

        Raises:
            RegistryError: The audit does not exist, or its report has a format that this version cannot read.
        """
        return replace(AuditReport.from_json(self.parts.registry.audit(number).report), id=number)

    def alert(self, report: AuditReport | DriftReport) -> str:
        """Send the configured alerts about a report, unless the same finding was sent before.

        The findings that were sent are stored separately for the log, live audits and logs of other systems, and by the
        share of entities: an audit of a tenth of the entities does not end an alert of a full one.

        Args:
            report: The judged report.

        Returns:
            ``"delivered"``, ``"undelivered"`` if a channel failed, or ``""`` if there was nothing to send.

        Raises:
            RegistryError: The registry failed.
        """
        news = news_of_audit(report) if isinstance(report, AuditReport) else news_of_drift(report)
        return Alerts(self.parts.config.alerts, self.parts.registry, self.parts.clock).send(news)

    def drift(
        self,
        service: str,
        *,
        reference: str | os.PathLike[str] | TrainingSet | tuple[Instant | timedelta, Instant | timedelta],
        current: tuple[Instant | timedelta, Instant | timedelta | None] = ("24h", None),
        policy: DriftPolicy | None = None,
        recompute: bool = False,
        record: bool = True,
    ) -> DriftReport:
        """Compare the distributions of served values with those of a training set or of another period.

        Args:
            service: Name of the service.
            reference: A training set or its folder; the path of its manifest alone, whose profiles are coarser; or
                another period of served values, its first ``as_of`` and one past its last: instants, or times before
                now.
            current: First ``as_of`` of the answers to compare, and one past the last; ``None`` is now.
            policy: The thresholds of drift; by default the configured ones, else a change beyond chance that is large
                enough to matter.
            recompute: Whether to recompute the served values, and split every distance from a training set into the
                part of skew and the part of the population.
            record: Whether the registry keeps the report.

        Returns:
            The judged report.

        Raises:
            UnknownServiceError: No service of that name is applied.
            InstantError: A bound is not an instant, or the last is not after the first.
            TrainingSetError: The training set does not exist, or belongs to another service.
            SourceError: A source cannot be read.
            StorageError: The serving log cannot be written or read.
        """
        now_us = self.parts.clock.now_us()
        since_us, until_us = period_us(*current, now_us=now_us, where="current")
        parts = self.parts
        detector = DriftDetector(parts.catalog, parts.registry, parts.serving_log, parts.settings, parts.clock)
        return detector.drift(
            service,
            reference=period_us(*reference, now_us=now_us, where="reference")
            if isinstance(reference, tuple)
            else reference,
            since_us=since_us,
            until_us=until_us,
            policy=policy or DriftPolicy.configured(self.policy(service)),
            recompute=recompute,
            record=record,
        )

    def drifts(self, service: str | None = None, *, limit: int = 100) -> tuple[DriftRecord, ...]:
        """Return the comparisons of distributions that the registry keeps, newest first.

        Args:
            service: Comparisons of this service only.
            limit: At most so many.
        """
        return self.parts.registry.drifts(service, limit=limit)

    def drift_report(self, number: int) -> DriftReport:
        """Return the report of a comparison of distributions that the registry keeps.

        Args:
            number: Number of the comparison in the registry.

        Raises:
            RegistryError: The comparison does not exist, or its report has a format that this version cannot read.
        """
        return replace(DriftReport.from_json(self.parts.registry.drift(number).report), id=number)

    def explain(
        self,
        service: str,
        entity: Mapping[str, Any] | None = None,
        *,
        at: Instant | None = None,
        feature: str | None = None,
        request: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        events: int = 20,
    ) -> Explanation:
        """Explain the feature values of one entity event by event, and show what each road returns.

        The training road computes the values, the online road answers at the same instant, and the serving log is
        searched for a row about this entity and instant. Nothing is logged.

        Args:
            service: Name of the service.
            entity: Key columns by name; optional for a request of one entity.
            at: The instant, exclusive; optional for a request.
            feature: Column of the answer; ``None`` explains all.
            request: Request inputs; missing ones are the logged ones, or null.
            request_id: A request of the serving log: its row is explained, by the plan that answered it.
            events: How many events are listed per feature, used ones and others each; all are counted.

        Returns:
            The explanation: data, with ``to_json``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            RequestError: A field is missing, unknown or of a wrong type, or the request was not logged.
            InstantError: ``at`` is not an instant.
            SourceError: A source cannot be read.
            ValueOverflowError: An integer sum does not fit into int64.
            StorageError: The serving log cannot be written or read.
        """
        return Explainer(
            self.parts.catalog, self.parts.serving_log, self.parts.online, self.parts.settings, self.parts.clock
        ).explain(
            service,
            entity,
            at_us=None if at is None else instant_us(at, where="at"),
            feature=feature,
            request=request,
            request_id=request_id,
            events=events,
        )

    @property
    def _auditor(self) -> Auditor:
        parts = self.parts
        return Auditor(
            parts.catalog,
            parts.registry,
            parts.serving_log,
            parts.online,
            parts.settings,
            parts.clock,
            parts.data_folders,
        )

    def _audit_policy(self, service: str) -> Policy:
        return Policy.configured(self.policy(service))
