"""A mixed load for minutes: lookups, pushes and refreshes at once, then an audit of everything that was served.

Usage: python -m benchmarks.soak [SECONDS]   (600 if nothing is said)

It fails if a request fails, if the server's memory does not come to rest, or if the audit finds a value that differs.
Memory is at rest if the median of the last quarter of the time lies at most 10 % and 16 MB above that of the second
quarter.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path

from benchmarks.contestants.pushes import AT_ONCE, SOURCE, USERS, build
from benchmarks.serving import server_process
from featurestore import FeatureStore

LOOKERS = 4
STRETCHES = 10
GROWTH, ALLOWANCE_MB = 1.10, 16.0
SERVICE = "spending_model"


@dataclass
class Watched:
    """What was seen: one list per thread, so that none waits for another."""

    lookups: list[tuple[float, float]] = field(default_factory=list)
    pushed: int = 0
    refreshes: int = 0
    memory_mb: list[tuple[float, float]] = field(default_factory=list)


def main(seconds: float) -> int:
    """Soak, print what was seen, and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="featurestore-soak-") as folder:
        store = Path(folder) / "store"
        build(Path(folder)).close()
        watched = Watched()
        since = datetime.now(UTC)
        with server_process(store) as (pid, host, port):
            soak(seconds, Path(folder), pid, host, port, watched)
        with FeatureStore.local(store) as opened:
            report = opened.audit(SERVICE, since=since, until=datetime.now(UTC) + timedelta(seconds=1))
    grown = memory_growth(watched.memory_mb)
    print_seen(watched, seconds)
    print(f"audit: {report.verdict}, {report.sums}")
    for finding in report.findings:
        print(f"  {finding.cause}: {finding.values:,} values ({finding.share:.1%}); {finding.said}")
    print(f"memory at rest: {grown[0]:.0f} MB in the second quarter, {grown[1]:.0f} MB in the last")
    is_at_rest = grown[1] <= grown[0] * GROWTH + ALLOWANCE_MB
    return 0 if report.verdict == "pass" and is_at_rest else 1


def soak(seconds: float, folder: Path, pid: int, host: str, port: int, watched: Watched) -> None:
    """Do everything at once until the time is up.

    Raises:
        RuntimeError: A request was not answered as it should be.
    """
    begun = time.perf_counter()
    over = threading.Event()

    def until_over(work: Callable[[HTTPConnection, int], None], pause: float) -> None:
        connection = HTTPConnection(host, port, timeout=60)
        number = 0
        try:
            while not over.is_set():
                work(connection, number)
                number += 1
                over.wait(pause)
        except BaseException:
            over.set()
            raise

    def look(connection: HTTPConnection, number: int) -> None:
        asked = time.perf_counter()
        entities = [{"user": (number * 37 + i) % USERS} for i in range(1 + number % 10)]
        ask(connection, "/v1/features", {"service": SERVICE, "entities": entities})
        watched.lookups.append((asked - begun, time.perf_counter() - asked))

    def push(connection: HTTPConnection, number: int) -> None:
        now = datetime.now(UTC)
        events = [
            {
                "user": (number * 91 + i) % USERS,
                "at": (now - timedelta(seconds=i)).isoformat(),
                "id": number * AT_ONCE + i,
                "amount": i / 7,
            }
            for i in range(AT_ONCE)
        ]
        watched.pushed += ask(connection, f"/v1/sources/{SOURCE}/events", {"events": events})["accepted"]

    def refresh(_: HTTPConnection, __: int) -> None:
        with FeatureStore.local(folder / "store") as store:
            store.materialize(wait_seconds=30)
        watched.refreshes += 1

    def measure(_: HTTPConnection, __: int) -> None:
        watched.memory_mb.append((time.perf_counter() - begun, resident_mb(pid)))

    with ThreadPoolExecutor(LOOKERS + 3) as pool:
        tasks = [pool.submit(until_over, look, 0.0) for _ in range(LOOKERS)]
        tasks += [pool.submit(until_over, *job) for job in ((push, 0.05), (refresh, 5.0), (measure, 0.5))]
        over.wait(seconds)
        over.set()
        for task in tasks:
            task.result()


def ask(connection: HTTPConnection, path: str, question: object) -> dict[str, int]:
    """Post a question and return the answer.

    Raises:
        RuntimeError: It was not answered with 200.
    """
    connection.request("POST", path, json.dumps(question), {"Content-Type": "application/json"})
    response = connection.getresponse()
    said = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {said.decode()}")
    answer: dict[str, int] = json.loads(said)
    return answer


def resident_mb(pid: int) -> float:
    """Return the memory that a process holds now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def memory_growth(samples: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the median memory of the second quarter of the time, and of the last."""
    values = [value for _, value in samples]
    quarter = max(1, len(values) // 4)
    return statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])


def print_seen(watched: Watched, seconds: float) -> None:
    """Print lookups and memory by stretches of the time."""
    print(
        f"{len(watched.lookups):,} lookups, {watched.pushed:,} events pushed, {watched.refreshes} refreshes, no error"
    )
    print("from s   lookups/s   median ms   p99 ms   memory MB")
    length = seconds / STRETCHES
    for number in range(STRETCHES):
        begin, end = number * length, (number + 1) * length
        took = [1e3 * each for at, each in watched.lookups if begin <= at < end]
        memory = [value for at, value in watched.memory_mb if begin <= at < end]
        if len(took) > 1 and memory:
            percentiles = statistics.quantiles(took, n=100)
            print(
                f"{begin:6.0f} {len(took) / length:11.0f} {percentiles[49]:11.2f} {percentiles[98]:8.2f} "
                f"{statistics.median(memory):11.0f}"
            )


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 600.0))
