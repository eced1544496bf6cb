"""The boundary: whatever Arrow holds outside, inside there is one form of every value."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from featurestore.core.dtypes import (
    BINARY,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    list_of,
)
from featurestore.core.errors import SourceDataError
from featurestore.core.values import ColumnCounts, canonical, read_column

UTC = dt.UTC


def read(array, dtype, timezone=None):
    found, counts = read_column(array, dtype, timezone, "source 's', column 'c'")
    assert found.type == dtype.arrow
    return found.to_pylist(), counts


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (pa.array([1, None], pa.int8()), INT64),
        (pa.array([1, None], pa.uint64()), INT64),
        (pa.array([0.5, None], pa.float32()), FLOAT64),
        (pa.array(["a", None], pa.large_string()), STRING),
        (pa.array(["a", None]).cast(pa.string_view()), STRING),
        (pa.array(["a", None]).dictionary_encode(), STRING),
        (pa.array([b"a", None], pa.large_binary()), BINARY),
        (pa.array([b"a", None], pa.binary(1)), BINARY),
        (pa.array([dt.date(2026, 1, 1), None], pa.date64()), DATE),
        (pa.array([[1], None], pa.large_list(pa.int8())), list_of(INT64)),
        (pa.chunked_array([pa.array([1]), pa.array([None], pa.int64())]), INT64),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_every_width_and_layout_is_read_as_the_same_values(array, dtype):
    values, counts = read(array, dtype)
    expected = array.to_pylist()
    assert values == expected
    assert counts == ColumnCounts(2, 1, 0)


def test_a_column_of_nothing_is_read_as_any_dtype():
    assert read(pa.nulls(2), STRING) == ([None, None], ColumnCounts(2, 2, 0))


def test_floats_are_finite_or_null_and_the_broken_ones_are_counted():
    values, counts = read(pa.array([np.nan, np.inf, -np.inf, None, -0.0, 1.5]), FLOAT64)
    assert values == [None, None, None, None, 0.0, 1.5]
    assert np.copysign(1.0, values[4]) == 1.0
    assert counts == ColumnCounts(6, 1, 3)


def test_zero_has_no_sign_where_nothing_is_null():
    (value,) = canonical(pa.array([-0.0]), FLOAT64).to_pylist()
    assert np.copysign(1.0, value) == 1.0


def test_floats_inside_lists_are_finite_or_null_too():
    assert read(pa.array([[np.nan, 1.0], []]), list_of(FLOAT64))[0] == [[None, 1.0], []]


def test_counts_of_pieces_add_up():
    assert ColumnCounts(1, 2, 3) + ColumnCounts(10, 20, 30) == ColumnCounts(11, 22, 33)


def test_an_integer_beyond_int64_is_refused():
    with pytest.raises(SourceDataError, match="does not fit into int64"):
        read(pa.array([2**63], pa.uint64()), INT64)


def test_another_type_is_refused():
    with pytest.raises(SourceDataError, match="is string, expected int64"):
        read(pa.array(["1"]), INT64)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_of_every_unit_and_zone_are_utc_microseconds(unit):
    at = dt.datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert read(pa.array([at, None], pa.timestamp(unit, tz="Asia/Tokyo")), TIMESTAMP)[0] == [at, None]


def test_nanoseconds_are_cut_down_also_before_the_epoch():
    values, _ = read(pa.array([-1, 1_999], pa.timestamp("ns", tz="UTC")), TIMESTAMP)
    assert [value.microsecond for value in values] == [999_999, 1]


def test_naive_instants_need_a_zone():
    noon = dt.datetime(2026, 7, 1, 12)
    with pytest.raises(SourceDataError, match="timezone='UTC'") as caught:
        read(pa.array([noon]), TIMESTAMP)
    assert caught.value.code == "naive-timestamps"
    assert read(pa.array([noon]), TIMESTAMP, "UTC")[0] == [noon.replace(tzinfo=UTC)]
    assert read(pa.array([noon]), TIMESTAMP, "Europe/Paris")[0] == [noon.replace(tzinfo=UTC, hour=10)]


@pytest.mark.parametrize("local", [dt.datetime(2026, 3, 29, 2, 30), dt.datetime(2026, 10, 25, 2, 30)])
def test_local_times_that_do_not_exist_or_are_two_are_refused(local):
    with pytest.raises(SourceDataError, match=r"which clocks in Europe/Paris show (never|twice)"):
        read(pa.array([local]), TIMESTAMP, "Europe/Paris")


def test_an_instant_out_of_range_is_refused():
    with pytest.raises(SourceDataError, match="out of range"):
        read(pa.array([2**62], pa.timestamp("s", tz="UTC")), TIMESTAMP)


def test_computed_columns_are_brought_to_their_arrow_type():
    assert canonical(pa.array([1], pa.int32()), INT64).type == pa.int64()
    assert canonical(pa.array([1.0], pa.float32()), FLOAT64).type == pa.float64()
