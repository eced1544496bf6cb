"""Connections to a real server that say nothing, little, too much or nonsense: it goes on answering others."""

import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, FileSource
from tests.server.conftest import NOW, ORDERS
from tests.server.process import ended, serving
from tests.unit.store.test_store import spending

LIMITS = """
[server]
auth = "none"
max_head = "8KB"
max_body = "100KB"
head_seconds = 1.0
deadline_seconds = 1.5
keep_alive_seconds = 3.0
max_connections = 40
"""
QUESTION = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
CHUNKED = b"transfer-encoding: chunked\r\n"


def chunks(body: bytes, *trailers: bytes) -> bytes:
    half = len(body) // 2
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]))
    return pieces + b"0\r\n" + b"".join(trailers) + b"\r\n"


def head(*lines: bytes, start: bytes = b"POST /v1/features HTTP/1.1", length: int | None = len(QUESTION)) -> bytes:
    sized = () if length is None else (b"content-length: %d\r\n" % length,)
    return b"".join([start, b"\r\nhost: test\r\ncontent-type: application/json\r\n", *lines, *sized, b"\r\n"])


ASKED = head() + QUESTION


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("connections")
    pq.write_table(ORDERS, folder / "orders.parquet")
    (folder / "featurestore.toml").write_text(LIMITS)
    with FeatureStore.open(folder) as store:
        store.apply(spending(FileSource("orders", path="orders.parquet", event_time="at")))
        store.materialize(NOW)
    return folder


@pytest.fixture(scope="module")
def place(project):
    with serving(project) as address:
        yield urlsplit(address).hostname, urlsplit(address).port


@pytest.fixture
def connect(place):
    with ExitStack() as stack:

        def connection() -> socket.socket:
            return stack.enter_context(socket.create_connection(place, timeout=10))

        yield connection


