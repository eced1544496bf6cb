"""What loads a server in the benchmark reports what the server saw, with wrk and with libcurl."""

import json
import shutil
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.load import generator, load
from tests.servers import free_port

pytest.importorskip("pycurl")

WRK = shutil.which("wrk")
CONNECTIONS = 4


@pytest.fixture(params=["libcurl", pytest.param("wrk", marks=pytest.mark.skipif(not WRK, reason="no wrk"))])
def client(request, monkeypatch):
    if request.param == "libcurl":
        monkeypatch.setenv("PATH", "")
    assert generator() == request.param
    return request.param


class Seen:
    """What a server saw, and how it behaves: how many answers lie between wrong ones and between broken connections."""

    def __init__(self, *, takes: float, wrong_every: int, broken_every: int) -> None:
        self.takes, self.wrong_every, self.broken_every = takes, wrong_every, broken_every
        self.lock = threading.Lock()
        self.connections, self.bodies, self.answers, self.wrong, self.broken = 0, [], 0, 0, 0
        self.asking = self.most_asking = 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self):
        super().setup()
        self.seen = self.server.seen
        with self.seen.lock:
            self.seen.connections += 1

    def do_POST(self):
        body, seen = self.rfile.read(int(self.headers["Content-Length"])), self.seen
        with seen.lock:
            seen.bodies.append((self.path, self.headers["Content-Type"], body))
            number = len(seen.bodies)
            seen.asking += 1
            seen.most_asking = max(seen.most_asking, seen.asking)
        time.sleep(seen.takes)
        is_broken = bool(seen.broken_every) and number % seen.broken_every == 0
        is_wrong = bool(seen.wrong_every) and number % seen.wrong_every == 0
        with seen.lock:
            seen.asking -= 1
            seen.broken += is_broken
            seen.answers += not is_broken
            seen.wrong += is_wrong and not is_broken
        if is_broken:
            self.close_connection = True
            return
        self.send_response(503 if is_wrong else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Say nothing of connections that a client breaks off when its time is up."""


@contextmanager
def serving(*, takes=0.0, wrong_every=0, broken_every=0):
    with Server(("127.0.0.1", 0), Handler) as server:
        server.seen = Seen(takes=takes, wrong_every=wrong_every, broken_every=broken_every)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address, server.seen
        finally:
            server.shutdown()
            thread.join()


def asked(address, folder):
    return load(address, connections=CONNECTIONS, seconds=1, entities=2, folder=folder)


def about(count, client):
    """Return what equals the count, for wrk less what it did not wait for when its time was up."""
    return pytest.approx(count, abs=CONNECTIONS if client == "wrk" else 0, rel=0)


@pytest.mark.usefixtures("client")
def test_every_connection_is_kept_and_asks_again_as_soon_as_it_is_answered(tmp_path):
    with serving(takes=0.02) as (address, seen):
        found = asked(address, tmp_path)
    assert found.errors == 0
    assert seen.connections in {CONNECTIONS, CONNECTIONS + 1}  # wrk tries first whether anybody answers
    assert seen.most_asking == CONNECTIONS
    assert 20 <= found.median_ms <= found.p99_ms
    assert found.requests_per_second <= CONNECTIONS / 0.02
    # Where each connection waits for one answer at a time, their number over the time of one is the rate.
    assert found.requests_per_second == pytest.approx(CONNECTIONS / found.median_ms * 1e3, rel=0.5)
    assert found.requests_per_second == pytest.approx(seen.answers, rel=0.5)


@pytest.mark.usefixtures("client")
def test_bodies_take_turns(tmp_path):
    with serving(takes=0.002) as (address, seen):
        asked(address, tmp_path)
    assert {(path, kind) for path, kind, _ in seen.bodies} == {("/v1/features", "application/json")}
    bodies = [body for *_, body in seen.bodies]
    assert all(len(json.loads(body)["entities"]) == 2 for body in bodies)
    assert len(bodies) > 150
    assert len(set(bodies[:150])) == 150
    assert len(set(bodies)) <= 200


def test_answers_other_than_200_are_errors(client, tmp_path):
    with serving(takes=0.002, wrong_every=5) as (address, seen):
        found = asked(address, tmp_path)
    assert seen.wrong > 10
    assert found.errors == about(seen.wrong, client)
    assert found.requests_per_second == pytest.approx(seen.answers, rel=0.5)


def test_connections_that_break_are_errors_and_asking_goes_on(client, tmp_path):
    with serving(takes=0.002, broken_every=10) as (address, seen):
        found = asked(address, tmp_path)
    assert seen.broken > 10
    assert found.errors == about(seen.broken, client)
    assert found.requests_per_second == pytest.approx(seen.answers, rel=0.5)


def test_answers_that_libcurl_does_not_wait_for_are_errors(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with serving(takes=2.5) as (address, seen):
        found = asked(address, tmp_path)
    assert found.errors == len(seen.bodies) == CONNECTIONS
    assert found.requests_per_second == 0


def test_libcurl_counts_errors_where_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = asked(("127.0.0.1", free_port()), tmp_path)
    assert found.errors >= CONNECTIONS
    assert (found.requests_per_second, found.median_ms, found.p99_ms) == (0, 0, 0)
