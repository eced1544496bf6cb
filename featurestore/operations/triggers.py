"""When jobs are done: on a grid, as crontab says it, or a little later than either."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol

from featurestore.core.errors import ConfigError
from featurestore.core.temporal import format_duration, instant_us, to_datetime

try:
    from apscheduler.triggers.base import BaseTrigger
    from apscheduler.triggers.combining import OrTrigger
    from apscheduler.triggers.cron import CronTrigger
except ModuleNotFoundError:  # pragma: no cover - the tests' environment has it
    raise ConfigError(
        "APScheduler is not installed",
        where="schedule",
        hint="pip install 'featurestore[schedule]'",
        code="missing-extra",
    ) from None

_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""Days by crontab's number: Sunday has two."""

_ABBREVIATIONS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


class Trigger(Protocol):
    """Tells when something is done, as APScheduler asks for it."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the first instant after the last one, and not before now; ``None`` if there is none."""
        ...


class GridTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires ``lag`` after every multiple of ``period`` since the Unix epoch, as refreshes are declared."""

    def __init__(self, period_us: int, lag_us: int = 0) -> None:
        self.period_us = period_us
        self.lag_us = lag_us

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first instant after the last one, and not before now."""
        after_us = instant_us(now) - 1 if previous_fire_time is None else instant_us(previous_fire_time)
        after_us = max(after_us, instant_us(now) - 1)
        return to_datetime(((after_us - self.lag_us) // self.period_us + 1) * self.period_us + self.lag_us)

    def __str__(self) -> str:
        lag = f" lag {format_duration(self.lag_us)}" if self.lag_us else ""
        return f"every {format_duration(self.period_us)}{lag}"


class LaterTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires always by the same length of time after another trigger."""

    def __init__(self, trigger: Trigger, delay_us: int) -> None:
        self.trigger = trigger
        self.delay_us = delay_us

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """Return the first instant after the last one, and not before now."""
        found = self.trigger.get_next_fire_time(
            None if previous_fire_time is None else self._moved(previous_fire_time, -self.delay_us),
            self._moved(now, -self.delay_us),
        )
        return None if found is None else self._moved(found, self.delay_us)

    def _moved(self, instant: datetime, by_us: int) -> datetime:
        return to_datetime(instant_us(instant) + by_us)

    def __str__(self) -> str:
        return f"{self.trigger}, {format_duration(self.delay_us)} later"


def read_crontab(text: str) -> Trigger:
    """Read when something is done as crontab says it, in UTC.

    The day of the week is 0 to 7, of which 0 and 7 are Sunday, or its name. If both days are restricted, either will
    do; a day that begins with ``*`` restricts nothing by itself.

    Raises:
        ValueError: The text is not five fields that crontab takes.

    Source:
        crontab(5).
    """
    fields = _ABBREVIATIONS.get(text.strip().lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields, expected five: minute hour day month weekday")
    minute, hour, day, month, weekday = fields
    if day.startswith("*") or weekday.startswith("*"):
        return _cron(minute, hour, month, day=day, day_of_week=_weekdays(weekday))
    either: Trigger = OrTrigger(
        [
            _cron(minute, hour, month, day=day),
            _cron(minute, hour, month, day_of_week=_weekdays(weekday)),
        ]
    )
    return either


def _cron(minute: str, hour: str, month: str, **days: str) -> Trigger:
    found: Trigger = CronTrigger(minute=minute, hour=hour, month=month, **days, timezone=UTC)
    return found


def _weekdays(field: str) -> str:
    """Return crontab's days of the week by their names: APScheduler numbers them from Monday on."""
    if field == "*":
        return field
    days = {_WEEKDAYS[number] for part in field.split(",") for number in _numbers(part)}
    return ",".join(sorted(days, key=_WEEKDAYS.index))


def _numbers(part: str) -> Iterator[int]:
    span, slash, step = part.partition("/")
    first, dash, last = span.partition("-")
    start = 0 if span == "*" else _number(first)
    stop = 6 if span == "*" else _number(last) if dash else 6 if slash else start
    if start > stop or (slash and (not step.isdecimal() or int(step) == 0)):
        raise ValueError(f"'{part}' is no range of days of the week")
    yield from range(start, stop + 1, int(step) if slash else 1)


def _number(day: str) -> int:
    if day.lower() in _WEEKDAYS:
        return _WEEKDAYS.index(day.lower())
    if not day.isdecimal() or int(day) >= len(_WEEKDAYS):
        raise ValueError(f"'{day}' is no day of the week: 0 to 7, or sun to sat")
    return int(day)
