"""Features that need all values of a window at once: distinct counts, quantiles, modes.

With few queries each window is read and sorted. With many, a window's values are kept in a tree over the ranks of all
values of the entity: an event enters it when the first query sees it, and leaves it when the window's lower edge has
passed. Both give the same values. The time per event of the tree grows with the logarithm of the count of distinct
values; the time per query of a scan grows with the length of the window.
"""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Bytes, Ints
from featurestore.core.statuses import NULL, PRESENT
from featurestore.kernels.exact import round_between
from featurestore.kernels.jit import borrowed, inlined, inner, keep
from featurestore.kernels.ordering import as_float, as_word, order_key, search
from featurestore.kernels.program import (
    DISTINCT,
    FEATURE_FINISH,
    FEATURE_INDEX,
    FEATURE_PARAM,
    FEATURE_ROW,
    FEATURE_WINDOW,
    GROUP_FLOAT,
    MEMBER_VALUE,
    MODE,
    end_of_window,
)
from featurestore.kernels.tasks import GroupTask, Turns


@inner
def scan_holistic(task: GroupTask) -> None:
    """Read and sort each window of each query.

    Args:
        task: The group.
    """
    is_float = task.group[GROUP_FLOAT] == 1
    values, flags, ingests, edges = task.values, task.flags, task.ingests, task.edges
    own_keys = np.empty(values.size, dtype=np.int64)
    keys = borrowed(own_keys)
    first = 0
    while first < task.features.shape[0]:
        stop = end_of_window(task.features, first)
        window = task.features[first, FEATURE_WINDOW]
        for q in range(task.target.size):
            bound = task.ingest_bounds[q]
            count = 0
            for i in range(edges[window, q], edges[edges.shape[0] - 1, q]):
                if flags[i] == MEMBER_VALUE and ingests[i] < bound:
                    keys[count] = order_key(values[i], is_float)
                    count += 1
            keys[:count].sort()
            for f in range(first, stop):
                finish = task.features[f, FEATURE_FINISH]
                value = 0
                if finish == DISTINCT:
                    value = _distinct(keys[:count])
                elif finish == MODE:
                    value = order_key(_most_frequent(keys[:count]), is_float) if count > 0 else 0
                elif count > 0:
                    low, share = _place(task.features[f], count)
                    value = _interpolated(keys[low], keys[min(low + 1, count - 1)], share, is_float)
                _write(task, f, q, value, count)
        first = stop
    keep(own_keys)


@inner
def sweep_holistic(task: GroupTask) -> None:
    """Keep the values of a window in a tree; events enter it in their order.

    Args:
        task: The group; every event before a query's horizon is known to it.
    """
    is_float = task.group[GROUP_FLOAT] == 1
    values, flags, edges = task.values, task.flags, task.edges
    ranked = _ranked(values, flags, is_float)
    half = _leaves(ranked)
    first = 0
    while first < task.features.shape[0]:
        stop = end_of_window(task.features, first)
        window = task.features[first, FEATURE_WINDOW]
        counts, often = _empty_tree(half)
        distinct = entered = left = 0
        for q in range(task.target.size):
            begin, end = edges[window, q], edges[edges.shape[0] - 1, q]
            for i in range(left, min(begin, entered)):
                if flags[i] == MEMBER_VALUE:
                    distinct += _count(counts, often, ranked, order_key(values[i], is_float), -1)
            left = begin
            for i in range(max(entered, begin), end):
                if flags[i] == MEMBER_VALUE:
                    distinct += _count(counts, often, ranked, order_key(values[i], is_float), 1)
            entered = end
            _write_from_tree(task, first, stop, q, counts, often, ranked, distinct)
        first = stop


@inner
def insert_holistic(task: GroupTask, turns: Turns) -> None:
    """Keep the values of a window in a tree; events enter it when they become visible.

    Args:
        task: The group.
        turns: When its events become visible.
    """
    is_float = task.group[GROUP_FLOAT] == 1
    values, flags, edges = task.values, task.flags, task.edges
    turn, order = turns.turn, turns.order
    ranked = _ranked(values, flags, is_float)
    half = _leaves(ranked)
    first = 0
    while first < task.features.shape[0]:
        stop = end_of_window(task.features, first)
        window = task.features[first, FEATURE_WINDOW]
        counts, often = _empty_tree(half)
        distinct = entered = left = 0
        for q in range(task.target.size):
            begin = edges[window, q]
            for i in range(left, begin):
                if turn[i] < q and flags[i] == MEMBER_VALUE:
                    distinct += _count(counts, often, ranked, order_key(values[i], is_float), -1)
            left = begin
            while entered < order.size and turn[order[entered]] <= q:
                i = order[entered]
                if i >= begin and flags[i] == MEMBER_VALUE:
                    distinct += _count(counts, often, ranked, order_key(values[i], is_float), 1)
                entered += 1
            _write_from_tree(task, first, stop, q, counts, often, ranked, distinct)
        first = stop


@inner
def _leaves(ranked: Ints) -> int:
    """Return how many leaves a tree over some values has: a power of two."""
    half = 1
    while half < ranked.size:
        half *= 2
    return half


@inner
def _empty_tree(half: int) -> tuple[Ints, Ints]:
    """Return a tree of no values: per node how many lie below it, and which leaf occurs most often.

    Node 1 is the root, the children of ``n`` are ``2 * n`` and ``2 * n + 1``, and the leaves begin at ``half``.
    """
    counts = np.zeros(2 * half, dtype=np.int64)
    often = np.arange(2 * half)
    for node in range(half - 1, 0, -1):
        often[node] = often[2 * node]
    return counts, often


