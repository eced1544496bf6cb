"""Our protocol on top of uvicorn's, driven without sockets: what leaves at once, and what is said of bodies."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from featurestore.config import ServerConfig
from featurestore.server.app import create_app
from featurestore.server.calls import WHOLE_BODY
from featurestore.server.connections import Connections

HEAD = b"POST /v1/features HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, data):
        self.writes.append(data)

    def is_closing(self):
        return False

    def close(self):
        pass

    def abort(self):
        pass

    def write_eof(self):
        pass

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


def connected(app, **limits):
    """Return a connection to an application, and its transport."""
    connections = Connections(ServerConfig(**limits))
    config = uvicorn.Config(app, http=connections, ws="none", access_log=False, log_config=None, proxy_headers=False)
    config.load()
    protocol, transport = connections(config=config, server_state=ServerState(), app_state={}), Transport()
    protocol.connection_made(transport)
    return protocol, transport


async def until(is_so):
    for _ in range(1_000):
        if is_so():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it never became so")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [([HEAD + b"{}"], [True]), ([HEAD, b"{", b"}"], [False]), ([HEAD + b"{}" + HEAD + b"{}"], [True, True])],
    ids=["at once", "in pieces", "behind another"],
)
def test_it_is_said_of_a_body_whether_it_has_come(pieces, expected):
    said, bodies = [], []

    async def app(scope, receive, send):
        said.append(WHOLE_BODY in scope.get("extensions", {}))
        message = await receive()
        while message["more_body"]:
            message = {**(following := await receive()), "body": message["body"] + following["body"]}
        bodies.append(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def run():
        protocol, transport = connected(app)
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(0.01)
        await until(lambda: len(transport.writes) == len(expected))
        return transport.writes

    written = asyncio.run(run())
    assert said == expected
    assert bodies == [b"{}"] * len(expected)
    assert all(one.startswith(b"HTTP/1.1 200 ") and one.endswith(b"\r\n\r\nok") for one in written), "each in one piece"


@pytest.mark.parametrize(("pieces", "status"), [([HEAD], b"408"), ([HEAD, b"{"], b"408"), ([HEAD + b"{}"], b"422")])
def test_only_a_body_that_is_still_to_come_is_waited_for_and_given_up(store, pieces, status):
    server = ServerConfig(auth="none", deadline_seconds=0.2)
    store.parts.config = store.config.model_copy(update={"server": server})

    async def run():
        protocol, transport = connected(create_app(store))
        for piece in pieces:
            protocol.data_received(piece)
            await asyncio.sleep(0)
        await until(lambda: transport.writes)
        return transport.writes

    (answer,) = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 " + status)
