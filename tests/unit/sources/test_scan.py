"""What a scan adds to rows: the policy on nulls, one row per event, ranges of ingest time."""

import datetime as dt

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import STRING
from featurestore.core.errors import SourceDataError, SourceMissingError
from featurestore.core.temporal import continuous
from featurestore.definitions.sources import FileSource, FrameSource
from featurestore.plan.model import Column, EntityPlan, ViewPlan
from featurestore.sources import ReadSettings, open_scan, open_scans, read_schema
from featurestore.sources import scan as scan_module
from tests.unit.sources.scans import SETTINGS, plan_of, scan_of

UTC_US = pa.timestamp("us", tz="UTC")


def frame(keys, at, **columns):
    return pa.table({"key": pa.array(keys, pa.string()), "at": pa.array(at, UTC_US), **columns})


def source(table, **options):
    return FrameSource("clicks", frame=table, event_time="at", **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda table: table,
        lambda table: table.to_batches()[0],
        lambda table: table.to_pandas(),
        pl.from_arrow,
        lambda table: pl.from_arrow(table).lazy(),
        lambda table: duckdb.connect().from_arrow(table),
    ],
    ids=["pyarrow", "batch", "pandas", "polars", "lazy", "duckdb"],
)
def test_frames_of_all_kinds_give_the_same_rows(make):
    """A frame is a frame, whoever made it."""
    table = frame(["a", "b"], [1, 2], value=[1.5, None], word=["x", None])
    with scan_of(source(make(table))) as scan:
        assert scan.read(["key", "value", "word"]).to_pylist() == [
            {"key": "a", "value": 1.5, "word": "x"},
            {"key": "b", "value": None, "word": None},
        ]
        assert scan.files == ()


@pytest.mark.parametrize(
    ("given_frame", "message"),
    [
        (7, "got int, expected a frame"),
        (frame(["a"], [1]).to_reader(), "a reader can be read only once"),
        (pd.DataFrame({0: [1]}), "a column named 0"),
        (pa.table([["a"], ["b"]], names=["key", "key"]), "two columns 'key'"),
    ],
)
def test_unusable_frame_is_an_error(given_frame, message):
    """It says what it got and what to give."""
    with pytest.raises(SourceDataError, match=message):
        read_schema(source(given_frame))


def test_null_key_or_time_is_an_error_that_counts_and_names_the_first():
    """Rows of nobody, or of no time, are never dropped silently."""
    with (
        scan_of(source(frame(["a", None, None], [1, 2, 3]))) as scan,
        pytest.raises(
            SourceDataError, match=r"the key 'key' is null in 2 rows, first in row 1.*on_null='drop'"
        ) as error,
    ):
        scan.read(["at"])
    assert error.value.code == "null-key"
    with (
        scan_of(source(frame(["a", "b"], [1, None]))) as scan,
        pytest.raises(SourceDataError, match="the time 'at' is null in 1 row, first in row 1") as error,
    ):
        _ = scan.row_count
    assert error.value.code == "null-time"


def test_null_rows_are_dropped_and_counted_if_the_source_says_so():
    """They are gone from every read, before anything else; nulls in other columns stay."""
    table = frame(["a", None, "c", "d"], [1, 2, None, 4], value=[None, 2.0, 3.0, 4.0])
    with scan_of(source(table, on_null="drop")) as scan:
        assert scan.row_count == 2
        assert scan.read(["key", "value"]).to_pylist() == [{"key": "a", "value": None}, {"key": "d", "value": 4.0}]
        assert sum(batch.num_rows for batch in scan.batches(["key"], rows=1)) == 2
        stats = scan.stats()
    assert (stats.row_count, stats.null_rows, stats.nulls) == (2, 2, (("key", 1), ("at", 1)))
    assert (stats.newest_event_time_us, stats.newest_ingest_time_us) == (4, 4)


def test_null_ingest_time_follows_the_policy_too():
    """An event that never became known cannot be placed."""
    table = frame(["a", "b"], [1, 2], known=pa.array([None, 5], UTC_US))
    with (
        scan_of(source(table, ingest_time="known")) as scan,
        pytest.raises(SourceDataError, match="the time 'known' is null in 1 row"),
    ):
        _ = scan.row_count
    with scan_of(source(table, ingest_time="known", on_null="drop")) as scan:
        assert scan.read(["key"]).column("key").to_pylist() == ["b"]
        assert scan.stats().newest_ingest_time_us == 5


def test_policy_is_about_the_keys_of_the_view_only():
    """A null in another view's key does not concern this one."""
    table = frame(["a", "b"], [1, 2], other=pa.array([None, "x"]))
    with scan_of(source(table)) as scan:
        assert scan.row_count == 2
    views = [view("first", "key", source(table)), view("second", "other", source(table, on_null="drop"))]
    with open_scans(views, {"clicks": source(table, on_null="drop")}, SETTINGS) as scans:
        assert {name: scan.row_count for name, scan in scans.items()} == {"first": 2, "second": 1}


