"""Running one contestant in a process of its own: how long its job took, and how much memory the process ever had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from typing import Any


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


def run(module: str, *arguments: object, python: str = sys.executable) -> Measured:
    """Run ``python -m module arguments`` and read what it prints as its last line, JSON with ``seconds``.

    Raises:
        RuntimeError: It failed; the message holds what it said.
    """
    command = [python, "-m", module, *map(str, arguments)]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        process = subprocess.Popen(command, stdout=said, stderr=complained)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        complained.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"{module} failed:\n{complained.read().decode()[-2000:]}")
        told = json.loads(said.read().decode().strip().splitlines()[-1])
    return Measured(told.pop("seconds"), usage.ru_maxrss * 1024, told)


def best_of(count: int, module: str, *arguments: object) -> Measured:
    """Run several times and return the quickest, with the largest memory of all."""
    runs = [run(module, *arguments) for _ in range(count)]
    quickest = min(runs, key=lambda found: found.seconds)
    return Measured(quickest.seconds, max(found.peak_bytes for found in runs), quickest.more)
