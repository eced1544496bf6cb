"""Databases the library writes to."""

import sqlalchemy as sa

from featurestore.database import what_is_left


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
