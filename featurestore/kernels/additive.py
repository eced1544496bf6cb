# ruff: noqa: ARG001  # all kernels that finish a feature share a signature
"""Features that are sums of counts, values and squares: counts, sums, means, variances and deviations.

Sums are exact (``kernels.exact``), so the order of addition cannot matter, a window is the difference of two prefixes,
and what was added can be taken out again.
"""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Bytes, Ints
from featurestore.core.statuses import NULL, OVERFLOWED, PRESENT
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
from featurestore.kernels.jit import borrowed, inlined, inner, keep
from featurestore.kernels.ordering import as_word
from featurestore.kernels.program import (
    COUNT,
    DEVIATION,
    FEATURE_FINISH,
    FEATURE_INDEX,
    FEATURE_PARAM,
    FEATURE_ROW,
    FEATURE_WINDOW,
    GROUP_FLOAT,
    GROUP_LEVEL,
    MEMBER_VALUE,
    SUM_WIDE,
    end_of_window,
)
from featurestore.kernels.tasks import GroupTask, SumLayout, Turns, finish_sums

_SCRATCH_WORDS = 8
"""Words that rounding needs beyond those of the sums."""


@inner
def scan_additive(task: GroupTask) -> None:
    """Add up every window of every query anew.

    Args:
        task: The group.
    """
    layout = _layout_of(task.values, task.flags, task.group)
    width = _width(layout)
    work = np.zeros(2 * width + _SCRATCH_WORDS, dtype=np.int64)
    sums = borrowed(work)
    total = sums[:width]
    values, flags, ingests, edges = task.values, task.flags, task.ingests, task.edges
    first = 0
    while first < task.features.shape[0]:
        stop = end_of_window(task.features, first)
        window = task.features[first, FEATURE_WINDOW]
        for q in range(task.target.size):
            bound = task.ingest_bounds[q]
            total[:] = 0
            for i in range(edges[window, q], edges[edges.shape[0] - 1, q]):
                if flags[i] == MEMBER_VALUE and ingests[i] < bound:
                    _add(total, 0, values[i], layout)
            _write_sums(task, first, stop, q, sums, layout)
        first = stop
    keep(work)


@inner
def sweep_additive(task: GroupTask) -> None:
    """Take each window as the difference of two sums over all events before an index.

    Args:
        task: The group; every event before a query's horizon is known to it.
    """
    layout = _layout_of(task.values, task.flags, task.group)
    width = _width(layout)
    work = np.zeros(2 * width + _SCRATCH_WORDS, dtype=np.int64)
    sums = borrowed(work)
    total = sums[:width]
    values, flags, edges = task.values, task.flags, task.edges
    own_prefix = np.zeros((values.size + 1) * width, dtype=np.int64)
    prefix = borrowed(own_prefix)
    for i in range(values.size):
        for j in range(width):
            prefix[(i + 1) * width + j] = prefix[i * width + j]
        if flags[i] == MEMBER_VALUE:
            _add(prefix, (i + 1) * width, values[i], layout)
    first = 0
    while first < task.features.shape[0]:
        stop = end_of_window(task.features, first)
        window = task.features[first, FEATURE_WINDOW]
        for q in range(task.target.size):
            begin, end = edges[window, q], edges[edges.shape[0] - 1, q]
            for j in range(width):
                total[j] = prefix[end * width + j] - prefix[begin * width + j]
            _write_sums(task, first, stop, q, sums, layout)
        first = stop
    keep(own_prefix)
    keep(work)


@inner
def slide_additive(task: GroupTask, turns: Turns) -> None:
    """Let events enter a running sum when they become visible, and leave it when the window has passed them.

    Args:
        task: The group.
        turns: When its events become visible.
    """
    layout = _layout_of(task.values, task.flags, task.group)
    width = _width(layout)
    work = np.zeros(2 * width + _SCRATCH_WORDS, dtype=np.int64)
    sums = borrowed(work)
    total = sums[:width]
    turn, order = turns.turn, turns.order
    first = 0
    while first < task.features.shape[0]:
        stop = end_of_window(task.features, first)
        window = task.features[first, FEATURE_WINDOW]
        total[:] = 0
        entered = left = 0
        for q in range(task.target.size):
            begin = task.edges[window, q]
            _remove(task, turn, left, begin, q, total, layout)
            left = max(left, begin)
            while entered < order.size and turn[order[entered]] <= q:
                i = order[entered]
                if i >= begin and task.flags[i] == MEMBER_VALUE:
                    _add(total, 0, task.values[i], layout)
                entered += 1
            _write_sums(task, first, stop, q, sums, layout)
        first = stop
    keep(work)


@inlined
def _remove(task: GroupTask, turn: Ints, left: int, begin: int, query: int, total: Ints, layout: SumLayout) -> None:
    """Take the events that a window has passed out of a running sum.

    An event that the window passes before it becomes visible never was in the sum. An event is removed by adding it to
    the negated sum, so that only one function knows what an event adds.

    Args:
        task: The group.
        turn: Per event the first query that sees it.
        left: First event that has not been removed.
        begin: First event of the window.
        query: The query that the sum moves to.
        total: The sum; changed.
        layout: Its layout.
    """
    is_negated = False
    for i in range(left, begin):
        if task.flags[i] == MEMBER_VALUE and turn[i] < query:
            if not is_negated:
                _negate(total)
                is_negated = True
            _add(total, 0, task.values[i], layout)
    if is_negated:
        _negate(total)


@inner
def _negate(total: Ints) -> None:
    for j in range(total.size):
        total[j] = -total[j]


