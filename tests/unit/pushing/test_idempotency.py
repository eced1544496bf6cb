"""Pushes that are repeated under one key count once, whatever became of the first answer."""

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from featurestore import FeatureStore
from featurestore.core.errors import RequestError, StorageError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.sources.event_log import OUTCOME_UNKNOWN
from tests.stores import local_store
from tests.unit.pushing.test_push import NOW, ask, order, orders, spending


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture(params=["sqlite", "postgresql"])
def event_log(request):
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_database")


@pytest.fixture
def store(tmp_path, clock, event_log):
    with local_store(tmp_path / "store", event_log=event_log, clock=clock) as opened:
        opened.apply(spending(orders(tmp_path, event_id=None)))
        yield opened


def count_of(store):
    return sum(stretch.row_count for stretch in store.parts.event_log.stretches("orders"))


def test_the_same_key_with_the_same_events_counts_once_and_is_answered_as_before(store, tmp_path, clock, event_log):
    """Also in another process, and in another order of columns and rows."""
    first = store.push("orders", [order(1), order(2, 4.0)], idempotency_key="k")
    store.push("orders", [order(3)])
    with local_store(tmp_path / "store", event_log=event_log, clock=clock) as other:
        again = [dict(reversed(order(2, 4.0).items())), order(1)]
        assert other.push("orders", again, idempotency_key="k") == first
    assert count_of(store) == 3


def test_the_same_key_with_other_events_is_refused_by_name(store):
    store.push("orders", [order(1)], idempotency_key="k")
    for events in ([order(2)], [order(1, 2.0)], [order(1), order(1)], []):
        with pytest.raises(RequestError) as caught:
            store.push("orders", events, idempotency_key="k")
        assert caught.value.code == "idempotency-key-reused"
    assert count_of(store) == 1


def test_pushes_of_one_key_at_the_same_time_count_once(store):
    """Also where they are committed together with others."""
    with ThreadPoolExecutor(8) as pool:
        keys = [f"k{number % 5}" for number in range(40)]
        results = list(pool.map(lambda key: store.push("orders", [order(int(key[1:]))], idempotency_key=key), keys))
    assert count_of(store) == 5
    assert all(result.accepted == 1 for result in results)
    for key in set(keys):
        assert len({result.sequence for name, result in zip(keys, results, strict=True) if name == key}) == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 256, "\n"])
def test_what_is_no_key_is_refused(store, key):
    with pytest.raises(RequestError) as caught:
        store.push("orders", [order(1)], idempotency_key=key)
    assert caught.value.code == "idempotency-key"
    assert count_of(store) == 0


def test_keys_of_several_sources_and_ids_do_not_meet(tmp_path, clock):
    """With an event id the events that are known stay duplicates; the repeated push is answered as the first was."""
    with FeatureStore.local(tmp_path / "store", clock=clock) as store:
        store.apply(spending(orders(tmp_path)))
        store.push("orders", [order(1)])
        first = store.push("orders", [order(1), order(2)], idempotency_key="k")
        assert (first.accepted, first.duplicates) == (1, 1)
        assert store.push("orders", [order(1), order(2)], idempotency_key="k") == first
        assert ask(store, clock)["spending__count"] == 2


class SilentCommits:
    """Stands between a client and PostgreSQL; once it is armed, the next commit is done and its answer kept back."""

    def __init__(self, port):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_armed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            cut = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, cut), daemon=True).start()

    def _forward(self, client, server, cut):
        with client:
            while data := _received(client):
                if self.is_armed and re.search(rb"COMMIT(?!TED)", data):
                    self.is_armed = False
                    cut.set()
                    server.sendall(data)
                    server.settimeout(5)
                    _received(server)
                    client.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)
            server.close()

    def _back(self, server, client, cut):
        while not cut.is_set() and (data := _peeked(server, cut)):
            client.sendall(data)


def _received(connection):
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _peeked(connection, cut):
    """Return what has come, unless it is to be kept back."""
    try:
        if not connection.recv(1, socket.MSG_PEEK) or cut.is_set():
            return b""
        return connection.recv(65536)
    except OSError:
        return b""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a pool that was given up
def test_a_commit_without_an_answer_has_its_own_code_and_is_repeated_by_its_key(tmp_path, clock, postgres_database):
    """The events were committed: pushed again under another key, or none, they would count twice."""
    head, _, rest = postgres_database.rpartition("@")[2].partition("/")
    proxy = SilentCommits(int(head.rpartition(":")[2]))
    url = f"postgresql+psycopg://postgres@127.0.0.1:{proxy.port}/{rest}"
    with local_store(tmp_path / "store", event_log=url, clock=clock) as store:
        store.apply(spending(orders(tmp_path, event_id=None)))
        store.push("orders", [order(1)])
        proxy.is_armed = True
        with pytest.raises(StorageError) as caught:
            store.push("orders", [order(2)], idempotency_key="k")
        assert caught.value.code == OUTCOME_UNKNOWN
        assert count_of(store) == 2
        assert store.push("orders", [order(2)], idempotency_key="k").accepted == 1
        assert count_of(store) == 2
