"""What is Redis' own: prefixes, expiry, leases, eviction, and a server that comes and goes."""

import os
import threading
import time
import uuid

import pytest
import redis

from featurestore.core.errors import StateError, StorageError
from featurestore.online.stores.opening import open_online_store
from tests.servers import free_port, redis_programs, running_redis

STATE = b"\x01" * 8 + b"\x00" * 4 + b"key"
RECORD = b"\x01" * 8


@pytest.fixture(scope="module")
def server():
    """A server that tests may change, pause and stop."""
    with running_redis(next(iter(redis_programs().values()))) as running:
        yield running


@pytest.fixture
def client(server):
    opened = redis.Redis.from_url(server.url)
    yield opened
    opened.flushdb()
    opened.close()


@pytest.fixture
def opened(server, client):
    """Opens stores on the server, with options."""
    stores = []

    def open_with(options=""):
        stores.append(open_online_store(f"{server.url}{options}"))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


def test_stores_of_different_prefixes_share_a_server(opened):
    """Also if one prefix begins with the other."""
    stores = [opened(f"?prefix={prefix}") for prefix in ("a", "a:", "a:s", "as")]
    for number, store in enumerate(stores):
        store.write([(b"k", b"%d" % number), (b"", b"empty key")])
    assert [store.read([b"k"])[b"k"] for store in stores] == [b"0", b"1", b"2", b"3"]
    assert stores[0].delete(b"") == 2
    assert [len(store.read([b"k", b""])) for store in stores] == [0, 2, 2, 2]


def test_prefixes_with_signs_of_patterns_are_meant_as_they_are(opened):
    other = opened("?prefix=ab")
    other.write([(b"k", b"1")])
    for prefix in ("a*", "a?", "[a]b", "a\\"):
        store = opened(f"?prefix={prefix}")
        store.write([(b"k", b"1")])
        assert store.delete(b"") == 1
    assert other.read([b"k"]) == {b"k": b"1"}


def test_states_expire_and_records_do_not(opened, client):
    store = opened("?expire=1h")
    store.write([(STATE, b"state"), (RECORD, b"record")])
    assert 3_590_000 < client.pttl(b"fs|s" + STATE) <= 3_600_000
    assert client.pttl(b"fs|s" + RECORD) == -1
    quick = opened("?expire=20ms")
    quick.write([(STATE, b"state"), (RECORD, b"record 2")], expected={RECORD: b"record"})
    time.sleep(0.05)
    assert quick.read([STATE, RECORD]) == {RECORD: b"record 2"}
    quick.write([(STATE, b"again")], expected={STATE: None})


def test_without_expiry_nothing_expires(opened, client):
    opened("?expire=1h").write([(STATE, b"state")])
    opened().write([(STATE, b"state")])
    assert client.pttl(b"fs|s" + STATE) == -1


def test_a_name_is_free_soon_after_its_holder_ended_without_a_word(opened, client):
    """The key of a lease always expires, also while it is renewed."""
    store = opened("?lease=300ms")
    with store.exclusive("view"):
        for _ in range(10):
            assert 0 < client.pttl(b"fs|lview") <= 300
            time.sleep(0.05)
    assert not client.exists(b"fs|lview")


def test_a_lost_name_is_told(opened, client):
    store = opened("?lease=300ms")
    with pytest.raises(StateError, match="was lost before the work ended") as caught, store.exclusive("view"):
        client.set(b"fs|lview", b"another's token")
    assert caught.value.code == "lease-lost"
    assert client.get(b"fs|lview") == b"another's token", "only the holder gives it back"
    with pytest.raises(ZeroDivisionError), store.exclusive("another"):
        client.delete(b"fs|lanother") / 0


def leasing_threads():
    return [thread for thread in threading.enumerate() if thread.name == "online store leases"]


def test_one_thread_renews_all_names_and_ends_when_there_are_none(opened):
    store = opened("?lease=300ms")
    with store.exclusive("first"), store.exclusive("second"):
        assert len(leasing_threads()) == 1
        time.sleep(0.5)
        assert len(leasing_threads()) == 1
    for _ in range(100):
        if not leasing_threads():
            break
        time.sleep(0.02)
    assert not leasing_threads()


def test_closing_ends_the_thread_unless_it_is_needed(opened, client):
    store = opened("?lease=1s")
    with store.exclusive("view"):
        store.close()
        time.sleep(1.3)
        assert client.exists(b"fs|lview"), "it is renewed all the same"
    store.close()
    for thread in leasing_threads():
        thread.join(5)
    assert not leasing_threads()


def test_a_server_that_evicts_states_is_refused(opened, client):
    """A state that vanishes would be answered as an entity that was never seen."""
    client.config_set("maxmemory", "100mb")
    try:
        for policy, options, is_refused in (
            ("allkeys-lru", "", True),
            ("volatile-lru", "", False),
            ("volatile-ttl", "?expire=1h", True),
            ("noeviction", "?expire=1h", False),
        ):
            client.config_set("maxmemory-policy", policy)
            store = opened(options)
            if is_refused:
                with pytest.raises(StorageError, match=policy) as caught:
                    store.write([(STATE, b"1")])
                assert caught.value.code == "store-evicts"
            else:
                store.write([(STATE, b"1")])
    finally:
        client.config_set("maxmemory", "0")
        client.config_set("maxmemory-policy", "noeviction")


