"""One factor or one offset for all values of a feature: another unit, another scale, another sense."""

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
    HELD_SHARE,
    LEARNED_BITS,
    Change,
    as_numbers,
    changed,
    differing,
    dtype_of,
    each,
    floats,
    plain,
)
from featurestore.guard.causes.model import Case, Hypothesis, Variant
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

_CONSTANT_SHARE = 0.5
"""Share of a feature's differing values that one factor or offset must explain: it is a constant, or it is chance."""


def unit_or_scale(case: Case) -> Iterator[Variant]:
    """Propose one factor or one offset for all values of a feature, and that its booleans mean the opposite."""
    for output in case.outputs:
        dtype = dtype_of(case, output)
        if dtype.kind in ("date", "timestamp"):
            yield from _moved(case, output)
        if dtype.kind == "bool":
            yield _inverted(output)
        if not dtype.is_numeric:
            continue
        reference, served = differing(case, output)
        left, right = floats(reference), floats(served)
        if len(left) == 0:
            continue
        held = HELD_SHARE if dtype.kind == "int64" else 0.0
        for factor in _factors(left, right, is_whole=dtype.kind == "int64"):
            yield from _scaled(output, factor, held)
            yield from _scaled_inputs(case, output, factor)
        for offset in _offsets(left, right):
            yield Variant(
                "unit_or_scale",
                f"{output} is served with {offset:+.12g}",
                changed(partial(_affine, factor=1.0, offset=offset), output),
                {"offset": offset},
                outputs=frozenset({output}),
                fix=f"Serve {output} in the unit it is trained in: one road adds {offset:g}.",
                bits=LEARNED_BITS,
                least_share=_CONSTANT_SHARE,
                least_held=held,
            )
        for factor, offset, said in _AFFINE:
            yield Variant(
                "unit_or_scale",
                f"{output} is served in {said}",
                changed(partial(_affine, factor=factor, offset=offset), output),
                {"factor": factor, "offset": offset},
                outputs=frozenset({output}),
                fix=f"Serve {output} in the unit it is trained in.",
                least_share=_CONSTANT_SHARE,
            )


def _moved(case: Case, output: str) -> Iterator[Variant]:
    """Propose that dates, or instants, were all moved by the most frequent of the differences."""
    reference, served = differing(case, output)
    step, whole = (MICROSECONDS["d"], pa.int32()) if pa.types.is_date(reference.type) else (1, pa.int64())
    gaps = pc.subtract(served.cast(whole).cast(pa.int64()), reference.cast(whole).cast(pa.int64()))
    for gap, count in Counter(gaps.to_pylist()).most_common(1):
        if count >= _FEWEST:
            said = f"{format_duration(abs(gap) * step)} {'later' if gap > 0 else 'earlier'} than it is"
            yield Variant(
                "unit_or_scale",
                f"{output} is served {said}",
                changed(partial(_plus, whole=whole, offset=gap), output),
                {"offset": f"{'-' if gap < 0 else ''}{format_duration(abs(gap) * step)}"},
                outputs=frozenset({output}),
                fix=f"Serve {output} as it is computed: one road has it {said}.",
                bits=LEARNED_BITS,
                least_share=_CONSTANT_SHARE,
            )


def _plus(array: pa.Array, whole: pa.DataType, offset: int) -> pa.Array:
    return pc.add_checked(array.cast(whole).cast(pa.int64()), offset).cast(whole).cast(array.type)


def _inverted(output: str) -> Variant:
    """Propose the opposite of booleans: of nearly all, since whatever differs in a single one is its opposite."""
    return Variant(
        "unit_or_scale",
        f"{output} is served inverted: true for false",
        changed(pc.invert, output),
        {"inverted": True},
        outputs=frozenset({output}),
        fix=f"Let {output} mean the same on both roads: one serves the opposite.",
        least_share=_CONSTANT_SHARE,
        least_held=HELD_SHARE,
    )