@inner
def _layout_of(values: Ints, flags: Bytes, group: Ints) -> SumLayout:
    """Return a layout wide enough for the sums of all values of an input.

    Args:
        values: Words of the input.
        flags: Which of them are members.
        group: Row of the program; its level is 0 for counts, 1 for sums as well, 2 for squares as well.
    """
    is_float, level = group[GROUP_FLOAT] == 1, group[GROUP_LEVEL]
    lowest, highest = 1 << 30, 0
    if is_float and level > 0:
        for i in range(values.size):
            if flags[i] == MEMBER_VALUE and values[i] != 0:
                position = position_of(values[i], is_float)
                lowest = min(lowest, position)
                highest = max(highest, position)
    if lowest > highest:
        lowest = highest
    base = lowest >> 5
    value_limbs = (highest >> 5) - base + VALUE_LIMBS if level > 0 else 0
    square_limbs = (2 * highest >> 5) - 2 * base + SQUARE_LIMBS if level == 2 else 0
    return SumLayout(is_float, base, value_limbs, square_limbs)


@inner
def _width(layout: SumLayout) -> int:
    """Return how many words the count and the sums take."""
    return 1 + layout.value_limbs + layout.square_limbs


@inner
def _add(total: Ints, at: int, word: int, layout: SumLayout) -> None:
    """Add one value to a count and the sums after it.

    Args:
        total: Words; changed.
        at: Index of the count.
        word: The value.
        layout: Where the sums lie, from the count on.
    """
    total[at] += 1
    if layout.value_limbs > 0:
        add_value(total, at + 1, word, layout.is_float, layout.base)
    if layout.square_limbs > 0:
        add_square(total, at + 1 + layout.value_limbs, word, layout.is_float, layout.base)


@inlined
def _write_sums(task: GroupTask, first: int, stop: int, query: int, sums: Ints, layout: SumLayout) -> None:
    """Write the features of one window for one query.

    Args:
        task: The group.
        first: First feature of the window.
        stop: Index after the last.
        query: The query.
        sums: Count and sums of the window, then scratch of as many words and ``_SCRATCH_WORDS`` more.
        layout: The layout of the sums.
    """
    column = task.target[query]
    for f in range(first, stop):
        finish, row = task.features[f, FEATURE_FINISH], task.features[f, FEATURE_ROW]
        if finish == COUNT:
            task.words[row, column] = sums[0]
            task.statuses[task.features[f, FEATURE_INDEX], column] = PRESENT
            continue
        parameter = task.features[f, FEATURE_PARAM]
        word, second, status = finish_sums(task.finishes[f], (sums, layout, finish, parameter))
        task.words[row, column] = word
        if finish == SUM_WIDE:
            task.words[row + 1, column] = second
        task.statuses[task.features[f, FEATURE_INDEX], column] = status


@inner
def finish_whole_sum(sums: Ints, layout: SumLayout, finish: int, parameter: int) -> tuple[int, int, int]:
    """Return a sum of integers or of decimals, null over no rows.

    Args:
        sums: Count and sums of the window, then scratch.
        layout: The layout of the sums.
        finish: The finish of the feature.
        parameter: Its parameter.

    Returns:
        Low word, high word, status. An int64 that does not fit is ``OVERFLOWED``; a decimal has both words.
    """
    if sums[0] == 0:
        return 0, 0, NULL
    low, high = whole_sum(sums, 1)
    fits = high == low >> 63 or finish == SUM_WIDE
    return low, high, PRESENT if fits else OVERFLOWED


@inner
def finish_float_sum(sums: Ints, layout: SumLayout, finish: int, parameter: int) -> tuple[int, int, int]:
    """Return a sum of floats rounded once; null over no rows and where it is too large for a float64.

    Args:
        sums: Count and sums of the window, then scratch.
        layout: The layout of the sums.
        finish: The finish of the feature.
        parameter: Its parameter.

    Returns:
        Word, second word (0), status.
    """
    if sums[0] == 0:
        return 0, 0, NULL
    return _finite(round_sum(sums, 1, layout.value_limbs, layout.is_float, layout.base, sums[_width(layout) :]))


@inner
def finish_mean(sums: Ints, layout: SumLayout, finish: int, parameter: int) -> tuple[int, int, int]:
    """Return a mean rounded once, null over no rows.

    Args:
        sums: Count and sums of the window, then scratch.
        layout: The layout of the sums.
        finish: The finish of the feature.
        parameter: Its parameter.

    Returns:
        Word, second word (0), status.
    """
    if sums[0] == 0:
        return 0, 0, NULL
    return _finite(
        round_mean(sums, 1, layout.value_limbs, layout.is_float, layout.base, sums[0], sums[_width(layout) :])
    )


@inner
def finish_variance(sums: Ints, layout: SumLayout, finish: int, parameter: int) -> tuple[int, int, int]:
    """Return a variance or a standard deviation, rounded once.

    It is null where there are not more rows than the delta degrees of freedom, and where it is too large for a float64.

    Args:
        sums: Count and sums of the window, then scratch.
        layout: The layout of the sums.
        finish: The finish of the feature.
        parameter: Its parameter.

    Returns:
        Word, second word (0), status.
    """
    rows, ddof = sums[0], parameter
    if rows == 0 or rows <= ddof:
        return 0, 0, NULL
    is_root = finish == DEVIATION
    return _finite(
        round_variance(
            sums,
            1,
            layout.value_limbs,
            layout.square_limbs,
            layout.is_float,
            layout.base,
            rows,
            ddof,
            is_root,
            sums[_width(layout) :],
        )
    )


@inner
def _finite(value: float) -> tuple[int, int, int]:
    """Return ``(word, 0, status)`` of a float: null unless it is finite, and never -0.0."""
    if not np.isfinite(value):
        return 0, 0, NULL
    return as_word(value + 0.0), 0, PRESENT
