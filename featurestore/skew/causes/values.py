"""What may be done to a value after it was computed: another unit, less precision, a default in place of null."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.dtypes import DType, literal
from featurestore.kernels.events import PRESENT
from featurestore.kernels.values import canonical
from featurestore.kernels.words import validity
from featurestore.plan.model import InputPlan, TypedExpr
from featurestore.skew.causes.model import Case, Hypothesis, Variant
from featurestore.skew.causes.world import Values, ViewWorld, World, of_view

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Change = Callable[[pa.Array], pa.Array]

_FEWEST = 3
"""Distinct values that must agree on one factor or offset before it is a finding rather than chance."""

_KNOWN_FACTORS = tuple(
    factor
    for size in (1000.0, 1e6, 100.0, 60.0, 3600.0, 24.0, 86400.0, 7.0, 1.609344, 0.3048, 2.54, 0.45359237, 1.8)
    for factor in (size, 1 / size)
)
_AFFINE = ((1.8, 32.0, "Fahrenheit for Celsius"), (1.0, 273.15, "Kelvin for Celsius"))
_MOST_DECIMALS = 9
_MOST_DIGITS = 15
_DEFAULTS = 3

_LEARNED_BITS = 17.0
"""What an assumption costs whose number was taken from the values it explains."""

_DEFAULT_SHARE = 0.05
"""Share of a feature's differing values that one default must explain."""

_CONSTANT_SHARE = 0.5
"""Share of a feature's differing values that one factor or offset must explain: it is a constant, or it is chance."""


def dtype_of(case: Case, output: str) -> DType:
    """Return the dtype of an output."""
    return next(found.dtype for found in case.world.plan.outputs if found.name == output)


def changed(change: Change, output: str | None = None) -> Callable[[World], World]:
    """Return what makes a world in which computed values of one output (or all) are changed before they are served."""

    def transform(_: World, name: str, found: Values) -> Values:
        if output is not None and name != output:
            return found
        return Values(change(found.values), found.statuses)

    return lambda world: replace(world, transforms=(*world.transforms, transform))


def differing(case: Case, output: str) -> tuple[pa.Array, pa.Array]:
    """Return the values of both roads where both have one and they differ."""
    reference, served = case.reference[output].values, case.served[output].values
    rows = pa.array(np.flatnonzero(case.differs[output] & validity(reference) & validity(served)))
    return reference.take(rows), served.take(rows)


def unit_or_scale(case: Case) -> Iterator[Variant]:
    """Propose one factor or one offset for all values of a feature."""
    for output in case.outputs:
        dtype = dtype_of(case, output)
        if dtype.kind not in ("float64", "int64"):
            continue
        reference, served = differing(case, output)
        left, right = _floats(reference), _floats(served)
        if len(np.unique(left)) < _FEWEST:
            continue
        for factor in _factors(left, right, is_whole=dtype.kind == "int64"):
            yield from _scaled(output, factor)
            yield from _scaled_inputs(case, output, factor)
        for offset in _offsets(left, right):
            yield Variant(
                "unit_or_scale",
                f"{output} is served with {offset:+.12g}",
                changed(partial(_affine, factor=1.0, offset=offset), output),
                {"offset": offset},
                outputs=frozenset({output}),
                fix=f"Serve {output} in the unit it is trained in: one road adds {offset:g}.",
                bits=_LEARNED_BITS,
                least_share=_CONSTANT_SHARE,
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


def _floats(array: pa.Array) -> Floats:
    return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)


def _factors(left: Floats, right: Floats, *, is_whole: bool) -> list[float]:
    """Return factors that several values agree on, those most agree on first; counts are only told from multiples."""
    usable = (left != 0) & (right != 0)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        ratios = right[usable] / left[usable]
    found = [float(f"{ratio:.9g}") for ratio in ratios[np.isfinite(ratios)].tolist()]
    ranked = [ratio for ratio, count in Counter(found).most_common(3) if count >= _FEWEST and ratio != 1.0]
    near = [known for known in _KNOWN_FACTORS if any(abs(known / ratio - 1) < 1e-6 for ratio in ranked if ratio)]
    simple = [float(Fraction(ratio).limit_denominator(1000)) for ratio in ranked]
    found = list(dict.fromkeys([*near, *(value for value in simple if value), *ranked]))
    return [one for one in found if not is_whole or one == round(one) or round(1 / one, 9) == round(1 / one)]


