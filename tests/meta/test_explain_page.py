"""docs/explain.md is one session, and its command shows what the page says it does."""

import re
from contextlib import ExitStack

from tests.meta.session import ROOT, Session


def as_shown(text: str) -> list[str]:
    """Return the words of an output: where its lines end does not matter, nor do the ids of requests."""
    return re.sub(r"\(request \w+…?,", "(request …,", text).split()


def test_the_page_is_a_session_that_shows_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as resources:
        session = Session(tmp_path, resources)
        session.follow((ROOT / "docs/explain.md").read_text())
    ((expected, shown),) = session.shown
    assert as_shown(shown) == as_shown(expected)
    assert session.known["found"].values
