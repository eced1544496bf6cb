"""Events as the kernels want them, and the one order in which events stand.

The module must not know how expressions are evaluated or features computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featurestore.core.columns import Bytes, Ints
from featurestore.kernels.jit import jit

NO_EVENT = -(2**63)
"""Stands for "no event was seen" where an event time is expected."""


@dataclass(frozen=True)
class PreparedEvents:
    """Events of a view after its ``where`` and its expressions, in the order of the table they came from.

    Attributes:
        rows: Indices of the rows of that table that the view's ``where`` let through, ascending.
        event_time: Microseconds, one per row kept.
        ingest_time: Microseconds; equal to ``event_time`` if the source names no column for it.
        values: 64-bit words, one row per input of the view.
        flags: ``NOT_MEMBER``, ``MEMBER_NULL`` or ``MEMBER_VALUE``, one row per input.
        dictionaries: Per input the sorted values that its words are codes of; ``None`` if words are values.
        is_float: Per input whether its words are the bits of floats.
    """

    rows: Ints
    event_time: Ints
    ingest_time: Ints
    values: Ints
    flags: Bytes
    dictionaries: tuple[pa.Array | None, ...]
    is_float: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class EventBlock:
    """Events of many entities, sorted by (entity, event_time, ingest_time, content).

    Attributes:
        offsets: Events of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        event_time: Microseconds.
        ingest_time: Microseconds.
        values: Words, one row per input.
        flags: Membership, one row per input.
        dictionaries: Per input the values its words are codes of; empty where each entity has its own.
    """

    offsets: Ints
    event_time: Ints
    ingest_time: Ints
    values: Ints
    flags: Bytes
    dictionaries: tuple[pa.Array | None, ...] = ()

    def __len__(self) -> int:
        return len(self.event_time)


@jit
def _group(codes: Ints, count: int, offsets: Ints, rows: Ints) -> None:
    """Sort row numbers by code, stable; rows with a negative code are left out."""
    for i in range(codes.size):
        if codes[i] >= 0:
            offsets[codes[i] + 1] += 1
    for entity in range(count):
        offsets[entity + 1] += offsets[entity]
    place = offsets[:count].copy()
    for i in range(codes.size):
        if codes[i] >= 0:
            rows[place[codes[i]]] = i
            place[codes[i]] += 1


@jit
def is_before(left: int, right: int, times: Ints, ingests: Ints) -> bool:
    """Tell whether one row stands strictly before another."""
    if times[left] != times[right]:
        return bool(times[left] < times[right])
    return bool(ingests[left] < ingests[right])


@jit
def _insert_sort(begin: int, end: int, rows: Ints, times: Ints, ingests: Ints) -> None:
    for i in range(begin + 1, end):
        row = rows[i]
        place = i
        while place > begin and is_before(row, rows[place - 1], times, ingests):
            rows[place] = rows[place - 1]
            place -= 1
        rows[place] = row


@jit
def _radix_sort(begin: int, end: int, rows: Ints, keys: Ints) -> None:
    """Sort a segment of rows by ``keys[row]``, stable: least significant digits first."""
    count = end - begin
    digit_bits = 8 if count < 8192 else 11
    lowest = keys[rows[begin]]
    highest = lowest
    for i in range(begin, end):
        lowest = min(lowest, keys[rows[i]])
        highest = max(highest, keys[rows[i]])
    own = np.empty(count, dtype=np.int64)
    for i in range(count):
        own[i] = keys[rows[begin + i]] - lowest
    current = rows[begin:end].copy()
    own_next = np.empty(count, dtype=np.int64)
    current_next = np.empty(count, dtype=np.int64)
    mask = (1 << digit_bits) - 1
    shift = 0
    while shift < 63 and (highest - lowest) >> shift > 0:
        places = np.zeros(mask + 2, dtype=np.int64)
        for i in range(count):
            places[((own[i] >> shift) & mask) + 1] += 1
        for digit in range(mask + 1):
            places[digit + 1] += places[digit]
        for i in range(count):
            digit = (own[i] >> shift) & mask
            own_next[places[digit]] = own[i]
            current_next[places[digit]] = current[i]
            places[digit] += 1
        own, own_next = own_next, own
        current, current_next = current_next, current
        shift += digit_bits
    rows[begin:end] = current


_INSERTION_LIMIT = 40


@jit
def _sort_times(offsets: Ints, first: int, stop: int, rows: Ints, times: Ints, ingests: Ints) -> bool:
    """Sort each entity's rows by (event time, ingest time); return whether any two are equal in both.

    Segments that stand in order already, as time-ordered files give them, are only looked at.
    """
    has_ties = False
    shares_times = times.ctypes.data == ingests.ctypes.data
    for entity in range(first, stop):
        begin, end = offsets[entity], offsets[entity + 1]
        for i in range(begin + 1, end):
            if is_before(rows[i], rows[i - 1], times, ingests):
                if end - begin <= _INSERTION_LIMIT:
                    _insert_sort(begin, end, rows, times, ingests)
                else:
                    if not shares_times:
                        _radix_sort(begin, end, rows, ingests)
                    _radix_sort(begin, end, rows, times)
                break
        for i in range(begin + 1, end):
            if times[rows[i - 1]] == times[rows[i]] and ingests[rows[i - 1]] == ingests[rows[i]]:
                has_ties = True
                break
    return has_ties


@jit
def _tied(offsets: Ints, rows: Ints, times: Ints, ingests: Ints, run_of: Ints) -> int:
    """Number the runs of events that are equal in entity and both times; -1 for events that are alone."""
    runs = 0
    for entity in range(offsets.size - 1):
        for i in range(offsets[entity] + 1, offsets[entity + 1]):
            left, right = rows[i - 1], rows[i]
            if times[left] == times[right] and ingests[left] == ingests[right]:
                if run_of[i - 1] < 0:
                    run_of[i - 1] = runs
                    runs += 1
                run_of[i] = run_of[i - 1]
    return runs


_PARALLEL_EVENTS = 100_000


def in_parallel(run: Callable[[int, int], bool], offsets: Ints, threads: int) -> bool:
    """Run a kernel over all entities, in ranges of about equally many events.

    Args:
        run: Takes the first entity and one past the last; must release the GIL to gain anything.
        offsets: Events per entity, as in ``EventBlock``.
        threads: How many threads to use; one is used for few events.

    Returns:
        Whether any range returned true.
    """
    entities, events = len(offsets) - 1, int(offsets[-1])
    if threads <= 1 or events < _PARALLEL_EVENTS:
        return run(0, entities)
    marks = np.linspace(0, events, 8 * threads + 1)[1:-1]
    cuts = sorted({0, entities, *np.searchsorted(offsets, marks).tolist()})
    with ThreadPoolExecutor(threads) as pool:
        return any(list(pool.map(run, cuts[:-1], cuts[1:])))


def time_order(
    codes: Ints, entity_count: int, event_time: Ints, ingest_time: Ints, *, threads: int = 1
) -> tuple[Ints, Ints, bool]:
    """Sort events by (entity, event_time, ingest_time).

    Args:
        codes: Entity of each event, 0 to ``entity_count - 1``; events with a negative code are left out.
        entity_count: Count of entities.
        event_time: Microseconds.
        ingest_time: Microseconds; pass ``event_time`` itself if there is no other.
        threads: How many threads share the entities.

    Returns:
        Row numbers in order; offsets per entity (``entity_count + 1``); whether any events are equal in all three, so
        that only their content can order them.
    """
    offsets = np.zeros(entity_count + 1, dtype=np.int64)
    rows = np.empty(int(np.count_nonzero(codes >= 0)), dtype=np.int64)
    _group(codes, entity_count, offsets, rows)
    has_ties = in_parallel(
        lambda first, stop: _sort_times(offsets, first, stop, rows, event_time, ingest_time), offsets, threads
    )
    return rows, offsets, has_ties


def tied_places(offsets: Ints, rows: Ints, event_time: Ints, ingest_time: Ints) -> tuple[Ints, Ints]:
    """Find events equal in entity and both times.

    Returns:
        Places within ``rows`` of all such events, ascending, and for each the number of the run of equals it is in.
    """
    run_of = np.full(len(rows), -1, dtype=np.int64)
    _tied(offsets, rows, event_time, ingest_time, run_of)
    places = np.flatnonzero(run_of >= 0)
    return places, run_of[places]


def order_by_content(places: Ints, runs: Ints, rows: Ints, content: Sequence[tuple[Ints, Bytes]]) -> None:
    """Order tied events by their content, in place: input by input in plan order, null first, then ascending.

    This is the only rule for ties: events equal in all inputs are interchangeable, so no file, partition or row
    position can matter.

    Args:
        places: Places of the tied events in ``rows``, as ``tied_places`` gives them.
        runs: The run of each.
        rows: Row numbers; reordered within runs.
        content: Per input the order keys and the flags of the tied events, in the order of ``places``.
    """
    keys: list[npt.NDArray[np.generic]] = []
    for words, flags in reversed(content):
        keys += [words, flags]
    order = np.lexsort([*keys, runs])
    rows[places] = rows[places][order]


def sort_keys(words: Ints, *, is_float: bool) -> Ints:
    """Return integers that order as words do: floats by value, everything else as it is."""
    if not is_float:
        return words
    return words ^ ((words >> 63) & np.int64(0x7FFFFFFFFFFFFFFF))


def take_columns(matrix: npt.NDArray[Any], rows: Ints) -> npt.NDArray[Any]:
    """Pick columns of a matrix row by row, which is several times faster than NumPy's indexing of both axes."""
    picked = np.empty((matrix.shape[0], len(rows)), dtype=matrix.dtype)
    for i in range(matrix.shape[0]):
        np.take(matrix[i], rows, out=picked[i], mode="clip")
    return picked


