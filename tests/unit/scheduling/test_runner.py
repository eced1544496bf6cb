"""Jobs follow from definitions, configuration and records; whatever becomes of one, the others are done."""

import logging
from dataclasses import replace

import pytest

from featurestore import FeatureService, FeatureView, FileSource, agg, col
from featurestore.core.errors import ConfigError
from featurestore.core.temporal import duration_us, format_instant, instant_us
from featurestore.operations import Runner
from featurestore.registry import JobRecord
from tests.server.conftest import NOW, USER

CLICKS = {"user": "int64", "at": "timestamp"}
HOUR, MINUTE = duration_us("1h"), duration_us("1m")
AUDIT = {"service": "model", "every": "6h", "since": "48h"}
FRESH, HOURLY, AUDITED = "refresh every 1m", "refresh every 1h lag 10m", "audit model every 6h since 48h"


def names(records):
    return [record.name for record in records]


def outcomes(store, name):
    return [record.outcome for record in store.registry.jobs(name)]


def test_what_is_due_follows_from_what_ran(opened, clock):
    runner = Runner(opened(audits=[AUDIT]))
    assert [(job.name, job.about) for job in runner.jobs] == [(FRESH, "fresh"), (HOURLY, "hourly"), (AUDITED, "model")]
    first = runner.run_due()
    assert names(first) == [FRESH, HOURLY, AUDITED]
    assert [record.outcome for record in first] == ["done"] * 3
    assert runner.run_due() == ()
    clock.instant_us += MINUTE
    assert names(runner.run_due()) == [FRESH]
    # The refresh of the last full hour is promised at ten minutes past.
    clock.instant_us = instant_us(NOW) + 10 * MINUTE
    assert names(runner.run_due()) == [FRESH, HOURLY]
    clock.instant_us = instant_us(NOW) + 6 * HOUR
    # Another process, later, sees the same.
    assert names(Runner(opened(audits=[AUDIT])).run_due()) == [FRESH, HOURLY, AUDITED]
    assert runner.run_due() == ()


def test_a_job_that_fails_is_taken_down_and_keeps_no_other_from_being_done(opened, tmp_path):
    store = opened(audits=[AUDIT])
    (tmp_path / "orders.parquet").unlink()
    records = Runner(store).run_due()
    assert [record.outcome for record in records] == ["failed", "failed", "done"]
    assert "orders.parquet" in records[0].said


