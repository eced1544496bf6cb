"""A connection pooler for PostgreSQL that lends sessions for one transaction each, or for as long as a client stays."""

import queue
import secrets
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

SESSIONS = {False: 2, True: 40}
"""How many sessions all clients share, by whether one is lent for as long as a client stays."""

_STARTUP, _NO_TLS, _PROTOCOL = 4, b"N", 196_608
_READY, _SYNC, _QUERY, _END = b"Z", b"S", b"Q", b"X"


class Messages:
    """A socket, read message by message: a letter, a length, a body."""

    def __init__(self, connected):
        self.socket = connected
        self._buffer = b""

    def fill(self):
        """Read what has come; tell whether the other side is still there."""
        data = self.socket.recv(65_536)
        self._buffer += data
        return bool(data)

    def whole(self):
        """Yield the messages that are there, as they came."""
        while len(self._buffer) >= 5 and len(self._buffer) > (end := struct.unpack_from(">I", self._buffer, 1)[0]):
            message, self._buffer = self._buffer[: end + 1], self._buffer[end + 1 :]
            yield message


def _opened_session(url):
    """Connect to the server; return the session, and what a client is told when it connects."""
    session = Messages(socket.create_connection((url.hostname, url.port)))
    body = struct.pack(">I", _PROTOCOL) + f"user\0{url.username}\0database\0{url.path[1:]}\0\0".encode()
    session.socket.sendall(struct.pack(">I", len(body) + 4) + body)
    told = []
    while session.fill():
        for message in session.whole():
            told.append(message)
            if message[:1] == _READY:
                return session, [one for one in told if one[:1] in b"RS"]
    raise AssertionError("the server ended the session")


class Pooler:
    """Listens on a port of its own, whose URL is the server's but for that."""

    def __init__(self, url, *, by_session):
        self._by_session = by_session
        self._target = urlsplit(url)
        self._idle = queue.LifoQueue()
        first, self._greeting = _opened_session(self._target)
        for session in [None] * (SESSIONS[by_session] - 1) + [first]:
            self._idle.put(session)
        self._clients = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = urlunsplit(self._target._replace(netloc=f"{self._target.username}@127.0.0.1:{port}"))
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listening.close()
        for thread, connected in self._clients:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
            thread.join()
        while not self._idle.empty():
            if session := self._idle.get():
                session.socket.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                connected, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(connected,))
                self._clients.append((thread, connected))
                thread.start()

    def _serve(self, connected):
        with connected, suppress(OSError, struct.error):
            if self._greeted(connected):
                self._relay(Messages(connected))

    def _greeted(self, connected):
        """Answer a client that connects; tell whether it wants a session, or to cancel something."""
        while True:
            (length,) = struct.unpack(">I", connected.recv(4, socket.MSG_WAITALL))
            body = connected.recv(length - 4, socket.MSG_WAITALL)
            (code,) = struct.unpack_from(">I", body)
            if code == _PROTOCOL:
                break
            if length != 8:
                return False
            connected.sendall(_NO_TLS)
        key = b"K" + struct.pack(">I", 12) + secrets.token_bytes(3).rjust(4, b"\1") + secrets.token_bytes(4)
        connected.sendall(b"".join(self._greeting) + key + _READY + struct.pack(">Ic", 5, b"I"))
        return True

    def _relay(self, client):
        """Lend the client a session whenever it begins a transaction, and take it back when that has ended."""
        while client.fill():
            waiting = list(client.whole())
            while waiting:
                if waiting[0][:1] == _END:
                    return
                session = self._idle.get() or _opened_session(self._target)[0]
                is_whole = False
                try:
                    is_whole = self._in_session(client, session, waiting)
                finally:
                    if not is_whole:
                        session.socket.close()
                    self._idle.put(session if is_whole else None)
                if not is_whole:
                    return
                waiting = list(client.whole())

    def _in_session(self, client, session, waiting):
        """Relay messages until a transaction has ended; ``False`` if the client has gone before."""
        unanswered = 0
        while True:
            for message in waiting:
                if message[:1] == _END:
                    return False
                unanswered += message[:1] in (_SYNC, _QUERY)
                session.socket.sendall(message)
            waiting = []
            readable, _, _ = select.select([client.socket, session.socket], [], [])
            if session.socket in readable:
                assert session.fill()
                for message in session.whole():
                    unanswered -= message[:1] == _READY
                    client.socket.sendall(message)
                    is_idle = message == _READY + struct.pack(">Ic", 5, b"I") and not unanswered
                    if is_idle and not self._by_session:
                        return True
            if client.socket in readable:
                if not client.fill():
                    return False
                waiting = list(client.whole())


@contextmanager
def pooled(url: str, *, by_session: bool = False) -> Iterator[str]:
    """Give the URL of a pooler in front of a server."""
    pooler = Pooler(url, by_session=by_session)
    try:
        yield pooler.url
    finally:
        pooler.close()
