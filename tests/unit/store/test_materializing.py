"""Runs on several views: recorded also when they fail, waiting for each other, and aware of rewritten sources."""

import os
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, FrameSource, agg, col
from featurestore.core.errors import SourceError, StateError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.online.filling.reading import Reader
from featurestore.sources.content import content_of, joined

USER = Entity("user", key="user", dtype="int64")
T0 = instant_us("2026-03-01T00:00:00Z")
HOUR = 3_600_000_000


def events(amounts, *, first_hour=0):
    return pa.table(
        {
            "user": pa.array([1] * len(amounts), pa.int64()),
            "at": pa.array([T0 + (first_hour + i) * HOUR for i in range(len(amounts))], pa.int64()).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "amount": pa.array(amounts, pa.float64()),
        }
    )


def service(source, name="spending", window="30d"):
    view = FeatureView(name, entity=USER, source=source, features={"total": agg.sum(col("amount")).over(window)})
    return FeatureService(f"{name}_model", features=[view])


@pytest.fixture
def clock():
    return FixedClock(T0 + 24 * HOUR)


@pytest.fixture
def store(tmp_path, clock):
    with FeatureStore.local(tmp_path / "store", clock=clock) as opened:
        yield opened


@pytest.fixture
def source(tmp_path):
    pq.write_table(events([1.0, 2.0]), tmp_path / "a.parquet")
    return FileSource("orders", path=str(tmp_path / "*.parquet"), event_time="at")


def total(store, name="spending"):
    return store.get_online_features(f"{name}_model", [{"user": 1}]).rows[0][0]


def test_a_file_rewritten_in_place_with_as_many_rows_rebuilds_the_view(store, source, tmp_path, clock):
    store.apply(service(source))
    store.materialize()
    assert total(store) == 3.0
    pq.write_table(events([1.0, 5.0]), tmp_path / "a.parquet")
    clock.instant_us += HOUR
    (run,) = store.materialize()
    assert run.rebuilt == "the source has other events below the watermark than it had"
    assert total(store) == 6.0
    assert store.materialize()[0].rebuilt == ""


def test_files_that_say_the_same_are_no_reason_to_rebuild(store, source, tmp_path, clock, monkeypatch):
    store.apply(service(source))
    store.materialize()
    pq.write_table(events([2.0], first_hour=1), tmp_path / "c.parquet")
    pq.write_table(events([1.0]), tmp_path / "a.parquet")
    pq.write_table(events([4.0], first_hour=30), tmp_path / "d.parquet")
    clock.instant_us += 12 * HOUR
    (run,) = store.materialize()
    assert (run.rebuilt, run.events) == ("", 1)
    assert total(store) == 7.0
    read = []
    monkeypatch.setattr(Reader, "content_below", lambda *_: read.append(1))
    store.materialize()
    assert read == [], "files that did not change need not be read again"


def deliveries(*rows):
    ids, users, hours, amounts = zip(*rows, strict=True)
    at = pa.array([T0 + hour * HOUR for hour in hours], pa.int64()).cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"id": ids, "user": users, "at": at, "amount": pa.array(amounts, pa.float64())})


@pytest.mark.parametrize(("hour", "rebuilt"), [(1, True), (5, False), (30, False)])
def test_an_earlier_delivery_of_a_folded_event_in_a_new_file_rebuilds_the_view(
    store, tmp_path, clock, monkeypatch, hour, rebuilt
):
    """There are as many events as before, and the new one counts, for another entity even; a later one does not.

    Histories of ``tests.simulation.test_changing_options`` found it: the old delivery counted still.
    """
    pq.write_table(deliveries((1, 1, 2, 1.0), (2, 1, 3, 2.0)), tmp_path / "a.parquet")
    store.apply(service(FileSource("orders", path=str(tmp_path / "*.parquet"), event_time="at", event_id="id")))
    store.materialize()
    pq.write_table(deliveries((1, 7, hour, 4.0)), tmp_path / "b.parquet")
    clock.instant_us += 12 * HOUR
    read = []
    content_below = Reader.content_below
    monkeypatch.setattr(Reader, "content_below", lambda *args: read.append(1) or content_below(*args))
    (run,) = store.materialize()
    assert bool(run.rebuilt) == rebuilt
    assert total(store) == (2.0 if rebuilt else 3.0)
    assert bool(read) == rebuilt, "folded events are read again only if a new file has events among them"


