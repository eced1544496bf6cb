"""Features that need all values of a window at once: distinct counts, quantiles, modes.

With few questions each window is read and sorted. With many, a window's values are kept in a tree over the ranks of all
values of the entity: an event enters it when the first question sees it and leaves it when the window's lower edge has
passed. Both give the same values; the tree's time grows with the logarithm of how many values differ, where reading and
sorting grows with the length of the window.
"""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Bytes, Ints
from featurestore.core.statuses import NULL, PRESENT
from featurestore.kernels.exact import round_between
from featurestore.kernels.jit import jit
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
)


@jit
def fold_holistic(
    is_scanned: bool,
    is_late: bool,
    values: Ints,
    flags: Bytes,
    ingests: Ints,
    edge: Ints,
    known: Ints,
    turn: Ints,
    order: Ints,
    group: Ints,
    features: Ints,
    target: Ints,
    words: Ints,
    statuses: Bytes,
) -> None:
    """Fold the holistic features of one input of one entity; see ``core.evaluate_entities`` for the tables.

    Args:
        is_scanned: Whether every window is read and sorted.
        is_late: Whether events enter by their turns, and not in their order.
        values: Words of the input.
        flags: Which events have one.
        ingests: Their ingest times.
        edge: Per query the lower index of each window, and in the last row the upper index of all.
        known: Per query the ingest bound.
        turn: Per event the first query that sees it, if events enter by their turns.
        order: The events in the order of these.
        group: Row of the program.
        features: Rows of the program, those of one window behind each other.
        target: Per query the column of the result.
        words: Result.
        statuses: Result.
    """
    is_float = group[GROUP_FLOAT] == 1
    first = 0
    while first < features.shape[0]:
        last = first + 1
        while last < features.shape[0] and features[last, FEATURE_WINDOW] == features[first, FEATURE_WINDOW]:
            last += 1
        own = features[first:last]
        if is_scanned:
            _scan(is_float, values, flags, ingests, edge, known, own, target, words, statuses)
        else:
            _sweep(is_late, is_float, values, flags, edge, turn, order, own, target, words, statuses)
        first = last


@jit
def _scan(
    is_float: bool,
    values: Ints,
    flags: Bytes,
    ingests: Ints,
    edge: Ints,
    known: Ints,
    features: Ints,
    target: Ints,
    words: Ints,
    statuses: Bytes,
) -> None:
    """Read and sort the window of each query."""
    upper, window = edge.shape[0] - 1, features[0, FEATURE_WINDOW]
    keys = np.empty(values.size, dtype=np.int64)
    for q in range(known.size):
        count = 0
        for i in range(edge[window, q], edge[upper, q]):
            if flags[i] == MEMBER_VALUE and ingests[i] < known[q]:
                keys[count] = order_key(values[i], is_float)
                count += 1
        keys[:count].sort()
        for f in range(features.shape[0]):
            finish = features[f, FEATURE_FINISH]
            value = 0
            if finish == DISTINCT:
                value = _distinct(keys[:count])
            elif finish == MODE:
                value = order_key(_most_frequent(keys[:count]), is_float) if count > 0 else 0
            elif count > 0:
                low, share = _place(features[f], count)
                value = _interpolated(keys[low], keys[min(low + 1, count - 1)], share, is_float)
            _write(features[f], value, count, target[q], words, statuses)


@jit
def _sweep(
    is_late: bool,
    is_float: bool,
    values: Ints,
    flags: Bytes,
    edge: Ints,
    turn: Ints,
    order: Ints,
    features: Ints,
    target: Ints,
    words: Ints,
    statuses: Bytes,
) -> None:
    """Keep the values of the window in a tree from query to query."""
    upper, window = edge.shape[0] - 1, features[0, FEATURE_WINDOW]
    ranked = _ranked(values, flags, is_float)
    half = 1
    while half < ranked.size:
        half *= 2
    # Below each node: how many values, and which rank occurs most often. Ranks begin at ``half``.
    counts = np.zeros(2 * half, dtype=np.int64)
    often = np.arange(2 * half)
    for node in range(half - 1, 0, -1):
        often[node] = often[2 * node]
    distinct = entered = left = 0
    for q in range(target.size):
        begin, end = edge[window, q], edge[upper, q]
        for i in range(left, begin):
            was_in = turn[i] < q if is_late else i < entered
            if was_in and flags[i] == MEMBER_VALUE:
                distinct += _count(counts, often, half, ranked, order_key(values[i], is_float), -1)
        left = begin
        if is_late:
            while entered < order.size and turn[order[entered]] <= q:
                i = order[entered]
                if i >= begin and flags[i] == MEMBER_VALUE:
                    distinct += _count(counts, often, half, ranked, order_key(values[i], is_float), 1)
                entered += 1
        else:
            for i in range(max(entered, begin), end):
                if flags[i] == MEMBER_VALUE:
                    distinct += _count(counts, often, half, ranked, order_key(values[i], is_float), 1)
            entered = end
        total = counts[1]
        for f in range(features.shape[0]):
            finish = features[f, FEATURE_FINISH]
            value = 0
            if finish == DISTINCT:
                value = distinct
            elif finish == MODE:
                value = order_key(ranked[often[1] - half], is_float) if total > 0 else 0
            elif total > 0:
                low, share = _place(features[f], total)
                lower = ranked[_rank_at(counts, half, low)]
                upper_key = ranked[_rank_at(counts, half, low + 1)] if share > 0.0 else lower
                value = _interpolated(lower, upper_key, share, is_float)
            _write(features[f], value, total, target[q], words, statuses)


@jit
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


@jit
def _count(counts: Ints, often: Ints, half: int, ranked: Ints, key: int, change: int) -> int:
    """Let a value enter (1) or leave (-1); return by how much there are more distinct values."""
    node = half + search(ranked, 0, ranked.size, key)
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


@jit
def _rank_at(counts: Ints, half: int, place: int) -> int:
    """Return the rank of the value at a place among all that are in, ascending from 0."""
    node = 1
    while node < half:
        node *= 2
        if place >= counts[node]:
            place -= counts[node]
            node += 1
    return node - half


@jit
def _place(feature: Ints, count: int) -> tuple[int, float]:
    """Return the place of the lower value that a quantile lies at, and how far it lies towards the next one."""
    place = as_float(feature[FEATURE_PARAM]) * (count - 1)
    low = int(np.floor(place))
    return low, place - low


@jit
def _interpolated(lower_key: int, upper_key: int, share: float, is_float: bool) -> int:
    """Return the word of a quantile between two neighbours, by linear interpolation that is rounded once."""
    lower, upper = order_key(lower_key, is_float), order_key(upper_key, is_float)
    return as_word(round_between(lower, upper, share, is_float) + 0.0)


@jit
def _distinct(keys: Ints) -> int:
    """Count the values of sorted keys, each once."""
    distinct = 0
    for i in range(keys.size):
        if i == 0 or keys[i] != keys[i - 1]:
            distinct += 1
    return distinct


@jit
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


@jit
def _write(feature: Ints, value: int, count: int, target: int, words: Ints, statuses: Bytes) -> None:
    """Write what came out; over no values only a count is one."""
    is_value = count > 0 or feature[FEATURE_FINISH] == DISTINCT
    words[feature[FEATURE_ROW], target] = value if is_value else 0
    statuses[feature[FEATURE_INDEX], target] = PRESENT if is_value else NULL
