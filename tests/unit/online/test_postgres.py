"""What is PostgreSQL's own: tables, locks of a condition, sessions, and a server that comes and goes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDoneError

import psycopg
import pytest

from featurestore.core.errors import ConfigError, StateError, StorageError
from featurestore.online.stores.opening import open_online_store
from tests.servers import postgres_folders, running_postgres


@pytest.fixture(scope="module")
def server():
    """A server that tests may change, pause and stop."""
    with running_postgres(next(iter(postgres_folders().values()))) as running:
        yield running


@pytest.fixture
def opened(server):
    """Opens stores on the server, with options."""
    stores = []

    def open_with(options=""):
        stores.append(open_online_store(f"{server.url}{options}"))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


@pytest.fixture
def store(opened):
    emptied = opened()
    emptied.delete(b"")
    return emptied


@pytest.fixture
def admin(server):
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection


def test_the_table_is_made_once_by_many_at_once(server, admin):
    stores = [open_online_store(f"{server.url}?table=made_once") for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: each.read([b"a"]), stores)) == [{}] * 8
    for each in stores:
        each.close()
    column = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'made_once'::regclass AND attname = 'value'"
    assert admin.execute(column).fetchone() == ("e",)
    admin.execute("DROP TABLE made_once")


def test_stores_of_different_tables_share_a_database(opened, admin):
    first, second = opened("?table=first"), opened("?table=second")
    first.write([(b"a", b"1")])
    assert second.read([b"a"]) == {}
    with first.exclusive("view"), second.exclusive("view"):
        pass
    assert second.delete(b"") == 0
    assert first.read([b"a"]) == {b"a": b"1"}
    admin.execute("DROP TABLE first, second")


def test_a_user_who_may_not_make_tables_uses_one_that_is_there(server, store, admin):
    admin.execute("CREATE USER reader; GRANT SELECT ON online_state TO reader")
    try:
        store.write([(b"a", b"1")])
        reader = open_online_store(server.url.replace("postgres@", "reader@"))
        assert reader.read([b"a"]) == {b"a": b"1"}
        with pytest.raises(StorageError, match="permission denied") as caught:
            reader.write([(b"a", b"2")])
        reader.close()
        assert caught.value.code == "storage"
    finally:
        admin.execute("DROP OWNED BY reader; DROP USER reader")


@pytest.mark.parametrize(
    ("expected", "key"),
    [
        ({b"a": b"1"}, b"a"),
        ({b"a": b"1", b"b": b"1"}, b"b"),
        ({b"new": None}, b"new"),
        ({b"c": None, b"d": None}, b"d"),
    ],
    ids=["written", "only expected", "made", "only absent"],
)
def test_what_is_expected_holds_until_the_write_is_there(store, expected, key):
    """A writer that expects nothing waits for one that has compared and not yet committed."""
    store.write([(b"a", b"1"), (b"b", b"1")])
    has_compared, goes_on = threading.Event(), threading.Event()
    upsert = store._upsert

    def slowly(connection, items):
        if dict(items).get(b"a") == b"conditional":
            has_compared.set()
            assert goes_on.wait(10)
        upsert(connection, items)

    store._upsert = slowly
    items = [(b"a", b"conditional"), *([(b"new", b"conditional")] if key == b"new" else [])]
    with ThreadPoolExecutor(2) as pool:
        conditional = pool.submit(store.write, items, expected=expected)
        assert has_compared.wait(10)
        other = pool.submit(store.write, [(key, b"other")])
        with pytest.raises(NotDoneError):
            other.result(timeout=0.2)
        assert store.read([b"a"]) == {b"a": b"1"}, "readers do not wait"
        goes_on.set()
        conditional.result()
        other.result()
    assert store.read([key]) == {key: b"other"}


def test_writers_that_rest_on_one_record_do_not_wait_for_each_other(store):
    store.write([(b"record", b"1")])
    both = threading.Barrier(2, timeout=10)
    upsert = store._upsert

    def together(connection, items):
        both.wait()
        upsert(connection, items)

    store._upsert = together
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(store.write, [(key, b"1")], expected={b"record": b"1"}) for key in (b"x", b"y")]:
            done.result()
    assert store.read([b"x", b"y"]) == {b"x": b"1", b"y": b"1"}


def test_a_write_that_the_server_ends_for_another_is_done_again(store):
    """Two that lock in opposite orders: both come to an end, one of them at the second attempt."""
    store.write([(b"a", b"1"), (b"b", b"1")])
    both = threading.Barrier(2, timeout=10)
    upsert, attempts = store._upsert, []

    def together(connection, items):
        attempts.append(items)
        if len(attempts) <= 2:
            both.wait()
        upsert(connection, items)

    store._upsert = together
    with ThreadPoolExecutor(2) as pool:
        pairs = [(b"a", b"b"), (b"b", b"a")]
        writes = [pool.submit(store.write, [(target, b"2")], expected={rest: b"1"}) for rest, target in pairs]
        codes = [getattr(write.exception(), "code", None) for write in writes]
    assert sorted(codes, key=str) == [None, "conflict"], "the second attempt finds what the other has written"


def test_a_name_is_lost_with_its_session(store, admin):
    other = open_online_store(f"{store._conninfo}")

    def is_free():
        try:
            with other.exclusive("view"):
                return True
        except StateError:
            time.sleep(0.02)
            return False

    def lose():
        with store.exclusive("view"):
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            assert any(is_free() for _ in range(100))

    with pytest.raises(StateError) as caught:
        lose()
    assert caught.value.code == "lease-lost"
    other.close()


def test_sessions_that_held_names_are_used_again(store, admin):
    for _ in range(5):
        with store.exclusive("view"):
            pass
    assert admin.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
    assert len(store._holders._idle) == 1


def test_an_answer_that_does_not_come_is_an_error_in_time(server, opened):
    """And the connection is not used for another question."""
    store = opened("?timeout=300ms")
    store.write([(b"a", b"1"), (b"b", b"2")])
    server.pause()
    try:
        begun = time.monotonic()
        with pytest.raises(StorageError) as caught:
            store.read([b"a"])
        assert 0.3 <= time.monotonic() - begun < 2
    finally:
        server.resume()
    assert caught.value.code == "store-unavailable"
    assert store.read([b"b"]) == {b"b": b"2"}


def test_a_lock_that_is_not_given_is_an_error_in_time(opened, store, admin):
    store.write([(b"a", b"1")])
    hasty = opened("?timeout=300ms")
    with admin.transaction():
        admin.execute("SELECT * FROM online_state WHERE key = 'a' FOR UPDATE")
        with pytest.raises(StorageError, match="cannot write") as caught:
            hasty.write([(b"a", b"2")])
        while admin.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone():
            time.sleep(0.01)  # the server gives it up, too, a moment before or after
    assert caught.value.code == "store-unavailable"
    assert hasty.read([b"a"]) == {b"a": b"1"}
    hasty.write([(b"a", b"2")])


def test_connections_survive_a_restart_of_the_server(server, store):
    """Those that lay idle are noticed and replaced; nobody sees an error after it, and a short one during it."""
    store.write([(b"a", b"1")])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.read([b"a"]), range(40)))
    server.stop(2)
    begun = time.monotonic()
    with pytest.raises(StorageError) as caught:
        store.read([b"a"])
    assert time.monotonic() - begun < 1
    assert caught.value.code == "store-unavailable"
    server.start_again()
    for _ in range(8):
        assert store.read([b"a"]) == {b"a": b"1"}
    store.write([(b"a", b"2")], expected={b"a": b"1"})


def test_a_server_that_is_killed_keeps_what_was_written(server, store):
    store.write([(b"a", b"kept"), (b"b", b"kept")])
    server.stop(9)
    server.start_again()
    assert store.read([b"a", b"b"]) == {b"a": b"kept", b"b": b"kept"}


def test_more_threads_than_connections_wait_for_one(opened, store, admin):
    store.write([(b"a", b"1")])
    few = opened("?pool=2")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: few.read([b"a"]), range(200))) == [{b"a": b"1"}] * 200
    assert len(few._pool._idle) <= 2
    hasty = opened("?pool=1&timeout=200ms")
    with hasty._pool.connection(), pytest.raises(StorageError, match="all 1 connections are in use"):
        hasty.read([b"a"])


def test_a_connection_with_an_open_transaction_is_not_lent_again(store):
    with store._pool.connection() as connection:
        connection.execute("BEGIN")
    assert connection.closed


def test_a_wrong_database_or_password_is_told_without_it(server):
    wrong = open_online_store(f"{server.url.replace('@', ':secret@').removesuffix('postgres')}missing")
    with pytest.raises(StorageError, match='database "missing" does not exist') as caught:
        wrong.read([b"a"])
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        open_online_store("postgresql://u:secret@h/d?sslmod=require")
    assert "secret" not in str(refused.value)


def test_other_isolation_levels_of_the_database_change_nothing(server, store, admin):
    admin.execute("ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'")
    try:
        strict = open_online_store(server.url)
        strict.write([(b"a", b"1")])
        with strict._pool.connection() as connection, connection.transaction():
            assert connection.execute("SHOW transaction_isolation").fetchone() == ("read committed",)
        strict.close()
    finally:
        admin.execute("ALTER DATABASE postgres RESET default_transaction_isolation")
