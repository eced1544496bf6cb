"""What other systems logged becomes the value it is, whatever its type, or is told as what it is."""

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import parse_dtype
from featurestore.core.errors import SourceDataError
from featurestore.guard.audit.foreign_values import read_foreign, texts_of
from featurestore.sources.frames import raw_columns
from tests.assertions import assert_same_column
from tests.strategies import DTYPES, decimals, values

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def read(array, dtype, *, timezone=None):
    return read_foreign(array, parse_dtype(dtype), timezone=timezone, where="log")


@pytest.mark.parametrize(
    ("found", "dtype", "expected"),
    [
        (pa.array([14.0, None, float("nan")]), "int64", [14, None, None]),
        (pa.array(["14.0", " 14 ", "1e3", "007"]), "int64", [14, 14, 1000, 7]),
        (pa.array([2.0**53, -(2.0**63)]), "int64", [2**53, -(2**63)]),
        (pa.array([Decimal("14.00")]), "int64", [14]),
        (pa.array([2**63 - 1], pa.uint64()), "int64", [2**63 - 1]),
        (pa.array([0, 1, None]), "bool", [False, True, None]),
        (pa.array([0.0, 1.0]), "bool", [False, True]),
        (pa.array(["True", "false", "1", "0.0"]), "bool", [True, False, True, False]),
        (pa.array([2, 2**60]), "float64", [2.0, 2.0**60]),
        (pa.array(["0.1", "nan", "1e3"]), "float64", [0.1, None, 1000.0]),
        (pa.array([Decimal("33.33")]), "float64", [33.33]),
        (pa.array([0.1, 12.0, None]), "decimal(12,2)", [Decimal("0.10"), Decimal("12.00"), None]),
        (pa.array(["1e2", "3"]), "decimal(12,2)", [Decimal("100.00"), Decimal("3.00")]),
        (pa.array([Decimal("1.500")]), "decimal(12,2)", [Decimal("1.50")]),
        (pa.array([7, None]), "string", ["7", None]),
        (pa.array([7.0, 7.5]), "string", ["7", "7.5"]),
        (pa.array([Decimal("7.00"), Decimal("7.50")]), "string", ["7", "7.50"]),
        (pa.array(["a", "b"]).dictionary_encode(), "string", ["a", "b"]),
        (pa.array([b"ab"]), "string", ["ab"]),
        (pa.array([NOON], pa.timestamp("s", "UTC")), "string", ["2026-03-02T12:00:00Z"]),
        (pa.array(["2026-03-02 12:00:00+00:00", "2026-03-02T13:00:00 +01:00"]), "timestamp", [NOON, NOON]),
        (pa.array([datetime(2026, 3, 2)], pa.timestamp("ns")), "date", [date(2026, 3, 2)]),
        (pa.array(["2026-03-02 00:00:00"]), "date", [date(2026, 3, 2)]),
        (pa.array([[3.0, None], None]), "list<int64>", [[3, None], None]),
        (pa.array(["[3, 1.0, null]", None]), "list<int64>", [[3, 1, None], None]),
        (pa.array(['["a", "ä"]']), "list<string>", [["a", "ä"]]),
        (pa.array(["[0.1]"]), "list<decimal(12,2)>", [[Decimal("0.10")]]),
        (pa.array([NOON], pa.timestamp("ns", "UTC")), "timestamp", [NOON]),
        (pa.nulls(2), "list<int64>", [None, None]),
    ],
)
def test_what_is_a_value_becomes_it(found, dtype, expected):
    column = read(found, dtype)
    assert_same_column(reference=pa.array(expected, parse_dtype(dtype).arrow), current=column.values)
    assert column.unread.null_count == len(found)


