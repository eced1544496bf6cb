"""Instants, durations, refresh policies and the rules of visibility: every rule about time stands here.

An instant is an int of microseconds since the Unix epoch, UTC. The rules are plain functions over ints, so that the
same source text is called from Python and compiled by numba inside the kernels. Bounds are always **exclusive upper**
and **inclusive lower**; a source declared ``inclusive`` moves its upper bounds by one microsecond, the smallest step.

The module must not know Arrow, NumPy or where events come from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal, Protocol, TypeVar
from zoneinfo import ZoneInfo

from featurestore.core.errors import InstantError

MICROSECONDS = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
"""Length of each unit that a duration may be written in."""

MIN_INSTANT_US = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z, the first instant Python's ``datetime`` can name."""

MAX_INSTANT_US = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z, the last one."""

NO_WATERMARK = 2**62
"""Stands for the watermark of a path that holds every event: the offline path."""

NOTHING_YET = -(2**62)
"""Watermark of a state that holds no event yet."""

_Instants = TypeVar("_Instants")
"""One instant, or a NumPy column of them."""

Ambiguous = Literal["earlier", "later", "raise"]
Nonexistent = Literal["forward", "raise"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MACHINE_ZONES = frozenset({"localtime", "posixrules"})
_LEAP_SECOND_ZONES = "right/"
_DURATION = re.compile(r"(\d+)\s*(us|ms|s|m|h|d|w)")


def duration_us(value: str | timedelta | int) -> int:
    """Read a duration.

    Args:
        value: ``"90m"``, ``"1h30m"``, ``"7d"`` (units us, ms, s, m, h, d, w) or a ``timedelta``. The only number that
            is a duration is 0: every other number lacks a unit.

    Returns:
        Whole microseconds, zero or more.

    Raises:
        InstantError: The value is not a duration, has no unit, or is negative.

    Example:
        >>> duration_us("1h30m")
        5400000000
    """
    if isinstance(value, timedelta):
        length = value // timedelta(microseconds=1)
    elif type(value) is int and value == 0:
        length = 0
    elif isinstance(value, str) and (parts := _DURATION.findall(value)) and not _DURATION.sub("", value).strip():
        length = sum(int(count) * MICROSECONDS[unit] for count, unit in parts)
    else:
        raise _not_a_duration(value)
    if length < 0 or length > MAX_INSTANT_US - MIN_INSTANT_US:
        raise InstantError(f"the duration {value!r} is out of range", hint="It must be zero or more.", code="duration")
    return length


def _not_a_duration(value: object) -> InstantError:
    text = str(value).strip().removeprefix("-")
    if text.isdigit():
        problem, hint = (
            f"the duration {value!r} has no unit",
            f"Add a unit: '{text}d', '{text}h', '{text}s'.",
        )
    else:
        problem, hint = f"{value!r} is not a duration", "Write a number and a unit: '90m', '1h30m', '7d'."
    return InstantError(problem, hint=hint, code="duration")


_MOST_OF_A_UNIT = 99
"""A count with more digits than this has is written with larger units: '2h30m' rather than '150m'."""


def format_duration(length_us: int) -> str:
    """Write a duration as a user would: in one unit where that is short, otherwise in several, largest first.

    Days are the largest unit: ``"7d"`` stays ``"7d"``.

    Example:
        >>> format_duration(604_800_000_000)
        '7d'
        >>> format_duration(5_400_000_000)
        '90m'
        >>> format_duration(9_000_000_000)
        '2h30m'
    """
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, rest = divmod(length_us, MICROSECONDS[unit])
        if count and not rest and (unit == "d" or count <= _MOST_OF_A_UNIT):
            return f"{count}{unit}"
    return _in_units(length_us, MICROSECONDS.keys() - {"w"})


def format_age(length_us: int) -> str:
    """Write how long something lasted: its two largest adjacent units, the rest cut off.

    Example:
        >>> format_age(93_087_000_486)
        '1d1h'
        >>> format_age(92_087_486)
        '1m32s'
    """
    units = sorted((size for unit, size in MICROSECONDS.items() if unit != "w"), reverse=True)
    largest = next((place for place, size in enumerate(units) if size <= length_us), len(units) - 1)
    smallest = units[min(largest + 1, len(units) - 1)]
    return _in_units(length_us // smallest * smallest, MICROSECONDS.keys() - {"w"})


def duration_name(length_us: int) -> str:
    """Write a duration in the fewest whole units, weeks included.

    Features over a window that was written as a ``timedelta`` are named by this text, so it must never change.

    Example:
        >>> duration_name(604_800_000_000)
        '1w'
    """
    return _in_units(length_us, MICROSECONDS.keys())


def _in_units(length_us: int, units: Collection[str]) -> str:
    text = ""
    for unit in sorted(units, key=MICROSECONDS.__getitem__, reverse=True):
        count, length_us = divmod(length_us, MICROSECONDS[unit])
        text += f"{count}{unit}" if count else ""
    return text or "0s"


@dataclass(frozen=True)
class LocalClock:
    """How times without a zone are read as instants.

    Attributes:
        zone: Name of the zone in which they are meant.
        ambiguous: How a time is read that the zone's clocks show twice, when they are set back: as the ``"earlier"`` or
            the ``"later"`` of the two instants, or not at all (``"raise"``).
        nonexistent: How a time is read that the clocks never show, when they are set forward: as the instant at which
            they are set (``"forward"``), or not at all (``"raise"``).
    """

    zone: str
    ambiguous: Ambiguous = "raise"
    nonexistent: Nonexistent = "raise"


def is_timezone(name: object) -> bool:
    """Return whether a value names a time zone that is the same on every machine.

    Names of a machine's own zone are refused, and so are zones that count leap seconds.
    """
    if not isinstance(name, str) or name.lower() in _MACHINE_ZONES or name.lower().startswith(_LEAP_SECOND_ZONES):
        return False
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        return False
    return True


EPOCH_UNITS = {"s": 10**11, "ms": 10**14, "us": 10**17, "ns": 10**20}
"""Units in which numbers count the time since 1970, each with the number of an instant in the year 5138. Larger numbers
are in a smaller unit."""

_PER_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


def likely_unit(number: float | Decimal) -> str:
    """Return the unit in which a number of time since 1970 is an instant before the year 5138.

    Example:
        >>> likely_unit(1_767_225_600_000)
        'ms'
    """
    return next((unit for unit, largest in EPOCH_UNITS.items() if abs(Decimal(number)) < largest), "ns")


def epoch_us(number: int | Decimal, unit: str) -> int | None:
    """Return the instant that a number of time since 1970 stands for; ``None`` outside the years 1 to 9999.

    Args:
        number: The number, finite.
        unit: Its unit: ``"s"``, ``"ms"``, ``"us"`` or ``"ns"``.

    Returns:
        Microseconds. Whole nanoseconds are rounded down to microseconds; parts of a unit are rounded to microseconds.

    Example:
        >>> epoch_us(1_500, "ms")
        1500000
    """
    limit = EPOCH_UNITS[unit] * 1_000
    if not -limit < number < limit:
        return None
    if isinstance(number, int):
        instant = number * _PER_UNIT_NS[unit] // 1_000
    else:
        instant = int((number * _PER_UNIT_NS[unit] / 1_000).to_integral_value(ROUND_HALF_EVEN))
    return instant if MIN_INSTANT_US <= instant <= MAX_INSTANT_US else None


def instant_us(value: datetime | str, *, where: str = "instant") -> int:
    """Read an instant that names its time zone.

    Args:
        value: An aware ``datetime`` (``pandas.Timestamp`` is one) or ISO 8601 text with an offset or ``Z``.
        where: Name of the value, for the message.

    Returns:
        Microseconds since the epoch, rounded down.

    Raises:
        InstantError: The value is naive or is not an instant.

    Example:
        >>> instant_us("1970-01-01T00:00:01+00:00")
        1000000
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InstantError(
                f"{value!r} is not an instant", where=where, hint="Write ISO 8601: '2013-12-01T00:00:00Z'."
            ) from None
    if not isinstance(value, datetime):
        raise InstantError(
            f"got {type(value).__name__}, expected an instant",
            where=where,
            hint="Give an aware datetime or ISO 8601 text with a time zone.",
        )
    if value.tzinfo is None or value.utcoffset() is None:
        raise InstantError(
            f"'{value.isoformat()}' has no time zone",
            where=where,
            hint="Add one, for instance value.replace(tzinfo=datetime.UTC) or a final 'Z'.",
            code="naive-instant",
        )
    return (value - _EPOCH) // timedelta(microseconds=1)


