"""Reading Arrow IPC streams of which nobody knows what they unpack to.

A few bytes can stand for gigabytes: compressed buffers, columns of one value, dictionaries and views of which many rows
mean the same text. So what a message declares is added up before it is unpacked, and what its rows mean before they
are looked at one by one.
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
_UNPACKED_AS_IT_IS = -1
_FIELDS_OF_SCHEMA = 1
_CHILDREN_OF_FIELD = 5
_DEEPEST = 8
_MOST_BATCHES = 2_000


def read_stream(body: bytes, *, most_rows: int, most_bytes: int, most_columns: int) -> pa.Table:
    """Read a stream.

    Args:
        body: The stream.
        most_rows: Rows it may have.
        most_bytes: Bytes that its rows may take, unpacked and each for itself.
        most_columns: Columns it may have; those inside of columns count, too.

    Raises:
        RefusedError: It is larger (413), is nested deeper than any dtype or has columns of types that no dtype is for
            (422), or is no stream (400).
    """
    try:
        _check_declared(body, most_rows=most_rows, most_bytes=most_bytes, most_columns=most_columns)
        table = pa.ipc.open_stream(body).read_all()
        table.validate(full=True)
        for field in table.schema:
            _check_names(field)
        table = table.combine_chunks()  # a batch of one row costs as much as one of thousands
        if (
            sum(_size(column, name) for name, column in zip(table.column_names, table.columns, strict=True))
            > most_bytes
        ):
            raise _too_much(most_bytes)
    except (pa.ArrowException, OSError, UnicodeDecodeError, struct.error, IndexError) as error:
        detail = f"The body is no Arrow IPC stream: {error}."
        raise RefusedError(HTTPStatus.BAD_REQUEST, detail, "malformed-arrow") from None
    return table


def _check_names(field: pa.Field) -> None:
    """Make sure that the names in a column's type are text: Arrow decodes them only when they are asked for.

    Raises:
        UnicodeDecodeError: The name of a field or of a time zone is not UTF-8.
    """
    kind = field.type
    texts = [field.name, kind.tz if pa.types.is_timestamp(kind) else ""]
    assert all(text is None or isinstance(text, str) for text in texts)
    if pa.types.is_dictionary(kind):
        _check_names(pa.field("", kind.value_type))
    for place in range(kind.num_fields):
        _check_names(kind.field(place))


def _check_declared(body: bytes, *, most_rows: int, most_bytes: int, most_columns: int) -> None:
    """Make sure that a stream does not declare more than it may have.

    Raises:
        RefusedError: It does.
    """
    rows = size = batches = 0
    for message in _messages(body):
        if message.type == "schema":
            _check_columns(_Table.root(memoryview(message.metadata)).table(2), most_columns)
        if message.type not in ("record batch", "dictionary"):
            continue
        batches += 1
        if batches > _MOST_BATCHES:
            raise too_large(f"The events come in more than {_MOST_BATCHES} batches. Put some into one.")
        batch = _Batch.of(message)
        rows += batch.rows if message.type == "record batch" else 0
        size += batch.unpacked_bytes(message.body)
        if rows > most_rows:
            raise too_large(f"There are more than {most_rows} events. Push them in several requests.")
        if size > most_bytes:
            raise _too_much(most_bytes)


def _check_columns(schema: _Table, most: int) -> None:
    """Make sure that a schema has no more columns than it may, and none nested deeper than any dtype is.

    Raises:
        RefusedError: It has (413), or they are (422).
    """
    found = 0
    level = schema.tables(_FIELDS_OF_SCHEMA, most)
    for _ in range(_DEEPEST + 1):
        below: list[_Table] = []
        for field in level:
            found += 1
            if found > most:
                raise too_many_columns(most)
            below += field.tables(_CHILDREN_OF_FIELD, most)
        level = below
    if level:
        detail = f"A column is nested more than {_DEEPEST} deep, which no dtype is."
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "wrong-type", "/events")


def too_many_columns(most: int) -> RefusedError:
    """Return the refusal of a push that has more columns than it may."""
    return too_large(f"The events have more than {most} columns. Push only those that the source has.")


def _messages(body: bytes) -> Iterator[Any]:
    reader = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


class _Batch:
    """The part of a record batch's metadata that says how large it is.

    Source:
        The Arrow columnar format, ``format/Message.fbs``; FlatBuffers internals for how tables lie in bytes.
    """

    def __init__(self, table: _Table) -> None:
        self.rows = _not_negative(table.number("<q", 0))
        self._buffers = [(_not_negative(at), _not_negative(length)) for at, length in table.structs("<qq", 2)]
        self._is_compressed = table.place(3) != 0

    @classmethod
    def of(cls, message: Any) -> _Batch:
        """Read the metadata of a message."""
        root = _Table.root(memoryview(message.metadata))
        header = root.table(2)
        return cls(header.table(1) if root.number("<B", 1) == _DICTIONARY_BATCH else header)

    def unpacked_bytes(self, body: Any) -> int:
        """Return how much the buffers take once they are unpacked."""
        if not self._is_compressed:
            return sum(length for _, length in self._buffers)
        found = 0
        view = memoryview(body)
        for offset, length in self._buffers:
            if length:
                (unpacked,) = struct.unpack_from("<q", view, offset)
                found += length if unpacked == _UNPACKED_AS_IT_IS else _not_negative(unpacked)
        return found


class _Table:
    """A table of a FlatBuffer: its fields are found by their numbers."""

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
        (found,) = struct.unpack_from(form, self._data, at)
        return int(found)

    def place(self, number: int) -> int:
        """Return where a field lies; 0 if the table has none."""
        after = 4 + 2 * number
        if after >= self._read("<H", self._fields):
            return 0
        offset = self._read("<H", self._fields + after)
        return self._at + offset if offset else 0

    def number(self, form: str, number: int) -> int:
        """Return a field that is a number; 0 if it is left out."""
        place = self.place(number)
        return self._read(form, place) if place else 0

    def table(self, number: int) -> _Table:
        """Return a field that is a table."""
        place = self.place(number)
        if not place:
            raise IndexError(f"field {number} is missing")
        return _Table(self._data, place + self._read("<I", place))

    def tables(self, number: int, most: int) -> list[_Table]:
        """Return a field that is a vector of tables; one more than ``most`` at the utmost."""
        place = self.place(number)
        if not place:
            return []
        begin = place + self._read("<I", place)
        count = self._read("<I", begin)
        if begin + 4 + 4 * count > len(self._data):
            raise IndexError("a vector ends after the message")
        places = [begin + 4 + 4 * i for i in range(min(count, most + 1))]
        return [_Table(self._data, at + self._read("<I", at)) for at in places]

    def structs(self, form: str, number: int) -> list[tuple[int, int]]:
        """Return a field that is a vector of pairs."""
        place = self.place(number)
        if not place:
            return []
        begin = place + self._read("<I", place)
        count, size = self._read("<I", begin), struct.calcsize(form)
        inside = self._data[begin + 4 : begin + 4 + count * size]
        if len(inside) < count * size:
            raise IndexError("a vector ends after the message")
        return [(int(first), int(second)) for first, second in struct.iter_unpack(form, inside)]


def _not_negative(number: int) -> int:
    if number < 0:
        raise IndexError(f"{number} is no place and no length")
    return number


def _size(column: pa.ChunkedArray, name: str) -> int:
    """Return how many bytes the values of a column take, each for itself.

    Raises:
        RefusedError: The column's type is one that no dtype is for.
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
        # Lists may share their items, and their count is all that is told without unpacking them.
        return 8 * len(chunk) + _total(pc.list_value_length(chunk)) * _widest(chunk.values, name)
    return len(chunk) * _width(kind, name)


