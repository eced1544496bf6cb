"""What is SQLite's own; what all stores do is in the conformance suite."""

import gc
import sqlite3
import threading
import weakref

import pytest

from featurestore.core.errors import ConfigError, StorageError
from featurestore.online.stores.sql import SqlOnlineStore


@pytest.fixture
def store(tmp_path):
    opened = SqlOnlineStore(f"sqlite:///{tmp_path}/folder/online.db")
    yield opened
    opened.close()


def test_more_keys_than_a_statement_takes_are_read_as_one_snapshot(store):
    keys = [number.to_bytes(4, "big") for number in range(40_000)]
    store.write([(key, key) for key in keys])
    assert store.read(keys) == dict(zip(keys, keys, strict=True))


def test_connections_of_ended_threads_are_given_back(store):
    opened = []

    def read():
        store.read([b"a"])
        opened.append(weakref.ref(store._local.connection))

    for _ in range(5):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    gc.collect()
    assert [one() for one in opened] == [None] * 5


def test_the_database_is_in_wal_mode(store, tmp_path):
    connection = sqlite3.connect(tmp_path / "folder" / "online.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


@pytest.mark.parametrize("url", ["online.db", "sqlite://", "sqlite:///:memory:", "postgresql://u:secret@h/d"])
def test_other_urls_are_refused_without_their_password(url):
    with pytest.raises(ConfigError, match="online store") as caught:
        SqlOnlineStore(url)
    assert "secret" not in str(caught.value)


def test_a_path_that_cannot_be_made_is_an_error_with_a_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot open"):
        SqlOnlineStore(f"sqlite:///{tmp_path}/file/online.db")


def test_a_file_that_is_no_database_is_an_error_with_a_name(tmp_path):
    (tmp_path / "online.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match="not a database") as caught:
        SqlOnlineStore(f"sqlite:///{tmp_path}/online.db")
    assert caught.value.code == "store-damaged"
    assert "rebuilt" in caught.value.hint
    assert "sqlalche.me" not in str(caught.value)


def test_a_database_that_another_program_keeps_locked_is_a_passing_failure(store, tmp_path):
    store.write([(b"a", b"1")])
    with store._engine.connect() as waiting:
        waiting.exec_driver_sql("PRAGMA busy_timeout=50")
    other = sqlite3.connect(tmp_path / "folder" / "online.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="database is locked") as caught:
        store.write([(b"a", b"2")])
    assert caught.value.code == "store-unavailable"
    assert store.read([b"a"]) == {b"a": b"1"}, "readers do not wait"
    other.close()
    store.write([(b"a", b"2")])


def test_a_store_that_fails_says_so(store, tmp_path):
    connection = sqlite3.connect(tmp_path / "folder" / "online.db")
    connection.execute("DROP TABLE online_state")
    connection.close()
    with pytest.raises(StorageError, match="cannot read"):
        store.read([b"a"])
    with pytest.raises(StorageError, match="cannot write"):
        store.write([(b"a", b"1")])
    with pytest.raises(StorageError, match="cannot delete"):
        store.delete(b"a")
    (tmp_path / "folder").rename(tmp_path / "gone")
    with pytest.raises(StorageError, match="cannot lock"), store.exclusive("view"):
        pass
