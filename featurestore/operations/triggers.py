"""When jobs are due: on a grid, at the times of a crontab line, or a fixed delay after either.

All instants are UTC, in microseconds since the Unix epoch.
"""

from __future__ import annotations

import re
from typing import Protocol

from featurestore.core.errors import ConfigError
from featurestore.core.temporal import format_duration, instant_us, next_refresh, to_datetime

_ABBREVIATIONS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}

_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
"""The fields of a crontab line, as messages of cronsim name them."""

_EXPECTED = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31; there is no such day in the months of this line",
    "month": "1 to 12, or jan to dec",
    "day-of-week": "0 to 7, of which 0 and 7 are Sunday, or sun to sat",
}
_LARGEST_STEP = {"minute": 59, "hour": 23, "day-of-month": 30, "month": 11, "day-of-week": 7}


class Trigger(Protocol):
    """The times at which a job is due."""

    def next_us(self, not_before_us: int) -> int | None:
        """Return the first due time that is not before an instant; ``None`` if there is none."""
        ...


class GridTrigger:
    """Due ``lag`` after every multiple of ``period`` since the Unix epoch, as refreshes are declared."""

    def __init__(self, period_us: int, lag_us: int = 0) -> None:
        self.period_us = period_us
        self.lag_us = lag_us

    def next_us(self, not_before_us: int) -> int:
        """Return the first due time that is not before an instant."""
        return next_refresh(not_before_us - 1, self.period_us, self.lag_us)

    def __str__(self) -> str:
        lag = f" lag {format_duration(self.lag_us)}" if self.lag_us else ""
        return f"every {format_duration(self.period_us)}{lag}"


class CronTrigger:
    """Due at the times of a crontab line, in UTC. If days of month and of week are both restricted, either counts.

    A field that begins with ``*`` is not a restriction in this sense.

    Source:
        crontab(5).
    """

    def __init__(self, text: str) -> None:
        """Read a crontab line.

        Args:
            text: Five fields, or an abbreviation such as ``@daily``.

        Raises:
            ValueError: The text is not a crontab line, or its day never comes.
            ConfigError: ``featurestore[schedule]`` is not installed.
        """
        # The package of an extra is imported when it is needed.
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError:  # pragma: no cover - the tests' environment has it
            raise ConfigError(
                "cronsim is not installed, which reads cron expressions",
                where="schedule",
                hint="pip install 'featurestore[schedule]'",
                code="missing-extra",
            ) from None
        fields = _ABBREVIATIONS.get(text.strip().lower(), text).split()
        if len(fields) != len(_FIELDS):
            raise ValueError(f"{len(fields)} fields, expected five: minute hour day month weekday")
        for name, field in zip(_FIELDS, fields, strict=True):
            if any(int(step) > _LARGEST_STEP[name] for step in re.findall(r"/(\d+)", field)):
                raise ValueError(f"the step of '{field}' is larger than the range of the {name}: {_EXPECTED[name]}")
        self._line = " ".join(fields)
        self._times = CronSim
        try:
            CronSim(self._line, to_datetime(0))
        except CronSimError as error:
            name = str(error).removeprefix("Bad ")
            field = dict(zip(_FIELDS, fields, strict=True))[name]
            raise ValueError(f"'{field}' is not a valid {name}, expected {_EXPECTED[name]}") from None
        if self.next_us(0) is None:
            raise ValueError("there is no such day")

    def next_us(self, not_before_us: int) -> int | None:
        """Return the first due time that is not before an instant; ``None`` if there is none within 50 years."""
        # cronsim counts in whole seconds and begins with the second after the given one.
        due = next(self._times(self._line, to_datetime(not_before_us - 1)), None)
        return None if due is None else instant_us(due)


class LaterTrigger:
    """Due a fixed delay after every due time of another trigger."""

    def __init__(self, trigger: Trigger, delay_us: int) -> None:
        self.trigger = trigger
        self.delay_us = delay_us

    def next_us(self, not_before_us: int) -> int | None:
        """Return the first due time that is not before an instant; ``None`` if there is none."""
        due = self.trigger.next_us(not_before_us - self.delay_us)
        return None if due is None else due + self.delay_us
