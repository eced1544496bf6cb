"""Forgetting an entity: nothing of it answers any more, and what lies elsewhere is named."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from random import Random
from threading import Thread
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from sqlalchemy.pool import Pool

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.config import Config
from featurestore.core.errors import (
    RegistryError,
    RequestError,
    StateError,
    StorageError,
)
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.online import forgetting
from featurestore.online.pushing.dead_letters import DeadLetter, append_letters, letters_file
from featurestore.registry.data_folders import DataFolders
from featurestore.sources.pushed import PushedEvents
from tests.stores import NETWORKED, local_store

USER = Entity("user", key="user", dtype="string")
SHOP = Entity("shop", key="shop", dtype="int64")
T0 = instant_us("2026-03-01T00:00:00Z")
HOUR = 3_600_000_000


def table(rows):
    users, shops, hours, amounts = zip(*rows, strict=True)
    return pa.table(
        {
            "user": pa.array(users, pa.string()),
            "shop": pa.array(shops, pa.int64()),
            "at": pa.array([T0 + hour * HOUR for hour in hours], pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            "amount": pa.array(amounts, pa.float64()),
        }
    )


ROWS = [("ann", 1, 1, 1.0), ("anna", 1, 2, 2.0), ("ann", 2, 3, 4.0)]


@pytest.fixture
def clock():
    return FixedClock(T0 + 24 * HOUR)


@pytest.fixture(params=["sqlite", *NETWORKED])
def store(request, tmp_path, clock, online_urls_of):
    online = None if request.param == "sqlite" else online_urls_of(request.param)
    with local_store(tmp_path / "store", online=online, clock=clock) as opened:
        yield opened


@pytest.fixture
def orders(tmp_path):
    pq.write_table(table(ROWS), tmp_path / "orders.parquet")
    return FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")


@pytest.fixture
def clicks(tmp_path):
    dtypes = {"user": "string", "shop": "int64", "at": "timestamp", "amount": "float64"}
    return FileSource("clicks", path=str(tmp_path / "none.parquet"), event_time="at", stream=True, dtypes=dtypes)


def service(source, name="by_user", entity=USER):
    features = {"n": agg.count().lifetime(), "total": agg.sum(col("amount")).lifetime()}
    return FeatureService(
        f"{name}_model", features=[FeatureView(name, entity=entity, source=source, features=features)]
    )


def ask(store, user, name="by_user"):
    answer = store.get_online_features(f"{name}_model", [{"user": user}])
    return answer.rows[0], answer.statuses[0][0]


def pushed(hour, user="ann", amount=8.0):
    return {"user": user, "shop": 1, "at": f"2026-03-01T{hour:02}:00:00Z", "amount": amount}


def test_states_are_gone_in_all_plans_and_only_of_the_one(store, orders, tmp_path):
    store.apply(service(orders))
    store.materialize()
    store.materialize(full=True)
    found = store.forget("user", {"user": "ann"})
    assert [(state.view, state.is_rebuilt) for state in found.states] == [("by_user", True)]
    assert ask(store, "ann") == ([0, None], "NOT_FOUND")
    assert ask(store, "anna") == ([1, 2.0], "PRESENT")
    assert store.forget("user", {"user": "ann"}).states == ()
    assert any("orders.parquet" in sentence for sentence in found.unreachable)
    assert not (tmp_path / "store" / "event_log.db").exists()


def test_an_entity_that_is_gone_from_the_files_stays_gone(store, orders):
    store.apply(service(orders))
    store.materialize()
    store.forget("user", {"user": "ann"})
    pq.write_table(table([row for row in ROWS if row[0] != "ann"]), orders.path)
    (run,) = store.materialize()
    assert run.rebuilt == "an entity was forgotten"
    assert ask(store, "ann")[1] == "NOT_FOUND"
    assert store.materialize()[0].rebuilt == ""


def test_an_entity_that_is_still_in_the_files_comes_back_whole_never_in_part(store, orders, tmp_path, clock):
    store.apply(service(orders))
    store.materialize()
    store.forget("user", {"user": "ann"})
    pq.write_table(table([*ROWS, ("ann", 1, 30, 8.0)]), orders.path)
    clock.instant_us += 12 * HOUR
    store.materialize()
    assert ask(store, "ann") == ([3, 13.0], "PRESENT")


def test_pushed_events_are_gone_on_both_roads_and_new_ones_count_from_nothing(store, clicks, tmp_path, clock):
    store.apply(service(clicks))
    store.push("clicks", [pushed(1), pushed(2, user="bob"), pushed(3)])
    store.compact("clicks")
    store.push("clicks", [pushed(4)])
    clock.instant_us += HOUR
    assert ask(store, "ann")[0] == [3, 24.0]
    found = store.forget("user", {"user": "ann"})
    assert dict(found.events) == {"clicks": 3}
    assert [state.is_rebuilt for state in found.states] == [False]
    assert not any("clicks" in sentence for sentence in found.unreachable)
    assert ask(store, "ann")[1] == "NOT_FOUND"
    assert ask(store, "bob")[0] == [1, 8.0]
    clock.instant_us += HOUR
    store.push("clicks", [pushed(5, amount=0.5)])
    clock.instant_us += HOUR
    as_of = pa.array([clock.instant_us], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    spine = pa.table({"user": ["ann"], "as_of": as_of})
    built = pq.read_table(
        store.training_set("by_user_model", spine, tmp_path / "training", overwrite=True).path
    ).to_pylist()
    assert ask(store, "ann")[0] == [1, 0.5] == [built[0]["by_user__n"], built[0]["by_user__total"]]
    store.materialize(full=True)
    assert ask(store, "ann")[0] == [1, 0.5]


def test_what_was_served_is_gone_under_every_role(store, orders):
    alone = service(orders)
    (view,) = alone.features
    store.apply(alone, FeatureService("pair", features=[view, view.aliased("friend", keys={"user": "friend"})]))
    store.materialize()
    ask(store, "ann")
    ask(store, "anna")
    for user, friend in (("ann", "bob"), ("bob", "ann"), ("bob", "anna")):
        store.get_online_features("pair", [{"user": user, "friend": friend}])
    found = store.forget("user", {"user": "ann"})
    assert dict(found.served) == {"by_user_model": 1, "pair": 2}
    since, until = T0, T0 + 48 * HOUR
    kept = [
        row
        for name in ("by_user_model", "pair")
        for table in store.parts.serving_log.read(name, since_us=since, until_us=until)
        for row in table.to_pylist()
    ]
    assert sorted((row["key__user"], row.get("key__friend")) for row in kept) == [("anna", None), ("bob", "anna")]
    assert dict(store.forget("user", {"user": "anna"}).served) == {"by_user_model": 1, "pair": 1}
    assert store.forget("user", {"user": "anna"}).served == {}


def test_values_of_other_entities_made_of_the_same_events_are_named(store, orders):
    store.apply(service(orders), service(orders, "by_shop", SHOP))
    store.materialize()
    found = store.forget("user", {"user": "ann"})
    assert any("'by_shop' of entity 'shop'" in sentence for sentence in found.unreachable)
    assert [state.view for state in found.states] == ["by_user"]


def test_keys_that_are_none_are_refused(store, orders):
    store.apply(service(orders))
    for entity, keys, code in (
        ("usr", {"user": "ann"}, "unknown-entity"),
        ("user", {"usr": "ann"}, "wrong-keys"),
        ("user", {"user": 3}, "wrong-dtype"),
        ("user", {"user": None}, "null-key"),
    ):
        with pytest.raises(RequestError) as caught:
            store.forget(entity, keys)
        assert caught.value.code == code


def test_a_run_under_way_is_waited_for(store, orders):
    store.apply(service(orders))
    store.materialize()
    name = f"materialize-{store.views()[0].fingerprint[:16]}"
    with store.parts.online.exclusive(name), pytest.raises(StateError) as caught:
        store.forget("user", {"user": "ann"}, wait_seconds=0.05)
    assert caught.value.code == "busy"


class Between:
    """Lets another store forget while a push goes on: as soon as its events are in the log."""

    def __init__(self, store, other, user):
        self._append, self._other, self._user = store.parts.event_log.append, other, user
        store.parts.event_log.append = self._appended

    def _appended(self, *given, **options):
        appended = self._append(*given, **options)
        self.thread = Thread(target=lambda: self._other.forget("user", {"user": self._user}))
        self.thread.start()
        self.thread.join(0.5)
        return appended


def both_roads(store, clock, folder, users):
    """Return what online state says of some users, having made sure that a training set says the same."""
    clock.instant_us += HOUR
    store.catch_up()
    as_of = pa.array([clock.instant_us] * len(users), pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    spine = pa.table({"user": pa.array(users, pa.string()), "as_of": as_of})
    built = store.training_set("by_user_model", spine, folder / uuid4().hex, statuses=True).to_arrow().to_pylist()
    answer = store.get_online_features("by_user_model", [{"user": user} for user in users])
    found = [(row[0], row[1]) for row in answer.rows]
    assert found == [(row["by_user__n"], row["by_user__total"]) for row in built]
    return found


@pytest.mark.parametrize("is_first_push", [False, True])
def test_a_push_under_way_does_not_bring_back_what_is_forgotten_meanwhile(
    tmp_path, clock, clicks, online_urls_of, is_first_push
):
    online = online_urls_of("memory")
    with (
        local_store(tmp_path / "store", online=online, clock=clock) as store,
        local_store(tmp_path / "store", online=online, clock=clock) as other,
    ):
        store.apply(service(clicks))
        if not is_first_push:
            store.push("clicks", [pushed(1), pushed(2, user="bob")])
        between = Between(store, other, "ann")
        store.push("clicks", [pushed(3), pushed(4, user="bob")])
        between.thread.join()
        assert both_roads(store, clock, tmp_path, ["ann"]) == [(0, None)]
        assert both_roads(store, clock, tmp_path, ["bob"])[0][0] == (1 if is_first_push else 2)


def test_a_push_that_could_not_be_announced_does_not_bring_it_back_either(tmp_path, clock, clicks):
    """Lookups could not be told of the push: online state was down. So nothing held off who forgets."""
    with (
        local_store(tmp_path / "store", clock=clock) as store,
        local_store(tmp_path / "store", clock=clock) as other,
    ):
        store.apply(service(clicks))
        store.push("clicks", [pushed(1), pushed(2, user="bob")])

        def down(*_, **__):
            raise StorageError("the store is down")

        write, store.parts.online.write = store.parts.online.write, down
        between = Between(store, other, "ann")
        assert not store.push("clicks", [pushed(3), pushed(4, user="bob")]).is_followed
        between.thread.join()
        store.parts.online.write = write
        assert both_roads(store, clock, tmp_path, ["ann", "bob"]) == [(0, None), (2, 16.0)]


def test_a_push_that_lost_its_lock_does_not_bring_it_back_either(tmp_path, clock, clicks, online_urls_of):
    """A lease ran out; whoever forgets got the lock that the push believed to hold."""
    online = online_urls_of("memory")
    with (
        local_store(tmp_path / "store", online=online, clock=clock) as store,
        local_store(tmp_path / "store", online=online, clock=clock) as other,
    ):
        store.apply(service(clicks))
        store.push("clicks", [pushed(1), pushed(2, user="bob")])
        store.parts.online.exclusive = lambda name: nullcontext()
        between = Between(store, other, "ann")
        store.push("clicks", [pushed(3), pushed(4, user="bob")])
        between.thread.join()
        del store.parts.online.exclusive
        assert both_roads(store, clock, tmp_path, ["ann", "bob"]) == [(0, None), (2, 16.0)]


def test_catching_up_does_not_bring_back_what_is_forgotten_while_it_reads(tmp_path, clock, clicks, monkeypatch):
    with (
        local_store(tmp_path / "store", clock=clock) as store,
        local_store(tmp_path / "store", clock=clock) as other,
    ):
        store.apply(service(clicks))
        store.push("clicks", [pushed(1), pushed(2, user="bob")])
        store.parts.event_log.append(
            "clicks",
            table([("ann", 1, 3, 8.0)]),
            event_id=None,
            convert=None,
            now_us=clock.now_us,
        )
        read = PushedEvents._read
        threads = []

        def slowly(pushed_events, *given):
            found = read(pushed_events, *given)
            if not threads:
                threads.append(Thread(target=lambda: other.forget("user", {"user": "ann"})))
                threads[0].start()
                threads[0].join(0.5)
            return found

        monkeypatch.setattr(PushedEvents, "_read", slowly)
        store.catch_up()
        threads[0].join()
        assert both_roads(store, clock, tmp_path, ["ann", "bob"]) == [(0, None), (1, 8.0)]


def test_whatever_is_forgotten_while_others_push_both_roads_say_the_same(tmp_path, clicks, online_urls_of):
    """Forgotten, and pushed again meanwhile: what is left is the same in the log and in online state."""
    clock = FixedClock(T0 + 24 * HOUR)
    online = online_urls_of("memory")
    users = ["ann", "bob", "cid"]

    def work(number):
        random = Random(number)
        with local_store(tmp_path / "store", online=online, clock=clock) as own:
            for _ in range(12):
                match random.randrange(4):
                    case 0:
                        own.forget("user", {"user": random.choice(users)})
                    case 1:
                        own.compact("clicks")
                    case _:
                        events = [pushed(random.randrange(20), user) for user in random.sample(users, 2)]
                        own.push("clicks", events)
                clock.instant_us += 1

    with local_store(tmp_path / "store", online=online, clock=clock) as store:
        store.apply(service(clicks))
        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(work, number) for number in range(3)]:
                done.result()
        both_roads(store, clock, tmp_path, users)
        for user in users:
            store.forget("user", {"user": user})
        assert both_roads(store, clock, tmp_path, users) == [(0, None)] * 3


def test_dying_while_states_are_removed_leaves_a_view_that_is_rebuilt(tmp_path, clock, orders, online_urls_of):
    """What is left of the entity must not be extended by later events: it would be known in part."""
    with local_store(tmp_path / "store", online=online_urls_of("memory"), clock=clock) as store:
        store.apply(service(orders))
        store.materialize()

        def dies(_):
            raise StorageError("killed")

        delete, store.parts.online.delete = store.parts.online.delete, dies
        with pytest.raises(StorageError):
            store.forget("user", {"user": "ann"})
        store.parts.online.delete = delete
        pq.write_table(table([row for row in ROWS if row[0] != "ann"]), orders.path)
        assert store.materialize()[0].rebuilt == "an entity was forgotten"
        assert ask(store, "ann")[1] == "NOT_FOUND"


def test_what_is_pushed_while_the_log_is_looked_through_is_gone_on_both_roads(
    tmp_path, clock, clicks, online_urls_of, monkeypatch
):
    online = online_urls_of("memory")
    with (
        local_store(tmp_path / "store", online=online, clock=clock) as store,
        local_store(tmp_path / "store", online=online, clock=clock) as other,
    ):
        store.apply(service(clicks))
        store.push("clicks", [pushed(1), pushed(2, user="bob")])
        remove, late = forgetting.forget_events, [pushed(3), pushed(4, user="bob")]

        def removed(*given, **options):
            count = remove(*given, **options)
            if late:
                other.push("clicks", [late.pop(), late.pop()])
            return count

        monkeypatch.setattr(forgetting, "forget_events", removed)
        assert dict(store.forget("user", {"user": "ann"}).events) == {"clicks": 2}
        assert both_roads(store, clock, tmp_path, ["ann", "bob"]) == [(0, None), (2, 16.0)]


def other_key(store, folder, entity, dtypes=None):
    """Apply the view with another entity key; the source's columns may be declared anew."""
    known = {"user": "string", "shop": "int64", "at": "timestamp", "amount": "float64"}
    source = FileSource(
        "clicks", path=str(folder / "none.parquet"), event_time="at", stream=True, dtypes=known | (dtypes or {})
    )
    store.apply(service(source, entity=entity))


