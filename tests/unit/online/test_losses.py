"""States, records and ends of logs that are gone: each is noticed by those who serve, named, and healed by a run."""

import threading
from contextlib import closing
from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa

from featurestore import FeatureService, FeatureView, agg, col
from featurestore.core.errors import StateError, StorageError
from featurestore.core.temporal import FixedClock, instant_us, to_datetime
from featurestore.online.answering import serving, state_watch
from featurestore.online.state.losses import missing_states
from featurestore.online.stores.memory import MemoryOnlineStore
from featurestore.online.stores.store import (
    STATES_LOST,
    record_key,
    records_of,
    state_prefix,
)
from tests.stores import local_store
from tests.unit.pushing.test_push import NOW, USER, order, orders

KINDS = ("sqlite", "memory", "redis", "postgres")
USERS = [{"user": user} for user in "abc"]


@pytest.fixture(autouse=True)
def _every_look_counts(monkeypatch):
    """Let every look count the states: no second passes."""
    monkeypatch.setattr(state_watch, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(state_watch, "_SHARE", 1e9)


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture(params=KINDS)
def online(request, online_urls_of):
    return None if request.param == "sqlite" else online_urls_of(request.param)


def service(folder, factor=1):
    features = {"count": agg.count().lifetime(), "total": agg.sum(col("amount") * factor).lifetime()}
    return FeatureService(
        "model", features=[FeatureView("spending", entity=USER, source=orders(folder), features=features)]
    )


@pytest.fixture
def store(tmp_path, online, clock):
    with local_store(tmp_path / "store", online=online, clock=clock) as opened:
        opened.apply(service(tmp_path))
        opened.materialize()
        for number, user in enumerate("aabbc"):
            opened.push("orders", [order(number, user=user, ago=timedelta(hours=1))])
        assert counts(opened, clock) == [2, 2, 1]
        yield opened


def counts(store, clock):
    clock.instant_us += 1_000_000
    store.catch_up()
    return [row["spending__count"] for row in store.get_online_features("model", USERS).to_dicts()]


def view_of(store):
    return store.plan("model").uses[0].view


def lose(store, user):
    """Delete a user's state as an eviction, or an operator, would: nothing else learns of it."""
    view = view_of(store)
    generation = records_of(store.parts.online, [view])["spending"].generation
    key = state_prefix(view, generation) + b"s\x00\x00\x00\x01" + user.encode()
    assert store.parts.online.delete(key) == 1


def code_of(action):
    with pytest.raises((StateError, StorageError)) as caught:
        action()
    return caught.value.code


def test_the_record_counts_the_states(store):
    record = records_of(store.parts.online, [view_of(store)])["spending"]
    assert record.states == 3 == store.parts.online.count(state_prefix(view_of(store), record.generation))


def test_a_state_that_is_gone_is_an_error_of_every_process_until_a_run_heals_it(store, tmp_path, online, clock):
    """Not NOT_FOUND; the entities whose states are there are refused, too, as a push may have begun theirs anew."""
    lose(store, "b")
    assert code_of(store.check) == STATES_LOST
    assert code_of(lambda: store.get_online_features("model", USERS[:1])) == STATES_LOST
    with local_store(tmp_path / "store", online=online, clock=clock) as other:
        if online is None or not online.startswith("memory"):
            assert code_of(lambda: other.get_online_features("model", USERS)) == STATES_LOST
    (problem,) = store.problems()
    assert "1 of its 3 states" in str(problem)
    assert "featurestore materialize --views spending" in str(problem)
    (run,) = store.materialize()
    assert "1 of its 3 states" in run.rebuilt
    assert counts(store, clock) == [2, 2, 1]
    assert store.problems() == ()
    store.check()


@pytest.mark.parametrize("ask", ["get_online_features", "get_online_views"])
def test_a_process_that_begins_finds_a_loss_of_before_with_its_first_question(
    store, tmp_path, online, clock, monkeypatch, ask
):
    """No server runs that could have noticed, and the process ends with its answer, as ``featurestore get`` does.

    Histories of ``tests.simulation.lost_parts`` found it: NOT_FOUND, as nothing was bound to look after.
    """
    monkeypatch.undo()  # looks are as rare as in production
    monkeypatch.setattr(serving, "_FIRST_LOOK_SECONDS", 60)  # on a busy machine a count may take longer than usual
    asked = ["spending"] if ask == "get_online_views" else "model"
    lose(store, "b")
    with local_store(tmp_path / "store", online=online, clock=clock) as other:
        assert code_of(lambda: getattr(other, ask)(asked, USERS)) == STATES_LOST


def test_a_process_looks_anew_after_it_applied_definitions(store, tmp_path, monkeypatch):
    monkeypatch.undo()  # looks are as rare as in production
    monkeypatch.setattr(serving, "_FIRST_LOOK_SECONDS", 60)
    lose(store, "b")
    store.apply(service(tmp_path))
    assert code_of(lambda: store.get_online_features("model", USERS)) == STATES_LOST


class SlowToCount(MemoryOnlineStore):
    """A store that does not answer how many states it has until it may."""

    def __init__(self, values):
        super().__init__()
        self.values = values
        self.may_answer = threading.Event()
        self.asked = 0

    def count(self, prefix):
        self.asked += 1
        self.may_answer.wait()
        return super().count(prefix)


@pytest.mark.parametrize("online", ["memory"], indirect=True)
def test_a_first_count_that_takes_long_goes_on_beside_the_answers(store):
    """Callers wait for the same count, each for as long as it likes; the loss is known to all when it has ended."""
    view = view_of(store)
    lose(store, "b")
    slow = SlowToCount(store.parts.online.values)
    watch = state_watch.StateWatch(slow, lambda: [view])
    watch.look_first([view], wait_seconds=0)
    watch.look_first([view], wait_seconds=0)
    assert records_of(slow, [view])["spending"].lost is None
    slow.may_answer.set()
    watch.look_first([view], wait_seconds=60)
    assert slow.asked == 1
    assert records_of(slow, [view])["spending"].lost.code == STATES_LOST


def test_a_push_does_not_begin_a_lost_state_anew(store, clock):
    lose(store, "b")
    store.problems()
    result = store.push("orders", [order(9, user="b")])
    assert (result.accepted, result.is_followed) == (1, False)
    assert code_of(lambda: store.get_online_features("model", USERS)) == STATES_LOST
    store.materialize()
    assert counts(store, clock) == [2, 3, 1]


def test_a_push_before_the_loss_is_noticed_does_not_hide_it(store, clock):
    """The record counts the state that the push made, so that one is missing still."""
    lose(store, "b")
    store.push("orders", [order(9, user="b")])
    assert code_of(store.check) == STATES_LOST
    store.materialize()
    assert counts(store, clock) == [2, 3, 1]


def test_a_fresh_run_notices_by_itself(store, clock):
    """Nobody serves, and the run has no new event to fold."""
    lose(store, "a")
    (run,) = store.materialize()
    assert "1 of its 3 states" in run.rebuilt
    assert counts(store, clock) == [2, 2, 1]


def test_states_that_are_forgotten_on_purpose_are_no_loss(store, clock):
    store.forget("user", {"user": "b"})
    assert missing_states(view_of(store), store.parts.online) == ""
    store.check()
    assert counts(store, clock) == [2, 0, 1]


def test_a_full_run_and_new_entities_are_counted(store, clock):
    store.materialize(full=True)
    store.push("orders", [order(10, user="d"), order(11, user="e"), order(12, user="a")])
    record = records_of(store.parts.online, [view_of(store)])["spending"]
    assert record.states == 5
    store.check()


def test_a_lost_record_does_not_bring_the_plan_before_back(store, tmp_path, online, clock):
    """A plan that has been live stays the one that is asked, also by processes that begin afterwards."""
    store.apply(service(tmp_path, factor=100))
    store.materialize()
    newer = store.plan("model").fingerprint
    assert store.get_online_features("model", USERS).fingerprint == newer
    store.parts.online.delete(record_key(view_of(store)))
    clock.instant_us += 2_000_000
    assert code_of(lambda: store.get_online_features("model", USERS)) == "not-materialized"
    with local_store(tmp_path / "store", online=online, clock=clock) as other:
        assert code_of(lambda: other.get_online_features("model", USERS)) == "not-materialized"
        assert code_of(lambda: other.get_online_views(["spending"], USERS)) == "not-materialized"
    store.materialize()
    clock.instant_us += 2_000_000
    assert store.get_online_features("model", USERS).fingerprint == newer


def tables(folder):
    engine = sa.create_engine(f"sqlite:///{folder}/store/event_log.db")
    with closing(engine.raw_connection()) as connection:
        names = ("event_log_heads", "event_log_batches", "event_log_ids", "event_log_id_columns")
        copy = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in names}
    engine.dispose()
    return copy


