"""The boundary of values: the form to which data from outside and computed columns are brought.

These rules stand nowhere else: floats are finite or null, and zero has no sign; integers are int64; instants are UTC in
whole microseconds, cut down (floor); instants and dates lie in the years 1 to 9999; text is ``string``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from featurestore.core.dtypes import DType, is_list_layout, is_read_as
from featurestore.core.errors import SourceDataError
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MIN_INSTANT_US,
    LocalClock,
    duration_us,
)
from featurestore.core.zones import LocalTimeError, from_local

_NANOSECONDS = 1_000
_INSTANT = pa.timestamp("us", tz="UTC")
_DAY_US = duration_us("1d")
_YEARS_US = (MIN_INSTANT_US, MAX_INSTANT_US)
_YEARS_DAYS = (MIN_INSTANT_US // _DAY_US, MAX_INSTANT_US // _DAY_US)


@dataclass(frozen=True)
class ColumnCounts:
    """Counts of a column that was read at the boundary.

    Attributes:
        rows: Count of rows.
        nulls: Rows that were null already.
        not_finite: Floats that were NaN or infinite and became null.
    """

    rows: int = 0
    nulls: int = 0
    not_finite: int = 0

    def __add__(self, other: ColumnCounts) -> ColumnCounts:
        return ColumnCounts(self.rows + other.rows, self.nulls + other.nulls, self.not_finite + other.not_finite)


def canonical(array: pa.Array, dtype: DType) -> pa.Array:
    """Bring a computed column to the form every value has: its dtype's Arrow type, floats finite or null.

    Args:
        array: A column of the dtype, or of an Arrow type that casts to it without loss.
        dtype: What it is.

    Returns:
        NaN and infinities as null, negative zero as zero; everything else as it was.
    """
    if dtype.kind == "float64":
        return _finite(array if array.type == pa.float64() else array.cast(pa.float64()))[0]
    if dtype.kind != "list":
        return array if array.type == dtype.arrow else array.cast(dtype.arrow)
    assert dtype.item is not None
    plain = plain_layout(array)
    offsets, items = list_items(plain)
    missing = plain.is_null() if plain.null_count else None
    return list_array(offsets, canonical(items, dtype.item), dtype.arrow, missing)


def _finite(array: pa.Array) -> tuple[pa.Array, int]:
    """Return floats with NaN and infinities as null and one zero, and how many became null."""
    if _is_plain(array):
        return array, 0
    finite = pc.is_finite(array)
    broken = pc.sum(pc.invert(finite)).as_py() or 0
    kept = array if broken == 0 else pc.if_else(finite, array, pa.scalar(None, type=pa.float64()))
    return pc.add(kept, 0.0), int(broken)


def _is_plain(array: pa.Array) -> bool:
    """Return whether all floats are certainly finite and no zero has a sign; values under nulls count too.

    A sum is finite only if all its addends are, and the word of negative zero is the least of all words. Each takes one
    pass that allocates nothing.
    """
    if len(array) == 0:
        return True
    values = np.frombuffer(array.buffers()[1], dtype=np.float64)[array.offset : array.offset + len(array)]
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) and values.view(np.int64).min() != _NEGATIVE_ZERO)


_NEGATIVE_ZERO = -(2**63)


def one_chunk(column: pa.Array | pa.ChunkedArray) -> Any:
    """Return a column as one array, without a copy if it is one already; more than 2 GB of text stay several."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def plain_layout(column: pa.Array | pa.ChunkedArray) -> Any:
    """Return a column's values in the one layout that the library reads, whatever layout they came in.

    Dictionaries are decoded, extension types become what they store, views of text become text, and lists of every
    layout (large, of a fixed size, views) become ``list`` with items of a plain layout. Lists are put together from
    their offsets and sizes: Arrow's casts between nested layouts may give invalid arrays. Widths of numbers and units
    of time stay as they are.

    Args:
        column: Arrow data.

    Returns:
        One array; more than 2 GB of text stay several chunks.

    Raises:
        pa.ArrowInvalid: Lists hold more items than one array can.
    """
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks != 1:
            chunks = [plain_layout(chunk) for chunk in column.chunks]
            return one_chunk(pa.chunked_array(chunks, type=_plain_type(column.type)))
        column = column.chunk(0)
    if isinstance(column, pa.ExtensionArray):
        return plain_layout(column.storage)
    kind = column.type
    if kinds.is_dictionary(kind):
        return plain_layout(column.dictionary).take(column.indices)
    if kinds.is_string_view(kind):
        return column.cast(pa.large_string())
    if kinds.is_binary_view(kind):
        return column.cast(pa.large_binary())
    return _plain_lists(column) if is_list_layout(kind) else column


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that ``plain_layout`` gives columns of a type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain_type(kind.storage_type)
    if kinds.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if is_list_layout(kind):
        return pa.list_(_plain_type(kind.value_type))
    if kinds.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if kinds.is_binary_view(kind) else kind


