"""Times a job and tells the seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any


def timed(job: Callable[[], dict[str, Any] | None]) -> None:
    """Run a job and print its seconds and what it returns as one line of JSON."""
    begun = time.perf_counter()
    told = job() or {}
    print(json.dumps({"seconds": time.perf_counter() - begun, **told}))
