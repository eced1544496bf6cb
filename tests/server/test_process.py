"""The server as a program: it says where it listens, and a signal ends it without losing what was served."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, FileSource
from featurestore.config import ServerConfig
from featurestore.server.process import DRAIN_SECONDS, drain_seconds
from tests.server.conftest import NOW, ORDERS
from tests.server.process import ended, serving
from tests.unit.store.test_store import spending


@pytest.fixture
def project(tmp_path):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    (tmp_path / "featurestore.toml").write_text("[serving_log]\nflush_seconds = 3600")
    with FeatureStore.open(tmp_path) as store:
        store.apply(spending(FileSource("orders", path="orders.parquet", event_time="at")))
        store.materialize(NOW)
    return tmp_path


@pytest.mark.parametrize(
    ("program", "stopped_by"),
    [(["-m", "featurestore.server"], signal.SIGTERM), (["-m", "featurestore.cli", "serve"], signal.SIGINT)],
    ids=["module", "command"],
)
def test_a_stopped_server_has_written_what_it_served(project, program, stopped_by):
    is_command = program[-1] == "serve"
    arguments = ["--port", "0"] if is_command else ["--config", str(project), "--port", "0"]
    environment = os.environ | {"FEATURESTORE_CONFIG": str(project)}
    with subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith("serving on http://127.0.0.1:"), process.stderr.read()
            address = said.split()[-1]
            question = {"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}
            request = Request(
                f"{address}/v1/features", json.dumps(question).encode(), {"content-type": "application/json"}
            )
            with urlopen(request, timeout=30) as response:
                answer = json.load(response)
            process.send_signal(stopped_by)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()
    assert answer["rows"][0]["values"] == [2, 2.5]
    (logged,) = (project / "featurestore" / "serving_log").rglob("*.parquet")
    assert pq.read_table(logged).column("request_id").to_pylist() == [answer["request_id"]]


def test_head_and_body_of_an_answer_leave_in_one_piece(project):
    body = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
    head = f"POST /v1/features HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(project) as address:
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port), timeout=30) as connection:
            for _ in range(2):
                connection.sendall(head + body)
                piece = connection.recv(65_536)
                assert json.loads(piece.partition(b"\r\n\r\n")[2])["rows"][0]["values"] == [2, 2.5]


def test_a_request_under_way_is_answered_and_logged_before_the_server_ends(project):
    body = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
    head = f"POST /v1/features HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\nX-Request-Id: last\r\n\r\n"
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with ended(process):
        address = process.stdout.readline().split()[-1]
        place = urlsplit(address).hostname, urlsplit(address).port
        urlopen(f"{address}/readyz", timeout=30).close()
        with socket.create_connection(place, timeout=30) as connection:
            connection.sendall(head.encode() + body[:10])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            for _ in range(100):
                try:
                    socket.create_connection(place, timeout=5).close()
                except ConnectionRefusedError:
                    break
                time.sleep(0.05)
            else:
                raise AssertionError("a server that is ending takes new connections")
            connection.sendall(body[10:])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        assert process.wait(30) == 0
    (logged,) = (project / "featurestore" / "serving_log").rglob("*.parquet")
    assert pq.read_table(logged).column("request_id").to_pylist() == ["last"]


def test_metrics_of_several_workers_add_up(project):
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    question = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
    with ended(process):
        address = process.stdout.readline().split()[-1]
        for _ in range(20):
            asked = Request(f"{address}/v1/features", question, {"content-type": "application/json"})
            with urlopen(asked, timeout=30) as response:
                assert response.status == 200
        with urlopen(f"{address}/metrics", timeout=30) as response:
            page = response.read().decode()
    assert 'featurestore_requests_total{route="/v1/features",status="200"} 20.0' in page
    assert 'featurestore_entities_total{service="spending_model"} 20.0' in page


AWAY = {"FEATURESTORE_REGISTRY": "sqlite:////dev/null/registry.db"}


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--config", "nowhere.toml"], {}, "nowhere.toml: the file is not there"),
        (["--port", "1", "--host", "192.0.2.1"], {}, "cannot listen on 192.0.2.1 port 1"),
        (["--port", "99999"], {}, "99999 is not a port"),
        (["--workers", "0"], {}, "0 processes cannot serve"),
        (["--port", "0"], AWAY, "registry"),
        (["--port", "0", "--workers", "2"], AWAY, "registry"),
    ],
)
def test_a_server_that_cannot_start_says_why(project, arguments, environment, message):
    """Found in a review: several workers said where they serve and ended with 0, one with a traceback and 3."""
    done = subprocess.run(
        [sys.executable, "-m", "featurestore.server", "--config", str(project), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | environment,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_workers_that_cannot_start_end_the_server(project):
    """What they lack their supervisor does not need."""
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0", "--workers", "2"]
    missing = {"FEATURESTORE_ONLINE": "sqlite:////dev/null/online.db"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | missing)
    assert (done.returncode, done.stdout) == (2, "")


def children_of(pid: int) -> list[int]:
    """Return the processes of a supervisor that serve."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdigit() and (folder / "stat").read_text().rpartition(")")[2].split()[1] == str(pid):
                found += [int(folder.name)] if b"spawn_main" in (folder / "cmdline").read_bytes() else []
    return found


