"""Options of a source that change while its log has events, each kind once; ``tests.simulation`` mixes them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, FrameSource, agg, col
from featurestore.core.errors import DefinitionError, SourceDataError
from featurestore.core.temporal import FixedClock, instant_us

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
DTYPES = {"user": "string", "x": "float64", "at": "timestamp", "eid": "int64", "other": "string", "known": "timestamp"}
EVENT = {"user": "a", "x": 1.0, "at": NOW - timedelta(minutes=5), "eid": 5, "other": "q"}


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def store(tmp_path, clock):
    with FeatureStore.local(tmp_path / "store", clock=clock) as opened:
        yield opened


def service(folder, *, dtypes=None, keys=("user",), files="*.parquet", **options):
    path = folder / "files" / files
    source = FileSource(
        "events", path=path, dtypes=DTYPES | (dtypes or {}), **{"event_time": "at", "stream": True, **options}
    )
    return of(source, keys=keys)


def of(source, *, keys=("user",)):
    features = {"n": agg.count().lifetime(), "last": agg.last(col("x"))}
    view = FeatureView("view", entity=Entity("_".join(keys), key=keys), source=source, features=features)
    return FeatureService("model", features=[view])


def both(store, clock, folder, key=None):
    """Return the features by a training set, online, and after everything was folded anew."""
    clock.instant_us += 1_000_000
    store.catch_up()
    key = key or {"user": "a"}
    instant = pa.array([clock.now_us()], pa.int64()).cast(pa.timestamp("us", "UTC"))
    spine = pa.table({**{name: [value] for name, value in key.items()}, "as_of": instant})
    built = store.training_set("model", spine, folder / f"training-{clock.now_us()}").to_arrow().to_pylist()[0]
    found = [(built["view__n"], built["view__last"])]
    for full in (False, True):
        answer = store.get_online_features("model", [key]).to_dicts()[0]
        found.append((answer["view__n"], answer["view__last"]))
        if not full:
            store.materialize(full=True)
    return found


def file_of(folder, name="a", **columns):
    (folder / "files").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / "files" / f"{name}.parquet")


@pytest.mark.parametrize("is_compacted", [False, True])
def test_ids_that_are_declared_later_repair_what_was_pushed_twice(store, clock, tmp_path, is_compacted):
    """The earliest ingest time wins, and of one batch what is smallest by content."""
    store.apply(service(tmp_path))
    store.push("events", [{**EVENT, "x": 3.0}, {**EVENT, "x": 2.0}])
    store.push("events", [{**EVENT, "x": 1.0}])
    store.materialize()
    if is_compacted:
        store.compact()
    store.apply(service(tmp_path, event_id="eid"))
    store.materialize()
    assert store.push("events", [EVENT]).accepted == 0
    assert both(store, clock, tmp_path) == [(1, 2.0)] * 3


def test_ids_that_are_taken_away_and_declared_again_count_once(store, clock, tmp_path):
    store.apply(service(tmp_path, event_id="eid"))
    store.push("events", [EVENT])
    store.materialize()
    store.apply(service(tmp_path))
    store.materialize()
    assert store.push("events", [EVENT]).accepted == 1
    assert both(store, clock, tmp_path) == [(2, 1.0)] * 3
    store.apply(service(tmp_path, event_id="eid"))
    assert both(store, clock, tmp_path) == [(1, 1.0)] * 3


def test_plans_with_ids_in_other_columns_count_by_their_own(store, clock, tmp_path):
    """The plan that answers has its ids in another column than the definition by which events are pushed."""
    store.apply(service(tmp_path, event_id="eid"))
    store.push("events", [EVENT])
    store.materialize()
    store.apply(service(tmp_path, event_id="other"), promote=False)
    assert store.push("events", [{**EVENT, "other": "r"}, {**EVENT, "eid": 6, "other": "s"}]).accepted == 2
    store.materialize()
    clock.instant_us += 1_000_000
    assert store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["view__n"] == 2
    store.promote("model")
    assert both(store, clock, tmp_path) == [(3, 1.0)] * 3


def test_ids_outside_are_those_of_each_plan(store, clock, tmp_path):
    """The rows outside are asked about the column that the plan has its ids in, not the one declared now."""
    at = pa.array([NOW - timedelta(hours=1)], pa.timestamp("us", "UTC"))
    known = pa.nulls(1, pa.timestamp("us", "UTC"))
    file_of(tmp_path, user=["a"], x=[7.0], at=at, eid=[5], other=["o"], known=known)
    store.apply(service(tmp_path, event_id="eid"))
    store.materialize()
    store.apply(service(tmp_path), promote=False)
    assert store.push("events", [EVENT, {**EVENT, "eid": 6}]).is_followed
    clock.instant_us += 1_000_000
    assert store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["view__n"] == 2


def test_an_id_is_the_same_as_a_number_and_as_text(store, clock, tmp_path):
    store.apply(service(tmp_path, event_id="eid"))
    store.push("events", [EVENT])
    store.materialize()
    store.apply(service(tmp_path, event_id="eid", dtypes={"eid": "string"}))
    assert store.push("events", [{**EVENT, "eid": "5"}, {**EVENT, "eid": "05"}]).accepted == 1
    store.materialize()
    assert both(store, clock, tmp_path) == [(2, 1.0)] * 3


def test_ids_that_the_log_cannot_have_are_refused_by_the_apply(store, tmp_path):
    store.apply(service(tmp_path))
    store.push("events", [EVENT])
    with pytest.raises(SourceDataError, match=r"'q'.*name another column") as caught:
        store.apply(service(tmp_path, event_id="other", dtypes={"other": "int64"}))
    assert caught.value.code == "event-id-dtype"
    assert store.push("events", [EVENT]).accepted == 1


def test_a_process_that_does_not_know_of_the_ids_yet_cannot_bring_back_duplicates(store, clock, tmp_path):
    """It pushes by the old definition for up to a second after the apply."""
    store.apply(service(tmp_path))
    with FeatureStore.local(tmp_path / "store", clock=clock) as late:
        late.push("events", [EVENT])
        store.apply(service(tmp_path, event_id="eid"))
        store.materialize()
        assert late.push("events", [EVENT]).accepted == 1
    assert both(store, clock, tmp_path) == [(1, 1.0)] * 3


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize("names", [(None, "known"), ("known", None), ("known", "other_known")])
def test_events_became_known_when_the_log_took_them(store, clock, tmp_path, names, is_compacted):
    """Whatever the source calls it, and whatever callers sent under that name."""
    dtypes = {"other_known": "timestamp"}
    long_ago = NOW - timedelta(days=9)
    for number, name in enumerate(names):
        store.apply(service(tmp_path, ingest_time=name, dtypes=dtypes))
        sent = {"known": long_ago, "other_known": long_ago}
        store.push("events", [{**EVENT, **{key: value for key, value in sent.items() if key != name}}])
        store.materialize()
        if is_compacted and number == 0:
            store.compact()
    assert both(store, clock, tmp_path) == [(2, 1.0)] * 3
    before = pa.array([instant_us(NOW) - 1], pa.int64()).cast(pa.timestamp("us", "UTC"))
    spine = pa.table({"user": ["a"], "as_of": before})
    assert store.training_set("model", spine, tmp_path / "before").to_arrow().column("view__n").to_pylist() == [0]


def test_a_decimal_is_read_with_the_scale_of_each_plan(store, clock, tmp_path):
    store.apply(service(tmp_path, dtypes={"x": "decimal(18,2)"}))
    store.push("events", [{**EVENT, "x": "1.00"}])
    store.materialize()
    store.apply(service(tmp_path, dtypes={"x": "decimal(18,4)"}), promote=False)
    assert store.push("events", [{**EVENT, "x": "2.5000", "at": NOW - timedelta(minutes=1)}]).is_followed
    clock.instant_us += 1_000_000
    assert store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["view__last"] == Decimal("2.50")
    store.materialize()
    store.promote("model")
    assert both(store, clock, tmp_path) == [(2, Decimal("2.5000"))] * 3
    store.rollback("model")
    assert store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["view__last"] == Decimal("2.50")


@pytest.mark.parametrize(
    ("old", "new", "first", "second"),
    [
        ("int64", "decimal(18,2)", 5, "2.50"),
        ("int64", "float64", 5, 2.5),
        ("list<bool>", "list<timestamp>", [True], ["2024-01-01T00:00:00Z"]),
    ],
)
def test_a_plan_that_cannot_read_a_value_says_so_and_stays_behind(store, clock, tmp_path, old, new, first, second):
    store.apply(service(tmp_path, dtypes={"x": old}))
    store.push("events", [{**EVENT, "x": first}])
    store.materialize()
    plans = [store.views()[0].fingerprint[:12]]
    store.apply(service(tmp_path, dtypes={"x": new}), promote=False)
    plans.append(store.views()[0].fingerprint[:12])
    for _ in range(2):
        assert not store.push("events", [{**EVENT, "x": second}]).is_followed
    assert any(f"(plan {plan})" in str(store.parts.streams.failure) for plan in plans)
    clock.instant_us += 5_000_000
    answer = store.get_online_features("model", [{"user": "a"}])
    assert answer.to_dicts()[0] == {"user": "a", "view__n": 1, "view__last": first}
    assert answer.views["view"].complete_until_us < answer.as_of_us


def test_a_plan_that_cannot_read_the_files_any_more_keeps_no_other_from_its_run(store, clock, tmp_path):
    """The plan that answers was made for another dtype; the applied one is filled all the same."""
    at = pa.array([NOW - timedelta(hours=1)], pa.timestamp("us", "UTC"))
    known = pa.nulls(1, pa.timestamp("us", "UTC"))
    file_of(tmp_path, user=["a"], x=[7], at=at, eid=[5], other=["o"], known=known)
    store.apply(service(tmp_path, dtypes={"x": "int64"}))
    store.materialize()
    store.promote("model")
    store.apply(service(tmp_path, dtypes={"x": "float64"}), promote=False)
    clock.instant_us += 1_000_000
    with pytest.raises(SourceDataError, match="the plan was made for int64"):
        store.materialize()
    store.promote("model")
    assert both(store, clock, tmp_path) == [(1, 7.0)] * 3


def test_a_past_plan_reads_the_log_beside_an_empty_frame_of_other_types(store, clock, tmp_path):
    def frame(kind):
        columns = {"user": pa.string(), "x": kind, "at": pa.timestamp("us", "UTC")}
        return FrameSource("events", frame=pa.schema(columns).empty_table(), event_time="at", stream=True)

    event = {"user": "a", "x": 1, "at": EVENT["at"]}
    store.apply(of(frame(pa.int64())))
    store.push("events", [event])
    store.materialize()
    store.apply(of(frame(pa.float64())), promote=False)
    store.push("events", [event])
    store.materialize()
    clock.instant_us += 1_000_000
    assert store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["view__n"] == 2


def test_an_event_without_the_time_of_a_plan_is_left_out_of_it_alone(store, clock, tmp_path):
    """The just-appended event has no value in the event time of the old plan."""
    dtypes = {"at2": "timestamp"}
    store.apply(service(tmp_path, dtypes=dtypes))
    store.push("events", [EVENT])
    store.materialize()
    store.apply(service(tmp_path, dtypes=dtypes, event_time="at2"), promote=False)
    assert store.push("events", [{**EVENT, "at": None, "at2": EVENT["at"], "x": 2.0}]).is_followed
    clock.instant_us += 1_000_000
    assert store.get_online_features("model", [{"user": "a"}]).rows[0] == [1.0, 1]
    store.materialize()
    store.promote("model")
    assert both(store, clock, tmp_path) == [(1, 2.0)] * 3


def test_text_is_read_in_the_time_zone_of_each_plan(store, clock, tmp_path):
    """Text of CSV files is converted when it is read: for a plan that answers by its own zone."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.csv").write_text("user,x,at,eid,other,known\na,1,2024-05-01 11:00:00,5,q,\n")
    options = {"files": "*.csv", "stream": False}
    store.apply(service(tmp_path, timezone="UTC", **options))
    store.materialize()
    store.promote("model")
    store.apply(service(tmp_path, timezone="Asia/Tokyo", **options), promote=False)
    store.materialize(full=True)
    for expected in (0, 1):
        early = store.get_online_features("model", [{"user": "a"}], as_of=NOW - timedelta(hours=2))
        assert early.to_dicts()[0]["view__n"] == expected
        store.promote("model")


