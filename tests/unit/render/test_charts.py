"""Charts are SVG with a title and numbers in words; every value in them is escaped."""

import xml.etree.ElementTree as ET

import pytest

from featurestore.reports.charts import (
    REST,
    Lane,
    Series,
    bars,
    colors_of,
    line,
    percent,
    ranked,
    short,
    stacked,
    timeline,
)
from featurestore.reports.markup import (
    Markup,
    element,
    escape,
    joined,
)
from featurestore.reports.page import page
from tests.unit.render.pages import HOSTILE, read

LABELS = ["a", HOSTILE, "c"]
SERIES = [Series("one", [1.0, None, 3.0]), Series(HOSTILE, [0.0, 2.0, 1.0], "var(--bad)")]
CHARTS = {
    "line": lambda: line(HOSTILE, LABELS, SERIES, x=HOSTILE, y=HOSTILE),
    "bars": lambda: bars(HOSTILE, LABELS, SERIES, x=HOSTILE, y=HOSTILE, is_share=True),
    "histogram": lambda: bars(HOSTILE, LABELS, SERIES, x="x", y="y"),
    "ranked": lambda: ranked(HOSTILE, LABELS, SERIES, unit=HOSTILE),
    "stacked": lambda: stacked(HOSTILE, [(HOSTILE, 3.0, "var(--bad)"), ("b", 1.0, REST)]),
    "timeline": lambda: timeline(
        HOSTILE, [Lane(HOSTILE, [(1.0, HOSTILE), (3.0, "b")])], labels=(HOSTILE, "z"), band=(0.0, float("inf"), HOSTILE)
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_sound_and_say_what_they_show(name):
    drawn = CHARTS[name]()
    tree = ET.fromstring(drawn)
    if name == "ranked":
        assert tree.find("table/caption").text
        assert [row.find("th").get("scope") for row in tree.iter("tr")] == ["row"] * 3
    else:
        picture = tree.find("svg")
        assert picture.get("role") == "img"
        assert picture.find("title").text == picture.get("aria-label")
    assert "<script" not in drawn
    read(page("t", drawn))


@pytest.mark.parametrize(
    "drawn",
    [
        line("t", [], [], x="x", y="y"),
        timeline("t", [], labels=("", "")),
        timeline("t", [Lane("a", [(1.0, "b")])], labels=("", "")),
        line("t", ["a"], [Series("s", [1.0])], x="x", y="y"),
        bars("t", [], [], x="x", y="y"),
        bars("t", [""], [Series("s", [0])], x="x", y="y"),
        ranked("t", [], []),
        ranked("t", ["a"], [Series("s", [0.0])]),
        stacked("t", []),
        line("t", ["a", "b"], [Series("s", [None, None])], x="x", y="y"),
    ],
)
def test_charts_of_little_are_sound(drawn):
    assert "nan" not in drawn
    ET.fromstring(drawn)


def test_bars_are_as_high_as_their_numbers():
    drawn = ET.fromstring(bars("t", ["a", "b"], [Series("s", [1.0, 2.0])], x="x", y="y"))
    heights = [float(rect.get("height")) for rect in drawn.iter("rect")]
    assert heights[1] == pytest.approx(2 * heights[0])


def test_a_bar_that_is_not_nothing_is_seen():
    drawn = ET.fromstring(bars("t", ["a", "b"], [Series("s", [1.0, 1e6])], x="x", y="y"))
    assert [float(rect.get("height")) >= 1 for rect in drawn.iter("rect")] == [True, True]


@pytest.mark.parametrize("chart", [line, bars])
def test_axes_say_what_they_count(chart):
    drawn = ET.fromstring(chart("t", ["a", "b"], [Series("s", [1.0, 2.0])], x="as of, UTC", y="rows"))
    assert [said.text for said in drawn.iter("p")] == ["↑ rows", "as of, UTC →"]


def test_as_many_labels_are_written_as_have_room_first_and_last_among_them():
    def written(labels):
        drawn = ET.fromstring(bars("t", labels, [Series("s", [1.0] * len(labels))], x="x", y="y"))
        return [text.text for text in drawn.iter("text") if text.get("x") != "-7"]

    assert written([str(number) for number in range(8)]) == [str(number) for number in range(8)]
    instants = [f"2026-01-01 {hour:02d}:00" for hour in range(24)]
    assert written(instants) == [instants[0], instants[-1]]
    sizes = written([f"≤ {number}e-05" for number in range(100, 116)])
    assert (len(sizes), sizes[0], sizes[-1]) == (3, "≤ 100e-05", "≤ 115e-05")
    assert written(["long" * 40, "b"])[0].endswith("…")


def test_a_line_does_not_cross_a_gap():
    drawn = ET.fromstring(line("t", list("abcd"), [Series("s", [1.0, 2.0, None, 1.0], "red")], x="x", y="y"))
    assert len([stroke for stroke in drawn.iter("line") if stroke.get("stroke") == "red"]) == 1
    assert len(list(drawn.iter("circle"))) == 3


def test_bars_with_names_may_share_a_scale():
    def lengths(**given):
        drawn = ET.fromstring(ranked("t", ["a", "b"], [Series("s", [0.1, 0.05])], is_share=True, **given))
        return [bar.get("style").partition("*")[2][:6] for bar in drawn.iter("i")]

    assert lengths() == ["1.0000", "0.5000"]
    assert lengths(most=1.0) == ["0.1000", "0.0500"]


def test_what_remains_is_grey_and_takes_no_colour():
    names = ["a", "rest", *"bcdefgh"]
    colors = colors_of(names, "rest")
    assert [name for name in names if colors[name] == REST] == ["rest", "g", "h"]
    assert len({colors[name] for name in "abcdef"}) == 6


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.0, "0%"),
        (-0.0, "0%"),
        (1.0, "100%"),
        (0.99996, ">99.9%"),
        (0.99949, "99.9%"),
        (0.00001, "<0.01%"),
        (-0.00001, ">-0.01%"),
        (0.1657, "16.6%"),
        (-2.5, "-250%"),
        (123.4, "12,340%"),
    ],
)
def test_shares_are_never_nothing_or_all_if_they_are_not(share, shown):
    assert percent(share) == shown


def test_text_is_escaped_and_markup_is_not():
    assert escape("<&\"'>") == "&lt;&amp;&quot;&#x27;&gt;"
    assert escape("a\u202eb\u2066\x7f\n") == "a\ufffdb\ufffd\ufffd\n"
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
