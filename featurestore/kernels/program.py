"""A view's plan as tables of numbers, which the compiled kernels read.

A *program* is three small int64 tables. Features that fold the same input in the same way form a *group*, so that an
entity's events are prepared once for all their windows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from featurestore.core.columns import Ints
from featurestore.core.dtypes import DType
from featurestore.kernels.jit import inner
from featurestore.plan.aggregations import Kind, Result, aggregate_of, members_wanted
from featurestore.plan.model import FeaturePlan, InputPlan, ViewPlan

# Kinds of groups.
ADDITIVE, EXTREME, ORDERED, HOLISTIC = map(int, (Kind.ADDITIVE, Kind.EXTREME, Kind.ORDERED, Kind.HOLISTIC))

# Per kind, how a feature is made of what its group folded.
COUNT, SUM_FLOAT, SUM_INT, SUM_WIDE, MEAN, VARIANCE, DEVIATION = range(7)
SMALLEST, LARGEST = range(2)
FIRST, LAST, FIRST_N, LAST_N, SINCE_LAST = range(5)
DISTINCT, QUANTILE, MODE = range(3)

# Columns of the table of groups.
GROUP_KIND, GROUP_INPUT, GROUP_NEED, GROUP_FLOAT, GROUP_LEVEL, GROUP_BEGIN, GROUP_END = range(7)
_GROUP_COLUMNS = 7

# Columns of the table of features.
FEATURE_FINISH, FEATURE_WINDOW, FEATURE_ROW, FEATURE_INDEX, FEATURE_PARAM, FEATURE_TTL = range(6)
_FEATURE_COLUMNS = 6

# Flags of an event in an input.
NOT_MEMBER, MEMBER_NULL, MEMBER_VALUE = range(3)

NO_TTL = -1
NO_LENGTH = -1
LARGEST_WIDE_DIGITS = 18
"""Decimals of up to this many digits are carried as whole numbers; an int64 holds them."""

_FINISH = {
    "count": COUNT,
    "sum": SUM_FLOAT,
    "mean": MEAN,
    "var": VARIANCE,
    "std": DEVIATION,
    "min": SMALLEST,
    "max": LARGEST,
    "first": FIRST,
    "last": LAST,
    "first_n": FIRST_N,
    "last_n": LAST_N,
    "time_since_last": SINCE_LAST,
    "count_distinct": DISTINCT,
    "quantile": QUANTILE,
    "mode": MODE,
}
"""The kernel of each aggregation, among those of its kind; sums of other dtypes than float64 have their own."""

AGGREGATIONS = frozenset(_FINISH)
"""Every aggregation that has a kernel."""


@inner
def end_of_window(features: Ints, first: int) -> int:
    """Return the index after the last feature of a group that has the same window as the first.

    Args:
        features: Rows of the table of features, those of one window behind each other.
        first: First feature of the window.
    """
    stop = first + 1
    while stop < features.shape[0] and features[stop, FEATURE_WINDOW] == features[first, FEATURE_WINDOW]:
        stop += 1
    return stop


def need_of(feature: FeaturePlan) -> int:
    """Return the least flag of the events that a feature folds."""
    return MEMBER_NULL if dict(feature.params).get("respect_nulls", False) else MEMBER_VALUE


def is_coded(dtype: DType) -> bool:
    """Return whether values are carried as codes into a sorted dictionary instead of as 64-bit words."""
    if dtype.kind == "decimal":
        return dtype.precision > LARGEST_WIDE_DIGITS
    return dtype.kind in ("string", "binary", "list")


@dataclass(frozen=True)
class Slot:
    """Where a feature's result lies: ``width`` rows of words from ``row`` on."""

    row: int
    width: int


@dataclass(frozen=True)
class Program:
    """A view's features as tables of numbers.

    Attributes:
        windows: Per distinct window its length (``NO_LENGTH`` for the lifetime) and resolution, µs.
        groups: Per group the columns named above; its features are ``features[begin:end]``.
        features: Per feature the columns named above, ordered by group.
        slots: Per feature in plan order, its rows of the result.
        row_count: Rows of the result.
    """

    windows: Ints
    groups: Ints
    features: Ints
    slots: tuple[Slot, ...]
    row_count: int


