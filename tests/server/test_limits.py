"""What the server does not take, does not wait for, and does not repeat."""

import asyncio
import gzip
import json
import threading
import time

import httpx
import pytest

from featurestore.config import ServerConfig
from featurestore.core.errors import RegistryError, StorageError
from featurestore.online.stores.deadline import out_of_time, seconds_left
from featurestore.online.stores.store import record_key
from featurestore.server.app import create_app
from tests.server.conftest import Caller
from tests.server.test_features import problem


class SlowStore:
    """A store whose reads wait until they may go on, or fail."""

    def __init__(self, store):
        self.store = store
        self.may_go_on = threading.Event()
        self.reads = 0
        self.is_down = False

    def read(self, keys):
        self.reads += 1
        if self.is_down:
            raise StorageError("connection refused", where="online store")
        self.may_go_on.wait(10)
        return self.store.read(keys)


@pytest.fixture
def slow(store):
    """Put a store that is slow between the server and its states."""
    store.check()
    guarded = store.parts.serving.store
    guarded._store = slow = SlowStore(guarded._store)
    yield slow
    slow.may_go_on.set()


@pytest.mark.parametrize("how", ["header", "body", "both"])
def test_a_question_that_is_not_answered_in_time_is_given_up(call, slow, how):
    fields = {} if how == "header" else {"timeout_ms": 100}
    headers = {} if how == "body" else {"x-deadline-ms": "100" if how == "header" else "60000"}
    began = time.perf_counter()
    response = call(
        "POST", "/v1/features", json={"service": "plain", "entities": [{"user": 1}]} | fields, headers=headers
    )
    assert 0.1 <= time.perf_counter() - began < 5
    assert response.status_code == 504
    assert problem(response)["code"] == "deadline-exceeded"


def test_a_question_with_time_enough_is_answered(call):
    assert call.ask(timeout_ms=10_000).status_code == 200


def test_the_servers_own_deadline_holds_for_large_questions(store, slow):
    store.parts.config = store.config.model_copy(update={"server": ServerConfig(auth="none", deadline_seconds=0.1)})
    response = Caller(create_app(store)).ask(entities=[{"user": 1}] * 50)
    assert response.status_code == 504


@pytest.mark.parametrize("wrong", ["soon", "-1", "1.5", "", "9" * 30])
def test_a_deadline_is_a_whole_number(call, wrong):
    response = call("POST", "/v1/features", json={"service": "plain", "entities": []}, headers={"x-deadline-ms": wrong})
    assert response.status_code == 422
    assert problem(response)["code"] == "deadline"


def test_a_slow_store_does_not_keep_the_event_loop(store, slow):
    """The first slow answer keeps it; after that, others are answered meanwhile."""
    app = create_app(store)
    threading.Timer(0.2, slow.may_go_on.set).start()

    async def both():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            question = {"service": "plain", "entities": [{"user": 1}]}
            first = await client.post("/v1/features", json=question)
            slow.may_go_on.clear()
            second = asyncio.create_task(client.post("/v1/features", json=question))
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            health = await client.get("/healthz")
            took = time.perf_counter() - began
            slow.may_go_on.set()
            return first, health, took, await second

    first, health, took, second = asyncio.run(both())
    assert [first.status_code, health.status_code, second.status_code] == [200, 200, 200]
    assert took < 1


