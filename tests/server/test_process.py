"""The server as a program: it says where it listens, and a signal ends it without losing what was served."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, FileSource
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
    [(["-m", "server"], signal.SIGTERM), (["-m", "featurestore.cli", "serve"], signal.SIGINT)],
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
    command = [sys.executable, "-m", "server", "--config", str(project), "--port", "0"]
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
    command = [sys.executable, "-m", "server", "--config", str(project), "--port", "0", "--workers", "2"]
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.toml"], "nowhere.toml: the file is not there"),
        (["--config", "{project}", "--port", "1", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 port 1"),
    ],
)
def test_a_server_that_cannot_start_says_why(project, arguments, message):
    arguments = [argument.format(project=project) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "server", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
