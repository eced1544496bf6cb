"""A real server in a process of its own, on a free port of loopback, ended by its pid."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(project: Path, *, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Serve a project folder; yield the server's address."""
    with subprocess.Popen(
        [sys.executable, "-m", "server", "--config", str(project), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | (environment or {}),
        text=True,
    ) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith("serving on http://"), process.stderr.read()
            yield said.split()[-1]
        finally:
            process.terminate()
            try:
                process.communicate(timeout=30)
            finally:
                process.kill()
