"""Statuses: whether a value is present, and why not. The only table of their names and codes.

A status is a name for people and in JSON, and a byte in columns and logs. The module must load quickly: thin clients
need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache


class Status(IntEnum):
    """What kind of answer a value is. Null, unknown and expired never compare equal."""

    PRESENT = 0
    """The feature has a value."""
    NULL = 1
    """The entity is known, the feature has no value."""
    NOT_FOUND = 2
    """No event of this entity is visible, and none ever was."""
    EXPIRED = 3
    """The only value is older than the time to live."""


PRESENT, NULL, NOT_FOUND, EXPIRED = (int(status) for status in Status)
"""The codes as plain integers, for columns and for compiled kernels."""

ERROR = "ERROR"
"""The status of values whose view could not answer: only in partial answers, never in a log."""

ERROR_CODE = len(Status)

NOT_LOGGED = 255
"""Code in a log that was written by another system, where it does not record statuses. It agrees with every status."""

OVERFLOWED = 255
"""Code inside the kernels only: an exact integer sum did not fit its dtype. Callers raise an error for it."""

STATUS_NAMES = tuple(status.name for status in Status)
"""Names of the statuses by code."""

_NAMES = (*STATUS_NAMES, ERROR)
_CODES = {name: code for code, name in enumerate(_NAMES)}


def status_name(code: int) -> str:
    """Return the name of a code in a serving log; a code that has no name is written as a number."""
    if code == NOT_LOGGED:
        return "not logged"
    return _NAMES[code] if code < len(_NAMES) else str(code)


def status_code(name: str) -> int:
    """Return the code of a name."""
    return _CODES[name]


@lru_cache(maxsize=512)
def names_of(codes: bytes) -> tuple[str, ...]:
    """Return the names of codes, one byte each. Rows have few combinations of statuses, so results are cached."""
    return tuple(_NAMES[code] for code in codes)


def codes_of(names: Sequence[str]) -> bytes:
    """Return the codes of names, the inverse of ``names_of``."""
    return bytes([_CODES[name] for name in names])
