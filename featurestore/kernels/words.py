"""Arrow columns as 64-bit words, the form in which compiled kernels read and write values, and back.

Integers, timestamps, dates and booleans are their number, floats their bits, decimals of up to 18 digits their unscaled
number. All others are codes: their rank in a sorted dictionary, so that words sort and compare as the values do.
The word of a null is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags, Ints
from featurestore.core.dtypes import DType
from featurestore.core.temporal import to_datetime
from featurestore.core.values import list_items
from featurestore.kernels.jit import inner, jit
from featurestore.kernels.ordering import order_key
from featurestore.kernels.program import is_coded

_EPOCH_DAY = date(1970, 1, 1)


def validity(array: pa.Array) -> Flags:
    """Return, per row, whether the value is not null."""
    if array.null_count == 0:
        return np.ones(len(array), dtype=np.bool_)
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)


def to_words(array: pa.Array, dtype: DType) -> tuple[Ints, pa.Array | None]:
    """Write a column as words.

    Args:
        array: A column of the contract dtype.
        dtype: Its dtype.

    Returns:
        One word per row, 0 for nulls; and the sorted dictionary the words are codes of, ``None`` if they are values.
    """
    if is_coded(dtype):
        return _encode(array, dtype)
    if dtype.kind == "decimal":
        filled = _without_nulls(array, Decimal(0))
        halves = np.frombuffer(filled.buffers()[1], dtype=np.int64).reshape(-1, 2)
        return np.ascontiguousarray(halves[filled.offset : filled.offset + len(filled), 0]), None
    if dtype.kind == "float64":
        floats = _without_nulls(array, 0.0).to_numpy(zero_copy_only=False)
        return np.ascontiguousarray(floats, dtype=np.float64).view(np.int64), None
    if dtype.kind == "bool":
        return _without_nulls(array, False).to_numpy(zero_copy_only=False).astype(np.int64), None
    if dtype.kind == "date":
        array = array.cast(pa.int32())
    whole = _without_nulls(array.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(whole, dtype=np.int64), None


def _without_nulls(array: pa.Array, value: Any) -> pa.Array:
    return array if array.null_count == 0 else pc.fill_null(array, pa.scalar(value, type=array.type))


def _encode(array: pa.Array, dtype: DType) -> tuple[Ints, pa.Array]:
    if dtype.kind == "list":
        return _encode_lists(array, dtype)
    encoded = array.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes = _without_nulls(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    words = rank[codes] if len(order) else np.zeros(len(array), dtype=np.int64)
    if array.null_count:
        words[~validity(array)] = 0
    return words, encoded.dictionary.take(pa.array(order))


def _encode_lists(array: pa.Array, dtype: DType) -> tuple[Ints, pa.Array]:
    """Rank lists, which Arrow neither encodes nor sorts: shorter prefixes first, null items before all others."""
    assert dtype.item is not None
    offsets, items = list_items(array)
    item_words = to_words(items, dtype.item)[0].view()
    item_words.flags.writeable = False  # some belong to Arrow; the kernel is compiled for one kind of array
    missing = ~validity(items) if items.null_count else _NOTHING_MISSING
    is_float = dtype.item.kind == "float64"
    words = np.zeros(len(array), dtype=np.int64)
    firsts = _rank_lists(np.flatnonzero(validity(array)), offsets, item_words, missing, is_float, words)
    return words, array.take(pa.array(firsts))


_NOTHING_MISSING = np.zeros(0, dtype=np.bool_)


@inner
def _compare_lists(left: int, right: int, offsets: Ints, words: Ints, missing: Flags, is_float: bool) -> int:
    """Return -1, 0 or 1: whether one list comes before another, is equal to it, or comes after it.

    Args:
        left: Number of one list.
        right: Number of the other.
        offsets: Items of list ``i`` are ``words[offsets[i]:offsets[i + 1]]``.
        words: Words of the items, 0 for nulls.
        missing: Which items are null; empty if none is.
        is_float: Whether the words are the bits of floats.
    """
    left_length, right_length = offsets[left + 1] - offsets[left], offsets[right + 1] - offsets[right]
    for i in range(min(left_length, right_length)):
        at, other = offsets[left] + i, offsets[right] + i
        if missing.size and missing[at] != missing[other]:
            return -1 if missing[at] else 1
        if words[at] != words[other]:
            return -1 if order_key(words[at], is_float) < order_key(words[other], is_float) else 1
    if left_length == right_length:
        return 0
    return -1 if left_length < right_length else 1


@jit
def _rank_lists(rows: Ints, offsets: Ints, words: Ints, missing: Flags, is_float: bool, ranks: Ints) -> Ints:
    """Write the rank of each of some lists; equal lists have the same rank.

    Args:
        rows: Numbers of the lists.
        offsets: Items of list ``i`` are ``words[offsets[i]:offsets[i + 1]]``.
        words: Words of the items, 0 for nulls.
        missing: Which items are null; empty if none is.
        is_float: Whether the words are the bits of floats.
        ranks: Result, one per list.

    Returns:
        For each rank one row that has it.
    """
    ordered, merged = rows.copy(), np.empty_like(rows)
    width = 1
    while width < ordered.size:
        for begin in range(0, ordered.size, 2 * width):
            middle, end = min(begin + width, ordered.size), min(begin + 2 * width, ordered.size)
            left, right = begin, middle
            for i in range(begin, end):
                takes_left = right == end or (
                    left < middle
                    and _compare_lists(ordered[left], ordered[right], offsets, words, missing, is_float) <= 0
                )
                merged[i] = ordered[left] if takes_left else ordered[right]
                left, right = left + int(takes_left), right + int(not takes_left)
        ordered, merged = merged, ordered
        width *= 2
    firsts = np.empty_like(rows)
    count = 0
    for i in range(ordered.size):
        row = ordered[i]
        if i == 0 or _compare_lists(ordered[i - 1], row, offsets, words, missing, is_float) != 0:
            firsts[count] = row
            count += 1
        ranks[row] = count - 1
    return firsts[:count]


def from_words(words: Ints, is_valid: Flags, dtype: DType, dictionary: pa.Array | None) -> pa.Array:
    """Read words back as a column, the inverse of ``to_words``.

    Args:
        words: One word per row.
        is_valid: Per row, whether there is a value; other rows become null whatever their word is.
        dtype: What the words mean.
        dictionary: The values that words are codes of, for dtypes that are coded.

    Returns:
        A column of the dtype.
    """
    missing = ~is_valid
    has_nulls = bool(missing.any())
    if is_coded(dtype):
        assert dictionary is not None
        codes = pa.array(words, type=pa.int64(), mask=missing if has_nulls else None)
        return dictionary.take(codes)
    if dtype.kind == "decimal":
        return _wide(words, words >> np.int64(63), is_valid, dtype)
    numbers: npt.NDArray[Any] = np.ascontiguousarray(words)
    if dtype.kind == "float64":
        numbers = numbers.view(np.float64)
    elif dtype.kind == "bool":
        numbers = numbers != 0
    elif dtype.kind == "date":
        numbers = numbers.astype(np.int32)
    elif dtype.kind == "timestamp":
        numbers = numbers.view("datetime64[us]")
    if has_nulls:
        numbers = np.where(missing, np.zeros(1, dtype=numbers.dtype), numbers)
    return pa.array(numbers, type=dtype.arrow, mask=missing if has_nulls else None)


def _wide(low: Ints, high: Ints, is_valid: Flags, dtype: DType) -> pa.Array:
    halves = np.zeros((len(low), 2), dtype=np.int64)
    halves[is_valid, 0] = low[is_valid]
    halves[is_valid, 1] = high[is_valid]
    bitmap = pa.py_buffer(np.packbits(is_valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(dtype.arrow, len(low), [bitmap, pa.py_buffer(halves.tobytes())])


def from_wide_words(low: Ints, high: Ints, is_valid: Flags, dtype: DType) -> pa.Array:
    """Read pairs of words, low and signed high halves of 128-bit unscaled numbers, as decimals."""
    return _wide(low, high, is_valid, dtype)


def reader_of(dtype: DType) -> Callable[[int, Sequence[Any] | None], Any]:
    """Return a function of (word, dictionary) that returns the Python value of a word."""
    if is_coded(dtype):
        return _read_code
    return {
        "bool": _read_bool,
        "timestamp": _read_timestamp,
        "date": _read_date,
        "decimal": lambda word, _: Decimal(word).scaleb(-dtype.scale),
        "float64": _read_float,
    }.get(dtype.kind, _read_int)


def _read_code(word: int, dictionary: Sequence[Any] | None) -> Any:
    assert dictionary is not None
    return dictionary[word]


def _read_bool(word: int, _: Sequence[Any] | None) -> bool:
    return word != 0


def _read_int(word: int, _: Sequence[Any] | None) -> int:
    return word


def _read_float(word: int, _: Sequence[Any] | None) -> float:
    return float(np.int64(word).view(np.float64))


def _read_timestamp(word: int, _: Sequence[Any] | None) -> Any:
    return to_datetime(word)


def _read_date(word: int, _: Sequence[Any] | None) -> date:
    return _EPOCH_DAY + timedelta(days=word)
