"""Running jobs when they are due and recording their outcomes: once, or for as long as this process leads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from featurestore.core.errors import ConfigError, FeatureStoreError, RegistryError
from featurestore.guard.alerts import Alerts, news_of_job
from featurestore.operations.jobs import Job, NothingToDo, jobs_of
from featurestore.registry import DONE, FAILED, MISSED, PLANNED, REMOVED, SKIPPED, JobRecord
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from featurestore.storage import Hold

_LOGGER = logging.getLogger("featurestore.operations")
_LOCK = "schedule"
_SCHEDULE = "schedule"
"""Name of the record of whether the list of jobs could be read."""

_STAND_BY_SECONDS = 2.0
_CHECK_SECONDS = 2.0
"""How often the leader looks whether it still holds the lock, and whether definitions were applied."""

_PASSING = ("busy", "lease-lost", "registry-unavailable")
"""Codes of errors that keep a process from leading for a while only."""

_MOST_AT_ONCE = 10
"""How many jobs run at the same time; others that are due wait."""

_MOST_MISSED = 1_000

Report = Callable[[JobRecord], None]


class Runner:
    """Runs jobs and records their outcomes.

    Attributes:
        jobs: The jobs of the definitions and the configuration as they were last read.
    """

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._alerts = Alerts(store.config.alerts, store.registry, store.clock)
        self._problem = ""
        self.jobs = jobs_of(store)

    def last(self, job: Job) -> JobRecord | None:
        """Return the newest record of a job that ran, with whatever outcome."""
        return self._store.registry.last_job(job.name, besides=(MISSED, PLANNED, REMOVED))

    def is_due(self, job: Job) -> bool:
        """Whether a job fell due since its last record, or is wanted whatever the time."""
        last, now_us = self._store.registry.last_job(job.name, besides=(MISSED, REMOVED)), self._store.clock.now_us()
        if last is None:
            return job.starts_at_once
        due_us = job.trigger.next_us(last.started_at_us + 1)
        return (due_us is not None and due_us <= now_us) or job.is_wanted()

    def next_us(self, job: Job) -> int | None:
        """Return when a job runs next; ``None`` if it never does."""
        now_us = self._store.clock.now_us()
        return now_us if self.is_due(job) else job.trigger.next_us(now_us)

    def run_due(self) -> tuple[JobRecord, ...]:
        """Run every job that is due, once. A job that fails does not keep the others from running."""
        self._store.note_data_folder()
        self._note_removed()
        for job in self.jobs:
            self._note_new(job)
        return tuple(self.do(job) for job in self.jobs if self.is_due(job))

    def do(self, job: Job) -> JobRecord:
        """Run a job now and record its outcome; a failure is alerted the first time."""
        began_us = self._store.clock.now_us()
        try:
            outcome, said = DONE, job.work()
        except NothingToDo as reason:
            outcome, said = SKIPPED, str(reason)
        except FeatureStoreError as error:
            outcome, said = FAILED, str(error)
        except Exception as error:  # the edge of the program: other jobs run whatever fails here
            _LOGGER.exception("%s", job.name)
            outcome, said = FAILED, f"{type(error).__name__}: {error}"
        return self._keep(JobRecord(job.name, began_us, self._store.clock.now_us(), outcome, said))

    def run(
        self,
        stop: threading.Event,
        report: Report = lambda _: None,
        report_lead: Callable[[str], None] = _LOGGER.info,
    ) -> None:
        """Lead or stand by until stopped; jobs that are running then are completed.

        A process that loses the lock, or cannot reach the registry, stands by until it can lead again.

        Args:
            stop: Set from another thread or a signal handler to end.
            report: Called with every record, from several threads.
            report_lead: Called with whether this process leads, or why it does not, when that changes.

        Raises:
            FeatureStoreError: The process cannot lead, and waiting does not help.
        """
        before = ""
        while not stop.is_set():
            try:
                with self._store.exclusive(_LOCK) as hold:
                    report_lead("leading")
                    before = ""
                    self._lead(hold, stop, report)
            except FeatureStoreError as error:
                if error.code not in _PASSING:
                    raise
                if error.code != before:
                    report_lead(f"standing by: {error.problem}")
                before = error.code
                stop.wait(_STAND_BY_SECONDS)

    def _lead(self, hold: Hold, stop: threading.Event, report: Report) -> None:
        """Run jobs when they are due for as long as the lock is held; follow what is applied meanwhile."""
        self._store.note_data_folder()
        self._read_jobs(report)
        self._note_removed()
        schedule = {job.name: self._scheduled(job) for job in self.jobs}
        with ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="schedule") as pool:
            while hold.is_held() and not stop.is_set():
                for entry in schedule.values():
                    self._begin_if_due(entry, pool, hold, report)
                if not stop.wait(self._seconds_until_next(schedule)) and hold.is_held():
                    self._follow(schedule, report)

    def _follow(self, schedule: dict[str, _Scheduled], report: Report) -> None:
        """Bring the schedule up to date with the present definitions."""
        self._read_jobs(report)
        for name in schedule.keys() - {job.name for job in self.jobs}:
            del schedule[name]
            self._note(name, REMOVED, "it is no longer scheduled")
        for job in self.jobs:
            known = schedule.get(job.name)
            if known is None or job.about != known.job.about:
                schedule[job.name] = self._scheduled(job, known)

    def _read_jobs(self, report: Report) -> None:
        """Read which jobs there are; if that fails, the jobs stay as they were and the failure is recorded."""
        problem = ""
        try:
            self.jobs = jobs_of(self._store)
        except ConfigError as error:
            problem = str(error)
        except FeatureStoreError as error:  # the next time may succeed
            _LOGGER.info("the list of jobs cannot be read: %s", error)
            return
        if problem != self._problem:
            self._problem = problem
            now_us = self._store.clock.now_us()
            said = problem or f"{len(self.jobs)} jobs"
            report(self._keep(JobRecord(_SCHEDULE, now_us, now_us, FAILED if problem else DONE, said)))

    def _scheduled(self, job: Job, before: _Scheduled | None = None) -> _Scheduled:
        """Return the entry of a job, which may be running already as it was defined before."""
        self._note_new(job)
        return _Scheduled(job, self.next_us(job), None if before is None else before.running)

    def _begin_if_due(self, entry: _Scheduled, pool: ThreadPoolExecutor, hold: Hold, report: Report) -> None:
        """Begin a job that is due, unless its last run is not over: then this time is recorded as missed."""
        now_us = self._store.clock.now_us()
        if entry.due_us is None or entry.due_us > now_us:
            return
        entry.due_us = entry.job.trigger.next_us(now_us + 1)
        if entry.running is None or entry.running.done():
            entry.running = pool.submit(self._run_job, entry.job, hold, report)
        else:
            record = JobRecord(entry.job.name, now_us, now_us, MISSED, "it was still running")
            self._record(record)
            report(record)

    def _run_job(self, job: Job, hold: Hold, report: Report) -> None:
        """Run a job in a thread of the pool, unless the lock was lost meanwhile."""
        try:
            if hold.is_held():
                self._note_missed(job, report)
                report(self.do(job))
        except Exception:  # the edge of a thread
            _LOGGER.exception("%s", job.name)

    def _seconds_until_next(self, schedule: dict[str, _Scheduled]) -> float:
        """Return how long to wait before the schedule is looked at again."""
        now_us = self._store.clock.now_us()
        waits = [(entry.due_us - now_us) / 1e6 for entry in schedule.values() if entry.due_us is not None]
        return max(0.0, min([_CHECK_SECONDS, *waits]))

    def _note_new(self, job: Job) -> None:
        """Record when a job that waits for its first time was first seen: it falls due counted from there."""
        if not job.starts_at_once and self._store.registry.last_job(job.name, besides=(MISSED, REMOVED)) is None:
            self._note(job.name, PLANNED, "it waits for its first time")

    def _note_removed(self) -> None:
        """Record which jobs are no longer scheduled, so that their last outcome is not reported for ever."""
        names = {_SCHEDULE, *(job.name for job in self.jobs)}
        for record in self._store.registry.last_jobs(besides=MISSED):
            if record.name not in names and record.outcome != REMOVED:
                self._note(record.name, REMOVED, "it is no longer scheduled")

    def _note_missed(self, job: Job, report: Report) -> None:
        """Record how often a job fell due since its last record, beside the time that is made up for now."""
        records = self._store.registry.jobs(job.name)
        if not records:
            return
        now_us, missed = self._store.clock.now_us(), -1
        due_us: int | None = max(record.started_at_us for record in records)
        while due_us is not None and missed < _MOST_MISSED:
            due_us = job.trigger.next_us(due_us + 1)
            if due_us is None or due_us > now_us:
                break
            missed += 1
        if missed > 0:
            times = f"{missed:,} times" if missed < _MOST_MISSED else f"{_MOST_MISSED:,} times or more"
            report(self._note(job.name, MISSED, f"{times}: no process ran"))

    def _note(self, name: str, outcome: str, said: str) -> JobRecord:
        now_us = self._store.clock.now_us()
        record = JobRecord(name, now_us, now_us, outcome, said)
        self._store.registry.add_job(record)
        return record

    def _keep(self, record: JobRecord) -> JobRecord:
        """Record the outcome of a job and alert people if it is news; return the record."""
        if self._record(record):
            try:
                self._alerts.send(news_of_job(record))
            except RegistryError as error:
                _LOGGER.error("%s: %s: the alert could not be recorded: %s", record.name, record.outcome, error)
        return record

    def _record(self, record: JobRecord) -> bool:
        """Store a record; a failure of the registry is only logged, and makes the result false."""
        try:
            self._store.registry.add_job(record)
        except RegistryError as error:
            _LOGGER.error("%s: %s: %s; it could not be recorded: %s", record.name, record.outcome, record.said, error)
            return False
        return True


@dataclass
class _Scheduled:
    """A job of the leader.

    Attributes:
        job: The job.
        due_us: When it runs next; ``None`` if never.
        running: Its last run, which may be over.
    """

    job: Job
    due_us: int | None
    running: Future[None] | None
