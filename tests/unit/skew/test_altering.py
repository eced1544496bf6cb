"""Changes of served values that audits try."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from featurestore.core.temporal import MICROSECONDS
from featurestore.guard.causes.altering import map_items
from featurestore.guard.causes.hypotheses.key_format import spellings
from featurestore.guard.causes.hypotheses.request_input_changed import changes_of_input
from featurestore.guard.causes.hypotheses.unit_or_scale import affine, divided
from featurestore.guard.world.events import loose

INSTANT = pa.timestamp("us", tz="UTC")


def test_items_of_lists_are_changed_where_they_are():
    lists = pa.array([[1.0], [9.0, None], None, [], [2.0, 3.0]], pa.list_(pa.float64()))
    doubled = map_items(lists.slice(1), lambda items: pc.multiply(items, 2.0))
    assert doubled.to_pylist() == [[18.0, None], None, [], [4.0, 6.0]]
    assert doubled.type == lists.type


def test_decimals_are_scaled_exactly():
    prices = pa.array([Decimal("12345678901234567890.12"), None], pa.decimal128(38, 2))
    assert affine(prices, 100.0, 0.0).to_pylist() == [Decimal("1234567890123456789012.00"), None]
    assert divided(prices, 100.0).to_pylist() == [Decimal("123456789012345678.90"), None]


@pytest.mark.parametrize(
    ("name", "asked", "known", "spelled"),
    [
        ("without leading zeros", ["007", "000", "10"], ["7"], ["7", "0", "10"]),
        ("padded with zeros to 3", ["7", "0"], ["007", "000"], ["007", "000"]),
        ("as whole numbers", ["7.0", "x.0"], ["7"], ["7", "x.0"]),
        ("as whole numbers padded with zeros to 3", ["7.0"], ["007"], ["007"]),
        ("as floats", ["7", "007", "a"], ["7.0"], ["7.0", "7.0", "a"]),
    ],
)
def test_keys_are_spelled_as_numbers_are(name, asked, known, spelled):
    keys, source = pa.array(asked), pa.array(known)
    assert spellings([keys], [source])[name](keys).to_pylist() == spelled


def test_spellings_of_one_key_are_one_loosely():
    assert set(loose(pa.array(["7", "007", " 7 ", "7.0", "7."])).to_pylist()) == {"7"}
    assert loose(pa.array(["A.0", "1.5"])).to_pylist() == ["a.0", "1.5"]


def test_whole_request_inputs_change_their_unit():
    changes = dict(changes_of_input(pa.int64(), []))
    column = pa.array([1999, -1, None], pa.int64())
    assert changes["divided by 1000"](column).to_pylist() == [1, -1, None]
    assert changes["multiplied by 1000"](column).to_pylist() == [1_999_000, -1_000, None]
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        changes["multiplied by 1000"](pa.array([2**62]))


@pytest.mark.parametrize(
    ("said", "hours"),
    [
        ("read 5h later than it is", 5.0),
        ("read 5h30m earlier than it is", -5.5),
        ("read as Europe/Berlin shows it", 2.0),
        ("read as if its clock were that of Europe/Berlin", -2.0),
    ],
)
def test_instants_in_a_request_change_their_zone(said, hours):
    noon = pa.array([1_719_835_200_000_000, None], INSTANT)
    after = dict(changes_of_input(INSTANT, ["Europe/Berlin"]))[said](noon)
    assert after.type == noon.type
    moved = pc.subtract(after.cast(pa.int64()), noon.cast(pa.int64())).to_pylist()
    assert moved == [hours * MICROSECONDS["h"], None]
