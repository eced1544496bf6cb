"""Arrow columns as 64-bit words and back: how values travel through the compiled loops.

Integers, timestamps, dates and booleans are their number, floats their bits, decimals of up to 18 digits their unscaled
number. Everything else is a code: its rank in a sorted dictionary, so that words order and compare as the values do.
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

from featurestore.dtypes import DType
from featurestore.kernels.program import is_coded
from featurestore.temporal import to_datetime

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

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
        return _encode_lists(array)
    encoded = array.dictionary_encode()
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    codes = _without_nulls(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    words = rank[codes] if len(order) else np.zeros(len(array), dtype=np.int64)
    if array.null_count:
        words[~validity(array)] = 0
    return words, encoded.dictionary.take(pa.array(order))


def _encode_lists(array: pa.Array) -> tuple[Ints, pa.Array]:
    """Arrow neither encodes nor sorts lists, so Python does: shorter prefixes first, null items before all others."""
    rows = [None if row is None else tuple(row) for row in array.to_pylist()]
    known = sorted({row for row in rows if row is not None}, key=_list_key)
    code_of = {row: code for code, row in enumerate(known)}
    words = np.array([0 if row is None else code_of[row] for row in rows], dtype=np.int64)
    return words, pa.array([list(row) for row in known], type=array.type)


def _list_key(row: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    return tuple((item is not None, _list_key(tuple(item)) if isinstance(item, list) else item) for item in row)


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
        return dictionary.take(codes).cast(dtype.arrow)
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
    """Return a function of (word, dictionary) that gives the Python value of a word that is not a float's."""
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
