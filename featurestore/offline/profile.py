"""The profile of a training set: the distribution of each feature, as the reference for drift.

Counts, extremes, bins and top values are exact. Mean and standard deviation are float64 sums with compensation
in row order, so they are the same on every machine and for any threads, batches or files. Bin edges are
quantiles of every k-th value, with k so small that at least 65,536 values are used; but a frequent value has a bin of
its own, and few distinct values have one each. The counts in the bins are of all values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.columns import Bytes, Floats, Ints
from featurestore.core.dtypes import FLOAT64, DType
from featurestore.core.statuses import Status
from featurestore.core.temporal import format_instant
from featurestore.kernels.jit import jit
from featurestore.kernels.words import to_words

Numbers = npt.NDArray[np.int64 | np.float64]

BIN_COUNT = 20
"""Bins of a histogram; fewer where values repeat. At most 32."""

_SEARCHED = 32
TOP_COUNT = 20
_SAMPLE_ROWS = 1 << 16
_NUMERIC = frozenset({"int64", "float64", "decimal", "timestamp", "date"})
_CATEGORICAL = frozenset({"string", "bool"})
_INT64 = np.iinfo(np.int64)
_EPOCH = date(1970, 1, 1)


Array = TypeVar("Array", bound=npt.NDArray[Any])


def place_edges(ordered: Array, wanted: int) -> Array:
    """Return lower edges of cells with about equally many values.

    Few distinct values get a cell each. A value as frequent as two cells gets one of its own, and the others are
    divided evenly; so neither a feature of mostly zeros nor one of whole numbers ends in one cell.

    Args:
        ordered: Values, ascending, at least one.
        wanted: How many cells; there are fewer where values repeat, never more.

    Returns:
        Ascending edges without repeats, the smallest value first.
    """
    values, counts = np.unique(ordered, return_counts=True)
    if len(values) <= wanted:
        return cast(Array, values)
    heavy = np.flatnonzero(counts * wanted >= 2 * len(ordered))
    light_counts = counts.copy()
    light_counts[heavy] = 0
    light = np.repeat(values, light_counts)
    cells = max(1, wanted * len(light) // len(ordered))
    places = np.arange(cells) * len(light) // cells
    behind = values[np.minimum(heavy + 1, len(values) - 1)]
    return cast(Array, np.unique(np.concatenate([values[:1], values[heavy], behind, light[places]])))


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins.

    Attributes:
        lower_edges: Ascending; bin ``i`` holds the values from its edge to below the next, the last one all from its
            edge on. The first edge is the smallest value. Instants are microseconds, dates days since the epoch.
        counts: One count per bin.
    """

    lower_edges: tuple[float | int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class TopValue:
    """A value and how often it occurs."""

    value: str | bool
    count: int


@dataclass(frozen=True)
class FeatureProfile:
    """What the values of one feature look like.

    Attributes:
        name: Name of the column.
        dtype: Its dtype.
        row_count: Rows.
        null_count: Rows without a value.
        statuses: Rows by status, for those that occur.
        minimum: Smallest value of numbers, instants and dates (the latter two as ISO 8601 text).
        maximum: Largest value.
        mean: Mean of numbers.
        std: Standard deviation of numbers, divided by count - 1.
        histogram: Bins of numbers, instants and dates.
        distinct_count: How many different strings or booleans occur.
        top: The most frequent strings or booleans, most frequent first, equal counts by value.
    """

    name: str
    dtype: str
    row_count: int
    null_count: int
    statuses: dict[str, int]
    minimum: float | int | str | None = None
    maximum: float | int | str | None = None
    mean: float | None = None
    std: float | None = None
    histogram: Histogram | None = None
    distinct_count: int | None = None
    top: tuple[TopValue, ...] = ()


def count_statuses(statuses: Bytes) -> dict[str, int]:
    """Return how many rows have each status, for those that occur."""
    counts = np.bincount(statuses, minlength=len(Status))
    return {status.name: int(counts[status]) for status in Status if counts[status]}


def profile_columns(
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
    dtypes: Mapping[str, DType],
    statuses: Mapping[str, Mapping[str, int]],
    *,
    threads: int = 2,
) -> tuple[FeatureProfile, ...]:
    """Profile several features.

    Args:
        columns: Values by name, in contract dtypes.
        dtypes: Their dtypes.
        statuses: Rows by status, for the features for which they are known.
        threads: Threads to use; the result does not depend on it.

    Returns:
        One profile per column, in their order.
    """
    with ThreadPoolExecutor(threads) as pool:
        return tuple(
            pool.map(lambda name: profile_column(name, columns[name], dtypes[name], statuses.get(name)), columns)
        )


def profile_column(
    name: str, column: pa.Array | pa.ChunkedArray, dtype: DType, statuses: Mapping[str, int] | None = None
) -> FeatureProfile:
    """Profile one feature.

    Args:
        name: Name of the column.
        column: Its values, in the contract's Arrow type.
        dtype: Its dtype.
        statuses: Rows by status, if they are known.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    row_count, null_count = len(column), int(column.null_count)
    base = FeatureProfile(name, str(dtype), row_count, null_count, dict(statuses or {}))
    if null_count == row_count:
        return base
    if dtype.kind in _NUMERIC:
        return _of_numbers(base, chunks, dtype)
    if dtype.kind in _CATEGORICAL:
        return _of_categories(base, column)
    return base


def _of_categories(base: FeatureProfile, column: pa.Array | pa.ChunkedArray) -> FeatureProfile:
    counted = pc.value_counts(column.drop_null())
    # Text, because Arrow does not sort booleans; "false" and "true" sort as they do.
    values = counted.field("values").cast(pa.string())
    table = pa.table({"value": values, "count": counted.field("counts")})
    keys = [("count", "descending"), ("value", "ascending")]
    chosen = counted.take(pc.select_k_unstable(table, k=min(TOP_COUNT, len(counted)), sort_keys=keys))
    top = tuple(TopValue(pair["values"], pair["counts"]) for pair in chosen.to_pylist())
    return replace(base, distinct_count=len(counted), top=top)


def _of_numbers(base: FeatureProfile, chunks: Sequence[pa.Array], dtype: DType) -> FeatureProfile:
    parts = [_numbers(chunk, dtype) for chunk in chunks if chunk.null_count < len(chunk)]
    is_float = parts[0].dtype == np.float64
    total = np.zeros(2)
    extremes = np.array([math.inf, -math.inf]) if is_float else np.array([_INT64.max, _INT64.min])
    for values in parts:
        _add_up(values, total, extremes)
    count = base.row_count - base.null_count
    mean = _total(total) / count
    edges = _edges(_sample(parts, count), extremes[0])
    counts = np.zeros(_SEARCHED, dtype=np.int64)
    squares = np.zeros(2)
    for values in parts:
        _spread(values, mean, _padded(edges), counts, squares)
    # The largest integer of all is not below the padding.
    counts[len(edges) - 1] += counts[len(edges) :].sum()
    variance = _total(squares) / (count - 1) if count > 1 else math.nan
    low, high = extremes.tolist()
    return replace(
        base,
        minimum=_shown(low, dtype),
        maximum=_shown(high, dtype),
        mean=_finite(mean) if dtype.is_numeric else None,
        std=_finite(math.sqrt(variance)) if dtype.is_numeric else None,
        histogram=Histogram(tuple(edges.tolist()), tuple(counts[: len(edges)].tolist())),
    )


def _numbers(array: pa.Array, dtype: DType) -> Numbers:
    """Return the numbers of a column, nulls left out."""
    known = array.drop_null() if array.null_count else array
    if dtype.kind == "decimal":
        known, dtype = known.cast(pa.float64()), FLOAT64
    words, _ = to_words(known, dtype)
    return words.view(np.float64) if dtype.kind == "float64" else words


def _sample(parts: Sequence[Numbers], count: int) -> Numbers:
    """Return every k-th number, in ascending order; k is counted over all parts."""
    step = max(1, count // _SAMPLE_ROWS)
    found = []
    skipped = 0
    for values in parts:
        found.append(values[skipped::step])
        skipped = (skipped - len(values)) % step
    return np.sort(np.concatenate(found))


def _edges(ordered: Numbers, smallest: np.float64 | np.int64) -> Numbers:
    edges = place_edges(ordered, BIN_COUNT)
    edges[0] = smallest
    return edges


def _padded(edges: Numbers) -> Numbers:
    """Return edges as the search wants them: a power of two, the rest above every value."""
    padded = np.full(_SEARCHED, math.inf if edges.dtype == np.float64 else _INT64.max, dtype=edges.dtype)
    padded[: len(edges)] = edges
    return padded


def _shown(value: float | int, dtype: DType) -> float | int | str:
    if dtype.kind == "timestamp":
        return format_instant(int(value))
    if dtype.kind == "date":
        return (_EPOCH + timedelta(days=value)).isoformat()
    return value


def _total(sums: Floats) -> float:
    """Return a compensated sum; not a number, without a warning, where it overflowed."""
    total, correction = sums.tolist()
    return float(total + correction)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@jit
def _add_up(values: Numbers, sums: Floats, extremes: Numbers) -> None:
    """Fold numbers into a compensated sum, and into the smallest and largest."""
    total, correction = sums[0], sums[1]
    low, high = extremes[0], extremes[1]
    for i in range(len(values)):
        value = values[i]
        low = min(low, value)
        high = max(high, value)
        number = float(value)
        following = total + number
        rest = (total - following) + number
        correction += rest if abs(total) >= abs(number) else (number - following) + total
        total = following
    sums[0], sums[1] = total, correction
    extremes[0], extremes[1] = low, high


@jit
def _spread(values: Numbers, mean: float, edges: Numbers, counts: Ints, sums: Floats) -> None:
    """Count numbers into bins, and fold their squared distances from the mean into a compensated sum."""
    total, correction = sums[0], sums[1]
    for i in range(len(values)):
        value = values[i]
        # Without branches: where a value falls cannot be predicted.
        place = 0
        place += 16 if edges[16] <= value else 0
        place += 8 if edges[place + 8] <= value else 0
        place += 4 if edges[place + 4] <= value else 0
        place += 2 if edges[place + 2] <= value else 0
        place += 1 if edges[place + 1] <= value else 0
        counts[place] += 1
        distance = float(value) - mean
        square = distance * distance
        following = total + square
        correction += (total - following) + square
        total = following
    sums[0], sums[1] = total, correction
