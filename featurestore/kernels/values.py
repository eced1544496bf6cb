"""The boundary of values: what Arrow data from outside becomes in here, and what every computed column is brought to.

The only home of these rules: floats are finite or null, and zero has no sign; integers are int64; instants are UTC in
whole microseconds, cut down (floor); instants and dates lie in the years 1 to 9999; text is ``string``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from featurestore.dtypes import DType, from_arrow
from featurestore.errors import SourceDataError
from featurestore.kernels.zones import LocalTimeError, from_local
from featurestore.temporal import MAX_INSTANT_US, MIN_INSTANT_US, LocalClock, duration_us

_NANOSECONDS = 1_000
_INSTANT = pa.timestamp("us", tz="UTC")
_DAY_US = duration_us("1d")
_YEARS_US = (MIN_INSTANT_US, MAX_INSTANT_US)
_YEARS_DAYS = (MIN_INSTANT_US // _DAY_US, MAX_INSTANT_US // _DAY_US)


@dataclass(frozen=True)
class ColumnCounts:
    """What was found in a column at the boundary.

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
    return array if array.type == dtype.arrow else array.cast(dtype.arrow)


def _finite(array: pa.Array) -> tuple[pa.Array, int]:
    """Return floats with NaN and infinities as null and one zero, and how many became null."""
    if _is_plain(array):
        return array, 0
    finite = pc.is_finite(array)
    broken = pc.sum(pc.invert(finite)).as_py() or 0
    kept = array if broken == 0 else pc.if_else(finite, array, pa.scalar(None, type=pa.float64()))
    return pc.add(kept, 0.0), int(broken)


def _is_plain(array: pa.Array) -> bool:
    """Tell whether floats are finite for sure and no zero has a sign; what lies under nulls counts too.

    A sum is finite only if all its addends are, and of all words that of negative zero is the least. Both are told in
    one pass each that makes nothing.
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
            layout, dictionaries of these, timestamps of any unit and zone, dates, decimals, lists.
        dtype: What it is read as.
        timezone: The zone in which timestamps without one are meant, or how they are read there; the name alone refuses
            times that its clocks show twice or never, ``None`` refuses all.
        where: The place, for messages.
        first_row: Number of the column's first row in that place, for messages; ``None`` if its items are not rows.

    Returns:
        The column in contract form, and what was found.

    Raises:
        SourceDataError: A naive timestamp without ``timezone``, one that the zone's clocks show twice or never, an
            integer beyond int64, an instant or date that no calendar has, or a type that is not read as the dtype.
    """
    array = one_chunk(column)
    if isinstance(array, pa.ChunkedArray):
        raise SourceDataError("more than 2 GB of text in one piece", where=where, hint="Read it in smaller pieces.")
    if kinds.is_dictionary(array.type):
        array = array.dictionary_decode()
    if kinds.is_null(array.type):
        array = pa.nulls(len(array), dtype.arrow)
    nulls = array.null_count
    if from_arrow(array.type) != dtype:
        raise SourceDataError(f"the column is {array.type}, expected {dtype}", where=where, code="wrong-dtype")
    if dtype.kind == "float64":
        array, broken = _finite(array if array.type == pa.float64() else array.cast(pa.float64()))
        return array, ColumnCounts(len(array), nulls, broken)
    counts = ColumnCounts(len(array), nulls)
    if dtype.kind == "timestamp":
        return _read_instants(array, timezone, where, first_row), counts
    return _READERS.get(dtype.kind, _plain)(array, dtype, timezone, where), counts


def _plain(array: pa.Array, dtype: DType, _: str | LocalClock | None, where: str) -> pa.Array:
    if array.type == dtype.arrow:
        return array
    try:
        return array.cast(dtype.arrow)
    except pa.ArrowInvalid as error:
        raise SourceDataError(f"a value does not fit into {dtype}: {error}", where=where, code="out-of-range") from None


def _read_instants(array: pa.Array, timezone: str | LocalClock | None, where: str, first_row: int | None) -> pa.Array:
    return _within_years(_to_instants(array, timezone, where, first_row), _YEARS_US, pa.int64(), where)


def _read_dates(array: pa.Array, dtype: DType, timezone: str | LocalClock | None, where: str) -> pa.Array:
    return _within_years(_plain(array, dtype, timezone, where), _YEARS_DAYS, pa.int32(), where)


def _within_years(array: pa.Array, years: tuple[int, int], words: pa.DataType, where: str) -> pa.Array:
    """Return instants or dates if a calendar has all of them."""
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
            hint="Say which one they are in: timezone='UTC' on the source.",
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
        often, hint = "twice", "Say which of the two is meant: ambiguous='later', or ambiguous='earlier'."
    else:
        often = "never"
        hint = (
            "Check that the times are in this zone. To read such a time as the instant at which the clocks are set "
            "forward, say nonexistent='forward'."
        )
    problem = f"{place} holds {shown}, which clocks in {clock.zone} show {often}"
    return SourceDataError(problem, where=where, hint=hint, code="ambiguous-local-time")


def _read_list(array: pa.Array, dtype: DType, timezone: str | LocalClock | None, where: str) -> pa.Array:
    """Read the items of lists as columns of their own, so that all rules hold inside lists too."""
    plain = array.cast(pa.list_(array.type.value_type)) if not kinds.is_list(array.type) else array
    assert dtype.item is not None
    items, _ = read_column(plain.flatten(), dtype.item, timezone, where, first_row=None)
    lengths = plain.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    missing = plain.is_null() if plain.null_count else None
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=dtype.arrow, mask=missing)


_READERS: dict[str, Callable[[pa.Array, DType, str | LocalClock | None, str], Any]] = {
    "date": _read_dates,
    "list": _read_list,
}
