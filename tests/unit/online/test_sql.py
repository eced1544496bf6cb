"""The SQLite store: snapshots, all or nothing, conditions, locks, and errors with a name."""

import gc
import sqlite3
import subprocess
import sys
import threading

import pytest

from featurestore.errors import ConfigError, StateError, StorageError
from featurestore.online.sql import SqlOnlineStore


@pytest.fixture
def store(tmp_path):
    opened = SqlOnlineStore(f"sqlite:///{tmp_path}/folder/online.db")
    yield opened
    opened.close()


def test_what_was_written_is_read(store):
    store.write([(b"a", b"1"), (b"b", b""), (b"\x00", b"\xff" * 100_000)])
    assert store.read([b"a", b"b", b"\x00", b"missing"]) == {b"a": b"1", b"b": b"", b"\x00": b"\xff" * 100_000}
    store.write([(b"a", b"2")])
    assert store.read([b"a"]) == {b"a": b"2"}
    assert store.read([]) == {}


def test_another_opening_sees_it(store, tmp_path):
    store.write([(b"a", b"1")])
    other = SqlOnlineStore(f"sqlite:///{tmp_path}/folder/online.db")
    assert other.read([b"a"]) == {b"a": b"1"}
    other.close()


def test_more_keys_than_a_statement_takes_are_read_as_one_snapshot(store):
    keys = [number.to_bytes(4, "big") for number in range(40_000)]
    store.write([(key, key) for key in keys])
    assert store.read(keys) == dict(zip(keys, keys, strict=True))


def test_a_write_whose_expectation_fails_writes_nothing(store):
    store.write([(b"a", b"1")])
    for expected in ({b"a": b"2"}, {b"a": None}, {b"a": b"1", b"b": b"1"}):
        with pytest.raises(StateError) as caught:
            store.write([(b"a", b"3"), (b"c", b"3")], expected=expected)
        assert caught.value.code == "conflict"
    assert store.read([b"a", b"c"]) == {b"a": b"1"}
    store.write([(b"a", b"3")], expected={b"a": b"1", b"b": None})
    assert store.read([b"a"]) == {b"a": b"3"}


def test_of_concurrent_writers_none_is_lost(store):
    store.write([(b"n", b"0")])

    def count():
        for _ in range(20):
            while True:
                value = store.read([b"n"])[b"n"]
                try:
                    store.write([(b"n", b"%d" % (int(value) + 1))], expected={b"n": value})
                    break
                except StateError:
                    continue

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read([b"n"]) == {b"n": b"80"}


def test_a_reader_sees_writes_whole(store):
    keys = [b"%d" % number for number in range(50)]
    store.write([(key, b"0") for key in keys])
    seen = []

    def read():
        for _ in range(200):
            seen.append(set(store.read(keys).values()))

    reader = threading.Thread(target=read)
    reader.start()
    for value in range(20):
        store.write([(key, b"%d" % value) for key in keys])
    reader.join()
    assert all(len(values) == 1 for values in seen)


def test_deleting_a_prefix_deletes_nothing_else(store):
    keys = [b"a", b"ab", b"ab\x00", b"ab\xff\xff", b"ac", b"\xff", b"\xff\xff1"]
    store.write([(key, b"") for key in keys])
    assert store.delete(b"ab") == 3
    assert set(store.read(keys)) == {b"a", b"ac", b"\xff", b"\xff\xff1"}
    assert store.delete(b"\xff") == 2
    assert store.delete(b"") == 2


def test_a_name_is_held_by_one_alone(store, tmp_path):
    other = SqlOnlineStore(f"sqlite:///{tmp_path}/folder/online.db")
    with store.exclusive("view"):
        with pytest.raises(StateError) as caught, other.exclusive("view"):
            pass
        with other.exclusive("other"):
            pass
    assert caught.value.code == "busy"
    with other.exclusive("view"):
        pass
    other.close()


def test_a_name_is_free_again_when_its_holder_is_killed(store, tmp_path):
    program = (
        "import sys, time; from featurestore.online.sql import SqlOnlineStore\n"
        f"with SqlOnlineStore('sqlite:///{tmp_path}/folder/online.db').exclusive('view'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StateError), store.exclusive("view"):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with store.exclusive("view"):
        pass


def test_a_closed_store_opens_again(store):
    store.write([(b"a", b"1")])
    store.read([b"a"])
    store.close()
    assert store.read([b"a"]) == {b"a": b"1"}


def test_connections_of_ended_threads_are_given_back(store):
    for _ in range(5):
        thread = threading.Thread(target=lambda: store.read([b"a"]))
        thread.start()
        thread.join()
    gc.collect()
    assert len(store._opened) == 0


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
    with pytest.raises(StorageError, match="not a database"):
        SqlOnlineStore(f"sqlite:///{tmp_path}/online.db")


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
