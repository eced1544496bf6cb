"""``unit_or_scale``: one factor or offset for all values of a feature: another unit, scale or sense."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Floats
from featurestore.core.temporal import MICROSECONDS, format_duration
from featurestore.guard.causes.altering import (
    Change,
    alter,
    as_floats,
    as_floats_or_zero,
    differing_values,
    in_type_of,
    map_values,
)
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.guard.causes.weights import WEIGHTS
from featurestore.guard.world.world import ViewWorld, of_view
from featurestore.plan.model import InputPlan, TypedExpr
from featurestore.plan.names import split_column

_FEWEST = 3
"""Distinct values that must agree on one factor or offset before it is a finding rather than chance."""

_KNOWN_FACTORS = tuple(
    factor
    for size in (1000.0, 1e6, 100.0, 60.0, 3600.0, 24.0, 86400.0, 7.0, 1.609344, 0.3048, 2.54, 0.45359237, 1.8)
    for factor in (size, 1 / size)
)
_AFFINE = ((1.8, 32.0, "Fahrenheit for Celsius"), (1.0, 273.15, "Kelvin for Celsius"))
_EXACT = Context(prec=60)


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose one factor or one offset for all values of a feature, and that its booleans mean the opposite."""
    for output in case.outputs:
        dtype = case.dtype(output)
        if dtype.kind in ("date", "timestamp"):
            yield from _moved(case, output)
        if dtype.kind == "bool":
            yield _inverted(output)
        if dtype.is_numeric:
            yield from _rescaled(case, output)


def _rescaled(case: Case, output: str) -> Iterator[Assumption]:
    """Propose factors and offsets that several values of a feature agree on, then those of temperatures."""
    is_whole = case.dtype(output).kind == "int64"
    reference, served = (as_floats(values) for values in differing_values(case, output))
    if len(reference) == 0:
        return
    least_held = WEIGHTS.constant_held_share if is_whole else 0.0
    for factor in _factors(reference, served, is_whole=is_whole):
        yield from _scaled(output, factor, least_held)
        yield from _scaled_inputs(case, output, factor)
    for offset in _offsets(reference, served):
        yield Assumption(
            f"{output} is served with {offset:+.12g}",
            alter(partial(affine, factor=1.0, offset=offset), output),
            {"offset": offset},
            outputs=frozenset({output}),
            fix=f"Serve {output} in the unit it is trained in: one road adds {offset:g}.",
            naming_bits=WEIGHTS.naming_learned,
            least_share=WEIGHTS.constant_share,
            least_held=least_held,
        )
    for factor, offset, units in _AFFINE:
        yield Assumption(
            f"{output} is served in {units}",
            alter(partial(affine, factor=factor, offset=offset), output),
            {"factor": factor, "offset": offset},
            outputs=frozenset({output}),
            fix=f"Serve {output} in the unit it is trained in.",
            least_share=WEIGHTS.constant_share,
        )


def _moved(case: Case, output: str) -> Iterator[Assumption]:
    """Propose that dates, or instants, were all moved by the most frequent of the differences."""
    reference, served = differing_values(case, output)
    step, whole = (MICROSECONDS["d"], pa.int32()) if pa.types.is_date(reference.type) else (1, pa.int64())
    gaps = pc.subtract(served.cast(whole).cast(pa.int64()), reference.cast(whole).cast(pa.int64()))
    for gap, count in Counter(gaps.to_pylist()).most_common(1):
        if count >= _FEWEST:
            change = f"{format_duration(abs(gap) * step)} {'later' if gap > 0 else 'earlier'} than it is"
            yield Assumption(
                f"{output} is served {change}",
                alter(partial(_plus, whole=whole, offset=gap), output),
                {"offset": f"{'-' if gap < 0 else ''}{format_duration(abs(gap) * step)}"},
                outputs=frozenset({output}),
                fix=f"Serve {output} as it is computed: one road has it {change}.",
                naming_bits=WEIGHTS.naming_learned,
                least_share=WEIGHTS.constant_share,
            )


def _plus(array: pa.Array, whole: pa.DataType, offset: int) -> pa.Array:
    return pc.add_checked(array.cast(whole).cast(pa.int64()), offset).cast(whole).cast(array.type)


def _inverted(output: str) -> Assumption:
    """Propose the opposite of booleans: of nearly all, since whatever differs in a single one is its opposite."""
    return Assumption(
        f"{output} is served inverted: true for false",
        alter(pc.invert, output),
        {"inverted": True},
        outputs=frozenset({output}),
        fix=f"Let {output} mean the same on both roads: one serves the opposite.",
        least_share=WEIGHTS.constant_share,
        least_held=WEIGHTS.constant_held_share,
    )


