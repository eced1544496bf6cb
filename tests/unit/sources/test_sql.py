"""Databases as a source, here SQLite."""

import datetime as dt
import sqlite3
from dataclasses import replace
from decimal import Decimal

import pytest
import sqlalchemy

from featurestore.core.errors import SourceDataError, SourceError, SourceMissingError
from featurestore.definitions.sources import SqlSource
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
    """A column without a declared type has no dtype, whatever its values are."""
    schema = read_schema(source(database, table="sales"))
    assert {name: str(dtype) for name, dtype in schema.items()} == {
        "key": "string",
        "at": "timestamp",
        "amount": "decimal(10,2)",
        "is_new": "bool",
        "units": "int64",
        "x": "None",
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


def test_column_of_several_types_is_named_if_it_is_used(tmp_path):
    """A database that lets types vary does not get its way."""
    path = tmp_path / "odd.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table sales (key text, at timestamp, n int, note text)")
        rows = [("a", "2013-01-01 05:00:00", i, "x") for i in range(3)]
        connection.executemany("insert into sales values (?, ?, ?, ?)", [*rows, ("a", "2013-01-01 05:00:00", "one", 1)])
    connection.close()
    odd = source(f"sqlite:///{path}", table="sales")
    assert str(read_schema(odd)["n"]) == "int64"
    plan = plan_of(odd)
    used = replace(plan, columns=tuple(column for column in plan.columns if column.name != "n"))
    with open_scan(odd, used, keys=["key"]) as scan:
        assert scan.row_count == 4
    with pytest.raises(SourceDataError, match="column 'n': row 3 holds 'one', which is not an int64"):
        open_scan(odd, plan, keys=["key"])


