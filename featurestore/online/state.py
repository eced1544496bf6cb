"""The stored form of one entity's state in one view: the events that can still matter, checked on every read.

A state is a header and a payload. The payload holds, event by event, event time, ingest time and one word per input
(little-endian int64), then the flags, one byte per event and input, input by input; then, for inputs whose words are
codes, this entity's own dictionaries as MessagePack. Because words of one entity are compared only with each other, the
dictionaries of several entities need not agree.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from featurestore.dtypes import DType, read_value
from featurestore.errors import StateError
from featurestore.kernels.events import EventBlock
from featurestore.kernels.program import is_coded
from featurestore.plan.model import ViewPlan

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
Dictionaries = tuple[tuple[Any, ...] | None, ...]

_MAGIC = b"FSE1"
_HEADER = struct.Struct("<4s8sIIIq")
_TIMES = 2


@dataclass(frozen=True)
class StateShape:
    """What a view's states look like.

    Attributes:
        mark: First eight bytes of the view's fingerprint; a state with another mark is foreign.
        inputs: Count of inputs.
        coded: For each input the dtype of its dictionary, ``None`` if its words are values.
        view: Name of the view, for messages.
    """

    mark: bytes
    inputs: int
    coded: tuple[DType | None, ...]
    view: str

    @classmethod
    def of(cls, view: ViewPlan) -> StateShape:
        """Return the shape of a view's states."""
        dtypes = [None if source.value is None else source.value.dtype for source in view.inputs]
        coded = tuple(dtype if dtype is not None and is_coded(dtype) else None for dtype in dtypes)
        return cls(bytes.fromhex(view.fingerprint[:16]), len(view.inputs), coded, view.name)

    @cached_property
    def has_dictionaries(self) -> bool:
        """Whether any input is coded."""
        return any(dtype is not None for dtype in self.coded)


@dataclass(frozen=True)
class EntityState:
    """One entity's events, in kernel order.

    Attributes:
        bound_us: Every event with ``ingest_time < bound_us`` was folded in.
        rows: Event time, ingest time and words, one row per event.
        flags: One row per input.
        dictionaries: Per input the values its words are codes of, ascending; ``None`` if words are values.
    """

    bound_us: int
    rows: Ints
    flags: Bytes
    dictionaries: Dictionaries = ()


def encode_state(shape: StateShape, state: EntityState) -> bytes:
    """Return the stored form of a state."""
    packed = b""
    if shape.has_dictionaries:
        packed = msgspec.msgpack.encode([None if d is None else [_plain(v) for v in d] for d in state.dictionaries])
    payload = state.rows.tobytes() + state.flags.tobytes() + packed
    check = zlib.crc32(payload)
    return _HEADER.pack(_MAGIC, shape.mark, check, len(state.rows), len(packed), state.bound_us) + payload


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _parts(shape: StateShape, stored: bytes) -> tuple[int, int, int]:
    """Check a stored state; return its event count, where its dictionaries begin, and its bound.

    Raises:
        StateError: It is cut off, damaged, of another form, or of another view.
    """
    where = f"online state of feature view '{shape.view}'"
    if len(stored) < _HEADER.size or stored[:4] != _MAGIC:
        raise StateError("it is not a state of this library", where=where, hint=_REBUILD, code="foreign-state")
    _, mark, check, count, packed, bound = _HEADER.unpack_from(stored)
    if mark != shape.mark:
        raise StateError("it belongs to another definition", where=where, hint=_REBUILD, code="foreign-state")
    size = _HEADER.size + count * (8 * (_TIMES + shape.inputs) + shape.inputs) + packed
    if len(stored) != size or zlib.crc32(memoryview(stored)[_HEADER.size :]) != check:
        raise StateError("it is damaged", where=where, hint=_REBUILD, code="corrupt-state")
    return count, size - packed, bound


_REBUILD = "Rebuild it: store.materialize(views=[…], full=True)."


def decode_state(shape: StateShape, stored: bytes) -> EntityState:
    """Read one stored state.

    Raises:
        StateError: It is damaged or foreign.
    """
    count, end, bound = _parts(shape, stored)
    width = _TIMES + shape.inputs
    rows = np.frombuffer(stored, dtype=np.int64, count=count * width, offset=_HEADER.size).reshape(count, width)
    flags = np.frombuffer(stored, dtype=np.uint8, count=count * shape.inputs, offset=_HEADER.size + rows.nbytes)
    return EntityState(bound, rows, flags.reshape(shape.inputs, count), _dictionaries(shape, stored, end))


def _dictionaries(shape: StateShape, stored: bytes, at: int) -> Dictionaries:
    if not shape.has_dictionaries:
        return ()
    found = msgspec.msgpack.decode(memoryview(stored)[at:])
    return tuple(
        None if values is None or dtype is None else _typed(values, dtype)
        for values, dtype in zip(found, shape.coded, strict=True)
    )


def _typed(values: list[Any], dtype: DType) -> tuple[Any, ...]:
    """Give unpacked values back what MessagePack does not keep: decimals and dates, also inside lists."""
    if dtype.kind == "decimal":
        return tuple(Decimal(value) for value in values)
    if dtype.kind == "list":
        return tuple(read_value(dtype, value) for value in values)
    return tuple(values)


def block_of(shape: StateShape, states: Sequence[bytes | None]) -> tuple[EventBlock, tuple[Dictionaries, ...]]:
    """Put the stored states of several entities of one view into one block.

    Args:
        shape: The view's shape.
        states: Stored states; ``None`` for entities that have none.

    Returns:
        A block in which entity ``i`` is ``states[i]``; and each entity's dictionaries.

    Raises:
        StateError: A state is damaged or foreign.
    """
    width = _TIMES + shape.inputs
    rows: list[bytes | memoryview] = []
    flags: list[Bytes] = []
    offsets = [0]
    dictionaries: list[Dictionaries] = []
    for stored in states:
        if stored is None:
            offsets.append(offsets[-1])
            dictionaries.append(())
            continue
        count, end, _ = _parts(shape, stored)
        cut = _HEADER.size + 8 * count * width
        rows.append(memoryview(stored)[_HEADER.size : cut])
        flags.append(np.frombuffer(stored, np.uint8, end - cut, cut).reshape(shape.inputs, count))
        offsets.append(offsets[-1] + count)
        dictionaries.append(_dictionaries(shape, stored, end))
    joined = np.frombuffer(rows[0] if len(rows) == 1 else b"".join(rows), np.int64).reshape(-1, width)
    columns = joined.T.copy()
    block = EventBlock(
        offsets=np.array(offsets, dtype=np.int64),
        event_time=columns[0],
        ingest_time=columns[1],
        values=columns[_TIMES:],
        flags=_joined_flags(flags, shape.inputs),
    )
    return block, tuple(dictionaries)


def _joined_flags(flags: list[Bytes], inputs: int) -> Bytes:
    if len(flags) == 1:
        return flags[0]
    return np.concatenate(flags, axis=1) if flags else np.zeros((inputs, 0), dtype=np.uint8)
