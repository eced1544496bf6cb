"""Of several views some may be unable to answer; what does not need them is answered all the same, if asked for."""

import pytest

from featurestore import FeatureView, FrameSource, OnDemandFeatureView, agg, col, request
from featurestore.core.errors import (
    OutOfReachError,
    StateError,
    StorageError,
    ValueOverflowError,
)
from featurestore.core.temporal import FixedClock, to_datetime
from featurestore.online.answering.lookup import OnlineReader
from featurestore.online.stores.store import encode_record, record_key, records_of
from tests.unit.online.stores import T0, USER, MemoryStore, compiled, fold, table_of, view_of

NOW = T0 + 5_000_000
ROWS = [("a", 1, 1, 0.5, "x"), ("a", 2, 2, 1.5, "y"), ("b", 3, 3, 2.0, None)]
SOUND = view_of(ROWS, features={"n": agg.count().over("9s")})
SOURCE = FrameSource("other", frame=table_of(ROWS), event_time="at", ingest_time="learned")
OTHER = FeatureView("other", entity=USER, source=SOURCE, features={"last": agg.last(col("x"))})
MIXED = OnDemandFeatureView(
    "mixed",
    request={"r": "float64"},
    features={"needs": request("r") + OTHER["last"], "does_not": request("r") * 2.0},
)
TWICE = OnDemandFeatureView("twice", features={"removed": MIXED["needs"] + 1.0})
ASKED = {"entities": [{"user": "a"}, {"user": "b"}], "request": {"r": 1.0}}


def reader_without_other(*features):
    store = MemoryStore()
    fold(SOUND, store, 5)
    return OnlineReader(compiled(*features), store, FixedClock(NOW)), store


def test_views_that_can_answer_do_and_the_others_say_why_not():
    reader, _ = reader_without_other(SOUND, OTHER, MIXED, TWICE)
    with pytest.raises(StateError):
        reader.get(**ASKED)
    answer = reader.get(**ASKED, partial=True)
    assert answer.columns == ("view__n", "other__last", "mixed__does_not", "mixed__needs", "twice__removed")
    assert answer.rows == [[2, None, 2.0, None, None], [1, None, 2.0, None, None]]
    assert answer.statuses == [["PRESENT", "ERROR", "PRESENT", "ERROR", "ERROR"]] * 2
    assert list(answer.views) == ["view"]
    assert answer.event_times["other"] == [None, None]
    assert answer.errors["other"].code == "not-materialized"
    assert "materialize(views=['other'])" in answer.errors["other"].problem


def test_a_sound_answer_is_the_same_whether_a_part_would_do_or_not():
    reader, store = reader_without_other(SOUND, OTHER)
    fold(OTHER, store, 5)
    whole = reader.get(ASKED["entities"], request_id="x")
    assert reader.get(ASKED["entities"], request_id="x", partial=True) == whole
    assert whole.errors == {}


def test_a_view_that_could_not_answer_answers_as_soon_as_it_can():
    """What the records said while it could not is not kept."""
    reader, store = reader_without_other(SOUND, OTHER)
    assert list(reader.get(ASKED["entities"], partial=True).errors) == ["other"]
    assert list(reader.get(ASKED["entities"], partial=True).errors) == ["other"]
    fold(OTHER, store, 4)
    answer = reader.get(ASKED["entities"])
    assert answer.errors == {}
    assert {name: view.watermark_us - T0 for name, view in answer.views.items()} == {
        "view": 5_000_000,
        "other": 4_000_000,
    }


def test_a_damaged_state_is_the_failure_of_its_view_alone():
    reader, store = reader_without_other(SOUND, OTHER)
    fold(OTHER, store, 5)
    other = next(use.view for use in reader.plan.uses if use.alias == "other")
    for key in [key for key in store.values if key.startswith(record_key(other)) and len(key) > 8]:
        store.values[key] = store.values[key][:-1]
    answer = reader.get(ASKED["entities"], partial=True)
    assert answer.rows == [[2, None], [1, None]]
    assert answer.errors["other"].code == "corrupt-state"


