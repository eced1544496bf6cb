"""Keeping declared refreshes and audits going, in one process, or job by job.

What is due follows from the registry's records of what ran, so nothing is lost when the process ends: started again, it
first does what fell due meanwhile, once. Of several processes one leads, by a lock in the online store; the others
stand by and take over when it ends or dies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from featurestore.alerting import UNDELIVERED, Alerts
from featurestore.errors import ConfigError, FeatureStoreError
from featurestore.registry import JobRecord
from featurestore.store import FeatureStore
from featurestore.temporal import duration_us, format_duration, instant_us, to_datetime

try:
    from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobEvent
    from apscheduler.schedulers.background import BackgroundScheduler
    from apscheduler.triggers.base import BaseTrigger
    from apscheduler.triggers.cron import CronTrigger
except ModuleNotFoundError:  # pragma: no cover - the tests' environment has it
    raise ConfigError(
        "APScheduler is not installed",
        where="schedule",
        hint="pip install 'featurestore[schedule]'",
        code="missing-extra",
    ) from None

DONE = "done"
FAILED = "failed"
MISSED = "missed"

_LOCK = "schedule"
_STAND_BY_SECONDS = 2.0


class GridTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires ``lag`` after every multiple of ``period`` since the Unix epoch, as refreshes are declared."""

    def __init__(self, period_us: int, lag_us: int = 0) -> None:
        self.period_us = period_us
        self.lag_us = lag_us

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first instant after the last one, and not before now."""
        after_us = instant_us(now) - 1 if previous_fire_time is None else instant_us(previous_fire_time)
        after_us = max(after_us, instant_us(now) - 1)
        return to_datetime(((after_us - self.lag_us) // self.period_us + 1) * self.period_us + self.lag_us)

    def __str__(self) -> str:
        lag = f", {format_duration(self.lag_us)} after" if self.lag_us else ""
        return f"every {format_duration(self.period_us)}{lag}"


@dataclass(frozen=True)
class Job:
    """Something that is done again and again.

    Attributes:
        name: Its name, in records.
        trigger: When.
        work: Does it; returns what came of it, in a few words.
    """

    name: str
    trigger: Any
    work: Callable[[], str]


def jobs_of(store: FeatureStore) -> tuple[Job, ...]:
    """Return what is to be done: refreshes as views declare them, audits and housekeeping as the configuration says.

    Raises:
        ConfigError: A trigger is unreadable, or an audit names no service.
    """
    return (*_refreshes(store), *_audits(store), *_housekeeping(store))


def _refreshes(store: FeatureStore) -> Iterator[Job]:
    """Views that are refreshed alike are one job."""
    groups: dict[tuple[int, int], list[str]] = {}
    continuous = (duration_us(store.config.schedule.refresh), 0)
    for view in store.live_views():
        refresh = view.refresh
        groups.setdefault((refresh.period_us, refresh.lag_us) if refresh.period_us else continuous, []).append(
            view.name
        )
    for (period_us, lag_us), names in sorted(groups.items()):
        trigger = GridTrigger(period_us, lag_us + _spread(store, "refresh"))
        yield Job(f"refresh {trigger}: {', '.join(sorted(names))}"[:200], trigger, _refreshing(store, names))


def _refreshing(store: FeatureStore, names: list[str]) -> Callable[[], str]:
    def work() -> str:
        runs = store.materialize(views=names, wait_seconds=60)
        return f"{sum(run.events for run in runs)} events, {sum(run.entities for run in runs)} states"

    return work


def _audits(store: FeatureStore) -> Iterator[Job]:
    alerts = Alerts(store.config.alerts, store.registry, store.clock)
    known = {plan.name for plan in store.services()}
    for number, audit in enumerate(store.config.audits):
        if audit.service not in known:
            where = f"audits[{number}]"
            raise ConfigError(f"there is no service '{audit.service}'", where=where, code="unknown-service")

        def work(service: str = audit.service, since: str = audit.since, sample: float | None = audit.sample) -> str:
            report = store.audit(service, since=since, sample=sample)
            told = alerts.tell(report)
            return report.verdict + (f", alert {told}" if told == UNDELIVERED else "")

        if audit.cron is not None:
            try:
                trigger: Any = CronTrigger.from_crontab(audit.cron, timezone=UTC)
            except ValueError as error:
                raise ConfigError(f"'{audit.cron}': {error}", where=f"audits[{number}].cron", code="cron") from None
        else:
            trigger = GridTrigger(duration_us(audit.every or "1h"), _spread(store, f"audit {audit.service}"))
        yield Job(f"audit {audit.service} since {audit.since}", trigger, work)


def _housekeeping(store: FeatureStore) -> Iterator[Job]:
    """Move old pushed events to files."""
    keep = store.config.schedule.compact
    if keep is not None and store.takes_pushes:

        def work() -> str:
            before = to_datetime(store.clock.now_us() - duration_us(keep))
            return f"{sum(store.compact(before=before).values())} events moved to files"

        yield Job("compact", GridTrigger(duration_us(keep), _spread(store, "compact")), work)


def _spread(store: FeatureStore, name: str) -> int:
    """Return how much later than its grid a job begins: always the same, so that not all begin at once."""
    most = duration_us(store.config.schedule.jitter)
    return crc32(name.encode()) % most if most else 0


class Runner:
    """Does jobs and takes down what came of them."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self.jobs = jobs_of(store)

    def last(self, job: Job) -> JobRecord | None:
        """Return the newest record of a job that was not missed."""
        return next((record for record in self._store.registry.jobs(job.name) if record.outcome != MISSED), None)

    def is_due(self, job: Job) -> bool:
        """Tell whether a job fell due since it ran last."""
        last, now = self.last(job), to_datetime(self._store.clock.now_us())
        return last is None or job.trigger.get_next_fire_time(None, to_datetime(last.started_at_us + 1)) <= now

    def next_time(self, job: Job) -> datetime:
        """Return when a job is done next."""
        now = to_datetime(self._store.clock.now_us())
        found: datetime = now if self.is_due(job) else job.trigger.get_next_fire_time(None, now)
        return found

    def run_due(self) -> tuple[JobRecord, ...]:
        """Do every job that is due, once; a job that fails does not keep the others from being done."""
        return tuple(self.do(job) for job in self.jobs if self.is_due(job))

    def do(self, job: Job) -> JobRecord:
        """Do a job now."""
        began_us = self._store.clock.now_us()
        try:
            outcome, said = DONE, job.work()
        except FeatureStoreError as error:
            outcome, said = FAILED, str(error)
        record = JobRecord(job.name, began_us, self._store.clock.now_us(), outcome, said)
        self._store.registry.add_job(record)
        return record

    def run(self, stop: threading.Event, told: Callable[[JobRecord], None] = lambda _: None) -> None:
        """Lead or stand by until told to stop; a job that is under way then is done to its end.

        Args:
            stop: Set from another thread or a signal to end.
            told: Is told every record, from several threads.
        """
        while not stop.is_set():
            try:
                with self._store.exclusive(_LOCK):
                    self._lead(stop, told)
            except FeatureStoreError as error:
                if error.code != "busy":
                    raise
                stop.wait(_STAND_BY_SECONDS)

    def _lead(self, stop: threading.Event, told: Callable[[JobRecord], None]) -> None:
        scheduler = BackgroundScheduler(timezone=UTC)
        for job in self.jobs:
            now = to_datetime(self._store.clock.now_us()) if self.is_due(job) else None
            options = {} if now is None else {"next_run_time": now}
            scheduler.add_job(
                lambda job=job: told(self.do(job)),
                job.trigger,
                id=job.name,
                coalesce=True,
                max_instances=1,
                misfire_grace_time=None,
                **options,
            )

        def missed(event: JobEvent) -> None:
            now_us = self._store.clock.now_us()
            record = JobRecord(event.job_id, now_us, now_us, MISSED, "it was still under way")
            self._store.registry.add_job(record)
            told(record)

        scheduler.add_listener(missed, EVENT_JOB_MAX_INSTANCES)
        scheduler.start()
        stop.wait()
        scheduler.shutdown(wait=True)
