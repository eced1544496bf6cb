"""How a value comes about, in one sentence; every number in it is the kernels'."""

from __future__ import annotations

from dataclasses import replace

from featurestore.core.columns import Ints
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
from featurestore.plan.aggregations import RULES
from featurestore.plan.model import FeaturePlan

_ORDER = "by (event_time, ingest_time, content)"


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
    if len(used) == 0 and feature.aggregation not in ("count", "count_distinct"):
        return "the entity is known, but no event is left to make a value of: null"
    members = len(used) + listed.counts.get("outranked", 0)
    value = shown(told.value)
    sentence = _SENTENCES.get(feature.aggregation)
    if sentence is not None:
        return sentence.format(n=counted(len(used), "value"), used=numbered(used), members=members, value=value)
    return _computed(events, feature, used, value)


_SENTENCES = {
    "sum": "exact sum of {n}, rounded once = {value}",
    "min": "the smallest of {n} = {value}",
    "max": "the largest of {n} = {value}",
    "mode": "the most frequent of {n}, the smallest of equally frequent ones = {value}",
    "count_distinct": "distinct values among {n} = {value}",
    "first": "first of {members} " + _ORDER + ": {used} = {value}",
    "last": "last of {members} " + _ORDER + ": {used} = {value}",
    "first_n": "the first of {members} " + _ORDER + ": {used} = {value}",
    "last_n": "the last of {members} " + _ORDER + ": {used} = {value}",
}


def _computed(events: EntityEvents, feature: FeaturePlan, used: Ints, value: str) -> str:
    count = counted(len(used), "value")
    if feature.aggregation == "count":
        what = "event" if events.view.inputs[feature.input].value is None else "value"
        return f"{counted(len(used), what)} counted = {value}"
    if feature.aggregation == "time_since_last":
        unit = feature.param("unit_us")
        assert isinstance(unit, int)
        return f"as_of - event_time of the last event ({numbered(used)}), in units of {format_duration(unit)} = {value}"
    if feature.aggregation == "quantile":
        low, high = (_asked(events, feature, name) for name in ("min", "max"))
        return f"quantile {feature.param('q')} of {count} from {low} to {high}, linear between neighbours = {value}"
    if feature.aggregation == "mean":
        return f"exact sum {_asked(events, feature, 'sum')} of {count} / {len(used)} = {value}"
    what = "variance" if feature.aggregation == "var" else "standard deviation"
    mean = _asked(events, feature, "mean")
    return f"exact {what} of {count} with mean {mean}, divided by n - {feature.param('ddof')} = {value}"


def _asked(events: EntityEvents, feature: FeaturePlan, aggregation: str) -> str:
    """Return what another aggregation makes of the same events."""
    source = events.view.inputs[feature.input]
    assert source.value is not None
    dtype = RULES[aggregation].gives(source.value.dtype)
    assert isinstance(dtype, DType)
    found = events.answer(replace(feature, aggregation=aggregation, dtype=dtype, params=()))
    return "(too large for int64)" if found is None else shown(text(found.values[0].as_py()))
