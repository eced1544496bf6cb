"""Dtypes: their names, their Arrow types, and single values read into them."""

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import (
    BINARY,
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    argument_text,
    from_arrow,
    list_of,
    literal,
    parse_dtype,
    read_value,
    read_values,
)

MONEY = DType("decimal", precision=5, scale=2)
ALL = [BOOL, INT64, FLOAT64, STRING, TIMESTAMP, DATE, BINARY, MONEY, list_of(INT64), list_of(list_of(MONEY))]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_a_dtype_is_read_from_its_name_and_from_its_arrow_type(dtype):
    assert parse_dtype(str(dtype)) == dtype
    assert parse_dtype(dtype) is dtype
    assert from_arrow(dtype.arrow) == dtype


@pytest.mark.parametrize(
    ("alias", "dtype"),
    [("int", INT64), ("float", FLOAT64), ("str", STRING), ("bytes", BINARY), ("datetime", TIMESTAMP)],
)
def test_common_aliases_work(alias, dtype):
    assert parse_dtype(alias) == dtype


@pytest.mark.parametrize(
    "wrong", ["", "number", "decimal", "decimal(0,0)", "decimal(39,2)", "decimal(3,4)", "list<>", "list<what>"]
)
def test_what_names_no_dtype_is_refused(wrong):
    with pytest.raises(ValueError, match="is not a dtype"):
        parse_dtype(wrong)


def test_a_misspelt_dtype_is_guessed():
    with pytest.raises(ValueError, match="Did you mean 'int64'"):
        parse_dtype("int46")


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_numbers_are_whole_floating_or_decimal(dtype):
    assert dtype.is_numeric == (dtype in (INT64, FLOAT64, MONEY))


@pytest.mark.parametrize(
    ("arrow", "dtype"),
    [
        (pa.int8(), INT64),
        (pa.uint64(), INT64),
        (pa.float16(), FLOAT64),
        (pa.float32(), FLOAT64),
        (pa.large_string(), STRING),
        (pa.string_view(), STRING),
        (pa.dictionary(pa.int8(), pa.string()), STRING),
        (pa.timestamp("ns", tz="Europe/Paris"), TIMESTAMP),
        (pa.timestamp("s"), TIMESTAMP),
        (pa.date64(), DATE),
        (pa.large_binary(), BINARY),
        (pa.binary_view(), BINARY),
        (pa.binary(3), BINARY),
        (pa.decimal256(20, 4), DType("decimal", precision=20, scale=4)),
        (pa.large_list(pa.float32()), list_of(FLOAT64)),
        (pa.list_(pa.int8(), 2), list_of(INT64)),
        (pa.list_view(pa.string()), list_of(STRING)),
        (pa.decimal256(60, 4), None),
        (pa.decimal128(5, -2), None),
        (pa.duration("s"), None),
        (pa.time64("us"), None),
        (pa.struct([("a", pa.int8())]), None),
        (pa.list_(pa.null()), None),
    ],
    ids=str,
)
def test_arrow_types_of_every_width_unit_and_layout_are_read_as_one_dtype(arrow, dtype):
    assert from_arrow(arrow) == dtype


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("dtype", "given", "read"),
    [
        (BOOL, True, True),
        (INT64, -(2**63), -(2**63)),
        (FLOAT64, 3, 3.0),
        (FLOAT64, 0.1, 0.1),
        (STRING, "ä", "ä"),
        (TIMESTAMP, "2026-01-01T13:00:00+01:00", NOON),
        (TIMESTAMP, NOON, NOON),
        (DATE, "2026-01-01", date(2026, 1, 1)),
        (DATE, date(2026, 1, 1), date(2026, 1, 1)),
        (BINARY, "AP8=", b"\x00\xff"),
        (BINARY, b"\x00", b"\x00"),
        (MONEY, "1.5", Decimal("1.50")),
        (MONEY, 999, Decimal("999.00")),
        (MONEY, Decimal("-999.99"), Decimal("-999.99")),
        (list_of(MONEY), ["1", None], [Decimal("1.00"), None]),
        (list_of(INT64), (1, 2), [1, 2]),
    ],
    ids=str,
)
def test_a_value_of_the_dtype_is_read(dtype, given, read):
    found = read_value(dtype, given)
    assert (found, type(found)) == (read, type(read))
    column = read_values(dtype, [None, given])
    assert (column.type, column.to_pylist()) == (dtype.arrow, [None, read])


PLAIN = {
    BOOL: st.booleans(),
    INT64: st.integers(),
    FLOAT64: st.floats(),
    STRING: st.text(st.characters(exclude_categories=())),
    TIMESTAMP: st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3)), ZoneInfo("Europe/Berlin")])),
}


@pytest.mark.parametrize("dtype", PLAIN, ids=str)
@given(data=st.data(), is_mixed=st.booleans())
def test_a_column_is_read_as_each_of_its_values_is(dtype, data, is_mixed):
    """Also where it is read at once."""
    kinds = st.one_of(*PLAIN.values()) if is_mixed else PLAIN[dtype]
    values = data.draw(st.lists(st.none() | kinds, max_size=4))
    try:
        read = [read_value(dtype, value) for value in values]
    except ValueError:
        with pytest.raises(ValueError, match="expected"):
            read_values(dtype, values)
    else:
        column = read_values(dtype, values)
        assert column.type == dtype.arrow
        assert repr(column.to_pylist()) == repr(pa.array(read, dtype.arrow).to_pylist())


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_nothing_stays_nothing(dtype):
    assert read_value(dtype, None) is None


