"""What is to be done: refreshes as views declare them, audits and housekeeping as the configuration says."""

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
from featurestore.guard.drift.drifter import read_reference
from featurestore.guard.policies import check_policies
from featurestore.operations.triggers import (
    GridTrigger,
    LaterTrigger,
    Trigger,
    read_crontab,
)
from featurestore.plan.model import Plan, ViewPlan
from featurestore.store import FeatureStore


def _never() -> bool:
    return False


class NothingToDo(Exception):  # noqa: N818  # it is no error
    """A job has nothing that it may do as the store is configured."""


@dataclass(frozen=True)
class Job:
    """Something that is done again and again.

    Attributes:
        name: Its name in records: what, when, and nothing that changes while it stays the same job.
        trigger: When.
        work: Does it; returns what came of it, in a few words. ``NothingToDo`` says why it was skipped.
        about: What it is about at present, for people.
        starts_at_once: Whether it is due when it was never done, or waits for its first time.
        is_wanted: Tells whether something waits for it that is not there yet, so that it is due whatever the time.
    """

    name: str
    trigger: Trigger
    work: Callable[[], str]
    about: str = ""
    starts_at_once: bool = True
    is_wanted: Callable[[], bool] = _never


def jobs_of(store: FeatureStore) -> tuple[Job, ...]:
    """Return what is to be done: refreshes as views declare them, audits and housekeeping as the configuration says.

    Raises:
        ConfigError: A trigger is unreadable, a job is there twice, or a job or policy names what is not applied.
    """
    check_policies(store.config, {plan.name: plan for plan in store.services()})
    found: dict[str, Job] = {}
    for job in (*_refreshes(store), *_audits(store), *_drifts(store), *_housekeeping(store)):
        if job.name in found:
            raise ConfigError(f"'{job.name}' is there twice", where="schedule", code="duplicate-job")
        found[job.name] = job
    return tuple(found.values())


def _refreshes(store: FeatureStore) -> Iterator[Job]:
    """Views that are refreshed alike are one job."""
    groups: dict[tuple[int, int], list[ViewPlan]] = {}
    often = store.config.schedule.refresh
    continuous = None if often == NEVER else (duration_us(often), 0)
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
            _refreshing(store, names),
            about=", ".join(names),
            is_wanted=_has_new(store, views),
        )


def _refreshing(store: FeatureStore, names: list[str]) -> Callable[[], str]:
    def work() -> str:
        runs = store.materialize(views=names, wait_seconds=60)
        return f"{sum(run.events for run in runs)} events, {sum(run.entities for run in runs)} states"

    return work


def _has_new(store: FeatureStore, views: Sequence[ViewPlan]) -> Callable[[], bool]:
    """Return what tells whether a view was never materialized as it answers, or as it is applied.

    Which it is that answers may be known later than what is applied, or sooner.
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
            _auditing(store, alerts, name, audit),
            about=audit.service,
            starts_at_once=is_grid,
        )


def _auditing(store: FeatureStore, alerts: Alerts, name: str, audit: AuditJobConfig) -> Callable[[], str]:
    def work() -> str:
        report = store.audit(audit.service, since=audit.since, sample=audit.sample)
        return _told(report.verdict, alerts.tell(news_of_audit(report, name)))

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
            _comparing(store, alerts, name, drift),
            about=drift.service,
            starts_at_once=is_grid,
        )


def _comparing(store: FeatureStore, alerts: Alerts, name: str, drift: DriftJobConfig) -> Callable[[], str]:
    def work() -> str:
        report = store.drift(
            drift.service,
            reference=read_reference(drift.reference, store.config.folder),
            current=(drift.since, None),
            recompute=drift.recompute,
        )
        return _told(report.verdict, alerts.tell(news_of_drift(report, name)))

    return work


def _told(verdict: str, told: str) -> str:
    return f"{verdict}, alert {told}" if told == UNDELIVERED else verdict


def _check_service(service: str, known: Mapping[str, Plan], where: str) -> None:
    if service not in known:
        raise unknown_service(service, known).error(ConfigError, where)


def _timed(what: str, every: str | None, cron: str | None, options: str, where: str) -> tuple[str, Trigger, bool]:
    """Return the name of a job and when it is done, and whether that is on a grid.

    Raises:
        ConfigError: What crontab says is unreadable, or never comes.
    """
    if cron is None:
        assert every is not None, "a job has one trigger"
        return f"{what} every {every} {options}", GridTrigger(duration_us(every)), True
    try:
        trigger = read_crontab(cron)
        if trigger.get_next_fire_time(None, to_datetime(0)) is None:
            raise ValueError("there is no such day")
    except ValueError as error:
        raise ConfigError(f"'{cron}': {error}", where=f"{where}.cron", code="cron") from None
    return f"{what} cron '{cron}' {options}", trigger, False


def _housekeeping(store: FeatureStore) -> Iterator[Job]:
    """Move old pushed events to files, and remove online state that no plan needs."""
    schedule = store.config.schedule
    if schedule.compact is not None and schedule.compact != NEVER and store.takes_pushes:
        every_us = duration_us(schedule.compact)
        yield Job("compact", _spread(store, "compact", GridTrigger(every_us)), _compacting(store, every_us))
    if schedule.gc != NEVER:
        trigger = GridTrigger(duration_us(schedule.gc))
        yield Job("gc", _spread(store, "gc", trigger), _removing(store), starts_at_once=False)


def _compacting(store: FeatureStore, keep_us: int) -> Callable[[], str]:
    def work() -> str:
        try:
            moved = store.compact(before=to_datetime(store.clock.now_us() - keep_us))
        except ConfigError as error:
            if error.code != "data-not-shared":
                raise
            raise NothingToDo(f"{error.problem}. {error.hint}") from None
        return f"{sum(moved.values())} events moved to files"

    return work


def _removing(store: FeatureStore) -> Callable[[], str]:
    def work() -> str:
        removed = store.gc(keep=store.config.schedule.keep_plans)
        busy = sum(one.is_busy for one in removed)
        left = f", {busy} plans left for the next time: runs are at work on them" if busy else ""
        return f"{sum(one.count for one in removed)} states removed{left}"

    return work


def _spread(store: FeatureStore, name: str, trigger: Trigger) -> Trigger:
    """Return a trigger that is later by what is always the same for one job of one store: not all begin at once."""
    most = duration_us(store.config.schedule.jitter)
    return LaterTrigger(trigger, crc32(f"{store.config.registry} {name}".encode()) % most) if most else trigger
