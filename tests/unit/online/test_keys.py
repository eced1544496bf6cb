"""Keys are typed and injective, and their bytes never change."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.dtypes import parse_dtype, read_value
from featurestore.online.state.keys import key_encoder, ordered_keys
from tests.budget import examples

VALUES = {
    "bool": st.booleans(),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    "binary": st.binary(max_size=4),
    "timestamp": st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC)),
    "date": st.dates(),
    "decimal(38,4)": st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(n).scaleb(0)),
}

typed_parts = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(st.just(name), VALUES[name]))
keys = st.lists(typed_parts, min_size=1, max_size=3)


def encode(*parts):
    return key_encoder([parse_dtype(name) for name, _ in parts])([value for _, value in parts])


@given(keys, keys)
@examples(300)
def test_keys_are_equal_if_and_only_if_their_bytes_are(left, right):
    assert (encode(*left) == encode(*right)) == (left == right)
    assert encode(*left) == encode(*left)


def test_parts_do_not_run_together():
    assert encode(("int64", 1), ("int64", 11)) != encode(("int64", 11), ("int64", 1))
    assert encode(("string", "1"), ("string", "11")) != encode(("string", "11"), ("string", "1"))
    assert encode(("string", "as"), ("string", "")) != encode(("string", "a"), ("string", "s"))


def test_text_is_not_a_number():
    assert encode(("string", "1")) != encode(("int64", 1)) != encode(("bool", True))


def test_decimals_that_differ_in_the_last_of_38_digits_differ():
    assert encode(("decimal(38,0)", Decimal(10**37))) != encode(("decimal(38,0)", Decimal(10**37 + 1)))


def test_equal_decimals_of_different_spelling_are_one_key():
    assert encode(("decimal(5,2)", Decimal("1.10"))) == encode(("decimal(5,2)", Decimal("1.1")))


def test_one_instant_in_two_zones_is_one_key():
    utc = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert encode(("timestamp", utc)) == encode(("timestamp", utc.astimezone(timezone(timedelta(hours=5)))))


@pytest.mark.parametrize("parts", [[None], [1, None], [None, 1]])
def test_a_key_with_a_null_is_no_key(parts):
    assert key_encoder([parse_dtype("int64")] * len(parts))(parts) is None


def test_bytes_are_as_they_were_first_stored():
    """Stored states are found by these bytes: a change here loses them all."""
    parts = [
        ("int64", -2),
        ("string", "é"),
        ("bool", True),
        ("date", date(2024, 2, 29)),
        ("timestamp", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("binary", b"\x00"),
        ("decimal(5,2)", Decimal("-1.50")),
    ]
    assert encode(*parts).hex(" ") == (
        "69 ff ff ff ff ff ff ff fe 73 00 00 00 02 c3 a9 62 01 64 00 00 00 00 00 0b 46 81 "
        "74 00 00 00 00 00 0f 42 40 79 00 00 00 01 00 6e 00 00 00 04 2d 31 2e 35"
    )


@given(st.lists(st.tuples(VALUES["int64"], VALUES["timestamp"], VALUES["date"], VALUES["string"]), min_size=1))
@examples(100)
def test_many_keys_are_written_as_one_is_and_sorted(rows):
    for chosen in ((0,), (1,), (2, 0), (0, 1, 2), (3,), (0, 3)):
        dtypes = [parse_dtype(("int64", "timestamp", "date", "string")[i]) for i in chosen]
        distinct = list(dict.fromkeys(tuple(row[i] for i in chosen) for row in rows))
        columns = [pa.array(part, dtype.arrow) for part, dtype in zip(zip(*distinct, strict=True), dtypes, strict=True)]
        found, order = ordered_keys(b"\x01prefix", dtypes, columns)
        single = key_encoder(dtypes)
        assert list(found) == sorted(b"\x01prefix" + single(row) for row in distinct)
        assert [b"\x01prefix" + single(distinct[i]) for i in order] == list(found)


@pytest.mark.parametrize("text", ["-0", "0", "0.00", "-0.00", "0E+3", "-0E-4"])
def test_a_decimal_zero_has_one_key(text):
    """Training sets compare keys as Arrow does, whose decimals know no negative zero."""
    dtype = parse_dtype("decimal(10,4)")
    assert encode(("decimal(10,4)", Decimal(text))) == encode(("decimal(10,4)", Decimal(0)))
    assert str(read_value(dtype, Decimal(text))) == str(read_value(dtype, text)) == "0.0000"


def test_decimals_of_equal_value_have_one_key():
    assert encode(("decimal(10,4)", Decimal("1.0"))) == encode(("decimal(10,4)", Decimal("1.0000")))
