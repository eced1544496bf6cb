"""Request ids: a random half for each process, and a counter. Random bytes are read once per process."""

from __future__ import annotations

import os
import re
from itertools import count

_WORD = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class _RequestIds:
    def __init__(self) -> None:
        self._reseed()
        os.register_at_fork(after_in_child=self._reseed)

    def _reseed(self) -> None:
        self._half = os.urandom(8).hex()
        self._numbers = count()

    def next(self) -> str:
        return f"{self._half}{next(self._numbers):016x}"


new_request_id = _RequestIds().next
"""Return a new request id: 32 hexadecimal digits that no other request has."""


def is_request_id(text: str) -> bool:
    """Return whether a text is a valid request id: one plain word that is safe in logs and headers."""
    return _WORD.fullmatch(text) is not None
