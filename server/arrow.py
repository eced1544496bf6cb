"""Reading untrusted Arrow IPC streams within limits.

A few bytes can stand for gigabytes: compressed buffers, columns of one value, dictionaries and views in which many rows
refer to the same text. Therefore the declared sizes of all messages are added up before anything is unpacked, and the
sizes of all values before rows are read one by one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from featurestore.server.problems import RefusedError, too_large

_RECORD_BATCH = 3
_DICTIONARY_BATCH = 2
_NOT_COMPRESSED = -1
_FIELDS_OF_SCHEMA = 1
_CHILDREN_OF_FIELD = 5
_MAX_DEPTH = 8
_MAX_BATCHES = 2_000


def read_stream(body: bytes, *, max_rows: int, max_bytes: int, max_columns: int) -> pa.Table:
    """Read a stream.

    Args:
        body: The stream.
        max_rows: Most rows.
        max_bytes: Most bytes of the rows when they are unpacked, values that rows share counted once per row.
        max_columns: Most columns, nested columns included.

    Raises:
        RefusedError: The stream exceeds a limit (413), is nested deeper than any dtype or has a type without a dtype
            (422), or is malformed (400).
    """
    try:
        _check_declared(body, max_rows=max_rows, max_bytes=max_bytes, max_columns=max_columns)
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
        for field in table.schema:
            _check_names(field)
        table = table.combine_chunks()  # a batch of one row costs as much as one of thousands
        if sum(_size(column, name) for name, column in zip(table.column_names, table.columns, strict=True)) > max_bytes:
            raise _too_much(max_bytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error, IndexError) as error:
        detail = f"The body is not an Arrow IPC stream: {error}."
        raise RefusedError(HTTPStatus.BAD_REQUEST, detail, "malformed-arrow") from None
    return table


def _check_names(field: pa.Field) -> None:
    """Check that the names in a column's type are text: Arrow decodes them only when they are read.

    Raises:
        UnicodeDecodeError: The name of a field or of a time zone is not UTF-8.
    """
    kind = field.type
    texts = [field.name, kind.tz if pa.types.is_timestamp(kind) else ""]
    assert all(text is None or isinstance(text, str) for text in texts)
    if pa.types.is_dictionary(kind):
        _check_names(pa.field("", kind.value_type))
    for index in range(kind.num_fields):
        _check_names(kind.field(index))


def _check_declared(body: bytes, *, max_rows: int, max_bytes: int, max_columns: int) -> None:
    """Check what the messages of a stream declare, before anything is unpacked.

    Raises:
        RefusedError: They declare more than the limits (413), or are nested too deeply (422).
    """
    rows = size = batches = 0
    for message in _messages(body):
        if message.type == "schema":
            _check_columns(_Table.root(memoryview(message.metadata)).table(2), max_columns)
        if message.type not in ("record batch", "dictionary"):
            continue
        batches += 1
        if batches > _MAX_BATCHES:
            raise too_large(f"The events come in more than {_MAX_BATCHES} batches. Combine them into fewer.")
        batch = _Batch.of(message)
        rows += batch.rows if message.type == "record batch" else 0
        size += batch.unpacked_bytes(message.body)
        if rows > max_rows:
            raise too_large(f"There are more than {max_rows} events. Push them in several requests.")
        if size > max_bytes:
            raise _too_much(max_bytes)


def _check_columns(schema: _Table, max_columns: int) -> None:
    """Check how many columns a schema has, and how deeply they are nested.

    Raises:
        RefusedError: There are too many (413), or one is nested deeper than any dtype (422).
    """
    count = 0
    level = schema.tables(_FIELDS_OF_SCHEMA, max_columns)
    for _ in range(_MAX_DEPTH + 1):
        below: list[_Table] = []
        for field in level:
            count += 1
            if count > max_columns:
                raise too_many_columns(max_columns)
            below += field.tables(_CHILDREN_OF_FIELD, max_columns)
        level = below
    if level:
        detail = f"A column is nested more than {_MAX_DEPTH} levels deep. No dtype is nested that deeply."
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "wrong-type", "/events")


def too_many_columns(max_columns: int) -> RefusedError:
    """Return the refusal of a push with too many columns (413)."""
    return too_large(f"The events have more than {max_columns} columns. Push only those that the source has.")


def _messages(body: bytes) -> Iterator[Any]:
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


class _Batch:
    """The part of a record batch's metadata that declares its size.

    Source:
        The Arrow columnar format, ``format/Message.fbs``; FlatBuffers internals for how tables lie in bytes.
    """

    def __init__(self, table: _Table) -> None:
        self.rows = _not_negative(table.number("<q", 0))
        self._buffers = [(_not_negative(at), _not_negative(length)) for at, length in table.structs("<qq", 2)]
        self._is_compressed = table.position(3) != 0

    @classmethod
    def of(cls, message: Any) -> _Batch:
        """Read the metadata of a message."""
        root = _Table.root(memoryview(message.metadata))
        header = root.table(2)
        return cls(header.table(1) if root.number("<B", 1) == _DICTIONARY_BATCH else header)

    def unpacked_bytes(self, body: Any) -> int:
        """Return the size of the buffers once they are unpacked."""
        if not self._is_compressed:
            return sum(length for _, length in self._buffers)
        total = 0
        view = memoryview(body)
        for offset, length in self._buffers:
            if length:
                (unpacked,) = struct.unpack_from("<q", view, offset)
                total += length if unpacked == _NOT_COMPRESSED else _not_negative(unpacked)
        return total


class _Table:
    """A table of a FlatBuffer. Its fields are numbered."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data = data
        self._at = at
        self._fields = at - self._read("<i", at)

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        (at,) = struct.unpack_from("<I", data, 0)
        return cls(data, at)

    def _read(self, form: str, at: int) -> int:
        if at < 0:
            raise IndexError("an offset lies before the message")
        (number,) = struct.unpack_from(form, self._data, at)
        return int(number)

    def position(self, number: int) -> int:
        """Return the position of a field; 0 if the table does not have it."""
        after = 4 + 2 * number
        if after >= self._read("<H", self._fields):
            return 0
        offset = self._read("<H", self._fields + after)
        return self._at + offset if offset else 0

    def number(self, form: str, number: int) -> int:
        """Return a numeric field; 0 if it is left out."""
        position = self.position(number)
        return self._read(form, position) if position else 0

    def table(self, number: int) -> _Table:
        """Return a field that is a table."""
        position = self.position(number)
        if not position:
            raise IndexError(f"field {number} is missing")
        return _Table(self._data, position + self._read("<I", position))

    def tables(self, number: int, max_count: int) -> list[_Table]:
        """Return a field that is a vector of tables, but no more than ``max_count`` + 1 of them."""
        position = self.position(number)
        if not position:
            return []
        begin = position + self._read("<I", position)
        count = self._read("<I", begin)
        if begin + 4 + 4 * count > len(self._data):
            raise IndexError("a vector ends after the message")
        positions = [begin + 4 + 4 * i for i in range(min(count, max_count + 1))]
        return [_Table(self._data, at + self._read("<I", at)) for at in positions]

    def structs(self, form: str, number: int) -> list[tuple[int, int]]:
        """Return a field that is a vector of pairs."""
        position = self.position(number)
        if not position:
            return []
        begin = position + self._read("<I", position)
        count, size = self._read("<I", begin), struct.calcsize(form)
        inside = self._data[begin + 4 : begin + 4 + count * size]
        if len(inside) < count * size:
            raise IndexError("a vector ends after the message")
        return [(int(first), int(second)) for first, second in struct.iter_unpack(form, inside)]


