"""Names of requests: a random half that is this process's, and a number. The system is asked for chance once."""

from __future__ import annotations

import os
import re
from itertools import count

_WORD = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class _RequestIds:
    def __init__(self) -> None:
        self._renew()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._half = os.urandom(8).hex()
        self._numbers = count()

    def next(self) -> str:
        return f"{self._half}{next(self._numbers):016x}"


new_request_id = _RequestIds().next
"""Make up the name of a request: 32 hexadecimal digits that no other request has."""


def is_request_id(text: str) -> bool:
    """Tell whether callers may name a request so: by a plain word, that logs and headers bear."""
    return _WORD.fullmatch(text) is not None
