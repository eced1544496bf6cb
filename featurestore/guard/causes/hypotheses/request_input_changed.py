"""``request_input_changed``: a request input was lost, cast, scaled or respelled before it was used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.guard.causes.altering import SPELLINGS, Change
from featurestore.guard.causes.hypotheses.time_zone import ZONES_US, zone_changes, zones_of
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.world.world import World

_FACTORS = (1000.0, 100.0, 60.0, 3600.0, -1.0)
_WHOLE_FACTORS = (1_000, 1_000_000, 100, 60, 3_600, 86_400)


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose every change that an input of its type may have gone through."""
    for name, column in case.world.requests.items():
        for description, change in changes_of_input(column.type, sorted(zones_of(case.world))):
            yield Assumption(
                f"{name} was {description} before it was used",
                partial(_with_changed_input, name, change),
                {"input": name, "change": description},
                fix=f"Pass {name} through as it is logged, or log it as it is used.",
            )


def _with_changed_input(name: str, change: Change, world: World) -> World | None:
    column = world.requests.get(name)
    if column is None:
        return None
    return replace(world, requests={**world.requests, name: change(column)})


def changes_of_input(kind: pa.DataType, zones: Sequence[str]) -> Iterator[tuple[str, Change]]:
    """Yield in words, and as a change of a column, what may happen to an input on its way.

    Args:
        kind: Type of the input.
        zones: Names of zones in which an instant may have been read.
    """
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
        for description, change in zone_changes(ZONES_US, zones):
            yield f"read {description}", change


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


REQUEST_INPUT_CHANGED = Hypothesis(
    "request_input_changed",
    rank=190,
    meaning="request inputs were changed before they were used",
    propose=_propose,
)
