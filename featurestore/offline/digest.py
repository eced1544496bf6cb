"""The content digest: one hash of a table's names, types and values in row order, the same on every machine.

A table is cut into blocks of a fixed number of rows, each column of each block is hashed by itself, and the hashes are
hashed in order. So the digest depends neither on threads nor on how rows are chunked, batched or spread over files,
and columns are hashed in parallel. Types that a Parquet file does not keep apart count as one (dictionaries as their
values, the kinds of string as string, seconds as milliseconds). Bytes behind a null are ignored.
"""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags

BLOCK_ROWS = 1 << 17
"""Rows hashed at a time. A part of the definition of the digest: a different number results in different digests."""

_VERSION = b"featurestore content 1"
_HAS_NULLS, _NO_NULLS = b"\x01", b"\x00"
_IS_LITTLE_ENDIAN = sys.byteorder == "little"


def content_digest(table: pa.Table, *, threads: int = 2) -> str:
    """Return the digest of a table, in hexadecimal."""
    digest = ContentDigest(table.schema, threads=threads)
    digest.update(table)
    return digest.finish()


class ContentDigest:
    """The digest of a table that comes in pieces."""

    def __init__(self, schema: pa.Schema, *, threads: int = 2) -> None:
        self._schema = schema
        self._threads = threads
        self._columns = [hashlib.sha256(_head(field)) for field in schema]
        self._waiting = schema.empty_table()
        self._row_count = 0

    def update(self, table: pa.Table) -> None:
        """Append rows of the schema."""
        self._row_count += table.num_rows
        # Arrow cannot cast every slice of every type, even to what it is.
        table = table if table.schema.equals(self._schema) else table.cast(self._schema)
        waiting = pa.concat_tables([self._waiting, table]) if self._waiting.num_rows else table
        whole = waiting.num_rows // BLOCK_ROWS * BLOCK_ROWS
        self._hash(waiting.slice(0, whole))
        self._waiting = waiting.slice(whole)

    def finish(self) -> str:
        """Return the digest of all rows so far; nothing can be added after."""
        self._hash(self._waiting)
        digest = hashlib.sha256(_VERSION + self._row_count.to_bytes(8, "little"))
        for column in self._columns:
            digest.update(column.digest())
        return digest.hexdigest()

    def _hash(self, table: pa.Table) -> None:
        starts = range(0, table.num_rows, BLOCK_ROWS)
        tasks = [(i, start) for start in starts for i in range(table.num_columns)]

        def run(task: tuple[int, int]) -> bytes:
            return _block_digest(table.column(task[0]).slice(task[1], BLOCK_ROWS))

        with ThreadPoolExecutor(self._threads) as pool:
            for (i, _), block in zip(tasks, pool.map(run, tasks), strict=True):
                self._columns[i].update(block)


def _head(field: pa.Field) -> bytes:
    name, kind = str(field.name).encode(), str(_canonical_type(field.type)).encode()
    return len(name).to_bytes(4, "little") + name + len(kind).to_bytes(4, "little") + kind


def _block_digest(column: pa.ChunkedArray) -> bytes:
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    hasher = hashlib.sha256()
    _feed(hasher, array)
    return bytes(hasher.digest())


def _canonical_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that represents all types with the same values."""
    if isinstance(kind, pa.BaseExtensionType):
        return _canonical_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _canonical_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", tz=kind.tz)
    if pa.types.is_time32(kind):
        return pa.time32("ms")
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_map(kind):
        return pa.map_(_canonical_type(kind.key_type), _canonical_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _canonical_type(field.type)) for field in kind])
    if _is_list(kind):
        return pa.list_(_canonical_type(kind.value_type))
    return kind


def _is_list(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _feed(hasher: hashlib._Hash, array: pa.Array) -> None:
    """Hash validity and values of an array; nested ones level by level."""
    array = _canonical(array)
    kind = array.type
    valid: Flags | None = None
    if array.null_count:
        valid = np.asarray(pc.is_valid(array).to_numpy(zero_copy_only=False))
        hasher.update(_HAS_NULLS + np.packbits(valid).tobytes())
    else:
        hasher.update(_NO_NULLS)
    if pa.types.is_null(kind):
        return
    if pa.types.is_boolean(kind):
        values = array.fill_null(False) if array.null_count else array
        hasher.update(np.packbits(values.to_numpy(zero_copy_only=False)).data)
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            _feed(hasher, child)
    elif _is_list(kind):
        _feed_lengths(hasher, pc.list_value_length(array))
        _feed(hasher, array.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _feed_text(hasher, array.fill_null("") if array.null_count else array)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        _feed_text(hasher, array.fill_null(b"") if array.null_count else array)
    else:
        _feed_fixed(hasher, array, valid)


def _canonical(array: pa.Array) -> pa.Array:
    """Return an array of a type whose buffers are known here."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _canonical(array.dictionary).take(array.indices)
    if pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_map(kind):
        entry = [pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)]
        return array.cast(pa.list_(pa.struct(entry)))
    if pa.types.is_timestamp(kind) or pa.types.is_time32(kind) or pa.types.is_date64(kind):
        return array.cast(_canonical_type(kind))
    return array


def _feed_lengths(hasher: hashlib._Hash, lengths: pa.Array) -> None:
    if lengths.null_count:
        lengths = lengths.fill_null(0)
    hasher.update(np.ascontiguousarray(lengths.to_numpy(zero_copy_only=False), dtype="<i8").data)


def _feed_text(hasher: hashlib._Hash, array: pa.Array) -> None:
    is_large = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    _, offsets_buffer, data = array.buffers()
    if len(array) == 0 or offsets_buffer is None:
        return
    width = np.dtype(np.int64 if is_large else np.int32)
    offsets = np.frombuffer(offsets_buffer, width, len(array) + 1, array.offset * width.itemsize)
    hasher.update(np.ascontiguousarray(np.diff(offsets), dtype="<i8").data)
    if data is not None:
        hasher.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _feed_fixed(hasher: hashlib._Hash, array: pa.Array, valid: Flags | None) -> None:
    """Hash values of a fixed width, zero where there is none."""
    assert _IS_LITTLE_ENDIAN, "Arrow data is hashed as it is in memory, which must be little-endian"
    width = array.type.bit_width // 8
    buffer = array.buffers()[1]
    if len(array) == 0 or buffer is None:
        return
    raw = np.frombuffer(buffer, np.uint8, len(array) * width, array.offset * width)
    if valid is not None:
        words = raw.view(np.int64 if width == 8 else np.dtype((np.void, width)))
        copied = words.copy()
        copied[~valid] = np.zeros(1, copied.dtype)[0]
        raw = copied.view(np.uint8)
    hasher.update(raw.data)