def _not_negative(number: int) -> int:
    if number < 0:
        raise IndexError(f"{number} is not a valid position or length")
    return number


def _size(column: pa.ChunkedArray, name: str) -> int:
    """Return how many bytes the values of a column take when each row has its own copy.

    Raises:
        RefusedError: The column's type has no dtype.
    """
    return sum(_size_of(chunk, name) for chunk in column.chunks)


def _size_of(chunk: Any, name: str) -> int:
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        if not _is_text(kind.value_type):
            return len(chunk) * _widest(chunk.dictionary, name)
        return _total(_lengths(chunk.dictionary).take(chunk.indices))
    if _is_text(kind):
        return _total(_lengths(chunk))
    if _is_list(kind):
        return 8 * len(chunk) + _size_of(chunk.flatten(), name)
    if _is_view(kind):
        # Lists may share their items, and without unpacking only their number of items is known.
        return 8 * len(chunk) + _total(pc.list_value_length(chunk)) * _widest(chunk.values, name)
    return len(chunk) * _width(kind, name)


def _widest(values: Any, name: str) -> int:
    """Return an upper bound of the bytes of the longest value."""
    if _is_list(values.type) or _is_view(values.type):
        return 8 + int(pc.max(pc.list_value_length(values)).as_py() or 0) * _widest(values.values, name)
    if not _is_text(values.type):
        return _width(values.type, name)
    return int(pc.max(_lengths(values)).as_py() or 0)


def _width(kind: pa.DataType, name: str) -> int:
    """Return how many bytes each value of a fixed-width type takes."""
    tests = (pa.types.is_primitive, pa.types.is_decimal, pa.types.is_fixed_size_binary)
    if any(test(kind) for test in tests):
        return int(kind.bit_width + 7) // 8
    if pa.types.is_null(kind):
        return 1
    detail = f"Column '{name}' is of type {kind}, for which there is no dtype. Leave it out, or cast it."
    raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "wrong-type", "/events")


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    tests = (
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_binary_view,
    )
    return any(test(kind) for test in tests)


def _lengths(texts: Any) -> Any:
    """Return the length in bytes of each text, also of string views, which Arrow's kernel does not support."""
    if not (pa.types.is_string_view(texts.type) or pa.types.is_binary_view(texts.type)):
        return pc.binary_length(texts)
    # A string view has sixteen bytes; the first four are the length of its text.
    first, last = 4 * texts.offset, 4 * (texts.offset + len(texts))
    words = pa.Array.from_buffers(pa.int32(), last, [None, texts.buffers()[1]])
    return words.take(pa.array(range(first, last, 4), pa.int64()))


def _total(lengths: Any) -> int:
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)


def _too_much(max_bytes: int) -> RefusedError:
    return too_large(
        f"The events take more than {max_bytes} bytes once they are unpacked. Push them in several requests."
    )