def compile_program(view: ViewPlan) -> Program:
    """Translate the features of a view."""
    features = view.features
    windows = sorted({_window(feature) for feature in features})
    slots = _slots(view)
    order = sorted(range(len(features)), key=lambda i: (_group_key(view, features[i]), _window(features[i])))
    groups: list[tuple[int, ...]] = []
    rows: list[tuple[int, ...]] = []
    for key, members in groupby(order, key=lambda i: _group_key(view, features[i])):
        kind, source, need, is_float, _ = key
        picked = list(members)
        level = max(_level(features[i]) for i in picked)
        groups.append((kind, source, need, is_float, level, len(rows), len(rows) + len(picked)))
        rows += [_feature_row(view, features[i], i, windows, slots[i]) for i in picked]
    return Program(
        windows=np.array(windows, dtype=np.int64).reshape(-1, 2),
        groups=np.array(groups, dtype=np.int64).reshape(-1, _GROUP_COLUMNS),
        features=np.array(rows, dtype=np.int64).reshape(-1, _FEATURE_COLUMNS),
        slots=slots,
        row_count=sum(slot.width for slot in slots),
    )


def _window(feature: FeaturePlan) -> tuple[int, int]:
    if feature.window_us is None:
        return NO_LENGTH, 0
    return feature.window_us, feature.resolution_us


def _slots(view: ViewPlan) -> tuple[Slot, ...]:
    widths = [_width(view, feature) for feature in view.features]
    starts = np.cumsum([0, *widths])
    return tuple(Slot(int(start), width) for start, width in zip(starts, widths, strict=False))


def _width(view: ViewPlan, feature: FeaturePlan) -> int:
    """Return the count of words of one result: a list has its length and its items, a decimal sum two halves."""
    aggregate = aggregate_of(feature)
    if aggregate.result is Result.LIST:
        return 1 + members_wanted(feature)
    return 2 if aggregate.kind is Kind.ADDITIVE and _finish(view, feature) == SUM_WIDE else 1


def _finish(view: ViewPlan, feature: FeaturePlan) -> int:
    """Return the kernel of a feature: exact sums are kept in another form for each dtype."""
    finish = _FINISH[feature.aggregation]
    is_sum = aggregate_of(feature).kind is Kind.ADDITIVE and finish == SUM_FLOAT
    if not is_sum or _is_float(view.inputs[feature.input]):
        return finish
    return SUM_WIDE if feature.dtype.kind == "decimal" else SUM_INT


def _group_key(view: ViewPlan, feature: FeaturePlan) -> tuple[int, int, int, int, int]:
    kind = aggregate_of(feature).kind
    source = view.inputs[feature.input]
    direction = _FINISH[feature.aggregation] if kind is Kind.EXTREME else 0
    return int(kind), feature.input, need_of(feature), int(_is_float(source)), direction


def _is_float(source: InputPlan) -> bool:
    return source.value is not None and source.value.dtype.kind == "float64"


def _level(feature: FeaturePlan) -> int:
    """Return what a group keeps: the highest power that is summed, an extreme's direction, or the length of a list."""
    aggregate = aggregate_of(feature)
    if aggregate.kind is Kind.EXTREME:
        return _FINISH[feature.aggregation]
    return members_wanted(feature) if aggregate.result is Result.LIST else aggregate.powers


def _feature_row(
    view: ViewPlan, feature: FeaturePlan, index: int, windows: list[tuple[int, int]], slot: Slot
) -> tuple[int, ...]:
    ttl = NO_TTL if feature.ttl_us is None else feature.ttl_us
    return _finish(view, feature), windows.index(_window(feature)), slot.row, index, _param(feature), ttl


def _param(feature: FeaturePlan) -> int:
    """Return a feature's only option as a number, floats as their bits; 0 if it has none."""
    params = dict(feature.params)
    for name in ("ddof", "n", "unit_us"):
        if name in params:
            value = params[name]
            assert isinstance(value, int)
            return value
    rank = params.get("q")
    if rank is None:
        return 0
    assert isinstance(rank, int | float)
    bits: int = struct.unpack("<q", struct.pack("<d", rank))[0]
    return bits
