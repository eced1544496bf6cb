"""What stands for an event id in the log."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.core.errors import StorageError
from featurestore.sources.event_log.stored import identities, packed, unpacked

NUMBERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(NUMBERS, unique=True))
def test_numbers_sort_as_what_stands_for_them(numbers):
    """So an index puts ids that are counted up side by side."""
    found = identities(numbers)
    assert [number for _, number in sorted(zip(found, numbers, strict=True))] == sorted(numbers)


@given(st.lists(NUMBERS | st.text() | st.binary() | st.booleans(), unique_by=repr))
def test_different_ids_are_told_apart(ids):
    assert len(set(identities(ids))) == len(ids)


def test_what_is_equal_to_python_is_told_apart():
    assert len(set(identities([True, 1, 1.0, "1", b"1"]))) == 5


def test_no_id_is_none():
    assert identities([None, 1, None]) == [None, (2**63 + 1).to_bytes(8, "big"), None]


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: b"x" * len(data), lambda data: data[:200]])
def test_a_damaged_batch_is_an_error_by_name(damage):
    stored = packed(pa.table({"user": ["a", "b"] * 50, "x": [1.0] * 100}))
    assert unpacked(stored).num_rows == 100
    with pytest.raises(StorageError, match="a batch of events in the database is damaged") as error:
        unpacked(damage(stored))
    assert error.value.code == "event-log-damaged"
