"""A request is read strictly, answered in its order, and every mistake is named where it is."""

import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from featurestore import Entity, FeatureView, FrameSource, OnDemandFeatureView, agg, as_of, col, every, request
from featurestore.core.errors import (
    FingerprintMismatchError,
    OutOfReachError,
    RequestError,
    StateError,
    ValueOverflowError,
)
from featurestore.core.temporal import FixedClock, instant_us, to_datetime
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.filling.materialize import materialize_view
from featurestore.online.stores.store import encode_record, record_key, records_of
from featurestore.sources import open_scan
from tests.unit.online.stores import (
    T0,
    USER,
    MemoryStore,
    compiled,
    fold,
    plan_of,
    table_of,
    view_of,
)

SECOND = 1_000_000
ROWS = [("a", 1, 1, 0.5, "x"), ("a", 2, 2, 1.5, "y"), ("b", 3, 3, 2.0, None)]
NOW = T0 + 5 * SECOND


def reader_of(*features, store=None, until=5, clock=None):
    """Return a reader of a service of which all views are folded."""
    plan = compiled(*features)
    store = MemoryStore() if store is None else store
    views = {}
    for feature in features:
        for view in (feature,) if isinstance(feature, FeatureView) else ():
            views[view.name] = view
    for use in plan.uses:
        view = views[use.view.name]
        with open_scan(view.source, use.view.source, keys=[key.name for key in use.view.entity.keys]) as scan:
            materialize_view(use.view, scan, store, until_us=T0 + until * SECOND)
    return OnlineReader(plan, store, clock or FixedClock(NOW))


@pytest.fixture
def reader():
    return reader_of(view_of(ROWS))


def test_rows_come_in_the_order_asked_and_duplicates_are_answered_twice(reader):
    users = ["b", "a", "nobody", "b", "a"]
    answer = reader.get([{"user": user} for user in users])
    assert answer.to_dicts() == [
        {"user": user} | dict(zip(answer.columns, row, strict=True))
        for user, row in zip(users, answer.rows, strict=True)
    ]
    totals = [row[answer.columns.index("view__total")] for row in answer.rows]
    assert totals == [2.0, 2.0, None, 2.0, 2.0]
    assert answer.entities == [{"user": user} for user in users]


def test_an_answer_says_what_was_asked_and_by_what_plan(reader):
    answer = reader.get([{"user": "a"}], request_id="mine")
    assert (answer.service, answer.fingerprint, answer.request_id) == ("model", reader.plan.fingerprint, "mine")
    assert answer.as_of_us == NOW
    assert answer.columns == ("view__n", "view__name", "view__names", "view__total")
    assert answer.rows == [[2, "y", ["x", "y"], 2.0]]
    assert answer.event_times == {"view": [T0 + 2 * SECOND]}
    assert reader.get([{"user": "a"}]).request_id != reader.get([{"user": "a"}]).request_id


def test_statuses_tell_null_from_unknown(reader):
    answer = reader.get([{"user": "b"}, {"user": "nobody"}])
    assert answer.statuses == [["PRESENT", "NULL", "NULL", "PRESENT"], ["NOT_FOUND"] * 4]
    assert answer.rows == [[1, None, None, 2.0], [0, None, None, None]]
    assert answer.event_times == {"view": [T0 + 3 * SECOND, None]}


def test_a_null_key_is_nobodys(reader):
    assert reader.get([{"user": None}]).statuses == [["NOT_FOUND"] * 4]


def test_no_entities_are_no_rows(reader):
    answer = reader.get([])
    assert (answer.rows, answer.statuses, answer.entities) == ([], [], [])
    assert answer.to_arrow().num_rows == 0
    assert answer.to_arrow().column_names == list(answer.columns)


def test_an_answer_becomes_a_table_in_the_dtypes_of_a_training_set(reader):
    table = reader.get([{"user": "a"}, {"user": "nobody"}]).to_arrow()
    assert [str(kind) for kind in table.schema.types] == ["int64", "string", "list<item: string>", "double"]
    assert table.column("view__total").to_pylist() == [2.0, None]
    assert reader.get([{"user": "a"}]).to_pandas()["view__n"].tolist() == [2]