@pytest.mark.parametrize(
    ("found", "dtype", "told"),
    [
        (pa.array([14.5, 1e300]), "int64", ["14.5", "1e+300"]),
        (pa.array(["many", "14.5", "1e999999999", "0x1", ""]), "int64", ["many", "14.5", "1e999999999", "0x1", ""]),
        (pa.array([2**63], pa.uint64()), "int64", [str(2**63)]),
        (pa.array([True]), "int64", ["True"]),
        (pa.array([2]), "bool", ["2"]),
        (pa.array(["yes"]), "bool", ["yes"]),
        (pa.array([2**53 + 1]), "float64", [str(2**53 + 1)]),
        (pa.array(["1,5"]), "float64", ["1,5"]),
        (pa.array([0.125]), "decimal(12,2)", ["0.125"]),
        (pa.array([1e12]), "decimal(12,2)", ["1000000000000.0"]),
        (pa.array([True]), "string", ["True"]),
        (pa.array([b"\xff"]), "string", ["b'\\xff'"]),
        (pa.array([1772426897]), "timestamp", ["1772426897"]),
        (pa.array(["02/03/2026"]), "timestamp", ["02/03/2026"]),
        (pa.array([NOON], pa.timestamp("us", "UTC")), "date", ["2026-03-02T12:00:00Z"]),
        (pa.array([10**15], pa.timestamp("s", "UTC")), "timestamp", [str(10**15)]),
        (pa.array(["[4 4 4]", "{}", '["a"]']), "list<int64>", ["[4 4 4]", "{}", '["a"]']),
        (pa.array([[1.5]]), "list<int64>", ["[1.5]"]),
        (pa.array([{"a": 1}]), "int64", ["{'a': 1}"]),
    ],
)
def test_what_is_none_is_told(found, dtype, told):
    column = read(found, dtype)
    assert column.values.null_count == len(found)
    assert column.unread.to_pylist() == told


def test_one_value_that_is_none_leaves_the_others_what_they_are():
    column = read(pa.array(["1", "x", None, "1", "2.0"]), "int64")
    assert column.values.to_pylist() == [1, None, None, 1, 2]
    assert column.unread.to_pylist() == [None, "x", None, None, None]


def test_times_of_a_clock_are_read_in_its_zone_and_those_it_showed_twice_are_none():
    local = ["2026-07-01 12:00:00", "2026-10-25 02:30:00", "2026-03-29 02:30:00"]
    column = read(pa.array(local), "timestamp", timezone="Europe/Berlin")
    assert column.values.to_pylist() == [datetime(2026, 7, 1, 10, tzinfo=UTC), None, None]
    assert column.unread.to_pylist() == [None, *local[1:]]


@pytest.mark.parametrize("found", [pa.array(["2026-07-01 12:00:00"]), pa.array([date(2026, 7, 1)])])
def test_times_without_a_zone_are_refused_in_the_words_of_a_mapping(found):
    with pytest.raises(SourceDataError, match=r'no time zone.*timezone = "UTC"'):
        read(found, "timestamp")


def test_anything_can_be_text():
    assert texts_of(pa.array([True, None])).to_pylist() == ["True", None]
    assert texts_of(pa.array([[1, 2]])).to_pylist() == ["[1, 2]"]
    assert texts_of(pa.array([5.0, 5.5])).to_pylist() == ["5", "5.5"]


def test_a_pandas_column_of_several_types_is_read_value_by_value():
    frame = pd.DataFrame({"n": pd.Series([1, "many", None, 2.0, True], dtype=object), "other": range(5)})
    column = read(raw_columns(frame, ["n"], where="log").column("n"), "int64")
    assert column.values.to_pylist() == [1, None, None, 2, None]
    assert column.unread.to_pylist() == [None, "many", None, None, "True"]


def columns_of(name):
    """Columns as pandas can hold them: beside nulls it keeps whole numbers as floats, which have 53 bits."""
    kept = values(name, extreme=True).map(lambda value: list(value) if isinstance(value, tuple) else value)
    column = st.lists(st.one_of(st.none(), kept), min_size=1, max_size=6)
    if name != "whole":
        return column
    return column.filter(lambda found: None not in found or all(one is None or abs(one) <= 2**53 for one in found))


