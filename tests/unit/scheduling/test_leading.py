"""Of several processes one leads: it follows what is applied, stops when it loses the lock, and outages pass."""

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa

from featurestore import FeatureService, FeatureView
from featurestore.core.errors import StateError
from featurestore.core.temporal import duration_us
from featurestore.operations import Runner, jobs_of
from featurestore.registry.leases import LEASE_SECONDS
from featurestore.registry.tables import LEASES
from tests.servers import postgres_folders, redis_programs, running_postgres, running_redis

MINUTE = duration_us("1m")
FRESH, HOURLY = "refresh every 1m", "refresh every 1h lag 10m"
PATIENCE_SECONDS = 60


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("featurestore.operations.runner._CHECK_SECONDS", 0.1)
    monkeypatch.setattr("featurestore.operations.runner._STAND_BY_SECONDS", 0.1)


class Process:
    """A runner in a thread of its own.

    Attributes:
        records: What it was told of jobs.
        said: Whether it leads, in its own words.
    """

    def __init__(self, store):
        self.store = store
        self.records, self.said = [], []
        self.stop = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            Runner(self.store).run(self.stop, self.records.append, self.said.append)
        except BaseException as error:  # the test looks at it
            self.error = error

    @property
    def is_leading(self):
        return self.said[-1:] == ["leading"]

    def has(self, name, outcome="done"):
        return any((record.name, record.outcome) == (name, outcome) for record in list(self.records))


@contextmanager
def running(*stores):
    processes = [Process(store) for store in stores]
    try:
        yield processes
    finally:
        for process in processes:
            process.stop.set()
        for process in processes:
            if process.thread.ident is not None:
                process.thread.join(PATIENCE_SECONDS)
        assert not any(process.thread.is_alive() for process in processes)


def until(is_so):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_one_leads_and_another_takes_over(opened, clock):
    with running(opened(), opened()) as (first, second):
        first.thread.start()
        until(lambda: first.has(FRESH) and first.has(HOURLY))
        second.thread.start()
        until(lambda: second.said)
        assert second.said == ["standing by: another process holds the lock 'schedule'"]
        first.stop.set()
        first.thread.join(PATIENCE_SECONDS)
        clock.instant_us += MINUTE
        until(lambda: second.has(FRESH))
        assert second.is_leading
    assert (first.error, second.error) == (None, None)


def test_what_is_applied_meanwhile_is_followed(opened, clock, defined):
    """Another process applies: jobs that fall away are recorded as removed, and a new view is filled at once."""
    store = opened()
    with running(store) as (process,):
        process.thread.start()
        until(lambda: process.has(FRESH) and process.has(HOURLY))
        _, fresh = defined
        another = FeatureView("another", entity=fresh.entity, source=fresh.source, features=fresh.features)
        applier = opened()
        applier.apply(FeatureService("model", features=[fresh, another]), another, prune=True)
        clock.instant_us += duration_us("2s")  # the live plans are read again once a second
        until(lambda: [record.outcome for record in store.registry.jobs(HOURLY)][:1] == ["removed"])
        until(lambda: {run.view for run in store.runs()} == {"hourly", "fresh", "another"})
    assert process.error is None


def test_an_apply_after_which_the_jobs_cannot_be_told_is_taken_down_and_got_over(opened, defined):
    audit = {"service": "second", "every": "6h"}
    store = opened()
    store.apply(FeatureService("second", features=defined))
    store.close()
    following = opened(audits=[audit])
    with running(following) as (process,):
        process.thread.start()
        until(lambda: process.has(FRESH))
        following.apply(FeatureService("model", features=defined), prune=True)
        until(lambda: process.has("schedule", "failed"))
        (failed,) = [record for record in process.records if record.outcome == "failed"]
        assert "there is no service 'second'" in failed.said
        following.apply(FeatureService("second", features=defined))
        until(lambda: process.has("schedule", "done"))
        assert not process.has("audit second every 6h since 24h", "removed")
    assert process.error is None


def test_what_fell_due_while_nothing_ran_is_taken_down_when_somebody_leads_again(opened, clock):
    store = opened()
    Runner(store).run_due()
    clock.instant_us += 7 * MINUTE
    with running(store) as (process,):
        process.thread.start()
        until(lambda: process.has(FRESH, "missed") and process.has(FRESH))
        missed = next(record for record in process.records if (record.name, record.outcome) == (FRESH, "missed"))
        assert missed.said == "6 times: no process ran"
    assert process.error is None


@pytest.fixture(params=["sqlite", "postgresql"])
def registry(request, tmp_path):
    """Settings that name a registry."""
    if request.param == "sqlite":
        return {"registry": f"sqlite:///{tmp_path}/registry.db"}
    return {"registry": request.getfixturevalue("postgres_database")}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("featurestore.registry.registry.LEASE_SECONDS", 1.0)


