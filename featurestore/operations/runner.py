"""Doing jobs when they are due, and taking down what came of them: once for a crontab, or for as long as one leads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobEvent
from apscheduler.schedulers.background import BackgroundScheduler

from featurestore.core.errors import ConfigError, FeatureStoreError, RegistryError
from featurestore.core.temporal import instant_us, to_datetime
from featurestore.guard.alerts import Alerts, news_of_job
from featurestore.operations.jobs import Job, NothingToDo, jobs_of
from featurestore.registry import DONE, FAILED, MISSED, PLANNED, REMOVED, SKIPPED, JobRecord
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from featurestore.storage import Hold

_LOGGER = logging.getLogger("featurestore.operations")
_LOCK = "schedule"
_SCHEDULE = "schedule"
"""Name under which it is taken down whether the jobs themselves can be told."""

_STAND_BY_SECONDS = 2.0
_CHECK_SECONDS = 2.0
_PASSING = ("busy", "lease-lost", "registry-unavailable")
"""Codes of what keeps a process from leading and passes by itself."""

_MOST_MISSED = 1_000

Told = Callable[[JobRecord], None]


class Runner:
    """Does jobs and takes down what came of them.

    Attributes:
        jobs: What is to be done, by the definitions and the configuration as they were last seen.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._alerts = Alerts(store.config.alerts, store.registry, store.clock)
        self._problem = ""
        self.jobs = jobs_of(store)

    def last(self, job: Job) -> JobRecord | None:
        """Return the newest record of a job that was done, or failed."""
        return self._store.registry.last_job(job.name, besides=(MISSED, PLANNED, REMOVED))

    def is_due(self, job: Job) -> bool:
        """Tell whether a job fell due since it ran last, or is wanted whatever the time."""
        last, now = self._store.registry.last_job(job.name, besides=(MISSED, REMOVED)), self._now()
        if last is None:
            return job.starts_at_once
        due = job.trigger.get_next_fire_time(None, to_datetime(last.started_at_us + 1))
        return (due is not None and due <= now) or job.is_wanted()

    def next_time(self, job: Job) -> datetime | None:
        """Return when a job is done next; ``None`` if it never is."""
        now = self._now()
        return now if self.is_due(job) else job.trigger.get_next_fire_time(None, now)

    def run_due(self) -> tuple[JobRecord, ...]:
        """Do every job that is due, once; a job that fails does not keep the others from being done."""
        self._store.note_data_folder()
        self._note_removed()
        for job in self.jobs:
            self._note_new(job)
        return tuple(self.do(job) for job in self.jobs if self.is_due(job))

    def do(self, job: Job) -> JobRecord:
        """Do a job now; whatever goes wrong is taken down, and told to people the first time."""
        began_us = self._store.clock.now_us()
        try:
            outcome, said = DONE, job.work()
        except NothingToDo as reason:
            outcome, said = SKIPPED, str(reason)
        except FeatureStoreError as error:
            outcome, said = FAILED, str(error)
        except Exception as error:  # the edge of the program: whatever it is, the other jobs are done
            _LOGGER.exception("%s", job.name)
            outcome, said = FAILED, f"{type(error).__name__}: {error}"
        return self._keep(JobRecord(job.name, began_us, self._store.clock.now_us(), outcome, said))

    def run(
        self, stop: threading.Event, told: Told = lambda _: None, said: Callable[[str], None] = _LOGGER.info
    ) -> None:
        """Lead or stand by until told to stop; a job that is under way then is done to its end.

        Who loses the lock, or cannot reach the registry, stands by until it can lead again.

        Args:
            stop: Set from another thread or a signal to end.
            told: Is told every record, from several threads.
            said: Is told whether this process leads or why it does not, when that changes.

        Raises:
            FeatureStoreError: It can never lead.
        """
        before = ""
        while not stop.is_set():
            try:
                with self._store.exclusive(_LOCK) as hold:
                    said("leading")
                    before = ""
                    self._lead(hold, stop, told)
            except FeatureStoreError as error:
                if error.code not in _PASSING:
                    raise
                if error.code != before:
                    said(f"standing by: {error.problem}")
                before = error.code
                stop.wait(_STAND_BY_SECONDS)

    def _lead(self, hold: Hold, stop: threading.Event, told: Told) -> None:
        """Do jobs when they are due for as long as the lock is held; follow what is applied meanwhile."""
        self._store.note_data_folder()
        scheduler = BackgroundScheduler(timezone=UTC)
        scheduler.add_listener(lambda event: self._note_running(event, told), EVENT_JOB_MAX_INSTANCES)
        self._look_again(told)
        self._note_removed()
        for job in self.jobs:
            self._schedule(scheduler, job, hold, told)
        scheduler.start()
        try:
            while hold.is_held() and not stop.wait(_CHECK_SECONDS):
                self._follow(scheduler, hold, told)
        finally:
            scheduler.shutdown(wait=True)

    def _follow(self, scheduler: Any, hold: Hold, told: Told) -> None:
        """Do from now on what is to be done by the present definitions."""
        before = {job.name: job for job in self.jobs}
        self._look_again(told)
        for name in before.keys() - {job.name for job in self.jobs}:
            scheduler.remove_job(name)
            self._note(name, REMOVED, "it is not to be done any more")
        for job in self.jobs:
            if job.name not in before or job.about != before[job.name].about:
                self._schedule(scheduler, job, hold, told)

    def _look_again(self, told: Told) -> None:
        """Find out what is to be done; if that cannot be told, it is what it was, and people hear of it."""
        problem = ""
        try:
            self.jobs = jobs_of(self._store)
        except ConfigError as error:
            problem = str(error)
        except FeatureStoreError as error:  # the next time may succeed
            _LOGGER.info("what is to be done cannot be told: %s", error)
            return
        if problem != self._problem:
            self._problem = problem
            now_us = self._store.clock.now_us()
            said = problem or f"{len(self.jobs)} jobs"
            told(self._keep(JobRecord(_SCHEDULE, now_us, now_us, FAILED if problem else DONE, said)))

    def _schedule(self, scheduler: Any, job: Job, hold: Hold, told: Told) -> None:
        self._note_new(job)
        options = {"next_run_time": self._now()} if self.is_due(job) else {}

        def work() -> None:
            if hold.is_held():
                self._note_missed(job, told)
                told(self.do(job))

        scheduler.add_job(
            work,
            job.trigger,
            id=job.name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            replace_existing=True,
            **options,
        )

    def _note_new(self, job: Job) -> None:
        """Take down when a job was first seen that waits for its first time: what is due counts from there."""
        if not job.starts_at_once and self._store.registry.last_job(job.name, besides=(MISSED, REMOVED)) is None:
            self._note(job.name, PLANNED, "it waits for its first time")

    def _note_removed(self) -> None:
        """Take down which jobs are not to be done any more, so that what they did last is no news for ever."""
        names = {_SCHEDULE, *(job.name for job in self.jobs)}
        for record in self._store.registry.last_jobs(besides=MISSED):
            if record.name not in names and record.outcome != REMOVED:
                self._note(record.name, REMOVED, "it is not to be done any more")

    def _note_running(self, event: JobEvent, told: Told) -> None:
        told(self._note(event.job_id, MISSED, "it was still under way"))

    def _note_missed(self, job: Job, told: Told) -> None:
        """Take down how often a job fell due since its last record, beside the time that is made up for now."""
        records = self._store.registry.jobs(job.name)
        if not records:
            return
        now, missed = self._now(), -1
        due: datetime | None = to_datetime(max(record.started_at_us for record in records))
        while due is not None and missed < _MOST_MISSED:
            due = job.trigger.get_next_fire_time(None, to_datetime(instant_us(due) + 1))
            if due is None or due > now:
                break
            missed += 1
        if missed > 0:
            times = f"{missed:,} times" if missed < _MOST_MISSED else f"{_MOST_MISSED:,} times or more"
            told(self._note(job.name, MISSED, f"{times}: nothing ran"))

    def _note(self, name: str, outcome: str, said: str) -> JobRecord:
        now_us = self._store.clock.now_us()
        record = JobRecord(name, now_us, now_us, outcome, said)
        self._store.registry.add_job(record)
        return record

    def _keep(self, record: JobRecord) -> JobRecord:
        """Take down what came of a job, and tell people if it is news."""
        try:
            self._store.registry.add_job(record)
            self._alerts.tell(news_of_job(record))
        except RegistryError as error:
            _LOGGER.error("%s: %s: %s; it could not be taken down: %s", record.name, record.outcome, record.said, error)
        return record

    def _now(self) -> datetime:
        return to_datetime(self._store.clock.now_us())
