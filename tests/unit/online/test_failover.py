"""A server becomes a replica while its connections stay: new connections are opened, and nobody need be restarted."""

import socket
import threading
import time

import psycopg
import pytest
import redis

from featurestore.core.errors import StorageError
from featurestore.online.stores.opening import open_online_store
from featurestore.sources.event_log import EventLog
from tests.servers import redis_programs, running_redis
from tests.unit.event_log.test_log import NOW_US, convert, events

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""The address keeps its sockets open until the process ends."""


class Address:
    """One address behind which servers take turns; connections stay with the server that they were made to."""

    def __init__(self, port):
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _port(server):
    return int(server.url.rpartition(":")[2].partition("/")[0])


def test_redis_that_became_a_replica_is_left_with_the_first_write(tmp_path):
    """Its connections are kept open by the failover, and every write on them is refused (READONLY)."""
    program = next(iter(redis_programs().values()))
    with running_redis(program) as old, running_redis(program) as new:
        clients = [redis.Redis.from_url(server.url) for server in (old, new)]
        address = Address(_port(old))
        store = open_online_store(f"redis://127.0.0.1:{address.port}/0")
        store.write([(b"a", b"1")])
        with store.exclusive("view"):
            pass
        clients[1].execute_command("REPLICAOF", "127.0.0.1", _port(old))
        _wait(lambda: clients[1].dbsize() == clients[0].dbsize())
        clients[1].execute_command("REPLICAOF", "NO", "ONE")
        clients[0].execute_command("REPLICAOF", "127.0.0.1", _port(new))
        address.target = _port(new)
        _wait(lambda: clients[0].info("replication")["role"] == "slave")
        with store.exclusive("view"):
            store.write([(b"a", b"2")], expected={b"a": b"1"})
        assert clients[1].get(b"fs|sa") == b"2"
        assert store.delete(b"a") == 1
        store.close()


def test_a_process_that_only_reads_leaves_a_replica_too():
    """It looks at the server's role together with its policy."""
    program = next(iter(redis_programs().values()))
    with running_redis(program) as old, running_redis(program) as new:
        address = Address(_port(old))
        store = open_online_store(f"redis://127.0.0.1:{address.port}/0")
        assert store.read([b"a"]) == {}
        redis.Redis.from_url(new.url).set(b"fs|sa", b"of the new primary")
        redis.Redis.from_url(old.url).execute_command("REPLICAOF", "127.0.0.1", 1)
        address.target = _port(new)
        assert store.why_it_drops_keys() == ""
        assert store.read([b"a"]) == {b"a": b"of the new primary"}
        store.close()


def _wait(is_true):
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def append(log, table):
    log.append("orders", table, event_id="id", convert=convert, now_us=lambda: NOW_US)


@pytest.fixture
def read_only_sessions(postgres_database):
    """Let sessions that begin meanwhile be read-only for as long as they last, as those to a replica are."""
    name = postgres_database.rpartition("/")[2]

    def switch(value):
        with psycopg.connect(postgres_database, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} SET {value}")

    return switch


def test_an_online_store_in_postgres_opens_new_connections(postgres_database, read_only_sessions):
    first = open_online_store(postgres_database)
    first.write([(b"a", b"1")])
    first.close()
    read_only_sessions("default_transaction_read_only = on")
    store = open_online_store(postgres_database)
    assert store.read([b"a"]) == {b"a": b"1"}
    read_only_sessions("default_transaction_read_only = off")
    with pytest.raises(StorageError) as caught:
        store.write([(b"a", b"2")], expected={b"a": b"1"})
    assert caught.value.code == "store-unavailable"
    store.write([(b"a", b"2")], expected={b"a": b"1"})
    assert store.read([b"a"]) == {b"a": b"2"}
    store.close()


def test_an_event_log_in_postgres_opens_new_connections(tmp_path, postgres_database, read_only_sessions):
    first = EventLog(postgres_database, tmp_path)
    append(first, events(1))
    first.close()
    read_only_sessions("default_transaction_read_only = on")
    log = EventLog(postgres_database, tmp_path)
    log.database.engine.connect().close()
    read_only_sessions("default_transaction_read_only = off")
    with pytest.raises(StorageError) as caught:
        append(log, events(2))
    assert caught.value.code == "event-log-unavailable"
    append(log, events(2))
    assert log.head("orders").next_sequence == 2
    log.close()