def test_what_nobody_expected_is_taken_down_too_with_its_trace(opened, caplog):
    runner = Runner(opened(audits=[AUDIT]))
    broken = replace(runner.jobs[0], work=lambda: str(1 // 0))
    runner.jobs = (broken, *runner.jobs[1:])
    with caplog.at_level(logging.ERROR, "featurestore.operations"):
        records = runner.run_due()
    assert [record.outcome for record in records] == ["failed", "done", "done"]
    assert records[0].said.startswith("ZeroDivisionError: ")
    assert "Traceback" in caplog.text


def test_a_view_that_was_never_filled_is_not_made_to_wait(opened, clock, defined):
    """A job keeps its name, and so its records, when its views change."""
    store = opened()
    Runner(store).run_due()
    hourly = defined[0]
    another = FeatureView(
        "another", entity=hourly.entity, source=hourly.source, features=hourly.features, refresh=hourly.refresh
    )
    store.apply(FeatureService("model", features=[*defined, another]))
    runner = Runner(store)
    assert [(job.name, job.about) for job in runner.jobs][1] == (HOURLY, "another, hourly")
    assert names(runner.run_due()) == [HOURLY]
    assert runner.run_due() == ()


def test_what_is_turned_off_is_no_job(opened):
    """Views on a grid are refreshed all the same: they promise it."""
    runner = Runner(opened(schedule={"refresh": "never", "compact": "never", "gc": "never"}))
    assert [job.name for job in runner.jobs] == [HOURLY]


def test_state_that_no_plan_needs_is_removed_a_day_after_the_job_was_first_seen(opened, clock, defined):
    store = opened(schedule={"gc": "1d"})
    runner = Runner(store)
    for hours in (2, 3, 4):
        fresh = replace(defined[1], features={"total": agg.sum(col("amount")).over(f"{hours}h")})
        store.apply(FeatureService("model", features=[fresh]))
        store.materialize()
    runner.run_due()
    assert outcomes(store, "gc") == ["planned"]
    clock.instant_us += 24 * HOUR
    (record,) = [record for record in runner.run_due() if record.name == "gc"]
    assert (record.outcome, "states removed" in record.said) == ("done", True)
    assert store.status()[0].previous is not None, "one plan is kept to roll back to"
    assert store.gc(dry_run=True) == ()


def test_a_log_that_may_not_be_compacted_is_explained_and_is_no_failure(opened, clock, tmp_path, postgres_database):
    """The events stay where every machine reads them; nobody is alerted every day."""
    told = tmp_path / "told"
    store = opened(
        event_log=postgres_database,
        alerts={"command": ["sh", "-c", f"cat >> {told}"]},
        schedule={"compact": "1d", "gc": "never"},
    )
    source = FileSource("clicks", path=tmp_path / "clicks/*.parquet", event_time="at", stream=True, dtypes=CLICKS)
    view = FeatureView("clicked", entity=USER, source=source, features={"n": agg.count().lifetime()})
    store.apply(FeatureService("clicking", features=[view]))
    store.push("clicks", [{"user": 1, "at": NOW}])
    clock.instant_us += 48 * HOUR
    (record,) = [record for record in Runner(store).run_due() if record.name == "compact"]
    assert record.outcome == "skipped"
    assert "data_is_shared = true" in record.said
    assert not told.exists()
    # Events become known by the database's clock, which is ahead of the test's.
    later = store.get_online_features("clicking", [{"user": 1}], as_of="2100-01-01T00:00:00Z")
    assert later.to_dicts()[0]["clicked__n"] == 1


def test_a_job_of_crontab_waits_for_its_first_time(opened, clock):
    """Also where nothing but a crontab runs what is due."""
    audit = {"service": "model", "cron": "0 14 * * *", "since": "48h"}
    name = "audit model cron '0 14 * * *' since 48h"
    store = opened(audits=[audit])
    assert name not in names(Runner(store).run_due())
    runner = Runner(store)
    cron = runner.jobs[-1]
    assert runner.last(cron) is None
    due_us = runner.next_us(cron)
    assert format_instant(due_us)[10:] == "T14:00:00Z"
    clock.instant_us = due_us
    assert name in names(runner.run_due())
    assert outcomes(store, name) == ["done", "planned"]


def test_jitter_is_another_for_each_job_and_the_same_for_all_time(opened, clock):
    audits = [AUDIT, AUDIT | {"since": "24h"}, {"service": "model", "cron": "0 14 * * *"}]

    def next_times(**settings):
        runner = Runner(opened(audits=audits, **settings))
        return [job.name for job in runner.jobs], [job.trigger.next_us(clock.instant_us) for job in runner.jobs]

    known, plain = next_times()
    same_names, later = next_times(schedule={"jitter": "50s", "gc": "never"})
    assert same_names == known, "what is due counts from the same records"
    delays = [(after - before) % MINUTE for before, after in zip(plain, later, strict=True)]
    assert len(set(delays)) == len(delays), delays
    assert max(delays) < 50_000_000
    assert next_times(schedule={"jitter": "50s", "gc": "never"})[1] == later


def test_two_audits_of_one_service_keep_records_apart(opened, clock):
    """They used to share one: the scheduler crashed, and ``--once`` did one of them only."""
    others = [AUDIT | {"sample": 0.5}, AUDIT | {"every": "3h"}, {"service": "model", "cron": "0 6 * * *"}]
    runner = Runner(opened(audits=[AUDIT, *others]))
    audits = [job.name for job in runner.jobs if job.name.startswith("audit")]
    assert audits == [
        AUDITED,
        "audit model every 6h since 48h sample 0.5",
        "audit model every 3h since 48h",
        "audit model cron '0 6 * * *' since 24h",
    ]
    assert names(runner.run_due()) == [FRESH, HOURLY, *audits[:3]]
    clock.instant_us += 3 * HOUR
    assert audits[2] in names(runner.run_due())


@pytest.mark.parametrize(
    ("audits", "problem"),
    [
        ([{"service": "model"}], "either every or cron"),
        ([{"service": "model", "every": "1h", "cron": "* * * * *"}], "either every or cron"),
        ([{"service": "model", "cron": "often"}], "'often'"),
        ([{"service": "model", "cron": "0 0 31 2 *"}], "no such day"),
        ([{"service": "modle", "every": "1h"}], r"no service 'modle'.*Did you mean 'model'"),
        ([AUDIT, AUDIT], r"'audit model every 6h since 48h' is declared twice"),
    ],
)
def test_audits_that_cannot_be_scheduled_are_refused(opened, audits, problem):
    with pytest.raises((ConfigError, ValueError), match=problem):
        Runner(opened(audits=audits))


def test_policies_about_what_there_is_not_keep_it_from_starting(opened):
    store = opened(policies={"modle": {}})
    with pytest.raises(ConfigError, match=r"no service 'modle'"):
        Runner(store)


def test_what_is_not_to_be_done_any_more_is_taken_down_once(opened):
    store = opened(audits=[AUDIT])
    Runner(store).run_due()
    for _ in range(2):
        Runner(opened()).run_due()
    assert outcomes(store, AUDITED) == ["removed", "done"]
    again = Runner(opened(audits=[AUDIT]))
    assert not again.is_due(again.jobs[-1]), "it ran in this period already"


def test_a_registry_that_fails_costs_the_record_and_not_the_process(opened, caplog, monkeypatch):
    from featurestore.core.errors import RegistryError

    store = opened()
    runner = Runner(store)
    monkeypatch.setattr(store.registry, "add_job", lambda _: (_ for _ in ()).throw(RegistryError("it is away")))
    assert runner.do(runner.jobs[0]).outcome == "done"
    assert "it could not be recorded" in caplog.text


def test_what_fell_due_while_nothing_ran_is_counted(opened, clock):
    store = opened()
    runner = Runner(store)
    runner.run_due()
    fresh = runner.jobs[0]
    clock.instant_us += 7 * MINUTE
    told = []
    runner._note_missed(fresh, told.append)
    assert [(record.outcome, record.said) for record in told] == [("missed", "6 times: no process ran")]
    runner._note_missed(fresh, told.append)
    assert len(told) == 1, "it is said once"
    clock.instant_us += MINUTE
    runner._note_missed(fresh, told.append)
    assert len(told) == 1, "what is made up for now was not missed"
    assert runner.last(fresh).outcome == "done"
    clock.instant_us += 30 * 24 * HOUR
    runner._note_missed(fresh, told.append)
    assert told[-1].said == "1,000 times or more: no process ran"


def test_the_last_time_is_found_behind_many_that_were_missed(opened):
    store = opened()
    runner = Runner(store)
    store.registry.add_job(JobRecord(FRESH, 1, 2, "done", "long ago"))
    for at in range(150):
        store.registry.add_job(JobRecord(FRESH, 3 + at, 3 + at, "missed", ""))
    assert runner.last(runner.jobs[0]).said == "long ago"


def test_people_are_told_that_a_job_fails_and_that_it_is_done_again(opened, clock, tmp_path):
    log = tmp_path / "told"
    store = opened(alerts={"command": ["sh", "-c", f"cat >> {log}; echo >> {log}"]})
    (tmp_path / "orders.parquet").rename(tmp_path / "away.parquet")
    for _ in range(3):
        Runner(store).run_due()
    assert log.read_text().count('"verdict":"failed"') == 2, "once for each of two refreshes"
    (tmp_path / "away.parquet").rename(tmp_path / "orders.parquet")
    clock.instant_us += HOUR
    Runner(store).run_due()
    assert log.read_text().count('"recovered":true') == 2
    assert f"{HOURLY}: done again" in log.read_text()