@pytest.mark.parametrize(
    ("entities", "field", "message"),
    [
        ({"user": "a"}, "/entities", "got dict, expected a list"),
        ("a", "/entities", "got str, expected a list"),
        (None, "/entities", "got NoneType, expected a list"),
        (["a"], "/entities/0", "got str, expected an object"),
        ([{"user": "a"}, {}], "/entities/1/user", "entity field 'user' is missing. Expected string. Known: user."),
        ([{"usr": "a"}], "/entities/0/usr", "unknown entity field 'usr'. Known: user. Did you mean 'user'?"),
        ([{"user": "a", "more": 1}], "/entities/0/more", "unknown entity field 'more'"),
        ([{"user": 1}], "/entities/0/user", "got int 1, expected string"),
        ([{"user": "\ud800"}], "/entities/0/user", "expected string"),
        ([{"user": ["a"]}], "/entities/0/user", "expected string"),
        ([{"a/b~c": 1}], "/entities/0/a~1b~0c", "unknown entity field 'a/b~c'"),
        ([{1: "a"}], "/entities/0/1", "unknown entity field '1'"),
    ],
)
def test_a_wrong_entity_is_named_where_it_is(reader, entities, field, message):
    with pytest.raises(RequestError) as caught:
        reader.get(entities)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_text_is_not_a_number():
    table = table_of(ROWS).append_column("id", [[1, 1, 2]])
    entity = Entity("thing", key="id", dtype="int64")
    source = FrameSource("events", frame=table, event_time="at")
    reader = reader_of(FeatureView("view", entity=entity, source=source, features={"n": agg.count().over("9s")}))
    assert reader.get([{"id": 1}]).rows == [[2]]
    for wrong in ("1", 1.0, True, 2**63):
        with pytest.raises(RequestError) as caught:
            reader.get([{"id": wrong}])
        assert (caught.value.field, caught.value.code) == ("/entities/0/id", "wrong-type")


def on_demand():
    view = view_of(ROWS)
    demand = OnDemandFeatureView(
        "demand",
        request={"amount": "float64", "at": "timestamp"},
        features={"ratio": request("amount") / view["total"], "asked": as_of(), "given": request("at")},
    )
    return reader_of(view, demand)


GIVEN = {"amount": 3.0, "at": "2024-01-01T00:00:00+01:00"}


def test_features_are_computed_on_demand_from_request_inputs():
    answer = on_demand().get([{"user": "a"}, {"user": "nobody"}], request=GIVEN)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    assert [row["demand__ratio"] for row in rows] == [1.5, None]
    assert [row["demand__asked"] for row in rows] == [to_datetime(NOW)] * 2
    assert rows[0]["demand__given"] == datetime(2023, 12, 31, 23, tzinfo=UTC)
    assert answer.statuses[1][answer.columns.index("demand__ratio")] == "NULL"
    assert answer.requests == [{"amount": 3.0, "at": datetime(2023, 12, 31, 23, tzinfo=UTC)}] * 2


def test_each_entity_may_have_request_inputs_of_its_own():
    answer = on_demand().get([{"user": "a"}, {"user": "b"}], request=[GIVEN, GIVEN | {"amount": 4}])
    place = answer.columns.index("demand__ratio")
    assert [row[place] for row in answer.rows] == [1.5, 2.0]


def test_no_entities_are_no_rows_on_demand_either():
    assert on_demand().get([], request=GIVEN).rows == on_demand().get([], request=[]).rows == []


def test_features_on_demand_may_need_no_view():
    demand = OnDemandFeatureView("demand", request={"x": "int64"}, features={"next": request("x") + 1})
    answer = OnlineReader(compiled(demand), MemoryStore(), FixedClock(NOW)).get([{}, {}], request=[{"x": 1}, {"x": 2}])
    assert answer.rows == [[2], [3]]


@pytest.mark.parametrize(
    ("given", "field", "message"),
    [
        (None, "/request/amount", "request input 'amount' is missing. Expected float64. Known: amount, at."),
        ({"amount": 1.0}, "/request/at", "request input 'at' is missing. Expected timestamp"),
        (GIVEN | {"amout": 1.0}, "/request/amout", "Did you mean 'amount'?"),
        (GIVEN | {"amount": "3"}, "/request/amount", "got str '3', expected float64"),
        (GIVEN | {"at": "2024-01-01T00:00:00"}, "/request/at", "has no time zone"),
        ([GIVEN, GIVEN], "/request", "got 2 objects, expected one object, or one for each of the 1 entities"),
        ([GIVEN | {"amount": []}], "/request/0/amount", "expected float64"),
        ([1], "/request/0", "got int, expected an object"),
        ("x", "/request", "got 1 objects"),
        (5, "/request", "got int"),
    ],
)
def test_a_wrong_request_input_is_named_where_it_is(given, field, message):
    with pytest.raises(RequestError) as caught:
        on_demand().get([{"user": "a"}], request=given)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_request_inputs_that_nothing_needs_are_a_mistake(reader):
    with pytest.raises(RequestError, match=r"unknown request input 'x'\. Known: none"):
        reader.get([{"user": "a"}], request={"x": 1})
    assert reader.get([{"user": "a"}], request={}).rows


