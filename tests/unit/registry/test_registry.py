"""The registry: all of an apply or nothing, what was applied before, and failures by name."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from featurestore.core.errors import RegistryError
from featurestore.core.temporal import NOTHING_YET
from featurestore.registry import (
    FAILED,
    RUNNING,
    AlertRecord,
    AuditRecord,
    CertificateRecord,
    Draft,
    DriftRecord,
    FileRead,
    JobRecord,
    Kind,
    Live,
    LiveChange,
    Outcome,
    Registry,
    RunRecord,
)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/deep/registry.db"


@pytest.fixture
def registry(url):
    with Registry(url) as opened:
        yield opened


def draft(name: str, fingerprint: str = "f1", document: str = "{}", kind: Kind = Kind.VIEW) -> Draft:
    return Draft(kind, name, fingerprint, document)


def outcomes(changes):
    return {change.name: change.outcome.value for change in changes}


def test_an_apply_says_what_it_did_to_each_object(registry):
    registry.apply([draft("kept"), draft("moved"), draft("gone")], now_us=1, prune=True)
    changes = registry.apply([draft("kept"), draft("moved", "f2"), draft("new")], now_us=2, prune=True)
    assert outcomes(changes) == {"gone": "removed", "kept": "unchanged", "moved": "changed", "new": "added"}
    moved = next(change for change in changes if change.name == "moved")
    assert (moved.previous, moved.fingerprint) == ("f1", "f2")
    assert str(moved) == "changed view 'moved' f1 → f2"


def test_without_pruning_nothing_is_removed(registry):
    registry.apply([draft("first")], now_us=1, prune=True)
    assert outcomes(registry.apply([draft("second")], now_us=2, prune=False)) == {"second": "added"}
    assert [item.name for item in registry.objects(Kind.VIEW)] == ["first", "second"]


def test_a_new_document_with_the_old_fingerprint_is_kept(registry):
    registry.apply([draft("view", document="[1]")], now_us=1, prune=True)
    (change,) = registry.apply([draft("view", document="[2]")], now_us=2, prune=True)
    assert change.outcome is Outcome.CHANGED
    assert change.previous == change.fingerprint
    assert registry.find(Kind.VIEW, "view").document == "[2]"


def test_kinds_do_not_share_names(registry):
    registry.apply([draft("same"), draft("same", "f2", kind=Kind.SERVICE)], now_us=1, prune=True)
    assert registry.find(Kind.VIEW, "same").fingerprint == "f1"
    assert registry.find(Kind.SERVICE, "same").fingerprint == "f2"
    assert registry.find(Kind.SOURCE, "same") is None


def test_history_holds_what_was_applied_newest_first(registry):
    for instant, fingerprint in enumerate(["f1", "f2", "f2", "f1"]):
        registry.apply([draft("view", fingerprint)], now_us=instant, prune=True)
    registry.apply([], now_us=9, prune=True)
    assert [item.fingerprint for item in registry.history(Kind.VIEW, "view")] == ["f1", "f2"], "the newest of each"
    assert registry.objects(Kind.VIEW) == ()


def test_revision_grows_with_changes_only(registry):
    before = registry.revision
    registry.apply([draft("view")], now_us=1, prune=True)
    registry.apply([draft("view")], now_us=2, prune=True)
    assert registry.revision == before + 1


def test_what_is_stored_is_there_after_reopening(url):
    with Registry(url) as first:
        first.apply([draft("view")], now_us=7, prune=True)
    with Registry(url) as second:
        (item,) = second.objects(Kind.VIEW)
    assert (item.name, item.fingerprint, item.applied_at_us) == ("view", "f1", 7)


def test_applies_at_once_come_one_after_the_other(url):
    def apply(number: int) -> None:
        with Registry(url) as registry:
            registry.apply([draft(f"view{number}")], now_us=number, prune=False)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(apply, range(12)))
    with Registry(url) as registry:
        assert len(registry.objects(Kind.VIEW)) == 12
        assert registry.revision == 12


def test_a_failing_apply_changes_nothing(registry):
    registry.apply([draft("view")], now_us=1, prune=True)
    with pytest.raises(RegistryError, match="NOT NULL"):
        registry.apply([draft("view", "f2"), draft("broken", None)], now_us=2, prune=True)
    assert [item.fingerprint for item in registry.objects(Kind.VIEW)] == ["f1"]


def test_a_run_that_died_is_seen_by_the_next_of_its_plan(registry):
    began = RunRecord("v", "f", 1, 1, 9, 9, 0, 0, outcome=RUNNING)
    registry.begin_run(began)
    registry.begin_run(replace(began, fingerprint="other"))
    assert [run.outcome for run in registry.runs()] == ["running", "running"]
    number = registry.begin_run(replace(began, started_at_us=5))
    done = RunRecord("v", "f", 5, 6, 0, 9, 10, 2)
    registry.end_run(number, done)
    assert registry.runs()[0] == done
    assert [run.outcome for run in registry.runs()] == ["done", "running", "interrupted"]
    assert registry.runs()[2].problem == "its process ended before it did"
    assert registry.last_run("f") == done


def test_runs_and_audits_are_kept_newest_first(registry):
    runs = [RunRecord(f"v{i}", "f", 1, 2, NOTHING_YET, 3, 10, 5, note="full") for i in range(3)]
    registry.add_runs(runs)
    registry.add_runs([])
    assert registry.runs() == tuple(reversed(runs))
    assert registry.runs("v1") == (runs[1],)
    assert registry.runs(limit=1) == (runs[2],)
    audit = AuditRecord("service", 1, 2, 3, "pass", "{}")
    registry.add_audit(audit)
    assert registry.audits("service") == (audit,)
    assert registry.audits("other") == ()


def test_tables_of_another_version_are_refused(url, tmp_path):
    Registry(url).close()
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        connection.execute("UPDATE registry_meta SET value = 99 WHERE name = 'schema_version'")
    connection.close()
    with pytest.raises(RegistryError, match="version 99, this library reads 7"):
        Registry(url)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "registry.db").write_text("something else entirely, and long enough to be looked at" * 20)
    with pytest.raises(RegistryError, match="not a database"):
        Registry(f"sqlite:///{tmp_path}/registry.db")


@pytest.mark.parametrize("url", ["nonsense", "nosuchdialect://x", "sqlite:////dev/null/registry.db"])
def test_urls_that_cannot_be_used_are_errors(url):
    with pytest.raises(RegistryError, match=r"\[registry-(url|unwritable)\]"):
        Registry(url)


def test_tables_of_the_version_before_are_brought_up_to_this_one(url, tmp_path):
    with Registry(url) as registry:
        registry.add_runs([RunRecord("v", "f", 1, 2, NOTHING_YET, 3, 10, 5)])
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        connection.execute("DROP INDEX registry_runs_by_files")
        for column in ("outcome", "problem", "row_count", "content", "files"):
            connection.execute(f"ALTER TABLE registry_runs DROP COLUMN {column}")
        connection.execute("DROP TABLE registry_files")
        connection.execute("DROP TABLE registry_live")
        connection.execute("UPDATE registry_meta SET value = 1 WHERE name = 'schema_version'")
    connection.close()
    with Registry(url) as registry:
        assert registry.runs() == (RunRecord("v", "f", 1, 2, NOTHING_YET, 3, 10, 5),)
        assert registry.live() == {}
    with Registry(url) as registry:
        assert registry.keep_files([]) == ""


def test_tables_of_version_2_get_those_that_are_new(url, tmp_path):
    with Registry(url) as registry:
        registry.add_runs([RunRecord("v", "f", 1, 2, NOTHING_YET, 3, 10, 5)])
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        connection.execute("DROP TABLE registry_certificates")
        connection.execute("UPDATE registry_meta SET value = 2 WHERE name = 'schema_version'")
    connection.close()
    with Registry(url) as registry:
        registry.add_certificate(CertificateRecord("s", "f", 1, "pass", "{}"))
        registry.add_certificate(CertificateRecord("t", "f", 2, "fail", "{}"))
        assert len(registry.runs()) == 1
    with Registry(url) as registry:
        assert [found.verdict for found in registry.certificates()] == ["fail", "pass"]
        assert [found.id for found in registry.certificates("s")] == [1]


def test_audits_of_version_4_get_the_kind_that_their_reports_say(url, tmp_path):
    audits = [AuditRecord("s", 0, 9, 10, "pass", report) for report in ('{"kind":"foreign"}', '{"kind":"log"}', "{}")]
    with Registry(url) as registry:
        for audit in audits:
            registry.add_audit(audit)
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        connection.execute("ALTER TABLE registry_audits DROP COLUMN kind")
        connection.execute("DROP TABLE registry_alerts")
        connection.execute("UPDATE registry_meta SET value = 4 WHERE name = 'schema_version'")
    connection.close()
    with Registry(url) as registry:
        assert [found.kind for found in registry.audits("s")] == ["log", "log", "foreign"]
        assert [found.id for found in registry.audits(kinds=["foreign", "live"])] == [1]
        assert registry.alerts() == ()


def test_what_people_were_told_last_is_kept_by_way(registry):
    mail = AlertRecord("audit m", "mail", ("total: late_event",), 5, 5)
    hook = AlertRecord("audit m", "webhook", (), 0, 5, "webhook: 503")
    for alert in (hook, mail, AlertRecord("audit n", "mail", (), 9, 9)):
        registry.set_alert(alert)
    assert registry.alerts("audit m") == (mail, hook)
    again = AlertRecord("audit m", "webhook", ("a", "b"), 7, 7)
    registry.set_alert(again)
    assert registry.alerts("audit m") == (mail, again)
    assert len(registry.alerts()) == 3


def test_the_last_record_of_each_job_is_the_newest_that_was_not_missed(registry):
    for name, at, outcome in (("b", 1, "done"), ("a", 2, "failed"), ("b", 3, "failed"), ("b", 4, "missed")):
        registry.add_job(JobRecord(name, at, at, outcome, ""))
    found = [(record.name, record.started_at_us) for record in registry.last_jobs(besides="missed")]
    assert found == [("a", 2), ("b", 3)]


def test_tables_of_version_4_get_the_one_of_drift(url, tmp_path):
    Registry(url).close()
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        connection.execute("DROP TABLE registry_drifts")
        connection.execute("UPDATE registry_meta SET value = 4 WHERE name = 'schema_version'")
    connection.close()
    record = DriftRecord("s", 1, 2, 3, "fail", "{}")
    with Registry(url) as registry:
        assert registry.add_drift(record) == 1
    with Registry(url) as registry:
        assert registry.drifts("s") == (record,)


def test_tables_of_version_5_get_the_one_of_leases(url, tmp_path):
    with Registry(url) as registry:
        registry.set_live(Live("s", "f", "", 1), verb="promote", changed_by="me")
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        connection.execute("DROP TABLE registry_leases")
        connection.execute("DROP TABLE registry_live_changes")
        connection.execute("ALTER TABLE registry_live DROP COLUMN is_decided")
        connection.execute("ALTER TABLE registry_live DROP COLUMN withdrawn")
        connection.execute("DROP INDEX registry_runs_by_fingerprint")
        connection.execute("UPDATE registry_meta SET value = 5 WHERE name = 'schema_version'")
    connection.close()
    with Registry(url) as registry, registry.exclusive("schedule") as hold:
        assert hold.is_held()
        assert registry.live() == {"s": Live("s", "f", "", 1)}
        registry.set_live(Live("s", "g", "f", 2), verb="promote", changed_by="me")
        assert [str(change) for change in registry.live_changes()] == [
            "1970-01-01T00:00:00.000002Z service 's' f → g (promote, me)"
        ]
    with sqlite3.connect(tmp_path / "deep" / "registry.db") as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
    connection.close()
    assert "registry_runs_by_fingerprint" in names


def test_drift_is_kept_newest_first_under_its_number(registry):
    records = [DriftRecord(service, 1, 2, at, "pass", "{}") for at, service in enumerate("abb")]
    assert [registry.add_drift(record) for record in records] == [1, 2, 3]
    assert registry.drifts() == tuple(reversed(records))
    assert registry.drifts("b", limit=1) == (records[2],)
    assert registry.drift(1) == records[0]
    with pytest.raises(RegistryError, match=r"no drift 4.*\[unknown-drift\]"):
        registry.drift(4)


def test_a_list_of_files_is_kept_once(registry):
    files = [FileRead("/a", 1, 2, 3), FileRead("/b", 4, 5, 6)]
    first = registry.keep_files(files)
    assert registry.keep_files(files) == first
    assert registry.keep_files(files[:1]) != first
    assert registry.files_read(first) == tuple(files)
    assert registry.files_read("") == ()


def test_the_last_run_of_a_plan_is_the_newest_that_did_not_fail(registry):
    done = RunRecord("v", "f", 1, 2, NOTHING_YET, 3, 10, 5, content="00ff")
    registry.add_runs([done, RunRecord("v", "f", 4, 5, 3, 3, 0, 0, outcome=FAILED, problem="the disk is full")])
    registry.add_runs([RunRecord("v", "g", 6, 7, NOTHING_YET, 3, 10, 5)])
    assert registry.last_run("f") == done
    assert registry.last_run("h") is None
    assert "the disk is full" in str(registry.runs()[1])


def test_who_decides_which_plan_answers_is_seen_like_an_apply(registry):
    registry.apply([draft("model", kind=Kind.SERVICE)], now_us=1, prune=True)
    before = registry.revision
    registry.set_live(Live("model", "f1", "", 5), verb="promote", changed_by="me")
    registry.set_live(Live("model", "f2", "f1", 6), verb="promote", changed_by="me")
    assert registry.live() == {"model": Live("model", "f2", "f1", 6)}
    assert registry.revision == before + 2


def test_a_change_takes_back_what_was_decided_unless_what_answers_is_kept(registry):
    def apply(fingerprint, **more):
        registry.apply([draft("model", fingerprint, kind=Kind.SERVICE)], now_us=9, prune=True, **more)

    apply("f1", kept_live={"model": "f0"})
    assert registry.live() == {}, "nothing answered before it was there"
    apply("f2", kept_live={"model": "f1"})
    assert registry.live() == {"model": Live("model", "f1", "", 9)}
    apply("f3", kept_live={"model": "f9"})
    assert registry.live()["model"].fingerprint == "f1", "it was decided already"
    apply("f3")
    assert registry.live()["model"].fingerprint == "f1", "nothing changed"
    apply("f4")
    assert not registry.live()["model"].is_decided
    apply("f5", kept_live={"model": "f4"})
    kept = Live("model", "f4", "f1", 9)
    assert registry.live() == {"model": kept}
    registry.apply([], now_us=9, prune=True, kept_live={})
    assert registry.live() == {"model": kept}, "applying it again brings back what answered"


def test_a_plan_that_went_live_is_recorded_unless_another_change_came_first(registry):
    def record(before, after):
        return registry.record_live("model", LiveChange("model", before, after, 5, "materialize", "me"))

    assert record("", "f1")
    assert not record("", "f2"), "somebody else recorded a change meanwhile"
    assert record("f1", "f2")
    registry.set_live(Live("model", "f1", "f2", 6, withdrawn=("f2",)), verb="rollback", changed_by="me")
    assert not record("f1", "f3"), "it was decided meanwhile"
    assert [(one.previous, one.fingerprint) for one in registry.live_changes("model")] == [
        ("f2", "f1"),
        ("f1", "f2"),
        ("", "f1"),
    ]


def test_histories_are_bounded(registry, monkeypatch):
    for name in ("journal._KEPT_RUNS", "journal._KEPT_REPORTS", "registry._KEPT_LIVE_CHANGES"):
        monkeypatch.setattr(f"featurestore.registry.{name}", 3)
    read = [[FileRead("part.parquet", number, number, 1)] for number in range(6)]
    names = [registry.keep_files(files) for files in read]
    for number, files in enumerate(names):
        run = RunRecord("v", "f", number, number, NOTHING_YET, number, 0, 0, files=files)
        registry.end_run(registry.begin_run(run), run)
        registry.add_runs([RunRecord("w", "g", number, number, NOTHING_YET, number, 0, 0, files=names[0])])
        registry.add_audit(AuditRecord("s", 0, 1, number, "pass", "{}"))
        registry.add_audit(AuditRecord("s", 0, 1, number, "pass", "{}", kind="foreign"))
        registry.add_drift(DriftRecord("s", 0, 1, number, "pass", "{}"))
        registry.add_certificate(CertificateRecord("s", "f", number, "pass", "{}"))
        registry.set_live(Live("s", f"f{number}", "", number), verb="promote", changed_by="me")
    assert [run.started_at_us for run in registry.runs("v")] == [5, 4, 3]
    assert [run.started_at_us for run in registry.runs("w")] == [5, 4, 3]
    for kept in (registry.audits(kinds=["log"]), registry.audits(kinds=["foreign"]), registry.drifts()):
        assert [record.ran_at_us for record in kept] == [5, 4, 3]
    assert len(registry.certificates()) == len(registry.live_changes()) == 3
    kept_files = [bool(registry.files_read(name)) for name in names]
    assert kept_files == [True, False, False, True, True, True], "the first list is still named by the other view"


def test_the_history_of_definitions_grows_with_their_number_and_not_with_that_of_applies(registry):
    for _ in range(5):
        registry.apply([draft("view", "f1")], now_us=1)
        registry.apply([draft("view", "f2")], now_us=2)
        registry.apply([], now_us=3, prune=True)
    with registry._engine.connect() as connection:
        lines = connection.exec_driver_sql("SELECT outcome, fingerprint FROM registry_history ORDER BY id").all()
    assert lines == [("added", "f1"), ("changed", "f2"), ("removed", "f2")]


def test_what_was_removed_is_known_until_it_is_applied_again(registry):
    registry.apply([draft("kept"), draft("gone", "f2")], now_us=1)
    registry.apply([], now_us=7, remove=[(Kind.VIEW, "gone"), (Kind.VIEW, "never")])
    (removed,) = registry.removals(Kind.VIEW)
    assert removed == registry.removed(Kind.VIEW, "gone")
    assert (removed.fingerprint, removed.applied_at_us) == ("f2", 7)
    assert registry.removed(Kind.VIEW, "kept") is registry.removed(Kind.VIEW, "never") is None
    registry.apply([draft("gone", "f2")], now_us=8)
    assert registry.removals(Kind.VIEW) == ()


def test_an_apply_that_does_not_fit_together_changes_nothing(registry):
    registry.apply([draft("view"), draft("other")], now_us=1)

    def check(after):
        assert set(after) == {(Kind.VIEW, "view"), (Kind.VIEW, "new")}
        raise RegistryError("refused")

    with pytest.raises(RegistryError, match="refused"):
        registry.apply([draft("new")], now_us=2, remove=[(Kind.VIEW, "other")], check=check)
    assert [item.name for item in registry.objects(Kind.VIEW)] == ["other", "view"]
