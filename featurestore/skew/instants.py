"""Instants that are worth asking at: where an event is just seen, just known, just leaves a window or expires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from featurestore.plan.model import ViewPlan
from featurestore.skew.picking import Occurrence


def instants(picked: Sequence[Occurrence], count: int, *, until_us: int) -> list[int]:
    """Choose instants at and beside the edges at which picked events begin or cease to count.

    Which of them count is not decided here: both roads are asked.

    Args:
        picked: Events.
        count: About how many instants.
        until_us: Last instant allowed.

    Returns:
        Distinct instants, ascending.
    """
    edges = [list(_edges(event)) for event in picked]
    found: dict[int, None] = {}
    for turn in range(max(map(len, edges), default=0)):
        for place, of_event in enumerate(edges):
            # Each event begins elsewhere, so that a few events bring every kind of edge.
            instant = of_event[(turn + place) % len(of_event)]
            if instant <= until_us:
                found[instant] = None
            if len(found) >= count:
                return sorted(found)
    return sorted(found)


def _edges(event: Occurrence) -> Iterator[int]:
    view = event.use.view
    known = max(event.event_time_us, event.ingest_time_us)
    lengths = sorted({length for feature in view.features for length in (feature.window_us, feature.ttl_us) if length})
    for edge in (known, *(event.event_time_us + length for length in lengths)):
        yield edge
        yield edge + 1
        if view.refresh.period_us:
            yield _refreshed(view, edge)
            yield _refreshed(view, edge) - 1


def _refreshed(view: ViewPlan, instant_us: int) -> int:
    """Return when the refresh after an instant is promised to be served."""
    period, lag = view.refresh.period_us, view.refresh.lag_us
    return (instant_us // period + 1) * period + lag
