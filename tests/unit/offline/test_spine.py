"""Spines: whatever holds the rows, they come out the same; what cannot be used is refused before any work."""

import datetime

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import create_engine

from featurestore.core.errors import SpineError
from featurestore.offline.spine import SqlSpine, _storable, read_spine
from tests.unit.offline.samples import INSTANT, plan_of, spine

PLAN = plan_of()
WHOLE = spine()


def reader(table):
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=7))


def written(table, tmp_path):
    pq.write_table(table, tmp_path / "spine.parquet")
    return tmp_path / "spine.parquet"


def in_database(table, tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/spine.db")
    frame = table.to_pandas()
    frame["number"] = range(len(frame))
    frame["as_of"] = frame["as_of"].map(lambda at: at.isoformat())
    frame.to_sql("spine", engine, index=False)
    engine.dispose()
    return SqlSpine(f"sqlite:///{tmp_path}/spine.db", "SELECT label, user, as_of, budget FROM spine ORDER BY number")


FORMS = {
    "pyarrow table": lambda table, _: table,
    "pyarrow reader": lambda table, _: reader(table),
    "pandas": lambda table, _: table.to_pandas(),
    "pandas with an index that says nothing": lambda table, _: table.to_pandas().set_index(
        np.arange(9, 9 + len(table))
    ),
    "Polars": lambda table, _: pl.from_arrow(table),
    "Polars, lazy": lambda table, _: pl.from_arrow(table).lazy(),
    "DuckDB": lambda table, _: duckdb.from_arrow(table),
    "Parquet": written,
    "Parquet, as text": lambda table, tmp_path: str(written(table, tmp_path)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows_in_their_order(form, tmp_path):
    found = read_spine(FORMS[form](WHOLE, tmp_path), PLAN)
    assert found.column_names == WHOLE.column_names
    for name in ("user", "as_of", "budget"):
        assert found.column(name).combine_chunks() == WHOLE.column(name).combine_chunks()
        assert found.schema.field(name).type == WHOLE.schema.field(name).type
    assert found.column("label").to_pylist() == WHOLE.column("label").to_pylist()


def test_rows_of_a_database_come_in_the_order_of_its_query(tmp_path):
    given = in_database(WHOLE, tmp_path)
    # SQLite has no type for instants; what the query gives as text is refused like any other text.
    with pytest.raises(SpineError, match=r"column 'as_of'.*expected instants"):
        read_spine(given, PLAN)


def test_a_database_with_real_timestamps_is_read(postgres_url):
    query = (
        "SELECT * FROM (VALUES (1, 7, TIMESTAMPTZ '2024-05-03 12:00+02', 1.5::float8), "
        "(2, NULL, TIMESTAMPTZ '2024-05-01 00:00+00', NULL)) AS spine(number, \"user\", as_of, budget) ORDER BY number"
    )
    found = read_spine(SqlSpine(postgres_url, query), PLAN)
    assert found.column("user").to_pylist() == [7, None]
    assert found.column("as_of").cast(pa.int64()).to_pylist() == [1_714_730_400_000_000, 1_714_521_600_000_000]
    assert found.column("budget").to_pylist() == [1.5, None]


def test_a_password_in_the_url_of_a_database_is_not_shown():
    assert "secret" not in repr(SqlSpine("postgresql://me:secret@host/base", "SELECT 1"))


def with_column(name, values):
    table = WHOLE.slice(0, len(values))
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.uint16(), pa.uint64()])
def test_integers_of_any_width_are_keys(kind):
    found = read_spine(with_column("user", pa.array([1, None, 3], kind)), PLAN)
    assert found.column("user").type == pa.int64()
    assert found.column("user").to_pylist() == [1, None, 3]


@pytest.mark.parametrize(
    ("instants", "expected"),
    [
        (pa.array([1_999], pa.timestamp("ns", "UTC")), 1),
        (pa.array([-1], pa.timestamp("ns", "UTC")), -1),
        (pa.array([2], pa.timestamp("ms", "UTC")), 2_000),
        (pa.array([2], pa.timestamp("s", "Europe/Berlin")), 2_000_000),
    ],
    ids=str,
)
def test_instants_of_any_unit_and_zone_are_whole_microseconds(instants, expected):
    found = read_spine(with_column("as_of", instants), PLAN)
    assert found.column("as_of").type == INSTANT
    assert found.column("as_of").cast(pa.int64()).to_pylist() == [expected]


def test_columns_that_only_pass_through_keep_their_types():
    label = pa.array(["x", None, "y"]).dictionary_encode()
    table = with_column("label", label).append_column("extra", pa.array([[1], None, []], pa.list_(pa.int8())))
    found = read_spine(table, PLAN)
    assert found.schema.field("label").type == label.type
    assert found.schema.field("extra").type == pa.list_(pa.int8())


def test_a_spine_without_rows_keeps_its_columns():
    found = read_spine(WHOLE.slice(0, 0), PLAN)
    assert found.num_rows == 0
    assert found.column_names == WHOLE.column_names


def test_another_column_can_hold_the_instants():
    renamed = WHOLE.rename_columns(["label", "user", "asked_at", "budget"])
    assert read_spine(renamed, PLAN, as_of="asked_at").column("asked_at").type == INSTANT


NAIVE = pa.array([datetime.datetime(2024, 5, 1)] * 3, pa.timestamp("us"))
BROKEN = {
    "no key": (WHOLE.drop_columns("user"), "spine-column", r"no column 'user' \(an entity key\)"),
    "a key of nearly the name": (
        WHOLE.rename_columns(["label", "usr", "as_of", "budget"]),
        "spine-column",
        r"'user'.*(?s:.*)'?usr",
    ),
    "no instants": (WHOLE.drop_columns("as_of"), "spine-column", r"no column 'as_of'"),
    "no request input": (WHOLE.drop_columns("budget"), "spine-column", r"no column 'budget' \(a request input\)"),
    "instants without a zone": (
        with_column("as_of", NAIVE),
        "naive-instant",
        r"'as_of'.*no time zone(?s:.*)tz_localize",
    ),
    "instants as text": (with_column("as_of", pa.array(["2024-05-01"])), "wrong-dtype", r"'as_of'.*string"),
    "instants as dates": (
        with_column("as_of", pa.array([datetime.date(2024, 5, 1)])),
        "wrong-dtype",
        r"'as_of'.*date32",
    ),
    "an instant that is null": (
        with_column("as_of", pa.array([1, None, None], INSTANT)),
        "null-as-of",
        r"2 of 3 instants are null, the first in row 1",
    ),
    "instants that are all null": (with_column("as_of", pa.nulls(2)), "null-as-of", r"2 of 2 instants are null"),
    "a key as text": (with_column("user", pa.array(["1"])), "wrong-dtype", r"'user'.*string, expected int64"),
    "a key as float": (with_column("user", pa.array([1.0])), "wrong-dtype", r"'user'.*double, expected int64"),
    "a key that does not fit": (
        with_column("user", pa.array([2**63], pa.uint64())),
        "out-of-range",
        r"'user'.*does not fit",
    ),
    "a request input as text": (with_column("budget", pa.array(["1"])), "wrong-dtype", r"'budget'.*expected float64"),
    "two columns of one name": (WHOLE.append_column("label", WHOLE.column("label")), "duplicate-column", r"'label'"),
    "a column named like a feature": (
        WHOLE.append_column("spending__n", WHOLE.column("label")),
        "name-taken",
        r"'spending__n'",
    ),
    "a column that Parquet cannot hold": (
        WHOLE.append_column("odd", pa.nulls(len(WHOLE), pa.month_day_nano_interval())),
        "wrong-dtype",
        r"'odd'.*(?s:.*)Parquet has no type",
    ),
    "a number": (7, "unreadable-frame", r"pandas or Polars frame"),
    "a list": ([{"user": 1}], "unreadable-frame", r"pandas or Polars frame"),
    "SQL as text": ("SELECT * FROM spine", "unreadable-frame", r"SqlSpine"),
    "a path to nothing": ("nowhere.parquet", "unreadable-frame", r"'nowhere.parquet' is not there"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_is_refused_with_the_place_and_a_fix(name):
    given, code, message = BROKEN[name]
    with pytest.raises(SpineError, match=message) as caught:
        read_spine(given, PLAN)
    assert caught.value.code == code
    assert caught.value.where.startswith("spine")
    assert caught.value.hint or code == "out-of-range"


def test_names_that_the_training_set_will_have_are_taken():
    table = WHOLE.append_column("spending__n__status", WHOLE.column("label"))
    assert read_spine(table, PLAN).num_columns == 5
    with pytest.raises(SpineError, match=r"'spending__n__status'"):
        read_spine(table, PLAN, reserved=["spending__n__status"])


@pytest.mark.parametrize("content", [b"", b"PAR1", b"a,b\n1,2\n"])
def test_a_file_that_is_no_parquet_is_named(content, tmp_path):
    (tmp_path / "spine.parquet").write_bytes(content)
    with pytest.raises(SpineError, match=r"spine.parquet' is not sound Parquet"):
        read_spine(tmp_path / "spine.parquet", PLAN)


def test_a_file_that_was_cut_short_is_named(tmp_path):
    path = written(WHOLE, tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SpineError, match=r"not sound Parquet"):
        read_spine(path, PLAN)


def test_pandas_integers_with_nulls_are_refused_as_the_floats_they_became():
    frame = pd.DataFrame({"user": [1, None], "as_of": pd.to_datetime(["2024-05-01"] * 2, utc=True), "budget": [1.0, 2]})
    with pytest.raises(SpineError, match=r"astype\('Int64'\)"):
        read_spine(frame, PLAN)
    found = read_spine(frame.astype({"user": "Int64"}), PLAN)
    assert found.column("user").to_pylist() == [1, None]


def test_a_label_whose_dictionary_holds_a_null_is_stored_as_its_values():
    categories = pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array(["x", None]))
    found = _storable(pa.chunked_array([categories, categories[1:]]))
    assert (found.type, found.to_pylist()) == (pa.string(), ["x", None, None, None, None])