@jit
def move(row: npt.NDArray[Any], target: Ints, default: int) -> None:
    """Move the first ``len(target)`` items of a row to their targets, in place; the others become the default."""
    first = row[: target.size].copy()
    if target.size < row.size:
        row[:] = default
    for i in range(target.size):
        row[target[i]] = first[i]


def arrange(prepared: PreparedEvents, codes: Ints, entity_count: int, *, threads: int = 1) -> EventBlock:
    """Put prepared events into the order the kernels read them in.

    Args:
        prepared: Events in any order.
        codes: Entity of each, 0 to ``entity_count - 1``; negative ones are left out.
        entity_count: Count of entities.
        threads: How many threads share the entities.

    Returns:
        The block; the same for every order of the events given.
    """
    rows, offsets = _ordered(prepared, prepared.values, codes, entity_count, threads)
    return _gathered(prepared, prepared.values, offsets, rows)


def arrange_kept(
    prepared: PreparedEvents,
    inputs: Sequence[Ints],
    codes: Ints,
    entity_count: int,
    choose: Callable[[EventBlock], npt.NDArray[np.bool_]],
) -> EventBlock:
    """Do the same with only some of the events; the others' values are never moved.

    Args:
        prepared: Events in any order, without their words.
        inputs: Their words, input by input.
        codes: Entity of each, 0 to ``entity_count - 1``; negative ones are left out.
        entity_count: Count of entities.
        choose: Tells which events of a block to keep. The block it is given has times and flags, but no values.

    Returns:
        The block of those.
    """
    rows, offsets, seen, kept = _chosen(prepared, inputs, codes, entity_count, choose)
    if kept.all():
        return replace(seen, values=_taken(inputs, rows))
    offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
    return _gathered(prepared, inputs, offsets, rows[kept])