def moment_us(value: datetime | timedelta | str, *, now_us: int, where: str = "instant") -> int:
    """Read an instant, or a length of time before now.

    Args:
        value: What ``instant_us`` reads, or a duration as ``duration_us`` reads it: ``"24h"`` is a day ago.
        now_us: The present instant.
        where: Name of the value, for the message.

    Raises:
        InstantError: The value is neither.

    Example:
        >>> moment_us("1h", now_us=5_400_000_000)
        1800000000
    """
    if isinstance(value, timedelta) or (isinstance(value, str) and _DURATION.match(value.strip())):
        try:
            return now_us - duration_us(value.strip() if isinstance(value, str) else value)
        except InstantError:
            if isinstance(value, timedelta) or not value[:4].isdigit():
                raise
    return instant_us(value, where=where)


def to_datetime(instant: int) -> datetime:
    """Return the aware UTC ``datetime`` of an instant.

    Raises:
        InstantError: The instant lies outside the years 1 to 9999.
    """
    return _EPOCH + timedelta(microseconds=within_years(instant))


def within_years(instant: int) -> int:
    """Return an instant unchanged if it lies in the years 1 to 9999.

    Raises:
        InstantError: It does not.
    """
    if not MIN_INSTANT_US <= instant <= MAX_INSTANT_US:
        raise InstantError(f"{instant} µs lies outside the years 1 to 9999")
    return instant