def is_there(pid: int) -> bool:
    with suppress(OSError):
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(holds) -> None:
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_workers_end_when_their_supervisor_is_gone(project):
    """Found in a review: they went on and kept the port."""
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0", "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with process:
        place = urlsplit(process.stdout.readline().split()[-1])
        workers = children_of(process.pid)
        assert len(workers) == 2
        process.kill()
    eventually(lambda: not any(map(is_there, workers)))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((place.hostname, place.port), timeout=5)


def test_metrics_forget_the_state_of_workers_that_are_gone(project):
    """Found in a review: rows that waited in a worker that died waited for ever."""
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0", "--workers", "1"]
    folder = project / "metrics"
    folder.mkdir()
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    leave = "from featurestore.server.metrics import Metrics; Metrics().record_log(waiting_rows=7, lost_rows=2)"
    subprocess.run([sys.executable, "-c", leave], check=True, env=environment)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    with ended(process):
        address = process.stdout.readline().split()[-1]
        with urlopen(f"{address}/metrics", timeout=30) as response:
            page = response.read().decode()
    assert "featurestore_serving_log_waiting_rows 0.0" in page
    assert "featurestore_serving_log_lost_rows_total 2.0" in page


def test_a_stopped_server_breaks_off_no_connection_that_asks(project):
    """Found in a review: requests that had been sent when the server was stopped met closed connections."""
    body = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
    asked = f"POST /v1/features HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ends = []

    def ask() -> None:
        with socket.create_connection(place, timeout=30) as connection:
            while True:
                connection.sendall(asked)
                answer = connection.recv(65_536)
                if not answer.startswith(b"HTTP/1.1 200") or b"connection: close" in answer.partition(b"\r\n\r\n")[0]:
                    ends.append(answer[:12])
                    return

    with ended(process):
        where = urlsplit(process.stdout.readline().split()[-1])
        place = where.hostname, where.port
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert process.wait(30) == 0
    assert ends == [b"HTTP/1.1 200"] * 8