@pytest.mark.parametrize("is_before_push", [True, False])
def test_a_pushed_event_that_a_file_delivers_with_an_earlier_ingest_time_counts_once(
    store, tmp_path, clock, is_before_push
):
    """The file lies beyond the watermark, which stays where it is once any file has come; the log is followed on."""

    def deliver():
        pq.write_table(deliveries((1, 1, 25, 7.0)), tmp_path / "c.parquet")

    dtypes = {"id": "int64", "user": "int64", "at": "timestamp", "amount": "float64"}
    pq.write_table(deliveries((100, 1, 1, 1.0)), tmp_path / "a.parquet")
    path = str(tmp_path / "*.parquet")
    store.apply(service(FileSource("orders", path=path, event_time="at", event_id="id", stream=True, dtypes=dtypes)))
    store.materialize()
    clock.instant_us = T0 + 26 * HOUR
    pq.write_table(deliveries((101, 2, 24, 1.0)), tmp_path / "b.parquet")
    if is_before_push:
        deliver()
    assert store.push("orders", deliveries((1, 1, 25, 7.0))).is_followed
    if not is_before_push:
        deliver()
    clock.instant_us = T0 + 30 * HOUR
    store.materialize()
    assert total(store) == 8.0
    spine = pa.table({"user": [1], "as_of": pa.array([clock.instant_us], pa.timestamp("us", tz="UTC"))})
    training_set = store.training_set("spending_model", spine, path=tmp_path / "training")
    assert training_set.to_arrow().column("spending__total").to_pylist() == [8.0]


def test_a_frame_applied_again_with_other_values_rebuilds_the_view(store):
    store.apply(service(FrameSource("orders", frame=events([1.0, 2.0]), event_time="at")))
    store.materialize()
    store.apply(service(FrameSource("orders", frame=events([1.0, 7.0]), event_time="at")))
    (run,) = store.materialize()
    assert run.rebuilt
    assert total(store) == 8.0


def test_runs_say_what_was_read(store, source, tmp_path):
    store.apply(service(source))
    store.materialize()
    (run,) = store.runs()
    (file,) = store.parts.registry.files_read(run.files)
    status = (tmp_path / "a.parquet").stat()
    assert (file.path, file.size, file.mtime_ns, file.row_count) == (
        str(tmp_path / "a.parquet"),
        status.st_size,
        status.st_mtime_ns,
        2,
    )
    assert (run.outcome, run.problem, run.row_count, len(run.content)) == ("done", "", 2, 16)


def test_a_view_that_fails_is_recorded_and_does_not_keep_the_others_from_being_done(store, source, tmp_path):
    pq.write_table(events([9.0]), tmp_path / "other.pq")
    other = FileSource("other", path=str(tmp_path / "other.pq"), event_time="at", format="parquet")
    store.apply(service(source), service(other, name="broken"))
    os.truncate(tmp_path / "other.pq", 10)
    with pytest.raises(SourceError, match="not sound Parquet"):
        store.materialize()
    outcomes = {run.view: run for run in store.runs()}
    assert outcomes["spending"].outcome == "done"
    assert outcomes["broken"].outcome == "failed"
    assert "other.pq" in outcomes["broken"].problem
    assert total(store) == 3.0


def test_a_second_run_is_refused_or_waits(store, source):
    store.apply(service(source))
    name = f"materialize-{store.plan('spending_model').uses[0].view.fingerprint[:16]}"
    with (
        store.parts.online.exclusive(name),
        pytest.raises(StateError, match="another run on it is under way") as caught,
    ):
        store.materialize()
    assert caught.value.code == "busy"
    assert store.runs() == ()
    holding, free = threading.Event(), threading.Event()

    def hold():
        with store.parts.online.exclusive(name):
            holding.set()
            free.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait(10)
    threading.Timer(0.2, free.set).start()
    assert store.materialize(wait_seconds=10)[0].events == 2
    holder.join()


def test_views_are_done_side_by_side_with_the_results_they_have_alone(store, source):
    names = [f"v{i}" for i in range(6)]
    store.apply(*(service(source, name=name, window=f"{i + 1}h") for i, name in enumerate(names)))
    told = []
    runs = store.materialize(progress=lambda *args: told.append(args))
    assert [run.view for run in runs] == names
    assert {args for args in told if args[1]} == {(name, 2, 2) for name in names}
    assert all(run.events == 2 for run in runs)


def test_content_does_not_depend_on_order_or_pieces_but_on_every_value():
    chance = np.random.default_rng(5)
    table = pa.table(
        {
            "i": pa.array([1, None, 3, 1]),
            "f": pa.array([0.5, 1.5, None, 0.5]),
            "s": pa.array(["a", None, "bc", "a"]),
            "b": pa.array([True, False, None, True]),
            "d": pa.array([1, 2, None, 1], pa.int32()).cast(pa.date32()),
            "n": pa.array([1, 2, None, 1], pa.int64()).cast(pa.decimal128(30, 2)),
            "l": pa.array([[1], [2, None], None, [1]]),
        }
    )
    whole = content_of([table])
    assert content_of([table.take(pa.array(chance.permutation(4)))]) == whole
    assert content_of(table.slice(i, 1) for i in range(4)) == whole
    assert joined(content_of([table.slice(0, 1)]), content_of([table.slice(1)])) == whole
    assert content_of([table.select(sorted(table.column_names))]) == whole
    for name in table.column_names:
        column = table.column(name)
        changed = table.set_column(table.column_names.index(name), name, column.take(pa.array([1, 1, 2, 3])))
        assert content_of([changed]) != whole, name
    assert content_of([table.slice(0, 3)]) != whole
    assert content_of([]) == 0
