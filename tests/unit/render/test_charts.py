"""Charts are SVG with a title and numbers in words; every value in them is escaped."""

import xml.etree.ElementTree as ET

import pytest

from featurestore.render.charts import Lane, Series, bars, line, ranked, short, sparkline, stacked, timeline
from featurestore.render.markup import Markup, element, escape, joined
from featurestore.render.page import page
from tests.unit.render.pages import HOSTILE, read

LABELS = ["a", HOSTILE, "c"]
SERIES = [Series("one", [1.0, None, 3.0]), Series(HOSTILE, [0.0, 2.0, 1.0], "var(--bad)")]
CHARTS = {
    "line": lambda: line(HOSTILE, LABELS, SERIES),
    "bars": lambda: bars(HOSTILE, LABELS, SERIES, percent=True, all_labels=True),
    "histogram": lambda: bars(HOSTILE, LABELS, SERIES),
    "ranked": lambda: ranked(HOSTILE, [(HOSTILE, 3.0), ("b", 0.0)]),
    "stacked": lambda: stacked(HOSTILE, [(HOSTILE, 3.0), ("b", 1.0)]),
    "timeline": lambda: timeline(
        HOSTILE, [Lane(HOSTILE, [(1.0, HOSTILE), (3.0, "b")])], labels=(HOSTILE, "z"), band=(0.0, float("inf"), HOSTILE)
    ),
    "sparkline": lambda: sparkline(HOSTILE, [1.0, 2.0, 0.0]),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_sound_and_say_what_they_show(name):
    drawn = CHARTS[name]()
    tree = ET.fromstring(drawn)
    picture = tree if tree.tag == "svg" else tree.find("svg")
    assert picture.get("role") == "img"
    assert picture.find("title").text == picture.get("aria-label")
    assert "<script" not in drawn
    read(page("t", drawn))


@pytest.mark.parametrize(
    "drawn",
    [
        line("t", [], []),
        timeline("t", [], labels=("", "")),
        timeline("t", [Lane("a", [(1.0, "b")])], labels=("", "")),
        line("t", ["a"], [Series("s", [1.0])]),
        bars("t", [], []),
        bars("t", ["a"], [Series("s", [0])]),
        ranked("t", []),
        stacked("t", []),
        sparkline("t", []),
        line("t", ["a", "b"], [Series("s", [None, None])]),
    ],
)
def test_charts_of_little_are_sound(drawn):
    assert "nan" not in drawn
    ET.fromstring(drawn)


def test_bars_are_as_high_as_their_numbers():
    drawn = ET.fromstring(bars("t", ["a", "b"], [Series("s", [1.0, 2.0])]))
    heights = [float(rect.get("height")) for rect in drawn.iter("rect")]
    assert heights[1] == pytest.approx(2 * heights[0])


def test_text_is_escaped_and_markup_is_not():
    assert escape("<&\"'>") == "&lt;&amp;&quot;&#x27;&gt;"
    assert joined([Markup("<b>"), ["<", None, 1]]) == "<b>&lt;1"
    assert element("td", title='a" onclick="x') == '<td title="a&quot; onclick=&quot;x"></td>'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (1234567.0, "1.23M"),
        (-0.00012345, "-0.000123"),
        (999.4, "999"),
        (5000.0, "5000"),
        (12_345.0, "12.3k"),
        (2.5e9, "2.5G"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_short(value, shown):
    assert short(value) == shown