def restore(folder, copy):
    engine = sa.create_engine(f"sqlite:///{folder}/store/event_log.db")
    with closing(engine.raw_connection()) as connection:
        for name, rows in copy.items():
            connection.execute(f"DELETE FROM {name}")
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)
        connection.commit()
    engine.dispose()


@pytest.mark.parametrize("regrown", [0, 1, 2, 5])
def test_states_ahead_of_a_log_that_lost_its_end_are_flagged_until_a_run_heals_them(store, tmp_path, clock, regrown):
    """Also if the log has grown up to the old number again, or past it: other events are there now."""
    before = tables(tmp_path)
    for number in (20, 21):
        store.push("orders", [order(number, user="c")])
    restore(tmp_path, before)
    with local_store(tmp_path / "store", online="memory://", clock=clock) as elsewhere:
        for number in range(regrown):
            clock.instant_us += 1_000
            elsewhere.push("orders", [order(30 + number, user="c")])
    clock.instant_us += 1_000_000
    assert code_of(store.catch_up) == "state-ahead-of-log"
    answer = store.get_online_features("model", USERS)
    assert answer.views["spending"].is_stale
    assert answer.views["spending"].complete_until_us < answer.as_of_us
    assert code_of(store.check) == "state-ahead-of-log"
    for number in (20, 21):
        assert not store.push("orders", [order(number, user="c")]).is_followed
    (run,) = store.materialize()
    assert "event log has no more" in run.rebuilt
    assert counts(store, clock) == [2, 2, 3 + regrown]
    assert not store.get_online_features("model", USERS).views["spending"].is_stale
    assert store.problems() == ()


