"""Defaults that stand for null, null that stands for a value, and nulls that say another reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Flags
from featurestore.core.dtypes import literal
from featurestore.core.statuses import NULL, PRESENT
from featurestore.guard.causes.altering import HELD_SHARE, LEARNED_BITS
from featurestore.guard.causes.model import Case, Hypothesis, Variant
from featurestore.guard.world.world import Values, World
from featurestore.kernels.words import validity
from featurestore.plan.names import feature_column
from featurestore.serving_log.columns import status_column

_DEFAULTS = 3

_DEFAULT_SHARE = 0.05
"""Share of a feature's differing values that one default must explain."""


def default_for_null(case: Case) -> Iterator[Variant]:
    """Propose that one value was served in place of null, or null in place of one value."""
    for output in case.outputs:
        differs, reference, served = case.differs[output], case.reference[output], case.served[output]
        filled = differs & ~validity(reference.values) & validity(served.values)
        for value in _frequent(served.values, filled):
            for as_present in (True, False):
                yield Variant(
                    "default_for_null",
                    f"{output} is served as {literal(value)} where it has no value",
                    _filling(output, value, as_present),
                    {"default": str(value), "status": "PRESENT" if as_present else "kept"},
                    outputs=frozenset({output}),
                    fix=f"Serve null for {output}, or declare the default in the definition:"
                    f" coalesce(…, {literal(value)}).",
                    bits=LEARNED_BITS,
                    least_share=_DEFAULT_SHARE,
                )
        emptied = differs & validity(reference.values) & ~validity(served.values)
        for value in _frequent(reference.values, emptied)[:1]:
            yield Variant(
                "default_for_null",
                f"{output} is served as null where it is {literal(value)}",
                _emptying(output, value),
                {"default": "null", "for": str(value)},
                outputs=frozenset({output}),
                fix=f"Serve {literal(value)} as a value of {output}; it is not null.",
                bits=LEARNED_BITS,
                least_share=_DEFAULT_SHARE,
                least_held=HELD_SHARE,
            )
    yield from _filled_features(case)
    yield Variant(
        "default_for_null",
        "whatever has no value is served as NULL, also what is EXPIRED or NOT_FOUND",
        _plain_nulls,
        {"status": "NULL"},
        fix="Pass statuses on as they are answered: EXPIRED and NOT_FOUND say why there is no value.",
    )


def _plain_nulls(world: World) -> World:
    def transform(_: World, __: str, found: Values) -> Values:
        return Values(found.values, np.where(validity(found.values), found.statuses, np.uint8(NULL)))

    return replace(world, transforms=(*world.transforms, transform))


def _frequent(values: pa.Array, chosen: Flags) -> list[Any]:
    found = values.filter(pa.array(chosen)).to_pylist()
    counted = Counter(repr(value) for value in found)
    by_text = {repr(value): value for value in found}
    return [by_text[text] for text, _ in counted.most_common(_DEFAULTS)]


def _filling(output: str, value: Any, as_present: bool) -> Callable[[World], World]:
    def transform(_: World, name: str, found: Values) -> Values:
        if name != output or found.values.null_count == 0:
            return found
        is_null = ~validity(found.values)
        statuses = np.where(is_null, np.uint8(PRESENT), found.statuses) if as_present else found.statuses
        if pa.types.is_list(found.values.type):
            lists = [value if own is None else own for own in found.values.to_pylist()]
            return Values(pa.array(lists, type=found.values.type), statuses)
        return Values(found.values.fill_null(pa.scalar(value, type=found.values.type)), statuses)

    return lambda world: replace(world, transforms=(*world.transforms, transform))


def _emptying(output: str, value: Any) -> Callable[[World], World]:
    def transform(world: World, name: str, found: Values) -> Values:
        if name != output or pa.types.is_list(found.values.type):
            return found
        is_value = pc.equal(found.values, pa.scalar(value, type=found.values.type)).fill_null(False)
        nothing = pa.scalar(None, type=found.values.type)
        served = world.column(status_column(output)).to_numpy(zero_copy_only=False)
        chosen = np.asarray(is_value.to_numpy(zero_copy_only=False), dtype=np.bool_)
        return Values(pc.if_else(is_value, nothing, found.values), np.where(chosen, served, found.statuses))

    return lambda world: replace(world, transforms=(*world.transforms, transform))


def _filled_features(case: Case) -> Iterator[Variant]:
    """Propose that features had 0 in place of null before features on demand were computed from them."""
    if not any(output.kind == "on_demand" and output.name in case.outputs for output in case.world.plan.outputs):
        return
    for alias, view in case.world.views.items():
        for feature in view.view.features:
            if feature.dtype.kind in ("float64", "int64"):
                column = feature_column(alias, feature.name)
                yield Variant(
                    "default_for_null",
                    f"{column} counted as 0 where it has no value, for features computed on demand",
                    partial(_with_zero, column=column),
                    {"default": "0", "of": column},
                    outputs=frozenset(output.name for output in case.world.plan.outputs if output.kind == "on_demand"),
                    fix=f"Let features on demand see null for {column}, or write coalesce(…, 0) in the definition.",
                )


def _with_zero(world: World, column: str) -> World:
    return replace(world, fills={**world.fills, column: 0})


DEFAULT_FOR_NULL = Hypothesis("default_for_null", "a default stands for null, or null for a value", default_for_null)