def test_the_clock_answers_when_no_instant_is_given():
    clock = FixedClock(NOW)
    reader = reader_of(view_of(ROWS), clock=clock)
    assert reader.get([{"user": "a"}]).rows[0][0] == 2
    clock.instant_us += 7 * SECOND
    assert reader.get([{"user": "a"}]).rows[0][0] == 1  # the first event has left the window
    assert reader.get([{"user": "a"}], as_of=to_datetime(NOW)).rows[0][0] == 2


@pytest.mark.parametrize("instant", ["2024-01-01T00:00:00", datetime(2024, 1, 1), "soon", 5])
def test_a_wrong_instant_is_named(reader, instant):
    with pytest.raises(RequestError) as caught:
        reader.get([{"user": "a"}], as_of=instant)
    assert caught.value.field == "/as_of"


def test_an_instant_before_the_reach_is_an_error_with_the_reach():
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 5, history_us=SECOND)
    reader = OnlineReader(compiled(view), store)
    assert reader.get([{"user": "a"}], as_of=to_datetime(T0 + 4 * SECOND)).rows
    with pytest.raises(OutOfReachError, match="reaches back to 2023-11-14T22:13:24Z") as caught:
        reader.get([{"user": "a"}], as_of=to_datetime(T0 + 4 * SECOND - 1))
    assert caught.value.field == "/as_of"


def test_another_plan_than_expected_is_an_error(reader):
    assert reader.get([{"user": "a"}], expected_fingerprint=reader.plan.fingerprint).rows
    with pytest.raises(FingerprintMismatchError, match=f"is {reader.plan.fingerprint}, expected old"):
        reader.get([{"user": "a"}], expected_fingerprint="old")


def test_a_view_without_state_is_an_error_with_the_fix():
    with pytest.raises(StateError, match=r"materialize\(views=\['view'\]\)") as caught:
        OnlineReader(compiled(view_of(ROWS)), MemoryStore()).get([{"user": "a"}])
    assert caught.value.code == "not-materialized"


def test_a_damaged_state_is_an_error_and_other_entities_are_answered():
    store = MemoryStore()
    reader = reader_of(view_of(ROWS), store=store)
    key = next(key for key in store.values if key.endswith(b"a"))
    for damaged in (store.values[key][:-9], b"", b"nonsense", store.values[key][:40] + b"!" + store.values[key][41:]):
        store.values[key] = damaged
        with pytest.raises(StateError, match="online state of feature view 'view'"):
            reader.get([{"user": "b"}, {"user": "a"}])
        assert reader.get([{"user": "b"}]).rows[0][0] == 1


def test_a_state_of_another_view_is_an_error():
    store = MemoryStore()
    reader = reader_of(view_of(ROWS), store=store)
    other, other_view = MemoryStore(), view_of(ROWS, features={"m": agg.count().over("1s")})
    fold(other_view, other, 5)
    foreign = next(value for key, value in other.values.items() if key.endswith(b"a"))
    store.values[next(key for key in store.values if key.endswith(b"a"))] = foreign
    with pytest.raises(StateError) as caught:
        reader.get([{"user": "a"}])
    assert caught.value.code == "foreign-state"


@pytest.mark.parametrize("stored", [b"{", b"{}", b"\xff"])
def test_a_damaged_record_is_an_error(stored):
    store = MemoryStore()
    reader = reader_of(view_of(ROWS), store=store)
    store.values[record_key(reader.plan.uses[0].view)] = stored
    with pytest.raises(StateError) as caught:
        reader.get([{"user": "a"}])
    assert caught.value.code == "corrupt-state"


def test_a_record_of_another_definition_is_an_error():
    """Sixteen digits of a fingerprint are the key; all of it must agree."""
    store = MemoryStore()
    reader = reader_of(view_of(ROWS), store=store)
    view = reader.plan.uses[0].view
    record = records_of(store, [view])["view"]
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    store.values[record_key(view)] = encode_record(type(record)(**fields | {"fingerprint": view.fingerprint[:16]}))
    with pytest.raises(StateError) as caught:
        reader.get([{"user": "a"}])
    assert caught.value.code == "foreign-state"


def test_a_continuous_view_says_up_to_when_it_is_complete(reader):
    early, late = (reader.get([{"user": "a"}], as_of=to_datetime(T0 + at * SECOND)).views["view"] for at in (4, 60))
    assert (early.complete_until_us, early.is_stale, early.horizon_us) == (T0 + 4 * SECOND, False, T0 + 4 * SECOND)
    assert (late.complete_until_us, late.is_stale, late.watermark_us) == (NOW, False, NOW)