@inlined
def _write_from_tree(
    task: GroupTask, first: int, stop: int, query: int, counts: Ints, often: Ints, ranked: Ints, distinct: int
) -> None:
    """Write the features of one window for one query.

    Args:
        task: The group.
        first: First feature of the window.
        stop: Index after the last.
        query: The query.
        counts: Per node of the tree how many values lie below it.
        often: Per node which leaf below it occurs most often.
        ranked: Keys of the leaves, ascending.
        distinct: How many different values the tree holds.
    """
    is_float, half, total = task.group[GROUP_FLOAT] == 1, counts.size >> 1, counts[1]
    for f in range(first, stop):
        finish = task.features[f, FEATURE_FINISH]
        value = 0
        if finish == DISTINCT:
            value = distinct
        elif finish == MODE:
            value = order_key(ranked[often[1] - half], is_float) if total > 0 else 0
        elif total > 0:
            low, share = _place(task.features[f], total)
            lower = ranked[_rank_at(counts, low)]
            upper = ranked[_rank_at(counts, low + 1)] if share > 0.0 else lower
            value = _interpolated(lower, upper, share, is_float)
        _write(task, f, query, value, total)


@inner
def _ranked(values: Ints, flags: Bytes, is_float: bool) -> Ints:
    """Return the keys of an entity's values, ascending, each once."""
    keys = np.empty(values.size, dtype=np.int64)
    count = 0
    for i in range(values.size):
        if flags[i] == MEMBER_VALUE:
            keys[count] = order_key(values[i], is_float)
            count += 1
    keys[:count].sort()
    kept = 0
    for i in range(count):
        if i == 0 or keys[i] != keys[i - 1]:
            keys[kept] = keys[i]
            kept += 1
    return keys[:kept]


@inner
def _count(counts: Ints, often: Ints, ranked: Ints, key: int, change: int) -> int:
    """Let a value enter or leave a tree.

    Args:
        counts: Per node how many values lie below it; changed.
        often: Per node which leaf below it occurs most often; changed.
        ranked: Keys of the leaves, ascending.
        key: Key of the value.
        change: 1 if it enters, -1 if it leaves.

    Returns:
        By how much the count of distinct values grows.
    """
    node = (counts.size >> 1) + search(ranked, 0, ranked.size, key)
    before = counts[node]
    counts[node] += change
    while node > 1:
        node >>= 1
        left, right = 2 * node, 2 * node + 1
        counts[node] = counts[left] + counts[right]
        # Of equally frequent values the smallest: the left one.
        often[node] = often[left] if counts[often[left]] >= counts[often[right]] else often[right]
    if change > 0:
        return 1 if before == 0 else 0
    return -1 if before == 1 else 0


@inner
def _rank_at(counts: Ints, place: int) -> int:
    """Return the rank of the value at a place among all that a tree holds, ascending from 0.

    Args:
        counts: Per node how many values lie below it.
        place: The place, below the count of all values.
    """
    half = counts.size >> 1
    node = 1
    while node < half:
        node *= 2
        if place >= counts[node]:
            place -= counts[node]
            node += 1
    return node - half


@inner
def _place(feature: Ints, count: int) -> tuple[int, float]:
    """Return where a quantile lies: the index of the lower of its two neighbours, and the share of the way to the next.

    Args:
        feature: Row of the program; its parameter is the bits of the quantile's rank, 0 to 1.
        count: Count of values.
    """
    place = as_float(feature[FEATURE_PARAM]) * (count - 1)
    low = int(np.floor(place))
    return low, place - low


@inner
def _interpolated(lower_key: int, upper_key: int, share: float, is_float: bool) -> int:
    """Return the word of a quantile between two neighbours, by linear interpolation that is rounded once.

    Args:
        lower_key: Key of the lower neighbour.
        upper_key: Key of the upper neighbour.
        share: Share of the way from the lower to the upper, 0 to below 1.
        is_float: Whether the words are the bits of floats.
    """
    lower, upper = order_key(lower_key, is_float), order_key(upper_key, is_float)
    return as_word(round_between(lower, upper, share, is_float) + 0.0)


@inner
def _distinct(keys: Ints) -> int:
    """Count the values of sorted keys, each once."""
    distinct = 0
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            distinct += 1
    return distinct


@inner
def _most_frequent(keys: Ints) -> int:
    """Return the most frequent of sorted keys, the smallest of equally frequent ones."""
    best, best_length = keys[0], 0
    begin = 0
    for i in range(1, keys.size + 1):
        if i == keys.size or keys[i] != keys[begin]:
            if i - begin > best_length:
                best, best_length = keys[begin], i - begin
            begin = i
    return best  # type: ignore[no-any-return]  # numba's scalar


@inlined
def _write(task: GroupTask, f: int, query: int, value: int, count: int) -> None:
    """Write a feature made of ``count`` values; over no values only a distinct count is present."""
    row, index, column = task.features[f, FEATURE_ROW], task.features[f, FEATURE_INDEX], task.target[query]
    is_present = count > 0 or task.features[f, FEATURE_FINISH] == DISTINCT
    task.words[row, column] = value if is_present else 0
    task.statuses[index, column] = PRESENT if is_present else NULL
