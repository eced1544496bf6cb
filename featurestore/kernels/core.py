"""The loop that computes every feature value, for training sets and online lookups alike.

``evaluate_entities`` takes events sorted by (entity, event_time, ingest_time, content) and queries sorted by (entity,
as_of). For each entity it finds what each query sees, and calls one function per group of features, which folds the
events (``ways``). Both horizons and all lower window edges only move forward from query to query, so an event enters
and leaves each window at most once.

This module must not know Arrow, plans or where events come from.
"""

from __future__ import annotations

import numpy as np

from featurestore.core import temporal
from featurestore.core.columns import Ints
from featurestore.core.statuses import NOT_FOUND, OVERFLOWED
from featurestore.kernels.events import NO_EVENT
from featurestore.kernels.jit import borrowed, inner, jit, keep
from featurestore.kernels.ordering import search
from featurestore.kernels.program import GROUP_BEGIN, GROUP_END, GROUP_INPUT
from featurestore.kernels.tasks import (
    EventArrays,
    GroupTask,
    ProgramArrays,
    QueryArrays,
    ResultArrays,
    Turns,
    fold,
    fold_late,
)
from featurestore.kernels.ways import LATE, choose_way

_horizons = inner(temporal.horizons)
_window_start = inner(temporal.window_start)


