"""Asking a server for features as fast as it answers: with wrk where it is installed, else in Python."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants.http import body_of
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
        median_ms: Median time of an answer.
        p99_ms: 99th percentile of it.
        errors: Answers other than 200, and connections that failed.
    """

    requests_per_second: float
    median_ms: float
    p99_ms: float
    errors: int


def generator() -> str:
    """Return what asks."""
    return "wrk" if shutil.which("wrk") else "a generator in Python"


def load(address: tuple[str, int], *, connections: int, seconds: float, entities: int, folder: Path) -> Load:
    """Ask about other entities each time, over so many connections, each again as soon as it is answered."""
    host, port = address
    if shutil.which("wrk") is None:
        found = run("benchmarks.contestants.http", host, port, connections, seconds, entities).more
        return Load(**found, errors=0)
    script, bodies = folder / "ask.lua", folder / f"bodies_{entities}.jsonl"
    script.write_text(_SCRIPT)
    bodies.write_text("".join(body_of(37 * number, entities) + "\n" for number in range(_BODIES)))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script)]
    command += [f"http://{host}:{port}/v1/features", "--", str(bodies)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Load(**json.loads(said.strip().splitlines()[-1]))
