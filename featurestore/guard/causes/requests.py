"""Request inputs that were not those in the log: older ones, or changed on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.causes.spelling import SPELLINGS
from featurestore.guard.causes.windows import ZONES_US, zone_changes, zones_of
from featurestore.guard.world.world import World

PREVIOUS = "previous__"
"""Prefix of the columns with the request inputs of the entity's row before, in the log an audit prepares."""

Change = Callable[[pa.Array], pa.Array]

_FACTORS = (1000.0, 100.0, 60.0, 3600.0, -1.0)
_WHOLE_FACTORS = (1_000, 1_000_000, 100, 60, 3_600, 86_400)


def stale_request_input(case: Case) -> Iterator[Variant]:
    """Propose the inputs of the entity's request before."""
    names = [name for name in case.world.requests if f"{PREVIOUS}{name}" in case.world.log.column_names]
    for chosen in (*([name] for name in names), *([names] if len(names) > 1 else [])):
        yield Variant(
            "stale_request_input",
            f"{' and '.join(chosen)} came from the entity's request before",
            partial(_from_before, chosen),
            {"inputs": ", ".join(chosen)},
            fix=f"Send {' and '.join(chosen)} with each request; look for a cache or a reused message.",
        )


def _from_before(names: list[str], world: World) -> World | None:
    if not all(f"{PREVIOUS}{name}" in world.log.column_names for name in names):
        return None
    before = {name: world.column(f"{PREVIOUS}{name}") for name in names}
    return replace(world, requests={**world.requests, **before})


def request_input_changed(case: Case) -> Iterator[Variant]:
    """Propose that an input was lost, cast, scaled or respelled."""
    for name, column in case.world.requests.items():
        for said, change in _changes(column.type, sorted(zones_of(case.world))):
            yield Variant(
                "request_input_changed",
                f"{name} was {said} before it was used",
                partial(_changed, name, change),
                {"input": name, "change": said},
                fix=f"Pass {name} through as it is logged, or log it as it is used.",
            )


def _changed(name: str, change: Change, world: World) -> World | None:
    column = world.requests.get(name)
    if column is None:
        return None
    return replace(world, requests={**world.requests, name: change(column)})


def _changes(kind: pa.DataType, zones: list[str]) -> Iterator[tuple[str, Change]]:
    yield "null", lambda array: pa.nulls(len(array), array.type)
    if pa.types.is_floating(kind):
        yield "0 in place of null", lambda array: array.fill_null(0.0)
        yield "0", lambda array: _constant(array, 0.0)
        yield "cast to float32", lambda array: array.cast(pa.float32(), safe=False).cast(pa.float64())
        yield "cut to a whole number", pc.trunc
        yield "rounded to a whole number", pc.round
        for factor in _FACTORS:
            yield f"multiplied by {factor:g}", partial(_times, factor=factor)
            yield f"divided by {factor:g}", partial(_times, factor=1 / factor)
    elif pa.types.is_integer(kind):
        yield "0 in place of null", lambda array: array.fill_null(0)
        yield "0", lambda array: _constant(array, 0)
        for step in (-1, 1):
            yield f"{step:+d}", partial(_plus, step=step)
        for factor in _WHOLE_FACTORS:
            yield f"multiplied by {factor}", partial(pc.multiply_checked, pa.scalar(factor))
            yield f"divided by {factor}", partial(_cut_by, factor=factor)
    elif pa.types.is_string(kind):
        yield "empty text in place of null", lambda array: array.fill_null("")
        yield from SPELLINGS
    elif pa.types.is_timestamp(kind):
        for unit in ("millisecond", "second", "minute", "hour", "day"):
            yield f"cut to the {unit}", partial(pc.floor_temporal, unit=unit)
        for said, change in zone_changes(ZONES_US, zones):
            yield f"read {said}", change


def _constant(array: pa.Array, value: float) -> pa.Array:
    return pa.array(np.full(len(array), value), type=array.type)


def _times(array: pa.Array, factor: float) -> pa.Array:
    return pc.multiply(array, factor)


def _cut_by(array: pa.Array, factor: int) -> pa.Array:
    """Divide whole numbers and round down, as a unit is changed."""
    remainder = pc.subtract(array, pc.multiply(pc.divide(array, factor), factor))
    return pc.subtract(pc.divide(array, factor), pc.less(remainder, 0).cast(pa.int64()))


def _plus(array: pa.Array, step: int) -> pa.Array:
    return pc.add(array, step)


REQUESTS = (
    Hypothesis("stale_request_input", "request inputs came from an earlier request", stale_request_input),
    Hypothesis("request_input_changed", "request inputs were changed before they were used", request_input_changed),
)
