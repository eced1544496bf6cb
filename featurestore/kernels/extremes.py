"""Smallest and largest values. The largest value is the one with the smallest complement."""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Ints
from featurestore.core.statuses import NULL, PRESENT
from featurestore.kernels.jit import borrowed, inlined, inner, keep
from featurestore.kernels.ordering import order_key, search
from featurestore.kernels.program import (
    FEATURE_INDEX,
    FEATURE_ROW,
    FEATURE_WINDOW,
    GROUP_FLOAT,
    GROUP_LEVEL,
    LARGEST,
    MEMBER_VALUE,
)
from featurestore.kernels.tasks import GroupTask, Turns

_NONE = -1
"""Index that stands for no event."""


@inner
def scan_extremes(task: GroupTask) -> None:
    """Look at every event of every window of every query.

    Args:
        task: The group.
    """
    is_float, is_largest = task.group[GROUP_FLOAT] == 1, task.group[GROUP_LEVEL] == LARGEST
    values, flags, ingests, edges = task.values, task.flags, task.ingests, task.edges
    for q in range(task.target.size):
        bound = task.ingest_bounds[q]
        for f in range(task.features.shape[0]):
            event, smallest = _NONE, 0
            for i in range(edges[task.features[f, FEATURE_WINDOW], q], edges[edges.shape[0] - 1, q]):
                if flags[i] == MEMBER_VALUE and ingests[i] < bound:
                    key = _extreme_key(values[i], is_float, is_largest)
                    if event < 0 or key < smallest:
                        event, smallest = i, key
            _write_extreme(task, f, q, event)


@inner
def sweep_extremes(task: GroupTask) -> None:
    """Keep a stack of events with ascending keys, which holds the smallest key of every window.

    The smallest key from any lower edge to the present horizon is the first on the stack that is not before that edge.

    Args:
        task: The group; every event before a query's horizon is known to it.
    """
    edges = task.edges
    own_keys, own_stack = _keys(task), np.empty(task.values.size, dtype=np.int64)
    keys, stack = borrowed(own_keys), borrowed(own_stack)
    height = entered = 0
    for q in range(task.target.size):
        end = edges[edges.shape[0] - 1, q]
        for i in range(entered, end):
            if task.flags[i] == MEMBER_VALUE:
                while height > 0 and keys[stack[height - 1]] >= keys[i]:
                    height -= 1
                stack[height] = i
                height += 1
        entered = end
        for f in range(task.features.shape[0]):
            place = search(stack, 0, height, edges[task.features[f, FEATURE_WINDOW], q])
            _write_extreme(task, f, q, stack[place] if place < height else _NONE)
    keep(own_keys)
    keep(own_stack)


@inner
def insert_extremes(task: GroupTask, turns: Turns) -> None:
    """Put events into a segment tree when they become visible, and ask it for each window.

    Args:
        task: The group.
        turns: When its events become visible.
    """
    events, edges = task.values.size, task.edges
    own_keys, own_tree = _keys(task), np.full(2 * events, _NONE, dtype=np.int64)
    keys, tree = borrowed(own_keys), borrowed(own_tree)
    turn, order = turns.turn, turns.order
    entered = 0
    for q in range(task.target.size):
        while entered < events and turn[order[entered]] <= q:
            if task.flags[order[entered]] == MEMBER_VALUE:
                _insert(tree, keys, order[entered])
            entered += 1
        end = edges[edges.shape[0] - 1, q]
        for f in range(task.features.shape[0]):
            begin = edges[task.features[f, FEATURE_WINDOW], q]
            _write_extreme(task, f, q, _smallest(tree, keys, begin, end))
    keep(own_keys)
    keep(own_tree)


@inner
def _keys(task: GroupTask) -> Ints:
    """Return the key of each event, members or not."""
    is_float, is_largest = task.group[GROUP_FLOAT] == 1, task.group[GROUP_LEVEL] == LARGEST
    keys = np.empty(task.values.size, dtype=np.int64)
    for i in range(keys.size):
        keys[i] = _extreme_key(task.values[i], is_float, is_largest)
    return keys


@inner
def _extreme_key(word: int, is_float: bool, is_largest: bool) -> int:
    """Return a key that is smallest for the value wanted."""
    key = order_key(word, is_float)
    return ~key if is_largest else key


@inner
def _better(keys: Ints, left: int, right: int) -> int:
    """Return the index with the smaller key, the left one of equals; ``_NONE`` only if both are."""
    if left < 0:
        return right
    if right < 0 or keys[left] <= keys[right]:
        return left
    return right


@inner
def _insert(tree: Ints, keys: Ints, index: int) -> None:
    """Put one event into a segment tree.

    Args:
        tree: Per node the event with the smallest key below it, ``_NONE`` if there is none; event ``i`` is the leaf
            ``tree.size / 2 + i``. Changed.
        keys: Key of each event.
        index: The event.
    """
    node = (tree.size >> 1) + index
    tree[node] = index
    node >>= 1
    while node >= 1:
        tree[node] = _better(keys, tree[2 * node], tree[2 * node + 1])
        node >>= 1


@inner
def _smallest(tree: Ints, keys: Ints, begin: int, end: int) -> int:
    """Return the event with the smallest key that was put into [begin, end), ``_NONE`` if none was."""
    size = tree.size >> 1
    best = _NONE
    begin += size
    end += size
    while begin < end:
        if begin & 1:
            best = _better(keys, best, tree[begin])
            begin += 1
        if end & 1:
            end -= 1
            best = _better(keys, best, tree[end])
        begin >>= 1
        end >>= 1
    return best


@inlined
def _write_extreme(task: GroupTask, f: int, query: int, event: int) -> None:
    """Write the value of an event as a feature, null if there is no event."""
    row, index, column = task.features[f, FEATURE_ROW], task.features[f, FEATURE_INDEX], task.target[query]
    task.words[row, column] = task.values[event] if event >= 0 else 0
    task.statuses[index, column] = PRESENT if event >= 0 else NULL
