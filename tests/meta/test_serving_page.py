"""docs/serving.md is one session: its files are written, its commands and snippets run, in the page's order."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.server.process import ended

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"\bin `(\w+\.\w+)`")
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)", re.MULTILINE)


class Session:
    """What someone does who follows the page."""

    def __init__(self, folder: Path, resources: ExitStack):
        self.folder = folder
        self.resources = resources
        self.known: dict = {}
        self.answers: list = []
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }

    def console(self, text: str) -> None:
        for command in COMMAND.findall(text):
            if command.startswith("featurestore serve"):
                self.serve(command)
            elif not command.startswith("pip"):
                self.run(command)

    def serve(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        )
        self.resources.enter_context(ended(process))
        assert process.stdout.readline().startswith("serving on http://127.0.0.1:")

    def run(self, command: str) -> None:
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

    def python(self, text: str) -> None:
        exec(compile(text, "docs/serving.md", "exec"), self.known)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_page_is_a_session_that_works(tmp_path):
    if subprocess.run(["bash", "-c", "command -v curl"], capture_output=True, check=False).returncode != 0:
        pytest.skip("there is no curl")
    page = (ROOT / "docs/serving.md").read_text().replace("8000", str(free_port()))
    with ExitStack() as resources:
        session = Session(tmp_path, resources)
        for found in BLOCK.finditer(page):
            kind, text = found[1], found[2]
            paragraph = page[: found.start()].rstrip().rpartition("\n\n")[2]
            named = FILE.search(paragraph)
            if named and kind in ("csv", "toml", "python"):
                (tmp_path / named[1]).write_text(text)
            elif kind in ("console", "python"):
                getattr(session, kind)(text)
        session.known["client"].close()
    asked, pushed, feast, feast_pushed, materialized = session.answers
    shown = json.loads(re.search(r'```json\n(\{\n  "service".*?)```', page, re.DOTALL)[1])
    assert list(shown) == list(asked)
    assert shown["columns"] == asked["columns"]
    assert shown["rows"] == asked["rows"]
    assert list(shown["views"]["spend"]) == list(asked["views"]["spend"])
    assert pushed["accepted"] == 1
    assert feast["results"][1]["values"] == [3.5, 1.5]
    assert feast_pushed is materialized is None