def test_a_source_cannot_stop_to_take_pushes_while_it_has_some(store, tmp_path):
    store.apply(service(tmp_path))
    store.push("events", [EVENT])
    file_of(tmp_path, **{name: pa.nulls(0, pa.string()) for name in DTYPES})
    with pytest.raises(DefinitionError, match=r"its 1 event that was pushed would no longer count.*stream=True"):
        store.apply(service(tmp_path, stream=False))
    assert store.push("events", [EVENT]).accepted == 1


def test_a_plan_of_a_source_that_took_no_pushes_knows_of_none(store, clock, tmp_path):
    at = pa.array([NOW - timedelta(hours=1)], pa.timestamp("us", "UTC"))
    known = pa.nulls(1, pa.timestamp("us", "UTC"))
    file_of(tmp_path, user=["a"], x=[7.0], at=at, eid=[5], other=["o"], known=known)
    store.apply(service(tmp_path, stream=False))
    store.materialize()
    store.promote("model")
    store.apply(service(tmp_path), promote=False)
    assert store.push("events", [EVENT]).is_followed
    store.materialize()
    clock.instant_us += 1_000_000
    assert store.get_online_features("model", [{"user": "a"}]).rows[0] == [7.0, 1]
    store.promote("model")
    assert both(store, clock, tmp_path) == [(2, 1.0)] * 3


def test_another_delivery_of_an_event_that_is_forgotten_counts_on_both_roads(store, clock, tmp_path):
    """Both were pushed before the id was declared, about different users; the earlier one counted."""
    store.apply(service(tmp_path))
    store.push("events", [EVENT])
    store.push("events", [{**EVENT, "user": "b", "x": 2.0}])
    store.apply(service(tmp_path, event_id="eid"))
    store.materialize()
    assert both(store, clock, tmp_path, {"user": "b"}) == [(0, None)] * 3
    states = {state.fingerprint: state.is_rebuilt for state in store.forget("user", {"user": "a"}).states}
    assert sorted(states.values()) == [False, True]
    assert states[store.views()[0].fingerprint]
    store.materialize()
    assert both(store, clock, tmp_path, {"user": "b"}) == [(1, 2.0)] * 3