def _factors(left: Floats, right: Floats, *, is_whole: bool) -> list[float]:
    """Return factors that several values agree on, those most agree on first; counts are only told from multiples.

    Of very few values, only factors between common units are.
    """
    usable = (left != 0) & (right != 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ratios = right[usable] / left[usable]
    found = [float(f"{ratio:.9g}") for ratio in ratios[np.isfinite(ratios)].tolist()]
    few = len(np.unique(left)) < _FEWEST
    ranked = [ratio for ratio, count in Counter(found).most_common(3) if (few or count >= _FEWEST) and ratio != 1.0]
    near = [known for known in _KNOWN_FACTORS if any(abs(known / ratio - 1) < 1e-6 for ratio in ranked if ratio)]
    simple = [] if few else [float(Fraction(ratio).limit_denominator(1000)) for ratio in ranked]
    found = list(dict.fromkeys([*near, *(value for value in simple if value), *([] if few else ranked)]))
    return [one for one in found if not is_whole or one == round(one) or round(1 / one, 9) == round(1 / one)]


def _offsets(left: Floats, right: Floats) -> list[float]:
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = right - left
    found = Counter(float(f"{gap:.9g}") for gap in gaps[np.isfinite(gaps)].tolist())
    return [gap for gap, count in found.most_common(2) if count >= _FEWEST and gap != 0.0]


def _scaled(output: str, factor: float, held: float) -> Iterator[Variant]:
    ways: list[tuple[str, Change]] = [(f"times {factor:.12g}", partial(_affine, factor=factor, offset=0.0))]
    inverse = round(1 / factor, 9)
    if inverse and abs(inverse * factor - 1) < 1e-9:
        ways.append((f"divided by {inverse:.12g}", partial(_divided, by=inverse)))
    for said, change in ways:
        yield Variant(
            "unit_or_scale",
            f"{output} is served {said}",
            changed(change, output),
            {"factor": factor},
            outputs=frozenset({output}),
            fix=f"Serve {output} in the unit it is trained in: one road has it {said}.",
            bits=LEARNED_BITS,
            least_share=_CONSTANT_SHARE,
            least_held=held,
        )


def _scaled_inputs(case: Case, output: str, factor: float) -> Iterator[Variant]:
    """Propose that the values of events were scaled before they were folded."""
    alias, name = split_column(next(found.column for found in case.world.plan.outputs if found.name == output))
    view = case.world.views.get(alias)
    feature = next((found for found in view.view.features if found.name == name), None) if view else None
    if feature is None or view is None:
        return
    source = view.view.inputs[feature.input]
    if source.value is None or source.value.dtype.kind != "float64":
        return
    for op, number in (("mul", factor), ("div", round(1 / factor, 9))):
        if number:
            yield Variant(
                "unit_or_scale",
                f"the values that {output} folds are {'multiplied' if op == 'mul' else 'divided'} by {number:.12g}",
                of_view(alias, _input_scaled, feature.input, op, number),
                {"factor": factor, "of": "inputs"},
                outputs=frozenset({output}),
                fix=f"Read the column behind {output} in one unit on both roads.",
                bits=LEARNED_BITS,
                least_share=_CONSTANT_SHARE,
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


def _affine(array: pa.Array, factor: float, offset: float) -> pa.Array:
    if pa.types.is_decimal(array.type):
        return _of_decimals(array, lambda value: value * _decimal(factor) + _decimal(offset))
    with np.errstate(over="ignore"):
        numbers = plain(array) * factor + offset
    return as_numbers(array, numbers)


def _divided(array: pa.Array, by: float) -> pa.Array:
    if pa.types.is_decimal(array.type):
        return _of_decimals(array, lambda value: _EXACT.divide(value, _decimal(by)))
    return as_numbers(array, plain(array) / by)


def _decimal(number: float) -> Decimal:
    return Decimal(repr(number))


def _of_decimals(array: pa.Array, change: Callable[[Decimal], Decimal]) -> pa.Array:
    """Change decimals, rounded to the scale of the column as a cast does."""
    step = Decimal(1).scaleb(-array.type.scale)
    return each(array, lambda value: change(value).quantize(step, ROUND_HALF_EVEN, context=_EXACT))


UNIT_OR_SCALE = Hypothesis(
    "unit_or_scale", "values have a constant factor or offset, or mean the opposite", unit_or_scale
)
