"""POST /v1/sources/{source}/events and the clients' push: what is accepted is committed and counts."""

import json

import httpx
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.errors import RequestError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.server.app import create_app
from featurestore.server.events import ARROW_STREAM
from tests.server.conftest import NOW, Caller
from tests.server.test_arrow import stream
from tests.server.test_client import client_of
from tests.server.test_features import problem

EVENTS = [
    {"user": 1, "amount": 2.5, "at": "2024-05-01T10:00:00Z", "id": "a"},
    {"user": 1, "amount": None, "at": "2024-05-01T11:00:00+02:00", "id": "b"},
    {"user": 2, "amount": 4, "at": "2024-05-01T12:00:00.000001Z", "id": "c"},
]
TABLE = pa.table(
    {
        "user": [1, 1, 2],
        "amount": [2.5, None, 4.0],
        "at": pa.array(["2024-05-01 10:00Z", "2024-05-01 09:00Z", "2024-05-01 12:00Z"]).cast(pa.timestamp("us", "UTC")),
        "id": ["a", "b", "c"],
    }
)
BAD = [EVENTS[0], EVENTS[1] | {"amount": "x"}, EVENTS[2]]


@pytest.fixture
def store(tmp_path):
    pq.write_table(TABLE.schema.empty_table(), tmp_path / "orders.parquet")
    source = FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at", event_id="id", stream=True)
    view = FeatureView(
        "spending",
        entity=Entity("user", key="user", dtype="int64"),
        source=source,
        features={"total": agg.sum(col("amount")).over("1d"), "n": agg.count().over("1d")},
    )
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as opened:
        opened.apply(FeatureService("plain", features=[view]))
        opened.materialize()
        yield opened


@pytest.fixture(params=["sync", "async"])
def client(request, store):
    transport = httpx.ASGITransport(create_app(store), raise_app_exceptions=False)
    return client_of(request.param, "http://test", transport)


@pytest.fixture
def call(store):
    return Caller(create_app(store))


def totals(store):
    found = store.get_online_features("plain", [{"user": 1}, {"user": 2}], as_of="2024-05-02T00:00:01Z")
    return [(row["spending__total"], row["spending__n"]) for row in found.to_dicts()]


def send(call, content, kind=ARROW_STREAM, path="/v1/sources/orders/events"):
    return call("POST", path, content=content, headers={"content-type": kind})


@pytest.mark.parametrize(
    "events",
    [EVENTS, tuple(EVENTS), TABLE, TABLE.to_batches()[0], TABLE.to_pandas(), pl.from_arrow(TABLE)],
    ids=["rows", "tuple", "table", "batch", "pandas", "polars"],
)
def test_pushed_events_count_at_once(client, store, events):
    """However they are held; and the same events again are known by their ids."""
    result = client.push("orders", events)
    assert (result.source, result.accepted, result.duplicates, result.rejected) == ("orders", 3, 0, ())
    assert result.is_followed
    assert totals(store) == [(2.5, 2), (4.0, 1)]
    again = client.push("orders", events)
    assert (again.accepted, again.duplicates, again.sequence) == (0, 3, result.sequence)
    assert totals(store) == [(2.5, 2), (4.0, 1)]


def test_the_result_is_the_stores_own(client, store):
    own = store.push("orders", BAD, partial=True)
    found = client.push("orders", BAD, partial=True)
    assert type(found) is type(own)
    assert (found.accepted, found.duplicates, found.sequence) == (0, 2, own.sequence)
    assert (found.rejected, found.is_followed) == (own.rejected, own.is_followed)


def test_one_wrong_event_rejects_all_and_is_named(client, store):
    with pytest.raises(RequestError) as own:
        store.push("orders", BAD)
    with pytest.raises(RequestError) as found:
        client.push("orders", BAD)
    assert (str(found.value), found.value.field) == (str(own.value), "/events/1/amount")
    assert totals(store) == [(None, 0), (None, 0)]


def test_the_good_events_are_taken_if_asked(client, store):
    result = client.push("orders", [*BAD, 7], partial=True)
    assert result.accepted == 2
    assert [(rejected.row, rejected.field) for rejected in result.rejected] == [(1, "amount"), (3, "")]
    assert totals(store) == [(2.5, 1), (4.0, 1)]


def test_a_source_that_is_not_there_is_said_to_be(client):
    with pytest.raises(RequestError, match="Sources with stream=True: orders") as raised:
        client.push("or ders", EVENTS)
    assert raised.value.code == "unknown-source"


