"""POST /push and /materialize: what Feast's clients change."""

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import FeatureStore
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.server.app import create_app
from featurestore.server.feast.writes import _aligned
from tests.server.conftest import NOW, Caller
from tests.server.test_features import problem

LATER = "2024-05-02T01:00:00Z"
EVENT = {
    "user": [1, 3],
    "amount": [10.0, 20],
    "price": ["3.30", None],
    "day": ["2024-05-02", None],
    "shop": ["new", None],
    "raw": ["AP8=", None],
    "shipped": ["2024-05-02 00:20:00", None],
    "paid": [True, None],
    "at": ["2024-05-02 00:30:00", "2024-05-02T00:40:00+00:00"],
}


@pytest.fixture
def store(project):
    with FeatureStore.open(project, clock=FixedClock(instant_us(LATER))) as store:
        yield store


@pytest.fixture
def call(store):
    return Caller(create_app(store))


def push(call, df=EVENT, name="orders", **fields):
    return call("POST", "/push", json={"push_source_name": name, "df": df, "allow_registry_cache": True, **fields})


def totals(store):
    found = store.get_online_features("shopping", [{"user": 1}, {"user": 3}], as_of="2024-05-02T01:30:00Z")
    return found.to_arrow().select(["spending__total", "spending__orders"]).to_pylist()


def test_pushed_events_count_at_once(call, store):
    response = push(call)
    assert (response.status_code, response.content) == (200, b"null")
    assert totals(store) == [
        {"spending__total": 10.0, "spending__orders": 2},
        {"spending__total": 20.0, "spending__orders": 1},
    ]


def test_a_frames_dictionary_is_read_too(call, store):
    """``DataFrame.to_dict()`` writes columns as objects by row label."""
    by_label = {name: dict(enumerate(values)) for name, values in EVENT.items()}
    assert push(call, by_label, to="online_and_offline").status_code == 200
    assert totals(store)[1]["spending__total"] == 20.0


@given(rows=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=5), data=st.data())
def test_cells_of_one_label_are_one_row_in_whatever_order_columns_have_them(rows, data):
    """Found in a review: values went to other entities. ``DataFrame(df)`` puts rows together in the same way."""
    labels = data.draw(st.permutations([str(place) for place in range(len(rows))]))
    users = dict(zip(labels, (user for user, _ in rows), strict=True))
    amounts = dict(zip(labels, (amount for _, amount in rows), strict=True))
    shuffled = data.draw(st.permutations(list(amounts.items())))
    found_labels, found = _aligned({"user": users, "amount": dict(shuffled)})
    frame = pd.DataFrame({"user": users, "amount": dict(shuffled)})
    assert found_labels == labels
    assert pd.DataFrame(found, index=labels).sort_index().equals(frame.sort_index())


def test_columns_by_label_must_have_the_same_rows(call, store):
    by_label = {name: {"a/b": cells[0], "~": cells[1]} for name, cells in EVENT.items()}
    found = problem(push(call, by_label | {"amount": {"~": 20.0}}))
    assert (found["status"], found["code"], found["field"]) == (422, "labels-differ", "/df/amount")
    found = problem(push(call, by_label | {"user": {"a/b": "x", "~": 3}}))
    assert (found["status"], found["field"]) == (422, "/df/user/a~1b")
    assert totals(store)[1]["spending__total"] is None
    assert push(call, by_label | {"amount": {"~": 20.0, "a/b": 10.0}}).status_code == 200
    assert [row["spending__total"] for row in totals(store)] == [10.0, 20.0]


def test_instants_without_a_zone_are_utc(call, store):
    push(call)
    found = store.get_online_features("shopping", [{"user": 1}], as_of="2024-05-02T01:30:00Z")
    assert found.event_times["spending"] == [instant_us("2024-05-02T00:30:00Z")]


@pytest.mark.parametrize(
    ("df", "fields", "field"),
    [
        (EVENT | {"user": [1, "3"]}, {}, "/df/user/1"),
        (EVENT | {"created": [None, None]}, {}, "/df/created/0"),
        (EVENT | {"user": [1]}, {}, "/df"),
        (EVENT | {"user": {"0": 1, "1": 3}}, {}, "/df"),
        (EVENT | {"at": ["2024-05-02 00:30:00", None]}, {}, "/df/at/1"),
        (EVENT, {"to": "offline"}, "/to"),
        ({"user": 1}, {}, "/df"),
    ],
)
def test_a_wrong_push_names_its_place_and_takes_nothing(call, store, df, fields, field):
    found = problem(push(call, df, **fields))
    assert (found["status"], found["field"]) == (422, field)
    assert totals(store)[1]["spending__total"] is None


def test_a_source_that_takes_no_pushes_says_so(call):
    found = problem(push(call, name="nothing"))
    assert (found["status"], found["field"]) == (404, "/push_source_name")


@pytest.mark.parametrize("path", ["/materialize", "/materialize-incremental"])
def test_views_are_brought_up_to_an_instant(call, store, path):
    body = {"start_ts": "2024-05-01T00:00:00", "end_ts": "2024-05-02T00:30:00", "feature_views": ["spending"]}
    response = call("POST", path, json=body)
    assert (response.status_code, response.json()) == (200, None)
    views = store.get_online_features("shopping", [{"user": 1}]).views
    assert views["spending"].watermark_us == instant_us("2024-05-02T00:30:00Z")
    assert views["last_order"].watermark_us == instant_us(NOW)
    assert call("POST", path, json={}).status_code == 200
    assert store.get_online_features("shopping", []).views["last_order"].watermark_us == instant_us(LATER)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"end_ts": "soon"}, 422, "/end_ts"),
        ({"start_ts": "", "end_ts": NOW}, 422, "/start_ts"),
        ({"start_ts": LATER, "end_ts": NOW}, 422, "/start_ts"),
        ({"feature_views": ["nothing"]}, 404, "/feature_views"),
        ({"feature_views": "spending"}, 422, "/feature_views"),
    ],
)
def test_a_wrong_materialize_names_its_place(call, body, status, field):
    found = problem(call("POST", "/materialize", json=body))
    assert (found["status"], found["field"]) == (status, field)
