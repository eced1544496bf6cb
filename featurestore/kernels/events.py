"""Events in the form that the kernels read, and the one order in which events are sorted.

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
from featurestore.kernels.jit import inner, jit

NO_EVENT = -(2**63)
"""Event time that stands for "the query sees no event"."""


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
    """Sort row numbers by code, stable; rows with a negative code are left out.

    Args:
        codes: Code of each row, below ``count``.
        count: Count of codes.
        offsets: Zeros; receives the offset of each code's rows, and after the last their count.
        rows: Receives the row numbers.
    """
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


@inner
def is_before(left: int, right: int, times: Ints, ingests: Ints) -> bool:
    """Return whether one row comes strictly before another by (event time, ingest time).

    Args:
        left: Row number.
        right: Row number.
        times: Event times by row.
        ingests: Ingest times by row.
    """
    if times[left] != times[right]:
        return bool(times[left] < times[right])
    return bool(ingests[left] < ingests[right])


@inner
def _insert_sort(begin: int, end: int, rows: Ints, times: Ints, ingests: Ints) -> None:
    """Sort the segment [begin, end) of rows by (event time, ingest time), stable, in place.

    Args:
        begin: First index of the segment.
        end: Index after its last.
        rows: Row numbers; changed.
        times: Event times by row.
        ingests: Ingest times by row.
    """
    for i in range(begin + 1, end):
        row = rows[i]
        place = i
        while place > begin and is_before(row, rows[place - 1], times, ingests):
            rows[place] = rows[place - 1]
            place -= 1
        rows[place] = row


@inner
def _radix_sort(begin: int, end: int, rows: Ints, keys: Ints) -> None:
    """Sort the segment [begin, end) of rows by ``keys[row]``, stable, in place: least significant digits first.

    Args:
        begin: First index of the segment.
        end: Index after its last.
        rows: Row numbers; changed.
        keys: Keys by row.
    """
    count = end - begin
    digit_bits = 8 if count < 8192 else 11
    lowest = keys[rows[begin]]
    highest = lowest
    for i in range(begin, end):
        lowest = min(lowest, keys[rows[i]])
        highest = max(highest, keys[rows[i]])
    segment_keys = np.empty(count, dtype=np.int64)
    for i in range(count):
        segment_keys[i] = keys[rows[begin + i]] - lowest
    segment_rows = rows[begin:end].copy()
    next_keys = np.empty(count, dtype=np.int64)
    next_rows = np.empty(count, dtype=np.int64)
    mask = (1 << digit_bits) - 1
    shift = 0
    while shift < 63 and (highest - lowest) >> shift > 0:
        places = np.zeros(mask + 2, dtype=np.int64)
        for i in range(count):
            places[((segment_keys[i] >> shift) & mask) + 1] += 1
        for digit in range(mask + 1):
            places[digit + 1] += places[digit]
        for i in range(count):
            digit = (segment_keys[i] >> shift) & mask
            next_keys[places[digit]] = segment_keys[i]
            next_rows[places[digit]] = segment_rows[i]
            places[digit] += 1
        segment_keys, next_keys = next_keys, segment_keys
        segment_rows, next_rows = next_rows, segment_rows
        shift += digit_bits
    rows[begin:end] = segment_rows


_INSERTION_LIMIT = 40


@inner
def sort_rows(begin: int, end: int, rows: Ints, keys: Ints) -> None:
    """Sort the segment [begin, end) of rows by ``keys[row]``, stable, in place.

    Args:
        begin: First index of the segment.
        end: Index after its last.
        rows: Row numbers; changed.
        keys: Keys by row.
    """
    if end - begin <= _INSERTION_LIMIT:
        _insert_sort(begin, end, rows, keys, keys)
    else:
        _radix_sort(begin, end, rows, keys)


@jit
def _sort_times(offsets: Ints, first: int, stop: int, rows: Ints, times: Ints, ingests: Ints) -> bool:
    """Sort each entity's rows by (event time, ingest time).

    Segments that are sorted already, as time-ordered files give them, are only read.

    Args:
        offsets: Rows of entity ``e`` are ``rows[offsets[e]:offsets[e + 1]]``.
        first: First entity.
        stop: One past the last entity.
        rows: Row numbers; changed.
        times: Event times by row.
        ingests: Ingest times by row; ``times`` itself if there are no others.

    Returns:
        Whether any two rows of an entity are equal in both times.
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
    """Number the runs of events that are equal in entity and both times.

    Args:
        offsets: Rows of entity ``e`` are ``rows[offsets[e]:offsets[e + 1]]``.
        rows: Row numbers in kernel order.
        times: Event times by row.
        ingests: Ingest times by row.
        run_of: Holds -1; receives, per place in ``rows``, the number of its run where there is one.

    Returns:
        Count of runs.
    """
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
        ingest_time: Microseconds; ``event_time`` itself if the source has no ingest time.
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
    """Return integers that sort as the values of words do; words of floats are converted, all others are such."""
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
    """Move the first ``len(target)`` items of a row to their targets, in place; the others become the default.

    Args:
        row: The items; changed.
        target: Per item its index in the row, each once.
        default: Value of the items that are not a target.
    """
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
        The block; it is the same for every order of the prepared events.
    """
    rows, offsets = _kernel_order(prepared, prepared.values, codes, entity_count, threads)
    return _gather(prepared, prepared.values, offsets, rows)


def arrange_kept(
    prepared: PreparedEvents,
    inputs: Sequence[Ints],
    codes: Ints,
    entity_count: int,
    choose: Callable[[EventBlock], npt.NDArray[np.bool_]],
) -> EventBlock:
    """Put some of the prepared events into the order the kernels read them in; the others' values are never moved.

    Args:
        prepared: Events in any order, without their words.
        inputs: Their words, input by input.
        codes: Entity of each, 0 to ``entity_count - 1``; negative ones are left out.
        entity_count: Count of entities.
        choose: Returns which events of a block to keep. That block has times and flags, but no values.

    Returns:
        The block of those.
    """
    rows, offsets, seen, kept = _choose(prepared, inputs, codes, entity_count, choose)
    if kept.all():
        return replace(seen, values=_take_words(inputs, rows))
    offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
    return _gather(prepared, inputs, offsets, rows[kept])


def kept_places(
    prepared: PreparedEvents,
    inputs: Sequence[Ints],
    codes: Ints,
    entity_count: int,
    choose: Callable[[EventBlock], npt.NDArray[np.bool_]],
) -> Ints:
    """Return the places of the events that ``arrange_kept`` keeps, ascending."""
    rows, _, _, kept = _choose(prepared, inputs, codes, entity_count, choose)
    return np.sort(rows[kept])


def _choose(
    prepared: PreparedEvents,
    inputs: Sequence[Ints],
    codes: Ints,
    entity_count: int,
    choose: Callable[[EventBlock], npt.NDArray[np.bool_]],
) -> tuple[Ints, Ints, EventBlock, npt.NDArray[np.bool_]]:
    """Return the rows in kernel order, offsets per entity, the block that ``choose`` saw, and its choice."""
    rows, offsets = _kernel_order(prepared, inputs, codes, entity_count, 1)
    seen = _gather(prepared, (), offsets, rows)
    return rows, offsets, seen, choose(seen)


def _take_words(inputs: Sequence[Ints] | Ints, rows: Ints) -> Ints:
    """Pick columns of words, input by input."""
    picked = np.empty((len(inputs), len(rows)), dtype=np.int64)
    for i, words in enumerate(inputs):
        np.take(words, rows, out=picked[i], mode="clip")
    return picked


def _gather(prepared: PreparedEvents, inputs: Sequence[Ints] | Ints, offsets: Ints, rows: Ints) -> EventBlock:
    event_time = prepared.event_time[rows]
    is_same = prepared.ingest_time is prepared.event_time
    return EventBlock(
        offsets=offsets,
        event_time=event_time,
        ingest_time=event_time if is_same else prepared.ingest_time[rows],
        values=_take_words(inputs, rows),
        flags=_take_flags(prepared.flags, rows),
        dictionaries=prepared.dictionaries,
    )


def _take_flags(flags: Bytes, rows: Ints) -> Bytes:
    """Pick columns of flags. Most inputs have the same flag everywhere, which is only filled in."""
    picked = np.empty((len(flags), len(rows)), dtype=np.uint8)
    for source, target in zip(flags, picked, strict=True):
        if len(source) and source.min() == source.max():
            target[:] = source[0]
        else:
            np.take(source, rows, out=target, mode="clip")
    return picked


def _kernel_order(
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
