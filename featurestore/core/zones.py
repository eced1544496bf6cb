"""Local time: from instants to the times that a zone's clocks show, and back.

These rules stand nowhere else; expressions and columns of local times share them. The offsets are those of
``zoneinfo``, which extends the rules of a zone into the future without end. They are cached as tables of the instants
at which they change, one per stretch of about 18 years, so that whole columns are converted at once. The module
must not know where columns come from.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.temporal import (
    MAX_INSTANT_US,
    MICROSECONDS,
    MIN_INSTANT_US,
    LocalClock,
)

# Views change the type of a column and nothing else; a cast takes ten times as long where there are few rows.
_WORD, _NAIVE, _INSTANT = pa.int64(), pa.timestamp("us"), pa.timestamp("us", tz="UTC")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_US = MICROSECONDS["d"]
_SECOND_US = MICROSECONDS["s"]
_STRETCH_BITS = 49
_MOST_STRETCHES = 8
"""A table holds all stretches from a column's first to its last instant, up to so many; then only those it needs."""

_LARGEST_OFFSET_US = 16 * MICROSECONDS["h"]
"""No clock ever showed a time further from UTC than this (Manila before 1845 was 15:56 behind)."""

_FIRST_US, _LAST_US = MIN_INSTANT_US + 2 * _DAY_US, MAX_INSTANT_US - 2 * _DAY_US


class LocalTimeError(ValueError):
    """A local time that a clock shows twice or never.

    Attributes:
        row: Number of the first such time in its column.
        is_ambiguous: Whether the clock shows it twice; else never.
    """

    def __init__(self, row: int, *, is_ambiguous: bool) -> None:
        super().__init__(row, is_ambiguous)
        self.row = row
        self.is_ambiguous = is_ambiguous


def to_local(instants: pa.Array, zone: str) -> pa.Array:
    """Return the times that a zone's clocks show at some instants.

    Args:
        instants: UTC microseconds; null stays null.
        zone: Name of the zone.

    Returns:
        Timestamps without a zone, in microseconds.
    """
    if zone == "UTC":
        return instants.view(_NAIVE)
    times = _numbers(instants)
    return _with_nulls(times + offsets_us(times, zone), instants).view(_NAIVE)


def from_local(local: pa.Array, clock: LocalClock) -> pa.Array:
    """Return the instants at which a zone's clocks show some times.

    Args:
        local: Timestamps without a zone, in microseconds; null stays null.
        clock: The zone, and how times are read that its clocks show twice or never.

    Returns:
        Timestamps in UTC microseconds.

    Raises:
        LocalTimeError: A time is shown twice or never, and the clock's choice for it is ``"raise"``.
    """
    if clock.zone == "UTC":
        return local.view(_INSTANT)
    return _with_nulls(_instants(_numbers(local), local, clock), local).view(_INSTANT)


def offsets_us(times: Ints, zone: str) -> Ints:
    """Return how far a zone's clocks are ahead of UTC at some instants, all in microseconds."""
    changes, offsets = _table(times, zone)
    if len(offsets) == 1:
        return np.full(len(times), offsets[0], dtype=np.int64)
    return offsets[np.searchsorted(changes, times, side="right")]


def _instants(shown: Ints, local: pa.Array, clock: LocalClock) -> Ints:
    """Find the instants of local times.

    Where the offset does not change near a time, it is subtracted. Elsewhere every offset near it gives a candidate.
    """
    changes, offsets = _table(shown, clock.zone)
    before = np.searchsorted(changes, shown - _LARGEST_OFFSET_US, side="right")
    after = np.searchsorted(changes, shown + _LARGEST_OFFSET_US, side="right")
    instants = shown - offsets[before]
    rows = np.flatnonzero(before != after)
    if not len(rows):
        return instants
    if local.null_count:
        rows = rows[local.is_valid().to_numpy(zero_copy_only=False)[rows]]
    begins = np.concatenate([[np.iinfo(np.int64).min], changes])
    ends = np.concatenate([changes, [np.iinfo(np.int64).max]])
    near, part = shown[rows], before[rows]
    count = np.zeros(len(rows), dtype=np.int64)
    earliest, latest, opening = np.empty_like(near), np.empty_like(near), np.full_like(near, np.iinfo(np.int64).max)
    for step in range(int((after[rows] - part).max()) + 1 if len(rows) else 0):
        segment = np.minimum(part + step, after[rows])
        candidate = near - offsets[segment]
        is_shown = (begins[segment] <= candidate) & (candidate < ends[segment]) & (part + step <= after[rows])
        earliest = np.where(is_shown & (count == 0), candidate, earliest)
        latest = np.where(is_shown, candidate, latest)
        count += is_shown
        # The clock goes on past a time that it never shows where a segment begins that shows later ones only.
        is_past = (candidate < begins[segment]) & (part + step <= after[rows])
        opening = np.where(is_past, np.minimum(opening, begins[segment]), opening)
    _check(rows, count, clock)
    chosen = latest if clock.ambiguous == "later" else earliest
    instants[rows] = np.where(count == 0, opening, chosen)
    return instants


