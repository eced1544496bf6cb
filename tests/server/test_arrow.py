"""Arrow streams that unpack to more than they look like."""

import tracemalloc
from contextlib import suppress

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.server.arrow import read_stream
from featurestore.server.problems import RefusedError

MOST_ROWS, MOST_BYTES, MOST_COLUMNS = 1_000, 100_000, 50


def stream(*tables, compression=None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, tables[0].schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def read(body):
    return read_stream(body, max_rows=MOST_ROWS, max_bytes=MOST_BYTES, max_columns=MOST_COLUMNS)


def refusal(body) -> tuple[int, str]:
    with pytest.raises(RefusedError) as raised:
        read(body)
    return raised.value.status, raised.value.code


TEXTS = pa.array(["x" * 1_000, "y"])
LARGE = {
    "many rows": stream(pa.table({"x": pa.array([1] * (MOST_ROWS + 1), pa.int8())})),
    "many rows of nothing": stream(pa.table({"x": pa.nulls(10**9)})),
    "many batches": stream(*[pa.table({"x": [1] * 10})] * 101),
    "compressed": stream(pa.table({"x": pa.array(["a" * 1_000_000])}), compression="zstd"),
    "compressed with lz4": stream(pa.table({"x": pa.array([bytes(1_000)] * 900)}), compression="lz4"),
    "compressed dictionary": stream(
        pa.table({"x": pa.array(["a" * 1_000_000]).dictionary_encode()}), compression="zstd"
    ),
    "one text in many rows": stream(
        pa.table({"x": pa.DictionaryArray.from_arrays(pa.array([0] * 900, pa.int8()), TEXTS)})
    ),
    "one list item in many rows": stream(
        pa.table(
            {"x": pa.ListViewArray.from_arrays(pa.array([0] * 900, pa.int32()), pa.array([2] * 900, pa.int32()), TEXTS)}
        )
    ),
}


@pytest.mark.parametrize("body", list(LARGE.values()), ids=list(LARGE))
def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(body):
    """Found in a review: some kilobytes took gigabytes and minutes."""
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    assert refusal(body) == (413, "too-large")
    assert pa.total_allocated_bytes() - before < 2 * MOST_BYTES
    assert tracemalloc.get_traced_memory()[1] < 10 * len(body) + 1_000_000
    tracemalloc.stop()


def test_views_of_one_text_count_each_for_itself():
    _, view, letters = pa.array(["x" * 1_000], pa.string_view()).buffers()
    views = pa.py_buffer(view.to_pybytes()[:16] * 900)
    column = pa.Array.from_buffers(pa.string_view(), 900, [None, views, letters])
    assert refusal(stream(pa.table({"x": column}))) == (413, "too-large")


def test_a_type_that_no_dtype_is_for_is_refused():
    encoded = pa.RunEndEncodedArray.from_arrays(pa.array([900], pa.int32()), pa.array([1]))
    for column in (encoded, pa.array([{"a": 1}])):
        assert refusal(stream(pa.table({"x": column}))) == (422, "wrong-type")


SOUND = {
    "text": pa.array(["a", None, "bcd"]),
    "view": pa.array(["a", None, "a text that is longer than a view"], pa.string_view()),
    "binary": pa.array([b"a", None, b"bcd"], pa.large_binary()),
    "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
    "numbers": pa.array([1, None, 3]).dictionary_encode(),
    "list": pa.array([["a"], None, ["b", "c"]]),
    "lists": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
    "list view": pa.array([[1], None, [2, 3]], pa.list_view(pa.int64())),
    "decimal": pa.array([1, None, 3]).cast(pa.decimal128(21, 2)),
    "flags": pa.array([True, None, False]),
    "nothing": pa.nulls(3),
}


@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_sound_streams_are_read_as_they_are(compression):
    table = pa.table(SOUND)
    assert read(stream(table, compression=compression)).equals(table)
    assert read(stream(table.slice(1), table, compression=compression)).equals(
        pa.concat_tables([table.slice(1), table])
    )


def test_a_stream_of_polars_is_read():
    frame = pl.DataFrame({"x": ["a", "a text that is longer than a view"] * 100, "y": range(200)})
    assert read(stream(pa.table(frame))).num_rows == 200


@given(st.data())
def test_whatever_bytes_come_they_are_read_or_refused(data):
    whole = bytearray(stream(pa.table(SOUND), compression=data.draw(st.sampled_from([None, "zstd"]))))
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    with suppress(RefusedError):
        read(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


def nested(depth: int) -> pa.Array:
    values = pa.array([1], pa.int64())
    for _ in range(depth):
        values = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), values)
    return values