def view(name, key, definition):
    entity = EntityPlan(name, (Column(key, STRING),))
    return ViewPlan(name, entity, plan_of(definition), continuous(), (), ())


def test_source_that_many_views_read_is_spooled_once(tmp_path):
    """Two views of one CSV file share its rows, and closing gives all back."""
    (tmp_path / "a.csv").write_text("key,other,at\na,b,2013-01-01T00:00:00Z\n")
    spool = tmp_path / "spool"
    spool.mkdir()
    definition = FileSource("clicks", path=str(tmp_path / "a.csv"), event_time="at")
    settings = ReadSettings(threads=1, memory_bytes=1, temp_folder=spool)
    with open_scans(
        [view("x", "key", definition), view("y", "other", definition)], {"clicks": definition}, settings
    ) as scans:
        assert len(list(spool.iterdir())) == 1
        assert [scan.read(["key", "other"]).num_rows for scan in scans.values()] == [1, 1]
    assert list(spool.iterdir()) == []


def test_empty_source_has_no_events():
    """Every question about no rows has an answer."""
    table = frame([], [], id=pa.array([], pa.int64()))
    with scan_of(source(table, event_id="id")) as scan:
        assert scan.row_count == 0
        assert scan.read(["key", "at"]).num_rows == 0
        assert scan.read(["key"]).schema.field("key").type == pa.string()
        assert list(scan.batches(["key"])) == []
        assert scan.count_below(10) == 0
        assert scan.stats().newest_event_time_us is None


def test_unknown_column_is_named():
    """A scan gives the plan's columns only."""
    with scan_of(source(frame(["a"], [1]))) as scan, pytest.raises(SourceMissingError, match=r"no column 'kee'.*'key'"):
        scan.read(["kee"])


def test_reading_from_several_threads_gives_the_same(tmp_path):
    """A scan is shared by the threads of the engine."""
    from concurrent.futures import ThreadPoolExecutor

    rows = 4_000
    ids = [i // 2 for i in range(rows)]
    table = frame([f"k{i}" for i in range(rows)], list(range(rows)), id=ids)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    definition = FileSource("clicks", path=str(tmp_path), event_time="at", event_id="id")
    with scan_of(definition) as scan, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: scan.read(["key"]).column("key").to_pylist(), range(8)))
    assert found == [[f"k{i}" for i in range(0, rows, 2)]] * 8


deliveries = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        st.integers(0, 3),
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.floats(-2, 2)),
        st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 2)), max_size=2)),
        st.booleans(),
    ),
    max_size=30,
)


def first_deliveries(rows):
    """Keep, of the rows with one id, the earliest; of equally early ones the smallest by content, nulls first."""

    def order(value):
        if isinstance(value, list):
            return (True, [order(item) for item in value])
        return (value is not None, 0 if value is None else value)

    chosen = {}
    for place, row in enumerate(rows):
        content = [order(row[name]) for name in sorted(row)]
        rank = (row["known"], content, place)
        name = ("row", place) if row["id"] is None else row["id"]
        if name not in chosen or rank < chosen[name][0]:
            chosen[name] = (rank, place)
    return [rows[place] for place in sorted(place for _, place in chosen.values())]


@given(deliveries, st.permutations(range(30)))
def test_deliveries_with_one_id_are_one_event(rows, shuffled):
    """The earliest delivery counts whatever order they lie in; rows without an id are events of their own."""
    table = pa.table(
        {
            "key": ["k"] * len(rows),
            "at": pa.array([0] * len(rows), UTC_US),
            "id": pa.array([row[0] for row in rows], pa.string()),
            "known": pa.array([row[1] for row in rows], UTC_US),
            "n": pa.array([row[2] for row in rows], pa.int64()),
            "value": pa.array([row[3] for row in rows], pa.float64()),
            "many": pa.array([row[4] for row in rows], pa.list_(pa.int64())),
            "is_new": pa.array([row[5] for row in rows], pa.bool_()),
        }
    )
    definition = source(table, event_id="id", ingest_time="known")
    with scan_of(definition) as scan:
        found = scan.read(sorted(scan.schema)).to_pylist()
        assert found == first_deliveries(table.select(sorted(scan.schema)).to_pylist())
        assert scan.stats().duplicate_rows == len(rows) - len(found)
    order = [place for place in shuffled if place < len(rows)]
    with scan_of(source(table.take(pa.array(order, pa.int64())), event_id="id", ingest_time="known")) as scan:
        moved = scan.read(sorted(scan.schema)).to_pylist()
    assert sorted(map(repr, moved)) == sorted(map(repr, found))