def test_a_log_that_lost_only_its_promise_is_given_it_again(store, tmp_path, clock):
    """An instant of completeness without events is not a loss."""
    before = tables(tmp_path)
    clock.instant_us += 5_000_000
    store.catch_up()
    restore(tmp_path, before)
    store.catch_up()
    store.push("orders", [order(40, user="c")])
    assert counts(store, clock) == [2, 2, 2]
    assert store.problems() == ()


def test_an_absent_state_is_an_error_while_the_server_evicts(tmp_path, clock, online_urls_of, redis_url):
    """The policy may change while a server runs that writes nothing any more."""
    server = redis.Redis.from_url(redis_url)
    with local_store(tmp_path / "store", online=online_urls_of("redis"), clock=clock) as store:
        store.apply(service(tmp_path))
        store.push("orders", [order(1, user="a")])
        store.catch_up()
        clock.instant_us += 1_000_000
        known, unknown = [{"user": "a"}], [{"user": "z"}]
        assert store.get_online_features("model", unknown).statuses[0][0] == "NOT_FOUND"
        server.config_set("maxmemory-policy", "allkeys-lru")
        server.config_set("maxmemory", "1gb")
        try:
            assert code_of(store.check) == "store-evicts"
            assert code_of(lambda: store.get_online_features("model", unknown)) == "store-evicts"
            assert store.get_online_features("model", known).rows[0][0] == 1
        finally:
            server.config_set("maxmemory", "0")
            server.config_set("maxmemory-policy", "noeviction")
        store.check()
        assert store.get_online_features("model", unknown).statuses[0][0] == "NOT_FOUND"


def test_a_store_that_drops_states_before_their_events_stop_to_matter_is_refused(tmp_path, clock, online_urls_of):
    """Of lifetime features every event matters for ever; a window of an hour is over after an hour."""
    online = online_urls_of("redis")
    with local_store(tmp_path / "store", online=f"{online}&expire=2h", clock=clock) as store:
        store.apply(service(tmp_path))
        assert code_of(store.materialize) == "store-expires"
    with local_store(tmp_path / "other", online=f"{online}&expire=2h", clock=clock) as store:
        view = FeatureView("recent", entity=USER, source=orders(tmp_path), features={"count": agg.count().over("1h")})
        store.apply(FeatureService("model", features=[view]))
        store.materialize()
        store.push("orders", [order(1)])
        store.check()


def test_a_process_that_may_not_write_keeps_what_it_found(store, tmp_path, clock, monkeypatch):
    lose(store, "b")

    def refuse(*_, **__):
        raise StorageError("read-only")

    with monkeypatch.context() as patched:
        patched.setattr(store.parts.online, "write", refuse)
        assert code_of(store.check) == STATES_LOST
        assert code_of(lambda: store.get_online_features("model", USERS[:1])) == STATES_LOST
    store.materialize()
    assert counts(store, clock) == [2, 2, 1]


def test_an_audit_names_what_the_log_has_lost(store, tmp_path, clock):
    """Answers of before the loss count events that nobody has any more; the state still holds them."""
    before = tables(tmp_path)
    store.push("orders", [order(50, user="c", amount=7.0)])
    began = clock.instant_us
    assert counts(store, clock) == [2, 2, 2]
    restore(tmp_path, before)
    assert code_of(store.catch_up) == "state-ahead-of-log"
    clock.instant_us += 1_000_000
    report = store.audit("model", since=to_datetime(began), until=to_datetime(clock.instant_us))
    assert report.verdict == "fail"
    assert set(report.causes) == {"source_rewritten"}
