"""Pushing events: what is taken, what is rejected and why, and what lookups and training sets see of it."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, FrameSource, agg, col, every
from featurestore.core.errors import (
    RequestError,
    SourceDataError,
    SourceMissingError,
    StorageError,
)
from featurestore.core.temporal import FixedClock, instant_us

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
USER = Entity("user", key="user", dtype="string")
DTYPES = {"user": "string", "amount": "float64", "at": "timestamp", "id": "int64", "note": "string"}


def orders(folder, **options):
    defaults = {"event_time": "at", "event_id": "id", "stream": True, "dtypes": DTYPES}
    return FileSource("orders", path=folder / "orders/*.parquet", **defaults | options)


def spending(source, **options):
    features = {
        "count": agg.count().over("1d"),
        "total": agg.sum(col("amount")).over("1d"),
        "last": agg.last(col("amount")),
    }
    return FeatureService(
        "model", features=[FeatureView("spending", entity=USER, source=source, features=features, **options)]
    )


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def store(tmp_path, clock):
    with FeatureStore.local(tmp_path / "store", clock=clock) as opened:
        opened.apply(spending(orders(tmp_path)))
        yield opened


def order(number, amount=1.0, *, user="a", ago=timedelta(minutes=1)):
    return {"user": user, "amount": amount, "at": NOW - ago, "id": number}


def ask(store, clock, user="a"):
    clock.instant_us += 1_000_000
    return store.get_online_features("model", [{"user": user}]).to_dicts()[0]


def test_a_pushed_event_is_served_without_anything_else_being_done(store, clock):
    result = store.push("orders", [order(1, 2.5), order(2, 4.0, ago=timedelta(hours=1))])
    assert (result.accepted, result.duplicates, result.sequence, result.is_followed) == (2, 0, 1, True)
    assert ask(store, clock) == {"user": "a", "spending__count": 2, "spending__last": 2.5, "spending__total": 6.5}


def test_the_same_id_counts_once(store, clock):
    store.push("orders", [order(1), order(1), order(2)])
    result = store.push("orders", [order(2), order(3)])
    assert (result.accepted, result.duplicates) == (1, 1)
    assert ask(store, clock)["spending__count"] == 3


def test_of_one_push_the_smallest_of_equal_ids_counts(store, clock):
    result = store.push("orders", [order(1, 9.0), order(1, 3.0), order(1, 5.0)])
    assert (result.accepted, result.duplicates) == (1, 2)
    assert ask(store, clock)["spending__last"] == 3.0


def test_pushes_that_are_committed_together_are_told_each_what_became_of_its_own(store, clock):
    store.push("orders", [order(1)])
    pushes = [
        [order(1), order(2, 5.0)],
        [order(2, 5.0) | {"note": "sent twice"}, order(3, 6.0), order(4, 7.0)],
        [],
        [order(5, 8.0) | {"note": "gift"}],
    ]
    together = store.parts.streams._sources()["orders"].pushes
    with ThreadPoolExecutor(len(pushes)) as pool:
        with together._commit_lock:
            waiting = []
            for number, events in enumerate(pushes, 1):
                waiting.append(pool.submit(store.push, "orders", events))
                while len(together._pending) < number:
                    time.sleep(0.001)
        results = [one.result() for one in waiting]
    assert [(one.accepted, one.duplicates) for one in results] == [(1, 1), (2, 1), (0, 0), (1, 0)]
    assert {(one.sequence, one.ingest_time_us) for one in results} == {(4, results[0].ingest_time_us)}
    assert ask(store, clock)["spending__total"] == 27.0


def test_an_instant_that_no_calendar_has_is_refused(store):
    with pytest.raises(RequestError, match="outside the years 1 to 9999"):
        store.push("orders", [order(1) | {"at": "9999-12-31T23:59:59-05:00"}])


def test_rows_without_what_others_have_are_taken_all_the_same(store, clock):
    result = store.push("orders", [order(1, 2.0) | {"note": "gift"}, order(2, 3.0), order(3, None)])
    assert (result.accepted, result.rejected) == (3, ())
    assert ask(store, clock) == {"user": "a", "spending__count": 3, "spending__last": 3.0, "spending__total": 5.0}


def test_a_training_set_sees_pushed_events_at_once(store, clock, tmp_path):
    store.push("orders", [order(1, 2.0)])
    clock.instant_us += 1_000_000
    spine = pd.DataFrame({"user": ["a"], "as_of": [NOW + timedelta(seconds=1)]})
    built = store.training_set("model", spine, tmp_path / "training", overwrite=True).to_pandas()
    assert built["spending__total"].tolist() == [2.0]


def test_an_event_is_not_visible_before_it_was_pushed(store, clock, tmp_path):
    store.push("orders", [order(1, ago=timedelta(hours=5))])
    spine = pd.DataFrame({"user": ["a", "a"], "as_of": [NOW, NOW + timedelta(microseconds=1)]})
    built = store.training_set("model", spine, tmp_path / "training", overwrite=True).to_pandas()
    assert built["spending__count"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("events", "field", "problem"),
    [
        ([order(1), order(2) | {"amount": "1"}], "/events/1/amount", "expected float64"),
        ([order(1) | {"amuont": 1.0}], "/events/0/amuont", "Did you mean 'amount'"),
        ([order(1) | {"at": datetime(2024, 5, 1)}], "/events/0/at", "time zone"),
        ([order(1) | {"at": None}], "/events/0/at", "null"),
        ([order(1) | {"user": None}], "/events/0/user", "null"),
        ([{"user": "a", "at": NOW, "id": 1}], "/events/0/amount", "missing"),
        ([order(1) | {"__ingest_time": NOW}], "/events/0/__ingest_time", "do not send"),
        ([order(1), "order"], "/events/1", "expected an object"),
        (pa.table({"user": ["a"], "amount": ["x"], "at": [NOW], "id": [1]}), "/events/0/amount", "expected float64"),
        (7, "/events", "expected a frame"),
    ],
)
def test_a_bad_row_rejects_the_push_whole_and_is_named(store, clock, events, field, problem):
    with pytest.raises(RequestError, match=problem) as caught:
        store.push("orders", events)
    assert caught.value.field == field
    store.push("orders", [order(1)])
    assert ask(store, clock)["spending__count"] == 1


def test_a_partial_push_takes_the_good_rows_and_lists_the_others(store, clock):
    result = store.push("orders", [order(1), order(2) | {"amount": True}, {}, order(3)], partial=True)
    assert result.accepted == 2
    assert [(row.row, row.field) for row in result.rejected] == [(1, "amount"), (2, "amount")]
    assert ask(store, clock)["spending__count"] == 2


@pytest.mark.parametrize("frame", [pa.table, pd.DataFrame, pl.DataFrame])
def test_frames_are_pushed_as_rows_are(store, clock, frame):
    columns = {"user": ["a", "a"], "amount": [1.5, float("nan")], "at": [NOW - timedelta(minutes=2)] * 2, "id": [1, 2]}
    assert store.push("orders", frame(columns)).accepted == 2
    assert ask(store, clock) == {"user": "a", "spending__count": 2, "spending__last": 1.5, "spending__total": 1.5}


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("id", pa.array([1, 2**64 - 1], pa.uint64()), "expected int64"),
        ("at", pa.array([0, 2**62], pa.timestamp("us", "UTC")), "out of range"),
        ("at", pa.array([0, 2**60], pa.timestamp("s", "UTC")), "out of range"),
        ("day", pa.array([0, 2**30], pa.int32()).cast(pa.date32()), "out of range"),
    ],
)
def test_what_a_frame_holds_that_no_row_could_is_named_by_row_and_field(tmp_path, clock, column, values, problem):
    columns = {name: pa.array([value] * 2) for name, value in (order(1) | {"day": NOW.date()}).items()}
    frame = pa.table(columns | {column: values})
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(spending(orders(tmp_path, dtypes=DTYPES | {"day": "date"}, event_id=None)))
        with pytest.raises(RequestError, match=problem) as caught:
            store.push("orders", frame)
        assert caught.value.field == f"/events/1/{column}"
        result = store.push("orders", frame, partial=True)
        assert (result.accepted, [row.field for row in result.rejected]) == (1, [column])


def test_text_that_is_no_utf8_is_refused_before_anything_is_kept(store, clock):
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    columns = {name: pa.array([value]) for name, value in order(1).items()}
    with pytest.raises(RequestError, match="column 'user' holds damaged Arrow data") as caught:
        store.push("orders", pa.table(columns | {"user": broken}))
    assert caught.value.field == "/events"
    store.push("orders", [order(1)])
    assert ask(store, clock)["spending__count"] == 1


def test_what_fails_after_the_commit_does_not_fail_the_push(store, clock, monkeypatch, caplog):
    """Whoever was told otherwise would push the same events again."""
    store.push("orders", [order(1)])

    def fail(*_, **__):
        raise SourceMissingError("the files are not there", where="source 'orders'")

    with monkeypatch.context() as patched:
        patched.setattr("featurestore.online.pushing.streams.stream_of", fail)
        result = store.push("orders", [order(2)])
    assert (result.accepted, result.is_followed) == (1, False)
    assert "the files are not there" in caplog.text
    assert store.catch_up() == 1
    assert store.parts.streams.failure is None
    assert ask(store, clock)["spending__count"] == 2


def test_a_view_that_cannot_follow_keeps_no_other_behind(tmp_path, clock):
    """What was pushed under another dtype cannot be read as the new one; other sources are followed all the same."""
    note = agg.last(col("note"))
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        both = [
            FeatureView(name, entity=USER, source=replace(orders(tmp_path), name=name), features={"note": note})
            for name in ("calls", "visits")
        ]
        store.apply(FeatureService("model", features=both))
        for name in ("calls", "visits"):
            store.push(name, [order(1) | {"note": "gift"}])
        calls = replace(orders(tmp_path), name="calls", dtypes=DTYPES | {"note": "int64"})
        changed = FeatureView("calls", entity=USER, source=calls, features={"note": note})
        store.apply(FeatureService("model", features=[changed, both[1]]))
        with pytest.raises(SourceDataError, match="column 'note'"):
            store.catch_up()
        clock.instant_us += 1_000_000
        with pytest.raises(SourceDataError, match="'gift', which is not an int64"):
            store.catch_up()
        answer = store.get_online_views(["visits"], [{"user": "a"}])
        assert answer.views["visits"].complete_until_us == clock.instant_us


@pytest.mark.parametrize("compacted", [False, True])
def test_events_pushed_under_a_narrower_dtype_are_read_as_the_wider_one(tmp_path, clock, compacted):
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(spending(orders(tmp_path, dtypes=DTYPES | {"amount": "int64"})))
        store.push("orders", [order(1, 2)])
        store.apply(spending(orders(tmp_path)))
        store.push("orders", [order(2, 0.5)])
        store.materialize()
        if compacted:
            clock.instant_us += 1_000_000
            assert store.compact() == {"orders": 2}
        clock.instant_us += 1_000_000
        spine = pd.DataFrame({"user": ["a"], "as_of": pd.to_datetime([clock.instant_us], unit="us", utc=True)})
        assert ask(store, clock)["spending__total"] == 2.5
        assert store.training_set("model", spine, tmp_path / "training", overwrite=True).to_pandas()[
            "spending__total"
        ].tolist() == [2.5]


def test_a_source_that_accepts_no_pushes_says_so(store, tmp_path):
    with pytest.raises(RequestError, match="accepts pushes") as caught:
        store.push("ordres", [])
    assert "Did you mean 'orders'" in caught.value.hint
    rows = pa.table({name: [value] for name, value in order(1).items()})
    store.apply(spending(FrameSource("orders", frame=rows, event_time="at")), prune=True)
    with pytest.raises(RequestError, match="accepts pushes"):
        store.push("orders", [order(1)])


def test_an_online_store_that_is_down_delays_the_answer_and_nothing_else(store, clock, monkeypatch):
    def refuse(*_, **__):
        raise StorageError("the disk is full")

    store.push("orders", [order(1)])
    clock.instant_us += 1_000_000
    with monkeypatch.context() as patched:
        patched.setattr(store.parts.online, "write", refuse, raising=False)
        assert not store.push("orders", [order(2)]).is_followed
    before = store.get_online_features("model", [{"user": "a"}])
    assert before.to_dicts()[0]["spending__count"] == 1
    assert before.views["spending"].complete_until_us < before.as_of_us
    assert store.catch_up() == 1
    assert ask(store, clock)["spending__count"] == 2


def ask_within_pushes(store, clock, monkeypatch, ask_now):
    """Ask within every push, when its events are committed and online state does not have them yet."""
    committed, answers = store.parts.event_log.append, []

    def append(*given, **named):
        appended = committed(*given, **named)
        clock.instant_us += 10_000
        answers.append(ask_now())
        return appended

    monkeypatch.setattr(store.parts.event_log, "append", append)
    return answers


def test_an_answer_that_is_given_while_a_push_commits_is_of_an_instant_before_it(store, clock, monkeypatch):
    """So a training set of that instant does not have the events either."""
    store.push("orders", [order(1)])
    clock.instant_us += 1_000_000
    answers = ask_within_pushes(store, clock, monkeypatch, lambda: store.get_online_features("model", [{"user": "a"}]))
    result = store.push("orders", [order(2)])
    assert answers[0].as_of_us < result.ingest_time_us
    assert answers[0].to_dicts()[0]["spending__count"] == 1
    assert store.get_online_features("model", [{"user": "a"}]).as_of_us == clock.instant_us
    report = store.audit("model", since=NOW, until=NOW + timedelta(minutes=1))
    assert (report.verdict, report.compared) == ("pass", 2)


def test_other_processes_know_of_a_push_under_way(store, clock, monkeypatch, tmp_path):
    store.push("orders", [order(1)])
    clock.instant_us += 1_000_000
    with FeatureStore.local(tmp_path / "store", clock=clock) as other:
        answers = ask_within_pushes(
            store, clock, monkeypatch, lambda: other.get_online_features("model", [{"user": "a"}])
        )
        result = store.push("orders", [order(2)])
    assert answers[0].as_of_us < result.ingest_time_us
    assert answers[0].to_dicts()[0]["spending__count"] == 1


def test_a_push_that_died_is_not_waited_for(store, clock, monkeypatch):
    store.push("orders", [order(1)])
    clock.instant_us += 1_000_000

    def refuse(*_, **__):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(store.parts.event_log, "append", refuse)
        with pytest.raises(StorageError):
            store.push("orders", [order(2)])
    died_us = clock.instant_us
    clock.instant_us += 1_000
    assert store.get_online_features("model", [{"user": "a"}]).as_of_us == died_us
    clock.instant_us += 2_000_000
    assert store.get_online_features("model", [{"user": "a"}]).as_of_us == clock.instant_us
    store.catch_up()
    assert store.get_online_features("model", [{"user": "a"}]).as_of_us == clock.instant_us


def test_another_process_catches_up_and_sees_the_same(store, clock, tmp_path):
    store.push("orders", [order(1)])
    with FeatureStore.local(tmp_path / "store", clock=clock) as other:
        assert ask(other, clock)["spending__count"] == 1
        other.push("orders", [order(1), order(2)])
    assert ask(store, clock)["spending__count"] == 2


def test_catching_up_lets_lookups_be_complete_up_to_now(store, clock):
    store.push("orders", [order(1)])
    clock.instant_us += 60_000_000
    assert store.get_online_features("model", [{"user": "a"}]).views["spending"].complete_until_us < clock.now_us()
    store.catch_up()
    assert store.get_online_features("model", [{"user": "a"}]).views["spending"].complete_until_us == clock.now_us()


def test_a_view_on_a_grid_is_refreshed_by_the_stream(tmp_path, clock):
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(spending(orders(tmp_path), refresh=every("1h")))
        store.push("orders", [order(1)])
        assert ask(store, clock)["spending__count"] == 0
        clock.instant_us = instant_us(NOW + timedelta(hours=1))
        assert store.get_online_features("model", [{"user": "a"}]).views["spending"].is_stale
        store.catch_up()
        answer = store.get_online_features("model", [{"user": "a"}])
        assert not answer.views["spending"].is_stale
        assert answer.to_dicts()[0]["spending__count"] == 1


def test_rows_outside_wait_for_materialize_and_count_once(store, clock, tmp_path):
    (tmp_path / "orders").mkdir()
    at = pa.array([NOW - timedelta(hours=2)] * 2, pa.timestamp("us", "UTC"))
    table = pa.table({"user": ["a", "a"], "amount": [10.0, 20.0], "at": at, "id": [1, 50], "note": [None, "x"]})
    pq.write_table(table, tmp_path / "orders" / "part.parquet")
    store.push("orders", [order(1), order(2)])
    clock.instant_us += 1_000_000
    store.materialize()
    assert ask(store, clock)["spending__total"] == 10.0 + 20.0 + 1.0
    store.push("orders", [order(50), order(3)])
    assert ask(store, clock)["spending__total"] == 10.0 + 20.0 + 1.0 + 1.0
    assert store.compact() == {"orders": 4}
    store.materialize(full=True)
    assert ask(store, clock)["spending__total"] == 32.0


def test_null_keys_are_dropped_where_the_source_says_so(tmp_path, clock):
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(spending(orders(tmp_path, on_null="drop")))
        assert store.push("orders", [order(1), order(2, user=None)]).accepted == 2
        assert ask(store, clock)["spending__count"] == 1


def test_frames_in_memory_accept_pushes_too(tmp_path, clock):
    frame = pa.table(
        {"user": ["a"], "amount": [1.0], "at": pa.array([NOW - timedelta(hours=1)], pa.timestamp("us", "UTC"))}
    )
    source = FrameSource("orders", frame=frame, event_time="at", stream=True)
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(spending(source))
        store.materialize()
        store.push("orders", [{"user": "a", "amount": 2.0, "at": NOW - timedelta(minutes=1)}])
        assert ask(store, clock)["spending__total"] == 3.0


def test_a_column_that_came_later_is_null_in_older_events(store, clock, tmp_path):
    store.push("orders", [order(1)])
    store.apply(
        FeatureService(
            "notes",
            features=[
                FeatureView("notes", entity=USER, source=orders(tmp_path), features={"note": agg.last(col("note"))})
            ],
        )
    )
    store.push("orders", [order(2, ago=timedelta(minutes=3)) | {"note": "hello"}])
    clock.instant_us += 1_000_000
    assert store.get_online_features("notes", [{"user": "a"}]).to_dicts() == [{"user": "a", "notes__note": "hello"}]
