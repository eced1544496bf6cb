"""A log whose head lies in the future: refused, seen, and repaired by a command."""

from datetime import timedelta

import pytest

from featurestore.core.errors import StorageError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.server.app import create_app
from featurestore.server.metrics import are_possible
from tests.server.conftest import Caller
from tests.stores import local_store
from tests.unit.pushing.test_push import NOW, ask, order, orders, spending

DAY_US = 86_400_000_000


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def store(tmp_path, clock, monkeypatch):
    """A store to which a process has pushed whose clock was a day ahead."""
    monkeypatch.setenv("FEATURESTORE_SERVER__AUTH", "none")
    with local_store(tmp_path / "store", clock=clock) as opened:
        opened.apply(spending(orders(tmp_path)))
        opened.push("orders", [order(1)])
        with local_store(tmp_path / "store", clock=FixedClock(clock.instant_us + DAY_US)) as ahead:
            ahead.push("orders", [order(2, ago=timedelta(minutes=2))])
        clock.instant_us += 1_000_000
        yield opened


def test_pushes_are_refused_and_the_refusal_names_the_command(store):
    with pytest.raises(StorageError, match="featurestore repair-log orders") as caught:
        store.push("orders", [order(3)])
    assert caught.value.code == "log-head-ahead"


def test_it_is_seen_before_anybody_pushes(store):
    (problem,) = store.problems()
    assert problem.code == "log-head-ahead"
    assert 0.9 * DAY_US < store.logs()["orders"].ahead_us < DAY_US
    call = Caller(create_app(store))
    ready = call("GET", "/readyz")
    assert ready.status_code == 200
    assert "log-head-ahead" in ready.json()["problems"][0]
    if are_possible():
        assert 'featurestore_event_log_ahead_seconds{source="orders"}' in call("GET", "/metrics").text


def test_the_repair_gives_events_the_present_and_rebuilds_what_was_made_of_them(store, clock):
    assert store.repair_log() == {"orders": 1}
    assert store.problems() == ()
    assert ask(store, clock)["spending__count"] == 2
    assert store.push("orders", [order(3)]).is_followed
    assert ask(store, clock)["spending__count"] == 3
    assert store.get_online_features("model", [{"user": "a"}]).views["spending"].is_stale is False
    assert store.repair_log("orders") == {"orders": 0}


def test_a_run_by_a_clock_that_is_ahead_of_the_logs_is_refused(tmp_path, postgres_database):
    """PostgreSQL has a clock of its own; a run would promise that nothing comes before an instant of the future."""
    ahead = FixedClock(instant_us(NOW) + 100 * 365 * DAY_US)
    with local_store(tmp_path / "store", event_log=postgres_database, clock=ahead) as store:
        store.apply(spending(orders(tmp_path)))
        with pytest.raises(StorageError) as caught:
            store.materialize()
        assert caught.value.code == "clock-ahead"
        assert store.catch_up() == 0
        assert store.problems() == ()
