"""Names of requests: a random half that is this process's, and a number. The system is asked for chance once."""

from __future__ import annotations

import os
from itertools import count


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
