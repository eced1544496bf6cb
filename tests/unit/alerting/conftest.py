"""A registry for what people were told, and a server that takes what is posted."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from featurestore.core.retrying import Backoff
from featurestore.registry import Registry


@pytest.fixture
def registry(tmp_path):
    with Registry(f"sqlite:///{tmp_path}/registry.db") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("featurestore.guard.alerts.channels._BACKOFF", Backoff(0.01))


class Hook:
    """What was posted.

    Attributes:
        url: Where to.
        got: For each message that was taken its content, bytes and signature.
        answers: What is answered next, in place of 200: a status, or bytes that are no HTTP.
        asked: Every request.
    """

    def __init__(self, url):
        self.url = url
        self.got, self.answers, self.asked = [], [], []


@pytest.fixture
def hook():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # the name is the package's
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append(("POST", self.path))
            answer = found.answers.pop(0) if found.answers else 200
            if isinstance(answer, bytes):
                self.wfile.write(answer)
                return
            if answer == 200:
                found.got.append((json.loads(body), body, self.headers.get("X-Featurestore-Signature")))
            self.send_response(answer)
            self.send_header("Location", "/login")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            found.asked.append(("GET", self.path))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    found = Hook(f"http://127.0.0.1:{server.server_port}/hook")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()
