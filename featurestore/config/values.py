"""Types of configuration values that pydantic does not know: amounts of memory, durations, local paths, URLs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from featurestore.core.errors import InstantError
from featurestore.core.temporal import duration_us, moment_us
from featurestore.storage.files import local_path

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

NEVER = "never"
"""Turns off work that is repeated."""


def read_bytes(value: Any) -> Any:
    """Read an amount of memory: ``"1GB"`` (10^9), ``"512MiB"`` (2^20), or whole bytes.

    Raises:
        ValueError: The text is not an amount.

    Example:
        >>> read_bytes("1.5GB")
        1500000000
    """
    if not isinstance(value, str):
        return value
    number = value.strip().rstrip("BbKkMmGgTtIi ")
    unit = value.strip()[len(number) :].strip().upper()
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"'{value}' is not an amount of memory; write for instance '1GB' or '512MiB'") from None


def _checked(text: str, read: Callable[[str], object]) -> str:
    """Return a text that can be read; pydantic accepts only a ``ValueError`` for a wrong value."""
    try:
        read(text)
    except InstantError as error:
        raise ValueError(f"{error.problem}. {error.hint}".rstrip(". ")) from None
    return text


def _duration(text: str) -> str:
    return _checked(text, duration_us)


def _positive(text: str) -> str:
    if duration_us(_duration(text)) == 0:
        raise ValueError("it is a length of zero; write for instance '1h'")
    return text


def _moment(text: str) -> str:
    return _checked(text, lambda written: moment_us(written, now_us=0))


def _or_never(read: Callable[[str], str]) -> Callable[[str], str]:
    def checked(text: str) -> str:
        try:
            return text if text == NEVER else read(text)
        except ValueError as error:
            raise ValueError(f"{error}, or '{NEVER}'") from None

    return checked


def _local(path: Path) -> Path:
    local_path(path)
    return path


def _local_if_sqlite(url: str) -> str:
    """Refuse the URL of a SQLite database whose file is not on this machine."""
    scheme, mark, path = url.partition(":///")
    if mark and scheme.partition("+")[0] == "sqlite" and not path.startswith("file:"):
        local_path(path)
    return url


Bytes = Annotated[int, BeforeValidator(read_bytes)]
"""An amount of memory."""

Duration = Annotated[str, AfterValidator(_duration)]
"""A duration, ``"90m"`` or ``"1h30m"``; zero is allowed."""

Length = Annotated[str, AfterValidator(_positive)]
"""A duration longer than zero."""

Schedule = Annotated[str, AfterValidator(_or_never(_positive))]
"""The interval of repeated work, or ``"never"``."""

Reminder = Annotated[str, AfterValidator(_or_never(_duration))]
"""The interval of reminders, or ``"never"``, which zero means too."""

Moment = Annotated[str, AfterValidator(_moment)]
"""A duration back from now, or an instant."""

LocalPath = Annotated[Path, AfterValidator(_local)]
"""A path on this machine; addresses of object stores are refused."""

DatabaseUrl = Annotated[str, AfterValidator(_local_if_sqlite)]
"""The URL of a database or of an online store."""

Threads = Annotated[int, AfterValidator(lambda count: count or os.cpu_count() or 1)]
"""A number of threads; 0 stands for the number of cores."""
