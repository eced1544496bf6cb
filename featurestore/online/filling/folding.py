"""Merging new events into the states of their entities: read, merge, drop useless events, encode.

Nothing is written here: the caller writes the states together with the view's record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.dtypes import TIMESTAMP
from featurestore.core.temporal import NOTHING_YET
from featurestore.core.values import one_chunk
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import EventBlock, PreparedEvents, arrange, arrange_kept, kept_places, take_columns
from featurestore.kernels.keys import KeyIndex
from featurestore.kernels.program import MEMBER_VALUE
from featurestore.kernels.retention import all_matter, still_matter
from featurestore.kernels.words import to_words
from featurestore.online.state.codec import StateCodec, States
from featurestore.online.state.keys import ordered_keys
from featurestore.online.stores.store import OnlineStore, state_prefix
from featurestore.plan.model import ViewPlan


class StateUpdater:
    """Merges events of one view into states."""

    def __init__(self, view: ViewPlan, store: OnlineStore) -> None:
        """Bind a view to the store of its states."""
        self._view = view
        self._store = store
        self._codec = StateCodec(view)

    def drop_useless(self, table: pa.Table, reach_us: int) -> pa.Table:
        """Drop the events that cannot matter beside the others of the table, and so not beside more events either.

        Args:
            table: Columns of the view's source, in contract dtypes.
            reach_us: Earliest instant that can be asked about.

        Returns:
            The remaining events, in their order.
        """
        times, _ = to_words(one_chunk(table.column(self._view.source.event_time)), TIMESTAMP)
        if all_matter(self._view, times, reach_us):
            return table
        prepared, inputs = bind(self._view).prepare_inputs(table)
        index, codes = KeyIndex.build(self._keys_of(_rows_of(table, prepared)))
        kept = kept_places(prepared, inputs, codes, len(index), lambda seen: still_matter(self._view, seen, reach_us))
        return table if len(kept) == table.num_rows else table.take(pa.array(prepared.rows[kept]))

    def _keys_of(self, table: pa.Table) -> list[pa.Array]:
        return [one_chunk(table.column(key.name)) for key in self._view.entity.keys]

    def arrange(self, table: pa.Table, generation: int, reach_us: int) -> NewEvents:
        """Prepare the useful events, entity by entity in the order of their keys, in which stores write fastest.

        Args:
            table: Columns of the view's source, in contract dtypes.
            generation: Generation of the states.
            reach_us: Earliest instant that can be asked about.
        """
        prepared, inputs = bind(self._view).prepare_inputs(table)
        columns = self._keys_of(_rows_of(table, prepared))
        index, codes = KeyIndex.build(columns)
        first_rows = np.empty(len(index), dtype=np.int64)
        first_rows[codes[::-1]] = np.arange(len(codes))[::-1]
        dtypes = [key.dtype for key in self._view.entity.keys]
        parts = [column.take(pa.array(first_rows)) for column in columns]
        keys, order = ordered_keys(state_prefix(self._view, generation), dtypes, parts)
        number = np.empty(len(keys), dtype=np.int64)
        number[order] = np.arange(len(keys))
        block = arrange_kept(
            prepared, inputs, number[codes], len(keys), lambda times: still_matter(self._view, times, reach_us)
        )
        nothing = np.zeros(0, dtype=np.int64)
        return NewEvents(keys, block, replace(prepared, rows=nothing, event_time=nothing, ingest_time=nothing))

    def update(
        self,
        new: NewEvents,
        begin: int,
        end: int,
        bound_us: int | None,
        reach_us: int,
        *,
        read: Callable[[Sequence[bytes]], Mapping[bytes, bytes]] | None = None,
    ) -> KeyValues:
        """Merge new events of some entities with their stored ones.

        Args:
            new: The new events.
            begin: The first entity of these.
            end: One past the last entity.
            bound_us: Exclusive ingest time up to which the states are complete afterwards; events that a state already
                holds are left out. ``None`` for pushed events: the view's record holds how far these are folded, and
                all of them are new.
            reach_us: Earliest instant that can be asked about; events that matter only earlier are dropped.
            read: Returns the stored states of some keys, and perhaps of others; ``None`` reads them from the store.

        Returns:
            Keys and states to write.
        """
        keys, block = new.keys[begin:end], new.block(begin, end)
        states = (read or self._store.read)(keys)
        stored = [states.get(key) for key in keys]
        if all(state is None for state in stored):
            bounds = np.full(len(keys), NOTHING_YET if bound_us is None else bound_us, dtype=np.int64)
            return KeyValues(keys, self._codec.encode(block, bounds), new=len(keys))
        old = self._codec.decode(stored)
        codes = np.repeat(np.arange(len(keys)), np.diff(block.offsets))
        events = new.events(block)
        bounds = old.bounds
        if bound_us is not None:
            unseen = np.flatnonzero(events.ingest_time >= old.bounds[codes])
            events, codes = take_events(events, unseen), codes[unseen]
            bounds = np.maximum(old.bounds, bound_us)
        merged, merged_codes = _merge(self._codec, old, events, codes)
        arranged = arrange(merged, merged_codes, len(keys))
        arranged = _filter(arranged, still_matter(self._view, arranged, reach_us))
        return KeyValues(keys, self._codec.encode(arranged, bounds), new=stored.count(None))


class KeyValues(Sequence[tuple[bytes, bytes]]):
    """Keys with their values, paired on access: that many tuples would keep the garbage collector busy."""

    def __init__(self, keys: Sequence[bytes], values: Sequence[bytes], *, new: int = 0) -> None:
        """Take as many values as keys.

        Args:
            keys: The keys.
            values: The value of each.
            new: How many of the keys are not in the store yet.
        """
        self._keys = keys
        self._values = values
        self.new = new

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return zip(self._keys, self._values, strict=True)

    @overload
    def __getitem__(self, at: int) -> tuple[bytes, bytes]: ...

    @overload
    def __getitem__(self, at: slice) -> KeyValues: ...

    def __getitem__(self, at: int | slice) -> tuple[bytes, bytes] | KeyValues:
        if isinstance(at, slice):
            return KeyValues(self._keys[at], self._values[at])
        return self._keys[at], self._values[at]


@dataclass(frozen=True)
class NewEvents:
    """New events of some entities, without useless ones.

    Attributes:
        keys: Key of each entity's state, ascending.
        whole: The events, entities in the order of ``keys``.
        prepared: Holds their dictionaries and types.
    """

    keys: tuple[bytes, ...]
    whole: EventBlock
    prepared: PreparedEvents

    def block(self, begin: int, end: int) -> EventBlock:
        """Return the events of some of the entities."""
        offsets = self.whole.offsets
        rows = slice(int(offsets[begin]), int(offsets[end]))
        event_time = self.whole.event_time[rows]
        is_same = self.whole.ingest_time is self.whole.event_time
        return replace(
            self.whole,
            offsets=offsets[begin : end + 1] - offsets[begin],
            event_time=event_time,
            ingest_time=event_time if is_same else self.whole.ingest_time[rows],
            values=np.ascontiguousarray(self.whole.values[:, rows]),
            flags=np.ascontiguousarray(self.whole.flags[:, rows]),
        )

    def events(self, block: EventBlock) -> PreparedEvents:
        """Return the events of a block as prepared events."""
        return replace(
            self.prepared,
            rows=np.arange(len(block), dtype=np.int64),
            event_time=block.event_time,
            ingest_time=block.ingest_time,
            values=block.values,
            flags=block.flags,
        )


def _rows_of(table: pa.Table, prepared: PreparedEvents) -> pa.Table:
    """Return the rows of a table that were prepared."""
    return table.take(pa.array(prepared.rows)) if len(prepared) < table.num_rows else table


def take_events(prepared: PreparedEvents, rows: Ints) -> PreparedEvents:
    """Return some events, by their positions."""
    event_time = prepared.event_time[rows]
    is_same = prepared.ingest_time is prepared.event_time
    return replace(
        prepared,
        rows=prepared.rows[rows],
        event_time=event_time,
        ingest_time=event_time if is_same else prepared.ingest_time[rows],
        values=take_columns(prepared.values, rows),
        flags=take_columns(prepared.flags, rows),
    )


def _filter(block: EventBlock, kept: npt.NDArray[np.bool_]) -> EventBlock:
    """Return the events of a block for which a mask is true."""
    if kept.all():
        return block
    rows = np.flatnonzero(kept)
    return replace(
        block,
        offsets=np.concatenate([[0], np.cumsum(kept)])[block.offsets],
        event_time=block.event_time[rows],
        ingest_time=block.ingest_time[rows],
        values=take_columns(block.values, rows),
        flags=take_columns(block.flags, rows),
    )


def _merge(codec: StateCodec, old: States, new: PreparedEvents, codes: Ints) -> tuple[PreparedEvents, Ints]:
    """Join stored and new events, with one dictionary per coded input for all entities."""
    stored = old.block
    if len(stored) == 0:
        return new, codes
    counts = np.diff(stored.offsets)
    values = np.concatenate([stored.values, new.values], axis=1)
    flags = np.concatenate([stored.flags, new.flags], axis=1)
    dictionaries = list(new.dictionaries)
    for i, dtype in enumerate(codec.coded):
        if dtype is not None:
            stored_values = [per_input[i] or () if per_input else () for per_input in old.dictionaries]
            joined = pa.array([value for of_entity in stored_values for value in of_entity], type=dtype.arrow)
            every = pa.concat_arrays([joined, new.dictionaries[i]])
            starts = np.cumsum([0, *map(len, stored_values)])
            shift = np.concatenate([np.repeat(starts[:-1], counts), np.full(len(codes), starts[-1])])
            words, dictionaries[i] = to_words(every, dtype)
            has_value = flags[i] == MEMBER_VALUE
            values[i, has_value] = words[values[i, has_value] + shift[has_value]]
    event_time = np.concatenate([stored.event_time, new.event_time])
    is_same = stored.ingest_time is stored.event_time and new.ingest_time is new.event_time
    merged = replace(
        new,
        rows=np.arange(values.shape[1], dtype=np.int64),
        event_time=event_time,
        ingest_time=event_time if is_same else np.concatenate([stored.ingest_time, new.ingest_time]),
        values=values,
        flags=flags,
        dictionaries=tuple(dictionaries),
    )
    return merged, np.concatenate([np.repeat(np.arange(len(counts)), counts), codes])