def _widest(values: Any, name: str) -> int:
    """Return how many bytes the longest of some values takes, or more."""
    if _is_list(values.type) or _is_view(values.type):
        return 8 + int(pc.max(pc.list_value_length(values)).as_py() or 0) * _widest(values.values, name)
    if not _is_text(values.type):
        return _width(values.type, name)
    return int(pc.max(_lengths(values)).as_py() or 0)


def _width(kind: pa.DataType, name: str) -> int:
    """Return how many bytes a value of a type takes whose values are all of one width."""
    tests = (pa.types.is_primitive, pa.types.is_decimal, pa.types.is_fixed_size_binary)
    if any(test(kind) for test in tests):
        return int(kind.bit_width + 7) // 8
    if pa.types.is_null(kind):
        return 1
    detail = f"Column '{name}' is of type {kind}, which no dtype is for. Leave it out, or cast it."
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
    """Return the bytes of each text; of views too, which the kernel does not know."""
    if not (pa.types.is_string_view(texts.type) or pa.types.is_binary_view(texts.type)):
        return pc.binary_length(texts)
    # A view has sixteen bytes, of which the first four are the length of what it shows.
    first, last = 4 * texts.offset, 4 * (texts.offset + len(texts))
    words = pa.Array.from_buffers(pa.int32(), last, [None, texts.buffers()[1]])
    return words.take(pa.array(range(first, last, 4), pa.int64()))


def _total(lengths: Any) -> int:
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)


def _too_much(most: int) -> RefusedError:
    return too_large(f"The events take more than {most} bytes once they are unpacked. Push them in several requests.")
