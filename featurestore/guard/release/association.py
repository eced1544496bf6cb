"""How much a feature says about a label: one measure for numbers, categories and nulls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.int64]

MOST_BINS = 10
"""Largest count of bins. Numbers are divided into bins of equal count; the rarest categories share one bin."""


@dataclass(frozen=True)
class Association:
    """How much of a label's entropy a feature removes.

    Attributes:
        share: 0 if the feature says nothing about the label, 1 if it determines the label.
        error: Standard error of ``share``.
    """

    share: float
    error: float


def association(feature: Codes, label: Codes) -> Association:
    """Return the uncertainty coefficient of a label given a feature: mutual information over the label's entropy.

    The estimate is that of the counts, less the bias of Miller (1955), ``(r - 1)(c - 1) / 2n``; its standard error is
    that of Moddemeijer (1989), from the spread of ``log p(x, y) / p(x) p(y)``.

    Args:
        feature: A code per row, with any meaning.
        label: A code per row.
    """
    count = len(label)
    joint = np.zeros((int(feature.max(initial=0)) + 1, int(label.max(initial=0)) + 1))
    np.add.at(joint, (feature, label), 1.0)
    joint = joint[joint.any(axis=1)][:, joint.any(axis=0)] / max(1, count)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    entropy = float(-(columns * np.log(columns)).sum()) + (len(columns) - 1) / (2 * max(1, count))
    if entropy <= 0.0 or len(columns) < 2:
        return Association(0.0, 0.0)
    is_there = joint > 0
    ratios = np.log(joint[is_there] / np.outer(rows, columns)[is_there])
    information = float((joint[is_there] * ratios).sum())
    spread = max(0.0, float((joint[is_there] * ratios**2).sum()) - information**2)
    bias = (len(rows) - 1) * (len(columns) - 1) / (2 * count)
    return Association(max(0.0, information - bias) / entropy, math.sqrt(spread / count) / entropy)


def coded(values: pa.Array | pa.ChunkedArray) -> Codes:
    """Return a code per value: 0 for null, else the bin of a number or instant, or the rank of a frequent value."""
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    is_null = array.is_null().to_numpy(zero_copy_only=False)
    numbers = _numbers(array)
    codes = _binned(numbers, is_null) if numbers is not None else _ranked(array, is_null)
    return np.where(is_null, 0, codes + 1)


def _numbers(array: pa.Array) -> npt.NDArray[np.float64] | None:
    """Return values that have an order and a size as floats; ``None`` for others."""
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        array = array.cast(pa.int64())
    elif pa.types.is_date32(kind):
        array = array.cast(pa.int32())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return None
    numbers = array.cast(pa.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False)
    return np.asarray(numbers, dtype=np.float64)


def _binned(numbers: npt.NDArray[np.float64], is_null: npt.NDArray[np.bool_]) -> Codes:
    known = numbers[~is_null]
    distinct = np.unique(known)
    if len(distinct) > MOST_BINS:
        distinct = np.unique(np.quantile(known, np.linspace(0, 1, MOST_BINS + 1)[1:-1], method="lower"))
    return np.searchsorted(distinct, numbers, side="left").astype(np.int64)


def _ranked(array: pa.Array, is_null: npt.NDArray[np.bool_]) -> Codes:
    texts: Any = array if pa.types.is_string(array.type) else pa.array([repr(value) for value in array.to_pylist()])
    counted = pc.value_counts(texts.filter(pa.array(~is_null)))
    ordered = sorted(zip(counted.field(1).to_pylist(), counted.field(0).to_pylist(), strict=True), key=_most_first)
    frequent = pa.array([text for _, text in ordered[: MOST_BINS - 1]], texts.type)
    places = pc.index_in(texts, value_set=frequent).fill_null(len(frequent))
    return np.asarray(places.to_numpy(zero_copy_only=False), dtype=np.int64)


def _most_first(pair: tuple[int, str]) -> tuple[int, str]:
    return -pair[0], pair[1]
