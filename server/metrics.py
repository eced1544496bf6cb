"""The metrics at ``/metrics``, in Prometheus' text format.

One process keeps its metrics in memory. Several workers write theirs to files in the folder that
``PROMETHEUS_MULTIPROC_DIR`` names (``python -m featurestore.server`` creates one), and the worker that answers adds
them up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from featurestore.core.errors import ConfigError
from featurestore.core.temporal import instant_us
from featurestore.registry import DONE, FAILED
from featurestore.server.calls import Call

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram
    from prometheus_client.metrics_core import GaugeMetricFamily, Metric

    from featurestore.guard.audit.report import AuditReport
    from featurestore.guard.drift.report import DriftReport
    from featurestore.online.answering.health import LogVitals, Readiness, Vitals
    from featurestore.registry import JobRecord

PATH = "/metrics"
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SECOND_US = 1_000_000


def are_possible() -> bool:
    """Return whether the package that metrics need is installed."""
    return find_spec("prometheus_client") is not None


class LatestReports(NamedTuple):
    """The latest reports of the guard.

    Attributes:
        audits: For each service the latest audit of its log.
        drifts: For each service the latest drift report.
        jobs: For each scheduled job its latest record.
    """

    audits: Sequence[AuditReport]
    drifts: Sequence[DriftReport]
    jobs: Sequence[JobRecord]


class StoreState(NamedTuple):
    """The state of the store; parts that could not be read in time are ``None``.

    Attributes:
        vitals: State of the views, from the online store.
        logs: For each source that accepts pushes the state of its log.
        readiness: Which services can be answered.
    """

    vitals: Vitals | None
    logs: Mapping[str, LogVitals] | None
    readiness: Readiness | None


class _ServiceMetrics(NamedTuple):
    """The metrics of one service."""

    entities: Any
    states: Any
    reading: Any
    computing: Any
    partial: Any


class Metrics:
    """Counts requests, and collects the state of the store for the metrics page."""

    def __init__(self) -> None:
        """Create the metrics.

        Raises:
            ConfigError: ``prometheus-client`` is not installed.
        """
        if not are_possible():
            raise ConfigError(
                "metrics need the package prometheus-client",
                where="server.metrics",
                hint="Install featurestore[metrics], or leave server.metrics out.",
                code="missing-extra",
            )
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"featurestore_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(f"featurestore_{name}", text, labels, registry=registry, buckets=_BUCKETS)

        self._requests = counter("requests", "Requests answered.", "route", "status")
        self._seconds = histogram("request_seconds", "From request to answer.", "route", "service")
        self._entities = counter("entities", "Rows answered.", "service")
        self._states = counter("store_keys", "States read from the online store.", "service")
        self._reading = histogram(
            "store_read_seconds",
            "Reading the online store; each question of a batch counts the whole read.",
            "service",
        )
        self._computing = histogram(
            "compute_seconds",
            "Evaluating states in the kernels; each question of a batch counts the whole call.",
            "service",
        )
        self._partial = counter("partial_answers", "Answers without the values of a failed view.", "service")
        self._mismatched = counter(
            "fingerprint_mismatches", "Answers with another plan than the expected one.", "service"
        )
        self._lost = counter("serving_log_lost_rows", "Served rows that were not logged because too many were waiting.")
        self._waiting = Gauge(
            "featurestore_serving_log_waiting_rows",
            "Served rows that are waiting to be written.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._log_failures = counter(
            "serving_log_failures", "Failed attempts to write, seal or clean up the serving log."
        )
        self._counted_lost_rows = 0
        self._counted_failures = 0
        self._histograms: dict[tuple[str, str], Any] = {}
        self._request_counters: dict[tuple[str, int], Any] = {}
        self._service_metrics: dict[str, _ServiceMetrics] = {}

    def record(self, call: Call) -> None:
        """Count a request that has been answered."""
        answer = call.answer
        service = answer.service if answer is not None else ""
        histogram = self._histograms.get((call.route, service))
        if histogram is None:
            histogram = self._histograms[call.route, service] = self._seconds.labels(call.route, service)
        histogram.observe(call.seconds)
        counter = self._request_counters.get((call.route, call.status))
        if counter is None:
            counter = self._request_counters[call.route, call.status] = self._requests.labels(
                call.route, str(call.status)
            )
        counter.inc()
        if answer is None:
            return
        service_metrics = self._service_metrics.get(service) or self._metrics_of(service)
        service_metrics.entities.inc(len(answer.rows))
        service_metrics.states.inc(answer.effort.keys)
        service_metrics.reading.observe(answer.effort.read_seconds)
        service_metrics.computing.observe(answer.effort.compute_seconds)
        if answer.errors:
            service_metrics.partial.inc()
        if call.mismatch:
            self._mismatched.labels(service).inc()

    def record_log(self, *, waiting_rows: int, lost_rows: int, failures: int = 0) -> None:
        """Record the state of this process's serving log."""
        self._waiting.set(waiting_rows)
        self._lost.inc(max(0, lost_rows - self._counted_lost_rows))
        self._counted_lost_rows = lost_rows
        self._log_failures.inc(max(0, failures - self._counted_failures))
        self._counted_failures = failures

    def page(self, state: StoreState, reports: LatestReports | None = None) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and the media type.

        Args:
            state: The state of the store; unknown parts are left out.
            reports: The latest reports; ``None`` if the registry cannot be read.
        """
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        counted = self._registry
        if FOLDER_VARIABLE in os.environ:
            from prometheus_client.multiprocess import MultiProcessCollector

            _remove_dead_workers(Path(os.environ[FOLDER_VARIABLE]))
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        states = CollectorRegistry()
        states.register(_StoreGauges(state, is_registry_up=reports is not None))
        if reports is not None:
            states.register(_AuditGauges(reports.audits))
            states.register(_DriftGauges(reports.drifts))
            states.register(_JobGauges(reports.jobs))
        return generate_latest(counted) + generate_latest(states), CONTENT_TYPE_LATEST

    def _metrics_of(self, service: str) -> _ServiceMetrics:
        parts = (self._entities, self._states, self._reading, self._computing, self._partial)
        service_metrics = _ServiceMetrics(*(part.labels(service) for part in parts))
        self._service_metrics[service] = service_metrics
        return service_metrics


class _StoreGauges:
    """Gauges of the store's state, which is the same in every worker, for one page."""

    def __init__(self, state: StoreState, *, is_registry_up: bool) -> None:
        self._state = state
        self._is_registry_up = is_registry_up

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        vitals, logs, readiness = self._state
        is_store_up = vitals is not None and vitals.store_problem is None
        yield _gauge("store_up", "Whether the online store can be read.", {"": float(is_store_up)})
        yield _gauge("registry_up", "Whether the registry can be read.", {"": float(self._is_registry_up)})
        yield _gauge("event_log_up", "Whether the event log can be read.", {"": float(logs is not None)})
        ahead = {name: _seconds(log.ahead_us) for name, log in (logs or {}).items()}
        yield _gauge("event_log_ahead_seconds", "How far the head of a log is ahead of the clock.", ahead, "source")
        if readiness is not None:
            ready = {service.service: float(service.problem is None) for service in readiness.services}
            yield _gauge("service_ready", "Whether a service can be answered.", ready, "service")
        if vitals is None:
            return
        views = vitals.views
        is_left_alone = {"": float(vitals.is_store_left_alone)}
        yield _gauge(
            "store_left_alone",
            "Whether the circuit breaker of the online store is open: it failed and is not asked.",
            is_left_alone,
        )
        text = "Now minus the instant up to which a view is complete, or was when it last had state."
        yield _gauge(
            "view_staleness_seconds", text, {name: _seconds(view.staleness_us) for name, view in views.items()}
        )
        if vitals.store_problem is None:
            has_state = {name: float(view.has_state) for name, view in views.items()}
            yield _gauge("view_has_state", "Whether a view has online state.", has_state)
        lags_us = {
            name: max(0, (logs or {})[view.source].head_us - view.log_us)
            for name, view in views.items()
            if view.source in (logs or {}) and view.log_us is not None
        }
        lags = {name: _seconds(lag_us) for name, lag_us in lags_us.items()}
        yield _gauge("view_log_lag_seconds", "How far a view is behind the log of pushed events.", lags)
        lost = {name: float(view.is_lost) for name, view in views.items()}
        yield _gauge("view_lost", "Whether a part of a view's states was lost, so that the view cannot answer.", lost)


