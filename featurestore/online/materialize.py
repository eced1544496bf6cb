"""Folding a source's events into online state, incrementally by the time they became known.

A run folds the events with ``watermark <= ingest_time < until`` into the states of their entities and then moves the
watermark; it is the last thing written. Every state says itself up to which ingest time it is complete, so a run that
is repeated, or that died half-way, folds nothing twice. Lookups use no event from beyond the watermark, so they see
the state before the run or after it.

If events appeared below the watermark (late rows of a source without an ingest time, a rewritten file), the view is
rebuilt beside its old state and switched in one step, so that no event is ever lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.errors import StateError
from featurestore.kernels.evaluate import bind
from featurestore.kernels.events import EventBlock, PreparedEvents, arrange, take_columns
from featurestore.kernels.keys import KeyIndex
from featurestore.kernels.retention import keeps_everything, still_matter
from featurestore.kernels.words import to_words
from featurestore.online.keys import key_encoder
from featurestore.online.state import EntityState, StateShape, decode_state, encode_state
from featurestore.online.store import OnlineStore, ViewRecord, encode_record, record_key, records_of, state_prefix
from featurestore.plan.model import ViewPlan
from featurestore.temporal import NOTHING_YET, duration_us

Ints = npt.NDArray[np.int64]

DEFAULT_HISTORY_US = duration_us("2d")
"""How far before the watermark lookups may ask, if nothing else is said."""

_ENTITIES_AT_ONCE = 5_000
_ROWS_AT_ONCE = 4_000_000


class Events(Protocol):
    """The events of a source, in contract dtypes."""

    @property
    def ingest_column(self) -> str:
        """The column that says when an event became known."""
        ...

    def read(self, columns: Sequence[str], *, ingest: tuple[int, int] | None = None) -> pa.Table:
        """Return some columns of the events that became known in a range."""
        ...

    def count_below(self, ingest_us: int) -> int:
        """Count the events that became known before an instant."""
        ...


@dataclass(frozen=True)
class ViewRun:
    """What one run did to one view.

    Attributes:
        view: Name of the view.
        from_us: Watermark before the run; ``NOTHING_YET`` if it began from nothing.
        until_us: Watermark after it.
        events: Events read.
        entities: States written.
        rebuilt: Why everything was folded again; empty if the run was incremental.
    """

    view: str
    from_us: int
    until_us: int
    events: int
    entities: int
    rebuilt: str = ""


def materialize_view(
    view: ViewPlan,
    source: Events,
    store: OnlineStore,
    *,
    until_us: int,
    full: bool = False,
    history_us: int = DEFAULT_HISTORY_US,
) -> ViewRun:
    """Fold a view's events into its online state.

    Args:
        view: The plan.
        source: Its events.
        store: Where states are kept.
        until_us: Exclusive bound of the ingest times to fold; a bound behind the watermark does nothing.
        full: Whether to fold everything again, beside the old state.
        history_us: How far before the watermark lookups may ask; events that matter only earlier are dropped.

    Returns:
        What was done.

    Raises:
        StateError: Another run on the view is under way, or a stored state is damaged.
        StorageError: The store cannot be written; running again completes the work.
    """
    with store.exclusive(f"materialize-{view.fingerprint[:16]}"):
        record = records_of(store, [view])[view.name]
        if until_us <= record.watermark_us and not full:
            return ViewRun(view.name, record.watermark_us, record.watermark_us, 0, 0)
        if record.watermark_us == NOTHING_YET:
            return _fill(view, source, store, record, until_us, history_us)
        reason = _why_rebuild(record, source, full=full)
        if reason:
            return _rebuild(view, source, store, record, max(until_us, record.watermark_us), history_us, reason)
        return _extend(view, source, store, record, until_us, history_us)


def _fill(
    view: ViewPlan, source: Events, store: OnlineStore, record: ViewRecord, until_us: int, history_us: int
) -> ViewRun:
    """Fold everything for the first time, or go on with a first fill that died.

    What a fill left behind was pruned for its own end, so it serves a later end but not an earlier one.
    """
    if until_us < record.filling_us:
        store.delete(state_prefix(view, record.generation))
    begun = ViewRecord(view.name, view.fingerprint, generation=record.generation, filling_us=until_us)
    store.write([(record_key(view), encode_record(begun))])
    return _extend(view, source, store, begun, until_us, history_us)


def _why_rebuild(record: ViewRecord, source: Events, *, full: bool) -> str:
    if full:
        return "asked for"
    count = source.count_below(record.watermark_us)
    if count == record.rows_below:
        return ""
    return f"the source has {count} events below the watermark, where it had {record.rows_below}"


def _rebuild(
    view: ViewPlan,
    source: Events,
    store: OnlineStore,
    old: ViewRecord,
    until_us: int,
    history_us: int,
    reason: str,
) -> ViewRun:
    fresh = ViewRecord(view.name, view.fingerprint, generation=old.generation + 1)
    store.delete(state_prefix(view, fresh.generation))
    run = _extend(view, source, store, fresh, until_us, history_us)
    store.delete(state_prefix(view, old.generation))
    return ViewRun(view.name, old.watermark_us, run.until_us, run.events, run.entities, reason)


def _extend(
    view: ViewPlan, source: Events, store: OnlineStore, record: ViewRecord, until_us: int, history_us: int
) -> ViewRun:
    """Fold what became known since the watermark, in steps that fit into memory; each step moves the watermark.

    Events are dropped by the reach that lookups were already told, never by the one that this run will publish. The
    first fill of a generation has no lookups yet; its record is written with its last step only.
    """
    is_first = record.watermark_us == NOTHING_YET
    keeps_all = keeps_everything(view)
    prune_us = NOTHING_YET if keeps_all else until_us - history_us if is_first else record.reach_us
    first = record.watermark_us
    events = entities = 0
    for begin, end in _steps(source, first, until_us):
        counts = _fold(view, source, store, record.generation, begin, end, prune_us)
        events, entities = events + counts[0], entities + counts[1]
        record = ViewRecord(
            view=view.name,
            fingerprint=view.fingerprint,
            generation=record.generation,
            watermark_us=end,
            reach_us=NOTHING_YET if keeps_all else max(prune_us, end - history_us),
            rows_below=source.count_below(end),
        )
        if end == until_us or not is_first:
            store.write([(record_key(view), encode_record(record))])
        prune_us = prune_us if is_first else record.reach_us
    return ViewRun(view.name, first, until_us, events, entities)


def _steps(source: Events, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range of ingest times into pieces of about equally many events."""
    ingest = source.read([source.ingest_column], ingest=(begin, end)).column(0)
    pieces = -(-len(ingest) // _ROWS_AT_ONCE)
    cuts: list[int] = []
    if pieces > 1:
        times = np.sort(ingest.cast(pa.int64()).to_numpy())
        cuts = sorted({int(times[len(times) * i // pieces]) for i in range(1, pieces)} - {begin})
    yield from pairwise([begin, *cuts, end])


def _fold(
    view: ViewPlan,
    source: Events,
    store: OnlineStore,
    generation: int,
    begin: int,
    end: int,
    prune_us: int,
) -> tuple[int, int]:
    """Fold one range of ingest times into the states of its entities; return counts of events and entities."""
    table = source.read([column.name for column in view.source.columns], ingest=(begin, end))
    prepared = bind(view).prepare(table)
    kept = table.take(pa.array(prepared.rows)) if len(prepared) < table.num_rows else table
    keys = [kept.column(key.name).combine_chunks() for key in view.entity.keys]
    index, codes = KeyIndex.build(keys)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(len(index) + 1))
    encode = key_encoder([key.dtype for key in view.entity.keys])
    first_rows = pa.array(order[starts[:-1]]) if len(index) else pa.array([], pa.int64())
    parts = [column.take(first_rows).to_pylist() for column in keys]
    prefix = state_prefix(view, generation)
    encoded = [encode(part) for part in zip(*parts, strict=True)]
    stored_keys = [prefix + key for key in encoded if key is not None]
    for at in range(0, len(index), _ENTITIES_AT_ONCE):
        stop = min(at + _ENTITIES_AT_ONCE, len(index))
        rows = order[starts[at] : starts[stop]]
        _fold_entities(view, store, stored_keys[at:stop], _taken(prepared, rows), codes[rows] - at, end, prune_us)
    return table.num_rows, len(index)


def _taken(prepared: PreparedEvents, rows: Ints) -> PreparedEvents:
    return PreparedEvents(
        rows=prepared.rows[rows],
        event_time=prepared.event_time[rows],
        ingest_time=prepared.ingest_time[rows],
        values=take_columns(prepared.values, rows),
        flags=take_columns(prepared.flags, rows),
        dictionaries=prepared.dictionaries,
        is_float=prepared.is_float,
    )


def _fold_entities(
    view: ViewPlan,
    store: OnlineStore,
    keys: Sequence[bytes],
    fresh: PreparedEvents,
    codes: Ints,
    bound_us: int,
    reach_us: int,
) -> None:
    """Merge new events of some entities with their stored ones, drop what cannot matter, and write the states."""
    shape = StateShape.of(view)
    stored = store.read(keys)
    old = {i: decode_state(shape, stored[key]) for i, key in enumerate(keys) if key in stored}
    bounds = np.full(len(keys), NOTHING_YET, dtype=np.int64)
    for i, state in old.items():
        bounds[i] = state.bound_us
    unknown = np.flatnonzero(fresh.ingest_time >= bounds[codes])
    merged, merged_codes = _merge(shape, old, _taken(fresh, unknown), codes[unknown])
    block = arrange(merged, merged_codes, len(keys))
    kept = still_matter(view, block, reach_us)
    store.write(_encoded(shape, keys, block, kept, np.maximum(bounds, bound_us)))


def _merge(
    shape: StateShape, old: Mapping[int, EntityState], fresh: PreparedEvents, codes: Ints
) -> tuple[PreparedEvents, Ints]:
    """Put stored and new events together, coded inputs in one dictionary for all."""
    if not old:
        return fresh, codes
    rows = np.concatenate([state.rows for state in old.values()])
    flags = np.concatenate([state.flags for state in old.values()], axis=1)
    lengths = [len(state.rows) for state in old.values()]
    old_codes = np.repeat(np.fromiter(old, dtype=np.int64, count=len(old)), lengths)
    values = np.concatenate([rows.T[2:], fresh.values], axis=1)
    dictionaries = list(fresh.dictionaries)
    for i, dtype in enumerate(shape.coded):
        if dtype is not None:
            known = [state.dictionaries[i] or () for state in old.values()]
            every = pa.concat_arrays([*(pa.array(d, type=dtype.arrow) for d in known), fresh.dictionaries[i]])
            words, dictionaries[i] = to_words(every, dtype)
            starts = np.cumsum([0, *map(len, known)])
            shift = np.concatenate([np.repeat(starts[:-1], lengths), np.full(len(codes), starts[-1])])
            has_value = np.concatenate([flags[i], fresh.flags[i]]) == 2
            values[i] = np.where(has_value, words[np.where(has_value, values[i] + shift, 0)] if len(words) else 0, 0)
    merged = PreparedEvents(
        rows=np.arange(values.shape[1], dtype=np.int64),
        event_time=np.concatenate([rows[:, 0], fresh.event_time]),
        ingest_time=np.concatenate([rows[:, 1], fresh.ingest_time]),
        values=values,
        flags=np.concatenate([flags, fresh.flags], axis=1),
        dictionaries=tuple(dictionaries),
        is_float=fresh.is_float,
    )
    return merged, np.concatenate([old_codes, codes])


def _encoded(
    shape: StateShape, keys: Sequence[bytes], block: EventBlock, kept: npt.NDArray[np.bool_], bounds: Ints
) -> Iterator[tuple[bytes, bytes]]:
    rows = np.column_stack([block.event_time, block.ingest_time, *block.values])[kept]
    flags = block.flags[:, kept]
    ends = np.concatenate([[0], np.cumsum(kept)])[block.offsets].tolist()
    names = [None if found is None else found.to_pylist() for found in block.dictionaries]
    for i, key in enumerate(keys):
        own_rows, own_flags = rows[ends[i] : ends[i + 1]], flags[:, ends[i] : ends[i + 1]]
        own: tuple[tuple[object, ...] | None, ...] = ()
        if shape.has_dictionaries:
            own_rows, own = _own_dictionaries(shape, own_rows, own_flags, names)
        yield key, encode_state(shape, EntityState(int(bounds[i]), own_rows, own_flags, own))


def _own_dictionaries(
    shape: StateShape, rows: Ints, flags: npt.NDArray[np.uint8], names: Sequence[list[object] | None]
) -> tuple[Ints, tuple[tuple[object, ...] | None, ...]]:
    """Give one entity dictionaries of its own, with only the values it has; ranks keep their order."""
    rows = rows.copy()
    found: list[tuple[object, ...] | None] = []
    for i, dtype in enumerate(shape.coded):
        known = names[i]
        if dtype is None or known is None:
            found.append(None)
            continue
        has_value = flags[i] == 2
        used, ranks = np.unique(rows[has_value, 2 + i], return_inverse=True)
        rows[has_value, 2 + i] = ranks
        found.append(tuple(known[code] for code in used.tolist()))
    return rows, tuple(found)


def check_materialized(record: ViewRecord) -> None:
    """Make sure that a view has online state.

    Raises:
        StateError: Nothing was materialized yet.
    """
    if record.watermark_us == NOTHING_YET:
        raise StateError(
            "nothing is materialized yet",
            where=f"feature view '{record.view}'",
            hint=f"Run store.materialize(views=['{record.view}']).",
            code="not-materialized",
        )