@st.composite
def frames(draw):
    """Return a dtype's name, and a column of it."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    return name, pa.array(draw(columns_of(name)), DTYPES[name].arrow)


@given(frames())
def test_what_pandas_writes_to_parquet_or_hands_over_is_what_it_was(found):
    name, column = found
    frame = pa.table({"value": column}).to_pandas()
    file = io.BytesIO()
    frame.to_parquet(file)
    for again in (frame, pd.read_parquet(file), pa.table({"value": column})):
        taken = raw_columns(again, ["value"], where="log").column("value")
        got = read_foreign(taken, DTYPES[name], timezone=None, where="log")
        assert_same_column(reference=column, current=got.values, where=name)
        assert got.unread.null_count == len(column)


@given(frames().filter(lambda found: found[0] != "bytes"))
def test_what_pandas_writes_to_csv_is_what_it_was(found):
    """Lists stand there as JSON; an empty text cannot be told from null."""
    name, column = found
    texts = column.to_pylist()
    if name in ("tags", "counts"):
        texts = [None if value is None else json.dumps(value) for value in texts]
        frame = pd.DataFrame({"value": texts})
    else:
        frame = pa.table({"value": column}).to_pandas()
    written = pd.read_csv(io.StringIO(frame.to_csv(index=False)), dtype=str, keep_default_na=False, na_values=[""])
    got = read_foreign(pa.array(written["value"], pa.string()), DTYPES[name], timezone=None, where="log")
    expected = [None if value == "" else value for value in column.to_pylist()]
    assert_same_column(reference=pa.array(expected, column.type), current=got.values, where=name)
    assert got.unread.null_count == len(column)


SPELLED = {
    "float64": (st.floats(allow_nan=False).map(repr), pa.string(), "x"),
    "int64": (st.integers(-(2**63), 2**63 - 1).map(str), pa.string(), "0.5"),
    "bool": (st.sampled_from(["true", "False", "0", "1"]), pa.string(), "yes"),
    "date": (st.dates().map(date.isoformat), pa.string(), "today"),
    "timestamp": (st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat), pa.string(), "now"),
    "decimal(12,2)": (st.integers(-(10**9), 10**9).map(lambda cents: cents / 100), pa.float64(), 0.125),
}


@given(st.data(), st.sampled_from(sorted(SPELLED)))
def test_a_value_is_read_the_same_beside_any_other(data, dtype):
    """A column is read at once where it can be, and one by one where it cannot: to the same values."""
    texts, kind, bad = SPELLED[dtype]
    column = data.draw(st.lists(st.one_of(st.none(), texts), max_size=5))
    alone = read(pa.array(column, kind), dtype)
    beside = read(pa.array([*column, bad], kind), dtype)
    assert_same_column(reference=alone.values, current=beside.values.slice(0, len(column)), where=dtype)
    assert beside.unread.to_pylist() == [None] * len(column) + [str(bad)]


def test_a_long_column_is_read_in_parts(monkeypatch):
    monkeypatch.setattr("featurestore.guard.audit.foreign_values._FEW", 3)
    column = read(pa.array(["1", "2.0", None, "4", "x", "6", "7"]), "int64")
    assert column.values.to_pylist() == [1, 2, None, 4, None, 6, 7]
    assert column.unread.to_pylist() == [None] * 4 + ["x", None, None]
    assert len(read(pa.array([], pa.string()), "int64").values) == 0


@given(st.lists(decimals(30, 12), max_size=5))
def test_a_decimal_is_the_nearest_float(numbers):
    column = read(pa.array(numbers, pa.decimal128(30, 12)), "float64")
    assert_same_column(reference=pa.array([float(number) for number in numbers], pa.float64()), current=column.values)
