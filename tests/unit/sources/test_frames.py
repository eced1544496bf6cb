"""Frames in memory as a source: what pandas' columns of objects are, and declared dtypes."""

import datetime as dt
import re
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest

from featurestore.core.errors import SourceDataError
from featurestore.definitions.sources import FrameSource
from featurestore.sources import open_scan, read_schema
from tests.unit.sources.scans import plan_of, scan_of

AT = pd.to_datetime(["2026-01-01"] * 3, utc=True)


def source(values, **options):
    frame = pd.DataFrame({"key": ["a", "b", "c"], "at": AT, "x": pd.Series(values, dtype=object)})
    return FrameSource("f", frame=frame, event_time="at", **options)


def dtype_of(values, **options):
    return str(read_schema(source(values, **options))["x"])


def read(values, **options):
    with scan_of(source(values, **options)) as scan:
        return scan.read(["x"]).column("x").to_pylist()


@pytest.mark.parametrize(
    "digits", [["1.50", "2", None], ["12345.678", "0", "-1"], ["1e10", "1e-18", "0.1"], ["-0", None, None]]
)
def test_decimals_have_one_dtype_whatever_their_digits(digits):
    """So the plan of a view over them does not change with the rows."""
    values = [None if text is None else Decimal(text) for text in digits]
    assert dtype_of(values) == "decimal(38,18)"
    assert read(values) == values


def test_declared_decimals_are_read_exactly_or_refused_by_row():
    values = [Decimal("1.50"), 2, None]
    assert read(values, dtypes={"x": "decimal(12,2)"}) == [Decimal("1.50"), Decimal(2), None]
    with pytest.raises(SourceDataError, match=r"column 'x': row 1 holds Decimal\('1.234'\), which is not a decimal"):
        read([Decimal(1), Decimal("1.234"), None], dtypes={"x": "decimal(12,2)"})


@pytest.mark.parametrize("value", ["1e-19", "1e30", "Infinity"])
def test_decimals_beyond_the_dtype_are_an_error_only_where_they_are_used(value):
    odd = [Decimal("1.5"), None, Decimal(value)]
    assert dtype_of(odd) == "decimal(38,18)"
    with open_scan(source(odd), plan_of(source([None] * 3)), keys=["key"]) as scan:
        assert scan.read(["key"]).num_rows == 3
    with pytest.raises(
        SourceDataError, match=re.escape(f"row 2 holds {Decimal(value)!r}, which is not a decimal(38,18)")
    ):
        read(odd)


def test_decimals_in_lists_and_categories_have_one_dtype():
    values = [[Decimal("1.5")], [Decimal("12.25"), None], None]
    assert dtype_of(values) == "list<decimal(38,18)>"
    assert read(values) == values
    frame = pd.DataFrame({"key": ["a"], "at": AT[:1], "x": pd.Categorical([Decimal("1.5")])})
    assert str(read_schema(FrameSource("f", frame=frame, event_time="at"))["x"]) == "decimal(38,18)"


def test_values_of_several_types_are_an_error_only_where_they_are_used():
    values = [1, "one", None]
    assert dtype_of(values) == "None"
    with scan_of(source(values)) as scan:
        assert scan.read(["key"]).num_rows == 3
    with pytest.raises(SourceDataError, match="column 'x': row 0 holds 1, which is not a string"):
        read(values, dtypes={"x": "string"})
    assert read([1, 2.5, None], dtypes={"x": "float64"}) == [1.0, 2.5, None]
    assert read([Decimal("0.5"), "2", 3], dtypes={"x": "decimal(5,1)"}) == [Decimal("0.5"), Decimal(2), Decimal(3)]


@pytest.mark.parametrize("values", [[None, None, None], [float("nan"), None, pd.NaT]])
def test_a_column_of_nulls_has_the_dtype_that_is_declared(values):
    assert dtype_of(values) == "None" or dtype_of(values) == "float64"
    assert dtype_of(values, dtypes={"x": "int64"}) == "int64"
    assert read([None, None, None], dtypes={"x": "int64"}) == [None] * 3


def test_an_empty_frame_has_declared_dtypes():
    frame = pd.DataFrame({"key": [], "at": [], "x": []}, dtype=object)
    empty = FrameSource("f", frame=frame, event_time="at", dtypes={"key": "string", "at": "timestamp", "x": "int64"})
    assert {name: str(dtype) for name, dtype in read_schema(empty).items()} == {
        "key": "string",
        "at": "timestamp",
        "x": "int64",
    }


def test_dtypes_of_other_frames_are_converted_as_those_of_files_are():
    table = pa.table({"key": ["a"], "at": [1_767_225_600], "x": ["1.50"]})
    declared = {"at": "timestamp[s]", "x": "decimal(5,2)"}
    with scan_of(FrameSource("f", frame=table, event_time="at", dtypes=declared)) as scan:
        assert scan.read(["at", "x"]).to_pylist() == [
            {"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "x": Decimal("1.50")}
        ]


def test_the_order_of_columns_stays():
    frame = pd.DataFrame({"x": pd.Series([Decimal(1)], dtype=object), "key": ["a"], "at": AT[:1], "y": [1]})
    assert list(read_schema(FrameSource("f", frame=frame, event_time="at"))) == ["x", "key", "at", "y"]
    twice = pd.concat([frame, frame[["x"]]], axis=1)
    with pytest.raises(SourceDataError, match="two columns 'x'"):
        read_schema(FrameSource("f", frame=twice, event_time="at"))