def _plain_lists(array: Any) -> pa.Array:
    starts, sizes = _places_of_lists(array)
    missing = array.is_null() if array.null_count else None
    if missing is not None:
        sizes = np.where(missing.to_numpy(zero_copy_only=False), 0, sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    if offsets[-1] > _MOST_ITEMS:
        raise pa.ArrowInvalid(f"{offsets[-1]} items of lists in one piece, at most {_MOST_ITEMS} are possible")
    filled = np.flatnonzero(sizes)
    starts, sizes = starts[filled], sizes[filled]
    first = int(starts.min()) if len(filled) else 0
    end = int((starts + sizes).max()) if len(filled) else 0
    items = plain_layout(array.values.slice(first, end - first))
    if len(filled) and not np.array_equal(starts[1:], (starts + sizes)[:-1]):
        # Items that no list holds lie between, or lists share items or lie in another order.
        begins = np.cumsum(sizes) - sizes
        items = items.take(pa.array(np.arange(offsets[-1]) + np.repeat(starts - first - begins, sizes)))
    return list_array(offsets, items, pa.list_(items.type), missing)


def _places_of_lists(array: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where each list begins among the items, and how many it has; any for nulls."""
    kind = array.type
    if kinds.is_fixed_size_list(kind):
        starts = np.arange(array.offset, array.offset + len(array), dtype=np.int64) * kind.list_size
        return starts, np.full(len(array), kind.list_size, dtype=np.int64)
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    if kinds.is_list_view(kind) or kinds.is_large_list_view(kind):
        return offsets, array.sizes.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return offsets[:-1], np.diff(offsets)


_MOST_ITEMS = 2**31 - 1


def list_array(
    offsets: npt.NDArray[np.int64], items: pa.Array, kind: pa.DataType, missing: pa.Array | None
) -> pa.ListArray:
    """Return a column of lists.

    Args:
        offsets: List ``i`` is ``items[offsets[i]:offsets[i + 1]]``.
        items: All items.
        kind: Type of the lists.
        missing: Which lists are null; ``None`` if none is.
    """
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), items, type=kind, mask=missing)


def list_items(array: pa.ListArray) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """Return the items of the lists of an array, and where those of each begin and end among them.

    Args:
        array: Lists of the plain layout, perhaps a slice. Items under a null list are ignored.
    """
    offsets = array.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    return offsets - offsets[0], array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))


def read_column(
    column: pa.Array | pa.ChunkedArray,
    dtype: DType,
    timezone: str | LocalClock | None,
    where: str,
    first_row: int | None = 0,
) -> tuple[pa.Array, ColumnCounts]:
    """Read a column from outside.

    Args:
        column: Arrow data of any type that is read as the dtype: integers of any width, floats, text and binary of any
            layout, dictionaries of these, timestamps of any unit and zone, dates, decimals, lists of any layout.
        dtype: What it is read as.
        timezone: The zone in which timestamps without one are meant, or how they are read there; the name alone refuses
            times that its clocks show twice or never, ``None`` refuses all.
        where: The place, for messages.
        first_row: Number of the column's first row in that place, for messages; ``None`` if its items are not rows.

    Returns:
        The column in contract form, and its counts.

    Raises:
        SourceDataError: A naive timestamp without ``timezone``, one that the zone's clocks show twice or never, an
            integer beyond int64, an instant or date outside the years 1 to 9999, or a type that is not read as the
            dtype.
    """
    try:
        array = plain_layout(column)
    except pa.ArrowInvalid as error:
        raise too_much(where, str(error)) from None
    if isinstance(array, pa.ChunkedArray):
        raise too_much(where, "more than 2 GB of text in one piece")
    if kinds.is_null(array.type):
        array = pa.nulls(len(array), dtype.arrow)
    nulls = array.null_count
    if not is_read_as(array.type, dtype):
        raise SourceDataError(f"the column is {array.type}, expected {dtype}", where=where, code="wrong-dtype")
    if dtype.kind == "float64":
        array, broken = _finite(array if array.type == pa.float64() else array.cast(pa.float64()))
        return array, ColumnCounts(len(array), nulls, broken)
    counts = ColumnCounts(len(array), nulls)
    if dtype.kind == "timestamp":
        return _read_instants(array, timezone, where, first_row), counts
    return _READERS.get(dtype.kind, _plain)(array, dtype, timezone, where), counts


def too_much(where: str, problem: str) -> SourceDataError:
    """Return the error for more text, or more items of lists, than one Arrow array can hold."""
    hint = "Read it in smaller pieces: smaller row groups, or several files or frames."
    return SourceDataError(problem, where=where, hint=hint, code="out-of-range")


def _plain(array: pa.Array, dtype: DType, _: str | LocalClock | None, where: str) -> pa.Array:
    if array.type == dtype.arrow:
        return array
    try:
        return array.cast(dtype.arrow)
    except pa.ArrowInvalid as error:
        hint = ""
        if kinds.is_uint64(array.type):
            hint = "Declare the column in the source's dtypes={…} as 'decimal(20,0)' or 'string', which hold them all."
        problem = f"a value does not fit into {dtype}: {error}"
        raise SourceDataError(problem, where=where, hint=hint, code="out-of-range") from None


def _read_instants(array: pa.Array, timezone: str | LocalClock | None, where: str, first_row: int | None) -> pa.Array:
    return _within_years(_to_instants(array, timezone, where, first_row), _YEARS_US, pa.int64(), where)


def _read_dates(array: pa.Array, dtype: DType, timezone: str | LocalClock | None, where: str) -> pa.Array:
    return _within_years(_plain(array, dtype, timezone, where), _YEARS_DAYS, pa.int32(), where)


def _within_years(array: pa.Array, years: tuple[int, int], words: pa.DataType, where: str) -> pa.Array:
    """Return instants or dates; raise ``SourceDataError`` if any lies outside the years 1 to 9999."""
    bounds = pc.min_max(array.cast(words))
    least, most = bounds["min"].as_py(), bounds["max"].as_py()
    if least is not None and not years[0] <= least <= most <= years[1]:
        raise SourceDataError("a value lies outside the years 1 to 9999", where=where, code="out-of-range")
    return array


def _to_instants(array: pa.Array, timezone: str | LocalClock | None, where: str, first_row: int | None) -> pa.Array:
    zone = array.type.tz
    if zone is None and timezone is None:
        raise SourceDataError(
            "the timestamps have no time zone",
            where=where,
            hint="Declare the zone they are in on the source: timezone='UTC'.",
            code="naive-timestamps",
        )
    array = _whole_microseconds(array, where)
    if zone is not None:
        return array if array.type == _INSTANT else array.cast(_INSTANT)
    assert timezone is not None
    clock = LocalClock(timezone) if isinstance(timezone, str) else timezone
    try:
        return from_local(array, clock)
    except LocalTimeError as error:
        raise _no_instant(array, error, clock, where, first_row) from None


def _whole_microseconds(array: pa.Array, where: str) -> pa.Array:
    """Return timestamps of any unit in microseconds, cut down, with the zone they have."""
    wanted = pa.timestamp("us", tz=array.type.tz)
    if array.type.unit == "ns":
        whole = np.floor_divide(array.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False), _NANOSECONDS)
        missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        return pa.array(whole, type=pa.int64(), mask=missing).cast(wanted)
    try:
        return array.cast(wanted)
    except pa.ArrowInvalid as error:
        raise SourceDataError(f"an instant is out of range: {error}", where=where, code="out-of-range") from None


def _no_instant(
    array: pa.Array, error: LocalTimeError, clock: LocalClock, where: str, first_row: int | None
) -> SourceDataError:
    place = "a row" if first_row is None else f"row {first_row + error.row}"
    shown = np.datetime64(array[error.row].value, "us")
    if error.is_ambiguous:
        often, hint = "twice", "Declare which of the two is meant: ambiguous='later', or ambiguous='earlier'."
    else:
        often = "never"
        hint = (
            "Check that the times are in this zone. To read such a time as the instant at which the clocks are set "
            "forward, declare nonexistent='forward'."
        )
    problem = f"{place} holds {shown}, which clocks in {clock.zone} show {often}"
    return SourceDataError(problem, where=where, hint=hint, code="ambiguous-local-time")


def _read_list(array: pa.Array, dtype: DType, timezone: str | LocalClock | None, where: str) -> pa.Array:
    """Read the items of lists as columns of their own, so that all rules hold inside lists too."""
    assert dtype.item is not None
    offsets, items = list_items(array)
    items, _ = read_column(items, dtype.item, timezone, where, first_row=None)
    return list_array(offsets, items, dtype.arrow, array.is_null() if array.null_count else None)


_READERS: dict[str, Callable[[pa.Array, DType, str | LocalClock | None, str], Any]] = {
    "date": _read_dates,
    "list": _read_list,
}
