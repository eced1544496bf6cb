"""First and last values and lists of them: the members nearest to either end of the window.

Each way picks the members' indices, oldest first; one function writes what they say.
"""

from __future__ import annotations

import numpy as np

from featurestore.core import temporal
from featurestore.core.columns import Ints
from featurestore.core.statuses import EXPIRED, NULL, PRESENT
from featurestore.kernels.jit import borrowed, inlined, inner, keep
from featurestore.kernels.ordering import as_word
from featurestore.kernels.program import (
    FEATURE_FINISH,
    FEATURE_INDEX,
    FEATURE_PARAM,
    FEATURE_ROW,
    FEATURE_TTL,
    FEATURE_WINDOW,
    FIRST,
    FIRST_N,
    GROUP_LEVEL,
    GROUP_NEED,
    LAST_N,
    MEMBER_VALUE,
    NO_TTL,
    SINCE_LAST,
)
from featurestore.kernels.tasks import GroupTask, Turns

_is_expired = inner(temporal.is_expired)


@inner
def scan_ordered(task: GroupTask) -> None:
    """Walk each window of each query from its end until there are enough members.

    Args:
        task: The group.
    """
    flags, ingests, edges, need = task.flags, task.ingests, task.edges, task.group[GROUP_NEED]
    own_picked = np.empty(max(1, task.group[GROUP_LEVEL]), dtype=np.int64)
    picked = borrowed(own_picked)
    for q in range(task.target.size):
        bound = task.ingest_bounds[q]
        for f in range(task.features.shape[0]):
            begin, end = edges[task.features[f, FEATURE_WINDOW], q], edges[edges.shape[0] - 1, q]
            limit = _limit(task.features[f])
            count = 0
            if _is_from_begin(task.features[f]):
                i = begin
                while i < end and count < limit:
                    if flags[i] >= need and ingests[i] < bound:
                        picked[count] = i
                        count += 1
                    i += 1
            else:
                i = end - 1
                while i >= begin and count < limit:
                    if flags[i] >= need and ingests[i] < bound:
                        picked[count] = i
                        count += 1
                    i -= 1
                _reverse(picked, count)
            _write_ordered(task, f, q, picked, count)
    keep(own_picked)


@inner
def sweep_ordered(task: GroupTask) -> None:
    """List all members once; those of a window are a run of that list.

    Args:
        task: The group; every event before a query's horizon is known to it.
    """
    events, edges, need = task.values.size, task.edges, task.group[GROUP_NEED]
    own_members, own_before = np.empty(events, dtype=np.int64), np.zeros(events + 1, dtype=np.int64)
    members, before = borrowed(own_members), borrowed(own_before)
    for i in range(events):
        before[i + 1] = before[i]
        if task.flags[i] >= need:
            members[before[i]] = i
            before[i + 1] += 1
    for q in range(task.target.size):
        for f in range(task.features.shape[0]):
            begin, end = edges[task.features[f, FEATURE_WINDOW], q], edges[edges.shape[0] - 1, q]
            count = min(_limit(task.features[f]), before[end] - before[begin])
            first = before[begin] if _is_from_begin(task.features[f]) else before[end] - count
            _write_ordered(task, f, q, members[first : first + count], count)
    keep(own_members)
    keep(own_before)


