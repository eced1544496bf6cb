"""``precision``: values, those in lists included, were cast or rounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Floats
from featurestore.core.dtypes import DType
from featurestore.core.values import canonical
from featurestore.guard.causes.altering import (
    Change,
    alter,
    as_floats_or_zero,
    in_type_of,
    map_items,
    map_values,
)
from featurestore.guard.causes.model import Assumption, Case, Hypothesis
from featurestore.kernels.words import validity

_MOST_DECIMALS = 9
_MOST_DIGITS = 15


def _propose(case: Case) -> Iterator[Assumption]:
    """Propose casts and roundings, of all values of a kind alike."""
    kinds = {output: _kind(case.dtype(output)) for output in case.outputs}
    for kind, description, change, parameters in _coarser(set(kinds.values())):
        yield Assumption(
            f"{kind} values are served {description}",
            alter(partial(_if_kind, kind, change)),
            parameters,
            outputs=frozenset(output for output in kinds if kinds[output] == kind),
            fix=f"Carry {kind} values through serving as they are: they were served {description}.",
        )


def _kind(dtype: DType) -> str:
    """Return the kind of values, or of those in lists."""
    return dtype.kind if dtype.item is None else dtype.item.kind


def _if_kind(kind: str, change: Change, array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        return map_items(array, change) if _is(array.type.value_type, kind) else array
    return change(array) if _is(array.type, kind) else array


def _is(arrow: pa.DataType, kind: str) -> bool:
    if kind == "decimal":
        return bool(pa.types.is_decimal(arrow))
    return bool(arrow == DType(kind).arrow)


def _coarser(kinds: set[str]) -> Iterator[tuple[str, str, Change, dict[str, Any]]]:
    """Yield for values of some kinds what makes them coarser: the kind, the change in words, the change, parameters."""
    if "float64" in kinds:
        yield "float64", "as float32", partial(_cast, dtype=np.float32), {"cast": "float32"}
        yield "float64", "as float16", partial(_cast, dtype=np.float16), {"cast": "float16"}
        for name, round_ in (("rounded down", np.floor), ("cut to whole numbers", np.trunc), ("rounded up", np.ceil)):
            yield "float64", name, partial(_whole, round_), {"cast": "int"}
        for decimals in range(_MOST_DECIMALS + 1):
            description = f"rounded to {decimals} decimals"
            for half_up in (False, True):
                yield (
                    "float64",
                    description,
                    partial(_rounded, decimals=decimals, half_up=half_up),
                    {"decimals": decimals},
                )
        for digits in range(3, _MOST_DIGITS + 1):
            yield "float64", f"written with {digits} digits", partial(_digits, digits=digits), {"digits": digits}
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
    return in_type_of(array, round_(as_floats_or_zero(array)))


def _through_double(array: pa.Array) -> pa.Array:
    return in_type_of(array, as_floats_or_zero(array))


def _cut(array: pa.Array, unit: str) -> pa.Array:
    return pc.floor_temporal(array, unit=unit)


def _cast(array: pa.Array, dtype: type[np.floating[Any]]) -> pa.Array:
    with np.errstate(over="ignore"):
        return in_type_of(array, as_floats_or_zero(array).astype(dtype).astype(np.float64))


def _cast_whole(array: pa.Array, dtype: type[np.generic]) -> pa.Array:
    whole = np.asarray(array.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    with np.errstate(invalid="ignore"):
        return pa.array(whole.astype(dtype).astype(np.int64), mask=~validity(array))


def _rounded(array: pa.Array, decimals: int, half_up: bool) -> pa.Array:
    if half_up:
        return canonical(pc.round(array, ndigits=decimals, round_mode="half_towards_infinity"), DType("float64"))
    return map_values(array, lambda value: round(value, decimals))


def _digits(array: pa.Array, digits: int) -> pa.Array:
    return map_values(array, lambda value: float(f"{value:.{digits}g}"))


def _through_float(array: pa.Array) -> pa.Array:
    scale = Decimal(1).scaleb(-array.type.scale)
    return map_values(array, lambda value: Decimal(float(value)).quantize(scale, context=Context(prec=60)))


def _quantized(array: pa.Array, decimals: int) -> pa.Array:
    step, scale = Decimal(1).scaleb(-decimals), Decimal(1).scaleb(-array.type.scale)
    context = Context(prec=60)
    return map_values(
        array, lambda value: value.quantize(step, ROUND_HALF_UP, context=context).quantize(scale, context=context)
    )


PRECISION = Hypothesis(
    "precision", rank=120, meaning="values were cast or rounded", propose=_propose, alters_values=True
)
