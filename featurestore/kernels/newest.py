"""Which events can be the newest that some query sees, so that a source is read once instead of sorted.

The queries of an entity, in the order of their instants, see more and more of its events. So each event has a first
query that sees it, and of the events with the same first query only the newest members can ever be an answer: for every
later query they come before the same ones. All others may be dropped without any answer changing, as long as features
need only the newest events. Events that are equal in entity and times are all kept, because only their content can
order them, and this module does not read it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from featurestore.core import temporal
from featurestore.core.columns import Flags, Ints
from featurestore.kernels.evaluate import Queries, input_array
from featurestore.kernels.events import is_before
from featurestore.kernels.jit import inner, jit
from featurestore.kernels.program import MEMBER_NULL, need_of
from featurestore.plan.aggregations import aggregate_of
from featurestore.plan.model import InputPlan, ViewPlan

_horizons = inner(temporal.horizons)
_is_visible = inner(temporal.is_visible)


def asks_only_newest(view: ViewPlan) -> bool:
    """Return whether the newest member of each input answers every feature of a view, windows and ttl included.

    A window ends where visibility does: if the newest visible member lies before its lower edge, so do all.
    """
    return all(aggregate_of(feature).needs_newest_only for feature in view.features)


def deciding_columns(view: ViewPlan) -> set[str]:
    """Return the columns whose values decide which events are members of an input."""
    return {name for source, _ in _doubtful(view) for name in source.columns()}


def _doubtful(view: ViewPlan) -> list[tuple[InputPlan, int]]:
    """Return the inputs that some events may not be members of, each with the least flag of a member."""
    asked = sorted({(feature.input, need_of(feature)) for feature in view.features})
    inputs = [(view.inputs[number], need) for number, need in asked]
    return [
        (source, need)
        for source, need in inputs
        if source.where is not None or (source.value is not None and need > MEMBER_NULL)
    ]


class Horizons:
    """The horizons of some queries."""

    def __init__(self, view: ViewPlan, queries: Queries) -> None:
        """Compute the horizons.

        Args:
            view: The plan, for its refresh and edges.
            queries: The queries, arranged.
        """
        self._view = view
        self._offsets = queries.offsets
        self._event_bound = np.empty_like(queries.as_of)
        self._ingest_bound = np.empty_like(queries.as_of)
        refresh, inclusive = view.refresh, int(view.source.inclusive)
        _bounds(queries.as_of, refresh.period_us, refresh.lag_us, inclusive, self._event_bound, self._ingest_bound)

    def newest(self, codes: Ints, event_time: Ints, ingest_time: Ints, columns: Mapping[str, pa.Array]) -> Ints:
        """Find the events that can be the newest member of an input, or the newest at all, for some query.

        Args:
            codes: Entity of each event, numbered as those of the queries; negative ones are left out.
            event_time: Microseconds.
            ingest_time: Microseconds; ``event_time`` itself if there is no other.
            columns: The deciding columns of the events, in contract dtypes.

        Returns:
            Row numbers, ascending. These events give the same answers to all queries as all events do.
        """
        seen = np.empty(len(codes), dtype=np.int64)
        _first_to_see(codes, event_time, ingest_time, self._offsets, self._event_bound, self._ingest_bound, seen)
        kept = np.zeros(len(codes), dtype=np.bool_)
        every = np.ones(len(codes), dtype=np.bool_)
        members = [every]
        for source, need in _doubtful(self._view):
            _, flags = input_array(source, columns, len(codes))
            member = flags >= need
            if not member.all():
                members.append(member)
        best = np.empty(len(self._event_bound), dtype=np.int64)
        for member in members:
            best.fill(-1)
            _keep_newest(seen, member, event_time, ingest_time, best, kept)
        return np.flatnonzero(kept)


@jit
def _bounds(as_of: Ints, period: int, lag: int, inclusive: int, event_bound: Ints, ingest_bound: Ints) -> None:
    """Write the horizons of queries that have no watermark.

    Args:
        as_of: Instants asked about.
        period: Refresh period.
        lag: Refresh lag.
        inclusive: 1 if events at the horizon itself are seen, else 0.
        event_bound: Receives the exclusive bound of event times.
        ingest_bound: Receives the exclusive bound of ingest times.
    """
    for q in range(as_of.size):
        event_bound[q], ingest_bound[q] = _horizons(as_of[q], temporal.NO_WATERMARK, period, lag, inclusive)


@jit
def _first_to_see(
    codes: Ints, times: Ints, ingests: Ints, offsets: Ints, event_bound: Ints, ingest_bound: Ints, seen: Ints
) -> None:
    """Find the first query that sees each event.

    The search starts at the first query that sees the entity's event before: sources are mostly in the order of time.

    Args:
        codes: Entity of each event; negative ones are left out.
        times: Event times.
        ingests: Ingest times.
        offsets: Queries of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        event_bound: Per query the exclusive bound of event times.
        ingest_bound: Per query the exclusive bound of ingest times.
        seen: Receives the query, -1 if none sees the event.
    """
    guess = offsets[:-1].copy()
    for i in range(codes.size):
        entity = codes[i]
        if entity < 0:
            seen[i] = -1
            continue
        low, end = offsets[entity], offsets[entity + 1]
        high = end
        at = guess[entity]
        step = 1
        while low < high:
            if at < low or at >= high:
                at = (low + high) >> 1
            if _is_visible(times[i], ingests[i], event_bound[at], ingest_bound[at]):
                high = at
                at -= step
            else:
                low = at + 1
                at += step
            step <<= 1
        seen[i] = low if low < end else -1
        guess[entity] = low


@jit
def _keep_newest(seen: Ints, member: Flags, times: Ints, ingests: Ints, best: Ints, kept: Flags) -> None:
    """Keep, of the members that a query is the first to see, the newest, and those equal to it in both times.

    Args:
        seen: Per event the first query that sees it, -1 if none does.
        member: Per event whether it is a member of the input.
        times: Event times.
        ingests: Ingest times.
        best: Holds -1; receives, per query, the newest member that it is the first to see.
        kept: Becomes true for the events to keep.
    """
    has_ties = False
    for i in range(seen.size):
        q = seen[i]
        if q < 0 or not member[i]:
            continue
        if best[q] < 0 or is_before(best[q], i, times, ingests):
            best[q] = i
        elif not is_before(i, best[q], times, ingests):
            has_ties = True
    for q in range(best.size):
        if best[q] >= 0:
            kept[best[q]] = True
    if not has_ties:
        return
    for i in range(seen.size):
        q = seen[i]
        if q >= 0 and member[i] and not is_before(i, best[q], times, ingests):
            kept[i] = True
