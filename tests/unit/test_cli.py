"""The command line: one verb a command, its result on standard output, a mistake in one message with exit code 2."""

import json
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import cli
from featurestore.offline.dataset import TrainingSet
from tests.server.conftest import ORDERS

DEFINITIONS = """
from featurestore import *

user = Entity("user", key="user", dtype="int64")
orders = FileSource("orders", path="orders.parquet", event_time="at")
spending = FeatureView(
    "spending", entity=user, source=orders,
    features={"orders": agg.count().over("1d"), "total": agg.sum(col("amount")).over("1d")},
)
budget = OnDemandFeatureView(
    "budget", request={"budget": "float64"}, features={"left": request("budget") - spending["total"]}
)
model = FeatureService("model", features=[spending, budget])
"""
NOON = "2024-05-01T12:00:00Z"


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    pq.write_table(ORDERS, "orders.parquet")
    (tmp_path / "cli_definitions.py").write_text(DEFINITIONS)
    (tmp_path / "featurestore.toml").write_text('definitions = "cli_definitions"')
    yield tmp_path
    sys.modules.pop("cli_definitions", None)


@pytest.fixture
def run(capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return call


@pytest.fixture
def filled(project, run):
    assert run("apply")[0] == 0
    assert run("materialize", "--until", NOON)[0] == 0
    return project


def test_an_error_nobody_foresaw_is_not_taken_for_skew(project, run, monkeypatch):
    """Python ends with 1 then, which is what an audit says of values that differ; all that is known of it is shown."""

    def broken(*_):
        raise IndexError("index 5 is out of bounds")

    monkeypatch.setattr(cli.audit, "store_of", broken)
    code, out, err = run("audit", "model")
    assert (code, out) == (cli.COULD_NOT_TELL, "")
    assert "Traceback" in err
    assert "IndexError: index 5 is out of bounds" in err


def test_apply_shows_what_changed(project, run):
    code, out, _ = run("apply")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()] == [
        ["added", "source", "'orders'"],
        ["added", "view", "'spending'"],
        ["added", "service", "'model'"],
    ]
    assert all(line.startswith("unchanged") for line in run("apply")[1].splitlines())


def test_services_and_plans_are_shown(filled, run):
    assert "model" in run("services")[1]
    code, out, _ = run("plan", "model")
    assert code == 0
    assert "user int64" in out
    assert "budget float64" in out
    assert "spending__total" in out
    assert json.loads(run("plan", "model", "--json")[1])["kind"] == "Plan"


def test_materialize_says_what_it_folded(project, run):
    run("apply")
    code, out, _ = run("materialize", "--until", NOON, "--view", "spending")
    assert code == 0
    assert "2024-05-01T12:00:00Z" in out
    assert "3" in out


def test_get_answers_one_entity(filled, run):
    code, out, _ = run("get", "model", "user=1", "budget=10", "--as-of", NOON)
    assert code == 0
    assert "budget__left" in out
    assert "7.5" in out
    found = json.loads(run("get", "model", "user=1", "budget=10", "--as-of", NOON, "--json")[1])
    assert found["spending__orders"] == {"value": 2, "status": "PRESENT"}


def test_a_training_set_is_built_from_a_spine_file(filled, run):
    spine = pa.table({"user": [1, 2], "budget": [1.0, 2.0], "as_of": ORDERS["at"].slice(1)})
    pq.write_table(spine, "spine.parquet")
    code, out, _ = run("training-set", "model", "spine.parquet", "built")
    assert code == 0
    assert out.startswith("2 rows in ")
    assert TrainingSet.open("built").to_arrow().column("spending__orders").to_pylist() == [1, 0]


SPAN = ("--since", "2024-05-01T00:00:00Z", "--until", "2024-05-03T00:00:00Z")