def get(place, path="/readyz", **headers) -> tuple[int, dict[str, str], bytes]:
    with closing(HTTPConnection(*place, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as response:
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def started(project, *arguments, **environment) -> tuple[subprocess.Popen, tuple[str, int]]:
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    where = urlsplit(process.stdout.readline().split()[-1])
    return process, (where.hostname, where.port)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_drains_answers_on_and_is_not_ready(project, workers):
    process, place = started(project, "--workers", workers, FEATURESTORE_SERVER__DRAIN_SECONDS="2.5")
    with ended(process):
        eventually(lambda: get(place)[0] == 200)
        assert "connection" not in get(place)[1]
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        eventually(lambda: get(place)[0] == 503)
        seen = []
        with suppress(ConnectionError):
            while True:
                seen.append(get(place, "/healthz"))
                time.sleep(0.05)
        lasted = time.monotonic() - began
        assert process.wait(30) == 0
    assert len(seen) > 3
    assert {(status, headers["connection"]) for status, headers, _ in seen} == {(200, "close")}
    assert 2 < lasted < 15


def test_a_second_signal_ends_the_wait_for_load_balancers(project):
    process, place = started(project, FEATURESTORE_SERVER__DRAIN_SECONDS="60")
    with ended(process):
        process.send_signal(signal.SIGTERM)
        eventually(lambda: get(place)[0] == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopping_resets_no_caller_who_comes_again_and_again(project, workers):
    """Found in a hunt: what waited to be accepted when the last worker closed the socket was reset."""
    body = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
    asked = f"POST /v1/features HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    process, place = started(project, "--workers", workers)
    counts, ends = [0] * 8, []

    def ask(number: int) -> None:
        while True:
            try:
                connection = socket.create_connection(place, timeout=30)
            except ConnectionRefusedError:
                ends.append("refused")
                return
            with connection:
                try:
                    while True:
                        connection.sendall(asked)
                        answer = connection.recv(65_536)
                        if not answer.startswith(b"HTTP/1.1 200"):
                            ends.append(answer)
                            return
                        counts[number] += 1
                        if b"connection: close" in answer:
                            break
                except ConnectionError as error:
                    ends.append(repr(error))
                    return

    with ended(process):
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: min(counts) > 3)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert process.wait(30) == 0
    assert ends == ["refused"] * 8


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_stops_reading_what_the_server_writes_stops_nothing_else(project, workers):
    """Found in a hunt: with the pipe full, the server answered nobody, and a probe would have ended it."""
    process, place = started(project, "--workers", workers, FEATURESTORE_SERVER__LOG_REQUESTS="true")
    with process, closing(HTTPConnection(*place, timeout=30)) as connection:
        for number in range(1_500):
            named = {"x-request-id": f"{number}-{'x' * 50}"}
            connection.request("GET", "/healthz" if number % 2 else "/", headers=named)
            assert connection.getresponse().read()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_worker_that_dies_is_replaced_and_sighup_replaces_all(project):
    process, place = started(project, "--workers", "2")
    with ended(process):
        first = children_of(process.pid)
        eventually(lambda: get(place)[0] == 200)
        os.kill(first[0], signal.SIGKILL)
        eventually(lambda: len(children_of(process.pid)) == 2 and first[0] not in children_of(process.pid))
        before = set(children_of(process.pid))
        process.send_signal(signal.SIGHUP)
        until = time.monotonic() + 90
        while before & set(children_of(process.pid)) or len(children_of(process.pid)) != 2:
            assert time.monotonic() < until
            assert get(place, "/healthz")[0] == 200
            time.sleep(0.2)
        assert get(place)[0] == 200


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6")
def test_a_server_on_any_ipv6_address_is_reached_by_ipv4_too(project):
    process, place = started(project, "--host", "::", FEATURESTORE_SERVER__DRAIN_SECONDS="0")
    with ended(process):
        assert [get((host, place[1]), "/healthz")[0] for host in ("127.0.0.1", "::1")] == [200, 200]


def test_only_a_server_that_others_reach_waits_for_load_balancers_by_default():
    with socket.create_server(("127.0.0.1", 0)) as own, socket.create_server(("0.0.0.0", 0)) as open_to_others:
        assert drain_seconds(ServerConfig(), [own]) == 0
        assert drain_seconds(ServerConfig(), [open_to_others]) == DRAIN_SECONDS
        assert drain_seconds(ServerConfig(drain_seconds=0.5), [own]) == 0.5


def test_connections_outlive_the_idle_time_of_load_balancers():
    assert ServerConfig().keep_alive_seconds > 60
