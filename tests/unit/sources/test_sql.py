"""Databases as a source, here SQLite."""

import datetime as dt
import sqlite3
from decimal import Decimal

import pytest

from featurestore.definitions.sources import SqlSource
from featurestore.errors import SourceDataError, SourceError, SourceMissingError
from featurestore.sources import open_scan, read_schema
from tests.unit.sources.scans import plan_of, scan_of


@pytest.fixture
def database(tmp_path):
    """Return the URL of a database with one table."""
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "create table sales (key text, at timestamp, amount numeric(10,2), is_new boolean, units int, x)"
        )
        rows = [
            ("a", "2013-01-01 05:00:00", "2.25", 1, 3, None),
            ("b", "2013-01-01 05:00:01.500000", 3, 0, None, 7),
        ]
        connection.executemany("insert into sales values (?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{path}"


def source(url, **options):
    return SqlSource("sales", url=url, event_time="at", timezone="UTC", **options)


def test_table_is_read_in_the_dtypes_the_database_declares(database):
    """Columns without a declared type are what their first values are."""
    schema = read_schema(source(database, table="sales"))
    assert {name: str(dtype) for name, dtype in schema.items()} == {
        "key": "string",
        "at": "timestamp",
        "amount": "decimal(10,2)",
        "is_new": "bool",
        "units": "int64",
        "x": "int64",
    }
    with scan_of(source(database, table="sales")) as scan:
        assert scan.files == ()
        assert scan.read(["key", "at", "amount", "is_new", "units"]).to_pylist() == [
            {
                "key": "a",
                "at": dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC),
                "amount": Decimal("2.25"),
                "is_new": True,
                "units": 3,
            },
            {
                "key": "b",
                "at": dt.datetime(2013, 1, 1, 5, 0, 1, 500_000, tzinfo=dt.UTC),
                "amount": Decimal("3.00"),
                "is_new": False,
                "units": None,
            },
        ]


def test_query_is_read_in_declared_and_guessed_dtypes(database):
    """A query may hold colons, percent signs, a comment and a final semicolon."""
    query = "select key, at, units as n from sales where key like '%' and at <> '12:30' -- all\n;"
    declared = source(database, query=query, dtypes={"at": "timestamp"})
    assert str(read_schema(declared)["at"]) == "timestamp"
    with scan_of(declared) as scan:
        assert scan.read(["key", "n"]).to_pylist() == [{"key": "a", "n": 3}, {"key": "b", "n": None}]


def test_more_rows_than_a_chunk_are_read(tmp_path):
    """Rows come in chunks; all of them arrive in order."""
    path = tmp_path / "many.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table sales (key text, at timestamp, n int)")
        rows = (("a", "2013-01-01 05:00:00", i) for i in range(120_001))
        connection.executemany("insert into sales values (?, ?, ?)", rows)
    connection.close()
    with scan_of(source(f"sqlite:///{path}", table="sales")) as scan:
        assert scan.read(["n"]).column("n").to_pylist() == list(range(120_001))


def test_naive_instants_need_a_zone(database):
    """SQLite's timestamps say none."""
    naive = SqlSource("sales", url=database, table="sales", event_time="at")
    with pytest.raises(SourceDataError, match="column 'at' have no time zone"):
        read_schema(naive)


def test_column_of_several_types_is_named(tmp_path):
    """A database that lets types vary does not get its way."""
    path = tmp_path / "odd.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table sales (key text, at timestamp, n int)")
        connection.executemany(
            "insert into sales values (?, ?, ?)", [("a", "2013-01-01 05:00:00", 1), ("a", "2013-01-01 05:00:00", "one")]
        )
    connection.close()
    with pytest.raises(SourceDataError, match="column 'n': values from row 0 on have several types"):
        read_schema(source(f"sqlite:///{path}", table="sales"))


def test_missing_database_table_and_column_are_named(database, tmp_path):
    """Nothing is created, and a quoted name that no column has is no constant."""
    with pytest.raises(SourceMissingError, match=r"none.db' is not there"):
        read_schema(source(f"sqlite:///{tmp_path}/none.db", table="sales"))
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(SourceMissingError, match=r"no table 'sale'. Tables: sales. Did you mean 'sales'"):
        read_schema(source(database, table="sale"))
    plan = plan_of(source(database, table="sales"))
    with pytest.raises(SourceMissingError, match=r"no column 'amount'. Columns: at, is_new, key, units, x"):
        open_scan(source(database, query="select key, at, is_new, units, x from sales"), plan, keys=["key"])
    with pytest.raises(SourceError, match="the database refuses: no such column: price"):
        read_schema(source(database, query="select price from sales"))


@pytest.mark.parametrize("url", ["nothing", "nosuch://user:secret@host/db", "oracle://user:secret@host/db"])
def test_unusable_url_is_named_without_its_password(url):
    """A driver that is not there is an error with the fix."""
    with pytest.raises(SourceError, match="the URL cannot be used") as error:
        read_schema(source(url, table="sales"))
    assert "secret" not in str(error.value)
    assert "secret" not in repr(source(url, table="sales"))