@pytest.mark.parametrize("events", ["text", b"bytes", 7, None])
def test_what_holds_no_events_is_refused_here(client, events):
    with pytest.raises(RequestError, match="expected events"):
        client.push("orders", events)


def test_refusals_are_problem_documents(call):
    rows = b'{"events": [], "event": 1}'
    for response, status, code in (
        (send(call, b"", "text/csv"), 415, "unsupported-media-type"),
        (send(call, b"nonsense"), 400, "malformed-arrow"),
        (send(call, b""), 400, "malformed-arrow"),
        (send(call, b"{", "application/json"), 400, "malformed-json"),
        (send(call, rows, "application/json; charset=utf-8"), 422, "unknown-field"),
        (send(call, b"[]", "application/json"), 422, "wrong-type"),
        (send(call, b" " * 16_000_001, "application/json"), 413, "too-large"),
        (send(call, b"{}", "application/json", "/v1/sources/nothing/events"), 422, "missing-field"),
        (send(call, b'{"events": []}', "application/json", "/v1/sources/nothing/events"), 404, "unknown-source"),
        (send(call, b'{"events": [{"user": 1}, {"user": "\xff"}]}', "application/json"), 400, "malformed-json"),
        (send(call, b'{"events": [' + b"[" * 5_000 + b"]" * 5_000 + b"]}", "application/json"), 400, "malformed-json"),
        (send(call, b'{"events": [' + b"{}," * 100_000 + b"{}]}", "application/json"), 413, "too-large"),
    ):
        found = problem(response)
        assert (found["status"], found["code"]) == (status, code)
    assert "Fields: events." in problem(send(call, rows, "application/json"))["detail"]


def test_no_cut_or_changed_stream_brings_the_server_down(call, store):
    """Whatever bytes come, there is an answer; what is taken is sound."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    whole = sink.getvalue().to_pybytes()
    for place in range(0, len(whole), 7):
        changed = whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]
        assert send(call, changed).status_code in (200, 400, 413, 422)
        assert send(call, whole[:place]).status_code in (200, 400, 413, 422)
    assert all(count <= 1_000 for _, count in totals(store))


@pytest.mark.parametrize("query", ["partial=banana", "partial="])
def test_a_wrong_parameter_is_a_problem_too(call, query):
    """Found in a review: FastAPI's own form of a refusal came."""
    found = problem(send(call, b"{}", path=f"/v1/sources/orders/events?{query}"))
    assert (found["status"], found["code"], found["field"]) == (422, "wrong-parameter", "/partial")


def test_many_events_are_taken_in_their_order(call, store):
    rows = [{"user": 1, "amount": 1, "at": "2024-05-01T10:00:00Z", "id": str(row)} for row in range(1_300)]
    response = send(call, json.dumps({"events": rows}).encode(), "application/json")
    assert response.json()["accepted"] == 1_300
    rows[1_100]["amount"] = "x"
    found = problem(send(call, json.dumps({"events": rows}).encode(), "application/json"))
    assert found["field"] == "/events/1100/amount"


@pytest.mark.parametrize("how", ["one event", "an event each", "Feast", "Arrow"])
def test_a_push_of_very_many_columns_is_refused_at_once(call, store, how):
    server = store.config.server.model_copy(update={"max_columns": 100})
    store.parts.config = store.config.model_copy(update={"server": server})
    names = [f"c{i}" for i in range(101)]
    path, arguments = {
        "one event": ("/v1/sources/orders/events", {"json": {"events": [dict.fromkeys(names, 1)]}}),
        "an event each": (
            "/v1/sources/orders/events?partial=true",
            {"json": {"events": [{name: 1} for name in names]}},
        ),
        "Feast": ("/push", {"json": {"push_source_name": "orders", "df": {name: [1] for name in names}}}),
        "Arrow": (
            "/v1/sources/orders/events",
            {"content": stream(pa.table({name: [1] for name in names})), "headers": {"content-type": ARROW_STREAM}},
        ),
    }[how]
    found = problem(call("POST", path, **arguments))
    assert (found["status"], found["code"]) == (413, "too-large")
    assert "100 columns" in found["detail"]


def test_a_push_is_repeated_by_its_idempotency_key(call):
    def push(events):
        headers = {"idempotency-key": "one"}
        return call("POST", "/v1/sources/orders/events", json={"events": events}, headers=headers)

    first = push(EVENTS[:1])
    assert first.status_code == 200
    assert push(EVENTS[:1]).json() == first.json()
    assert first.json()["accepted"] == 1
    refused = push(EVENTS[1:2])
    assert refused.status_code == 422
    assert problem(refused)["code"] == "idempotency-key-reused"
