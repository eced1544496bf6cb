"""docs/serving.md is one session: its files are written, its commands and snippets run, in the page's order."""

import json
import re
import socket
import subprocess
from contextlib import ExitStack

import pytest

from tests.meta.session import ROOT, Session


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
        session.follow(page)
        session.known["client"].close()
    asked, pushed, named, feast, feast_pushed, materialized = session.answers
    shown = json.loads(re.search(r'```json\n(\{\n  "service".*?)```', page, re.DOTALL)[1])
    assert list(shown) == list(asked)
    assert shown["columns"] == asked["columns"]
    assert shown["rows"] == asked["rows"]
    assert list(shown["views"]["spend"]) == list(asked["views"]["spend"])
    assert pushed["accepted"] == named["accepted"] == 1
    assert feast["results"][1]["values"] == [3.5, 4.0]
    assert feast_pushed is materialized is None
