"""Keys are compared as typed values, column by column."""

import pyarrow as pa
import pytest

from featurestore.kernels.keys import UNKNOWN, KeyIndex


def index_of(*columns):
    return KeyIndex.build([pa.array(column) for column in columns])


def test_equal_keys_have_one_code():
    index, codes = index_of(["a", "b", "a"])
    assert len(index) == 2
    assert codes[0] == codes[2] != codes[1]


def test_parts_of_a_composite_key_do_not_run_together():
    index, codes = index_of(["1", "11"], ["11", "1"])
    assert len(index) == 2
    assert codes[0] != codes[1]
    assert index.codes([pa.array(["11", "1", "1"]), pa.array(["1", "11", "1"])]).tolist() == [
        codes[1],
        codes[0],
        UNKNOWN,
    ]


@pytest.mark.parametrize("columns", [([None, "a"],), ([None, "a"], ["x", "y"]), (["a", "a"], [None, "y"])])
def test_a_key_with_a_null_is_no_key(columns):
    index, codes = index_of(*columns)
    assert codes[0] == UNKNOWN
    assert index.codes([pa.array(column) for column in columns])[0] == UNKNOWN


def test_keys_that_were_never_asked_for_are_unknown():
    index, _ = index_of([1, 2])
    assert index.codes([pa.array([3, 2, None])]).tolist() == [UNKNOWN, 1, UNKNOWN]


def test_no_keys_know_nothing():
    index, codes = KeyIndex.build([pa.array([], pa.int64()), pa.array([], pa.string())])
    assert len(index) == 0
    assert len(codes) == 0
    assert index.codes([pa.array([1]), pa.array(["a"])]).tolist() == [UNKNOWN]


def test_three_columns_keep_their_order():
    index, codes = index_of([1, 1, 2], [1, 2, 1], [2, 1, 1])
    assert len(set(codes.tolist())) == len(index) == 3


@pytest.mark.parametrize(
    "known",
    [
        [5, 7, 5, None, 9],
        [-3, -1, 4],
        [2**63 - 1, 2**63 - 2],
        [-(2**63), -(2**63) + 3],
        [-(2**63), 0, 2**63 - 1],
        [],
        [0],
    ],
    ids=str,
)
def test_integers_are_found_whether_they_lie_together_or_far_apart(known):
    column = pa.array(known, pa.int64())
    index, codes = KeyIndex.build([column])
    asked = sorted({*(key for key in known if key is not None), -(2**63), 2**63 - 1, -4, 0, 1, 6, 8, 10})
    for form in (pa.array(asked, pa.int64()), pa.array([*asked, None], pa.int64()).slice(0, len(asked))):
        found = index.codes([form])
        places = {key: code for key, code in zip(known, codes.tolist(), strict=True) if key is not None}
        assert found.tolist() == [places.get(key, UNKNOWN) for key in asked]
    with_null = index.codes([pa.array([*asked, None], pa.int64())])
    assert with_null.tolist() == [*index.codes([pa.array(asked, pa.int64())]).tolist(), UNKNOWN]
