"""Asks over HTTP with libcurl: so many connections, each asking again as soon as it is answered.

Usage: python -m benchmarks.contestants.http URL CONNECTIONS SECONDS BODIES, the last a file with a body in each line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import numpy as np
import pycurl

from benchmarks.contestants.clock import timed

_TIMEOUT_MS = 2_000
"""Longer than this no answer may take; wrk says the same."""


class Connection:
    """One connection, asked over in a thread of its own; until an answer is whole, libcurl waits without Python's lock.

    Attributes:
        took: Seconds of each answer, whatever its status, by libcurl's clock: from asking to its last byte.
        errors: Answers other than 200, and how often the connection was lost or could not be opened.
    """

    def __init__(self, url: str) -> None:
        self.took: list[float] = []
        self.errors = 0
        self._is_open = False
        self._curl = pycurl.Curl()
        self._curl.setopt(pycurl.URL, url)
        self._curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"])
        self._curl.setopt(pycurl.WRITEFUNCTION, len)
        self._curl.setopt(pycurl.TIMEOUT_MS, _TIMEOUT_MS)
        self._curl.setopt(pycurl.NOSIGNAL, 1)

    def ask(self, bodies: Iterator[bytes], until: float) -> None:
        """Ask until it is so late, and wait for the last answer."""
        while time.perf_counter() < until:
            self._curl.setopt(pycurl.POSTFIELDS, next(bodies))
            was_open = self._is_open
            try:
                self._curl.perform()
            except pycurl.error:
                self._is_open = False
                self.errors += 1
            else:
                self._is_open = True
                self.took.append(self._curl.getinfo(pycurl.TOTAL_TIME))
                self.errors += self._curl.getinfo(pycurl.RESPONSE_CODE) != 200
            if was_open:  # and ended instead of answering: libcurl opens another and asks again by itself
                self.errors += self._curl.getinfo(pycurl.NUM_CONNECTS)


def load(url: str, connections: int, seconds: float, bodies: list[bytes]) -> dict[str, float]:
    """Return answers per second, the median and 99th percentile of their times (0 without answers), and errors."""
    turns, all_connections = cycle(bodies), [Connection(url) for _ in range(connections)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(connections) as threads:
        for done in [threads.submit(one.ask, turns, begun + seconds) for one in all_connections]:
            done.result()
    passed = time.perf_counter() - begun
    took = [seconds for one in all_connections for seconds in one.took]
    median, p99 = np.percentile(took or [0.0], [50, 99]) * 1e3
    errors = sum(one.errors for one in all_connections)
    return {"requests_per_second": len(took) / passed, "median_ms": median, "p99_ms": p99, "errors": errors}


def main(url: str, connections: str, seconds: str, bodies: str) -> None:
    lines = Path(bodies).read_bytes().splitlines()
    timed(lambda: load(url, int(connections), float(seconds), lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