def test_a_full_server_writes_all_or_nothing(opened, client):
    store = opened()
    store.write([(b"a", b"1")])
    client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(StorageError, match="cannot write") as caught:
            store.write([(b"%d" % number, bytes(100)) for number in range(100)])
        assert caught.value.code == "storage"
        assert store.read([b"a", b"0", b"99"]) == {b"a": b"1"}
    finally:
        client.config_set("maxmemory", "0")


def test_a_key_of_another_program_is_an_error_with_a_name(opened, client):
    client.lpush(b"fs|sa", b"x")
    with pytest.raises(StorageError, match=r"cannot write redis://127\.0\.0\.1"):
        opened().write([(b"b", b"1")], expected={b"a": b"x"})


def test_a_wrong_password_is_no_passing_failure(server, opened, client):
    client.config_set("requirepass", "secret")
    try:
        with pytest.raises(StorageError, match="cannot read") as caught:
            open_online_store(server.url).read([b"a"])
        right = open_online_store(server.url.replace("redis://", "redis://:secret@"))
        right.write([(b"a", b"1")])
        right.close()
        assert caught.value.code == "storage"
    finally:
        client.config_set("requirepass", "")


def test_a_server_that_does_not_answer_is_an_error_in_time(server, opened):
    """And the answer that comes later is taken for no other question's."""
    store = opened("?timeout=200ms")
    store.write([(b"a", b"1"), (b"b", b"2")])
    server.pause()
    try:
        begun = time.monotonic()
        with pytest.raises(StorageError) as caught:
            store.read([b"a"])
        assert 0.2 <= time.monotonic() - begun < 1
    finally:
        server.resume()
    assert caught.value.code == "store-unavailable"
    assert store.read([b"b"]) == {b"b": b"2"}


def test_a_write_is_sent_once(server, opened, client):
    """Nobody knows whether one that timed out was executed; a second sending would meet its own value."""
    store = opened("?timeout=200ms")
    store.write([(b"a", b"1")])
    server.pause()
    try:
        with pytest.raises(StorageError, match="cannot write"):
            store.write([(b"a", b"2")], expected={b"a": b"1"})
    finally:
        server.resume()
    for _ in range(100):
        if store.read([b"a"]) == {b"a": b"2"}:
            break
        time.sleep(0.01)
    assert store.read([b"a"]) == {b"a": b"2"}


def test_connections_survive_a_restart_of_the_server(server, opened):
    """Those that lay idle are noticed and replaced; scripts are sent again."""
    store = opened()
    store.write([(b"a", b"1")])
    server.stop()
    with pytest.raises(StorageError) as caught:
        store.read([b"a"])
    assert caught.value.code == "store-unavailable"
    with pytest.raises(StorageError), store.exclusive("view"):
        pass
    server.start_again()
    assert store.read([b"a"]) == {}
    store.write([(b"a", b"2")], expected={b"a": None})
    assert store.read([b"a"]) == {b"a": b"2"}


def test_a_holder_whose_server_is_away_for_a_while_goes_on(server, opened):
    """Renewing is tried again until the lease has run out."""
    store = opened("?lease=3s&timeout=200ms")
    with store.exclusive(f"view-{uuid.uuid4().hex}"):
        server.pause()
        time.sleep(1.3)
        server.resume()


def test_more_threads_than_connections_wait_for_one(opened):
    store = opened("?pool=2&timeout=5s")
    store.write([(b"a", b"1")])
    results = []
    threads = [threading.Thread(target=lambda: results.extend(store.read([b"a"]) for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{b"a": b"1"}] * 400


def test_reads_one_after_the_other_share_a_connection(opened, client):
    store = opened()
    before = len(client.client_list())
    for _ in range(5):
        store.read([b"a"])
    assert len(client.client_list()) == before + 1


def test_a_connection_that_the_server_closed_is_noticed_before_it_is_lent(opened, client):
    store = opened()
    store.write([(b"a", b"1")])
    assert store.read([b"a"]) == {b"a": b"1"}
    client.client_kill_filter(_type="normal", skipme=True)
    assert store.read([b"a"]) == {b"a": b"1"}


def test_a_process_that_was_forked_opens_connections_of_its_own(opened):
    """Two that wrote to one connection would read each other's answers."""
    store = opened()
    store.write([(b"a", b"1")])
    store.read([b"a"])
    (kept,) = [one for one in store._pool.pool.queue if one is not None]
    child = os.fork()
    if child == 0:
        found = store.read([b"a"])
        mine = [one for one in store._pool.pool.queue if one is not None]
        os._exit(0 if found == {b"a": b"1"} and kept not in mine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.read([b"a"]) == {b"a": b"1"}


def test_nothing_listens(opened):
    with pytest.raises(StorageError, match="Connection refused") as caught:
        open_online_store(f"redis://user:secret@127.0.0.1:{free_port()}/0").read([b"a"])
    assert caught.value.code == "store-unavailable"
    assert "secret" not in str(caught.value)