def period_us(
    since: datetime | timedelta | str, until: datetime | timedelta | str | None, *, now_us: int, where: str
) -> tuple[int, int]:
    """Read a period.

    Args:
        since: Its first instant, or how long before now that was.
        until: One past its last instant; the present one is the last if ``None``.
        now_us: The present instant.
        where: The argument or column, for the message.

    Returns:
        The first instant, and one past the last, in microseconds.

    Raises:
        InstantError: A bound is not an instant, or the last is not after the first.
    """
    first_us = moment_us(since, now_us=now_us, where=f"{where}, since")
    last_us = now_us + 1 if until is None else moment_us(until, now_us=now_us, where=f"{where}, until")
    check_period(first_us, last_us, where=where)
    return first_us, last_us


def check_period(first_us: int, last_us: int, *, where: str) -> None:
    """Check that a period is not empty.

    Args:
        first_us: Start of the period, inclusive.
        last_us: End of the period, exclusive.
        where: Name of the period, for messages.

    Raises:
        InstantError: The end is not after the start.
    """
    if last_us <= first_us:
        raise InstantError(
            f"the period ends at {format_instant(last_us)}, which is not after its start at {format_instant(first_us)}",
            where=where,
            hint="Give the earlier bound first; of two lengths of time before now, the longer one.",
            code="empty-period",
        )


def format_instant(instant: int) -> str:
    """Write an instant as ISO 8601 with a final ``Z``; watermarks that bound nothing have names.

    Example:
        >>> format_instant(1_000_000)
        '1970-01-01T00:00:01Z'
    """
    if instant <= NOTHING_YET:
        return "never"
    if instant >= NO_WATERMARK:
        return "always"
    return to_datetime(instant).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Refresh:
    """How fresh a feature view promises to be.

    Attributes:
        period_us: Length of the refresh grid, counted from the Unix epoch; 0 means continuous.
        lag_us: How long after a grid instant its refresh is promised to be served.
    """

    period_us: int = 0
    lag_us: int = 0

    def __str__(self) -> str:
        if self.period_us == 0:
            return "continuous"
        return f"every {format_duration(self.period_us)}, lag {format_duration(self.lag_us)}"


def continuous() -> Refresh:
    """Return the policy of a view that answers at ``as_of`` itself (the default)."""
    return Refresh()


def every(period: str | timedelta, lag: str | timedelta | int = 0) -> Refresh:
    """Return the policy of a view that is refreshed on a grid.

    Args:
        period: Distance of the refreshes; the grid is counted from the Unix epoch.
        lag: How long after a grid instant its values are served.

    Raises:
        InstantError: The period is zero, or a duration is unreadable or has no unit.
    """
    period_us = duration_us(period)
    if period_us == 0:
        raise InstantError("a refresh period of zero", hint="Write continuous() for a view without a grid.")
    return Refresh(period_us=period_us, lag_us=duration_us(lag))


def parse_refresh(text: str) -> Refresh:
    """Read a policy as ``str(Refresh)`` writes it: ``"continuous"``, ``"every 1h"``, ``"every 1h lag 10m"``.

    Raises:
        InstantError: It is none of these, or a duration is unreadable.

    Example:
        >>> print(parse_refresh("every 1h lag 10m"))
        every 1h, lag 10m
    """
    match text.replace(",", " ").split():
        case ["continuous"]:
            return continuous()
        case ["every", period]:
            return every(period)
        case ["every", period, "lag", lag]:
            return every(period, lag)
    raise InstantError(
        f"'{text}' is not a valid refresh policy", hint="Write 'continuous', 'every 1h' or 'every 1h lag 10m'."
    )


