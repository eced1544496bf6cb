"""Telemetry: records answered requests in metrics, the request log and traces, as configured."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

from featurestore.core.errors import FeatureStoreError
from featurestore.guard.audit.report import AuditReport
from featurestore.guard.drift.report import DriftReport
from featurestore.registry import DONE, FAILED, MISSED
from featurestore.server import metrics
from featurestore.server.calls import Call
from featurestore.server.logs import RequestLog
from featurestore.server.metrics import LatestReports, Metrics, StoreState
from featurestore.server.probes import PROBE_SECONDS, Probe, result_or_none
from featurestore.server.traces import Traces
from featurestore.store import FeatureStore

PUBLISH_SECONDS = 1.0
"""How often a worker publishes the state of its serving log to the other workers."""

_SERVING_LOG_AUDITS = ("log",)
"""Kinds of audits of this server's own log: not live audits, and not audits of another system's log."""

R = TypeVar("R", AuditReport, DriftReport)


class Telemetry:
    """Records requests, and collects the metrics page."""

    def __init__(self, store: FeatureStore) -> None:
        """Create what the configuration asks for.

        Args:
            store: The store that answers.

        Raises:
            ConfigError: A required package is not installed.
        """
        config = store.config.server
        self._store = store
        self._vitals = Probe(store.vitals, "vitals")
        self._logs = Probe(store.logs, "logs")
        self._readiness = Probe(store.readiness, "readiness")
        self._reports = Probe(self._latest_reports, "reports")
        wants_metrics = metrics.are_possible() if config.metrics is None else config.metrics
        self.metrics = Metrics() if wants_metrics else None
        self._traces = Traces() if config.traces else None
        self._log = (
            RequestLog(lambda: store.clock, with_entity_keys=config.log_entity_keys) if config.log_requests else None
        )

    def record(self, call: Call) -> None:
        """Record a request that has been answered."""
        if self.metrics is not None:
            self.metrics.record(call)
        if self._log is not None:
            self._log.record(call)
        if self._traces is not None:
            self._traces.record(call, ended_us=self._store.clock.now_us())

    def metrics_page(self) -> tuple[bytes, str] | None:
        """Return the metrics and their media type; ``None`` if the server keeps none."""
        if self.metrics is None:
            return None
        self._publish_log_state(self.metrics)
        deadline = time.perf_counter() + PROBE_SECONDS
        vitals, logs, reports = self._vitals.begin(), self._logs.begin(), self._reports.begin()
        readiness = self._readiness.begin()
        state = StoreState(
            result_or_none(vitals, deadline), result_or_none(logs, deadline), result_or_none(readiness, deadline)
        )
        return self.metrics.page(state, result_or_none(reports, deadline))

    def _latest_reports(self) -> LatestReports:
        """Return the latest reports; reports that cannot be decoded are left out.

        Raises:
            RegistryError: The registry cannot be read.
        """
        registry = self._store.registry
        services = [plan.name for plan in self._store.services()]
        audits = [record for name in services for record in registry.audits(name, kinds=_SERVING_LOG_AUDITS, limit=1)]
        drifts = [record for name in services for record in registry.drifts(name, limit=1)]
        jobs = [record for record in registry.last_jobs(besides=MISSED) if record.outcome in (DONE, FAILED)]
        return LatestReports(
            [report for record in audits for report in _decoded(AuditReport, record.report)],
            [report for record in drifts for report in _decoded(DriftReport, record.report)],
            jobs,
        )

    async def publish(self) -> None:
        """Publish the state of this process's serving log periodically, if several workers share metrics."""
        while self.metrics is not None and metrics.FOLDER_VARIABLE in os.environ:
            self._publish_log_state(self.metrics)
            await asyncio.sleep(PUBLISH_SECONDS)

    def close(self) -> None:
        """Write pending log lines."""
        if self._log is not None:
            self._log.close()

    def _publish_log_state(self, target: Metrics) -> None:
        waiting_rows, lost_rows = self._store.log_backlog()
        failures, _ = self._store.log_failures()
        target.record_log(waiting_rows=waiting_rows, lost_rows=lost_rows, failures=failures)


def _decoded(kind: type[R], text: str) -> Iterator[R]:
    """Yield a report, or nothing if it cannot be decoded."""
    with suppress(FeatureStoreError):
        yield kind.from_json(text)
