"""The clients against the application and against a real server: the store's own answers and errors."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from featurestore import FileSource
from featurestore.client import AsyncFeatureStoreClient, FeatureStoreClient, Health
from featurestore.client.retries import Retries
from featurestore.core.dtypes import FLOAT64, INT64
from featurestore.core.errors import (
    ConfigError,
    FeatureStoreError,
    FingerprintMismatchError,
    OutOfReachError,
    RequestError,
    ServerError,
    StateError,
    UnknownServiceError,
    UnreachableError,
)
from featurestore.online.stores.store import record_key
from featurestore.registry.api_keys import Scope
from featurestore.server.app import create_app
from featurestore.store import FeatureStore
from tests.server.conftest import NOW, ORDERS
from tests.server.process import serving
from tests.unit.store.test_store import spending

QUICK = Retries(count=3, first_seconds=0.001, most_seconds=0.002)


class Sync(httpx.BaseTransport):
    """Carries the requests of a client for threads to a transport for event loops."""

    def __init__(self, inner: httpx.AsyncBaseTransport):
        self.inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def send() -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

        return asyncio.run(send())


class Waited:
    """The client for event loops, called as the other one is."""

    def __init__(self, make):
        self.make = make

    def __getattr__(self, name):
        async def call(arguments, named):
            async with self.make() as client:
                return await getattr(client, name)(*arguments, **named)

        return lambda *arguments, **named: asyncio.run(call(arguments, named))


def client_of(kind: str, url: str, transport: httpx.AsyncBaseTransport | None = None, **options):
    if kind == "async":
        return Waited(lambda: AsyncFeatureStoreClient(url, transport=transport, **options))
    return FeatureStoreClient(url, transport=None if transport is None else Sync(transport), **options)


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
def client(kind, store):
    return client_of(kind, "http://test", httpx.ASGITransport(create_app(store), raise_app_exceptions=False))


def answering(kind: str, *responses: httpx.Response, **options):
    """Return a client of a server that gives some responses in turn, and the requests it got."""
    waiting, got = list(responses), []

    def handle(request: httpx.Request) -> httpx.Response:
        got.append(request)
        return waiting.pop(0)

    return client_of(kind, "http://test/prefix/", httpx.MockTransport(handle), retries=QUICK, **options), got


NO_SERVICES = {"services": []}
BUSY = {"code": "busy", "detail": "Too much at once.", "status": 503}


def test_answers_are_the_stores_own(client, store):
    asked = ("all_of_it", [{"user": 1}, {"user": 2}, {"user": 9}], [{"budget": 1}, {"budget": 2.5}, {"budget": None}])
    own = store.get_online_features(*asked, as_of=NOW)
    found = client.get_online_features(*asked, as_of=NOW)
    assert found.request_id != own.request_id
    assert dataclasses.replace(found, request_id=own.request_id) == own
    assert found.to_arrow() == own.to_arrow()
    assert found.to_pandas().equals(own.to_pandas())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nothing", [{"user": 1}]), UnknownServiceError),
        (("plain", [{"user": 1}], None, "1999-01-01T00:00:00Z"), OutOfReachError),
        (("plain", [{"user": "1"}]), RequestError),
        (("plain", [{"user": 1}, {}]), RequestError),
        (("plain", [{"user": 1}], {"budget": 1}), RequestError),
        (("plain", [{"user": 1}], None, "2024-05-01T00:00:00"), RequestError),
    ],
)
def test_errors_are_the_stores_own(client, store, arguments, error):
    with pytest.raises(error) as own:
        store.get_online_features(*arguments)
    with pytest.raises(error) as found:
        client.get_online_features(*arguments)
    assert type(found.value) is type(own.value)
    assert str(found.value) == str(own.value)
    assert found.value.field == own.value.field


@pytest.mark.parametrize("key", [float("nan"), np.float64("nan"), np.float32("nan")])
def test_a_key_that_is_not_a_number_is_no_null(client, key):
    """Found in a review: it was asked about as null, and answered as an entity that is not there."""
    with pytest.raises(RequestError, match="by None") as raised:
        client.get_online_features("plain", [{"user": 1}, {"user": key}])
    assert raised.value.field == "/entities/1/user"


def test_numbers_of_numpy_and_missing_values_of_pandas_are_understood(client, store):
    users = [{"user": np.int64(1)}, {"user": np.int8(2)}, {"user": pd.NA}]
    inputs = [{"budget": np.float32(0.1)}, {"budget": np.int32(2)}, {"budget": pd.NaT}]
    own = store.get_online_features(
        "all_of_it",
        [{"user": 1}, {"user": 2}, {"user": None}],
        [{"budget": float(np.float32(0.1))}, {"budget": 2}, {"budget": None}],
    )
    found = client.get_online_features("all_of_it", users, inputs)
    assert (found.rows, found.entities) == (own.rows, own.entities)


def test_what_cannot_be_sent_is_named_and_not_shown(client):
    frame = pd.DataFrame({"user": ["a secret"]})
    with pytest.raises(RequestError, match="got DataFrame") as raised:
        client.get_online_features("plain", [{"user": frame}])
    assert raised.value.field == "/entities/0/user"
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\n", "x" * 129])
def test_a_request_is_not_named_by_what_logs_cannot_bear(client, name):
    with pytest.raises(RequestError, match="is not a valid request id"):
        client.get_online_features("plain", [{"user": 1}], request_id=name)


def test_a_part_of_an_answer_is_the_stores_own_too(client, store):
    asked = ("all_of_it", [{"user": 1}, {"user": 9}], {"budget": 1})
    client.get_online_features(*asked)
    view = next(use.view for use in store.plan("all_of_it").uses if use.alias == "last_order")
    store.parts.online.write([(record_key(view), b"{")])
    own = store.get_online_features(*asked, as_of=NOW, partial=True)
    found = client.get_online_features(*asked, as_of=NOW, partial=True)
    assert own.event_times["last_order"] == [None, None]
    assert dataclasses.replace(found, request_id=own.request_id) == own


def test_another_plan_than_expected_is_refused(client, store):
    fingerprint = store.plan("plain").fingerprint
    assert client.get_online_features("plain", [], expected_fingerprint=fingerprint).rows == []
    with pytest.raises(FingerprintMismatchError, match="expected 0"):
        client.get_online_features("plain", [], expected_fingerprint="0")


def test_services_say_what_to_ask_with(client, store):
    found = {service.name: service for service in client.services()}
    assert sorted(found) == ["all_of_it", "plain"]
    plain = found["plain"]
    assert plain.fingerprint == store.plan("plain").fingerprint
    assert (plain.keys, plain.request, plain.views) == ({"user": INT64}, {}, {"spending": "spending"})
    assert plain.columns["spending__total"] == FLOAT64
    assert found["all_of_it"].request == {"budget": FLOAT64}


def test_health_is_whether_every_service_can_be_answered(kind, client, store, tmp_path):
    assert client.health() == Health(is_ready=True)
    config = store.config.model_copy(update={"online": f"sqlite:///{tmp_path}/empty.db"})
    with FeatureStore(config, clock=store.clock) as empty:
        unready = client_of(
            kind, "http://test", httpx.ASGITransport(create_app(empty), raise_app_exceptions=False), retries=QUICK
        )
        health = unready.health()
        assert not health.is_ready
        assert "nothing is materialized" in health.problem
        with pytest.raises(StateError):
            unready.get_online_features("plain", [{"user": 1}])


def test_only_503_is_repeated(kind):
    ok = httpx.Response(200, json=NO_SERVICES)
    client, got = answering(kind, httpx.Response(503, json=BUSY), httpx.Response(503, json=BUSY), ok)
    assert client.services() == ()
    assert [request.url.path for request in got] == ["/prefix/v1/services"] * 3
    for status in (400, 429, 500, 502, 504):
        client, got = answering(kind, httpx.Response(status, json={"code": "x", "detail": "No."}), ok)
        with pytest.raises(FeatureStoreError):
            client.services()
        assert len(got) == 1


def test_repeating_ends_with_the_servers_last_word(kind):
    client, got = answering(kind, *(httpx.Response(503, json=BUSY | {"code": f"busy-{i}"}) for i in range(5)))
    with pytest.raises(ServerError) as raised:
        client.services()
    assert (raised.value.code, raised.value.status, len(got)) == ("busy-3", 503, 4)


def test_a_wait_that_the_server_asks_for_is_kept_if_there_is_time(kind):
    busy, ok = (httpx.Response(503, json=BUSY, headers={"Retry-After": "1"}), httpx.Response(200, json=NO_SERVICES))
    client, got = answering(kind, busy, ok)
    with pytest.raises(ServerError, match="busy"):
        client.services(timeout=0.9)
    assert len(got) == 1
    assert client.services(timeout=5) == ()


def test_the_server_is_told_the_time_only_if_the_caller_says_it(kind):
    client, got = answering(kind, *(httpx.Response(200, json=NO_SERVICES) for _ in range(2)))
    client.services()
    client.services(timeout=2.5)
    assert "x-deadline-ms" not in got[0].headers
    assert 2_000 < int(got[1].headers["x-deadline-ms"]) <= 2_500


def test_a_request_has_the_name_that_the_caller_gives_it(kind):
    client, got = answering(kind, httpx.Response(200, json={}))
    with pytest.raises(ServerError, match="cannot be decoded"):
        client.get_online_features("plain", [], request_id="mine", partial=True)
    assert got[0].headers["x-request-id"] == "mine"
    assert json.loads(got[0].content)["partial"] is True


def test_the_key_is_sent_and_never_shown(kind):
    client, got = answering(kind, httpx.Response(200, json=NO_SERVICES), api_key="secret")
    assert client.services() == ()
    assert got[0].headers["authorization"] == "Bearer secret"
    with pytest.raises(ConfigError) as raised:
        FeatureStoreClient("http://test", api_key="secret\n")
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(FeatureStoreClient("http://test", api_key="secret"))


def test_a_key_opens_what_its_scope_allows(kind, store, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_SERVER__AUTH", "keys")
    with FeatureStore.local(store.config.folder, clock=store.clock) as guarded:
        transport = httpx.ASGITransport(create_app(guarded), raise_app_exceptions=False)
        _, key = guarded.api_keys.create("reader", [Scope.READ], now_us=guarded.clock.now_us())
        reader = client_of(kind, "http://test", transport, api_key=key)
        assert len(reader.services()) == 2
        with pytest.raises(ServerError, match="has no scope 'write'") as raised:
            reader.push("orders", [])
        assert (raised.value.status, raised.value.code) == (403, "forbidden")
        with pytest.raises(ServerError, match="There is no key") as raised:
            client_of(kind, "http://test", transport).services()
        assert (raised.value.status, raised.value.code) == (401, "no-key")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "", "http://", None])
def test_what_is_no_address_is_refused(url):
    for cls in (FeatureStoreClient, AsyncFeatureStoreClient):
        with pytest.raises(ConfigError, match="not the address of a server"):
            cls(url)


def test_an_answer_that_is_none_is_the_servers_failure(kind):
    for body in ({}, {"services": [{}]}, []):
        client, _ = answering(kind, httpx.Response(200, json=body))
        with pytest.raises(ServerError, match="cannot be decoded"):
            client.services()


def test_the_health_of_what_is_no_feature_server_is_an_error(kind):
    """It is no matter of being ready."""
    client, _ = answering(kind, httpx.Response(503, text="<html>"), httpx.Response(404, json={"code": "x"}))
    for code in ("no-problem-document", "x"):
        with pytest.raises(ServerError) as raised:
            client.health()
        assert raised.value.code == code


def test_a_server_that_is_not_there_is_said_to_be(kind):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnreachableError, match="Check that the server is running") as raised:
            client_of(kind, url).services()
    assert isinstance(raised.value, ConnectionError)
    assert raised.value.code == "unreachable"


@contextlib.contextmanager
def slowness(*, drops: bool):
    """Yield the address of a server that takes requests and never answers, or answers drop by drop."""
    done = threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            if drops:
                self.send_response(200)
                self.end_headers()
            with contextlib.suppress(OSError):
                while not done.wait(0.02):
                    self.wfile.write(b" " * drops)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Slow) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            done.set()
            thread.join()


@pytest.mark.parametrize("drops", [False, True])
def test_a_server_that_does_not_answer_in_time_is_said_to_be_slow(kind, drops):
    with slowness(drops=drops) as url, pytest.raises(UnreachableError, match="in time") as raised:
        client_of(kind, url).services(timeout=0.1)
    assert raised.value.code == "timeout"


@pytest.fixture
def project(tmp_path):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    (tmp_path / "featurestore.toml").write_text("")
    with FeatureStore.open(tmp_path) as store:
        store.apply(spending(FileSource("orders", path="orders.parquet", event_time="at")))
        store.materialize(NOW)
    return tmp_path


def test_a_real_server_answers_many_threads_and_tasks(project):
    """One client, eight threads; and one, eight tasks."""
    with serving(project) as url, FeatureStoreClient(url) as client:
        own = client.get_online_features("spending_model", [{"user": 1}], as_of=NOW)
        found = []
        threads = [
            threading.Thread(
                target=lambda: found.append(client.get_online_features("spending_model", [{"user": 1}], as_of=NOW))
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        async def ask():
            async with AsyncFeatureStoreClient(url) as other:
                asked = [other.get_online_features("spending_model", [{"user": 1}], as_of=NOW) for _ in range(8)]
                return await asyncio.gather(*asked)

        found += asyncio.run(ask())
    assert own.rows == [[2, 2.5]]
    assert [answer.rows for answer in found] == [own.rows] * 16
    assert len({answer.request_id for answer in found}) == 16


def test_the_serving_log_names_the_model_that_asked(client, store):
    client.get_online_features("plain", [{"user": 1}], model="churn", model_version="7")
    store.parts.serving_log.flush()
    (table,) = store.parts.serving_log.read("plain", since_us=0, until_us=2**60)
    assert table.select(["model", "model_version"]).to_pylist() == [{"model": "churn", "model_version": "7"}]


def test_a_client_is_answered_by_the_plan_it_was_trained_on(kind, store, tmp_path):
    manifest = tmp_path / "_manifest.json"
    manifest.write_text(json.dumps({"service": "plain", "fingerprint": store.plan("plain").fingerprint}))
    transport = httpx.ASGITransport(create_app(store))
    client = client_of(kind, "http://test", transport, trained_on=tmp_path)
    assert client.get_online_features("plain", [{"user": 1}]).fingerprint == store.plan("plain").fingerprint
    manifest.write_text(json.dumps({"service": "plain", "fingerprint": "0" * 64}))
    client = client_of(kind, "http://test", transport, trained_on=manifest)
    with pytest.raises(FingerprintMismatchError):
        client.get_online_features("plain", [{"user": 1}])
    assert client.get_online_features("all_of_it", [{"user": 1}], {"budget": 1.0}).rows
    for text, problem in (("[]", "is not a manifest"), (None, "No such file")):
        manifest.write_text(text) if text else manifest.unlink()
        with pytest.raises(ConfigError, match=problem):
            client_of(kind, "http://test", transport, trained_on=tmp_path).services()


def test_a_push_of_unknown_outcome_is_repeated_under_its_key_and_no_other_push_has_it():
    """A server that does not know whether it committed answers 504 with a code of its own."""
    keys = []
    unknown = {"code": "push-outcome-unknown", "detail": "?", "error": "StorageError"}
    pushed = {"accepted": 1, "duplicates": 0, "sequence": 0, "ingest_time": "2024-05-01T12:00:00Z"}

    def answer(request):
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) % 2:
            return httpx.Response(504, json=unknown)
        return httpx.Response(200, json=pushed | {"is_followed": True, "rejected": []})

    client = FeatureStoreClient("http://host", retries=QUICK, transport=httpx.MockTransport(answer))
    assert client.push("orders", [{"user": 1}]).accepted == 1
    client.push("orders", [{"user": 1}])
    client.push("orders", [{"user": 1}], idempotency_key="mine")
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert keys[4:] == ["mine", "mine"]


def test_what_is_no_push_is_not_repeated_after_504():
    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(504, json={"code": "deadline", "detail": "?"})

    client = FeatureStoreClient("http://host", retries=QUICK, transport=httpx.MockTransport(answer))
    for call in (client.services, lambda: client.push("orders", [])):
        with pytest.raises(UnreachableError):
            call()
    assert len(asked) == 2