def kept_places(
    prepared: PreparedEvents,
    inputs: Sequence[Ints],
    codes: Ints,
    entity_count: int,
    choose: Callable[[EventBlock], npt.NDArray[np.bool_]],
) -> Ints:
    """Return the places of the events that ``arrange_kept`` keeps, ascending."""
    rows, _, _, kept = _chosen(prepared, inputs, codes, entity_count, choose)
    return np.sort(rows[kept])


def _chosen(
    prepared: PreparedEvents,
    inputs: Sequence[Ints],
    codes: Ints,
    entity_count: int,
    choose: Callable[[EventBlock], npt.NDArray[np.bool_]],
) -> tuple[Ints, Ints, EventBlock, npt.NDArray[np.bool_]]:
    """Return the places in kernel order, offsets per entity, what the choice was made by, and the choice."""
    rows, offsets = _ordered(prepared, inputs, codes, entity_count, 1)
    seen = _gathered(prepared, (), offsets, rows)
    return rows, offsets, seen, choose(seen)


def _taken(inputs: Sequence[Ints] | Ints, rows: Ints) -> Ints:
    picked = np.empty((len(inputs), len(rows)), dtype=np.int64)
    for i, words in enumerate(inputs):
        np.take(words, rows, out=picked[i], mode="clip")
    return picked


def _gathered(prepared: PreparedEvents, inputs: Sequence[Ints] | Ints, offsets: Ints, rows: Ints) -> EventBlock:
    event_time = prepared.event_time[rows]
    is_same = prepared.ingest_time is prepared.event_time
    return EventBlock(
        offsets=offsets,
        event_time=event_time,
        ingest_time=event_time if is_same else prepared.ingest_time[rows],
        values=_taken(inputs, rows),
        flags=_taken_flags(prepared.flags, rows),
        dictionaries=prepared.dictionaries,
    )


def _taken_flags(flags: Bytes, rows: Ints) -> Bytes:
    """Pick columns of flags; most inputs have the same flag everywhere, which needs no picking."""
    picked = np.empty((len(flags), len(rows)), dtype=np.uint8)
    for own, target in zip(flags, picked, strict=True):
        if len(own) and own.min() == own.max():
            target[:] = own[0]
        else:
            np.take(own, rows, out=target, mode="clip")
    return picked


def _ordered(
    prepared: PreparedEvents, inputs: Sequence[Ints] | Ints, codes: Ints, entity_count: int, threads: int
) -> tuple[Ints, Ints]:
    """Return the rows in kernel order, and offsets per entity."""
    rows, offsets, has_ties = time_order(
        codes, entity_count, prepared.event_time, prepared.ingest_time, threads=threads
    )
    if has_ties:
        places, runs = tied_places(offsets, rows, prepared.event_time, prepared.ingest_time)
        tied = rows[places]
        content = [
            (sort_keys(words[tied], is_float=is_float), flags[tied])
            for words, is_float, flags in zip(inputs, prepared.is_float, prepared.flags, strict=True)
        ]
        order_by_content(places, runs, rows, content)
    return rows, offsets