@jit
def _frame(
    times: Ints,
    ingests: Ints,
    as_of: Ints,
    watermark: Ints,
    policy: Ints,
    windows: Ints,
    edges: Ints,
    ingest_bounds: Ints,
) -> bool:
    """Find what each query of one entity sees.

    Args:
        times: Event times of the entity, ascending.
        ingests: Their ingest times.
        as_of: The queries, in the order of what they see.
        watermark: Watermark of each.
        policy: Refresh period, refresh lag, inclusive.
        windows: Length and resolution per window.
        edges: Receives, one column per query, the lower index of each window, and in the last row the upper index of
            all.
        ingest_bounds: Receives, per query, the ingest bound.

    Returns:
        Whether some event before the event horizon of a query was not yet known to it.
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
        edges[count, q] = upper
        ingest_bounds[q] = ingest_bound
        is_late = is_late or newest_ingest >= ingest_bound
        for w in range(count):
            start = _window_start(event_bound, windows[w, 0], windows[w, 1], policy[2])
            edges[w, q] = search(times, edges[w, q - 1] if q > 0 else 0, upper, start)
    return is_late


@inner
def _find_turns(ingests: Ints, upper: Ints, ingest_bounds: Ints, turns: Turns) -> None:
    """Find for each event the first query that sees it through a window without a lower edge.

    Args:
        ingests: Ingest times of the entity's events.
        upper: Per query the index after the last event before its event horizon.
        ingest_bounds: Per query the ingest bound.
        turns: Receives the turns, the count of queries for events that no query sees, and the events in their order.
    """
    turn, order = turns.turn, turns.order
    queries = ingest_bounds.size
    own_counts = np.zeros(queries + 2, dtype=np.int64)
    counts = borrowed(own_counts)
    passed = 0
    for i in range(ingests.size):
        while passed < queries and upper[passed] <= i:
            passed += 1
        turn[i] = max(passed, search(ingest_bounds, 0, queries, ingests[i] + 1))
        counts[turn[i] + 1] += 1
    for q in range(queries + 1):
        counts[q + 1] += counts[q]
    for i in range(ingests.size):
        order[counts[turn[i]]] = i
        counts[turn[i]] += 1
    keep(own_counts)


@inner
def _write_newest(times: Ints, upper: Ints, target: Ints, newest: Ints) -> None:
    """Write the event time of the newest event before the event horizon of each query.

    Args:
        times: Event times of the entity, ascending.
        upper: Per query the index after the last event before its event horizon.
        target: Per query the column of the result.
        newest: Result, ``NO_EVENT`` where there is no event.
    """
    for q in range(upper.size):
        newest[target[q]] = times[upper[q] - 1] if upper[q] > 0 else NO_EVENT


@inner
def _write_newest_late(times: Ints, turns: Turns, target: Ints, newest: Ints) -> None:
    """Write the event time of the newest event that each query sees, where events become visible out of order.

    Args:
        times: Event times of the entity, ascending.
        turns: When its events become visible.
        target: Per query the column of the result.
        newest: Result, ``NO_EVENT`` where there is no event.
    """
    entered = 0
    last = -1
    for q in range(target.size):
        while entered < turns.order.size and turns.turn[turns.order[entered]] <= q:
            last = max(last, turns.order[entered])
            entered += 1
        newest[target[q]] = times[last] if last >= 0 else NO_EVENT


@jit
def evaluate_entities(
    first: int, stop: int, events: EventArrays, queries: QueryArrays, program: ProgramArrays, results: ResultArrays
) -> bool:
    """Compute the features of the queries of the entities ``first`` to ``stop`` (exclusive).

    Args:
        first: First entity code.
        stop: One past the last entity code.
        events: The events.
        queries: The queries.
        program: The features, and the kernels that compute them.
        results: Receives the values. Columns of entities outside of the range are not touched.

    Returns:
        Whether a sum did not fit its dtype; its status is ``OVERFLOWED``.
    """
    overflowed = False
    times, ingests = borrowed(events.times), borrowed(events.ingests)
    values, flags = borrowed(events.values), borrowed(events.flags)
    as_of, watermark, target = borrowed(queries.as_of), borrowed(queries.watermark), borrowed(queries.target)
    policy, windows, groups = borrowed(program.policy), borrowed(program.windows), borrowed(program.groups)
    features, folds, finishes = borrowed(program.features), borrowed(program.folds), borrowed(program.finishes)
    words, statuses, newest = borrowed(results.words), borrowed(results.statuses), borrowed(results.newest)
    offsets, query_offsets = borrowed(events.offsets), borrowed(queries.offsets)
    for entity in range(first, stop):
        low, high = query_offsets[entity], query_offsets[entity + 1]
        if low == high:
            continue
        begin, end = offsets[entity], offsets[entity + 1]
        own_times, own_ingests = times[begin:end], ingests[begin:end]
        own_as_of, own_target = as_of[low:high], target[low:high]
        own_edges = np.empty((windows.shape[0] + 1, high - low), dtype=np.int64)
        own_bounds = np.empty(high - low, dtype=np.int64)
        edges, ingest_bounds = borrowed(own_edges), borrowed(own_bounds)
        is_late = _frame(own_times, own_ingests, own_as_of, watermark[low:high], policy, windows, edges, ingest_bounds)
        own_turns = np.empty((2, end - begin if is_late else 0), dtype=np.int64)
        turns = Turns(borrowed(own_turns[0]), borrowed(own_turns[1]))
        if is_late:
            _find_turns(own_ingests, edges[windows.shape[0]], ingest_bounds, turns)
            _write_newest_late(own_times, turns, own_target, newest)
        else:
            _write_newest(own_times, edges[windows.shape[0]], own_target, newest)
        for g in range(groups.shape[0]):
            group = groups[g]
            first_feature, stop_feature = group[GROUP_BEGIN], group[GROUP_END]
            task = GroupTask(
                values[group[GROUP_INPUT], begin:end],
                flags[group[GROUP_INPUT], begin:end],
                own_times,
                own_ingests,
                edges,
                ingest_bounds,
                own_as_of,
                own_target,
                group,
                features[first_feature:stop_feature],
                finishes[first_feature:stop_feature],
                words,
                statuses,
            )
            way = choose_way(is_late, edges, task.features)
            if way == LATE:
                fold_late(folds[g, way], (task, turns))
            else:
                fold(folds[g, way], (task,))
        for q in range(high - low):
            for f in range(statuses.shape[0]):
                overflowed = overflowed or statuses[f, own_target[q]] == OVERFLOWED
                if newest[own_target[q]] == NO_EVENT:
                    statuses[f, own_target[q]] = NOT_FOUND
        keep(own_edges)
        keep(own_bounds)
        keep(own_turns)
    return overflowed
