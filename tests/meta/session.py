"""A page that is one session: its files are written, its commands and snippets run, in the page's order."""

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.server.process import ended

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"\bin `(\w+\.\w+)`")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)(?:\n((?:(?!\$ ).*\n)*))?", re.MULTILINE)


class Session:
    """What someone does who follows the page.

    Attributes:
        folder: Where they do it.
        resources: Closes what they leave open.
        known: What their snippets defined.
        answers: What ``curl`` was answered.
        shown: Pairs of what the page says a command shows, and what it did, for commands that the page shows more of.
    """

    def __init__(self, folder: Path, resources: ExitStack):
        self.folder = folder
        self.resources = resources
        self.known: dict = {}
        self.answers: list = []
        self.shown: list[tuple[str, str]] = []
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    def follow(self, page: str) -> None:
        """Do what a page says."""
        for found in BLOCK.finditer(page):
            kind, text = found[1], found[2]
            paragraph = page[: found.start()].rstrip().rpartition("\n\n")[2]
            named = FILE.search(paragraph)
            if named and kind in ("csv", "toml", "python"):
                (self.folder / named[1]).write_text(text)
            elif kind in ("console", "python"):
                getattr(self, kind)(text)

    def console(self, text: str) -> None:
        for command, expected in COMMAND.findall(text):
            if command.startswith("featurestore serve"):
                self.serve(command)
            elif not command.startswith("pip"):
                self.run(command, expected)

    def serve(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        self.resources.enter_context(ended(process))
        assert process.stdout.readline().startswith("serving on http://127.0.0.1:")

    def run(self, command: str, expected: str) -> None:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, (command, done.stderr)
        if command.startswith("curl"):
            self.answers.append(json.loads(done.stdout))
        elif expected:
            self.shown.append((expected, done.stdout))

    def python(self, text: str) -> None:
        exec(compile(text, "page", "exec"), self.known)