def test_a_damaged_record_is_the_failure_of_its_view_alone():
    reader, store = reader_without_other(SOUND, OTHER)
    fold(OTHER, store, 5)
    store.values[record_key(reader.plan.uses[0].view)] = b"{"
    answer = reader.get(ASKED["entities"], partial=True)
    assert list(answer.errors) == [reader.plan.uses[0].alias]
    assert len(answer.views) == 1


def test_a_view_that_does_not_reach_so_far_back_is_left_out():
    reader, store = reader_without_other(SOUND, OTHER)
    fold(OTHER, store, 5)
    view = next(use.view for use in reader.plan.uses if use.alias == "view")
    record = records_of(store, [view])["view"]
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    store.values[record_key(view)] = encode_record(type(record)(**fields | {"reach_us": NOW}))
    early = to_datetime(NOW - 1)
    with pytest.raises(OutOfReachError):
        reader.get(ASKED["entities"], as_of=early)
    answer = reader.get(ASKED["entities"], as_of=early, partial=True)
    assert answer.rows == [[None, 1.5], [None, 2.0]]


@pytest.fixture
def overflowing():
    """A reader of a view of which one sum does not fit for user a, and of what is computed from it."""
    table = table_of(ROWS).append_column("big", [[2**62, 2**62, 1]])
    bigs = FeatureView(
        "bigs",
        entity=USER,
        source=FrameSource("bigs", frame=table, event_time="at", ingest_time="learned"),
        features={"sum": agg.sum(col("big")).over("9s"), "n": agg.count().over("9s")},
    )
    doubled = OnDemandFeatureView(
        "doubled", request={"r": "float64"}, features={"sum": bigs["sum"] * 2, "n": request("r") + bigs["n"]}
    )

    def made(*features):
        store = MemoryStore()
        for view in (SOUND, bigs):
            fold(view, store, 5)
        return OnlineReader(compiled(SOUND, *(pick(bigs, doubled) for pick in features)), store, FixedClock(NOW))

    return made


def test_a_sum_that_does_not_fit_takes_away_itself_and_what_is_computed_from_it(overflowing):
    reader = overflowing(lambda bigs, _: bigs, lambda _, doubled: doubled)
    with pytest.raises(ValueOverflowError) as raised:
        reader.get(**ASKED)
    assert raised.value.field == "/entities/0"
    answer = reader.get(**ASKED, partial=True)
    rows = [
        {name: (value, status) for name, value, status in zip(answer.columns, values, statuses, strict=True)}
        for values, statuses in zip(answer.rows, answer.statuses, strict=True)
    ]
    assert rows[0] == {
        "view__n": (2, "PRESENT"),
        "bigs__n": (2, "PRESENT"),
        "bigs__sum": (None, "ERROR"),
        "doubled__n": (3.0, "PRESENT"),
        "doubled__sum": (None, "ERROR"),
    }
    assert rows[1]["bigs__sum"] == (1, "PRESENT")
    assert rows[1]["doubled__sum"] == (2, "PRESENT")
    assert answer.errors["bigs"].code == "overflow"
    assert "bigs__sum" in answer.errors["bigs"].problem
    assert set(answer.views) == {"view", "bigs"}


@pytest.mark.parametrize("partial", [False, True])
def test_a_sum_that_nobody_asks_for_may_not_fit(overflowing, partial):
    """Found in a review: it made every batch fail that held the entity. A training set does not compute it either."""
    for pick, inputs in ((lambda bigs, _: bigs["n"], {}), (lambda _, doubled: doubled["n"], {"r": 1.0})):
        answer = overflowing(pick).get(ASKED["entities"], request=inputs, partial=partial)
        assert [row[1] for row in answer.statuses] == ["PRESENT", "PRESENT"]
        assert answer.errors == {}


def test_if_no_view_can_answer_that_is_an_error():
    reader = OnlineReader(compiled(SOUND, OTHER), MemoryStore(), FixedClock(NOW))
    with pytest.raises(StateError):
        reader.get(ASKED["entities"], partial=True)


def test_a_store_that_cannot_be_read_leaves_no_part():
    class Down(MemoryStore):
        def read(self, keys):
            raise StorageError("down")

    with pytest.raises(StorageError):
        OnlineReader(compiled(SOUND), Down(), FixedClock(NOW)).get(ASKED["entities"], partial=True)