def test_an_audit_says_by_its_exit_code_what_it_found(filled, run):
    assert run("audit", "model", *SPAN)[0] == 2
    run("get", "model", "user=1", "budget=10", "--as-of", NOON)
    code, out, _ = run("audit", "model", *SPAN)
    assert code == 0
    assert "equal to the bit" in out
    assert json.loads(run("audit", "model", *SPAN, "--json", "-")[1])["verdict"] == "pass"
    pq.write_table(ORDERS.slice(1), "orders.parquet")
    code, out, _ = run("audit", "model", *SPAN)
    assert code == 1
    assert "spending__orders" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config", "nowhere.toml", "services"), "nowhere.toml: the file is not there"),
        (("plan", "modle"), "Did you mean 'model'?"),
        (("apply", "no_such_module"), "the module 'no_such_module' is not there"),
        (("materialize", "--view", "spendig"), "Did you mean 'spending'?"),
        (("materialize", "--until", "2024-05-01"), "has no time zone"),
        (("get", "model", "user=one", "budget=1", "--as-of", NOON), "request/entities/0/user"),
        (("get", "model", "usr=1", "budget=1", "--as-of", NOON), "Did you mean 'user'?"),
        (("training-set", "model", "nowhere.parquet", "built"), "nowhere.parquet"),
        (("audit", "model", "--live", "5", "--since", "1h", "--by", "user"), "leave --since, --by out"),
        (("audit", "model", "--live", "5", "--sample", "0.5", "--until", NOON), "leave --until, --sample out"),
        (("audit", "model", "--live", "5", "--foreign", "a.csv", "--map", "m.toml"), "leave --foreign out"),
        (("audit", "model", "--live", "5", "--explain-rows", "9"), "leave --explain-rows out"),
        (("audit", "model", "--no-causes", "--explain-rows", "9"), "leave --no-causes out"),
        (("audit", "model", "--map", "m.toml"), "also give --foreign"),
        (("audit", "model", "--foreign", "a.csv"), "--foreign needs --map"),
        (("audit", "model", *SPAN, "--by", "usr"), "the serving log has no column 'usr'"),
        (("audit", "model", "--since", NOON, "--until", NOON), "the period ends at"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(filled, run, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert message in err


@pytest.mark.parametrize("arguments", [("nonsense",), ("get", "model", "user"), ("plan",)])
def test_wrong_usage_is_exit_code_2(filled, run, arguments):
    code, _, err = run(*arguments)
    assert code == 2
    assert "Usage" in err


def test_plans_are_promoted_rolled_back_and_removed(filled, run):
    changed = DEFINITIONS.replace('agg.count().over("1d")', 'agg.count().over("2d")')
    (filled / "cli_definitions.py").write_text(changed)
    sys.modules.pop("cli_definitions", None)
    assert run("apply", "--no-promote")[0] == 0
    code, _, error = run("promote", "model")
    assert (code, "view 'spending' has no online state" in error) == (2, True)
    assert run("materialize", "--until", NOON, "--views", "spending")[0] == 0
    assert "when promoted" in run("status")[1]
    assert run("gc", "--dry-run")[0] == 0
    assert run("promote", "model")[1].startswith("service 'model' answers with plan ")
    assert run("rollback", "model")[1].count("model") == 1
    assert run("apply", "--promote")[0] == 0
    assert "when promoted (it was rolled back from)" in run("status")[1]
    assert run("promote", "model", "--by", "alice")[0] == 0
    assert "when promoted" not in run("status")[1]
    shown = run("history", "model")[1]
    assert ["alice" in line for line in shown.splitlines() if "promote" in line] == [True, False]
    assert "rollback" in shown and "materialize" in shown
    code, _, error = run("apply", "--allow-removal", "model")
    assert (code, "[still-defined]" in error) == (2, True)
    code, _, error = run("restore", "model")
    assert (code, "[unknown-removed]" in error) == (2, True)
    assert "spending" in run("gc", "--keep", "0")[1]
    assert run("rollback", "model")[0] == 2


def test_runs_are_listed(filled, run):
    code, out, _ = run("runs")
    assert code == 0
    assert "done" in out
    (listed,) = json.loads(run("runs", "--json")[1])
    assert (listed["view"], listed["event_count"], listed["outcome"]) == ("spending", 3, "done")


@pytest.fixture
def served(filled, run):
    assert run("get", "model", "user=1", "budget=10", "--as-of", NOON)[0] == 0
    return filled


def test_an_audit_is_written_as_a_page_and_kept(served, run):
    assert run("audit", "model", *SPAN, "--html", "audit.html")[0] == 0
    assert "spending__total" in (served / "audit.html").read_text()
    code, out, _ = run("audits")
    assert code == 0
    line = next(line for line in out.splitlines() if "model" in line)
    assert line.split()[:2] == ["1", "pass"]
    code, out, _ = run("audits", "show", "1", "--html", "again.html")
    assert code == 0
    assert "pass" in out
    assert (served / "again.html").read_text() == (served / "audit.html").read_text()
    assert json.loads(run("audits", "show", "1", "--json", "-")[1])["service"] == "model"


def test_an_audit_that_never_was_is_named(served, run):
    code, _, err = run("audits", "show", "7")
    assert code == 2
    assert "no audit 7" in err
    assert run("audits", "--service", "other")[0] == 0


def test_drift_says_by_its_exit_code_what_it_found(served, run):
    test_a_training_set_is_built_from_a_spine_file(served, run)
    given = ("drift", "model", "--reference", "built", *SPAN)
    code, out, _ = run(*given, "--json", "drift.json", "--html", "drift.html")
    assert code == 2
    assert "cannot tell" in out
    assert json.loads((served / "drift.json").read_text())["schema"] == "featurestore-drift-2"
    assert "<h1><span>Drift of model</span>" in (served / "drift.html").read_text()
    assert json.loads(run(*given, "--json", "-", "--recompute")[1])["features"][0]["split"]
    period = "..".join(SPAN[1::2])
    assert json.loads(run("drift", "model", "--reference", period, *SPAN, "--json", "-")[1])["reference_rows"] == 1
    code, _, err = run(*given, "--threshold", "psy-0.2")
    assert code == 2
    assert "psi-0.2" in err


def test_drift_reports_are_listed_and_shown_again(served, run):
    test_a_training_set_is_built_from_a_spine_file(served, run)
    given = ("drift", "model", "--reference", "built", *SPAN)
    assert run(*given, "--no-record")[0] == 2
    assert "cannot tell" not in run("drifts")[1]
    _, printed, _ = run(*given, "--json", "-", "--allowed", "1", "--significance", "0.02")
    code, out, _ = run("drifts", "--service", "model")
    assert code == 0
    assert "cannot tell" in out
    assert "the training set 'built'" in out
    code, out, _ = run("drifts", "show", "1", "--html", "again.html")
    assert code == 2
    assert "significance 0.02" in out
    assert "<h1><span>Drift of model</span>" in (served / "again.html").read_text()
    assert run("drifts", "show", "1", "--json", "-")[1] == printed
    code, _, err = run("drifts", "show", "7")
    assert (code, "no drift 7" in err) == (2, True)
    code, _, err = run("drift", "model", "--reference", "7d..14d")
    assert (code, "empty-period" in err) == (2, True)


def test_a_page_that_cannot_be_written_is_named(served, run):
    code, _, err = run("audit", "model", *SPAN, "--html", "no/such/folder/audit.html")
    assert code == 2
    assert "no/such/folder" in err


def test_an_entity_is_forgotten(filled, run):
    code, out, _ = run("forget", "user", "user=1")
    assert code == 0
    assert "view spending" in out
    assert "orders.parquet" in out
    assert run("get", "model", "user=1", "budget=1.0", "--as-of", NOON)[1].count("NOT_FOUND") == 2
    assert run("forget", "user", "user=x")[0] == 2


@pytest.mark.parametrize("arguments", [("--views", " , "), ("--wait", "-5")])
def test_materializing_nothing_or_waiting_less_than_nothing_is_a_mistake(filled, run, arguments):
    code, _, err = run("materialize", *arguments)
    assert code == 2
    assert arguments[0] in err


def test_tables_are_not_cut_where_nobody_sees_them_on_a_terminal(filled, run):
    assert "…" not in run("runs")[1] + run("status")[1]


def test_what_is_due_is_done_and_listed_and_people_are_told(served, run, monkeypatch):
    config = served / "featurestore.toml"
    told = served / "told"
    command = ["sh", "-c", f"cat >> {told}; echo >> {told}"]
    jobs = '[[audits]]\nservice = "model"\nevery = "1h"\nsince = "2024-01-01T00:00:00Z"\n'
    config.write_text(f"{config.read_text()}\n{jobs}[alerts]\ncommand = {json.dumps(command)}\n")
    code, out, _ = run("run", "--once")
    assert code == 0
    assert "audit model every 1h since 2024-01-01T00:00:00Z: done: pass" in out
    code, out, _ = run("jobs")
    assert code == 0
    assert "refresh every 1m" in out
    place = ORDERS.column_names.index("amount")
    doubled = ORDERS.set_column(place, "amount", pc.multiply(ORDERS.column("amount"), 2.0))
    pq.write_table(doubled, served / "orders.parquet")
    assert run("audit", "model", *SPAN)[0] == 1
    assert not told.exists(), "whoever looks sees it"
    code, _, err = run("audit", "model", *SPAN, "--alert")
    assert (code, "alert delivered" in err) == (1, True)
    assert json.loads(told.read_text())["id"] == 3
    config.write_text(config.read_text() + "one_shot = true\n")
    assert "alert" not in run("audit", "model", *SPAN)[2], "the same is no news"
    code, out, _ = run("alerts")
    assert code == 0
    assert "audit model" in out
    assert "budget__left: " in out


@pytest.mark.parametrize("kind", ["leakage", "simulation", "certificate"])
def test_the_schema_of_what_is_found_before_a_release_is_printed(run, kind):
    assert json.loads(run("report-schema", kind)[1])["$id"].startswith(f"urn:featurestore-{kind}-")


@pytest.mark.parametrize("kind", ["audit", "drift"])
def test_the_schema_of_reports_is_printed(run, kind):
    code, out, _ = run("report-schema", kind)
    assert code == 0
    found = json.loads(out)
    assert found["$id"].startswith(f"urn:featurestore-{kind}-")
    assert "verdict" in found["$defs"][f"{kind.title()}Report"]["properties"]


def test_a_value_is_explained(served, run):
    code, out, _ = run("explain", "model", "user=1", "--at", NOON, "--feature", "budget__left", "--html", "why.html")
    assert code == 0
    assert "checked: recomputed from the used events alone, identical" in out
    assert "budget = 10.0" in out
    assert "exact sum of" in (served / "why.html").read_text()
    assert run("explain", "model", "user=1", "--at", NOON, "--json", "why.json")[0] == 0
    written = json.loads((served / "why.json").read_text())
    assert written["schema"] == "featurestore-explanation-1"
    found = json.loads(run("explain", "model", "--request-id", written["served"]["request_id"], "--json", "-")[1])
    assert found == written
    code, _, err = run("explain", "model", "user=1")
    assert code == 2
    assert "'at' is missing" in err
    assert json.loads(run("report-schema", "explanation")[1])["$id"] == "urn:featurestore-explanation-1"
