"""A real server in a process of its own, on a free port of loopback, ended by its pid."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """End a process in the end: ask it to, and wait."""
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=30)
            finally:
                process.kill()


@contextmanager
def serving(project: Path, *, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Serve a project folder; yield the server's address."""
    command = [sys.executable, "-m", "featurestore.server", "--config", str(project), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | (environment or {}), text=True
    )
    with ended(process):
        said = process.stdout.readline()
        assert said.startswith("serving on http://"), process.stderr.read()
        yield said.split()[-1]
