"""Questions that are answered together get what each would get by itself, whatever is wrong with the others."""

import sqlite3
from datetime import datetime
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featurestore import FeatureService, FeatureStore, FeatureView, FrameSource, OnlineQuestion, agg, col
from featurestore.core.errors import (
    FeatureStoreError,
    StateError,
    StorageError,
    ValueOverflowError,
)
from featurestore.core.temporal import FixedClock, duration_us, instant_us
from featurestore.online.answering.bound_service import BoundService
from tests.server.conftest import NOW, SERVICES, SPENDING, USER, hour

LARGE = FeatureService(
    "large",
    features=[
        FeatureView(
            "large",
            entity=USER,
            source=FrameSource(
                "amounts",
                frame=pa.table(
                    {
                        "user": [1, 2, 2],
                        "amount": pa.array([5, 2**62, 2**62], pa.int64()),
                        "at": pa.array([hour(1), hour(2), hour(3)], pa.timestamp("us", "UTC")),
                    }
                ),
                event_time="at",
            ),
            features={"total": agg.sum(col("amount")).over("1d")},
        )
    ],
)
"""Its sum does not fit for user 2."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    with FeatureStore.local(folder / "store", clock=FixedClock(instant_us(NOW))) as opened:
        opened.apply(*SERVICES, LARGE)
        opened.materialize()
        yield opened


def alone(store, question):
    """Return what a question gets by itself."""
    service, entities, request, as_of, *others, _ = question
    names = ("expected_fingerprint", "request_id", "partial", "model", "model_version")
    try:
        return store.get_online_features(service, entities, request, as_of, **dict(zip(names, others, strict=True)))
    except FeatureStoreError as error:
        return error


def told(found):
    """Return what is told of an answer or an error."""
    return (type(found), str(found)) if isinstance(found, Exception) else found


USERS = st.integers(0, 3).map(lambda user: {"user": user})
WRONG = st.sampled_from([{"user": "one"}, {"usr": 1}, {}, {"user": 1, "more": 2}, 7])
ENTITIES = st.lists(USERS, max_size=4) | st.lists(USERS | WRONG, max_size=3)
QUESTIONS = st.builds(
    OnlineQuestion,
    service=st.sampled_from(["plain", "all_of_it", "large", "unknown"]),
    entities=ENTITIES,
    request=st.sampled_from([None, {"budget": 10.0}, {"budget": "ten"}, []]),
    as_of=st.sampled_from([None, None, None, "2024-05-01T12:00:00Z", "yesterday", [], 7]),
    expected_fingerprint=st.sampled_from([None, None, None, "0" * 64]),
    request_id=st.just("named"),
    partial=st.booleans(),
    takes_live_plan=st.just(False),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions=st.lists(QUESTIONS, max_size=8))
def test_each_gets_what_it_would_get_by_itself(store, questions):
    found = store.get_online_features_together(questions)
    assert [told(one) for one in found] == [told(alone(store, question)) for question in questions]


class Counting:
    """Counts the reads of a store."""

    def __init__(self, store):
        self._store = store
        self.reads = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def read(self, keys):
        self.reads += 1
        return self._store.read(keys)


def test_the_store_is_read_once_for_all_about_one_instant(store, monkeypatch):
    asked = [OnlineQuestion("plain", [{"user": user}]) for user in (1, 2, 1, 3)]
    store.get_online_features_together(asked)
    guarded = store.parts.serving.store
    counting = Counting(guarded._store)
    monkeypatch.setattr(guarded, "_store", counting)
    answers = store.get_online_features_together([*asked, OnlineQuestion("plain", [{"user": "x"}])])
    assert counting.reads == 1
    assert [len(answer.rows) for answer in answers[:4]] == [1, 1, 1, 1]
    assert answers[0].rows == answers[2].rows
    assert len({answer.request_id for answer in answers[:4]}) == 4


def test_instants_that_are_equal_to_python_and_an_hour_apart_are_told_apart(store):
    before = datetime(2024, 11, 3, 1, 30, tzinfo=ZoneInfo("America/New_York"))
    after = before.replace(fold=1)
    assert before == after
    asked = [OnlineQuestion("plain", [{"user": 1}], as_of=at) for at in (before, after)]
    first, second = store.get_online_features_together(asked)
    assert second.as_of_us - first.as_of_us == duration_us("1h")


@pytest.mark.parametrize("is_partial", [False, True])
def test_what_a_view_fails_by_is_told_to_all_after_one_read(tmp_path, is_partial):
    both = FeatureService("both", features=[*LARGE.features, SPENDING])
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as store:
        store.apply(both)
        store.materialize(views=["large"])
        asked = [OnlineQuestion("both", [{"user": 1}], partial=is_partial)] * 16
        store.get_online_features_together(asked)
        guarded = store.parts.serving.store
        guarded._store = counting = Counting(guarded._store)
        answers = store.get_online_features_together(asked)
        assert counting.reads == 1
        told = [answer.errors["spending"] if is_partial else answer for answer in answers]
        assert [error.code for error in told] == ["not-materialized"] * 16


def test_one_bad_entity_among_many_costs_few_reads(store, monkeypatch):
    asked = [OnlineQuestion("large", [{"user": 2 if place == 13 else 1}]) for place in range(32)]
    store.get_online_features_together(asked)
    guarded = store.parts.serving.store
    counting = Counting(guarded._store)
    monkeypatch.setattr(guarded, "_store", counting)
    answers = store.get_online_features_together(asked)
    assert [isinstance(answer, ValueOverflowError) for answer in answers] == [place == 13 for place in range(32)]
    assert counting.reads <= 1 + 2 * 5, "halves of halves"


def test_a_store_that_is_down_is_asked_once_for_all(store, monkeypatch):
    class Down:
        reads = 0

        def read(self, _):
            self.reads += 1
            raise StorageError("it is down", where="online store")

    guarded = store.parts.serving.store
    store.get_online_features("plain", [])
    down = Down()
    with monkeypatch.context() as patch:
        patch.setattr(guarded, "_store", down)
        answers = store.get_online_features_together([OnlineQuestion("plain", [{"user": 1}])] * 5)
    guarded._pause = 0.0
    assert [type(answer) for answer in answers] == [StorageError] * 5
    assert down.reads == 1


def test_a_sum_that_does_not_fit_and_damaged_state_are_told_to_their_askers_alone(tmp_path):
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as store:
        store.apply(LARGE)
        store.materialize()
        asked = [OnlineQuestion("large", [{"user": user}]) for user in (1, 2, 3)]
        small, overflowed, unknown = store.get_online_features_together(asked)
        assert small.rows == [[5]]
        assert isinstance(overflowed, ValueOverflowError)
        assert unknown.statuses == [["NOT_FOUND"]]
        with sqlite3.connect(store.config.folder / "online.db") as connection:
            rows = connection.execute("SELECT key, value FROM online_state ORDER BY length(value)").fetchall()
            key, value = [row for row in rows if row[1].startswith(b"FSSTATE")][-1]  # of user 2, who has two events
            connection.execute("UPDATE online_state SET value = ? WHERE key = ?", (value[:-1] + b"\x5a", key))
        connection.close()
        small, damaged, unknown = store.get_online_features_together(asked)
        assert small.rows == [[5]]
        assert isinstance(damaged, StateError)
        assert unknown.statuses == [["NOT_FOUND"]]


def test_every_answer_goes_to_the_serving_log(tmp_path):
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as store:
        store.apply(*SERVICES)
        store.materialize()
        asked = [
            OnlineQuestion("plain", [{"user": 1}, {"user": 2}], request_id="first", model="a", model_version="1"),
            OnlineQuestion("plain", [{"user": "x"}], request_id="wrong"),
            OnlineQuestion("plain", [{"user": 3}], request_id="second", model="b"),
        ]
        store.get_online_features_together(asked)
        store.parts.serving_log.flush()
        log = pa.concat_tables(store.parts.serving_log.read("plain", since_us=0, until_us=2**60))
        rows = log.select(["request_id", "row", "key__user", "model", "model_version"]).to_pylist()
    assert sorted(tuple(row.values()) for row in rows) == [
        ("first", 0, 1, "a", "1"),
        ("first", 1, 2, "a", "1"),
        ("second", 0, 3, "b", None),
    ]


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("users", [[1, 2, 9], [2, 2, 1], [1]])
def test_entities_that_are_asked_about_again_and_again_are_answered_as_one_by_one(store, users, partial, monkeypatch):
    evaluated = []
    answer = BoundService.answer

    def counted(self, stored, count, **arguments):
        evaluated.append(count)
        return answer(self, stored, count, **arguments)

    asked = [{"user": user} for user in users * 40]
    inputs = [{"budget": float(row)} for row in range(len(asked))]
    single = [store.get_online_features("all_of_it", [one], [row]) for one, row in zip(asked, inputs, strict=True)]
    monkeypatch.setattr(BoundService, "answer", counted)
    together = store.get_online_features("all_of_it", asked, inputs, partial=partial)
    assert len(asked) < 64 or min(evaluated) == len(set(users))
    assert together.rows == [one.rows[0] for one in single]
    assert together.statuses == [one.statuses[0] for one in single]
    assert together.event_times == {alias: [one.event_times[alias][0] for one in single] for alias in together.views}
    assert len({id(row) for row in together.rows}) == len(asked)


def test_sums_that_do_not_fit_are_told_of_each_entity_that_was_asked_about_again(store):
    asked = [{"user": 1 + row % 2} for row in range(100)]
    with pytest.raises(ValueOverflowError) as raised:
        store.get_online_features("large", asked)
    assert raised.value.field == "/entities/1"
    found = store.get_online_features("large", asked, partial=True)
    assert found.rows == [[5], [None]] * 50
    assert found.statuses == [["PRESENT"], ["ERROR"]] * 50
