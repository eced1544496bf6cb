"""Databases the library writes to."""

import socket
import sqlite3
import time
from threading import Timer

import pytest
import sqlalchemy as sa

from featurestore.core.errors import RegistryError
from featurestore.registry import Registry
from featurestore.storage.database import open_database, use_wal, what_is_left


def test_what_others_keep_from_being_overwritten_is_named(tmp_path):
    """Whoever reads keeps the write-ahead log from being emptied."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/a.db", connect_args={"timeout": 0})
    with engine.connect() as writer:
        writer.exec_driver_sql("PRAGMA journal_mode = WAL")
        writer.exec_driver_sql("CREATE TABLE t (x)")
        writer.exec_driver_sql("INSERT INTO t VALUES (1)")
        writer.commit()
        with engine.connect() as reader:
            reader.exec_driver_sql("BEGIN")
            reader.exec_driver_sql("SELECT * FROM t").all()
            writer.exec_driver_sql("DELETE FROM t")
            writer.commit()
            assert "a.db-wal may hold deleted data" in what_is_left(engine)
    assert what_is_left(engine) == ""
    assert (tmp_path / "a.db-wal").stat().st_size == 0
    engine.dispose()


def _locked(path):
    """Lock a new file as whoever makes its first table does."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE t (x)")
    return connection


def test_a_new_file_that_another_has_locked_is_waited_for(tmp_path):
    """SQLite would report it at once, whatever its time limit is."""
    other = _locked(tmp_path / "a.db")
    released = Timer(0.3, lambda: other.execute("COMMIT"))
    released.start()
    engine = open_database(f"sqlite:///{tmp_path}/a.db", where="here")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    released.join()
    other.close()
    engine.dispose()


def test_a_file_that_stays_locked_is_not_waited_for_for_ever(tmp_path):
    other = _locked(tmp_path / "a.db")
    connection = sqlite3.connect(tmp_path / "a.db", timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_wal(connection, wait_seconds=0.05)
    connection.close()
    other.close()


def test_what_is_no_database_is_not_waited_for(tmp_path):
    (tmp_path / "a.db").write_bytes(b"no database" * 100)
    connection = sqlite3.connect(tmp_path / "a.db")
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        use_wal(connection, wait_seconds=60)
    connection.close()


@pytest.fixture
def silent():
    """A host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_database_that_says_nothing_is_not_waited_for(silent):
    url = f"postgresql+psycopg://somebody@127.0.0.1:{silent}/nothing?connect_timeout=2"
    began = time.monotonic()
    with pytest.raises(RegistryError) as raised:
        Registry(url)
    assert raised.value.code == "registry-unavailable"
    assert time.monotonic() - began < 20


def test_an_answer_that_does_not_come_ends_the_connection(postgres_url):
    head, _, query = postgres_url.replace("postgresql://", "postgresql+psycopg://").partition("?")
    engine = open_database(f"{head}?{query + '&' if query else ''}timeout=0.5", where="registry")
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.exec_driver_sql("SELECT pg_sleep(60)")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1
    engine.dispose()


def test_what_a_url_says_of_its_time_limits_holds():
    engine = open_database("postgresql+psycopg://localhost/nothing?tcp_user_timeout=7&timeout=3", where="registry")
    _, options = engine.dialect.create_connect_args(engine.url)
    assert options["tcp_user_timeout"] == "7"
    assert "timeout" not in options
