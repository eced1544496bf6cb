"""How the online side is, for those who watch over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurestore.online.store import ViewRecord
from featurestore.temporal import NOTHING_YET


@dataclass(frozen=True)
class ViewVitals:
    """How one view is.

    Attributes:
        staleness_us: The present instant minus the one up to which the view is complete; ``None`` if nothing is
            materialized.
        log_lag_us: How far its state is behind the log of pushed events; ``None`` if its source takes none.
        is_lost: Whether a part of its states is gone, so that it answers nothing.
    """

    staleness_us: int | None
    log_lag_us: int | None
    is_lost: bool = False


@dataclass(frozen=True)
class Vitals:
    """How the online side is.

    Attributes:
        views: The views that answer, by name.
        is_store_left_alone: Whether the online store failed a moment ago and is not asked.
        log_ahead_us: By source with a log, how far its head is ahead of the present.
    """

    views: Mapping[str, ViewVitals] = field(default_factory=dict)
    is_store_left_alone: bool = False
    log_ahead_us: Mapping[str, int] = field(default_factory=dict)


def view_vitals(record: ViewRecord, *, now_us: int, head_us: int | None, period_us: int) -> ViewVitals:
    """Return how a view is.

    Args:
        record: What the store knows about its states.
        now_us: The present instant.
        head_us: The instant before which all events of its log became known; ``None`` if it has no log.
        period_us: How far apart the view's refreshes are; 0 if lookups use events as they come.
    """
    if record.watermark_us == NOTHING_YET:
        return ViewVitals(None, None)
    lag_us = None if head_us is None else max(0, head_us - max(record.log_us, record.watermark_us))
    return ViewVitals(max(0, now_us - record.bound_us(period_us)), lag_us, record.lost is not None)
