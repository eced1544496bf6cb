"""Which events a feature is made of, and which rule left the others out, as the kernels themselves decide it.

No rule stands here a second time. This module evaluates lists of the newest or oldest values of a window, with the
places of events instead of their values, so the kernels return which events they pick. It does so with one more rule
each time (the horizon, what was known, the window, membership, null); an event's fate is the first rule that leaves it
out.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from featurestore.core.columns import Bytes, Ints
from featurestore.core.dtypes import INT64, list_of
from featurestore.core.statuses import EXPIRED
from featurestore.core.temporal import NO_WATERMARK
from featurestore.kernels.evaluate import BoundView, bind
from featurestore.kernels.events import NO_EVENT, EventBlock
from featurestore.kernels.program import MEMBER_NULL, MEMBER_VALUE, NOT_MEMBER, need_of
from featurestore.plan.aggregations import End, aggregate_of, members_wanted
from featurestore.plan.model import FeaturePlan, InputPlan, ViewPlan


class Fate(IntEnum):
    """What an event is to one value of a feature."""

    USED = 0
    """The value is made of it."""
    AFTER_HORIZON = 1
    """It happened at the event horizon or later."""
    NOT_YET_KNOWN = 2
    """It became known at the ingest horizon or later."""
    BEFORE_WINDOW = 3
    """It happened before the lower edge of the window."""
    NOT_MEMBER = 4
    """The condition of the aggregation is not true for it."""
    NULL = 5
    """Its value is null, and the aggregation skips nulls."""
    OUTRANKED = 6
    """Newer events took precedence, or older ones if the feature wants the oldest."""
    EXPIRED = 7
    """It would be the value, but is older than the time to live."""


class Selection:
    """The events that one query about one entity selects.

    Attributes:
        newest: Place of the newest visible event; -1 if the query sees none, and the entity is not found.
    """

    def __init__(self, view: ViewPlan, block: EventBlock, as_of_us: int, *, watermark: int = NO_WATERMARK) -> None:
        """Find the events that are visible.

        Args:
            view: The view.
            block: The events of one entity, or of none.
            as_of_us: The instant asked about.
            watermark: Exclusive bound of the ingest times the block holds in full.
        """
        self._view = view
        self._block = block
        self._as_of = np.array([as_of_us], dtype=np.int64)
        self._entity = np.array([0 if len(block.offsets) > 1 else -1], dtype=np.int64)
        self._watermark = watermark
        self._folded: dict[tuple[int, int, int | None, int], Bytes] = {}
        everything = np.arange(len(block), dtype=np.int64)
        places = np.broadcast_to(everything, (len(view.inputs) + 1, len(block)))
        member = np.full((1, len(block)), MEMBER_VALUE, dtype=np.uint8)
        self._places = replace(
            block,
            values=np.ascontiguousarray(places),
            flags=np.vstack([block.flags.reshape(len(view.inputs), len(block)), member]),
            dictionaries=(*block.dictionaries, None) if block.dictionaries else (),
        )
        self._every = len(view.inputs)
        self._in_time = self._seen(replace(self._places, ingest_time=np.full(len(block), NO_EVENT, dtype=np.int64)))
        self._visible = self._seen(self._places)
        self.newest = int(np.flatnonzero(self._visible)[-1]) if self._visible.any() else -1

    def fates(self, feature: FeaturePlan) -> Bytes:
        """Return the ``Fate`` of each event of the block in a feature of the view."""
        key = (feature.input, need_of(feature), feature.window_us, feature.resolution_us)
        if key not in self._folded:
            self._folded[key] = self._fates_before_ranking(feature)
        fates = self._folded[key].copy()
        if aggregate_of(feature).end is not None and len(fates):
            picked = self._places_of(self._places, feature, feature.input, need_of(feature), members_wanted(feature))
            used = fates == Fate.USED
            fates[used] = Fate.OUTRANKED
            fates[picked] = self._fate_of_picked(feature)
        return fates

    def _fate_of_picked(self, feature: FeaturePlan) -> Fate:
        bound = bind(replace(self._view, features=(feature,)))
        answer = bound.evaluate(self._block, self._entity, self._as_of, watermark=self._watermark)
        return Fate.EXPIRED if answer.statuses[0, 0] == EXPIRED else Fate.USED

    def _fates_before_ranking(self, feature: FeaturePlan) -> Bytes:
        """Return the fates that all aggregations of one input, window and rule on nulls share."""
        count = len(self._block)
        fates = np.full(count, Fate.NULL, dtype=np.uint8)
        fates[self._block.flags[feature.input] == NOT_MEMBER] = Fate.NOT_MEMBER
        fates[self._places_of(self._places, feature, feature.input, need_of(feature), count)] = Fate.USED
        in_window = np.zeros(count, dtype=np.bool_)
        in_window[self._places_of(self._places, feature, self._every, MEMBER_NULL, count)] = True
        fates[~in_window] = Fate.BEFORE_WINDOW
        fates[~self._visible] = Fate.NOT_YET_KNOWN
        fates[~self._in_time] = Fate.AFTER_HORIZON
        return fates

    def _seen(self, block: EventBlock) -> npt.NDArray[np.bool_]:
        """Return which events a window without a lower edge holds."""
        whole = FeaturePlan("", "last", self._every, INT64)
        seen = np.zeros(len(block), dtype=np.bool_)
        seen[self._places_of(block, whole, self._every, MEMBER_NULL, len(block))] = True
        return seen

    def _places_of(self, block: EventBlock, feature: FeaturePlan, source: int, need: int, count: int) -> Ints:
        """Return the places of up to ``count`` members of an input in a feature's window, from the feature's end on."""
        probe = FeaturePlan(
            name="places",
            aggregation="first_n" if aggregate_of(feature).end is End.OLDEST else "last_n",
            input=source,
            dtype=list_of(INT64),
            window_us=feature.window_us,
            resolution_us=feature.resolution_us,
            params=(("n", max(1, count)), ("respect_nulls", need == MEMBER_NULL)),
        )
        bound = BoundView(replace(self._view, inputs=(*self._view.inputs, InputPlan()), features=(probe,)))
        words = bound.evaluate(block, self._entity, self._as_of, watermark=self._watermark).words
        return words[1 : 1 + int(words[0, 0]), 0]