def test_more_requests_than_the_server_takes_are_told_to_come_again(store, slow):
    store.parts.config = store.config.model_copy(update={"server": ServerConfig(auth="none", max_requests=2)})
    app = create_app(store)

    async def many():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            question = {"service": "plain", "entities": [{"user": 1}], "timeout_ms": 10_000}
            waiting = [asyncio.create_task(client.post("/v1/features", json=question)) for _ in range(2)]
            while slow.reads < 2:
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/features", json=question)
            healthy = await client.get("/healthz")
            slow.may_go_on.set()
            return refused, healthy, await asyncio.gather(*waiting), await client.post("/v1/features", json=question)

    refused, healthy, answered, later = asyncio.run(many())
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert problem(refused)["code"] == "too-many-requests"
    assert [response.status_code for response in (healthy, *answered, later)] == [200] * 4


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get-online-features", b'{"features": ["spending:total"], "entities": {"user": [1]}}'),
        ("/readyz", None),
        ("/health", None),
    ],
)
def test_every_route_keeps_to_the_deadline(call, slow, path, body):
    """Found in a review: only the hot route did."""
    began = time.perf_counter()
    response = call("POST" if body else "GET", path, content=body, headers={"x-deadline-ms": "100"})
    assert 0.1 <= time.perf_counter() - began < 5
    assert response.status_code == (503 if path == "/health" else 504)


class Hasty(SlowStore):
    """A slow store that keeps to the time it is given."""

    keeps_time = True

    def read(self, keys):
        self.reads += 1
        left = seconds_left()
        if not self.may_go_on.wait(min(10, left)):
            raise out_of_time("the store")
        return self.store.read(keys)


@pytest.fixture
def hasty(store):
    store.check()
    guarded = store.parts.serving.store
    guarded._store = hasty = Hasty(guarded._store)
    yield hasty
    hasty.may_go_on.set()


def test_a_store_that_keeps_time_holds_the_event_loop_for_a_moment_only(store, hasty):
    """Found in a review: a store that hung kept everybody from being answered."""
    app = create_app(store)
    threading.Timer(0.4, hasty.may_go_on.set).start()
    pauses = []

    async def beat():
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.01)
            pauses.append(time.perf_counter() - began)

    async def ask():
        beating = asyncio.create_task(beat())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            question = {"service": "plain", "entities": [{"user": 1}]}
            await asyncio.sleep(0.02)
            found = [await client.post("/v1/features", json=question) for _ in range(3)]
        beating.cancel()
        return found

    assert [response.status_code for response in asyncio.run(ask())] == [200] * 3
    assert hasty.reads == 4
    assert 0.04 < max(pauses) < 0.35


def test_a_store_that_hangs_is_given_up_at_the_deadline_and_left_alone_then(store, hasty):
    store.parts.config = store.config.model_copy(update={"server": ServerConfig(auth="none", deadline_seconds=0.8)})
    call = Caller(create_app(store))
    began = time.perf_counter()
    assert problem(call.ask())["code"] == "deadline-exceeded"
    assert 0.7 < time.perf_counter() - began < 3
    time.sleep(0.05)
    refused = call.ask()
    assert (problem(refused)["code"], refused.headers["retry-after"]) == ("store-down", "1")
    hasty.may_go_on.set()
    time.sleep(0.4)
    assert call.ask().status_code == 200


def test_a_refusal_says_when_the_store_will_be_asked_again(store, slow):
    store.parts.serving.store._pause, store.parts.serving.store._open_until = 5.0, time.perf_counter() + 3.5
    assert Caller(create_app(store)).ask().headers["retry-after"] == "4"


def posted(app, pieces, *, headers=(), path="/v1/features"):
    """Send a body in pieces, of which each is awaited; return status and headers of the answer."""

    async def post():
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "query_string": b"",
        }
        sent = []
        waiting = list(pieces)

        async def receive():
            if not waiting:
                await asyncio.sleep(30)
            piece = waiting.pop(0)
            await asyncio.sleep(0)
            return {"type": "http.request", "body": piece, "more_body": True}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), json.loads(sent[1]["body"])

    return post()


def test_a_body_that_does_not_come_keeps_nobody_out_and_is_given_up(store):
    """Found in a review: who sent one byte at a time took the places of all others."""
    config = ServerConfig(auth="none", max_requests=2, deadline_seconds=0.5)
    store.parts.config = store.config.model_copy(update={"server": config})
    app = create_app(store)

    async def all_of_them():
        slow = [asyncio.create_task(posted(app, [b"{", b'"'], path=path)) for path in ("/v1/features", "/push") * 2]
        await asyncio.sleep(0.1)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answered = await client.post("/v1/features", json={"service": "plain", "entities": [{"user": 1}]})
        return answered, await asyncio.gather(*slow)

    answered, refused = asyncio.run(all_of_them())
    assert answered.status_code == 200
    assert [(status, found["code"]) for status, _, found in refused] == [(408, "slow-body")] * 4
    assert refused[0][1][b"connection"] == b"close"