def test_deliveries_in_different_pieces_are_one_event(tmp_path):
    """Row groups and files are no border for ids of any dtype."""
    for dtype in (pa.int64(), pa.string(), pa.binary()):
        table = frame(
            ["a"] * 6, [1] * 6, id=pa.array([1, 2, 3, 1, 2, 3]).cast(pa.string()).cast(dtype), n=[9, 2, 3, 1, 8, 3]
        )
        pq.write_table(table.slice(0, 4), tmp_path / "a.parquet", row_group_size=1)
        pq.write_table(table.slice(4), tmp_path / "b.parquet", row_group_size=1)
        definition = FileSource("clicks", path=str(tmp_path), event_time="at", event_id="id")
        with scan_of(definition) as scan:
            assert scan.read(["n"]).column("n").to_pylist() == [2, 3, 1]
            assert scan.row_count == 3


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), max_size=40),
    st.integers(-1, 22),
    st.integers(-1, 22),
)
def test_ingest_ranges_partition_the_events(rows, low, high):
    """A range is half-open: the ranges of successive runs share no event and leave none out."""
    table = frame(
        [None if gone else "a" for _, gone in rows], [0] * len(rows), known=pa.array([t for t, _ in rows], UTC_US)
    )
    low, high = sorted((low, high))
    with scan_of(source(table, ingest_time="known", on_null="drop")) as scan:
        times = np.array([t for t, gone in rows if not gone])
        found = scan.read(["known"], ingest=(low, high)).column("known").cast(pa.int64()).to_pylist()
        assert found == [t for t in times.tolist() if low <= t < high]
        assert scan.count_below(high) == int((times < high).sum())
        parts = [scan.read(["key"], ingest=bounds).num_rows for bounds in ((-9, low), (low, high), (high, 99))]
        assert sum(parts) == scan.row_count


def test_work_on_parts_of_a_source_without_events_is_done_on_none(tmp_path):
    """Files without rows hold a row group without rows, or none."""
    pq.write_table(frame([], []), tmp_path / "a.parquet")
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    for definition in (FileSource("clicks", path=str(tmp_path), event_time="at"), source(frame([], []))):
        with scan_of(definition) as scan:
            assert sum(scan.each(["key"], lambda part: part.num_rows)) == 0


@pytest.mark.parametrize("part_rows", [1, 5, 1_000])
@pytest.mark.parametrize("ingest", [None, (7, 23), (40, 50)])
def test_work_on_parts_sees_every_event_once_and_in_order(part_rows, ingest, tmp_path, monkeypatch):
    """Row groups are parts, small ones together; null rows and other instants are left out of them as of all."""
    monkeypatch.setattr(scan_module, "PART_ROWS", part_rows)
    known = [(7 * i) % 40 for i in range(40)]
    table = frame([None if i % 9 == 4 else f"k{i}" for i in range(40)], [0] * 40, known=pa.array(known, UTC_US))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    definition = FileSource("clicks", path=str(tmp_path), event_time="at", ingest_time="known", on_null="drop")
    with scan_of(definition) as scan:
        parts = scan.each(["key", "known"], lambda part: part, ingest=ingest)
        whole = scan.read(["key", "known"], ingest=ingest)
        assert scan.each(["key"], lambda part: part.num_rows, ingest=ingest) == [part.num_rows for part in parts]
    assert len(parts) == {1: 14, 5: 13, 1_000: 1}[part_rows]
    assert pa.concat_tables(parts).to_pylist() == whole.to_pylist()


def test_instants_are_cut_to_microseconds_before_ranges_are_asked():
    """Nanoseconds take part as the microsecond they lie in."""
    table = pa.table({"key": ["a", "b"], "at": pa.array([1_999, 2_000], pa.timestamp("ns", tz="UTC"))})
    with scan_of(source(table)) as scan:
        assert scan.read(["key"], ingest=(1, 2)).column("key").to_pylist() == ["a"]
        assert scan.read(["at"]).column("at").to_pylist()[0] == dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC)
    with open_scan(source(table), plan_of(source(table)), keys=["key"]) as scan:
        assert scan.estimated_bytes(["key"]) > 0


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_are_told_in_which_events_lie_below_an_instant(tmp_path, suffix):
    """A delivery that does not count is not an event of its file. Pieces of CSV files go over their ends."""
    rows = {"a": (["x", "y"], [1, 5]), "b": ([], []), "c": (["x", "z"], [2, 6]), "d": (["w"], [0])}
    for name, (ids, instants) in rows.items():
        at = pa.array([instant * 1_000_000 for instant in instants], UTC_US)
        table = pa.table({"key": ["k"] * len(ids), "id": pa.array(ids, pa.string()), "at": at})
        if suffix == "csv":
            csv.write_csv(table, tmp_path / f"{name}.csv")
        else:
            pq.write_table(table, tmp_path / f"{name}.parquet")
    definition = FileSource("clicks", path=str(tmp_path / f"*.{suffix}"), event_time="at", event_id="id")
    with scan_of(definition) as scan:
        found = [{file.path[-len(suffix) - 2] for file in scan.files_below(s * 1_000_000)} for s in (0, 1, 2, 6, 7)]
    assert found == [set(), {"d"}, {"a", "d"}, {"a", "d"}, {"a", "c", "d"}]