def _factors(reference: Floats, served: Floats, *, is_whole: bool) -> list[float]:
    """Return factors that several values agree on, those that most agree on first.

    Of very few values, only factors between common units are returned; of whole numbers, only multiples and divisors.
    """
    usable = (reference != 0) & (served != 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ratios = served[usable] / reference[usable]
    counts = Counter(float(f"{ratio:.9g}") for ratio in ratios[np.isfinite(ratios)].tolist())
    few = len(np.unique(reference)) < _FEWEST
    ranked = [ratio for ratio, count in counts.most_common(3) if (few or count >= _FEWEST) and ratio != 1.0]
    near = [known for known in _KNOWN_FACTORS if any(abs(known / ratio - 1) < 1e-6 for ratio in ranked if ratio)]
    simple = [] if few else [float(Fraction(ratio).limit_denominator(1000)) for ratio in ranked]
    factors = dict.fromkeys([*near, *(ratio for ratio in simple if ratio), *([] if few else ranked)])
    return [
        factor
        for factor in factors
        if not is_whole or factor == round(factor) or round(1 / factor, 9) == round(1 / factor)
    ]


def _offsets(reference: Floats, served: Floats) -> list[float]:
    """Return offsets that several values agree on, the one that most agree on first."""
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = served - reference
    counts = Counter(float(f"{gap:.9g}") for gap in gaps[np.isfinite(gaps)].tolist())
    return [gap for gap, count in counts.most_common(2) if count >= _FEWEST and gap != 0.0]


def _scaled(output: str, factor: float, least_held: float) -> Iterator[Assumption]:
    """Propose that values were multiplied by a factor, or divided by its inverse: floats round differently."""
    ways: list[tuple[str, Change]] = [(f"times {factor:.12g}", partial(affine, factor=factor, offset=0.0))]
    inverse = round(1 / factor, 9)
    if inverse and abs(inverse * factor - 1) < 1e-9:
        ways.append((f"divided by {inverse:.12g}", partial(divided, by=inverse)))
    for description, change in ways:
        yield Assumption(
            f"{output} is served {description}",
            alter(change, output),
            {"factor": factor},
            outputs=frozenset({output}),
            fix=f"Serve {output} in the unit it is trained in: one road has it {description}.",
            naming_bits=WEIGHTS.naming_learned,
            least_share=WEIGHTS.constant_share,
            least_held=least_held,
        )


def _scaled_inputs(case: Case, output: str, factor: float) -> Iterator[Assumption]:
    """Propose that the values of events were scaled before they were aggregated."""
    alias, name = split_column(next(column.column for column in case.world.plan.outputs if column.name == output))
    view = case.world.views.get(alias)
    feature = next((feature for feature in view.view.features if feature.name == name), None) if view else None
    if feature is None or view is None:
        return
    source = view.view.inputs[feature.input]
    if source.value is None or source.value.dtype.kind != "float64":
        return
    for op, number in (("mul", factor), ("div", round(1 / factor, 9))):
        if number:
            yield Assumption(
                f"the values that {output} folds are {'multiplied' if op == 'mul' else 'divided'} by {number:.12g}",
                of_view(alias, _input_scaled, feature.input, op, number),
                {"factor": factor, "of": "inputs"},
                outputs=frozenset({output}),
                fix=f"Read the column behind {output} in one unit on both roads.",
                naming_bits=WEIGHTS.naming_learned,
                least_share=WEIGHTS.constant_share,
            )


def _input_scaled(view: ViewWorld, place: int, op: str, number: float) -> ViewWorld | None:
    if place >= len(view.view.inputs):
        return None
    source = view.view.inputs[place]
    assert source.value is not None
    literal = TypedExpr("literal", source.value.dtype, params=(("value", number),))
    scaled = InputPlan(TypedExpr(op, source.value.dtype, args=(source.value, literal)), source.where)
    inputs = (*view.view.inputs[:place], scaled, *view.view.inputs[place + 1 :])
    return replace(view, view=replace(view.view, inputs=inputs))


def affine(array: pa.Array, factor: float, offset: float) -> pa.Array:
    """Multiply numbers and add to them; decimals exactly, rounded once."""
    if pa.types.is_decimal(array.type):
        return _of_decimals(array, lambda value: value * _decimal(factor) + _decimal(offset))
    with np.errstate(over="ignore"):
        numbers = as_floats_or_zero(array) * factor + offset
    return in_type_of(array, numbers)


def divided(array: pa.Array, by: float) -> pa.Array:
    """Divide numbers; decimals exactly, rounded once."""
    if pa.types.is_decimal(array.type):
        return _of_decimals(array, lambda value: _EXACT.divide(value, _decimal(by)))
    return in_type_of(array, as_floats_or_zero(array) / by)


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def _of_decimals(array: pa.Array, change: Callable[[Decimal], Decimal]) -> pa.Array:
    """Change decimals, rounded to the scale of the column as a cast does."""
    step = Decimal(1).scaleb(-array.type.scale)
    return map_values(array, lambda value: change(value).quantize(step, ROUND_HALF_EVEN, context=_EXACT))


UNIT_OR_SCALE = Hypothesis(
    "unit_or_scale",
    rank=130,
    meaning="values have a constant factor or offset, or mean the opposite",
    propose=_propose,
    alters_values=True,
)
