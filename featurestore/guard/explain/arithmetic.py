"""How a value comes about, in one sentence; every number in it is the kernels'."""

from __future__ import annotations

from dataclasses import replace
from string import Formatter

from featurestore.core.dtypes import DType
from featurestore.core.statuses import Status
from featurestore.core.temporal import format_duration
from featurestore.guard.explain.entity import EntityEvents
from featurestore.guard.explain.listing import EventList
from featurestore.guard.explain.model import Told
from featurestore.guard.explain.words import (
    counted,
    numbered,
    shown,
    text,
)
from featurestore.plan.aggregations import AGGREGATES, aggregate_of
from featurestore.plan.model import FeaturePlan


def arithmetic(events: EntityEvents, feature: FeaturePlan, listed: EventList, told: Told) -> str:
    """Say how a feature of a view comes about.

    Args:
        events: The events.
        feature: The feature.
        listed: What became of them.
        told: What a training set holds.
    """
    used = listed.used
    if told.status == Status.NOT_FOUND.name:
        return "no event of this entity is visible: it is not known"
    if told.status == Status.EXPIRED.name:
        return f"the newest value is older than its ttl of {format_duration(feature.ttl_us or 0)}"
    aggregate = aggregate_of(feature)
    if len(used) == 0 and aggregate.over_no_rows is None:
        return "the entity is known, but no event is left to make a value of: null"
    noun = "event" if events.view.inputs[feature.input].value is None else "value"
    others = {str(name) for _, name, _, _ in Formatter().parse(aggregate.sentence)} & AGGREGATES.keys()
    fields = _options(feature) | {name: _asked(events, feature, name) for name in others}
    return aggregate.sentence.format(
        value=shown(told.value),
        events=counted(len(used), noun),
        number=len(used),
        used=numbered(used),
        members=len(used) + listed.counts.get("outranked", 0),
        **fields,
    )


def _options(feature: FeaturePlan) -> dict[str, str]:
    """Return the options of a feature by the names that users write; lengths of time are written as durations."""
    return {
        name.removesuffix("_us"): format_duration(int(str(value))) if name.endswith("_us") else str(value)
        for name, value in feature.params
    }


def _asked(events: EntityEvents, feature: FeaturePlan, aggregation: str) -> str:
    """Return what another aggregation makes of the same events."""
    source = events.view.inputs[feature.input]
    assert source.value is not None
    dtype = AGGREGATES[aggregation].gives(source.value.dtype)
    assert isinstance(dtype, DType)
    found = events.answer(replace(feature, aggregation=aggregation, dtype=dtype, params=()))
    return "(too large for int64)" if found is None else shown(text(found.values[0].as_py()))
