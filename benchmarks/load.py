"""Asking a server for features as fast as it answers: with wrk where it is installed, else with libcurl.

What asks takes CPU, too. Of a server that answers at once, over 1 to 32 connections on two cores that others used as
well, wrk got up to 64,000 answers a second for about 10 µs of CPU each; libcurl, through pycurl, 12,000 to 26,000 for
25 to 80 µs; k6, which runs a script for each, 7,000 to 8,000 for 100. Where an answer takes the server half a
millisecond or more, whoever asks is woken for each: that costs wrk 25 to 50 µs, libcurl 55 to 110.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants.online_store import NOW, SERVICE, USERS
from benchmarks.measure import run

_BODIES = 200
_SCRIPT = """
local ready = {}
function init(args)
  for line in io.lines(args[1]) do
    ready[#ready + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
  end
end
local number = 0
function request()
  number = number % #ready + 1
  return ready[number]
end
function done(summary, latency, requests)
  local failed = summary.errors
  io.write(string.format(
    '{"requests_per_second": %f, "median_ms": %f, "p99_ms": %f, "errors": %d}\\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
"""


@dataclass(frozen=True)
class Load:
    """What a server bore.

    Attributes:
        requests_per_second: Answers per second, all connections together.
        median_ms: Median time of an answer; 0 without answers.
        p99_ms: 99th percentile of it.
        errors: Answers other than 200, and connections that failed.
    """

    requests_per_second: float
    median_ms: float
    p99_ms: float
    errors: int


def generator() -> str:
    """Return what asks."""
    return "wrk" if shutil.which("wrk") else "libcurl"


def load(address: tuple[str, int], *, connections: int, seconds: float, entities: int, folder: Path) -> Load:
    """Ask about other entities each time, over so many connections, each again as soon as it is answered."""
    host, port = address
    bodies = folder / f"bodies_{entities}.jsonl"
    bodies.write_text("".join(_body(37 * number, entities) + "\n" for number in range(_BODIES)))
    ask = {"wrk": _with_wrk, "libcurl": _with_libcurl}[generator()]
    return Load(**ask(f"http://{host}:{port}/v1/features", connections, seconds, bodies))


def _body(first: int, entities: int) -> str:
    asked = [{"user_id": (first + i) % USERS} for i in range(entities)]
    return json.dumps({"service": SERVICE, "entities": asked, "as_of": NOW.isoformat()})


def _with_wrk(url: str, connections: int, seconds: float, bodies: Path) -> dict[str, Any]:
    script = bodies.with_name("ask.lua")
    script.write_text(_SCRIPT)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), url, "--", str(bodies)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
    return told


def _with_libcurl(url: str, connections: int, seconds: float, bodies: Path) -> dict[str, Any]:
    return run("benchmarks.contestants.http", url, connections, seconds, bodies).more
