"""Parquet files as a source."""

import datetime as dt
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import SourceDataError, SourceError, SourceMissingError
from featurestore.definitions.sources import FileSource
from featurestore.sources import ReadSettings, read_schema
from featurestore.storage.parquet import check_footer
from tests.unit.sources.scans import plan_of, scan_of

UTC_US = pa.timestamp("us", tz="UTC")


def events(*keys, start=0, **columns):
    """Return rows with a key and an event time of one microsecond after the other."""
    times = pa.array(range(start, start + len(keys)), UTC_US)
    return pa.table({"key": pa.array(keys, pa.string()), "at": times, **columns})


def source(path, **options):
    return FileSource("clicks", path=str(path), event_time="at", **options)


def test_every_type_is_read_in_its_contract_dtype(tmp_path):
    """Widths, units, zones and layouts of the outside do not reach the inside."""
    table = pa.table(
        {
            "key": pa.array(["a"], pa.large_string()),
            "at": pa.array([1_500], pa.timestamp("ns", tz="America/New_York")),
            "small": pa.array([1], pa.uint8()),
            "single": pa.array([1.5], pa.float32()),
            "category": pa.array(["x"]).dictionary_encode(),
            "day": pa.array([86_400_000], pa.date64()),
            "many": pa.array([[1, 2]], pa.large_list(pa.int16())),
            "nested": pa.array([{"x": 1}]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    schema = {name: None if dtype is None else str(dtype) for name, dtype in read_schema(source(tmp_path)).items()}
    assert schema == {
        "key": "string",
        "at": "timestamp",
        "small": "int64",
        "single": "float64",
        "category": "string",
        "day": "date",
        "many": "list<int64>",
        "nested": None,
    }
    with scan_of(source(tmp_path)) as scan:
        read = scan.read(["at", "small", "single", "category", "day", "many"])
    assert read.to_pylist() == [
        {
            "at": dt.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=dt.UTC),
            "small": 1,
            "single": 1.5,
            "category": "x",
            "day": dt.date(1970, 1, 2),
            "many": [1, 2],
        }
    ]


def test_not_finite_floats_are_null_and_counted(tmp_path):
    """NaN in a file is no value; its statistics do not show it, so nothing relies on them."""
    pq.write_table(events("a", "b", "c", value=[1.0, float("nan"), float("inf")]), tmp_path / "a.parquet")
    with scan_of(source(tmp_path)) as scan:
        assert scan.read(["value"]).column("value").to_pylist() == [1.0, None, None]
        scan.read(["value"])
        assert scan.stats().not_finite == (("value", 2),)


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    """The order is fixed, whatever order the folder lists them in."""
    for name, key in (("b", "second"), ("a", "first"), ("c", "third")):
        pq.write_table(events(key), tmp_path / f"{name}.parquet")
    pq.write_table(events("hidden"), tmp_path / "_a.parquet")
    for path in (tmp_path, tmp_path / "*.parquet", f"file://{tmp_path}"):
        with scan_of(source(path)) as scan:
            assert scan.read(["key"]).column("key").to_pylist() == ["first", "second", "third"]
            assert [Path(file.path).name for file in scan.files] == ["a.parquet", "b.parquet", "c.parquet"]
            assert [file.row_count for file in scan.files] == [1, 1, 1]


def test_order_is_the_same_for_every_choice_of_columns_and_threads(tmp_path):
    """Columns read one by one stand in the rows of columns read together."""
    rows = 5_000
    keys = [f"k{i}" for i in range(rows)]
    pq.write_table(events(*keys, value=np.arange(rows)), tmp_path / "a.parquet", row_group_size=700)
    plan = plan_of(source(tmp_path))
    reference = [(key, i) for i, key in enumerate(keys)]
    for threads in (1, 3):
        with scan_of(source(tmp_path), settings=ReadSettings(threads=threads)) as scan:
            together = scan.read(["key", "value"])
            assert list(zip(*(column.to_pylist() for column in together.columns), strict=True)) == reference
            assert scan.read(["value"]).column("value").to_pylist() == list(range(rows))
            batches = list(scan.batches(["value"], rows=256))
            assert max(batch.num_rows for batch in batches) <= 256
            assert pa.Table.from_batches(batches).column("value").to_pylist() == list(range(rows))
            assert all(column.num_chunks == 1 for column in together.columns)
    assert plan.columns[0].name == "at"


def test_folders_give_columns(tmp_path):
    """Hive folders are columns; numbers with leading zeros stay text unless a dtype is declared."""
    for day, month in (("2013-01-01", "01"), ("2013-01-02", "__HIVE_DEFAULT_PARTITION__")):
        folder = tmp_path / f"day={day}" / f"month={month}"
        folder.mkdir(parents=True)
        pq.write_table(events(day), folder / "part.parquet")
    schema = read_schema(source(tmp_path))
    assert (str(schema["day"]), str(schema["month"])) == ("date", "string")
    with scan_of(source(tmp_path, dtypes={"month": "int64"})) as scan:
        assert scan.read(["day", "month"]).to_pylist() == [
            {"day": dt.date(2013, 1, 1), "month": 1},
            {"day": dt.date(2013, 1, 2), "month": None},
        ]


def test_files_may_differ_where_nothing_is_lost(tmp_path):
    """A column that a file lacks is null there; integers and floats are floats; widths do not matter."""
    pq.write_table(events("a", value=pa.array([1], pa.int32()), count=pa.array([1], pa.int8())), tmp_path / "a.parquet")
    pq.write_table(events("b", value=[2.5], more=["x"], count=pa.array([None], pa.null())), tmp_path / "b.parquet")
    with scan_of(source(tmp_path)) as scan:
        assert scan.read(["value", "more", "count"]).to_pydict() == {
            "value": [1.0, 2.5],
            "more": [None, "x"],
            "count": [1, None],
        }


def test_files_that_disagree_are_named(tmp_path):
    """Text in one file and numbers in another are no column."""
    pq.write_table(events("a", value=[1]), tmp_path / "a.parquet")
    pq.write_table(events("a", value=["1"]), tmp_path / "b.parquet")
    with pytest.raises(
        SourceDataError, match=r"column 'value' is int64 in .*a\.parquet.* string in .*b\.parquet"
    ) as error:
        read_schema(source(tmp_path))
    assert error.value.code == "files-disagree"


@pytest.mark.parametrize("content", [b"", b"PAR1" + b"x" * 100 + b"PAR1", b"key,at\n"])
def test_corrupt_file_is_named(tmp_path, content):
    """A file that is no Parquet is an error with its path."""
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(SourceDataError, match=r"a\.parquet' is not sound Parquet") as error:
        read_schema(source(tmp_path))
    assert error.value.code == "corrupt-file"


def test_corrupt_pages_are_found_when_they_are_read(tmp_path):
    """A sound footer over damaged data is an error with the path, not rows."""
    path = tmp_path / "a.parquet"
    pq.write_table(events(*"abcdefgh" * 200, value=list(range(1600))), path, compression="zstd")
    plan = plan_of(source(tmp_path))
    content = bytearray(path.read_bytes())
    content[8:400] = b"\xff" * 392
    path.write_bytes(bytes(content))
    with pytest.raises(SourceDataError, match=r"a\.parquet' is not sound Parquet"), scan_of(source(tmp_path)) as scan:
        scan.read([column.name for column in plan.columns])


@pytest.mark.parametrize("path", ["none.parquet", "none/*.parquet", "folder"])
def test_missing_files_are_named(tmp_path, path):
    """Nothing there is an error with the path that was looked for."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceMissingError, match=path.replace("*", r"\*")) as error:
        read_schema(source(path), ReadSettings(base_folder=tmp_path))
    assert error.value.code == "missing-file"
    assert str(tmp_path) in error.value.hint


def test_relative_paths_count_from_the_base_folder(tmp_path):
    """The folder of the configuration file, not the working directory."""
    pq.write_table(events("a"), tmp_path / "a.parquet")
    with scan_of(source("a.parquet"), settings=ReadSettings(base_folder=tmp_path)) as scan:
        assert scan.row_count == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_named(tmp_path):
    """Permissions are named as such."""
    pq.write_table(events("a"), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").chmod(0)
    with pytest.raises(SourceError, match="may not be read"):
        read_schema(source(tmp_path))


def test_naive_event_time_needs_a_zone(tmp_path):
    """A naive time column is refused with the fix, or read in the zone the source names."""
    table = pa.table({"key": ["a"], "at": pa.array([dt.datetime(2013, 7, 1, 12)])})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceDataError, match=r"column 'at' have no time zone.*timezone='UTC'") as error:
        read_schema(source(tmp_path))
    assert error.value.code == "naive-timestamps"
    with scan_of(source(tmp_path, timezone="America/New_York")) as scan:
        assert scan.read(["at"]).column("at").to_pylist() == [dt.datetime(2013, 7, 1, 16, tzinfo=dt.UTC)]


def test_rewritten_file_is_noticed(tmp_path):
    """Rows of two versions of a file never mix silently."""
    path = tmp_path / "a.parquet"
    pq.write_table(events("a"), path)
    with scan_of(source(tmp_path)) as scan:
        scan.check_unchanged()
        pq.write_table(events("a", "b"), path)
        with pytest.raises(SourceDataError, match="changed while it was read") as error:
            scan.check_unchanged()
        assert error.value.code == "source-changed"
        path.unlink()
        with pytest.raises(SourceMissingError, match="not there any more"):
            scan.check_unchanged()
        with pytest.raises(SourceMissingError, match="not there any more"):
            scan.read(["key"])


def test_plan_of_another_schema_is_refused(tmp_path):
    """A column whose dtype changed since the plan was compiled is not converted silently."""
    pq.write_table(events("a", value=[1]), tmp_path / "a.parquet")
    plan = plan_of(source(tmp_path))
    pq.write_table(events("a", value=["1"]), tmp_path / "a.parquet")
    from featurestore.sources import open_scan

    with pytest.raises(SourceDataError, match="column 'value' is string now, the plan was made for int64") as error:
        open_scan(source(tmp_path), plan, keys=["key"])
    assert error.value.code == "schema-changed"
    pq.write_table(events("a"), tmp_path / "a.parquet")
    with pytest.raises(SourceMissingError, match="no column 'value'"):
        open_scan(source(tmp_path), plan, keys=["key"])


def test_declared_dtype_converts_exactly_or_names_the_row(tmp_path):
    """Text may be declared a number; a row that is none is named."""
    pq.write_table(events("a", "b", value=["1", "2"]), tmp_path / "a.parquet")
    with scan_of(source(tmp_path, dtypes={"value": "int64"})) as scan:
        assert scan.read(["value"]).column("value").to_pylist() == [1, 2]
    pq.write_table(events("a", "b", value=["1", "2.5"]), tmp_path / "a.parquet")
    with (
        pytest.raises(SourceDataError, match=r"column 'value', file '.*a\.parquet': row 1 holds '2\.5'"),
        scan_of(source(tmp_path, dtypes={"value": "int64"})) as scan,
    ):
        scan.read(["value"])


def test_instant_statistics_skip_row_groups(tmp_path):
    """A range of ingest times reads only row groups that may hold some of it, with the same answer."""
    path = tmp_path / "a.parquet"
    pq.write_table(events(*"abcdefghij", value=list(range(10))), path, row_group_size=2)
    with scan_of(source(tmp_path)) as scan:
        assert scan.read(["value"], ingest=(3, 7)).column("value").to_pylist() == [3, 4, 5, 6]
        assert scan.read(["value"], ingest=(7, 7)).num_rows == 0
        assert [scan.count_below(bound) for bound in (-1, 0, 3, 4, 100)] == [0, 0, 3, 4, 10]
        assert scan.stats().newest_event_time_us == 9
        shutil.copy(path, tmp_path / "copy.parquet")


FAR = [dt.datetime(9999, 12, 31), dt.datetime(1, 1, 1), dt.datetime(2026, 1, 2, 3, 4, 5, 678901), None]


def write_int96(path, times, **columns):
    table = pa.table({"key": ["a"] * len(times), "at": times, **columns})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True)


def test_int96_timestamps_are_read_in_microseconds(tmp_path):
    """In nanoseconds the year 9999 would be 1816; also inside lists."""
    far = pa.array(FAR, pa.timestamp("us"))
    lists = pa.array([[FAR[0], None], None, [], [FAR[1]]], pa.list_(pa.timestamp("us")))
    write_int96(tmp_path / "a.parquet", pa.array([FAR[2]] * 4, pa.timestamp("us")), far=far, lists=lists)
    with scan_of(source(tmp_path, timezone="UTC")) as scan:
        read = scan.read(["at", "far", "lists"]).to_pydict()
    aware = [None if value is None else value.replace(tzinfo=dt.UTC) for value in FAR]
    assert read == {"at": [aware[2]] * 4, "far": aware, "lists": [[aware[0], None], None, [], [aware[1]]]}


@pytest.mark.parametrize("seconds", [253_402_300_800, -62_135_596_801, 10**14, -(10**14)])
def test_int96_timestamps_that_do_not_fit_are_named(tmp_path, seconds):
    """Beyond the year 9999, before the year 1, and where microseconds would wrap."""
    write_int96(tmp_path / "a.parquet", pa.array([0, seconds], pa.timestamp("s")))
    with (
        pytest.raises(
            SourceDataError, match=r"a\.parquet.*years 1 to 9999|years 1 to 9999.*a\.parquet|column 'at'.*"
        ) as e,
        scan_of(source(tmp_path, timezone="UTC")) as scan,
    ):
        scan.read(["at"])
    assert e.value.code == "out-of-range"
    assert "a.parquet" in str(e.value)


def test_instants_whose_microseconds_wrap_into_a_calendar_are_named(tmp_path):
    wrapping = (2**64 + 1_767_225_600_000_000) // 1_000_000
    write_int96(tmp_path / "a.parquet", pa.array([wrapping], pa.timestamp("s")))
    with pytest.raises(SourceDataError, match="years 1 to 9999"), scan_of(source(tmp_path, timezone="UTC")) as scan:
        scan.read(["at"])


def test_a_footer_that_contradicts_its_schema_is_an_error(tmp_path):
    """To read the statistics of a column of another physical type would end the process."""
    path = tmp_path / "a.parquet"
    pq.write_table(events("a", "b"), path)
    content = bytearray(path.read_bytes())
    begin = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # In the footer a chunk's type comes first in its metadata: field 1, an integer of 32 bits, INT64 (2, as zigzag 4).
    places = [at for at in range(begin, len(content) - 8) if content[at : at + 3] == b"\x15\x04\x19"]
    assert places
    content[places[-1] + 1] = 0
    path.write_bytes(bytes(content))
    with pytest.raises(SourceDataError, match=r"a\.parquet' is not sound Parquet"), scan_of(source(path)) as scan:
        scan.stats()
    with pytest.raises(pa.ArrowInvalid, match="is BOOLEAN, expected INT64"):
        check_footer(path)


def test_lists_of_nothing_unify_with_lists_of_something(tmp_path):
    pq.write_table(events("a", many=pa.array([[None, None]], pa.list_(pa.null()))), tmp_path / "a.parquet")
    pq.write_table(events("b", many=pa.array([[1]], pa.list_(pa.int32()))), tmp_path / "b.parquet")
    pq.write_table(events("c", many=pa.array([[1.5]])), tmp_path / "c.parquet")
    assert str(read_schema(source(tmp_path))["many"]) == "list<float64>"
    with scan_of(source(tmp_path)) as scan:
        assert scan.read(["many"]).column("many").to_pylist() == [[None, None], [1.0], [1.5]]
    pq.write_table(events("d", many=pa.array([["x"]])), tmp_path / "d.parquet")
    with pytest.raises(SourceDataError, match=r"column 'many' is list<element: (int32|double)> in") as error:
        read_schema(source(tmp_path))
    assert error.value.code == "files-disagree"


def test_unsigned_numbers_beyond_int64_are_read_as_what_is_declared(tmp_path):
    numbers = [2**64 - 1, 0]
    pq.write_table(events("a", "b", id=pa.array(numbers, pa.uint64())), tmp_path / "a.parquet")
    with pytest.raises(SourceDataError, match="does not fit into int64") as error, scan_of(source(tmp_path)) as scan:
        scan.read(["id"])
    assert "decimal(20,0)" in error.value.hint
    for dtype, read in (("string", str), ("decimal(20,0)", int)):
        with scan_of(source(tmp_path, dtypes={"id": dtype})) as scan:
            assert [read(value) for value in scan.read(["id"]).column("id").to_pylist()] == [*map(read, numbers)]


def test_days_as_instants_need_a_zone_before_anything_is_read(tmp_path):
    """Found in a review: apply passed without one, and the training set failed."""
    table = pa.table({"key": ["a"], "at": [dt.date(2026, 1, 1)]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceDataError, match="have no time zone"):
        read_schema(source(tmp_path, dtypes={"at": "timestamp"}))
    with scan_of(source(tmp_path, dtypes={"at": "timestamp"}, timezone="Europe/Berlin")) as scan:
        assert scan.read(["at"]).column("at").to_pylist() == [dt.datetime(2025, 12, 31, 23, tzinfo=dt.UTC)]