def received(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    found = b""
    with suppress(ConnectionError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def statuses(answers: bytes) -> list[int]:
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


def answers_a_new_caller(place) -> bool:
    with socket.create_connection(place, timeout=10) as caller:
        caller.sendall(head(b"connection: close\r\n") + QUESTION)
        return received(caller).startswith(b"HTTP/1.1 200 ")


LARGE = {
    "path": b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "path without end": b"GET /" + b"a" * 300_000,
    "one header": head(b"x: " + b"a" * 9_000 + b"\r\n", length=0),
    "one header without end": b"GET / HTTP/1.1\r\nx: " + b"a" * 300_000,
    "a name without end": b"GET / HTTP/1.1\r\n" + b"a" * 300_000,
    "many headers": head(*[b"x-%d: %b\r\n" % (i, b"a" * 90) for i in range(100)], length=0),
    "many headers without end": b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: a\r\n" % i for i in range(30_000)),
    "behind a request": head(b"content-length: 90000\r\n", length=None)
    + b" " * 90_000
    + head(b"x: " + b"a" * 8_100 + b"\r\n", length=0),
}


@pytest.mark.parametrize("sent", LARGE.values(), ids=list(LARGE))
def test_a_head_that_is_too_large_is_refused(connect, place, sent):
    connection = connect()
    with suppress(ConnectionError):
        connection.sendall(sent)
    answers = received(connection)
    assert statuses(answers)[-1] == 431
    problem = json.loads(answers.rpartition(b"\r\n\r\n")[2])
    assert (problem["status"], problem["code"]) == (431, "head-too-large")
    assert b"application/problem+json" in answers
    assert b"connection: close" in answers.rpartition(b"HTTP/1.1 ")[2]
    assert answers_a_new_caller(place)


def test_a_head_as_large_as_it_may_be_is_answered(connect):
    connection = connect()
    for size in (7_000, 7_500):
        connection.sendall(head(b"x: " + b"a" * size + b"\r\n") + QUESTION)
        assert statuses(connection.recv(65_536)) == [200]


@pytest.mark.parametrize(
    "endless",
    [b"1;x=" + b"a" * 300_000, b"1\r\na\r\n0\r\nx: " + b"a" * 300_000, b"0\r\n" + b"x: a\r\n" * 60_000],
    ids=["extension", "trailer", "trailers"],
)
def test_what_stands_around_the_pieces_of_a_body_is_bounded(connect, place, endless):
    connection = connect()
    with suppress(ConnectionError):
        connection.sendall(head(CHUNKED, length=None) + endless)
    assert statuses(received(connection)) in ([400], [422])
    assert answers_a_new_caller(place)


def test_a_trailer_is_no_header(connect):
    connection = connect()
    connection.sendall(head(CHUNKED, length=None) + chunks(QUESTION, b"x-request-id: trailer\r\n"))
    answer = connection.recv(65_536)
    assert statuses(answer) == [200]
    assert b"x-request-id: trailer" not in answer


@pytest.mark.parametrize(
    ("first", "drip", "expected"),
    [
        (b"", b"", []),
        (b"POST /v1/features HTTP/1.1\r\nhost: x\r\nx: ", b"a", [408]),
        (b"POST /v1/features", b"", []),
        (ASKED + b"POST /v1/features", b"", [200]),
        (ASKED + b"POST /v1/features HTTP/1.1\r\nx: ", b"a", [200, 408]),
        (head(), b"{", [408]),
        (head(CHUNKED, length=None), b"1\r\n \r\n", [408]),
        (ASKED, b"", [200]),
    ],
    ids=[
        "silent",
        "dripping",
        "silent in a head",
        "silent in a second head",
        "dripping in a second head",
        "dripping in a body",
        "chunks without end",
        "idle",
    ],
)
def test_who_keeps_the_server_waiting_is_closed(connect, first, drip, expected):
    connection, began = connect(), time.monotonic()
    connection.sendall(first)
    connection.settimeout(0.2)
    found, is_open = b"", True
    while is_open and time.monotonic() - began < 20:
        with suppress(ConnectionError, TimeoutError):
            if drip:
                connection.send(drip)
            piece = connection.recv(65_536)
            is_open, found = bool(piece), found + piece
    assert not is_open
    assert statuses(found) == expected


@pytest.mark.parametrize("sent", [b"", b"GET /he", head() + b"{", ASKED], ids=["silent", "heads", "bodies", "idle"])
def test_new_callers_are_answered_under_more_connections_than_there_may_be(connect, place, sent):
    connections = []
    for number in range(200):
        connections.append(connect())
        connections[-1].sendall(sent)
        if number % 40 == 0:
            assert answers_a_new_caller(place)
    assert answers_a_new_caller(place)


def test_connections_leave_the_store_files_of_its_own(project):
    """Found in a hunt: callers without a key kept the server from opening its own files."""
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0"]
    limited = ["sh", "-c", 'ulimit -Sn 100; ulimit -Hn 160; exec "$@"', "sh", *command]
    more = {"FEATURESTORE_SERVER__MAX_CONNECTIONS": "10000"}
    process = subprocess.Popen(
        limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | more
    )
    with ended(process), ExitStack() as stack:
        where = urlsplit(process.stdout.readline().split()[-1])
        place = where.hostname, where.port
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        assert limits == (160, 160)
        for number in range(300):
            with suppress(OSError):
                connection = stack.enter_context(socket.create_connection(place, timeout=2))
                connection.sendall(b"GET /")
            if number % 50 == 0:
                assert answers_a_new_caller(place)
        with socket.create_connection(place, timeout=10) as caller:
            caller.sendall(head(b"connection: close\r\n", start=b"GET /readyz HTTP/1.1", length=0))
            assert statuses(received(caller)) == [200]


UPGRADES = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\n",
    "websocket": b"connection: upgrade\r\nupgrade: websocket\r\n",
    "something else": b"upgrade: a/1, b\r\nconnection: keep-alive, upgrade\r\n",
}


@pytest.mark.parametrize("how", ["at once", "body apart", "by the byte"])
@pytest.mark.parametrize("form", ["length", "chunks"])
@pytest.mark.parametrize("offer", UPGRADES.values(), ids=list(UPGRADES))
def test_an_offer_of_another_protocol_is_ignored(connect, offer, form, how):
    first = head(offer) if form == "length" else head(offer, CHUNKED, length=None)
    body = QUESTION if form == "length" else chunks(QUESTION)
    whole = first + body
    pieces = {"at once": [whole + ASKED], "body apart": [first, body + ASKED]}
    connection = connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in pieces.get(how) or [whole[i : i + 1] for i in range(len(whole))] + [ASKED]:
        connection.sendall(piece)
        time.sleep(0.02 if how == "body apart" else 0)
    answers = b""
    while answers.count(b"HTTP/1.1 ") < 2 or not answers.endswith(b"}}}"):
        answers += connection.recv(65_536)
    assert statuses(answers) == [200, 200]


def test_many_offers_one_behind_the_other_are_answered(connect):
    connection = connect()
    connection.sendall((head(UPGRADES["h2c"], start=b"GET /healthz HTTP/1.1", length=0)) * 300)
    found = b""
    while found.count(b'{"status":"ok"}') < 300:
        found += connection.recv(65_536)
    assert statuses(found) == [200] * 300


def test_a_tunnel_is_refused(connect):
    connection = connect()
    connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\nsomething")
    assert statuses(received(connection)) == [405]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET\r\n\r\n",
        head(b"content-length: 5\r\n", CHUNKED),
        head(CHUNKED, length=None) + b"x\r\n",
    ],
    ids=["TLS", "no target", "two lengths", "no chunk"],
)
@pytest.mark.parametrize("before", [0, 1, 2])
def test_what_comes_before_nonsense_is_answered(connect, place, before, nonsense):
    """Each in its turn: uvicorn's refusal came first, in the place of another answer."""
    connection = connect()
    connection.sendall(ASKED * before + nonsense)
    answers = received(connection)
    assert statuses(answers) == [200] * before + [400]
    assert json.loads(answers.rpartition(b"\r\n\r\n")[2])["code"] == "malformed-request"
    assert answers_a_new_caller(place)


