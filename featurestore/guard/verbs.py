"""The verbs of a feature store that look on: audits, drift, explanations, and what is checked before a release.

Each reads its arguments, fills in what the configuration says, and hands the parts to the room that does the work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from featurestore.config import Config, PolicyConfig
from featurestore.core.errors import RequestError, listing
from featurestore.core.temporal import Instant, Refresh, duration_us, instant_us, moment_us, parse_refresh, period_us
from featurestore.guard.alerts import Alerts, news_of_audit, news_of_drift
from featurestore.guard.audit.audit import Progress
from featurestore.guard.audit.auditor import Auditor, configured
from featurestore.guard.audit.foreign import ForeignMapping, read_mapping
from featurestore.guard.audit.policy import Policy
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.comparing.sampling import check_rows, check_share
from featurestore.guard.drift.drifter import Drifter
from featurestore.guard.drift.drifter import configured as configured_drift
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.report import DriftReport
from featurestore.guard.explain.explain import Explainer
from featurestore.guard.explain.model import Explanation
from featurestore.guard.policies import policy_of
from featurestore.guard.release.certificate import Certificate
from featurestore.guard.release.gate import Gate, Gatekeeper
from featurestore.guard.release.leakage import look_for_leaks
from featurestore.guard.release.leakage_report import LeakageReport
from featurestore.guard.release.simulate import served_questions, simulate
from featurestore.guard.release.simulation import Simulation
from featurestore.guard.release.verify import Verifier
from featurestore.offline.dataset import TrainingSet, read_manifest
from featurestore.parts import Parts
from featurestore.registry import AuditRecord, DriftRecord


class GuardVerbs:
    """What a feature store answers about skew, drift and releases.

    Attributes:
        config: Where the store keeps things and what it may use.
        parts: The parts of the store.
    """

    config: Config
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
        """Recompute offline what was served, compare it to the bit, and prove why values differ.

        Args:
            service: Name of the service.
            since: First ``as_of`` of the answers to compare: an instant, or how long before now (``"24h"``).
            until: One past the last; now if ``None``.
            sample: Share of the entities to look at, chosen by a hash of their key; ``None`` looks at all.
            policy: What is allowed; by default what configuration and definition say, else nothing but equality.
            by: Columns of the log (keys, request inputs) to look for slices in, beside the usual properties.
            causes: Whether to prove why values differ; without it an audit only counts.
            explain_rows: Of how many rows that differ causes are proven; ``None`` for all.
            mismatches: Folder that receives every value that differs as Parquet, with its cause.
            progress: Is told what is being done, how far it is, and how far it will go.

        Returns:
            The judged report; it is also kept in the registry.

        Raises:
            UnknownServiceError: No service of that name is applied.
            InstantError: A bound is no instant, or the last is not after the first.
            ConfigError: The sample is no share, or ``explain_rows`` no count.
            SourceError: A source cannot give its rows.
            StorageError: The serving log cannot be written or read, or the disk refuses rows that are to be explained.
        """
        since_us, until_us = period_us(since, until, now_us=self.parts.clock.now_us(), where="audit")
        return self._auditor.audit(
            service,
            since_us=since_us,
            until_us=until_us,
            policy=policy or self._allowed(service),
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
        """Replay a service's history on both roads before it is released, and compare to the bit.

        Instants on both sides of the edges at which events begin or cease to count are chosen from what the sources
        hold, and some between them. Up to each, state is filled in a store of its own as it would have been then. It
        is asked about entities that occur and some that do not before that refresh, amid what is pushed (if a source
        accepts pushes), and after it. The store that serves is not touched.

        Args:
            service: Name of the service; it is applied, and need not be materialized.
            rows: About how many pairs of entity and instant.
            instants: At how many instants beside edges; each costs a refresh of all views. ``None`` for at least 20,
                and as many as it takes to ask at every kind of edge.
            between: At how many instants anywhere in the span of these.
            progress: Is told how far it is.

        Returns:
            The certificate, with its verdict; it is also kept in the registry.

        Raises:
            UnknownServiceError: No service of that name is applied.
            SourceError: A source cannot give its rows, there are none, or it is written meanwhile.
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
        """Tell how far a view's values would lie from fresh ones under several refresh policies, on real history.

        Args:
            view: Name of the view.
            policies: ``every(…)``, ``continuous()``, or text: ``"every 1h lag 10m"``.
            spine: What to ask, in any form that training sets take. If ``None``, what was served in the last week is
                asked again; if that is little, questions are chosen at and soon after the entities' own events.
            as_of: Column of the spine that holds the instants asked about.
            rows: How many questions to choose.

        Returns:
            Per policy the share of differing values and their sizes, staleness, and runs and states a day.

        Raises:
            RequestError: There is no such view.
            InstantError: A policy is unreadable.
            SourceError: The source cannot give its rows, or there are none.
            SpineError: The spine lacks a column.
        """
        chosen = [parse_refresh(policy) if isinstance(policy, str) else policy for policy in policies]
        views = self.parts.catalog.views()
        if view not in views:
            hint = listing("Views", sorted(views), wrong=view)
            raise RequestError(f"there is no feature view '{view}'", field="/view", hint=hint, code="unknown-view")
        return simulate(
            views[view],
            chosen,
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
        """Tell which features of a training set tell of the label only because they see what nobody could know.

        Rows are asked again a microsecond, a minute, an hour and a day earlier, with hindsight, and just before the
        label's own event if its time is known. What a feature loses by it proves a leak or raises a doubt.

        Args:
            training_set: The set, or its folder.
            label: Column of the spine that is predicted.
            label_time: Column of the spine that says when the label's event happened, null where it did not.
            rows: How many rows to look at, chosen by a hash of key and instant.

        Returns:
            What each feature tells and what becomes of it, leaks first, then what may be one; and how late events of
            the sources became known.

        Raises:
            TrainingSetError: There is no training set, or it is damaged.
            RequestError: There is no such label, it holds one value only, or its time is no instant.
            SourceError: A source cannot give its rows.
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
        """Return what is allowed of a service: what the configuration says, else its definition, else the default.

        Args:
            service: Name of the service; it need not be applied.

        Raises:
            ConfigError: A policy, also another service's, names what there is not.
        """
        return policy_of(service, self.config, self.parts.catalog.services())

    def gate(
        self,
        training_set: str | os.PathLike[str],
        *,
        max_audit_age: timedelta | str | None = None,
        max_state_age: timedelta | str | None = None,
    ) -> Gate:
        """Tell whether what would be served now is what a training set was made of.

        Looked at are the definition, the columns of answers, the columns of sources, whether the set was built with
        hindsight, online state, and the verdict of the last audit of what was served and how old that is.

        Args:
            training_set: Its folder, or its manifest's file.
            max_audit_age: How long ago the newest answers that were audited may have been given; what the configuration
                says (7 days) if ``None``.
            max_state_age: Up to how long ago the state of views with ``continuous()`` must be complete; what the
                configuration says (1 day) if ``None``.

        Returns:
            The checks and the verdict.

        Raises:
            TrainingSetError: There is no training set, or its manifest is damaged.
        """
        gatekeeper = Gatekeeper(
            self.parts.catalog, self.parts.registry, self.parts.online, self.parts.settings, self.parts.live_plans.plan
        )
        manifest = read_manifest(training_set)
        policy = self.policy(manifest.service)
        return gatekeeper.look(
            manifest,
            max_audit_age_us=duration_us(policy.max_audit_age if max_audit_age is None else max_audit_age),
            max_state_age_us=duration_us(policy.max_state_age if max_state_age is None else max_state_age),
            now_us=self.parts.clock.now_us(),
        )

    def certificates(self, service: str | None = None, *, limit: int = 100) -> tuple[Certificate, ...]:
        """Return what verifications found, newest first.

        Args:
            service: Of this service only; of all if ``None``.
            limit: At most so many.
        """
        found = self.parts.registry.certificates(service, limit=limit)
        return tuple(Certificate.from_json(record.document) for record in found)

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
        """Compare what another system served with what training sets hold at the same instants, to the bit.

        Args:
            service: Name of the service whose definitions say what the features are.
            log: What was served: a Parquet or CSV file or glob, the SQLAlchemy URL of a database, or a frame (pandas,
                Polars, pyarrow: whatever a ``FrameSource`` takes).
            mapping: Which column holds what: a TOML file, or the same as an object.
            since: First ``as_of`` to compare: an instant, or how long before now; the log's first if ``None``.
            until: One past the last; the log's last included if ``None``.
            sample: Share of the entities to look at, chosen by a hash of their key; ``None`` looks at all.
            policy: What is allowed; by default what configuration and definition say, else nothing but equality.
            by: Keys or request inputs to look for slices in.
            causes: Whether to prove why values differ.
            explain_rows: Of how many rows that differ, as in ``audit``.
            mismatches: Folder that receives every value that differs as Parquet, with its cause.
            progress: Is told what is being done, how far it is, and how far it will go if that is known.

        Returns:
            The judged report; it is also kept in the registry. What the log does not say is not compared.

        Raises:
            UnknownServiceError: No service of that name is applied.
            ConfigError: The mapping is unreadable, or does not fit the service.
            SourceError: The log cannot be read, lacks a column, or holds what is no value of a feature.
        """
        now_us = self.parts.clock.now_us()
        return self._auditor.audit_foreign(
            service,
            os.fspath(log) if isinstance(log, os.PathLike) else log,
            mapping if isinstance(mapping, ForeignMapping) else read_mapping(mapping),
            since_us=None if since is None else moment_us(since, now_us=now_us, where="since"),
            until_us=None if until is None else moment_us(until, now_us=now_us, where="until"),
            policy=policy or self._allowed(service),
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
        """Ask both roads about some entities at the present instant, and compare their answers to the bit.

        Entities are chosen by a hash of their key from those that sources and the serving log know, evenly from those
        that online state answers in different ways (known, expired, not found) and that were updated at different
        times. What is asked goes to no log.

        Args:
            service: Name of the service.
            entities: How many to ask about.
            policy: What is allowed; by default what configuration and definition say, else nothing but equality.
            causes: Whether to prove why values differ.
            mismatches: Folder that receives every value that differs as Parquet, with its cause.
            progress: Is told what is being done, how far it is, and how far it will go.

        Returns:
            The judged report; it is also kept in the registry.

        Raises:
            UnknownServiceError: No service of that name is applied.
            StateError: A view has no online state.
            SourceError: A source cannot give its rows.
            StorageError: The serving log or the online store cannot be read.
        """
        return self._auditor.audit_live(
            service,
            entities,
            policy=policy or self._allowed(service),
            causes=causes,
            mismatches=None if mismatches is None else Path(mismatches),
            progress=progress,
        )

    def audits(self, service: str | None = None, *, limit: int = 100) -> tuple[AuditRecord, ...]:
        """Return the audits that the registry keeps, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return self.parts.registry.audits(service, limit=limit)

    def audit_report(self, number: int) -> AuditReport:
        """Return the report of an audit that the registry keeps.

        Args:
            number: The audit's number there.

        Raises:
            RegistryError: There is no such audit, or its report is of a form that this library does not read.
        """
        return replace(AuditReport.from_json(self.parts.registry.audit(number).report), id=number)

    def alert(self, report: AuditReport | DriftReport) -> str:
        """Tell the configured people what an audit, or a comparison of distributions, found, if it is news to them.

        What they know is kept apart for the log, live audits and logs of other systems, and by the share of entities:
        an audit of a tenth does not say that what a full one found is over.

        Args:
            report: The judged report.

        Returns:
            ``"delivered"``, ``"undelivered"`` if a way to tell them failed, or nothing if there was nothing to tell.

        Raises:
            RegistryError: The registry failed.
        """
        news = news_of_audit(report) if isinstance(report, AuditReport) else news_of_drift(report)
        return Alerts(self.config.alerts, self.parts.registry, self.parts.clock).tell(news)

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
        """Compare the distributions of what was served with those of a training set or of another period.

        Args:
            service: Name of the service.
            reference: A training set or its folder; the path of its manifest alone, whose profiles are coarser; or
                another period of what was served, first ``as_of`` and one past the last: instants, or how long before
                now.
            current: First ``as_of`` of the answers to compare, and one past the last; ``None`` is now.
            policy: What is drift; by default what the configuration says, else what chance does not explain and is
                large enough to matter.
            recompute: Whether to recompute what was served, and split every distance from a training set into the part
                of skew and the part of the population.
            record: Whether the registry keeps the report.

        Returns:
            The judged report.

        Raises:
            UnknownServiceError: No service of that name is applied.
            InstantError: A bound is no instant, or the last is not after the first.
            TrainingSetError: There is no training set, or it is another service's.
            SourceError: A source cannot give its rows.
            StorageError: The serving log cannot be written or read.
        """
        now_us = self.parts.clock.now_us()
        since_us, until_us = period_us(*current, now_us=now_us, where="current")
        parts = self.parts
        drifter = Drifter(parts.catalog, parts.registry, parts.serving_log, parts.settings, parts.clock)
        return drifter.drift(
            service,
            reference=period_us(*reference, now_us=now_us, where="reference")
            if isinstance(reference, tuple)
            else reference,
            since_us=since_us,
            until_us=until_us,
            policy=policy or configured_drift(self.policy(service)),
            recompute=recompute,
            record=record,
        )

    def drifts(self, service: str | None = None, *, limit: int = 100) -> tuple[DriftRecord, ...]:
        """Return the comparisons of distributions that the registry keeps, newest first.

        Args:
            service: Of this service only.
            limit: At most so many.
        """
        return self.parts.registry.drifts(service, limit=limit)

    def drift_report(self, number: int) -> DriftReport:
        """Return the report of a comparison of distributions that the registry keeps.

        Args:
            number: The comparison's number there.

        Raises:
            RegistryError: There is no such comparison, or its report is of a form that this library does not read.
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
        """Say why features of one entity have the values they have, event by event, and what each road says.

        The training road computes the values; the online road is asked at the same instant; and the serving log is
        looked through for a row about this entity and instant. Nothing is logged.

        Args:
            service: Name of the service.
            entity: Key columns by name; may be left out for a request of one entity.
            at: Instant asked about, exclusive; may be left out for a request.
            feature: Column of the answer; ``None`` explains all.
            request: Request inputs; those not given are the logged ones, or null.
            request_id: A request of the serving log: its row is explained, by the plan that answered it.
            events: How many events are listed per feature, of those used and of the others; all are counted.

        Returns:
            The explanation: data, with ``to_json``.

        Raises:
            UnknownServiceError: No service of that name is applied.
            RequestError: A field is missing, unknown or of a wrong type, or no such request was logged.
            InstantError: ``at`` is no instant.
            SourceError: A source cannot give its rows.
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

    def _allowed(self, service: str) -> Policy:
        return configured(self.policy(service))
