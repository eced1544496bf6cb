"""``default_for_null``: defaults that stand for null, null for a value, and nulls with another status."""

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
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import Values, World
from featurestore.kernels.words import validity
from featurestore.plan.names import feature_column
from featurestore.serving_log.columns import status_column

_MOST_DEFAULTS = 3


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose that one value was served in place of null, or null in place of one value."""
    for output in case.outputs:
        yield from _defaults(case, output)
    yield from _filled_features(case)
    yield Assumption(
        "whatever has no value is served as NULL, also what is EXPIRED or NOT_FOUND",
        _with_plain_nulls,
        {"status": "NULL"},
        fix="Pass statuses on as they are answered: EXPIRED and NOT_FOUND say why there is no value.",
    )


def _defaults(case: Case, output: str) -> Iterator[Assumption]:
    """Propose defaults of one output: the most frequent values where the other road has null."""
    differs, reference, served = case.differs[output], case.reference[output], case.served[output]
    filled = differs & ~validity(reference.values) & validity(served.values)
    for value in _frequent(served.values, filled):
        for as_present in (True, False):
            yield Assumption(
                f"{output} is served as {literal(value)} where it has no value",
                _filling(output, value, as_present),
                {"default": str(value), "status": "PRESENT" if as_present else "kept"},
                outputs=frozenset({output}),
                fix=f"Serve null for {output}, or declare the default in the definition:"
                f" coalesce(…, {literal(value)}).",
                naming_bits=WEIGHTS.naming_learned,
                least_share=WEIGHTS.default_share,
            )
    emptied = differs & validity(reference.values) & ~validity(served.values)
    for value in _frequent(reference.values, emptied)[:1]:
        yield Assumption(
            f"{output} is served as null where it is {literal(value)}",
            _emptying(output, value),
            {"default": "null", "for": str(value)},
            outputs=frozenset({output}),
            fix=f"Serve {literal(value)} as a value of {output}; it is not null.",
            naming_bits=WEIGHTS.naming_learned,
            least_share=WEIGHTS.default_share,
            least_held=WEIGHTS.constant_held_share,
        )


def _with_plain_nulls(world: World) -> World:
    def transform(_: World, __: str, computed: Values) -> Values:
        statuses = np.where(validity(computed.values), computed.statuses, np.uint8(NULL))
        return Values(computed.values, statuses)

    return world.with_transform(transform)


def _frequent(values: pa.Array, chosen: Flags) -> list[Any]:
    """Return the most frequent of some values, most frequent first."""
    by_text = {repr(value): value for value in values.filter(pa.array(chosen)).to_pylist()}
    counts = Counter(repr(value) for value in values.filter(pa.array(chosen)).to_pylist())
    return [by_text[text] for text, _ in counts.most_common(_MOST_DEFAULTS)]


def _filling(output: str, value: Any, as_present: bool) -> Callable[[World], World]:
    """Return a change of worlds that serves a value in place of null, as present or with the status of the null."""

    def transform(_: World, name: str, computed: Values) -> Values:
        if name != output or computed.values.null_count == 0:
            return computed
        is_null = ~validity(computed.values)
        statuses = np.where(is_null, np.uint8(PRESENT), computed.statuses) if as_present else computed.statuses
        if pa.types.is_list(computed.values.type):
            lists = [value if items is None else items for items in computed.values.to_pylist()]
            return Values(pa.array(lists, type=computed.values.type), statuses)
        return Values(computed.values.fill_null(pa.scalar(value, type=computed.values.type)), statuses)

    return lambda world: world.with_transform(transform)


def _emptying(output: str, value: Any) -> Callable[[World], World]:
    """Return a change of worlds that serves null in place of a value, with the status in the log."""

    def transform(world: World, name: str, computed: Values) -> Values:
        if name != output or pa.types.is_list(computed.values.type):
            return computed
        is_value = pc.equal(computed.values, pa.scalar(value, type=computed.values.type)).fill_null(False)
        null = pa.scalar(None, type=computed.values.type)
        statuses = world.column(status_column(output)).to_numpy(zero_copy_only=False)
        chosen = np.asarray(is_value.to_numpy(zero_copy_only=False), dtype=np.bool_)
        return Values(pc.if_else(is_value, null, computed.values), np.where(chosen, statuses, computed.statuses))

    return lambda world: world.with_transform(transform)


def _filled_features(case: Case) -> Iterator[Assumption]:
    """Propose that features had 0 in place of null before features on demand were computed from them."""
    if not any(output.kind == "on_demand" and output.name in case.outputs for output in case.world.plan.outputs):
        return
    for alias, view in case.world.views.items():
        for feature in view.view.features:
            if feature.dtype.kind in ("float64", "int64"):
                column = feature_column(alias, feature.name)
                yield Assumption(
                    f"{column} counted as 0 where it has no value, for features computed on demand",
                    partial(_with_zero, column=column),
                    {"default": "0", "of": column},
                    outputs=frozenset(output.name for output in case.world.plan.outputs if output.kind == "on_demand"),
                    fix=f"Let features on demand see null for {column}, or write coalesce(…, 0) in the definition.",
                )


def _with_zero(world: World, column: str) -> World:
    return replace(world, fills={**world.fills, column: 0})


DEFAULT_FOR_NULL = Hypothesis(
    "default_for_null",
    rank=110,
    meaning="a default stands for null, or null for a value",
    propose=_propose,
    alters_values=True,
)