def horizons(as_of_us: int, watermark_us: int, period_us: int, lag_us: int, inclusive: int) -> tuple[int, int]:
    """Return the bounds of the events that a question at ``as_of`` may use: event time and ingest time, both exclusive.

    Continuous: the event horizon is ``as_of``; on a grid it is ``floor((as_of - lag) / period) * period`` and the
    ingest horizon lies ``lag`` after it. An event is visible if both its times lie strictly before their horizons;
    with ``inclusive`` they may also be equal. A path that is complete only up to a watermark (it holds every event with
    ``ingest_time < watermark``) never uses an event from beyond it: on a grid it answers as of the
    newest refresh that the watermark covers, otherwise at ``as_of`` from the events it has.

    Args:
        as_of_us: Instant asked about.
        watermark_us: Exclusive bound of the ingest times that the path holds; ``NO_WATERMARK`` if it holds all.
        period_us: Refresh period, 0 for continuous.
        lag_us: Refresh lag.
        inclusive: 1 if an event is visible at its own instant, else 0.

    Returns:
        ``(event_bound, ingest_bound)``: an event is visible if ``event_time < event_bound and
        ingest_time < ingest_bound``.
    """
    if period_us == 0:
        return as_of_us + inclusive, min(as_of_us + inclusive, watermark_us)
    answered = min(as_of_us, watermark_us - inclusive)
    horizon = (answered - lag_us) // period_us * period_us
    return horizon + inclusive, horizon + lag_us + inclusive


def newest_refresh(as_of_us: _Instants, period_us: int, lag_us: int) -> _Instants:
    """Return the newest instant of a refresh grid whose refresh is promised at ``as_of``.

    That is ``floor((as_of - lag) / period) * period``, the event horizon of a question to a view with a grid.
    ``horizons`` repeats the formula, because numba compiles it alone; a test keeps both equal.
    """
    instants: Any = as_of_us
    grid: _Instants = (instants - lag_us) // period_us * period_us
    return grid


def next_refresh(after_us: _Instants, period_us: int, lag_us: int) -> _Instants:
    """Return the first instant strictly after another at which a refresh is promised: a grid instant plus the lag."""
    newest: Any = newest_refresh(after_us, period_us, lag_us)
    following: _Instants = newest + (period_us + lag_us)
    return following


def promised_at(horizon_us: int, period_us: int, lag_us: int) -> int:
    """Return the first instant at which questions are promised an event horizon: the inverse of ``newest_refresh``.

    Args:
        horizon_us: The event horizon that is wanted, or a later one.
        period_us: Refresh period, 0 for continuous.
        lag_us: Refresh lag.
    """
    if period_us == 0:
        return horizon_us
    return next_refresh(horizon_us + lag_us - 1, period_us, lag_us)


def is_visible(event_us: int, ingest_us: int, event_bound_us: int, ingest_bound_us: int) -> bool:
    """Return whether an event lies before both bounds that ``horizons`` gave."""
    return event_us < event_bound_us and ingest_us < ingest_bound_us


def is_stale(as_of_us: int, watermark_us: int, period_us: int, lag_us: int, inclusive: int) -> bool:
    """Return whether a watermark lies before the refresh that a grid promises at ``as_of``.

    A continuous view promises no refresh, so it is never stale; its answers state up to when they are complete.
    """
    if period_us == 0:
        return False
    promised = horizons(as_of_us, NO_WATERMARK, period_us, lag_us, inclusive)
    return watermark_us < promised[1]


def window_start(event_bound_us: int, length_us: int, resolution_us: int, inclusive: int) -> int:
    """Return the inclusive lower edge of a window that ends at an event horizon.

    The edge is ``h - length``, with a resolution cut down to its multiple. ``event_bound_us`` is the bound that
    ``horizons`` gave, so the step that ``inclusive`` added is subtracted. A negative length means no lower edge.
    """
    if length_us < 0:
        return NOTHING_YET
    start = event_bound_us - inclusive - length_us
    if resolution_us > 0:
        start = start // resolution_us * resolution_us
    return start


def is_expired(event_time_us: int, as_of_us: int, ttl_us: int) -> bool:
    """Return whether a latest value is older than its time to live (``event_time < as_of - ttl``)."""
    return event_time_us < as_of_us - ttl_us


Instant = datetime | str
"""An aware ``datetime``, or ISO 8601 text with a time zone."""


class Clock(Protocol):
    """A source of the present instant."""

    def now_us(self) -> int:
        """Return the present instant in microseconds since the epoch."""
        ...


class SystemClock:
    """The machine's wall clock. The only place in the library that reads it."""

    def now_us(self) -> int:
        """Return the present instant in microseconds since the epoch."""
        return time.time_ns() // 1_000


@dataclass
class FixedClock:
    """A clock that shows the instant it is set to, for tests and replays."""

    instant_us: int

    def now_us(self) -> int:
        """Return the instant the clock was set to."""
        return self.instant_us
