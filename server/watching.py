"""Tells of answered requests: to metrics, to the log of requests, to traces, as the configuration wants."""

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
from featurestore.server.metrics import Found, Metrics, StoreState
from featurestore.server.probing import PROBE_SECONDS, Probe, until
from featurestore.server.traces import Traces
from featurestore.store import FeatureStore

NOTE_SECONDS = 1.0
"""How often a worker notes how its serving log is, for the others to tell."""

_OF_THE_LOG = ("log",)
"""Audits of what was served here: neither of what both roads say now, nor of what another system served."""

R = TypeVar("R", AuditReport, DriftReport)


class Watch:
    """What looks on while requests are answered."""

    def __init__(self, store: FeatureStore) -> None:
        """Make what the configuration wants.

        Args:
            store: What answers.

        Raises:
            ConfigError: The package that something needs is not installed.
        """
        wanted = store.config.server
        self._store = store
        self._vitals = Probe(store.vitals, "vitals")
        self._logs = Probe(store.logs, "logs")
        self._readiness = Probe(store.readiness, "readiness")
        self._findings = Probe(self._found, "findings")
        wants_metrics = metrics.are_possible() if wanted.metrics is None else wanted.metrics
        self.metrics = Metrics() if wants_metrics else None
        self._traces = Traces() if wanted.traces else None
        self._log = (
            RequestLog(lambda: store.clock, with_entity_keys=wanted.log_entity_keys) if wanted.log_requests else None
        )

    def note(self, call: Call) -> None:
        """Take a request that has been answered."""
        if self.metrics is not None:
            self.metrics.note(call)
        if self._log is not None:
            self._log.note(call)
        if self._traces is not None:
            self._traces.note(call, ended_us=self._store.clock.now_us())

    def page(self) -> tuple[bytes, str] | None:
        """Return the metrics and their media type; ``None`` if there are none."""
        if self.metrics is None:
            return None
        self._note_log(self.metrics)
        deadline = time.perf_counter() + PROBE_SECONDS
        vitals, logs, found = self._vitals.begin(), self._logs.begin(), self._findings.begin()
        readiness = self._readiness.begin()
        state = StoreState(until(vitals, deadline), until(logs, deadline), until(readiness, deadline))
        return self.metrics.page(state, until(found, deadline))

    def _found(self) -> Found:
        """Return what was found last; reports that cannot be read are left out.

        Raises:
            RegistryError: The registry cannot say.
        """
        registry = self._store.registry
        services = [plan.name for plan in self._store.services()]
        audits = [record for name in services for record in registry.audits(name, kinds=_OF_THE_LOG, limit=1)]
        drifts = [record for name in services for record in registry.drifts(name, limit=1)]
        jobs = [record for record in registry.last_jobs(besides=MISSED) if record.outcome in (DONE, FAILED)]
        return Found(
            [report for record in audits for report in _read(AuditReport, record.report)],
            [report for record in drifts for report in _read(DriftReport, record.report)],
            jobs,
        )

    async def run(self) -> None:
        """Note again and again what only this process knows."""
        while self.metrics is not None and metrics.FOLDER_VARIABLE in os.environ:
            self._note_log(self.metrics)
            await asyncio.sleep(NOTE_SECONDS)

    def close(self) -> None:
        """Write what waits to be written."""
        if self._log is not None:
            self._log.close()

    def _note_log(self, counted: Metrics) -> None:
        waiting_rows, lost_rows = self._store.log_backlog()
        failures, _ = self._store.log_failures()
        counted.note_log(waiting_rows=waiting_rows, lost_rows=lost_rows, failures=failures)


def _read(form: type[R], text: str) -> Iterator[R]:
    """Yield a report that can be read."""
    with suppress(FeatureStoreError):
        yield form.from_json(text)