DESCRIBED = {
    "sqlite": (
        "create table t (key text, at timestamp, a numeric(12,2), b numeric, c numeric(50,2), d real, e int, "
        "f boolean, g date, h blob, i varchar(9))",
        "insert into t values ('k', '2026-01-01', 1234.56, 0.1, 3, 2.5, 7, 1, '2026-01-02', x'00ff', 'w')",
        "select *, cast(e as real) as j from t",
    ),
    "postgresql": (
        "create table t (key text, at timestamptz, a numeric(12,2), b numeric, c numeric(50,2), d float8, e int, "
        "f boolean, g date, h bytea, i varchar(9))",
        "insert into t values ('k', '2026-01-01Z', 1234.56, 0.1, 3, 2.5, 7, true, '2026-01-02', '\\x00ff', 'w')",
        "select *, cast(e as real) as j from t",
    ),
}
DTYPES = {
    "key": "string",
    "at": "timestamp",
    "a": "decimal(12,2)",
    "b": "decimal(38,18)",
    "c": "decimal(38,2)",
    "d": "float64",
    "e": "int64",
    "f": "bool",
    "g": "date",
    "h": "binary",
    "i": "varchar(9)",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """Return the URL of a database with an empty table ``t``, the statement that fills it, and a query."""
    create, insert, query = DESCRIBED[request.param]
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/described.db"
        (tmp_path / "described.db").touch()
    else:
        url = request.getfixturevalue("postgres_database")
    execute(url, create)
    return url, insert, query


def execute(url, *statements):
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_dtypes_are_those_of_the_description_with_rows_and_without(empty):
    """A table and a query over it say the same, before and after there are rows."""
    url, insert, query = empty
    before = [read_schema(source(url, table="t")), read_schema(source(url, query=query))]
    execute(url, insert, insert.replace("1234.56", "9"))
    after = [read_schema(source(url, table="t")), read_schema(source(url, query=query))]
    assert before == after
    expected = DTYPES | {"i": "string"}
    for schema in before:
        assert {name: str(schema[name]) for name in expected} == expected
    assert str(before[1]["j"]) == "float64"
    for way in ({"table": "t"}, {"query": query}):
        with scan_of(source(url, **way)) as scan:
            row = scan.read(["a", "b", "c", "d", "g", "h"]).to_pylist()[0]
        assert (row["a"], row["b"], row["c"]) == (Decimal("1234.56"), Decimal("0.1"), Decimal(3))
        assert (row["d"], row["g"], row["h"]) == (2.5, dt.date(2026, 1, 2), b"\x00\xff")


@pytest.mark.parametrize(
    ("declared", "dtype"),
    [
        ("numeric(5,0)", "decimal(5,0)"),
        ("numeric(38,38)", "decimal(38,38)"),
        ("numeric(2,-3)", "decimal(5,0)"),
        ("numeric(2,5)", "decimal(5,5)"),
        ("numeric(1000,1000)", "decimal(38,38)"),
        ("numeric[]", "list<decimal(38,18)>"),
        ("int[]", "list<int64>"),
        ("uuid", "string"),
        ("mood", "string"),
        ("mood[]", "list<string>"),
        ("positive", "int64"),
        ("money", "string"),
        ("inet", "None"),
        ("jsonb", "None"),
        ("interval", "None"),
        ("time", "None"),
        ("tstzrange", "None"),
    ],
)
def test_types_of_postgresql(postgres_database, declared, dtype):
    """The result of a query has the types of its columns; types without a dtype have none."""
    execute(
        postgres_database,
        "create type mood as enum ('sad', 'now')",
        "create domain positive as int check (value > 0)",
        f"create table t (key text, at timestamptz, x {declared})",
    )
    for way in ({"table": "t"}, {"query": "select key, at, x from t"}):
        assert str(read_schema(source(postgres_database, **way))["x"]) == dtype


@pytest.mark.parametrize(
    ("kind", "value", "shown", "fix"),
    [
        ("numeric", "'NaN'", "NaN", "NULLIF"),
        ("numeric(10,2)", "'NaN'", "NaN", "float64"),
        ("numeric", "'Infinity'", "Infinity", "NULLIF"),
        ("numeric", "0.0000000000000000001", "1E-19", "cast the column"),
        ("numeric", "1e30", "1000000000000000000000000000000", "cast the column"),
        ("timestamptz", "'infinity'", "infinity", "NULLIF"),
        ("timestamp", "'-infinity'", "-infinity", "NULLIF"),
        ("date", "'infinity'", "infinity", "NULLIF"),
        ("date", "'0044-03-15 BC'", "0044-03-15 BC", "NULLIF"),
        ("timestamptz[]", "array['2026-01-01Z', 'infinity']::timestamptz[]", ".*infinity", "NULLIF"),
        ("timestamptz", "'20000-01-01Z'", "20000-01-01 00:00:00", "NULLIF"),
    ],
)
def test_values_that_no_dtype_has_are_named_if_their_column_is_used(postgres_database, kind, value, shown, fix):
    """The error says row, value and fix; a view that does not read the column does not see them."""
    execute(
        postgres_database,
        f"create table t (key text, at timestamptz, x {kind})",
        "insert into t select 'a', timestamptz '2026-01-01Z', null from generate_series(1, 5)",
        f"insert into t values ('a', '2026-01-01Z', {value})",
    )
    odd = SqlSource("sales", url=postgres_database, table="t", event_time="at", timezone="UTC")
    plan = plan_of(odd)
    with open_scan(odd, replace(plan, columns=tuple(c for c in plan.columns if c.name != "x")), keys=["key"]) as scan:
        assert scan.row_count == 6
    with pytest.raises(SourceDataError, match=rf"column 'x': row 5 holds {shown}.*{fix}"):
        open_scan(odd, plan, keys=["key"])


def test_not_a_number_is_null_where_floats_are_declared(postgres_database):
    """What the error for NaN proposes."""
    execute(
        postgres_database,
        "create table t (key text, at timestamptz, x numeric)",
        "insert into t values ('a', '2026-01-01Z', 'NaN'), ('a', '2026-01-01Z', 0.1)",
    )
    declared = SqlSource("sales", url=postgres_database, table="t", event_time="at", dtypes={"x": "float64"})
    with scan_of(declared) as scan:
        assert sorted(scan.read(["x"]).column("x").to_pylist(), key=str) == [0.1, None]


def test_a_text_that_postgresql_reads_as_the_clock_is_refused(postgres_database):
    """Which it is depends on the column it is compared with; the database knows."""
    execute(postgres_database, "create table t (key text, at timestamptz, day date, x float8)")
    for pure in ("key = 'now'", "key in ('today', 'now')", "case when x > 1 then 'now' else 'then' end = key"):
        read_schema(source(postgres_database, query=f"select key, at, x from t where {pure}"))
    for impure in ("day = 'today'", "at <> 'now'", "day in ('today', '2026-01-01')"):
        with pytest.raises(SourceDataError, match="reads as a time, so it could give different rows"):
            read_schema(source(postgres_database, query=f"select key, at, x from t where {impure}"))


def test_sqlite_epochs_are_instants_of_a_declared_unit(tmp_path):
    """Integers in a column of times, as SQLite's own functions write them."""
    path = tmp_path / "epochs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table sales (key text, at datetime, n int)")
        connection.execute("insert into sales values ('a', 1767225600, 1)")
    connection.close()
    plain = SqlSource("sales", url=f"sqlite:///{path}", table="sales", event_time="at", timezone="UTC")
    with pytest.raises(SourceDataError, match=r"column 'at': the column holds int64, .*'timestamp\[s\]'"):
        open_scan(plain, plan_of(plain), keys=["key"])
    with scan_of(replace(plain, dtypes={"at": "timestamp[s]"})) as scan:
        assert scan.read(["at"]).column("at").to_pylist() == [dt.datetime(2026, 1, 1, tzinfo=dt.UTC)]


def test_a_comment_may_follow_the_end_of_a_query(database):
    with scan_of(source(database, query="select key, at, units from sales; -- all of them\n")) as scan:
        assert scan.row_count == 2


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
