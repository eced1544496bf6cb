"""Rows are explained batch by batch: every row is in one batch, and the findings do not depend on the batches."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.temporal import to_datetime
from featurestore.guard.causes import explanation
from featurestore.guard.causes.batches import batches_of
from featurestore.guard.causes.model import Facts
from featurestore.guard.world.events import Events
from tests.strategies import START_US

HOUR = 3_600_000_000
INSTANT = pa.timestamp("us", tz="UTC")


def facts(weights):
    """Return facts by which the n-th user has so many events."""
    counts = np.array(weights, dtype=np.int64)
    return Facts((), lambda *_: None, count_events=lambda _, keys: counts[keys[0].to_numpy()])


@pytest.fixture
def store(tmp_path):
    """A store with thirty users of some events each."""
    chance = np.random.default_rng(5)
    table = pa.table(
        {
            "user": np.arange(300) % 30,
            "at": pa.array(START_US + chance.integers(0, 48, 300) * HOUR + 1, pa.int64()).cast(INSTANT),
            "amount": chance.integers(1, 9, 300).astype(np.float64),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    view = FeatureView(
        "spending",
        entity=Entity("user", key="user", dtype="int64"),
        source=FileSource("events", path=tmp_path / "events.parquet", event_time="at"),
        features={"total": agg.sum(col("amount")).over("1d"), "orders": agg.count().over("2d")},
    )
    with FeatureStore.local(tmp_path / "store") as found:
        found.apply(FeatureService("model", features=[view]))
        yield found


def log_of(store, users):
    plan = store.plan("model")
    return plan, pa.table({"key__user": pa.array(users, pa.int64())})


def test_batches_hold_every_row_and_keep_entities_together(store):
    users = [5, 1, 2, 5, 3, 1, 4]
    plan, log = log_of(store, users)
    found = batches_of(plan, log, facts([0, 10, 10, 10, 10, 25]), most_events=25)
    assert sorted(np.concatenate(found).tolist()) == list(range(7))
    assert len(found) > 2
    owners = [{users[row] for row in rows} for rows in found]
    assert sum(len(one) for one in owners) == 5, "every user is in one batch"
    assert all(sum([0, 10, 10, 10, 10, 25][user] for user in one) <= 25 for one in owners)


def test_an_entity_that_several_keys_name_weighs_once(store, tmp_path):
    """Two hundred users of one shop with very many events are one batch: its events are in memory once."""
    source = FileSource("shops", path=tmp_path / "shops.parquet", event_time="at")
    table = pa.table({"shop": pa.array([1]), "at": pa.array([START_US], pa.int64()).cast(INSTANT)})
    pq.write_table(table, tmp_path / "shops.parquet")
    shops = FeatureView(
        "shops",
        entity=Entity("shop", key="shop", dtype="int64"),
        source=source,
        features={"sales": agg.count().lifetime()},
    )
    spending = FeatureView(
        "spending",
        entity=Entity("user", key="user", dtype="int64"),
        source=FileSource("events", path=tmp_path / "events.parquet", event_time="at"),
        features={"orders": agg.count().over("2d")},
    )
    store.apply(FeatureService("both", features=[shops, spending]))
    log = pa.table({"key__user": pa.array(range(200), pa.int64()), "key__shop": pa.array([1] * 200, pa.int64())})
    counts = {"shops": 900, "spending": 1}
    weighing = Facts((), lambda *_: None, count_events=lambda view, keys: np.full(len(keys[0]), counts[view.name]))
    assert [len(rows) for rows in batches_of(store.plan("both"), log, weighing, most_events=1100)] == [200]
    assert [len(rows) for rows in batches_of(store.plan("both"), log, weighing, most_events=1000)] == [100, 100]


def served_wrong(store):
    """Log what would have been served had one event of every third user been lost, and the rest as it is."""
    as_of = to_datetime(START_US + 49 * HOUR)
    store.materialize(until=to_datetime(START_US + 50 * HOUR))
    answer = store.get_online_features("model", [{"user": user} for user in range(30)], as_of=as_of)
    rows = [list(row) for row in answer.rows]
    for user in range(0, 30, 3):
        rows[user][list(answer.columns).index("spending__orders")] -= 1
    store.parts.serving_log.append(store.plan("model"), replace(answer, rows=rows, request_id="wrong"))


def test_findings_do_not_depend_on_the_batches(store, monkeypatch):
    served_wrong(store)
    span = {"since": to_datetime(START_US), "until": to_datetime(START_US + 99 * HOUR)}
    whole = store.audit("model", **span)
    asked = []
    monkeypatch.setattr(
        "featurestore.guard.audit.proving.batches_of",
        lambda *given: asked.append(batches_of(*given, most_events=200)) or asked[-1],
    )
    apart = store.audit("model", **span)
    assert len(asked[0]) == 2
    assert whole.different == 10
    assert apart.examined == whole.examined == 10
    assert apart.causes == whole.causes
    assert {finding.rows for finding in apart.findings} == {finding.rows for finding in whole.findings}


def test_single_events_are_searched_for_every_entity_however_few_a_sample_holds(tmp_path, monkeypatch):
    """A search finds the events of its sample alone: here less than a hundredth of all that is to be explained."""
    monkeypatch.setattr(explanation, "_SAMPLED_PER_OUTPUT", 4)
    users, each = 700, 6
    chance = np.random.default_rng(3)
    table = pa.table(
        {
            "user": np.arange(users * each) % users,
            "at": pa.array(START_US + chance.integers(0, 40, users * each) * HOUR + 1, pa.int64()).cast(INSTANT),
            "amount": chance.integers(1, 1 << 30, users * each) / 64,
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    view = FeatureView(
        "spending",
        entity=Entity("user", key="user", dtype="int64"),
        source=FileSource("events", path=tmp_path / "events.parquet", event_time="at"),
        features={"total": agg.sum(col("amount")).lifetime()},
    )
    lost = dict(zip(table.column("user").to_pylist(), table.column("amount").to_pylist(), strict=True))
    as_of = to_datetime(START_US + 49 * HOUR)
    with FeatureStore.local(tmp_path / "store") as store:
        store.apply(FeatureService("model", features=[view]))
        store.materialize(until=to_datetime(START_US + 50 * HOUR))
        answer = store.get_online_features("model", [{"user": user} for user in range(users)], as_of=as_of)
        rows = [[total - lost[user]] for user, (total,) in enumerate(answer.rows)]
        store.parts.serving_log.append(store.plan("model"), replace(answer, rows=rows, request_id="wrong"))
        report = store.audit("model", since=to_datetime(START_US), until=to_datetime(START_US + 99 * HOUR))
    assert report.causes == {"event_lost": users}


def test_narrowed_events_keep_their_numbers():
    table = pa.table({"user": ["b", "a", " A", "c"], "x": [1, 2, 3, 4]})
    events = Events(table, ("user",), numbers=np.array([7, 8, 9, 10]))
    own = events.only([pa.array(["a"])])
    assert own.table.column("x").to_pylist() == [2, 3]
    assert own.numbers_of(np.array([0, 1])).tolist() == [8, 9]
    assert own.rows_of(np.array([9, 7, 8])).tolist() == [1, 0]
    assert events.only([pa.array(["a", "b", "c"])]) is events
