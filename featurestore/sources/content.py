"""One number for the content of some events, independent of their order and pieces: the sum of a hash of each row.

Sums add up: the content of what was read before plus that of what was read now is the content of both. So it can be
kept up to date while events are folded, and compared later, to find out whether a source still has the same content.
It does not defend against forgery, but accidental changes and rewrites change it with near certainty.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Flags, Words
from featurestore.core.values import list_items, one_chunk
from featurestore.kernels.jit import jit

_MASK = (1 << 64) - 1
_NULL = np.uint64(0x9AE16A3B2F90404F)
_SEED = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0x100000001B3)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


_NOTHING_MISSING = np.zeros(0, dtype=np.bool_)


def content_of(batches: Iterable[pa.Table | pa.RecordBatch]) -> int:
    """Return the content of events, an unsigned 64-bit number.

    Args:
        batches: The events in contract dtypes; the order of columns does not count, their names do.
    """
    total = 0
    for batch in batches:
        if batch.num_rows:
            total += int(row_hashes(batch).sum(dtype=np.uint64))
    return total & _MASK


def row_hashes(batch: pa.Table | pa.RecordBatch) -> Words:
    """Return a 64-bit hash of each row; rows with equal content have the same one, in every source."""
    rows = np.full(batch.num_rows, _SEED)
    for name in sorted(batch.schema.names):
        _add_column(rows, name, batch.column(name))
    return rows


def joined(*contents: int) -> int:
    """Return the content of several sets of events together."""
    return sum(contents) & _MASK


def content_text(content: int) -> str:
    """Return the stored form of a content."""
    return f"{content:016x}"


def _add_column(rows: Words, name: str, column: Any) -> None:
    array = one_chunk(column)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    salt = np.uint64(int.from_bytes(name.encode()[:8].ljust(8, b"\0"), "little"))
    words, missing = _hashed(array)
    _add_words(rows, words, missing, salt)


def _hashed(array: pa.Array) -> tuple[Words, Flags]:
    """Return a word for each value, any for nulls, and which are null; the latter empty if none is.

    A number is its own word, bytes are hashed, and a list is hashed from the words of its items.
    """
    missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else _NOTHING_MISSING
    words = _words(array) if len(array) else np.zeros(0, dtype=np.uint64)
    if words is None:
        words = np.empty(len(array), dtype=np.uint64)
        if pa.types.is_list(array.type):
            offsets, items = list_items(array)
            _hash_lists(offsets, *_hashed(items), words)
        else:
            plain = _bytes_of(array)
            _, ends, data = plain.buffers()
            offsets = np.frombuffer(ends, dtype=np.int64)[plain.offset : plain.offset + len(plain) + 1]
            content = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
            _hash_bytes(offsets, content, words)
    words = words.view()
    words.flags.writeable = False  # some are Arrow's own: one kind of array is compiled once
    return words, missing


def _words(array: pa.Array) -> Words | None:
    """Return the values as 64-bit words, any for nulls; ``None`` for types of other widths."""
    kind = array.type
    if pa.types.is_float64(kind):
        return np.frombuffer(array.buffers()[1], dtype=np.uint64)[array.offset : array.offset + len(array)]
    if pa.types.is_boolean(kind):
        values = array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.int64)
    elif pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
        values = array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    elif pa.types.is_date32(kind):
        values = array.cast(pa.int32()).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    else:
        return None
    return np.ascontiguousarray(values).view(np.uint64)


def _bytes_of(array: pa.Array) -> pa.Array:
    """Return the values as bytes that determine them."""
    if pa.types.is_decimal(array.type):
        return array.cast(pa.string()).cast(_BYTES)
    return array.cast(_BYTES)


_BYTES = pa.large_binary()


@jit
def _mixed(value: Any) -> Any:
    """Spread a 64-bit number over all bits.

    Source:
        The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
    """
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


@jit
def _add_words(rows: Any, words: Any, missing: Any, salt: Any) -> None:
    for i in range(rows.size):
        word = _NULL if missing.size and missing[i] else words[i]
        rows[i] = _mixed(rows[i] ^ _mixed(word + salt))


@jit
def _hash_bytes(offsets: Any, data: Any, words: Any) -> None:
    """Hash byte strings by FNV-1a with 64 bits."""
    for i in range(words.size):
        value = _SEED
        for j in range(offsets[i], offsets[i + 1]):
            value = (value ^ np.uint64(data[j])) * _PRIME
        words[i] = value


@jit
def _hash_lists(offsets: Any, items: Any, missing: Any, words: Any) -> None:
    """Hash lists from their lengths and the words of their items, in order."""
    for i in range(words.size):
        value = _SEED ^ np.uint64(offsets[i + 1] - offsets[i])
        for j in range(offsets[i], offsets[i + 1]):
            word = _NULL if missing.size and missing[j] else items[j]
            value = _mixed(value ^ _mixed(word + _SEED))
        words[i] = value
