"""Auditing applied services: the serving log against the offline road, and the report into the registry."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from featurestore.catalog import Catalog
from featurestore.offline.build import Features
from featurestore.offline.training_set import compute_reference
from featurestore.online.serving_log import ServingLog
from featurestore.plan.model import Plan
from featurestore.registry import AuditRecord, Registry
from featurestore.skew.audit import audit
from featurestore.skew.policy import Policy
from featurestore.skew.report import AuditReport
from featurestore.sources import ReadSettings
from featurestore.temporal import Clock


def audit_service(
    service: str,
    *,
    since_us: int,
    until_us: int,
    policy: Policy,
    catalog: Catalog,
    registry: Registry,
    log: ServingLog,
    settings: ReadSettings,
    clock: Clock,
) -> AuditReport:
    """Recompute offline what a service served, compare, judge, and record the report.

    Args:
        service: Name of the service.
        since_us: First ``as_of`` of the rows to compare.
        until_us: One past the last.
        policy: What is allowed.
        catalog: Knows the plans that answered, and their sources.
        registry: Takes the report down.
        log: What was served.
        settings: What reading may use.
        clock: Tells the present instant.

    Returns:
        The judged report.
    """
    live = catalog.plan(service)
    plans = {plan.fingerprint: plan for plan in (*catalog.past_plans(service), live)}

    def reference(plan: Plan, spine: pa.Table) -> tuple[Features, Mapping[str, int | None]]:
        sources = catalog.sources(use.view.source.name for use in plan.uses)
        return compute_reference(plan, spine, sources=sources, settings=settings)

    log.flush()
    ran_at_us = clock.now_us()
    found = audit(
        service,
        log.read(service, since_us=since_us, until_us=until_us),
        plans=plans,
        reference=reference,
        since_us=since_us,
        until_us=until_us,
        ran_at_us=ran_at_us,
    )
    report = policy.judge(found)
    registry.add_audit(AuditRecord(service, since_us, until_us, ran_at_us, report.verdict, report.to_json()))
    return report
