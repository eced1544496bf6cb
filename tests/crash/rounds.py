"""Processes that are killed while they work."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_and_kill(module, arguments, delay):
    """Run a module that prints ``go`` when its work begins; kill it after a while, and return what it printed."""
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "go\n"
        time.sleep(delay)
        process.kill()
        return process.stdout.read().split()