def _offsets(left: Floats, right: Floats) -> list[float]:
    with np.errstate(over="ignore", invalid="ignore"):
        gaps = right - left
    found = Counter(float(f"{gap:.9g}") for gap in gaps[np.isfinite(gaps)].tolist())
    return [gap for gap, count in found.most_common(2) if count >= _FEWEST and gap != 0.0]


def _scaled(output: str, factor: float) -> Iterator[Variant]:
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
            bits=_LEARNED_BITS,
            least_share=_CONSTANT_SHARE,
        )


def _scaled_inputs(case: Case, output: str, factor: float) -> Iterator[Variant]:
    """Propose that the values of events were scaled before they were folded."""
    alias, _, name = next(found.column for found in case.world.plan.outputs if found.name == output).partition("__")
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
                bits=_LEARNED_BITS,
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
    with np.errstate(over="ignore"):
        numbers = _floats(array.fill_null(0)) * factor + offset
    return _as(array, numbers)


def _divided(array: pa.Array, by: float) -> pa.Array:
    return _as(array, _floats(array.fill_null(0)) / by)


def _as(array: pa.Array, numbers: Floats) -> pa.Array:
    """Return numbers in the type of a column, null where it is; whole numbers are rounded, those too large are null."""
    missing = ~validity(array) | ~np.isfinite(numbers)
    if pa.types.is_integer(array.type):
        missing |= np.abs(numbers) >= 2.0**63
        whole = np.rint(np.where(missing, 0.0, numbers)).astype(np.int64)
        return pa.array(whole, mask=missing)
    return pa.array(np.where(missing, 0.0, numbers) + 0.0, mask=missing)


def precision(case: Case) -> Iterator[Variant]:
    """Propose casts and roundings, of all values alike."""
    kinds = {dtype_of(case, output).kind for output in case.outputs}
    for kind, said, change, parameters in _coarser(kinds):
        yield Variant(
            "precision",
            f"{kind} values are served {said}",
            changed(partial(_if_kind, kind, change)),
            parameters,
            outputs=frozenset(output for output in case.outputs if dtype_of(case, output).kind == kind),
            fix=f"Carry {kind} values through serving as they are: they were served {said}.",
        )


def _if_kind(kind: str, change: Change, array: pa.Array) -> pa.Array:
    return change(array) if _is(array, kind) else array


def _is(array: pa.Array, kind: str) -> bool:
    if kind == "decimal":
        return bool(pa.types.is_decimal(array.type))
    return bool(array.type == DType(kind).arrow)


def _coarser(kinds: set[str]) -> Iterator[tuple[str, str, Change, dict[str, Any]]]:
    if "float64" in kinds:
        yield "float64", "as float32", partial(_cast, dtype=np.float32), {"cast": "float32"}
        yield "float64", "as float16", partial(_cast, dtype=np.float16), {"cast": "float16"}
        for name, round_ in (("rounded down", np.floor), ("cut to whole numbers", np.trunc), ("rounded up", np.ceil)):
            yield "float64", name, partial(_whole, round_), {"cast": "int"}
        for decimals in range(_MOST_DECIMALS + 1):
            said = f"rounded to {decimals} decimals"
            for half_up in (False, True):
                yield (
                    "float64",
                    said,
                    partial(_rounded, decimals=decimals, half_up=half_up),
                    {"decimals": decimals},
                )
        for digits in range(3, _MOST_DIGITS + 1):
            said = f"written with {digits} digits"
            yield "float64", said, partial(_digits, digits=digits), {"digits": digits}
    if "int64" in kinds:
        yield "int64", "through float64", _through_double, {"cast": "float64"}
        yield "int64", "through float32", partial(_cast_whole, dtype=np.float32), {"cast": "float32"}
        yield "int64", "as int32", partial(_cast_whole, dtype=np.int32), {"cast": "int32"}
    if "decimal" in kinds:
        yield "decimal", "through float64", _through_float, {"cast": "float64"}
        for decimals in range(4):
            yield (
                "decimal",
                f"rounded to {decimals} decimals",
                partial(_quantized, decimals=decimals),
                {"decimals": decimals},
            )
    if "timestamp" in kinds:
        for unit in ("millisecond", "second", "minute", "hour", "day"):
            yield (
                "timestamp",
                f"cut to the {unit}",
                partial(_cut, unit=unit),
                {"unit": unit},
            )