def change(url, statement):
    """Do as somebody would who works on the registry's tables by hand."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        assert connection.execute(statement).rowcount == 1
    engine.dispose()


def test_another_takes_over_at_once_from_one_that_is_stopped(opened, registry):
    """Its lease need not run out."""
    with running(opened(**registry), opened(**registry)) as (first, second):
        first.thread.start()
        until(lambda: first.is_leading)
        second.thread.start()
        until(lambda: second.said)
        assert second.said == ["standing by: another process holds the lock 'schedule'"]
        first.stop.set()
        first.thread.join(PATIENCE_SECONDS)
        begun = time.monotonic()
        until(lambda: second.is_leading)
        assert time.monotonic() - begun < LEASE_SECONDS / 3
    assert (first.error, second.error) == (None, None)


@pytest.mark.usefixtures("short")
def test_a_lease_that_somebody_deleted_ends_leading(opened, registry):
    with running(opened(**registry), opened(**registry)) as (first, second):
        first.thread.start()
        until(lambda: first.is_leading)
        second.thread.start()
        until(lambda: second.said)
        change(registry["registry"], LEASES.delete().where(LEASES.c.name == "schedule"))
        # It may be quick enough to find out, and to take it again, before the other has asked.
        until(lambda: len(first.said) > 1)
        assert "was lost before the work ended" in first.said[1]
        until(lambda: first.is_leading != second.is_leading)
    assert (first.error, second.error) == (None, None)


@pytest.mark.usefixtures("short")
def test_nobody_leads_beside_whoever_stole_the_lease(opened, registry):
    later = datetime.now(UTC) + timedelta(hours=1)
    with running(opened(**registry), opened(**registry)) as (first, second):
        first.thread.start()
        until(lambda: first.is_leading)
        second.thread.start()
        until(lambda: second.said)
        change(registry["registry"], LEASES.update().values(token="somebody", until=later))
        until(lambda: not first.is_leading)
        assert "was lost before the work ended" in first.said[1]
        time.sleep(1.5)
        assert not first.is_leading
        assert not second.is_leading
        change(registry["registry"], LEASES.delete().where(LEASES.c.token == "somebody"))
        until(lambda: first.is_leading != second.is_leading)
    assert (first.error, second.error) == (None, None)


@pytest.fixture
def server():
    folders = postgres_folders()
    assert folders, "install the extra 'dev'"
    with running_postgres(next(iter(folders.values()))) as started:
        yield started


def end_sessions(server):
    with psycopg.connect(server.url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )


@pytest.mark.usefixtures("short")
def test_outages_of_the_registry_end_nobody(opened, server):
    """A session that is ended costs nothing; who cannot renew its lease stops leading when that has run out."""
    with running(opened(registry=server.url), opened(registry=server.url)) as (first, second):
        first.thread.start()
        until(lambda: first.is_leading)
        second.thread.start()
        until(lambda: second.said)
        end_sessions(server)
        time.sleep(1.5)
        assert (first.is_leading, second.is_leading) == (True, False)
        server.stop(signal.SIGINT)
        until(lambda: not first.is_leading)
        assert "was lost before the work ended" in first.said[1]
        time.sleep(0.5)
        assert not second.is_leading
        assert first.thread.is_alive()
        assert second.thread.is_alive()
        server.start_again()
        until(lambda: first.is_leading != second.is_leading)
        with psycopg.connect(server.url) as admin:
            assert admin.execute("SELECT name FROM registry_leases").fetchall() == [("schedule",)]
    assert (first.error, second.error) == (None, None)


@pytest.mark.usefixtures("short")
def test_an_online_store_that_goes_away_costs_nobody_the_lead(opened):
    with running_redis(next(iter(redis_programs().values()))) as online:
        store = opened(online=f"{online.url}?timeout=200ms&connect_timeout=200ms")
        with running(store) as (process,):
            process.thread.start()
            until(lambda: process.has(FRESH) and process.has(HOURLY))
            online.stop()
            time.sleep(1.5)
            assert process.said == ["leading"]
        assert process.error is None


def test_what_does_not_pass_by_itself_ends_it(opened, monkeypatch):
    store = opened()
    process = Process(store)
    monkeypatch.setattr(store, "exclusive", _refuse)
    process.thread.start()
    process.thread.join(PATIENCE_SECONDS)
    assert process.error.code == "damaged"


def _refuse(_name):
    raise StateError("it is damaged", code="damaged")


def test_a_job_that_is_still_running_when_it_falls_due_is_missed_and_holds_up_no_other(opened, clock, monkeypatch):
    store = opened()
    goes_on = threading.Event()
    works = {job.name: job for job in jobs_of(store)}
    slow = replace(works[FRESH], work=lambda: str(goes_on.wait(PATIENCE_SECONDS)))
    monkeypatch.setattr("featurestore.operations.runner.jobs_of", lambda _: (slow, works[HOURLY]))
    with running(store) as (process,):
        process.thread.start()
        until(lambda: process.has(HOURLY))
        clock.instant_us += MINUTE
        until(lambda: process.has(FRESH, "missed"))
        assert [record.said for record in process.records if record.name == FRESH] == ["it was still running"]
        assert store.registry.alerts(FRESH) == (), "a time that is missed is not alerted"
        goes_on.set()
        until(lambda: process.has(FRESH))
        clock.instant_us += MINUTE
        until(lambda: [record.outcome for record in process.records if record.name == FRESH].count("done") == 2)
    assert process.error is None


def test_a_job_that_is_running_when_the_process_is_stopped_is_completed(opened, monkeypatch):
    store = opened()
    begun, goes_on = threading.Event(), threading.Event()
    (fresh, *_) = jobs_of(store)

    def work():
        begun.set()
        return str(goes_on.wait(PATIENCE_SECONDS))

    monkeypatch.setattr("featurestore.operations.runner.jobs_of", lambda _: (replace(fresh, work=work),))
    with running(store) as (process,):
        process.thread.start()
        assert begun.wait(PATIENCE_SECONDS)
        process.stop.set()
        goes_on.set()
        process.thread.join(PATIENCE_SECONDS)
        assert process.has(FRESH)
    assert [record.outcome for record in store.registry.jobs(FRESH)] == ["done"]
