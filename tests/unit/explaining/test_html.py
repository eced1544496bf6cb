"""The explanation as one file: everything in it, nothing loaded or run, whatever features and values are called."""

from dataclasses import replace

from featurestore.guard.explain.report import (
    Answer,
    Event,
    Explanation,
    LogFacts,
    Operand,
    PathAnswer,
    StateFacts,
    Value,
    ViewFacts,
)
from featurestore.reports.explanation import render_page
from tests.unit.render.pages import HOSTILE, read


def rich(name):
    """Return an explanation in which every part is filled and every free text is ``name``."""
    told = Answer(name, name)
    day = "2026-01-0{}T00:00:00Z".format
    events = (
        Event(1, day(1), day(1), {name: name}, name, "before_window", name),
        Event(2, day(3), day(3), {name: None}, None, "used", is_value=True),
    )
    state = StateFacts(day(4), is_stale=True)
    value = Value(
        name=name,
        dtype=name,
        declared=name,
        offline=told,
        online=PathAnswer(None, said=name),
        served=PathAnswer(told, agrees=False, said=name),
        arithmetic=name,
        is_checked=False,
        view=name,
        window_start=day(2),
        fates={"used": 1, "before_window": 3},
        events=events,
        operands=(Operand(name, name, name), Operand(name, name, None)),
    )
    view = ViewFacts(
        name, name, name, {name: name}, name, name, day(4), day(4), name, 4, 2, 1, online=state, served=state
    )
    return Explanation(
        service=name,
        fingerprint=name,
        keys={name: name},
        requests={name: None},
        as_of=day(5),
        values=(value, replace(value, view="", events=(), served=None)),
        views=(view,),
        served=LogFacts(name, 0, day(5), day(5), name, name),
        notes=(name,),
    )


def test_hostile_names_stay_text():
    """A name changes neither the structure of the page nor what it loads."""
    reader = read(render_page(rich(HOSTILE)))
    assert "".join(reader.text).count("<script>alert(1)</script>") > 15
    assert reader.tags == read(render_page(rich("plain"))).tags


def test_what_each_road_answers_comes_first_and_what_differs_is_marked():
    page = render_page(rich("name"))
    shown = [text for text in read(page).text if text.strip()]
    assert shown.index("Answers of each path") < shown.index("What could be seen")
    table = page[page.index("Answers of each path") : page.index("What could be seen")]
    assert table.count('<tr class="bad">') == 1, "one of the two values was served otherwise"


def test_a_person_finds_everything():
    """Verdict, roads, counts, the check that failed, and a picture of the window."""
    shown = "".join(read(render_page(rich("name"))).text)
    for text in (
        "differ",
        "no answer: name",
        "name (name), DIFFERS: name (request name, row 0 to name)",
        "4 rows: 1 used, 3 before the window; window from 2026-01-02T00:00:00Z; 2 of them not listed",
        "NOT CHECKED",
        "used, and the value",
        "window from 2026-01-02T00:00:00Z to 2026-01-04T00:00:00Z",
        "which is behind its refresh",
    ):
        assert text in shown, text
