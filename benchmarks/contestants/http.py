"""A small load generator: so many connections, each asking again as soon as it is answered.

Usage: python -m benchmarks.contestants.http HOST PORT CONNECTIONS SECONDS ENTITIES
"""

import asyncio
import json
import statistics
import sys
import time

import uvloop

from benchmarks.contestants.clock import timed
from benchmarks.contestants.online_store import NOW, SERVICE, USERS


class Asker(asyncio.Protocol):
    """One connection: writes a request, reads the whole answer, takes the time, and begins again."""

    def __init__(self, requests: list[bytes], until: float, done: asyncio.Future[None], took: list[float]) -> None:
        self.requests, self.until, self.done, self.took = requests, until, done, took
        self.number, self.waiting, self.received = 0, 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.begun = time.perf_counter()
        self.transport.write(self.requests[self.number % len(self.requests)])
        self.number += 1

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.waiting == 0:
            head, found, _ = self.received.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 200"), self.received
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.waiting = len(head) + 4 + int(length.partition(b":")[2])
        if len(self.received) < self.waiting:
            return
        self.took.append(time.perf_counter() - self.begun)
        self.waiting, self.received = 0, b""
        if self.begun < self.until:
            self.ask()
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def body_of(first: int, entities: int) -> str:
    """Return one question."""
    asked = [{"user_id": (first + i) % USERS} for i in range(entities)]
    return json.dumps({"service": SERVICE, "entities": asked, "as_of": NOW.isoformat()})


def request(first: int, entities: int) -> bytes:
    """Return the bytes of one question."""
    body = body_of(first, entities).encode()
    head = f"POST /v1/features HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def load(host: str, port: int, connections: int, seconds: float, entities: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    requests = [request(number * 37, entities) for number in range(200)]
    took: list[float] = []
    waiting = []
    begun = time.perf_counter()
    for _ in range(connections):
        done = loop.create_future()
        await loop.create_connection(lambda done=done: Asker(requests, begun + seconds, done, took), host, port)
        waiting.append(done)
    await asyncio.gather(*waiting)
    passed = time.perf_counter() - begun
    percentiles = statistics.quantiles(took, n=100)
    return {
        "requests_per_second": len(took) / passed,
        "median_ms": percentiles[49] * 1e3,
        "p99_ms": percentiles[98] * 1e3,
    }


def main(host: str, port: str, connections: str, seconds: str, entities: str) -> None:
    job = (host, int(port), int(connections), float(seconds), int(entities))
    timed(lambda: uvloop.run(load(*job)))


if __name__ == "__main__":
    main(*sys.argv[1:])
