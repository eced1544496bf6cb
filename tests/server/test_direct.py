"""Most questions are answered without a task of ASGI: to the byte as ASGI answers, and everything else by ASGI."""

import asyncio
import json
import re
from collections import Counter

import pytest

from featurestore.core.errors import StorageError
from featurestore.registry.api_keys import Scope
from featurestore.server.app import Application
from featurestore.server.features import ENTITIES_IN_LOOP
from tests.server.test_auth import key_of
from tests.server.test_protocol import connected, until

ORDINARY = {"service": "plain", "entities": [{"user": 1}, {"user": 9}]}


def request(body, *headers: bytes, method: bytes = b"POST", path: bytes = b"/v1/features", version: bytes = b"1.1"):
    """Return a request as it comes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [
        method + b" " + path + b" HTTP/" + version,
        b"host: test",
        b"x-request-id: named",
        b"content-length: %d" % len(content),
        *headers,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content


class Counted(Application):
    """Counts how often it is called as ASGI."""

    calls = 0

    async def __call__(self, scope, receive, send):
        self.calls += 1
        await super().__call__(scope, receive, send)


class ByAsgi:
    """Nothing but ASGI."""

    def __init__(self, application):
        self._application = application

    async def __call__(self, scope, receive, send):
        await self._application(scope, receive, send)


def exchanged(app, *pieces, answers=1):
    """Return what is written when some pieces come one after the other."""

    async def run():
        protocol, transport = connected(app)
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(0)
        await until(lambda: b"".join(transport.writes).count(b"HTTP/1.1 ") == answers)
        await asyncio.sleep(0.01)
        return b"".join(transport.writes)

    return asyncio.run(run())


def answer_of(written: bytes) -> dict:
    return json.loads(written.partition(b"\r\n\r\n")[2])


DIRECT = {
    "ordinary": [request(ORDINARY)],
    "described": [request(ORDINARY | {"describe": True, "event_times": False})],
    "at an instant": [request(ORDINARY | {"as_of": "2024-05-02T00:00:00Z"})],
    "partial": [request(ORDINARY | {"partial": True})],
    "on demand": [request({"service": "all_of_it", "entities": [{"user": 1}], "request": {"budget": 3.0}})],
    "nobody": [request(ORDINARY | {"entities": []})],
    "as Arrow": [request(ORDINARY, b"accept: application/vnd.apache.arrow.stream")],
    "compressed": [request(ORDINARY, b"accept-encoding: gzip")],
    "of a version before": [request(ORDINARY, version=b"1.0")],
    "the last": [request(ORDINARY, b"connection: close")],
    "flagged": [request(ORDINARY | {"expected_fingerprint": "0" * 64})],
}
BY_ASGI = {
    "no JSON": [request(b"{")],
    "another shape": [request({"service": 1})],
    "unknown service": [request(ORDINARY | {"service": "plan"})],
    "wrong type": [request(ORDINARY | {"entities": [{"user": "one"}]})],
    "too many": [request(ORDINARY | {"entities": [{"user": 1}] * 1_001})],
    "many": [request(ORDINARY | {"entities": [{"user": 1}] * (ENTITIES_IN_LOOP + 1)})],
    "too long": [request(b" " * 2_000_000)],
    "no POST": [request(b"", method=b"GET")],
    "another type": [request(ORDINARY, b"content-type: text/plain")],
    "no such form": [request(ORDINARY, b"accept: text/html")],
    "packed": [request(ORDINARY, b"content-encoding: gzip")],
    "with a deadline": [request(ORDINARY, b"x-deadline-ms: 20000")],
    "with a wrong deadline": [request(ORDINARY, b"x-deadline-ms: soon")],
    "in pieces": [request(ORDINARY)[:-20], request(ORDINARY)[-20:]],
    "elsewhere": [request(b"", method=b"GET", path=b"/healthz")],
    "nowhere": [request(b"", path=b"/v1/feature")],
}


@pytest.fixture
def app(store, monkeypatch):
    monkeypatch.setattr("featurestore.server.features.SLOW_SECONDS", 60.0)  # however busy the machine is
    server = store.config.server.model_copy(update={"compress_from": 10, "on_fingerprint_mismatch": "flag"})
    store.parts.config = store.config.model_copy(update={"server": server})
    return Counted(store)


@pytest.mark.parametrize("pieces", [*DIRECT.values(), *BY_ASGI.values()], ids=[*DIRECT, *BY_ASGI])
def test_the_answer_is_that_of_asgi_to_the_byte(app, pieces):
    directly, by_asgi = exchanged(app, *pieces), exchanged(ByAsgi(app), *pieces)
    assert directly == by_asgi
    assert re.match(rb"HTTP/1.1 [2345]\d\d ", directly)


@pytest.mark.parametrize("name", [*DIRECT, *BY_ASGI])
def test_asgi_is_called_for_what_is_not_ordinary_and_for_nothing_else(app, name):
    exchanged(app, *(DIRECT | BY_ASGI)[name])
    assert app.calls == (name in BY_ASGI)


def test_requests_behind_each_other_are_answered_in_their_order(app):
    behind = [request(ORDINARY | {"entities": [{"user": user}]}) for user in (1, 2, 9)]
    written = exchanged(app, b"".join(behind), answers=3)
    assert written == b"".join(exchanged(ByAsgi(app), one) for one in behind)


def test_each_is_counted_once_and_none_stays_under_way(app):
    for pieces in (DIRECT | BY_ASGI).values():
        exchanged(app, *pieces)
    page, _ = app.telemetry.metrics_page()
    counted = Counter()
    for name, value in re.findall(r'featurestore_requests_total\{.*status="(\d+)"\} (\d+)', page.decode()):
        counted[name] += int(value)
    assert counted.total() == len(DIRECT) + len(BY_ASGI)
    assert counted["200"] == len(DIRECT) + len({"many", "with a deadline", "in pieces", "elsewhere"})
    assert app.admission.in_flight == 0


def test_a_key_is_looked_up_by_asgi_and_then_known(store, app):
    server = app.admission.limits.model_copy(update={"auth": "keys"})
    store.parts.config = store.config.model_copy(update={"server": server})
    reader, writer = (
        b"authorization: " + key_of(store, scope, name=scope.value)[1]["authorization"].encode()
        for scope in (Scope.READ, Scope.WRITE)
    )
    for _ in range(3):
        assert exchanged(app, request(ORDINARY, reader)).startswith(b"HTTP/1.1 200")
        assert app.calls == 1
    assert exchanged(app, request(ORDINARY)).startswith(b"HTTP/1.1 401")
    assert exchanged(app, request(ORDINARY, b"authorization: Bearer fs_x")).startswith(b"HTTP/1.1 401")
    for _ in range(2):
        assert exchanged(app, request(ORDINARY, writer)).startswith(b"HTTP/1.1 403")


def test_too_many_under_way_are_refused(store, app):
    store.parts.config = store.config.model_copy(
        update={"server": app.admission.limits.model_copy(update={"max_requests": 1})}
    )
    app.admission.in_flight = 1
    assert exchanged(app, request(ORDINARY)).startswith(b"HTTP/1.1 503")
    assert app.admission.in_flight == 1


def test_a_store_that_fails_is_told_of_by_asgi(store, app, monkeypatch):
    exchanged(app, request(ORDINARY))

    def down(_):
        raise StorageError("it is down", where="online store")

    with monkeypatch.context() as patch:
        patch.setattr(store.parts.serving.store._store, "read", down)
        written = exchanged(app, request(ORDINARY))
    assert written.startswith(b"HTTP/1.1 503")
    assert answer_of(written)["code"] in {"storage", "store-down"}
    assert app.admission.in_flight == 0


def test_nothing_is_sent_to_a_caller_who_has_gone_away(app):
    async def run():
        protocol, transport = connected(app)
        protocol.data_received(request(ORDINARY))
        protocol.connection_lost(None)
        await until(lambda: app.admission.in_flight == 0)
        await asyncio.sleep(0.01)
        return transport.writes

    assert asyncio.run(run()) == []
    assert app.calls == 0
    page, _ = app.telemetry.metrics_page()
    assert b'featurestore_requests_total{route="/v1/features",status="0"} 1.0' in page


def logged(store) -> list[str]:
    """Return the names of the requests in the serving log."""
    store.parts.serving_log.flush()
    tables = store.parts.serving_log.read("plain", since_us=0, until_us=2**60)
    return [name for table in tables for name in table["request_id"].to_pylist()]


@pytest.fixture
def asked(store, monkeypatch):
    """The questions that the library is asked."""
    asked = []
    answer_many = store.parts.serving.answer_many

    def keeping(questions):
        asked.extend(questions)
        return answer_many(questions)

    monkeypatch.setattr(store.parts.serving, "answer_many", keeping)
    return asked


def test_an_answer_that_cannot_be_written_down_is_an_error_and_asked_for_once(app, asked, monkeypatch):
    def broken(*_, **__):
        raise ValueError("no such form")

    monkeypatch.setattr("featurestore.server.features.body_of", broken)
    written = exchanged(app, request(ORDINARY))
    assert written.startswith(b"HTTP/1.1 500")
    assert answer_of(written)["code"] == "internal-error"
    assert len(asked) == 1


def test_what_fails_directly_is_not_asked_again(app, asked):
    assert exchanged(app, request(ORDINARY | {"service": "plan"})).startswith(b"HTTP/1.1 404")
    assert len(asked) == 1


def test_a_caller_who_takes_nothing_is_waited_for_by_asgi(store, app):
    async def run():
        protocol, transport = connected(app)
        protocol.pause_writing()
        protocol.data_received(request(ORDINARY))
        await until(lambda: app.calls == 1)
        await asyncio.sleep(0.01)
        assert transport.writes == []
        protocol.resume_writing()
        await until(lambda: transport.writes)
        return transport.writes

    (written,) = asyncio.run(run())
    assert written.startswith(b"HTTP/1.1 200")
    assert app.admission.in_flight == 0
    assert logged(store) == ["named"] * len(ORDINARY["entities"]), "each row once"


def test_it_is_left_to_asgi_until_the_server_has_started(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATURESTORE_CONFIG", str(tmp_path / "none.toml"))
    app = Counted()
    assert exchanged(app, request(ORDINARY)).startswith(b"HTTP/1.1 503")
    assert app.calls == 1
