"""The loops that compute every feature value, for both roads.

``evaluate_entities`` takes events sorted by (entity, event_time, ingest_time, content) and queries sorted by (entity,
as_of) and runs a program over them, entity by entity. Because both horizons and all lower window edges only move
forward from query to query, an event enters and leaves each window at most once. Each group of features is folded in
one of three ways that give the same bits; the cheapest is picked per entity:

- *scan*: look at every event of every window. For few queries, which is all the online road ever has.
- *swept*: no query has an event before its horizon that was not yet known. Prefix sums for additive features,
  one monotonic stack for extremes of all windows, positions of members for ordered ones.
- *late*: some events become visible out of order. Each event's first query that sees it is found once (its *turn*);
  sums add it then and take it out when its window passes, extremes use a segment tree, ordered ones a bit set.

Holistic features have a module of their own. This one must not know Arrow, plans or where events come from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featurestore.core import temporal
from featurestore.core.columns import Bytes, Ints
from featurestore.core.statuses import EXPIRED, NOT_FOUND, NULL, OVERFLOWED, PRESENT
from featurestore.kernels.events import NO_EVENT
from featurestore.kernels.exact import (
    SQUARE_LIMBS,
    VALUE_LIMBS,
    add_square,
    add_value,
    position_of,
    round_mean,
    round_sum,
    round_variance,
    whole_sum,
)
from featurestore.kernels.holistic import fold_holistic
from featurestore.kernels.jit import borrowed, jit, keep
from featurestore.kernels.ordering import as_word, order_key, search
from featurestore.kernels.program import (
    ADDITIVE,
    COUNT,
    DEVIATION,
    EXTREME,
    FEATURE_FINISH,
    FEATURE_INDEX,
    FEATURE_PARAM,
    FEATURE_ROW,
    FEATURE_TTL,
    FEATURE_WINDOW,
    FIRST,
    FIRST_N,
    GROUP_BEGIN,
    GROUP_END,
    GROUP_FLOAT,
    GROUP_INPUT,
    GROUP_KIND,
    GROUP_LEVEL,
    GROUP_NEED,
    LARGEST,
    LAST_N,
    MEAN,
    MEMBER_VALUE,
    NO_TTL,
    ORDERED,
    SINCE_LAST,
    SUM_FLOAT,
    SUM_INT,
    SUM_WIDE,
    VARIANCE,
)

_SCAN, _SWEPT, _LATE = range(3)
_FREE_SCAN = 64

_horizons = jit(temporal.horizons)
_window_start = jit(temporal.window_start)
_is_expired = jit(temporal.is_expired)


@jit
def _frame(
    times: Ints, ingests: Ints, as_of: Ints, watermark: Ints, policy: Ints, windows: Ints, edge: Ints, known: Ints
) -> bool:
    """Find what each query of one entity sees; return whether some event before a horizon was not yet known.

    Args:
        times: Event times of the entity, ascending.
        ingests: Their ingest times.
        as_of: The queries, in the order of what they see.
        watermark: Watermark of each.
        policy: Refresh period, refresh lag, inclusive.
        windows: Length and resolution per window.
        edge: Receives, one column per query, the lower index of each window and in the last row the upper index of all.
        known: Receives, per query, the ingest bound.
    """
    upper = 0
    newest_ingest = temporal.NOTHING_YET
    is_late = False
    count = windows.shape[0]
    for q in range(as_of.size):
        event_bound, ingest_bound = _horizons(as_of[q], watermark[q], policy[0], policy[1], policy[2])
        while upper < times.size and times[upper] < event_bound:
            newest_ingest = max(newest_ingest, ingests[upper])
            upper += 1
        edge[count, q] = upper
        known[q] = ingest_bound
        is_late = is_late or newest_ingest >= ingest_bound
        for w in range(count):
            start = _window_start(event_bound, windows[w, 0], windows[w, 1], policy[2])
            edge[w, q] = search(times, edge[w, q - 1] if q > 0 else 0, upper, start)
    return is_late


@jit
def _turns(ingests: Ints, upper: Ints, known: Ints, turn: Ints, order: Ints) -> None:
    """Find for each event the first query that sees it, lifetime through, and the events in the order of these turns.

    An event that no query sees gets the turn ``len(known)``.
    """
    queries = known.size
    counts = np.zeros(queries + 2, dtype=np.int64)
    passed = 0
    for i in range(ingests.size):
        while passed < queries and upper[passed] <= i:
            passed += 1
        turn[i] = max(passed, search(known, 0, queries, ingests[i] + 1))
        counts[turn[i] + 1] += 1
    for q in range(queries + 1):
        counts[q + 1] += counts[q]
    for i in range(ingests.size):
        order[counts[turn[i]]] = i
        counts[turn[i]] += 1


@jit
def _pick(is_late: bool, edge: Ints, features: Ints) -> int:
    """Choose how to fold a group: scan if that costs no more than a few passes over the events."""
    upper = edge.shape[0] - 1
    cost = 0
    last = -1
    for f in range(features.shape[0]):
        window = features[f, FEATURE_WINDOW]
        if window != last:
            for q in range(edge.shape[1]):
                cost += edge[upper, q] - edge[window, q]
            last = window
    events = edge[upper, edge.shape[1] - 1]
    if cost <= 4 * events + _FREE_SCAN:
        return _SCAN
    return _LATE if is_late else _SWEPT


@jit
def _limbs(values: Ints, flags: Bytes, is_float: bool, level: int) -> Any:
    """Return ``(base, value limbs, square limbs)`` wide enough for all values of an input."""
    if level == 0:
        return 0, 0, 0
    lowest, highest = 1 << 30, 0
    if is_float:
        for i in range(values.size):
            if flags[i] == MEMBER_VALUE and values[i] != 0:
                position = position_of(values[i], is_float)
                lowest = min(lowest, position)
                highest = max(highest, position)
    if lowest > highest:
        lowest = highest
    base = lowest >> 5
    squares = (2 * highest >> 5) - 2 * base + SQUARE_LIMBS if level == 2 else 0
    return base, (highest >> 5) - base + VALUE_LIMBS, squares


@jit
def _add(total: Ints, at: int, word: int, is_float: bool, base: int, value_limbs: int, square_limbs: int) -> None:
    """Add one member to a count, the sum after it and the sum of squares after that."""
    total[at] += 1
    if value_limbs > 0:
        add_value(total, at + 1, word, is_float, base)
    if square_limbs > 0:
        add_square(total, at + 1 + value_limbs, word, is_float, base)


@jit
def _finish_sum(
    total: Ints,
    is_float: bool,
    base: int,
    value_limbs: int,
    square_limbs: int,
    feature: Ints,
    digits: Ints,
) -> Any:
    """Make a feature of exact sums; return ``(word, second word, status)``.

    Count is 0 over no rows, all others are null. What is too large for a float64 is null, what is too large for an
    int64 is an overflow.
    """
    finish = feature[FEATURE_FINISH]
    rows = total[0]
    if finish == COUNT:
        return rows, 0, PRESENT
    ddof = feature[FEATURE_PARAM] if finish == VARIANCE or finish == DEVIATION else 0
    if rows == 0 or rows <= ddof:
        return 0, 0, NULL
    if finish == SUM_INT or finish == SUM_WIDE:
        low, high = whole_sum(total, 1)
        fits = high == low >> 63
        return low, high, PRESENT if fits or finish == SUM_WIDE else OVERFLOWED
    if finish == SUM_FLOAT:
        value = round_sum(total, 1, value_limbs, is_float, base, digits)
    elif finish == MEAN:
        value = round_mean(total, 1, value_limbs, is_float, base, rows, digits)
    else:
        value = round_variance(
            total, 1, value_limbs, square_limbs, is_float, base, rows, ddof, finish == DEVIATION, digits
        )
    if not np.isfinite(value):
        return 0, 0, NULL
    return as_word(value + 0.0), 0, PRESENT


@jit
def _fold_additive(
    how: int,
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
    """Counts, sums, means, variances: everything a sum of counts, values and squares can say."""
    is_float = group[GROUP_FLOAT] == 1
    base, value_limbs, square_limbs = _limbs(values, flags, is_float, group[GROUP_LEVEL])
    width = 1 + value_limbs + square_limbs
    work = np.zeros(2 * width + 8, dtype=np.int64)
    total, digits = borrowed(work[:width]), borrowed(work[width:])
    upper = edge.shape[0] - 1
    if how == _SWEPT:
        prefix = np.zeros((values.size + 1) * width, dtype=np.int64)
        for i in range(values.size):
            for j in range(width):
                prefix[(i + 1) * width + j] = prefix[i * width + j]
            if flags[i] == MEMBER_VALUE:
                _add(prefix, (i + 1) * width, values[i], is_float, base, value_limbs, square_limbs)
    else:
        prefix = total
    window = -1
    for f in range(features.shape[0]):
        is_new = features[f, FEATURE_WINDOW] != window
        if not is_new:
            continue
        window = features[f, FEATURE_WINDOW]
        after = f
        while after < features.shape[0] and features[after, FEATURE_WINDOW] == window:
            after += 1
        total[:] = 0
        entered = 0
        left = 0
        for q in range(known.size):
            begin, end = edge[window, q], edge[upper, q]
            if how == _SCAN:
                total[:] = 0
                for i in range(begin, end):
                    if flags[i] == MEMBER_VALUE and ingests[i] < known[q]:
                        _add(total, 0, values[i], is_float, base, value_limbs, square_limbs)
            elif how == _SWEPT:
                for j in range(width):
                    total[j] = prefix[end * width + j] - prefix[begin * width + j]
            else:
                entered, left = _slide(
                    total,
                    values,
                    flags,
                    turn,
                    order,
                    entered,
                    left,
                    begin,
                    q,
                    is_float,
                    base,
                    value_limbs,
                    square_limbs,
                )
            for g in range(f, after):
                word, second, status = _finish_sum(
                    total, is_float, base, value_limbs, square_limbs, features[g], digits
                )
                row = features[g, FEATURE_ROW]
                words[row, target[q]] = word
                if features[g, FEATURE_FINISH] == SUM_WIDE:
                    words[row + 1, target[q]] = second
                statuses[features[g, FEATURE_INDEX], target[q]] = status
    keep(work)


@jit
def _negate(total: Ints) -> None:
    for j in range(total.size):
        total[j] = -total[j]


@jit
def _slide(
    total: Ints,
    values: Ints,
    flags: Bytes,
    turn: Ints,
    order: Ints,
    entered: int,
    left: int,
    begin: int,
    query: int,
    is_float: bool,
    base: int,
    value_limbs: int,
    square_limbs: int,
) -> Any:
    """Move a running total to the next query: events whose turn has come enter, events before the window leave.

    An event that leaves before its turn never enters. Leaving subtracts by adding to a negated total, so that only one
    function knows what an event adds.
    """
    removed = False
    for i in range(left, begin):
        if flags[i] == MEMBER_VALUE and turn[i] < query:
            if not removed:
                _negate(total)
                removed = True
            _add(total, 0, values[i], is_float, base, value_limbs, square_limbs)
    if removed:
        _negate(total)
    while entered < order.size and turn[order[entered]] <= query:
        i = order[entered]
        if i >= begin and flags[i] == MEMBER_VALUE:
            _add(total, 0, values[i], is_float, base, value_limbs, square_limbs)
        entered += 1
    return entered, max(left, begin)


@jit
def _extreme_key(word: int, is_float: bool, is_largest: bool) -> int:
    """Return what is smallest for the value wanted."""
    key = order_key(word, is_float)
    return ~key if is_largest else key


@jit
def _better(keys: Ints, left: int, right: int) -> int:
    """Return the index with the smaller key; -1 stands for nothing."""
    if left < 0:
        return right
    if right < 0 or keys[left] <= keys[right]:
        return left
    return right


@jit
def _tree_put(tree: Ints, keys: Ints, index: int) -> None:
    """Put one event into a segment tree of indices of smallest keys."""
    size = tree.size >> 1
    node = size + index
    tree[node] = index
    node >>= 1
    while node >= 1:
        tree[node] = _better(keys, tree[2 * node], tree[2 * node + 1])
        node >>= 1


@jit
def _tree_find(tree: Ints, keys: Ints, begin: int, end: int) -> int:
    """Return the index of the smallest key put into [begin, end), -1 if none was."""
    size = tree.size >> 1
    found = -1
    begin += size
    end += size
    while begin < end:
        if begin & 1:
            found = _better(keys, found, tree[begin])
            begin += 1
        if end & 1:
            end -= 1
            found = _better(keys, found, tree[end])
        begin >>= 1
        end >>= 1
    return found


@jit
def _fold_extreme(
    how: int,
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
    """Smallest or largest value; the largest is the smallest of the complements.

    Swept: a stack of events with ascending keys holds, for any lower edge, the smallest key from there to the present
    horizon: it is the first one on the stack that is not before the edge.
    """
    events = values.size
    upper = edge.shape[0] - 1
    is_float, is_largest = group[GROUP_FLOAT] == 1, group[GROUP_LEVEL] == LARGEST
    keys = stack = tree = turn  # stand-ins: what is not used is not allocated
    if how != _SCAN:
        keys = np.empty(events, dtype=np.int64)
        for i in range(events):
            keys[i] = _extreme_key(values[i], is_float, is_largest)
    if how == _SWEPT:
        stack = np.empty(events, dtype=np.int64)
    elif how == _LATE:
        tree = np.full(2 * events, -1, dtype=np.int64)
    height = 0
    entered = 0
    for q in range(known.size):
        end = edge[upper, q]
        if how == _SWEPT:
            for i in range(entered, end):
                if flags[i] == MEMBER_VALUE:
                    while height > 0 and keys[stack[height - 1]] >= keys[i]:
                        height -= 1
                    stack[height] = i
                    height += 1
            entered = end
        elif how == _LATE:
            while entered < events and turn[order[entered]] <= q:
                if flags[order[entered]] == MEMBER_VALUE:
                    _tree_put(tree, keys, order[entered])
                entered += 1
        for f in range(features.shape[0]):
            begin = edge[features[f, FEATURE_WINDOW], q]
            found = -1
            if how == _SWEPT:
                place = search(stack, 0, height, begin)
                if place < height:
                    found = stack[place]
            elif how == _LATE:
                found = _tree_find(tree, keys, begin, end)
            else:
                smallest = 0
                for i in range(begin, end):
                    if flags[i] == MEMBER_VALUE and ingests[i] < known[q]:
                        key = _extreme_key(values[i], is_float, is_largest)
                        if found < 0 or key < smallest:
                            found, smallest = i, key
            words[features[f, FEATURE_ROW], target[q]] = values[found] if found >= 0 else 0
            statuses[features[f, FEATURE_INDEX], target[q]] = PRESENT if found >= 0 else NULL


@jit
def _set_bit(bits: Ints, index: int) -> None:
    bits[index >> 5] |= 1 << (index & 31)


@jit
def _next_bit(bits: Ints, begin: int, end: int) -> int:
    """Return the first set bit in [begin, end), ``end`` if there is none."""
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


@jit
def _previous_bit(bits: Ints, begin: int, end: int) -> int:
    """Return the last set bit in [begin, end), ``begin - 1`` if there is none."""
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


@jit
def _fold_ordered(
    how: int,
    values: Ints,
    flags: Bytes,
    times: Ints,
    ingests: Ints,
    edge: Ints,
    known: Ints,
    turn: Ints,
    order: Ints,
    group: Ints,
    features: Ints,
    as_of: Ints,
    target: Ints,
    words: Ints,
    statuses: Bytes,
) -> None:
    """First and last values and lists of them: the members nearest to either end of the window."""
    events = values.size
    upper = edge.shape[0] - 1
    need = group[GROUP_NEED]
    wanted = max(1, group[GROUP_LEVEL])
    picked = np.empty(wanted, dtype=np.int64)
    before = members = bits = turn  # stand-ins: what is not used is not allocated
    if how == _LATE:
        bits = np.zeros((events >> 5) + 1, dtype=np.int64)
    elif how == _SWEPT:
        before = np.zeros(events + 1, dtype=np.int64)
        members = np.empty(events, dtype=np.int64)
        for i in range(events):
            before[i + 1] = before[i]
            if flags[i] >= need:
                members[before[i]] = i
                before[i + 1] += 1
    entered = 0
    for q in range(known.size):
        if how == _LATE:
            while entered < events and turn[order[entered]] <= q:
                if flags[order[entered]] >= need:
                    _set_bit(bits, order[entered])
                entered += 1
        for f in range(features.shape[0]):
            begin, end = edge[features[f, FEATURE_WINDOW], q], edge[upper, q]
            finish = features[f, FEATURE_FINISH]
            from_begin = finish == FIRST or finish == FIRST_N
            limit = features[f, FEATURE_PARAM] if finish == FIRST_N or finish == LAST_N else 1
            found = 0
            if how == _SWEPT:
                inside = before[end] - before[begin]
                found = min(limit, inside)
                first = before[begin] if from_begin else before[end] - found
                for j in range(found):
                    picked[j] = members[first + j]
            elif from_begin:
                i = begin
                while i < end and found < limit:
                    if how == _LATE:
                        i = _next_bit(bits, i, end)
                    if i < end and (how == _LATE or (flags[i] >= need and ingests[i] < known[q])):
                        picked[found] = i
                        found += 1
                    i += 1
            else:
                i = end - 1
                while i >= begin and found < limit:
                    if how == _LATE:
                        i = _previous_bit(bits, begin, i + 1)
                    if i >= begin and (how == _LATE or (flags[i] >= need and ingests[i] < known[q])):
                        picked[found] = i
                        found += 1
                    i -= 1
                for j in range(found >> 1):
                    picked[j], picked[found - 1 - j] = picked[found - 1 - j], picked[j]
            _finish_ordered(values, flags, times, picked, found, features[f], as_of[q], target[q], words, statuses)


@jit
def _finish_ordered(
    values: Ints,
    flags: Bytes,
    times: Ints,
    picked: Ints,
    found: int,
    feature: Ints,
    as_of: int,
    target: int,
    words: Ints,
    statuses: Bytes,
) -> None:
    """Write what the picked members, oldest first, say: a value, a list of values, or the time that has passed."""
    finish, row, index = feature[FEATURE_FINISH], feature[FEATURE_ROW], feature[FEATURE_INDEX]
    words[row, target] = 0
    statuses[index, target] = NULL
    if found == 0:
        return
    if finish == FIRST_N or finish == LAST_N:
        words[row, target] = found
        for j in range(found):
            words[row + 1 + j, target] = values[picked[j]]
        statuses[index, target] = PRESENT
    elif finish == SINCE_LAST:
        words[row, target] = as_word((as_of - times[picked[0]]) / feature[FEATURE_PARAM])
        statuses[index, target] = PRESENT
    elif feature[FEATURE_TTL] != NO_TTL and _is_expired(times[picked[0]], as_of, feature[FEATURE_TTL]):
        statuses[index, target] = EXPIRED
    elif flags[picked[0]] == MEMBER_VALUE:
        words[row, target] = values[picked[0]]
        statuses[index, target] = PRESENT


@jit
def _newest(times: Ints, upper: Ints, turn: Ints, order: Ints, is_late: bool, target: Ints, newest: Ints) -> None:
    """Write the event time of the newest event each query sees, ``NO_EVENT`` if it sees none."""
    entered = 0
    last = -1
    for q in range(upper.size):
        if is_late:
            while entered < order.size and turn[order[entered]] <= q:
                last = max(last, order[entered])
                entered += 1
        else:
            last = upper[q] - 1
        newest[target[q]] = times[last] if last >= 0 else NO_EVENT


@jit
def evaluate_entities(
    first: int,
    stop: int,
    offsets: Ints,
    times: Ints,
    ingests: Ints,
    values: Ints,
    flags: Bytes,
    query_offsets: Ints,
    as_of: Ints,
    watermark: Ints,
    target: Ints,
    policy: Ints,
    windows: Ints,
    groups: Ints,
    features: Ints,
    words: Ints,
    statuses: Bytes,
    newest: Ints,
) -> bool:
    """Compute the features of the queries of the entities ``first`` to ``stop`` (exclusive).

    Args:
        first: First entity code.
        stop: One past the last entity code.
        offsets: Events of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        times: Event times, ascending within an entity.
        ingests: Ingest times.
        values: Words, one row per input.
        flags: ``NOT_MEMBER``, ``MEMBER_NULL`` or ``MEMBER_VALUE``, one row per input.
        query_offsets: Queries of entity ``e`` are ``query_offsets[e]:query_offsets[e + 1]``.
        as_of: Instants asked about; within an entity neither horizon ever moves back.
        watermark: For each query the exclusive bound of the ingest times that the events hold in full.
        target: For each query the column of the result it is written to.
        policy: Refresh period, refresh lag, inclusive.
        windows: Table of the program.
        groups: Table of the program.
        features: Table of the program.
        words: Result, rows as the program laid them out.
        statuses: Result, one row per feature.
        newest: Result, event time of the newest event seen.

    Returns:
        Whether a sum did not fit its dtype; its status is ``OVERFLOWED``.
    """
    overflowed = False
    times, ingests, values, flags = borrowed(times), borrowed(ingests), borrowed(values), borrowed(flags)
    as_of, target, policy, windows = borrowed(as_of), borrowed(target), borrowed(policy), borrowed(windows)
    groups, features, words, statuses = borrowed(groups), borrowed(features), borrowed(words), borrowed(statuses)
    offsets, query_offsets = borrowed(offsets), borrowed(query_offsets)
    watermark, newest = borrowed(watermark), borrowed(newest)
    for entity in range(first, stop):
        low, high = query_offsets[entity], query_offsets[entity + 1]
        if low == high:
            continue
        begin, end = offsets[entity], offsets[entity + 1]
        own_times, own_ingests = times[begin:end], ingests[begin:end]
        own_as_of, own_target = as_of[low:high], target[low:high]
        edges = np.empty((windows.shape[0] + 1, high - low), dtype=np.int64)
        bounds = np.empty(high - low, dtype=np.int64)
        edge, known = borrowed(edges), borrowed(bounds)
        is_late = _frame(own_times, own_ingests, own_as_of, watermark[low:high], policy, windows, edge, known)
        upper = edge[windows.shape[0]]
        turns = np.empty((2, end - begin if is_late else 0), dtype=np.int64)
        turn, order = borrowed(turns[0]), borrowed(turns[1])
        if is_late:
            _turns(own_ingests, upper, known, turn, order)
        _newest(own_times, upper, turn, order, is_late, own_target, newest)
        for g in range(groups.shape[0]):
            group = groups[g]
            own_values, own_flags = values[group[GROUP_INPUT], begin:end], flags[group[GROUP_INPUT], begin:end]
            chosen = features[group[GROUP_BEGIN] : group[GROUP_END]]
            kind = group[GROUP_KIND]
            how = _pick(is_late, edge, chosen)
            if kind == ADDITIVE:
                _fold_additive(
                    how,
                    own_values,
                    own_flags,
                    own_ingests,
                    edge,
                    known,
                    turn,
                    order,
                    group,
                    chosen,
                    own_target,
                    words,
                    statuses,
                )
            elif kind == EXTREME:
                _fold_extreme(
                    how,
                    own_values,
                    own_flags,
                    own_ingests,
                    edge,
                    known,
                    turn,
                    order,
                    group,
                    chosen,
                    own_target,
                    words,
                    statuses,
                )
            elif kind == ORDERED:
                _fold_ordered(
                    how,
                    own_values,
                    own_flags,
                    own_times,
                    own_ingests,
                    edge,
                    known,
                    turn,
                    order,
                    group,
                    chosen,
                    own_as_of,
                    own_target,
                    words,
                    statuses,
                )
            else:
                fold_holistic(
                    how == _SCAN,
                    is_late,
                    own_values,
                    own_flags,
                    own_ingests,
                    edge,
                    known,
                    turn,
                    order,
                    group,
                    chosen,
                    own_target,
                    words,
                    statuses,
                )
        for q in range(high - low):
            for f in range(statuses.shape[0]):
                overflowed = overflowed or statuses[f, own_target[q]] == OVERFLOWED
                if newest[own_target[q]] == NO_EVENT:
                    statuses[f, own_target[q]] = NOT_FOUND
        keep(edges)
        keep(bounds)
        keep(turns)
    return overflowed
