"""Random values of random dtypes, and the same values in random layouts of Arrow."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any

import pyarrow as pa

from featurestore.core.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)

DECIMAL = DType("decimal", precision=10, scale=2)
WIDE_DECIMAL = DType("decimal", precision=30, scale=3)
LEAVES = (BOOL, INT64, FLOAT64, STRING, TIMESTAMP, DATE, DType("binary"), DECIMAL, WIDE_DECIMAL)
_START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_TYPES: dict[str, list[pa.DataType]] = {
    "bool": [pa.bool_()],
    "int64": [pa.int8(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()],
    "float64": [pa.float16(), pa.float32(), pa.float64()],
    "string": [pa.string(), pa.large_string(), pa.string_view()],
    "timestamp": [pa.timestamp(unit, tz=zone) for unit in ("s", "ms", "us", "ns") for zone in ("UTC", "Asia/Tokyo")],
    "date": [pa.date32(), pa.date64()],
    "binary": [pa.binary(), pa.large_binary(), pa.binary_view()],
}


def random_list_dtype(random: Random, depth: int = 3) -> DType:
    """Return lists of something, perhaps of lists."""
    deeper = depth > 1 and random.random() < 0.4
    return list_of(random_list_dtype(random, depth - 1) if deeper else random.choice(LEAVES))


def random_value(random: Random, dtype: DType, nulls: float = 0.2) -> Any:
    """Return a value of a dtype, or ``None``; equal ones are frequent."""
    if random.random() < nulls:
        return None
    if dtype.item is not None:
        return [random_value(random, dtype.item, nulls) for _ in range(random.choice([0, 1, 2, 2, 5]))]
    number = random.randrange(6)
    return {
        "bool": number > 2,
        "int64": number,
        "float64": number / 2,
        "string": "añ" * number,
        "timestamp": _START + dt.timedelta(seconds=number),
        "date": dt.date(2026, 1, 1 + number),
        "binary": bytes(range(number)),
        "decimal": Decimal(number).scaleb(-dtype.scale),
    }[dtype.kind]


def laid_out(random: Random, dtype: DType, values: list[Any]) -> pa.Array:
    """Return an array of some values in a random layout, perhaps a slice of a longer one."""
    before = [random_value(random, dtype) for _ in range(random.choice([0, 0, 3]))]
    after = [random_value(random, dtype) for _ in range(random.choice([0, 0, 2]))]
    every = [*before, *values, *after]
    if random.random() < 0.15:
        known = sorted({repr(value): value for value in every if value is not None}.items())
        places = {text: place for place, (text, _) in enumerate(known)}
        codes = [None if value is None else places[repr(value)] for value in every]
        whole = pa.DictionaryArray.from_arrays(
            pa.array(codes, pa.int32()), laid_out(random, dtype, [value for _, value in known])
        )
    else:
        whole = _lists(random, dtype, every) if dtype.item is not None else _leaves(random, dtype, every)
    return whole.slice(len(before), len(values))


def _leaves(random: Random, dtype: DType, values: list[Any]) -> pa.Array:
    if dtype.kind == "decimal":
        wide = random.choice([pa.decimal128, pa.decimal256])
        return pa.array(values, wide(dtype.precision, dtype.scale))
    return pa.array(values, random.choice(_TYPES[dtype.kind]))


def _lists(random: Random, dtype: DType, values: list[Any]) -> pa.Array:
    assert dtype.item is not None
    lengths = {len(value) for value in values if value is not None}
    layouts = [
        "list",
        "large_list",
        "list_view",
        "large_list_view",
        *["fixed"] * 3 * (len(lengths) == 1 and lengths != {0}),
    ]
    layout = random.choice(layouts)
    missing = pa.array([value is None for value in values], pa.bool_())
    if layout == "fixed":
        (length,) = lengths
        filled = [[random_value(random, dtype.item)] * length if value is None else value for value in values]
        items = laid_out(random, dtype.item, [item for value in filled for item in value])
        return pa.FixedSizeListArray.from_arrays(items, length, mask=missing)
    is_view = layout.endswith("view")
    order = list(range(len(values)))
    if is_view:
        random.shuffle(order)
    every, starts, sizes = [], [0] * len(values), [0] * len(values)
    for row in order:
        own = values[row]
        # What lies under a null, and between lists, is nothing of theirs; but lists follow each other.
        if own is None or (is_view and random.random() < 0.3):
            noise = [random_value(random, dtype.item) for _ in range(random.randrange(3))]
            if own is None:
                own = noise
            else:
                every += noise
        starts[row], sizes[row] = len(every), len(own)
        every += own
    if is_view:
        same = {repr(value): row for row, value in enumerate(values)}
        starts = [starts[same[repr(value)]] if value else starts[row] for row, value in enumerate(values)]
    items = laid_out(random, dtype.item, every)
    large = layout.startswith("large")
    offsets = pa.array(starts if is_view else [*starts, len(every)], pa.int64() if large else pa.int32())
    if is_view:
        maker = pa.LargeListViewArray if large else pa.ListViewArray
        return maker.from_arrays(offsets, pa.array(sizes, offsets.type), items, mask=missing)
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(offsets, items, mask=missing)


def in_chunks(random: Random, dtype: DType, values: list[Any]) -> pa.ChunkedArray:
    """Return values as one type in one or several chunks."""
    array = laid_out(random, dtype, values)
    cuts = sorted({0, len(array), *(random.randrange(len(array) + 1) for _ in range(random.randrange(3)))})
    chunks = [array.slice(begin, end - begin) for begin, end in pairwise(cuts)]
    return pa.chunked_array(chunks, type=array.type)