def _whole(round_: Callable[[Floats], Floats], array: pa.Array) -> pa.Array:
    return _as(array, round_(_plain(array)))


def _through_double(array: pa.Array) -> pa.Array:
    return _as(array, _plain(array))


def _cut(array: pa.Array, unit: str) -> pa.Array:
    return pc.floor_temporal(array, unit=unit)


def _with_zero(world: World, column: str) -> World:
    return replace(world, fills={**world.fills, column: 0})


def _plain(array: pa.Array) -> Floats:
    return _floats(array.fill_null(0))


def _cast(array: pa.Array, dtype: type[np.floating[Any]]) -> pa.Array:
    with np.errstate(over="ignore"):
        return _as(array, _plain(array).astype(dtype).astype(np.float64))


def _cast_whole(array: pa.Array, dtype: type[np.generic]) -> pa.Array:
    whole = np.asarray(array.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return pa.array(whole.astype(dtype).astype(np.int64), mask=~validity(array))


def _rounded(array: pa.Array, decimals: int, half_up: bool) -> pa.Array:
    if half_up:
        return canonical(pc.round(array, ndigits=decimals, round_mode="half_towards_infinity"), DType("float64"))
    return _each(array, lambda value: round(value, decimals))


def _digits(array: pa.Array, digits: int) -> pa.Array:
    return _each(array, lambda value: float(f"{value:.{digits}g}"))


def _each(array: pa.Array, change: Callable[[Any], Any]) -> pa.Array:
    return pa.array([None if value is None else change(value) for value in array.to_pylist()], type=array.type)


def _through_float(array: pa.Array) -> pa.Array:
    scale = Decimal(1).scaleb(-array.type.scale)
    return _each(array, lambda value: Decimal(float(value)).quantize(scale, context=Context(prec=60)))


def _quantized(array: pa.Array, decimals: int) -> pa.Array:
    step, scale = Decimal(1).scaleb(-decimals), Decimal(1).scaleb(-array.type.scale)
    context = Context(prec=60)
    return _each(
        array, lambda value: value.quantize(step, ROUND_HALF_UP, context=context).quantize(scale, context=context)
    )


def default_for_null(case: Case) -> Iterator[Variant]:
    """Propose that one value was served in place of null, or null in place of one value."""
    for output in case.outputs:
        differs, reference, served = case.differs[output], case.reference[output], case.served[output]
        filled = differs & ~validity(reference.values) & validity(served.values)
        for value in _frequent(served.values, filled):
            written = literal(value)
            for as_present in (True, False):
                yield Variant(
                    "default_for_null",
                    f"{output} is served as {written} where it has no value",
                    _filling(output, value, as_present),
                    {"default": str(value), "status": "PRESENT" if as_present else "kept"},
                    outputs=frozenset({output}),
                    fix=f"Serve null for {output}, or declare the default in the definition: coalesce(…, {written}).",
                    bits=_LEARNED_BITS,
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
                bits=_LEARNED_BITS,
                least_share=_DEFAULT_SHARE,
            )
    yield from _filled_features(case)


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
            return Values(_each(found.values, lambda own: own), statuses)
        return Values(found.values.fill_null(pa.scalar(value, type=found.values.type)), statuses)

    return lambda world: replace(world, transforms=(*world.transforms, transform))


def _emptying(output: str, value: Any) -> Callable[[World], World]:
    def transform(world: World, name: str, found: Values) -> Values:
        if name != output or pa.types.is_list(found.values.type):
            return found
        is_value = pc.equal(found.values, pa.scalar(value, type=found.values.type)).fill_null(False)
        nothing = pa.scalar(None, type=found.values.type)
        served = world.column(f"status__{output}").to_numpy(zero_copy_only=False)
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
                column = f"{alias}__{feature.name}"
                yield Variant(
                    "default_for_null",
                    f"{column} counted as 0 where it has no value, for features computed on demand",
                    partial(_with_zero, column=column),
                    {"default": "0", "of": column},
                    outputs=frozenset(output.name for output in case.world.plan.outputs if output.kind == "on_demand"),
                    fix=f"Let features on demand see null for {column}, or write coalesce(…, 0) in the definition.",
                )


VALUES = (
    Hypothesis("default_for_null", "a default stands for null, or null for a value", default_for_null),
    Hypothesis("precision", "values were cast or rounded", precision),
    Hypothesis("unit_or_scale", "values have a constant factor or offset", unit_or_scale),
)
