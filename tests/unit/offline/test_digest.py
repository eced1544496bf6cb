"""The content digest: the same for the same content, however it lies in memory; another for any other content."""

import datetime
import random
from decimal import Decimal
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.offline.digest import BLOCK_ROWS, ContentDigest, content_digest
from tests.budget import examples


def table(rows=1_000):
    chance = random.Random(3)
    return pa.table(
        {
            "whole": pa.array([chance.choice((None, 1, -5)) for _ in range(rows)], pa.int64()),
            "number": pa.array([chance.choice((None, 0.5, 1e300)) for _ in range(rows)], pa.float64()),
            "text": pa.array([chance.choice((None, "", "a", "ä")) for _ in range(rows)]),
            "flag": pa.array([chance.choice((None, True, False)) for _ in range(rows)]),
            "at": pa.array([chance.choice((None, 7)) for _ in range(rows)], pa.timestamp("us", "UTC")),
            "money": pa.array([chance.choice((None, Decimal("1.25"))) for _ in range(rows)], pa.decimal128(30, 2)),
            "tags": pa.array([chance.choice((None, [], ["x", None])) for _ in range(rows)]),
            "point": pa.array([chance.choice((None, {"x": 1, "y": None})) for _ in range(rows)]),
        }
    )


WHOLE = table()
DIGEST = content_digest(WHOLE)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_matter(threads):
    assert content_digest(WHOLE, threads=threads) == DIGEST


@pytest.mark.parametrize("rows", [1, 7, 999])
def test_chunks_do_not_matter(rows):
    assert content_digest(pa.Table.from_batches(WHOLE.to_batches(max_chunksize=rows))) == DIGEST


@given(st.lists(st.integers(0, 1_000), max_size=4))
@examples(20)
def test_it_does_not_matter_in_which_pieces_rows_come(cuts):
    digest = ContentDigest(WHOLE.schema)
    edges = sorted({0, 1_000, *cuts})
    for begin, end in pairwise(edges):
        digest.update(WHOLE.slice(begin, end - begin))
    assert digest.finish() == DIGEST


def test_pieces_may_cross_the_blocks_that_are_hashed_at_a_time():
    numbers = pa.table({"number": pa.array(range(2 * BLOCK_ROWS + 3))})
    digest = ContentDigest(numbers.schema)
    for begin, length in ((0, 5), (5, BLOCK_ROWS), (BLOCK_ROWS + 5, BLOCK_ROWS - 2)):
        digest.update(numbers.slice(begin, length))
    assert digest.finish() == content_digest(numbers)


def test_a_parquet_file_gives_the_digest_of_the_table_it_was_written_from(tmp_path):
    pq.write_table(WHOLE, tmp_path / "table.parquet", row_group_size=100)
    assert content_digest(pq.read_table(tmp_path / "table.parquet")) == DIGEST


SAME = {
    "dictionary": (pa.array(["a", None, "b"]), pa.array(["a", None, "b"]).dictionary_encode()),
    "large string": (pa.array(["a", None, "b"]), pa.array(["a", None, "b"], pa.large_string())),
    "string view": (pa.array(["a", None, "b"]), pa.array(["a", None, "b"], pa.string_view())),
    "binary view": (pa.array([b"a", None]), pa.array([b"a", None], pa.binary_view())),
    "seconds": (pa.array([1_000, None], pa.timestamp("ms")), pa.array([1, None], pa.timestamp("s"))),
    "large list": (pa.array([[1], None]), pa.array([[1], None], pa.large_list(pa.int64()))),
    "days as milliseconds": (pa.array([datetime.date(2024, 5, 1)]), pa.array([datetime.date(2024, 5, 1)], pa.date64())),
    "times of day": (pa.array([1_000], pa.time32("ms")), pa.array([1], pa.time32("s"))),
    "a slice": (pa.array(["b", "c"]), pa.array(["a", "b", "c"]).slice(1)),
    "a map": (
        pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        pa.array([[("x", 0)], [("a", 1)], None], pa.map_(pa.string(), pa.int64())).slice(1),
    ),
    "what lies behind a null": (
        pa.array([1, None], pa.int64()),
        pa.Array.from_buffers(
            pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer((1).to_bytes(8, "little") + (9).to_bytes(8, "little"))]
        ),
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_what_holds_the_same_values_has_one_digest(name):
    left, right = SAME[name]
    assert content_digest(pa.table({"x": left})) == content_digest(pa.table({"x": right}))


OTHER = {
    "a value": pa.table({"x": [1, 2, 4]}),
    "the order of rows": pa.table({"x": [1, 3, 2]}),
    "a null": pa.table({"x": pa.array([1, 2, None])}),
    "a null in place of zero": pa.table({"x": pa.array([0, 2, 3])}),
    "one row more": pa.table({"x": [1, 2, 3, 3]}),
    "the name": pa.table({"y": [1, 2, 3]}),
    "the type": pa.table({"x": [1.0, 2.0, 3.0]}),
    "the width": pa.table({"x": pa.array([1, 2, 3], pa.int32())}),
    "one column more": pa.table({"x": [1, 2, 3], "y": [1, 2, 3]}),
    "no rows": pa.table({"x": pa.array([], pa.int64())}),
}


def test_every_difference_gives_another_digest():
    found = {name: content_digest(other) for name, other in OTHER.items()}
    found["nothing"] = content_digest(pa.table({"x": [1, 2, 3]}))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (["ab", "c"], ["a", "bc"]),
        ([["a"], ["b"]], [["a", "b"], []]),
        ([None, ""], ["", None]),
        ([[None], []], [[], [None]]),
        ([{"x": 1, "y": 0}], [{"x": 0, "y": 1}]),
        ([True, None], [True, False]),
    ],
)
def test_values_do_not_run_together(left, right):
    kind = pa.array(left).type
    assert content_digest(pa.table({"x": left})) != content_digest(pa.table({"x": pa.array(right, kind)}))


def test_names_of_columns_do_not_run_together():
    one = pa.table({"ab": pa.array([], pa.int64()), "c": pa.array([], pa.int64())})
    assert content_digest(one) != content_digest(one.rename_columns(["a", "bc"]))


def test_the_digest_of_this_table_is_the_same_on_every_machine():
    """A change here makes every training set that was ever built look changed: raise the version in the digest."""
    table = pa.table({"x": pa.array([1, None, 3]), "y": ["a", "", None], "z": [0.5, -1.0, None]})
    assert content_digest(table) == "b9c035d29aaf835c81ebd52b920d893f19bebb3ad0f8c17edb863ccd67ed532e"