def _check(rows: Ints, count: Ints, clock: LocalClock) -> None:
    if clock.ambiguous == "raise" and (count > 1).any():
        raise LocalTimeError(int(rows[np.argmax(count > 1)]), is_ambiguous=True)
    if clock.nonexistent == "raise" and (count == 0).any():
        raise LocalTimeError(int(rows[np.argmax(count == 0)]), is_ambiguous=False)


def _table(times: Ints, zone: str) -> tuple[Ints, Ints]:
    """Return the instants at which a zone's offset changes near some times, and the offsets around them."""
    if not len(times):
        return _stretches(zone, (0,))
    first = int(times.min()) - _LARGEST_OFFSET_US >> _STRETCH_BITS
    last = int(times.max()) + _LARGEST_OFFSET_US >> _STRETCH_BITS
    if last - first < _MOST_STRETCHES:
        return _stretches(zone, tuple(range(first, last + 1)))
    near = np.concatenate([times - _LARGEST_OFFSET_US, times + _LARGEST_OFFSET_US]) >> _STRETCH_BITS
    return _stretches(zone, tuple(np.unique(near).tolist()))


@lru_cache(maxsize=1024)
def _stretches(zone: str, numbers: tuple[int, ...]) -> tuple[Ints, Ints]:
    """Join the tables of some stretches, ascending."""
    changes: list[int] = []
    offsets = [_stretch(zone, numbers[0])[0]]
    for number in numbers:
        at_start, inside = _stretch(zone, number)
        if at_start != offsets[-1]:
            changes.append(number << _STRETCH_BITS)
            offsets.append(at_start)
        for instant, offset in inside:
            changes.append(instant)
            offsets.append(offset)
    return np.array(changes, dtype=np.int64), np.array(offsets, dtype=np.int64)


@lru_cache(maxsize=4096)
def _stretch(zone: str, number: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the offset at the start of a stretch, and the instants inside at which it changes, each with the new one.

    Offsets are looked at once a day: no zone has ever changed its offset twice within one.
    """
    info = ZoneInfo(zone)
    start, end = number << _STRETCH_BITS, (number + 1) << _STRETCH_BITS
    at_start = known = _offset(info, start)
    changes = []
    day = start
    while day < end:
        following = min(day + _DAY_US, end - 1)
        offset = _offset(info, following)
        if offset != known:
            changes.append((_change(info, day, following, known), offset))
            known = offset
        day += _DAY_US
    return at_start, tuple(changes)


def _change(info: ZoneInfo, low: int, high: int, offset: int) -> int:
    """Return the instant, a whole second, from which on the offset is no longer the one at ``low``."""
    low, high = low // _SECOND_US, -(-high // _SECOND_US)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(info, middle * _SECOND_US) == offset:
            low = middle
        else:
            high = middle
    return high * _SECOND_US


def _offset(info: ZoneInfo, instant: int) -> int:
    """Return the offset at an instant; at the ends of the calendar that of two days inside."""
    at = _EPOCH + timedelta(microseconds=min(max(instant, _FIRST_US), _LAST_US))
    offset = at.astimezone(info).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)


def _numbers(column: pa.Array) -> Ints:
    """Return timestamps as microseconds; those of null are those of the epoch."""
    numbers = column.view(_WORD)
    if numbers.null_count:
        numbers = numbers.fill_null(0)
    return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.int64)


def _with_nulls(times: Ints, column: pa.Array) -> pa.Array:
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    return pa.array(times, mask=missing)