def test_a_view_that_missed_its_refresh_answers_as_of_its_watermark_and_says_so():
    reader = reader_of(view_of(ROWS, refresh=every("2s")), until=3)
    fresh, stale = (reader.get([{"user": "a"}], as_of=to_datetime(T0 + at * SECOND)) for at in (3.9, 4))
    assert [fresh.views["view"].is_stale, stale.views["view"].is_stale] == [False, True]
    assert fresh.views["view"].complete_until_us == T0 + round(3.9 * SECOND)
    assert stale.views["view"].complete_until_us == T0 + 3 * SECOND
    assert stale.views["view"].horizon_us == T0 + 2 * SECOND
    assert stale.rows[0][0] == fresh.rows[0][0] == 1


def test_one_view_in_two_roles_is_asked_by_two_keys():
    view = view_of(ROWS)
    plan = compiled(view.aliased("buyer", keys={"user": "bought_by"}), view.aliased("seller", keys={"user": "sold_by"}))
    store = MemoryStore()
    fold(view, store, 5)
    answer = OnlineReader(plan, store, FixedClock(NOW)).get([{"bought_by": "a", "sold_by": "b"}])
    found = dict(zip(answer.columns, answer.rows[0], strict=True))
    assert (found["buyer__total"], found["seller__total"]) == (2.0, 2.0)
    assert (found["buyer__n"], found["seller__n"]) == (2, 1)
    assert answer.event_times == {"buyer": [T0 + 2 * SECOND], "seller": [T0 + 3 * SECOND]}


def test_views_of_many_shapes_are_answered_in_one_call():
    """Coded and plain inputs, with and without ingest times, lists, and the picks and names of a service."""
    plain = FeatureView(
        "plain",
        entity=USER,
        source=FrameSource("plain_events", frame=table_of(ROWS), event_time="at"),
        features={"max": agg.max(col("x")).over("9s"), "since": agg.time_since_last()},
    )
    coded = view_of(ROWS)
    reader = reader_of(plain, coded)
    answer = reader.get([{"user": "b"}, {"user": "a"}])
    assert answer.columns == ("plain__max", "plain__since", "view__n", "view__name", "view__names", "view__total")
    assert answer.rows == [[2.0, 2.0, 1, None, None, 2.0], [1.5, 3.0, 2, "y", ["x", "y"], 2.0]]


def test_a_sum_that_overflows_is_an_error_that_names_the_feature():
    table = table_of(ROWS).append_column("big", [[2**62, 2**62, 1]])
    source = FrameSource("bigs", frame=table, event_time="at")
    features = {"sum": agg.sum(col("big")).over("9s"), "n": agg.count().over("9s")}
    reader = reader_of(view_of(ROWS), FeatureView("bigs", entity=USER, source=source, features=features))
    with pytest.raises(ValueOverflowError, match="'bigs__sum'") as raised:
        reader.get([{"user": "b"}, {"user": "a"}])
    assert raised.value.field == "/entities/1"
    assert reader.get([{"user": "b"}]).rows[0][0] == 1


def test_a_rebuild_is_seen_by_readers_that_knew_the_states_before():
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 5)
    reader = OnlineReader(compiled(view), store, FixedClock(NOW))
    assert reader.get([{"user": "a"}]).rows[0][0] == 2
    fold(view_of([*ROWS, ("a", 4, 4, 1.0, "z")]), store, 5)
    assert reader.get([{"user": "a"}]).rows[0][0] == 3


def test_readers_in_many_threads_get_their_own_answers():
    rows = [(f"u{number}", 1, 1, float(number), f"n{number}") for number in range(50)]
    reader = reader_of(view_of(rows))
    wrong = []

    def ask(first):
        for number in [*range(first, 50), *range(first)] * 3:
            answer = reader.get([{"user": f"u{number}"}])
            if answer.rows != [[1, f"n{number}", [f"n{number}"], float(number)]]:
                wrong.append(number)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(0, 50, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_inclusive_view_sees_the_event_of_the_instant():
    view = view_of(ROWS, inclusive=True)
    store = MemoryStore()
    fold(view, store, 5)
    reader = OnlineReader(compiled(view), store)
    assert reader.get([{"user": "a"}], as_of=to_datetime(T0 + 2 * SECOND)).rows[0][0] == 2
    state = reader.get([{"user": "a"}], as_of=to_datetime(NOW)).views["view"]
    assert state.complete_until_us == NOW - 1
    assert instant_us(to_datetime(NOW)) == NOW


def test_a_plan_read_back_from_json_answers_the_same():
    store = MemoryStore()
    reader = reader_of(view_of(ROWS), store=store)
    again = OnlineReader(type(reader.plan).from_json(reader.plan.to_json()), store, FixedClock(NOW))
    assert again.get([{"user": "a"}]).rows == reader.get([{"user": "a"}]).rows
    assert replace(again.get([]), request_id="") == replace(reader.get([]), request_id="")
    assert plan_of(view_of(ROWS)).fingerprint == reader.plan.uses[0].view.fingerprint