def test_events_that_were_pushed_before_a_column_was_a_key_are_of_no_entity_and_stop_nobody(store, clock, tmp_path):
    other_key(store, tmp_path, USER)
    store.push("clicks", [{"user": "ann", "shop": None, "at": "2026-03-01T01:00:00Z", "amount": 1.0}, pushed(2)])
    other_key(store, tmp_path, Entity("user", key=("user", "shop"), dtype=("string", "int64")))
    assert store.push("clicks", [pushed(3)]).is_followed
    store.materialize()
    clock.instant_us += HOUR
    as_of = pa.array([clock.instant_us], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    spine = pa.table({"user": ["ann"], "shop": pa.array([1], pa.int64()), "as_of": as_of})
    (built,) = store.training_set("by_user_model", spine, tmp_path / "training", overwrite=True).to_arrow().to_pylist()
    answer = store.get_online_features("by_user_model", [{"user": "ann", "shop": 1}])
    assert answer.rows == [[2, 16.0]] == [[built["by_user__n"], built["by_user__total"]]]


def test_what_older_keys_left_is_forgotten_by_them_and_named_otherwise(store, clock, tmp_path):
    other_key(store, tmp_path, USER)
    store.push("clicks", [pushed(1), pushed(2, user="bob")])
    other_key(store, tmp_path, Entity("user", key=("shop", "user"), dtype=("int64", "string")))
    store.push("clicks", [pushed(3), pushed(4, user="bob")])
    store.materialize()
    found = store.forget("user", {"user": "ann", "shop": 1})
    assert dict(found.events) == {"clicks": 2}
    assert len(found.states) == 1
    assert any("kept by 'user'" in sentence for sentence in found.unreachable)
    found = store.forget("user", {"user": "ann"})
    assert len(found.states) == 1
    assert any("kept by 'shop', 'user'" in sentence for sentence in found.unreachable)
    with pytest.raises(RequestError, match="'shop', 'user' or 'user'"):
        store.forget("user", {"shop": 1})
    clock.instant_us += HOUR
    answer = store.get_online_features("by_user_model", [{"user": user, "shop": 1} for user in ("ann", "bob")])
    assert answer.rows == [[0, None], [2, 16.0]]


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("given", ["7", 7])
def test_a_key_that_had_another_dtype_is_forgotten_in_both(store, clock, tmp_path, given, is_mixed):
    """Also as ``07``, which is read as 7; and beside what is no key of the new dtype, so that no view is filled."""
    others = [pushed(2, user=other) for other in ("07", "x7")] if is_mixed else []
    other_key(store, tmp_path, USER)
    store.push("clicks", [pushed(1, user="7"), pushed(1, user="6"), *others])
    store.compact("clicks")
    store.push("clicks", [pushed(3, user="7")])
    other_key(store, tmp_path, Entity("user", key="user", dtype="int64"), {"user": "int64"})
    store.push("clicks", [pushed(4, user=7), pushed(5, user=8)])
    found = store.forget("user", {"user": given})
    assert dict(found.events) == {"clicks": 4 if is_mixed else 3}
    assert len(found.states) == (1 if is_mixed else 2)
    if not is_mixed:
        store.materialize(full=True)
        clock.instant_us += HOUR
        answer = store.get_online_features("by_user_model", [{"user": user} for user in (6, 7, 8)])
        assert answer.rows == [[1, 8.0], [0, None], [1, 8.0]]


def test_what_was_served_by_older_keys_is_gone_too(store, clock, tmp_path):
    other_key(store, tmp_path, USER)
    store.push("clicks", [pushed(1, user="7")])
    clock.instant_us += HOUR
    ask(store, "7")
    other_key(store, tmp_path, Entity("user", key="user", dtype="int64"), {"user": "int64"})
    store.materialize()
    clock.instant_us += HOUR
    store.get_online_features("by_user_model", [{"user": 7}])
    assert dict(store.forget("user", {"user": 7}).served) == {"by_user_model": 2}


def letter(events):
    value = base64.b64encode(events if isinstance(events, bytes) else json.dumps(events).encode()).decode()
    return DeadLetter("topic", 0, 1, None, "", "it cannot be pushed", value)


def stream_of(table):
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def test_dead_letters_about_an_entity_are_gone_and_those_that_cannot_be_read_are_named(store, clicks):
    store.apply(service(clicks))
    of_ann = [pushed(1), [pushed(1, user="bob"), pushed(2)], stream_of(table(ROWS)), {"user": "ann"}]
    others = [pushed(1, user="anna"), [], [7], stream_of(table(ROWS[1:2])), {"usr": "ann"}]
    unreadable = [b"{", stream_of(table(ROWS))[:-300]]
    path = letters_file(store.config.data, "clicks")
    append_letters(path, [letter(events) for events in (*of_ann, *others, *unreadable)])
    found = store.forget("user", {"user": "ann"})
    assert dict(found.dead_letters) == {"clicks": 4}
    assert any("clicks.jsonl holds 2 messages" in sentence for sentence in found.unreachable)
    kept = [msgspec.json.decode(line, type=DeadLetter) for line in path.read_bytes().splitlines()]
    assert kept == [letter(events) for events in (*others, *unreadable)]
    assert store.forget("user", {"user": "ann"}).dead_letters == {}


def test_no_file_holds_what_is_forgotten(tmp_path, clock, clicks):
    """Also if SQLite was built to leave what is deleted where it is."""

    def leave(connection, _):
        connection.execute("PRAGMA secure_delete = OFF")

    sa.event.listen(Pool, "connect", leave)
    try:
        with local_store(tmp_path / "store", clock=clock) as store:
            store.apply(service(clicks))
            for number in range(20):
                store.push("clicks", [pushed(number, user=user) for user in ("zebedee", f"user {number}")])
            ask(store, "zebedee")
            found = store.forget("user", {"user": "zebedee"})
            holds = [
                path for path in (tmp_path / "store").rglob("*") if path.is_file() and b"zebedee" in path.read_bytes()
            ]
            assert holds == []
            assert not any("-wal" in sentence for sentence in found.unreachable)
    finally:
        sa.event.remove(Pool, "connect", leave)


@pytest.mark.parametrize("kind", NETWORKED)
def test_where_a_server_keeps_what_it_deleted_is_named(tmp_path, clock, clicks, online_urls_of, kind):
    with local_store(tmp_path / "store", online=online_urls_of(kind), clock=clock) as store:
        store.apply(service(clicks))
        sentences = store.forget("user", {"user": "ann"}).unreachable
    assert any(("PostgreSQL" if kind == "postgres" else "Redis") + " keeps deleted" in one for one in sentences)


def left_in(folder, word):
    """Return the files under a folder that hold a word, also inside Parquet."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            text = str(pq.read_table(path, partitioning=None).to_pylist()) if path.suffix == ".parquet" else ""
            if word.encode() in path.read_bytes() or word in text:
                found.add(path.name)
    return found


def of(source, name):
    return FeatureView(name, entity=USER, source=source, features={"n": agg.count().lifetime()})


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("removed", ["service", "view", "source", "all"])
def test_what_was_removed_by_an_apply_is_forgotten_too(tmp_path, clock, clicks, removed, is_compacted):
    """Services, views and sources that were, with states, events, rows and letters."""
    folder = tmp_path / "store"
    kept = replace(clicks, name="kept", path=str(tmp_path / "kept.parquet"))
    with local_store(folder, clock=clock) as store:
        store.apply(FeatureService("old", features=[of(clicks, "a"), of(kept, "b")]))
        for name in ("clicks", "kept"):
            store.push(name, [pushed(3, "ann-the-one"), pushed(4, "other")])
        store.materialize()
        store.get_online_features("old", [{"user": "ann-the-one"}, {"user": "other"}])
        letter = base64.b64encode(json.dumps(pushed(5, "ann-the-one")).encode()).decode()
        append_letters(letters_file(folder, "clicks"), [DeadLetter("t", 0, 0, 0, "", "", letter)])
        clock.instant_us += HOUR
        if is_compacted:
            assert store.compact() == {"clicks": 2, "kept": 2}
        service = FeatureService("new", features=[of(kept, "b")])
        match removed:
            case "service":
                store.apply(service, of(clicks, "a"), prune=True)
            case "view":
                store.apply(service, clicks, prune=True)
            case "source":
                store.apply(service, prune=True)
            case "all":
                store.apply(FeatureService("other", features=[of(replace(kept, name="x"), "c")]), prune=True)
        found = store.forget("user", {"user": "ann-the-one"})
        assert (found.events, found.served, found.dead_letters) == ({"clicks": 1, "kept": 1}, {"old": 1}, {"clicks": 1})
        assert {state.view for state in found.states} == {"a", "b"}
    assert left_in(folder, "ann-the-one") == set()
    assert left_in(folder, "other"), "of others everything is there"


def test_rows_of_services_that_were_never_applied_here_are_named(tmp_path, clock, clicks):
    """The registry is a new one, and the serving log's folder an old one."""
    with local_store(tmp_path / "store", clock=clock) as store:
        store.apply(service(clicks))
        (tmp_path / "store/serving_log/service=lost/day=2026-01-01").mkdir(parents=True)
        assert any("service 'lost'" in sentence for sentence in store.forget("user", {"user": "ann"}).unreachable)


def on_machine(folder, monkeypatch, name, clock, **settings):
    """Open the store of a machine: its own data folder, and databases that all machines use."""
    monkeypatch.setattr("socket.gethostname", lambda: name)
    shared = Config.local(folder / "shared").model_copy(update={"data": folder / name, **settings})
    return FeatureStore(shared, clock=clock)


def test_data_folders_of_other_machines_are_named(tmp_path, clock, clicks, monkeypatch):
    """Rows that other machines served cannot be reached from here; a machine with the same folder is none of these."""
    with on_machine(tmp_path, monkeypatch, "first", clock) as store:
        store.apply(service(clicks))
        store.push("clicks", [pushed(3)])
        ask(store, "ann")
    with on_machine(tmp_path, monkeypatch, "second", clock) as store:
        ask(store, "ann")
    with on_machine(tmp_path, monkeypatch, "third", clock, data=tmp_path / "second") as store:
        ask(store, "ann")
    with on_machine(tmp_path, monkeypatch, "third", clock, data=tmp_path / "second") as store:
        found = store.forget("user", {"user": "ann"})
        named = [sentence for sentence in found.unreachable if "another data folder" in sentence]
        assert len(named) == 1
        assert f"'{tmp_path}/first' on machine 'first' (last used 2026-03-02T" in named[0]
        assert found.served == {"by_user_model": 2}
        report = store.audit("by_user_model", since="1h")
        assert (report.verdict, report.served) == ("cannot tell", 0)
        assert any(f"'{tmp_path}/first' on machine 'first'" in note for note in report.notes)
    assert left_in(tmp_path / "first", "ann")


def test_compacted_events_that_are_not_on_this_machine_are_named(tmp_path, clock, clicks, monkeypatch):
    with on_machine(tmp_path, monkeypatch, "first", clock) as store:
        store.apply(service(clicks))
        store.push("clicks", [pushed(3)])
        clock.instant_us += HOUR
        store.compact()
        store.push("clicks", [pushed(4)])
    with on_machine(tmp_path, monkeypatch, "second", clock) as store:
        found = store.forget("user", {"user": "ann"})
        assert found.events == {"clicks": 1}
        (named,) = [sentence for sentence in found.unreachable if "compacted events" in sentence]
        assert str(tmp_path / "second/event_log/source=clicks") in named


def test_a_registry_that_is_away_holds_up_no_answer(tmp_path, clock, clicks, monkeypatch):
    """The folder is registered in the background, and by a later use if it could not be."""
    with on_machine(tmp_path, monkeypatch, "first", clock) as store:
        store.apply(service(clicks))
        store.push("clicks", [pushed(3)])
        with monkeypatch.context() as patched:
            patched.setattr(DataFolders, "register", lambda self: (_ for _ in ()).throw(RegistryError("away")))
            ask(store, "ann")
            store.parts.serving_log.flush()
            store.parts.data_folders.close()
        ask(store, "ann")
    with on_machine(tmp_path, monkeypatch, "second", clock) as store:
        assert [folder.host for folder in store.parts.data_folders.others()] == ["first"]
        assert store.parts.data_folders.others(since_us=clock.instant_us + 2 * HOUR) == ()