@inner
def insert_ordered(task: GroupTask, turns: Turns) -> None:
    """Set the bits of members when they become visible, and look for set bits from the window's end.

    Args:
        task: The group.
        turns: When its events become visible.
    """
    events, edges, need = task.values.size, task.edges, task.group[GROUP_NEED]
    own_picked = np.empty(max(1, task.group[GROUP_LEVEL]), dtype=np.int64)
    own_bits = np.zeros((events >> 5) + 1, dtype=np.int64)
    picked, bits = borrowed(own_picked), borrowed(own_bits)
    turn, order = turns.turn, turns.order
    entered = 0
    for q in range(task.target.size):
        while entered < events and turn[order[entered]] <= q:
            i = order[entered]
            if task.flags[i] >= need:
                bits[i >> 5] |= 1 << (i & 31)
            entered += 1
        for f in range(task.features.shape[0]):
            begin, end = edges[task.features[f, FEATURE_WINDOW], q], edges[edges.shape[0] - 1, q]
            limit = _limit(task.features[f])
            count = 0
            if _is_from_begin(task.features[f]):
                i = _next_bit(bits, begin, end)
                while i < end and count < limit:
                    picked[count] = i
                    count += 1
                    i = _next_bit(bits, i + 1, end)
            else:
                i = _previous_bit(bits, begin, end)
                while i >= begin and count < limit:
                    picked[count] = i
                    count += 1
                    i = _previous_bit(bits, begin, i)
                _reverse(picked, count)
            _write_ordered(task, f, q, picked, count)
    keep(own_picked)
    keep(own_bits)


@inner
def _is_from_begin(feature: Ints) -> bool:
    """Return whether a feature wants the oldest members of the window."""
    return bool(feature[FEATURE_FINISH] == FIRST or feature[FEATURE_FINISH] == FIRST_N)


@inner
def _limit(feature: Ints) -> int:
    """Return how many members a feature wants at most."""
    finish = feature[FEATURE_FINISH]
    return feature[FEATURE_PARAM] if finish == FIRST_N or finish == LAST_N else 1


@inner
def _reverse(picked: Ints, count: int) -> None:
    """Reverse the first ``count`` items in place."""
    for j in range(count >> 1):
        picked[j], picked[count - 1 - j] = picked[count - 1 - j], picked[j]


@inner
def _next_bit(bits: Ints, begin: int, end: int) -> int:
    """Return the first set bit in [begin, end), ``end`` if there is none; words hold 32 bits."""
    i = begin
    while i < end:
        rest = bits[i >> 5] >> (i & 31)
        if rest == 0:
            i = ((i >> 5) + 1) << 5
            continue
        while rest & 1 == 0:
            rest >>= 1
            i += 1
        return min(i, end)
    return end


@inner
def _previous_bit(bits: Ints, begin: int, end: int) -> int:
    """Return the last set bit in [begin, end), ``begin - 1`` if there is none; words hold 32 bits."""
    i = end - 1
    while i >= begin:
        rest = bits[i >> 5] & ((2 << (i & 31)) - 1)
        if rest == 0:
            i = ((i >> 5) << 5) - 1
            continue
        while (rest >> (i & 31)) & 1 == 0:
            i -= 1
        return max(i, begin - 1)
    return begin - 1


@inlined
def _write_ordered(task: GroupTask, f: int, query: int, picked: Ints, count: int) -> None:
    """Write what the picked members say: a value, a list of values, or the time that has passed.

    Args:
        task: The group.
        f: The feature.
        query: The query.
        picked: Indices of the members, oldest first.
        count: How many of them count.
    """
    feature, column = task.features[f], task.target[query]
    finish, row, index = feature[FEATURE_FINISH], feature[FEATURE_ROW], feature[FEATURE_INDEX]
    words, statuses = task.words, task.statuses
    words[row, column] = 0
    statuses[index, column] = NULL
    if count == 0:
        return
    event, as_of = picked[0], task.as_of[query]
    if finish == FIRST_N or finish == LAST_N:
        words[row, column] = count
        for j in range(count):
            words[row + 1 + j, column] = task.values[picked[j]]
        statuses[index, column] = PRESENT
    elif finish == SINCE_LAST:
        words[row, column] = as_word((as_of - task.times[event]) / feature[FEATURE_PARAM])
        statuses[index, column] = PRESENT
    elif feature[FEATURE_TTL] != NO_TTL and _is_expired(task.times[event], as_of, feature[FEATURE_TTL]):
        statuses[index, column] = EXPIRED
    elif task.flags[event] == MEMBER_VALUE:
        words[row, column] = task.values[event]
        statuses[index, column] = PRESENT