def _gauge(name: str, text: str, values: Mapping[str, float | None], label: str = "view") -> Metric:
    """Return a gauge with one value per label; an empty label stands for a single value without a label."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"featurestore_{name}", text, labels=[label] if "" not in values else [])
    for label_value, value in values.items():
        if value is not None:
            family.add_metric([label_value] if label_value else [], value)
    return family


def _remove_dead_workers(folder: Path) -> None:
    """Remove the gauges of workers that have ended; their counters stay."""
    from prometheus_client.multiprocess import mark_process_dead

    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]  # untyped in the client


class _AuditGauges:
    """Gauges of the latest audits, for one page."""

    def __init__(self, audits: Sequence[AuditReport]) -> None:
        self._audits = audits

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        from prometheus_client.core import GaugeMetricFamily

        verdict, ran = _verdicts("audit", self._audits, ("pass", "warn", "fail", "cannot tell"))
        features = ("service", "feature")
        share = GaugeMetricFamily(
            "featurestore_audit_mismatch_share", "Share of a feature's values that differ.", labels=features
        )
        causes = ("service", "cause")
        values = GaugeMetricFamily("featurestore_audit_cause_values", "Values that differ, by cause.", labels=causes)
        for audit in self._audits:
            for feature in audit.features:
                share.add_metric([audit.service, feature.name], feature.share)
            for cause, count in audit.causes.items():
                values.add_metric([audit.service, cause], float(count))
        yield from (verdict, ran, share, values)


class _DriftGauges:
    """Gauges of the latest drift reports, for one page."""

    def __init__(self, drifts: Sequence[DriftReport]) -> None:
        self._drifts = drifts

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        from prometheus_client.core import GaugeMetricFamily

        verdict, ran = _verdicts("drift", self._drifts, ("pass", "fail", "cannot tell"))
        measures = ("service", "feature", "measure")
        distance = GaugeMetricFamily(
            "featurestore_drift_distance", "How far a feature's distribution moved.", labels=measures
        )
        for drift in self._drifts:
            for feature in drift.features:
                for measured in feature.measures:
                    distance.add_metric([drift.service, feature.name, measured.measure], measured.value)
        yield from (verdict, ran, distance)


class _JobGauges:
    """Gauges of the latest outcomes of scheduled jobs, for one page."""

    def __init__(self, jobs: Sequence[JobRecord]) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges."""
        from prometheus_client.core import GaugeMetricFamily

        outcomes = ("job", "outcome")
        outcome = GaugeMetricFamily(
            "featurestore_job_last_outcome", "1 for the latest outcome of a job.", labels=outcomes
        )
        ran = GaugeMetricFamily("featurestore_job_last_run_seconds", "When a job last began.", labels=["job"])
        took = GaugeMetricFamily(
            "featurestore_job_last_duration_seconds", "How long the last run of a job took.", labels=["job"]
        )
        for job in self._jobs:
            for name in (DONE, FAILED):
                outcome.add_metric([job.name, name], float(job.outcome == name))
            ran.add_metric([job.name], job.started_at_us / _SECOND_US)
            took.add_metric([job.name], (job.finished_at_us - job.started_at_us) / _SECOND_US)
        yield from (outcome, ran, took)


def _verdicts(
    kind: str, reports: Sequence[AuditReport | DriftReport], names: Sequence[str]
) -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    """Return the gauges of the reports' verdicts and times."""
    from prometheus_client.core import GaugeMetricFamily

    labels = ("service", "verdict")
    verdict = GaugeMetricFamily(f"featurestore_{kind}_verdict", f"1 for the last {kind}'s verdict.", labels=labels)
    ran = GaugeMetricFamily(f"featurestore_{kind}_ran_at_seconds", f"When the last {kind} ran.", labels=["service"])
    for report in reports:
        for name in names:
            verdict.add_metric([report.service, name], float(report.verdict == name))
        ran.add_metric([report.service], instant_us(report.ran_at) / _SECOND_US)
    return verdict, ran


def _seconds(duration_us: int | None) -> float | None:
    return None if duration_us is None else duration_us / _SECOND_US