@pytest.mark.parametrize("given", [math.nan, math.inf, -math.inf])
def test_floats_that_are_not_finite_become_nothing(given):
    assert read_value(FLOAT64, given) is None


@pytest.mark.parametrize("given", ["NaN", "Infinity", Decimal("-Infinity")])
def test_decimals_that_are_not_finite_become_nothing(given):
    assert read_value(MONEY, given) is None


def test_zero_has_no_sign():
    assert math.copysign(1.0, read_value(FLOAT64, -0.0)) == 1.0


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [
        (BOOL, 1),
        (BOOL, "true"),
        (INT64, "1"),
        (INT64, True),
        (INT64, 1.0),
        (INT64, 2**63),
        (FLOAT64, "1"),
        (FLOAT64, False),
        (FLOAT64, 10**400),
        (STRING, 1),
        (STRING, "\ud800"),
        (TIMESTAMP, 5),
        (TIMESTAMP, "2026-01-01T12:00:00"),
        (TIMESTAMP, "noon"),
        (TIMESTAMP, "9999-12-31T23:59:59-05:00"),
        (TIMESTAMP, "0001-01-01T00:00:00+05:00"),
        (DATE, NOON),
        (DATE, "1 January"),
        (BINARY, "no base64!"),
        (BINARY, 1),
        (MONEY, 1.5),
        (MONEY, True),
        (MONEY, "1.505"),
        (MONEY, "1000"),
        (MONEY, "1e80"),
        (MONEY, "one"),
        (list_of(INT64), 1),
        (list_of(INT64), ["1"]),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused(dtype, wrong):
    with pytest.raises(ValueError, match="expected"):
        read_value(dtype, wrong)
    with pytest.raises(ValueError, match="expected"):
        read_values(dtype, [None, wrong])


LITERALS = [
    True,
    -3,
    0.1,
    'say "ä"\n',
    Decimal("0.00"),
    date(2026, 2, 28),
    datetime(2026, 2, 28, 5, 30, tzinfo=UTC),
    datetime(2026, 2, 28, 5, 30, 0, 7, tzinfo=timezone(timedelta(hours=-5))),
    b"\x00a",
]


@pytest.mark.parametrize("value", LITERALS, ids=repr)
def test_a_literal_is_what_a_definition_would_say(value):
    """Evaluated where definitions are, with what they import from the standard library, it is the value."""
    names = {"Decimal": Decimal, "date": date, "datetime": datetime, "UTC": UTC}
    assert eval(literal(value), names) == value  # what is evaluated is made here
    assert literal([value]) == f"[{literal(value)}]"


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (BOOL, True),
        (INT64, -(2**63)),
        (FLOAT64, 1e-300),
        (STRING, "a=b c"),
        (TIMESTAMP, datetime(2026, 2, 28, 5, 30, 0, 7, tzinfo=UTC)),
        (DATE, date(2026, 2, 28)),
        (BINARY, b"\xff\x00"),
        (MONEY, Decimal("1.50")),
        (list_of(MONEY), [Decimal("1.50"), None]),
        (list_of(INT64), [1, None]),
    ],
    ids=str,
)
def test_an_argument_is_read_back_as_the_value_it_was_written_of(dtype, value):
    """As the command line reads arguments: those of some kinds are JSON."""
    text = argument_text(value)
    is_json = dtype.kind in ("bool", "int64", "float64", "list")
    assert read_value(dtype, json.loads(text) if is_json else text) == value


@pytest.mark.parametrize(
    ("dtype", "value", "read"),
    [
        (INT64, np.int64(5), 5),
        (INT64, np.uint8(5), 5),
        (FLOAT64, np.float32(0.1), 0.10000000149011612),
        (FLOAT64, np.int16(2), 2.0),
        (BOOL, np.bool_(True), True),
        (STRING, np.str_("ü"), "ü"),
        (TIMESTAMP, pd.Timestamp("2026-02-28T01:00+01:00"), datetime(2026, 2, 28, tzinfo=UTC)),
        (list_of(INT64), [np.int64(3), pd.NA], [3, None]),
        *((dtype, missing, None) for dtype in ALL for missing in (pd.NA, pd.NaT)),
    ],
)
def test_numbers_of_numpy_and_missing_values_of_pandas_are_read(dtype, value, read):
    found = read_value(dtype, value)
    assert found == read
    assert type(found) in (type(read), type(value))
    assert read_values(dtype, [value, None]).to_pylist() == [read, None]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (INT64, np.float64(5)),
        (INT64, np.uint64(2**63)),
        (INT64, np.bool_(True)),
        (BOOL, np.int64(1)),
        (STRING, np.int64(1)),
        (INT64, np.longdouble(1)),
    ],
)
def test_numbers_of_numpy_are_read_as_strictly_as_others(dtype, value):
    with pytest.raises(ValueError, match=f"expected {dtype}"):
        read_value(dtype, value)
    with pytest.raises(ValueError, match=f"expected {dtype}"):
        read_values(dtype, [value])
