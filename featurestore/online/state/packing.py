"""Compiled loops that write states as words, read them, and answer from them: many entities and all views in one call.

One state is a run of 64-bit words: a header (magic, mark of the view, ingest bound, count of events), then column by
column event times, ingest times if the view has them, and the inputs' words, then the flags, one byte per input and
event, and the entity's dictionaries, both filled up to whole words. The last word holds the length of the dictionaries
in its low half and a CRC-32 of all bytes before in its high half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Bytes, Ints
from featurestore.core.statuses import NOT_FOUND
from featurestore.core.temporal import NOTHING_YET
from featurestore.kernels.core import evaluate_entities
from featurestore.kernels.events import NO_EVENT, sort_rows
from featurestore.kernels.jit import borrowed, inner, jit
from featurestore.kernels.program import MEMBER_VALUE
from featurestore.kernels.tasks import EventArrays, ProgramArrays, QueryArrays, ResultArrays

MAGIC = int.from_bytes(b"FSSTATE1", "little")
"""Name and version of the layout. A machine with another byte order reads another number and refuses the state."""

HEADER_WORDS = 4
FEWEST_WORDS = HEADER_WORDS + 1

SOUND, FOREIGN_LAYOUT, FOREIGN_VIEW, DAMAGED = range(4)


def _crc_tables() -> npt.NDArray[np.uint32]:
    """Return the tables that update a CRC-32 by eight bytes at a time, reflected, with the polynomial of zlib."""
    tables = np.zeros((8, 256), dtype=np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        tables[0, byte] = value
    for further in range(1, 8):
        before = tables[further - 1]
        tables[further] = (before >> np.uint32(8)) ^ tables[0][before & np.uint32(0xFF)]
    return tables


_CRC = _crc_tables()
_ALL = np.uint64(0xFFFFFFFF)


@inner
def _checksum(words: Ints, begin: int, end: int) -> Any:
    """Return the CRC-32 of some words and the low half of the word after them, as zlib gives it for their bytes.

    Source:
        Kounavis and Berry 2005, "slicing by 8".
    """
    crc = _ALL
    for i in range(begin, end):
        word = np.uint64(words[i]) ^ crc
        crc = np.uint64(0)
        for part in range(8):
            crc ^= np.uint64(_CRC[7 - part, (word >> np.uint64(8 * part)) & np.uint64(0xFF)])
    word = (np.uint64(words[end]) & _ALL) ^ crc
    crc = np.uint64(0)
    for part in range(4):
        crc ^= np.uint64(_CRC[3 - part, (word >> np.uint64(8 * part)) & np.uint64(0xFF)])
    return np.int64(crc ^ _ALL)


@inner
def _words_of(count: int, columns: int, inputs: int, dictionary_bytes: int) -> int:
    """Return the length of a state, its last word included."""
    return HEADER_WORDS + count * columns + (count * inputs + 7) // 8 + (dictionary_bytes + 7) // 8 + 1


@inner
def _check(words: Ints, begin: int, end: int, mark: int, columns: int, inputs: int) -> int:
    """Return the problem with one state, ``SOUND`` if there is none."""
    if end - begin < FEWEST_WORDS:
        return DAMAGED
    if words[begin] != MAGIC:
        return FOREIGN_LAYOUT
    if words[begin + 1] != mark:
        return FOREIGN_VIEW
    count, dictionary_bytes = words[begin + 3], words[end - 1] & 0xFFFFFFFF
    if count < 0 or count > end - begin:
        return DAMAGED
    return SOUND if _words_of(count, columns, inputs, dictionary_bytes) == end - begin else DAMAGED


@jit
def unpack(
    words: Ints, starts: Ints, mark: int, inputs: int, has_ingest: bool
) -> tuple[int, Ints, Ints, Ints, Ints, Ints, Bytes, Ints]:
    """Read concatenated states into one block.

    Args:
        words: All states.
        starts: State ``e`` is ``words[starts[e]:starts[e + 1]]``; an empty one means the entity has none.
        mark: The mark that the states must have.
        inputs: Count of the view's inputs.
        has_ingest: Whether the states hold ingest times.

    Returns:
        The problem with the first invalid state, ``SOUND`` if all are valid; offsets of events per entity; ingest
        bounds, ``NOTHING_YET`` where there is no state; event times; ingest times, empty unless ``has_ingest``; words
        and flags, one row per input; and per entity the begin and end of its dictionaries, in bytes.
    """
    words, starts = borrowed(words), borrowed(starts)
    entities = starts.size - 1
    columns = 1 + int(has_ingest) + inputs
    offsets = np.zeros(entities + 1, dtype=np.int64)
    bounds = np.empty(entities, dtype=np.int64)
    dictionaries = np.zeros((entities, 2), dtype=np.int64)
    problem = SOUND
    for entity in range(entities):
        begin, end = starts[entity], starts[entity + 1]
        offsets[entity + 1] = offsets[entity]
        bounds[entity] = NOTHING_YET
        if begin < end and problem == SOUND:
            problem = _check(words, begin, end, mark, columns, inputs)
            if problem == SOUND:
                bounds[entity] = words[begin + 2]
                offsets[entity + 1] += words[begin + 3]
    events = offsets[entities] if problem == SOUND else 0
    times = np.empty(events, dtype=np.int64)
    ingests = np.empty(events if has_ingest else 0, dtype=np.int64)
    values = np.empty((inputs, events), dtype=np.int64)
    flags = np.empty((inputs, events), dtype=np.uint8)
    raw = words.view(np.uint8)
    to_times, to_ingests, to_values, to_flags = borrowed(times), borrowed(ingests), borrowed(values), borrowed(flags)
    for entity in range(entities if problem == SOUND else 0):
        first, stop = offsets[entity], offsets[entity + 1]
        begin, end = starts[entity], starts[entity + 1]
        if begin == end:
            continue
        count = stop - first
        at = begin + HEADER_WORDS
        for event in range(count):
            to_times[first + event] = words[at + event]
        at += count
        if has_ingest:
            for event in range(count):
                to_ingests[first + event] = words[at + event]
            at += count
        for i in range(inputs):
            for event in range(count):
                to_values[i, first + event] = words[at + event]
            at += count
        for i in range(inputs):
            for event in range(count):
                to_flags[i, first + event] = raw[8 * at + i * count + event]
        at += (count * inputs + 7) // 8
        dictionaries[entity, 0] = 8 * at
        dictionaries[entity, 1] = 8 * at + (words[end - 1] & 0xFFFFFFFF)
    return problem, offsets, bounds, times, ingests, values, flags, dictionaries


@jit
def pack(
    offsets: Ints,
    times: Ints,
    ingests: Ints,
    values: Ints,
    flags: Bytes,
    bounds: Ints,
    mark: int,
    has_ingest: bool,
    packed: Bytes,
    packed_offsets: Ints,
) -> tuple[Ints, Ints]:
    """Concatenate the states of all entities of a block, the inverse of ``unpack``.

    Args:
        offsets: Events of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        times: Event times.
        ingests: Ingest times; left out unless ``has_ingest``.
        values: Words, one row per input.
        flags: Membership, one row per input.
        bounds: Ingest bound of each entity.
        mark: The view's mark.
        has_ingest: Whether ingest times are written.
        packed: Concatenated dictionaries of all entities.
        packed_offsets: Those of entity ``e`` are ``packed[packed_offsets[e]:packed_offsets[e + 1]]``.

    Returns:
        The words, and where each state begins (one more than there are entities).
    """
    entities = offsets.size - 1
    inputs = values.shape[0]
    columns = 1 + int(has_ingest) + inputs
    starts = np.zeros(entities + 1, dtype=np.int64)
    for entity in range(entities):
        count = offsets[entity + 1] - offsets[entity]
        own = packed_offsets[entity + 1] - packed_offsets[entity]
        starts[entity + 1] = starts[entity] + _words_of(count, columns, inputs, own)
    words = np.zeros(starts[entities], dtype=np.int64)
    raw = words.view(np.uint8)
    for entity in range(entities):
        first, stop = offsets[entity], offsets[entity + 1]
        begin, count = starts[entity], stop - first
        words[begin] = MAGIC
        words[begin + 1] = mark
        words[begin + 2] = bounds[entity]
        words[begin + 3] = count
        at = begin + HEADER_WORDS
        for event in range(count):
            words[at + event] = times[first + event]
        at += count
        if has_ingest:
            for event in range(count):
                words[at + event] = ingests[first + event]
            at += count
        for i in range(inputs):
            for event in range(count):
                words[at + event] = values[i, first + event]
            at += count
        for i in range(inputs):
            for event in range(count):
                raw[8 * at + i * count + event] = flags[i, first + event]
        at += (count * inputs + 7) // 8
        low, high = packed_offsets[entity], packed_offsets[entity + 1]
        for byte in range(high - low):
            raw[8 * at + byte] = packed[low + byte]
        last = starts[entity + 1] - 1
        words[last] = high - low
        words[last] |= _checksum(words, begin, last) << 32
    return words, starts


@jit
def rank(offsets: Ints, words: Ints, flags: Bytes) -> tuple[Ints, Ints]:
    """Replace codes of one dictionary for all entities by codes of one dictionary per entity, in place and in order.

    Args:
        offsets: Events of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        words: Codes; changed.
        flags: Which events have a value; the words of others become 0.

    Returns:
        The codes that each entity uses, ascending, entity by entity; and the start of each entity's codes.
    """
    used = np.empty(words.size, dtype=np.int64)
    used_offsets = np.zeros(offsets.size, dtype=np.int64)
    order = np.arange(words.size)
    ranks = np.zeros(words.size, dtype=np.int64)
    filled = 0
    for entity in range(offsets.size - 1):
        begin, end = offsets[entity], offsets[entity + 1]
        sort_rows(begin, end, order, words)
        first = filled
        for place in range(begin, end):
            i = order[place]
            if flags[i] == MEMBER_VALUE:
                if filled == first or used[filled - 1] != words[i]:
                    used[filled] = words[i]
                    filled += 1
                ranks[i] = filled - 1 - first
        used_offsets[entity + 1] = filled
    for i in range(words.size):
        words[i] = ranks[i]
    return used[:filled].copy(), used_offsets


# Columns of the table of views.
VIEW_MARK, VIEW_INPUTS, VIEW_HAS_INGEST, VIEW_PERIOD, VIEW_LAG, VIEW_INCLUSIVE = range(6)
VIEW_WINDOWS, VIEW_GROUPS, VIEW_FEATURES, VIEW_ROWS, VIEW_STATUSES = range(6, 11)
VIEW_COLUMNS = 11


@jit
def answer_views(
    states: Ints,
    starts: Ints,
    views: Ints,
    windows: Ints,
    groups: Ints,
    features: Ints,
    folds: Ints,
    finishes: Ints,
    as_of_us: int,
    watermarks: Ints,
    words: Ints,
    statuses: Bytes,
    newest: Ints,
    dictionaries: Ints,
) -> tuple[int, int, bool]:
    """Answer all features of all views of a service for some entities at one instant.

    Args:
        states: The entities' states of the first view, followed by those of the second, and so on.
        starts: The start of each state, followed by the end of the last; an empty state means that there is none.
        views: One row per view: the layout of its states, its policy, and the start of its rows in the other tables;
            and one row of ends.
        windows: The tables of windows of the programs of all views, concatenated.
        groups: The tables of groups, likewise.
        features: The tables of features, likewise.
        folds: Addresses of the kernels of all programs, concatenated.
        finishes: Addresses of the finishing kernels, likewise.
        as_of_us: Instant of the answer.
        watermarks: One per view.
        words: Result; rows as the programs define them, view after view; zeros at first.
        statuses: Result, one row per feature.
        newest: Result, one row per view.
        dictionaries: Result, per state the begin and end of its dictionaries, in bytes.

    Returns:
        The problem with a state, ``SOUND`` if there is none; its view; and whether a sum did not fit its dtype.
    """
    entities = newest.shape[1]
    query_offsets = np.arange(entities + 1)
    as_of = np.full(entities, as_of_us)
    overflowed = False
    statuses[:] = NOT_FOUND
    newest[:] = NO_EVENT
    for v in range(views.shape[0] - 1):
        view, following = views[v], views[v + 1]
        problem, offsets, _, times, ingests, values, flags, places = unpack(
            states,
            starts[v * entities : (v + 1) * entities + 1],
            view[VIEW_MARK],
            view[VIEW_INPUTS],
            view[VIEW_HAS_INGEST] != 0,
        )
        if problem != SOUND:
            return problem, v, False
        for entity in range(entities):
            dictionaries[v * entities + entity, 0] = places[entity, 0]
            dictionaries[v * entities + entity, 1] = places[entity, 1]
        group_rows = slice(view[VIEW_GROUPS], following[VIEW_GROUPS])
        feature_rows = slice(view[VIEW_FEATURES], following[VIEW_FEATURES])
        does_overflow = evaluate_entities(
            0,
            entities,
            EventArrays(offsets, times, ingests if view[VIEW_HAS_INGEST] != 0 else times, values, flags),
            QueryArrays(query_offsets, as_of, np.full(entities, watermarks[v]), query_offsets[:entities]),
            ProgramArrays(
                view[VIEW_PERIOD : VIEW_INCLUSIVE + 1],
                windows[view[VIEW_WINDOWS] : following[VIEW_WINDOWS]],
                groups[group_rows],
                features[feature_rows],
                folds[group_rows],
                finishes[feature_rows],
            ),
            ResultArrays(
                words[view[VIEW_ROWS] : following[VIEW_ROWS]],
                statuses[view[VIEW_STATUSES] : following[VIEW_STATUSES]],
                newest[v],
            ),
        )
        overflowed = overflowed or does_overflow
    return SOUND, -1, overflowed