def wide(count: int) -> pa.Table:
    return pa.table({f"c{i}": pa.array([], pa.int8()) for i in range(count)})


STRUCT = pa.struct([(f"f{i}", pa.int8()) for i in range(MOST_COLUMNS)])


@pytest.mark.parametrize(
    "table",
    [
        wide(MOST_COLUMNS + 1),
        wide(20_000),
        pa.Table.from_arrays([pa.array(["a"])] * 20_000, names=["x"] * 20_000),
        pa.table({"x": pa.array([], STRUCT)}),
        pa.table({"x": pa.array([], pa.list_(STRUCT)), "y": pa.array([], pa.int8())}),
    ],
    ids=["one too many", "very many", "one name", "inside one", "inside a list"],
)
def test_more_columns_than_there_may_be_are_refused_before_they_are_looked_at(table, monkeypatch):
    """Found in a hunt: columns without rows kept threads at work for minutes after the answer."""
    monkeypatch.setattr(pa.ipc, "open_stream", None)
    assert refusal(stream(table)) == (413, "too-large")


def test_as_many_columns_as_there_may_be_are_read():
    assert read(stream(wide(MOST_COLUMNS))).num_columns == MOST_COLUMNS


@pytest.mark.parametrize("depth", [9, 40, 60])
def test_columns_nested_deeper_than_any_dtype_are_refused(depth, monkeypatch):
    monkeypatch.setattr(pa.ipc, "open_stream", None)
    assert refusal(stream(pa.table({"x": nested(depth)})))[0] in (400, 413, 422)


@pytest.mark.parametrize(
    "kind",
    [pa.int64(), pa.string(), pa.struct([("xname", pa.int8())]), pa.list_(pa.field("xname", pa.int8()))],
    ids=str,
)
def test_names_that_are_no_text_are_refused(kind):
    """Found in a hunt: they were the server's failure (500)."""
    sound = stream(pa.table({"xname": pa.array([], kind)}))
    assert refusal(sound.replace(b"xname", b"\xff\xfeabc")) == (400, "malformed-arrow")


@pytest.mark.parametrize("kind", [pa.timestamp("us", "Zone/Name"), pa.list_(pa.timestamp("us", "Zone/Name"))], ids=str)
def test_time_zones_that_are_no_text_are_refused(kind):
    """Arrow decodes the name of a zone only when it is asked for; that was the server's failure (500)."""
    sound = stream(pa.table({"at": pa.array([], kind)}))
    assert sound.count(b"Zone/Name") == 1
    assert refusal(sound.replace(b"Zone/Name", b"\xc0one/Name")) == (400, "malformed-arrow")


def test_more_batches_than_there_may_be_are_refused():
    empty = pa.RecordBatch.from_pydict({"x": pa.array([], pa.int8())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, empty.schema) as writer:
        for _ in range(2_001):
            writer.write_batch(empty)
    assert refusal(sink.getvalue().to_pybytes()) == (413, "too-large")


def test_a_column_whose_name_is_not_utf_8_is_refused():
    body = stream(pa.table({"amount": [1]}))
    assert body.count(b"amount") == 1
    assert refusal(body.replace(b"amount", b"am\xff\xfent")) == (400, "malformed-arrow")


@pytest.mark.parametrize("item", [[[1], [2, 3]], [None, []]])
def test_lists_in_views_of_lists_are_measured_and_read(item):
    views = pa.array([item, None, []], pa.list_view(pa.list_(pa.int64())))
    assert read(stream(pa.table({"x": views}))).column("x").to_pylist() == [item, None, []]
    shared = pa.ListViewArray.from_arrays(
        pa.array([0] * 900, pa.int32()), pa.array([1] * 900, pa.int32()), pa.array([list(range(100))])
    )
    assert refusal(stream(pa.table({"x": shared}))) == (413, "too-large")
