"""Equality of values to the bit, for Python values, Arrow columns and answers."""

import struct
from decimal import Decimal


def bits(value):
    """Return what two values must share to be the same: type and content, floats by their bits.

    Lists and tuples are the same if their items are. Decimals are compared by value: their scale is their column's.
    """
    if isinstance(value, float):
        return float, struct.pack("<d", value)
    if isinstance(value, list | tuple):
        return list, tuple(bits(item) for item in value)
    if isinstance(value, Decimal):
        return Decimal, value.as_integer_ratio()
    return type(value).__name__, value


def assert_same_values(*, reference, current, where=""):
    """Assert that two sequences of Python values are the same to the bit."""
    reference, current = list(reference), list(current)
    assert len(reference) == len(current), f"{where}: {len(reference)} values, {len(current)} values"
    for row, (left, right) in enumerate(zip(reference, current, strict=True)):
        assert bits(left) == bits(right), f"{where}, row {row}: reference {left!r}, current {right!r}"


def assert_same_column(*, reference, current, where=""):
    """Assert that two Arrow columns have one type and the same values to the bit."""
    assert reference.type == current.type, f"{where}: reference {reference.type}, current {current.type}"
    assert_same_values(reference=reference.to_pylist(), current=current.to_pylist(), where=where)


def assert_same_table(*, reference, current):
    """Assert that two Arrow tables have the same columns in the same order, to the bit."""
    assert reference.column_names == current.column_names
    for name in reference.column_names:
        assert_same_column(reference=reference.column(name), current=current.column(name), where=f"column '{name}'")


def assert_same_answer(*, reference, current):
    """Assert that two answers of kernels are the same: values to the bit, statuses, newest events."""
    assert reference.features == current.features
    for index, feature in enumerate(reference.features):
        assert_same_column(reference=reference.column(index), current=current.column(index), where=str(feature))
    assert reference.statuses.tolist() == current.statuses.tolist()
    assert reference.newest.tolist() == current.newest.tolist()
