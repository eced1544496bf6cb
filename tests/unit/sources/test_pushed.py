"""What is asked of the rows outside when events are pushed: which of their ids may lie there."""

import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.definitions.sources import FileSource, FrameSource, SqlSource
from featurestore.plan.model import SourcePlan
from featurestore.sources import ReadSettings, pushed
from featurestore.sources.pushed import OutsideIds

IDS = {"int64": [3, 1, 2], "string": ["c", "a%", "b'"]}


def table(ids):
    return pa.table({"id": ids, "at": pa.array([0] * len(ids), pa.timestamp("us", "UTC"))})


def ids(*values):
    return pa.array(values, pa.int64() if isinstance(values[0], int) else pa.string())


def may_hold(known, some):
    timezone = known.source.timezone
    plan = SourcePlan(known.source.name, (), event_time="at", event_id="id", timezone=timezone)
    return known.may_hold(plan, some)


@pytest.fixture
def reads(monkeypatch):
    """Return the list of the places whose ids are read."""
    read, places = pushed.read_ids, []

    def noted(source, *given):
        places.append(str(getattr(source, "path", source.name)).rpartition("/")[2])
        return read(source, *given)

    monkeypatch.setattr(pushed, "read_ids", noted)
    return places


@pytest.fixture
def database(tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        for kind, declared in (("int64", "integer"), ("string", "varchar(9)"), ("untyped", "")):
            connection.execute(f"create table sales_{kind} (id {declared}, at timestamp)")
            for one in IDS.get(kind, ["007", "8"]):
                connection.execute(f"insert into sales_{kind} values (?, '2013-01-01 05:00:00')", [one])
    return f"sqlite:///{tmp_path}/shop.db"


def test_only_files_that_are_new_are_read(tmp_path, reads):
    source = FileSource("orders", path=tmp_path / "*.parquet", event_time="at", event_id="id", stream=True)
    known = OutsideIds(source, ReadSettings())
    pq.write_table(table([1, 2]), tmp_path / "a.parquet")
    assert [may_hold(known, ids(one)) for one in (1, 2, 3)] == [True, True, False]
    pq.write_table(table([3]), tmp_path / "b.parquet")
    assert [may_hold(known, ids(one)) for one in (1, 3, 4)] == [True, True, False]
    assert reads == ["a.parquet", "b.parquet"]
    pq.write_table(table([4, 5, 6]), tmp_path / "a.parquet")
    assert [may_hold(known, ids(one)) for one in (1, 3, 4)] == [False, True, True]
    assert sorted(reads[2:]) == ["a.parquet", "b.parquet"]
    (tmp_path / "b.parquet").unlink()
    assert [may_hold(known, ids(one)) for one in (3, 4)] == [False, True]


def test_csv_files_and_files_in_folders_of_values_are_known_by_their_paths(tmp_path):
    source = FileSource("orders", path=tmp_path / "day=*/*.csv", event_time="at", event_id="id", stream=True)
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / "[x].csv").write_text("id,at\n7,2013-01-01T05:00:00Z\n")
    assert [may_hold(OutsideIds(source, ReadSettings()), ids(one)) for one in (7, 8)] == [True, False]


def test_a_frame_is_read_once(reads):
    known = OutsideIds(
        FrameSource("orders", frame=table([1, 2]), event_time="at", event_id="id", stream=True), ReadSettings()
    )
    assert [may_hold(known, ids(one)) for one in (1, 3, 2)] == [True, False, True]
    assert len(reads) == 1


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("is_query", [False, True])
def test_a_database_is_asked_about_the_ids_in_question_and_nothing_is_read(database, reads, kind, is_query):
    query = f"select *, '::a%' as note from sales_{kind} where at <> ':b' ;"
    place = {"query": query} if is_query else {"table": f"sales_{kind}"}
    source = SqlSource("sales", url=database, event_time="at", event_id="id", timezone="UTC", stream=True, **place)
    known = OutsideIds(source, ReadSettings())
    absent = [4, 5] if kind == "int64" else ["d", "'b"]
    assert all(may_hold(known, ids(one)) for one in IDS[kind])
    assert not may_hold(known, ids(*absent))
    assert may_hold(known, ids(*absent * 1_000, IDS[kind][0]))
    assert reads == []


def test_ids_that_a_database_holds_in_another_form_are_read(database, reads):
    """``007`` is the id 7, as the source declares it; the database would not find it."""
    source = SqlSource(
        "sales",
        url=database,
        table="sales_untyped",
        event_time="at",
        event_id="id",
        timezone="UTC",
        stream=True,
        dtypes={"id": "int64"},
    )
    known = OutsideIds(source, ReadSettings())
    assert [may_hold(known, ids(one)) for one in (7, 8, 9)] == [True, True, False]
    assert reads == ["sales"] * 3
