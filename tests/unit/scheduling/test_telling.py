"""Audits of the schedule and of the command line tell people what they find, and where the report is."""

import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore.core.temporal import duration_us, to_datetime
from featurestore.operations import Runner
from tests.server.conftest import ORDERS

AUDIT = {"service": "model", "every": "6h", "since": "48h"}


@pytest.fixture
def told(tmp_path):
    """Return the settings of a command that keeps messages, and what reads them."""
    target = tmp_path / "told"
    settings = {
        "command": ["sh", "-c", f"cat >> {target}; echo >> {target}"],
        "report_url": "https://reports.test/{service}/{id}",
    }

    def read():
        return [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else []

    return settings, read


def served(store):
    store.materialize()
    store.get_online_features("model", [{"user": 1}])


def double(tmp_path):
    place = ORDERS.column_names.index("amount")
    doubled = ORDERS.set_column(place, "amount", pc.multiply(ORDERS.column("amount"), 2.0))
    pq.write_table(doubled, tmp_path / "orders.parquet")


def audited(store, clock):
    """Do what is due six hours later; return the record of the audit."""
    clock.instant_us += duration_us("6h")
    return next(record for record in Runner(store).run_due() if record.name.startswith("audit"))


def test_people_are_told_once_of_each_state_of_affairs_and_when_it_is_over(opened, clock, tmp_path, told):
    settings, read = told
    store = opened(audits=[AUDIT], alerts=settings)
    served(store)
    assert audited(store, clock).said == "pass"
    assert read() == []
    double(tmp_path)
    assert audited(store, clock).said == "fail"
    assert audited(store, clock).said == "fail"
    (message,) = read()
    assert (message["service"], message["verdict"], message["recovered"]) == ("model", "fail", False)
    assert message["job"] == "audit model every 6h since 48h"
    newest, failed, _ = store.audits("model")
    assert (message["id"], message["report"]) == (failed.id, f"https://reports.test/model/{failed.id}")
    assert store.audit_report(message["id"]).since == message["since"]
    assert newest.verdict == "fail", "the same again is no news"
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    assert audited(store, clock).said == "pass"
    assert read()[-1]["recovered"] is True
    assert len(read()) == 2


def test_what_cannot_be_delivered_is_told_after_the_next_audit(opened, clock, tmp_path, told):
    settings, read = told
    store = opened(audits=[AUDIT], alerts={"command": ["sh", "-c", "exit 3"]})
    served(store)
    double(tmp_path)
    assert audited(store, clock).said == "fail, alert undelivered"
    (undelivered,) = store.registry.alerts("audit model every 6h since 48h")
    assert "exit status 3" in undelivered.problem
    again = opened(audits=[AUDIT], alerts=settings)
    assert audited(again, clock).said == "fail"
    assert [message["verdict"] for message in read()] == ["fail"]


def test_an_audit_by_hand_tells_when_it_is_asked_to(opened, tmp_path, told):
    settings, read = told
    store = opened(alerts=settings)
    served(store)
    double(tmp_path)
    found = store.audit("model", since="48h")
    assert read() == []
    assert store.alert(found) == "delivered"
    assert store.alert(store.audit("model", since="24h")) == "", "the same, found again"
    assert [message["id"] for message in read()] == [found.id]


def test_drift_is_looked_for_told_and_over_by_the_schedule(opened, clock, tmp_path, told):
    """Entities with orders are trained on, entities without any are served."""
    settings, read = told
    users = pa.array(range(300), ORDERS.schema.field("user").type)
    orders = pa.concat_tables([ORDERS.slice(0, 1)] * 300)
    orders = orders.set_column(ORDERS.column_names.index("user"), "user", users)
    pq.write_table(orders, tmp_path / "orders.parquet")
    spine = pa.table({"user": users, "as_of": pa.array([to_datetime(clock.instant_us)] * 300)})
    opened().training_set("model", spine, tmp_path / "training", overwrite=True)
    drift = {"service": "model", "reference": "../training", "every": "6h", "since": "6h"}
    name = "drift model every 6h since 6h from ../training"
    store = opened(drifts=[drift], alerts=settings, serving_log={"share": 1})

    def compared():
        clock.instant_us += duration_us("5h")
        store.get_online_features("model", [{"user": user} for user in range(1_000, 1_300)])
        clock.instant_us += duration_us("1h") - 1
        return next(record for record in Runner(store).run_due() if record.name == name)

    store.materialize()
    assert compared().said == "fail"
    (message,) = read()
    (record,) = store.drifts("model")
    assert (message["kind"], message["job"], message["id"]) == ("drift", name, record.id)
    assert message["drifted"] == ["fresh__total", "hourly__total"]
    assert message["report"] == f"https://reports.test/model/{record.id}"
    assert compared().said == "fail"
    assert len(read()) == 1
    assert store.drift_report(record.id).id == record.id
    assert store.alert(store.drift_report(record.id)) == "delivered", "what is told by hand is kept apart"


def test_a_reference_that_is_not_there_fails_the_job_and_people_hear_of_it(opened, told):
    settings, read = told
    drift = {"service": "model", "reference": "nowhere", "every": "6h"}
    records = Runner(opened(drifts=[drift], alerts=settings)).run_due()
    assert [record.outcome for record in records] == ["done", "done", "failed"]
    assert [(message["kind"], message["verdict"]) for message in read()] == [("job", "failed")]
