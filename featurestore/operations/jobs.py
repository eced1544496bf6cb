"""The jobs of a store: refreshes as views declare them, audits and housekeeping as the configuration declares them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from featurestore.config import NEVER, AuditJobConfig, DriftJobConfig
from featurestore.core.errors import ConfigError, unknown_service
from featurestore.core.temporal import duration_us, to_datetime
from featurestore.guard.alerts import (
    UNDELIVERED,
    Alerts,
    news_of_audit,
    news_of_drift,
)
from featurestore.guard.drift.reference import read_reference
from featurestore.guard.policies import check_policies
from featurestore.operations.triggers import (
    CronTrigger,
    GridTrigger,
    LaterTrigger,
    Trigger,
)
from featurestore.plan.model import Plan, ViewPlan
from featurestore.store import FeatureStore


def _never() -> bool:
    return False


class NothingToDo(Exception):  # noqa: N818  # it is not an error
    """A job may not do its work as the store is configured."""


@dataclass(frozen=True)
class Job:
    """Work that is repeated on schedule.

    Attributes:
        name: Its name in records: work and schedule, and nothing that changes while it stays the same job.
        trigger: When it is due.
        work: Does the work and returns a short result. It raises ``NothingToDo`` with a reason to skip it.
        about: Names of the views or of the service that it works on at present, for people.
        starts_at_once: Whether a job that never ran is due at once. Otherwise it waits for its first time.
        is_wanted: Returns whether something waits for its first result, so that the job is due whatever the time.
    """

    name: str
    trigger: Trigger
    work: Callable[[], str]
    about: str = ""
    starts_at_once: bool = True
    is_wanted: Callable[[], bool] = _never


def jobs_of(store: FeatureStore) -> tuple[Job, ...]:
    """Return the refreshes that views declare, and the audits and housekeeping that the configuration declares.

    Raises:
        ConfigError: A cron expression is not valid, a job is declared twice, or a job or policy names a service that
            is not applied.
    """
    check_policies(store.config, {plan.name: plan for plan in store.services()})
    jobs: dict[str, Job] = {}
    for job in (*_refreshes(store), *_audits(store), *_drifts(store), *_housekeeping(store)):
        if job.name in jobs:
            raise ConfigError(
                f"the job '{job.name}' is declared twice", where="schedule", hint="Remove one.", code="duplicate-job"
            )
        jobs[job.name] = job
    return tuple(jobs.values())


def _refreshes(store: FeatureStore) -> Iterator[Job]:
    """Yield one job for all views that have the same refresh policy."""
    groups: dict[tuple[int, int], list[ViewPlan]] = {}
    interval = store.config.schedule.refresh
    continuous = None if interval == NEVER else (duration_us(interval), 0)
    for view in store.live_views():
        refresh = view.refresh
        timing = (refresh.period_us, refresh.lag_us) if refresh.period_us else continuous
        if timing is not None:
            groups.setdefault(timing, []).append(view)
    for (period_us, lag_us), views in sorted(groups.items()):
        trigger = GridTrigger(period_us, lag_us)
        name, names = f"refresh {trigger}", sorted(view.name for view in views)
        yield Job(
            name,
            _spread(store, name, trigger),
            _refresh_work(store, names),
            about=", ".join(names),
            is_wanted=_has_unfilled(store, views),
        )


def _refresh_work(store: FeatureStore, names: list[str]) -> Callable[[], str]:
    def work() -> str:
        runs = store.materialize(views=names, wait_seconds=60)
        return f"{sum(run.events for run in runs)} events, {sum(run.entities for run in runs)} states"

    return work


def _has_unfilled(store: FeatureStore, views: Sequence[ViewPlan]) -> Callable[[], bool]:
    """Return a function that returns whether any view was never materialized, as it is live or as it is applied.

    The live plans may be refreshed sooner or later than those that are applied, so both are looked at.
    """
    names = {view.name for view in views}

    def is_wanted() -> bool:
        known = (*views, *(view for view in store.views() if view.name in names))
        return any(store.registry.last_run(view.fingerprint) is None for view in known)

    return is_wanted


def _audits(store: FeatureStore) -> Iterator[Job]:
    alerts = Alerts(store.config.alerts, store.registry, store.clock)
    known = {plan.name: plan for plan in store.services()}
    for number, audit in enumerate(store.config.audits):
        where = f"audits[{number}]"
        _check_service(audit.service, known, where)
        share = "" if audit.sample is None else f" sample {audit.sample:g}"
        name, trigger, is_grid = _timed(
            f"audit {audit.service}", audit.every, audit.cron, f"since {audit.since}{share}", where
        )
        yield Job(
            name,
            _spread(store, name, trigger),
            _audit_work(store, alerts, name, audit),
            about=audit.service,
            starts_at_once=is_grid,
        )


def _audit_work(store: FeatureStore, alerts: Alerts, name: str, audit: AuditJobConfig) -> Callable[[], str]:
    def work() -> str:
        report = store.audit(audit.service, since=audit.since, sample=audit.sample)
        return _result(report.verdict, alerts.send(news_of_audit(report, name)))

    return work


def _drifts(store: FeatureStore) -> Iterator[Job]:
    alerts = Alerts(store.config.alerts, store.registry, store.clock)
    known = {plan.name: plan for plan in store.services()}
    for number, drift in enumerate(store.config.drifts):
        where = f"drifts[{number}]"
        _check_service(drift.service, known, where)
        recomputed = " recomputed" if drift.recompute else ""
        name, trigger, is_grid = _timed(
            f"drift {drift.service}",
            drift.every,
            drift.cron,
            f"since {drift.since} from {drift.reference}{recomputed}",
            where,
        )
        yield Job(
            name,
            _spread(store, name, trigger),
            _drift_work(store, alerts, name, drift),
            about=drift.service,
            starts_at_once=is_grid,
        )


def _drift_work(store: FeatureStore, alerts: Alerts, name: str, drift: DriftJobConfig) -> Callable[[], str]:
    def work() -> str:
        report = store.drift(
            drift.service,
            reference=read_reference(drift.reference, store.config.folder),
            current=(drift.since, None),
            recompute=drift.recompute,
        )
        return _result(report.verdict, alerts.send(news_of_drift(report, name)))

    return work


def _result(verdict: str, delivery: str) -> str:
    return f"{verdict}, alert {delivery}" if delivery == UNDELIVERED else verdict


def _check_service(service: str, known: Mapping[str, Plan], where: str) -> None:
    if service not in known:
        raise unknown_service(service, known).error(ConfigError, where)


def _timed(work: str, every: str | None, cron: str | None, options: str, where: str) -> tuple[str, Trigger, bool]:
    """Return the name of a job, its trigger, and whether that is a grid.

    Raises:
        ConfigError: The cron expression is not valid, or its day never comes.
    """
    if cron is None:
        assert every is not None, "a job has one trigger"
        return f"{work} every {every} {options}", GridTrigger(duration_us(every)), True
    try:
        trigger = CronTrigger(cron)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"'{cron}': {error}", where=f"{where}.cron", code="cron") from None
    return f"{work} cron '{cron}' {options}", trigger, False


def _housekeeping(store: FeatureStore) -> Iterator[Job]:
    """Yield the jobs that move old pushed events to files, and that remove online state that no plan needs."""
    schedule = store.config.schedule
    if schedule.compact is not None and schedule.compact != NEVER and store.takes_pushes:
        every_us = duration_us(schedule.compact)
        yield Job("compact", _spread(store, "compact", GridTrigger(every_us)), _compact_work(store, every_us))
    if schedule.gc != NEVER:
        trigger = GridTrigger(duration_us(schedule.gc))
        yield Job("gc", _spread(store, "gc", trigger), _gc_work(store), starts_at_once=False)


def _compact_work(store: FeatureStore, keep_us: int) -> Callable[[], str]:
    def work() -> str:
        try:
            moved = store.compact(before=to_datetime(store.clock.now_us() - keep_us))
        except ConfigError as error:
            if error.code != "data-not-shared":
                raise
            raise NothingToDo(f"{error.problem}. {error.hint}") from None
        return f"{sum(moved.values())} events moved to files"

    return work


def _gc_work(store: FeatureStore) -> Callable[[], str]:
    def work() -> str:
        removed = store.gc(keep=store.config.schedule.keep_plans)
        busy = sum(plan.is_busy for plan in removed)
        left = f", {busy} plans left for the next time: runs are at work on them" if busy else ""
        return f"{sum(plan.count for plan in removed)} states removed{left}"

    return work


def _spread(store: FeatureStore, name: str, trigger: Trigger) -> Trigger:
    """Delay a trigger by a part of the jitter that is always the same for one job of one store.

    So the jobs of many stores do not all begin at once.
    """
    jitter_us = duration_us(store.config.schedule.jitter)
    delay_us = crc32(f"{store.config.registry} {name}".encode()) % jitter_us if jitter_us else 0
    return LaterTrigger(trigger, delay_us) if jitter_us else trigger
