"""The stored form of an entity's state in one view: the events that can still matter, verified on every read.

A state begins with its layout, view and ingest bound, holds the events in kernel order (``state.packing`` describes the
layout), and ends with a CRC-32 of all before. For inputs whose words are codes it holds the entity's dictionaries as
MessagePack: words are compared only within an entity, so the dictionaries of several entities need not agree. States of
many entities are read and written in one call.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.dtypes import DType, read_value
from featurestore.core.errors import StateError
from featurestore.core.values import list_items
from featurestore.kernels.events import EventBlock
from featurestore.kernels.program import is_coded
from featurestore.online.state.packing import (
    DAMAGED,
    FOREIGN_LAYOUT,
    FOREIGN_VIEW,
    MAGIC,
    SOUND,
    pack,
    rank,
    unpack,
)
from featurestore.plan.model import ViewPlan

Dictionaries = tuple[tuple[Any, ...] | None, ...]

_SOUND_CHECK = 0x2144DF1C
"""CRC-32 of any bytes that end with their own CRC-32."""

_MAGIC = MAGIC.to_bytes(8, sys.byteorder)
_NO_DICTIONARIES: Dictionaries = ()
_REBUILD = "Rebuild it: store.materialize(views=['{}'], full=True)."


@dataclass(frozen=True)
class States:
    """States of some entities of one view.

    Attributes:
        block: Their events; entity ``i`` is the ``i``-th that was requested.
        bounds: Per entity: every event with ``ingest_time < bound`` was folded in; ``NOTHING_YET`` if it has no state.
        dictionaries: Per entity and input the values its words are codes of, ascending; ``None`` if words are values;
            empty for entities without a state and for views without coded inputs.
    """

    block: EventBlock
    bounds: Ints
    dictionaries: Sequence[Dictionaries]


class StateCodec:
    """Writes and reads the states of one view.

    Attributes:
        layout: Mark of the view, count of inputs, whether ingest times are stored.
        coded: For each input the dtype of its dictionary, ``None`` if its words are values.
        has_dictionaries: Whether any input is coded.
    """

    def __init__(self, view: ViewPlan) -> None:
        dtypes = [None if source.value is None else source.value.dtype for source in view.inputs]
        self.coded: tuple[DType | None, ...] = tuple(
            dtype if dtype is not None and is_coded(dtype) else None for dtype in dtypes
        )
        self.has_dictionaries = any(dtype is not None for dtype in self.coded)
        mark = int.from_bytes(bytes.fromhex(view.fingerprint[:16]), "little", signed=True)
        self.layout = (mark, len(view.inputs), view.source.ingest_time is not None)
        self._view = view.name

    def encode(self, block: EventBlock, bounds: Ints) -> list[bytes]:
        """Return the stored form of the states of all entities of a block.

        Args:
            block: Events in kernel order, coded inputs in dictionaries for all entities.
            bounds: Ingest bound of each entity.
        """
        values = block.values
        packed: list[bytes] = []
        if self.has_dictionaries:
            values, packed = self._split_dictionaries(block)
        packed_offsets = np.zeros(len(block.offsets), dtype=np.int64)
        if packed:
            np.cumsum(list(map(len, packed)), out=packed_offsets[1:])
        words, starts = pack(
            block.offsets,
            block.event_time,
            block.ingest_time,
            values,
            block.flags,
            bounds,
            self.layout[0],
            self.layout[2],
            np.frombuffer(b"".join(packed), dtype=np.uint8),
            packed_offsets,
        )
        ends = (8 * starts).tolist()
        raw = words.tobytes()
        return [raw[begin:end] for begin, end in pairwise(ends)]

    def _split_dictionaries(self, block: EventBlock) -> tuple[Ints, list[bytes]]:
        """Give each entity its own dictionaries, with only the values that it has."""
        values = block.values.copy()
        entities = len(block.offsets) - 1
        columns: list[Iterable[list[Any] | None]] = []
        for i, dtype in enumerate(self.coded):
            names = block.dictionaries[i] if dtype is not None else None
            if names is None:
                columns.append([None] * entities)
                continue
            used, ends = rank(block.offsets, values[i], block.flags[i])
            columns.append(_plain_values(names.take(used), ends.tolist()))
        # One entity after the other, because the lists of all take many times more memory in Python than in Arrow.
        return values, [msgspec.msgpack.encode(dictionaries) for dictionaries in zip(*columns, strict=True)]

    def decode(self, stored: Sequence[bytes | None]) -> States:
        """Read stored states.

        Args:
            stored: One per entity; ``None`` for entities that have none.

        Raises:
            StateError: A state is truncated, damaged, of another layout, or of another view.
        """
        joined, starts = joined_states(self.checked(stored))
        problem, offsets, bounds, times, ingests, values, flags, places = unpack(
            np.frombuffer(joined, dtype=np.int64), starts, *self.layout
        )
        if problem != SOUND:
            raise self.error(problem)
        dictionaries: Sequence[Dictionaries] = ()
        if self.has_dictionaries:
            dictionaries = [self.dictionaries(joined, begin, end) for begin, end in places.tolist()]
        ingest_time = ingests if self.layout[2] else times
        return States(EventBlock(offsets, times, ingest_time, values, flags), bounds, dictionaries)

    def checked(self, stored: Sequence[bytes | None]) -> list[bytes]:
        """Verify the checksums of stored states; absent states become empty.

        Raises:
            StateError: A state is truncated, damaged, or of another layout.
        """
        for state in stored:
            if state is not None and (crc32(state) != _SOUND_CHECK or len(state) & 7):
                raise self.error(DAMAGED if state[:8] == _MAGIC else FOREIGN_LAYOUT)
        return [state or b"" for state in stored]

    def dictionaries(self, joined: bytes, begin: int, end: int) -> Dictionaries:
        """Read the dictionaries of one state from their position; empty where there is no state."""
        if begin == end:
            return _NO_DICTIONARIES
        columns = msgspec.msgpack.decode(joined[begin:end])
        return tuple(
            None if values is None or dtype is None else _typed(values, dtype)
            for values, dtype in zip(columns, self.coded, strict=True)
        )

    def error(self, problem: int) -> StateError:
        """Return the error for a problem with a state."""
        text, code = {
            FOREIGN_LAYOUT: ("it is not a state of this version of the library", "foreign-state"),
            FOREIGN_VIEW: ("it belongs to another definition", "foreign-state"),
            DAMAGED: ("it is damaged", "corrupt-state"),
        }[problem]
        where = f"online state of feature view '{self._view}'"
        return StateError(text, where=where, hint=_REBUILD.format(self._view), code=code)


def joined_states(states: Sequence[bytes]) -> tuple[bytes, Ints]:
    """Concatenate states; return them, and the start of each in words, followed by the end of the last."""
    starts = list(accumulate([len(state) >> 3 for state in states], initial=0))
    return b"".join(states), np.array(starts, dtype=np.int64)


def _plain_values(array: pa.Array, ends: Sequence[int]) -> Iterator[list[Any]]:
    """Yield the values of an array, slice by slice, in types that MessagePack has."""
    if pa.types.is_list(array.type) and array.type.value_type in _NUMBERS:
        offsets, items = list_items(array)
        if not items.null_count:
            numbers, places = items.to_numpy(), offsets.tolist()
            for begin, end in pairwise(ends):
                yield [numbers[first:stop].tolist() for first, stop in pairwise(places[begin : end + 1])]
            return
    for begin, end in pairwise(ends):
        yield [_plain(value) for value in array.slice(begin, end - begin).to_pylist()]


_NUMBERS = (pa.int64(), pa.float64())


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _typed(values: list[Any], dtype: DType) -> tuple[Any, ...]:
    """Restore types that MessagePack does not keep: decimals and dates, also inside lists."""
    if dtype.kind == "decimal":
        return tuple(Decimal(value) for value in values)
    if dtype.kind == "list" and not _is_kept(dtype):
        return tuple(read_value(dtype, value) for value in values)
    return tuple(values)


def _is_kept(dtype: DType) -> bool:
    """Return whether MessagePack keeps values of a dtype unchanged."""
    return _is_kept(dtype.item) if dtype.item is not None else dtype.kind not in ("decimal", "date", "timestamp")
