"""Running one contestant in a process of its own: how long its job took, and how much memory the process ever had."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Measured:
    """One run.

    Attributes:
        seconds: Wall time of the job, without starting the process and importing.
        peak_bytes: Largest resident memory of the process.
        more: What else the contestant told.
    """

    seconds: float
    peak_bytes: int
    more: dict[str, Any] = field(default_factory=dict)


_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Starts a contestant from a small process: what a process counts as its peak includes that of the one it came from."""


def run(module: str, *arguments: object, python: str = sys.executable) -> Measured:
    """Run ``python -m module arguments`` and read what it prints as its last line, JSON with ``seconds``.

    Raises:
        RuntimeError: It failed; the message holds what it said.
    """
    command = [sys.executable, "-c", _LAUNCHER, python, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-2000:]}")
    *_, said, peak = done.stdout.strip().splitlines()
    told = json.loads(said)
    return Measured(told.pop("seconds"), int(peak), told)


def best_of(count: int, module: str, *arguments: object) -> Measured:
    """Run several times and return the quickest, with the largest memory of all."""
    runs = [run(module, *arguments) for _ in range(count)]
    quickest = min(runs, key=lambda found: found.seconds)
    return Measured(quickest.seconds, max(found.peak_bytes for found in runs), quickest.more)


def yardstick() -> tuple[float, float]:
    """Return how long this machine takes to add up ten million integers in Python, and to sort ten million floats.

    What differs between two records beyond these is not the machine's doing.
    """
    begun = time.perf_counter()
    total = 0
    for number in range(10_000_000):
        total += number
    added = time.perf_counter()
    np.sort(np.random.default_rng(1).random(10_000_000))
    return added - begun, time.perf_counter() - added
