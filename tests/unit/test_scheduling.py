"""Jobs follow from definitions, configuration and records; people are told once, and when it is over."""

import hashlib
import hmac
import json
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.config import Config
from featurestore.errors import ConfigError
from featurestore.scheduling import GridTrigger, Runner
from featurestore.temporal import FixedClock, duration_us, format_instant, instant_us, to_datetime
from tests.server.conftest import NOW, ORDERS, USER

HOUR, MINUTE = duration_us("1h"), duration_us("1m")


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW) + 5 * MINUTE)


@pytest.fixture
def opened(tmp_path, clock):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    source = FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")
    total = {"total": agg.sum(col("amount")).over("1d")}
    views = [
        FeatureView("hourly", entity=USER, source=source, features=total, refresh=every("1h", lag="10m")),
        FeatureView("fresh", entity=USER, source=source, features=total),
    ]
    stores = []

    def open_store(**settings):
        config = Config(**settings, folder=tmp_path)
        local = Config.local(tmp_path / "store")
        chosen = {name: getattr(config, name) for name in settings}
        stores.append(FeatureStore(local.model_copy(update=chosen), clock=clock))
        stores[-1].apply(FeatureService("model", features=views))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def names(records):
    return [record.name for record in records]


AUDIT = [{"service": "model", "every": "6h", "since": "48h"}]


def test_what_is_due_follows_from_what_ran(opened, clock):
    runner = Runner(opened(audits=AUDIT))
    fresh, hourly, audit = (job.name for job in runner.jobs)
    assert (fresh, hourly) == ("refresh every 1m: fresh", "refresh every 1h, 10m after: hourly")
    first = runner.run_due()
    assert names(first) == [fresh, hourly, audit]
    assert [record.outcome for record in first] == ["done"] * 3
    assert runner.run_due() == ()
    clock.instant_us += MINUTE
    assert names(runner.run_due()) == [fresh]
    # The refresh of the last full hour is promised at ten minutes past.
    clock.instant_us = instant_us(NOW) + 10 * MINUTE
    assert names(runner.run_due()) == [fresh, hourly]
    clock.instant_us = instant_us(NOW) + 6 * HOUR
    # Another process, later, sees the same.
    assert names(Runner(opened(audits=AUDIT)).run_due()) == [fresh, hourly, audit]
    assert runner.run_due() == ()


def test_a_job_that_fails_is_taken_down_and_keeps_no_other_from_being_done(opened, tmp_path):
    store = opened(audits=AUDIT)
    (tmp_path / "orders.parquet").unlink()
    records = Runner(store).run_due()
    assert [record.outcome for record in records] == ["failed", "failed", "done"]
    assert "orders.parquet" in records[0].said


def test_grids_are_those_of_refreshes():
    trigger = GridTrigger(HOUR, 10 * MINUTE)
    at = to_datetime(instant_us("2026-03-01T05:10:00Z"))
    assert format_instant(instant_us(trigger.get_next_fire_time(None, at))) == "2026-03-01T05:10:00Z"
    assert format_instant(instant_us(trigger.get_next_fire_time(at, at))) == "2026-03-01T06:10:00Z"


@pytest.mark.parametrize(
    ("audit", "problem"),
    [
        ({"service": "model"}, "either every or cron"),
        ({"service": "model", "every": "1h", "cron": "* * * * *"}, "either every or cron"),
        ({"service": "model", "cron": "often"}, "'often'"),
        ({"service": "nobody", "every": "1h"}, "no service 'nobody'"),
    ],
)
def test_audits_that_cannot_be_scheduled_are_refused(opened, audit, problem):
    with pytest.raises((ConfigError, ValueError), match=problem):
        Runner(opened(audits=[audit]))


def test_one_leads_and_another_takes_over(opened):
    first, second = Runner(opened()), Runner(opened())
    done = {"first": threading.Event(), "second": threading.Event()}
    stops = {name: threading.Event() for name in done}
    threads = [
        threading.Thread(target=runner.run, args=(stops[name], lambda _, name=name: done[name].set()))
        for name, runner in (("first", first), ("second", second))
    ]
    threads[0].start()
    assert done["first"].wait(30)
    threads[1].start()
    assert not done["second"].wait(0.5)
    stops["first"].set()
    threads[0].join(30)
    first._store.clock.instant_us += MINUTE
    assert done["second"].wait(30)
    stops["second"].set()
    threads[1].join(30)
    assert not any(thread.is_alive() for thread in threads)


@contextmanager
def webhook():
    """A server that takes messages; the first request of each is refused if it says so."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        refusals = 0

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if Handler.refusals > 0:
                Handler.refusals -= 1
                self.send_error(503)
                return
            got.append((json.loads(body), body, self.headers.get("X-Featurestore-Signature")))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", got, Handler
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audited(store, clock):
    """Do what is due six hours later; return the record of the audit."""
    clock.instant_us += 6 * HOUR
    return next(record for record in Runner(store).run_due() if record.name.startswith("audit"))


def test_people_are_told_once_of_each_state_of_affairs_and_when_it_is_over(opened, clock, tmp_path, monkeypatch):
    monkeypatch.setenv("ALERT_WEBHOOK_SECRET", "secret")
    monkeypatch.setattr("featurestore.alerting._FIRST_PAUSE_SECONDS", 0.01)
    with webhook() as (url, got, handler):
        store = opened(audits=AUDIT, alerts={"webhook": url, "report_url": "https://reports/{service}"})
        store.materialize()
        store.get_online_features("model", [{"user": 1}])
        assert audited(store, clock).said == "pass"
        assert got == []
        place = ORDERS.column_names.index("amount")
        changed = ORDERS.set_column(place, "amount", pc.multiply(ORDERS.column("amount"), 2.0))
        pq.write_table(changed, tmp_path / "orders.parquet")
        handler.refusals = 1
        assert audited(store, clock).said == "fail"
        assert audited(store, clock).said == "fail"
        (message, body, signature), *more = got
        assert more == [], "the same again is no news"
        assert (message["service"], message["verdict"], message["recovered"]) == ("model", "fail", False)
        assert message["report"] == "https://reports/model"
        seconds, given = (part.partition("=")[2] for part in signature.split(","))
        expected = hmac.new(b"secret", f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
        assert given == expected
        pq.write_table(ORDERS, tmp_path / "orders.parquet")
        assert audited(store, clock).said == "pass"
        assert got[-1][0]["recovered"] is True
        assert len(got) == 2


def test_what_cannot_be_delivered_is_tried_again_after_the_next_audit(opened, clock, tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore.alerting._FIRST_PAUSE_SECONDS", 0.01)
    target = tmp_path / "told.json"
    program = f"import sys, pathlib; pathlib.Path({str(target)!r}).write_text(sys.stdin.read())"
    store = opened(audits=AUDIT, alerts={"command": [sys.executable, "-c", "raise SystemExit(3)"]})
    store.materialize()
    store.get_online_features("model", [{"user": 1}])
    place = ORDERS.column_names.index("amount")
    doubled = ORDERS.set_column(place, "amount", pc.multiply(ORDERS.column("amount"), 2.0))
    pq.write_table(doubled, tmp_path / "orders.parquet")
    assert audited(store, clock).said == "fail, alert undelivered"
    (undelivered,) = store.registry.jobs("alert model")
    assert "exit status 3" in undelivered.said
    again = opened(audits=AUDIT, alerts={"command": [sys.executable, "-c", program]})
    assert audited(again, clock).said == "fail"
    assert json.loads(target.read_text())["verdict"] == "fail"
