"""Databases the library writes to."""

import sqlite3
from threading import Timer

import pytest
import sqlalchemy as sa

from featurestore.database import open_database, use_wal, what_is_left


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
            assert "a.db-wal may hold what was deleted" in what_is_left(engine)
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
