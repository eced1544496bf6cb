"""Frames keep what Arrow says: integers and booleans with nulls are no floats and no objects."""

import pyarrow as pa

from featurestore.core.frames import to_frame


def test_a_large_integer_beside_a_null_keeps_all_its_digits():
    large = 2**53 + 1
    frame = to_frame(pa.table({"n": pa.array([large, None], pa.int64()), "yes": pa.array([True, None])}))
    assert [str(dtype) for dtype in frame.dtypes] == ["Int64", "boolean"]
    assert int(frame["n"][0]) == large


def test_columns_without_nulls_are_numpys():
    frame = to_frame(pa.table({"n": pa.array([1], pa.int64()), "yes": pa.array([True]), "x": [0.5]}))
    assert [str(dtype) for dtype in frame.dtypes] == ["int64", "bool", "float64"]
