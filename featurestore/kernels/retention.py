"""Which events of an entity can still matter: the one rule by which online state is kept small.

For queries at ``reach`` or later, with a watermark not before ``reach``, an event can matter only if

- it lies in, or after, the longest window that ends at the horizon of ``reach``; or
- it can be the answer of a feature without a lower edge that looks at the newest events (``last``, ``last_n``,
  ``time_since_last``), or be the newest event of the entity at all: of these features, going back from the newest, as
  many members are kept as the feature wants that were visible at ``reach`` already, and all that were not yet; or
- it can be the answer of a feature without a lower edge that looks at the oldest events (``first``, ``first_n``): the
  same are kept, going forward from the oldest; or
- the view has any other feature without a lower edge: then every event matters.

All other events may be dropped: no lookup from ``reach`` on gives another answer, whatever events are added later.
"""

from __future__ import annotations

import numpy as np

from featurestore.core.columns import Bytes, Flags, Ints
from featurestore.core.temporal import (
    NO_WATERMARK,
    NOTHING_YET,
    horizons,
    is_visible,
    window_start,
)
from featurestore.kernels.events import EventBlock
from featurestore.kernels.jit import inner, jit
from featurestore.kernels.program import MEMBER_VALUE, need_of
from featurestore.plan.aggregations import End, aggregate_of, members_wanted
from featurestore.plan.model import ViewPlan

_is_visible = inner(is_visible)


def keeps_everything(view: ViewPlan) -> bool:
    """Return whether every event of a view matters for ever."""
    return any(f.window_us is None and aggregate_of(f).end is None for f in view.features)


def longest_us(view: ViewPlan) -> int | None:
    """Return how long after it happened an event can still matter to a value; ``None`` if for ever."""
    lengths = [
        feature.ttl_us if feature.window_us is None else feature.window_us + (feature.resolution_us or 0)
        for feature in view.features
    ]
    known = [length for length in lengths if length is not None]
    if len(known) < len(lengths):
        return None
    return max(known, default=0) + view.refresh.period_us + view.refresh.lag_us


def all_matter(view: ViewPlan, event_time: Ints, reach_us: int) -> bool:
    """Return whether a lookup at ``reach_us`` or later could depend on every one of some events, by their times alone.

    Args:
        view: The plan.
        event_time: Times of the events.
        reach_us: Earliest instant, and earliest watermark, of all queries still to come.
    """
    if reach_us <= NOTHING_YET or keeps_everything(view):
        return True
    start, _, _ = _earliest(view, reach_us)
    return bool((event_time >= start).all())


def still_matter(view: ViewPlan, block: EventBlock, reach_us: int) -> Flags:
    """Return, per event, whether a lookup at ``reach_us`` or later could depend on it.

    Args:
        view: The plan.
        block: Events in kernel order.
        reach_us: Earliest instant, and earliest watermark, of all queries still to come.

    Returns:
        One claim per event.
    """
    if all_matter(view, block.event_time, reach_us):
        return np.ones(len(block), dtype=np.bool_)
    start, event_bound, ingest_bound = _earliest(view, reach_us)
    kept = block.event_time >= start
    every_event = np.full(len(block), MEMBER_VALUE, dtype=np.uint8)
    wishes = [(every_event, MEMBER_VALUE, 1, True)]
    wishes += [
        (block.flags[f.input], need_of(f), members_wanted(f), aggregate_of(f).end is End.NEWEST)
        for f in view.features
        if f.window_us is None
    ]
    for flags, need, wanted, from_newest in wishes:
        _keep_members(
            block.offsets,
            block.event_time,
            block.ingest_time,
            flags,
            need,
            wanted,
            from_newest,
            event_bound,
            ingest_bound,
            kept,
        )
    return kept


def _earliest(view: ViewPlan, reach_us: int) -> tuple[int, int, int]:
    """Return the start of the longest window and both horizons of the earliest query."""
    refresh, inclusive = view.refresh, int(view.source.inclusive)
    # An inclusive source is answered up to one step before the watermark, which may lie at the reach itself.
    event_bound, ingest_bound = horizons(
        reach_us - inclusive, NO_WATERMARK, refresh.period_us, refresh.lag_us, inclusive
    )
    starts = [
        window_start(event_bound, feature.window_us, feature.resolution_us, inclusive)
        for feature in view.features
        if feature.window_us is not None
    ]
    return min(starts, default=event_bound), event_bound, ingest_bound


@jit
def _keep_members(
    offsets: Ints,
    times: Ints,
    ingests: Ints,
    flags: Bytes,
    need: int,
    wanted: int,
    from_newest: bool,
    event_bound: int,
    ingest_bound: int,
    kept: Flags,
) -> None:
    """Keep, per entity and from one end on, members until ``wanted`` of them were visible before the bounds.

    Args:
        offsets: Events of entity ``e`` are ``offsets[e]:offsets[e + 1]``.
        times: Event times.
        ingests: Ingest times.
        flags: Flag of each event in the input.
        need: Least flag of a member.
        wanted: How many visible members are enough.
        from_newest: Whether to go back from the newest event; else forward from the oldest.
        event_bound: Exclusive bound of the event times of visible events.
        ingest_bound: Exclusive bound of their ingest times.
        kept: Becomes true for the events to keep.
    """
    for entity in range(offsets.size - 1):
        begin, end = offsets[entity], offsets[entity + 1]
        visible = 0
        for step in range(end - begin):
            if visible >= wanted:
                break
            i = end - 1 - step if from_newest else begin + step
            if flags[i] >= need:
                kept[i] = True
                if _is_visible(times[i], ingests[i], event_bound, ingest_bound):
                    visible += 1