@pytest.mark.parametrize("path", ["/v1/features", "/push", "/v1/sources/orders/events"])
def test_a_compressed_body_is_refused_by_name(call, path):
    response = call("POST", path, content=gzip.compress(b"{}"), headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert problem(response)["code"] == "unsupported-encoding"
    assert "Content-Encoding: gzip" in problem(response)["detail"]


def test_a_long_name_is_not_sent_back(call):
    found = problem(call.ask("n" * 900_000))
    assert (found["status"], found["code"]) == (404, "unknown-service")
    assert len(json.dumps(found)) < 10_000


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/health"])
def test_heads_can_be_asked_for(call, path):
    response = call("HEAD", path)
    assert (response.status_code, response.content) == (200, b"")


def test_a_store_that_is_down_is_asked_once_however_many_ask(call, store, slow):
    now = [100.0]
    store.parts.serving.store._elapsed = lambda: now[0]
    slow.is_down = True
    answers = [call.ask() for _ in range(20)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert [problem(answer)["code"] for answer in answers] == ["storage"] + ["store-down"] * 19
    assert slow.reads == 1
    slow.is_down = False
    slow.may_go_on.set()
    now[0] += 0.3
    assert call.ask().status_code == 200


def test_a_registry_that_is_down_stops_nobody_from_being_answered(store, call, monkeypatch, caplog):
    assert call.ask().status_code == 200

    def fail(service):
        raise RegistryError("connection refused")

    monkeypatch.setattr(store.parts.live_plans, "plan", fail)
    store.clock.instant_us += 5_000_000
    assert call.ask().status_code == 200
    assert "the cached plans answer" in caplog.text


@pytest.fixture
def half(store, call):
    """Damage what is known of one of two views, while the server runs."""
    store.parts.serving_log._interval_seconds = 0
    assert call.ask("all_of_it", request={"budget": 1}).status_code == 200
    view = next(use.view for use in store.plan("all_of_it").uses if use.alias == "last_order")
    store.parts.online.write([(record_key(view), b"{")])
    store.clock.instant_us += 5_000_000


def test_views_that_can_answer_do(call, half):
    assert call.ask("all_of_it", request={"budget": 1}).status_code == 503
    found = call.ask("all_of_it", request={"budget": 1}, partial=True).json()
    pairs = zip(found["rows"][0]["values"], found["rows"][0]["statuses"], strict=True)
    row = dict(zip(found["columns"], pairs, strict=True))
    assert row["spending__orders"] == (2, "PRESENT")
    assert row["last_order__shop"] == (None, "ERROR")
    assert found["errors"]["last_order"]["code"] == "corrupt-state"
    assert list(found["views"]) == ["spending"]


def test_a_part_of_an_answer_goes_to_no_log(store, call, half):
    assert store.log_backlog() == (1, 0)
    assert call.ask("all_of_it", request={"budget": 1}, partial=True).status_code == 200
    assert store.log_backlog() == (1, 0)


def test_a_request_id_is_the_callers_if_it_is_a_word(call, store):
    asked = {"json": {"service": "plain", "entities": [{"user": 1}]}}
    response = call("POST", "/v1/features", headers={"x-request-id": "checkout-17"}, **asked)
    assert response.headers["x-request-id"] == response.json()["request_id"] == "checkout-17"
    response = call("POST", "/v1/features", headers={"x-request-id": "a b\tc"}, **asked)
    assert response.headers["x-request-id"] == response.json()["request_id"] != "a b\tc"
    assert call("GET", "/healthz", headers={"x-request-id": "h"}).headers["x-request-id"] == "h"
