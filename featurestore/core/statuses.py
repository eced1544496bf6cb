"""What kind of answer a value is, as a name for people and as a byte for columns and logs.

The module must load quickly: thin clients need it.
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
    """No visible event of this entity, ever."""
    EXPIRED = 3
    """There is only a value older than the time to live."""


ERROR = "ERROR"
"""The status of values whose view could not answer; only where partial answers were asked for, and in no log."""

ERROR_CODE = len(Status)

_NAMES = (*(status.name for status in Status), ERROR)
_CODES = {name: code for code, name in enumerate(_NAMES)}


@lru_cache(maxsize=512)
def names_of(codes: bytes) -> tuple[str, ...]:
    """Return the names of some codes, one byte each. Rows have few combinations of statuses, and are kept."""
    return tuple(_NAMES[code] for code in codes)


def codes_of(names: Sequence[str]) -> bytes:
    """Return the codes of some names, the inverse of ``names_of``."""
    return bytes([_CODES[name] for name in names])