def test_a_request_answered_before_its_body_came_is_the_last_of_its_connection(connect):
    """What its caller still sends is no request."""
    connection = connect()
    connection.sendall(head(length=200_000))
    found = connection.recv(65_536)
    with suppress(ConnectionError):
        connection.sendall(head(start=b"GET /healthz HTTP/1.1", length=0) * 2)
    found += received(connection)
    assert statuses(found) == [413]
    assert b"connection: close" in found


@pytest.mark.parametrize("seed", range(12))
def test_the_server_answers_on_whatever_comes(place, seed):
    """Requests damaged, cut and put behind each other: each gets some answer, or a closed connection, soon."""
    chance = random.Random(seed)
    parts = [
        ASKED,
        head(CHUNKED, length=None) + chunks(QUESTION),
        head(UPGRADES["h2c"]) + QUESTION,
        head(b"expect: 100-continue\r\n") + QUESTION,
        head(start=b"GET /healthz HTTP/1.0", length=0),
        b"\r\n\r\n",
        bytes(chance.randrange(256) for _ in range(50)),
        b"a" * chance.choice([10, 10_000]),
    ]
    with ExitStack() as stack:
        connections = []
        for _ in range(30):
            connection = stack.enter_context(socket.create_connection(place, timeout=10))
            connections.append(connection)
            sent = bytearray(b"".join(chance.choice(parts) for _ in range(chance.randrange(1, 4))))
            for _ in range(chance.randrange(3)):
                sent[chance.randrange(len(sent))] = chance.choice(b"\x00\r\n :;\x7f\xff0Aa")
            end = chance.choice([len(sent), chance.randrange(len(sent))])
            with suppress(ConnectionError):
                cut = chance.randrange(end + 1)
                connection.sendall(sent[:cut])
                connection.sendall(sent[cut:end])
                if chance.random() < 0.3:
                    connection.shutdown(socket.SHUT_WR)
        assert answers_a_new_caller(place)
        for connection in connections:
            assert all(200 <= status < 600 or status == 100 for status in statuses(received(connection)))
    assert answers_a_new_caller(place)
