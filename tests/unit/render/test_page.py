"""Pages are readable: colours stand out in light and dark, tables have headings and room, long lists are folded."""

import re
import xml.etree.ElementTree as ET
from itertools import chain, product

import pytest

from featurestore.reports.page import (
    _DARK,
    _LIGHT,
    collapsed,
    facts,
    heading,
    page,
    panel,
    section,
    table,
)
from tests.unit.render.pages import HOSTILE, read

TEXTS = ("text", "muted", "link", "good", "bad", "doubt")
GROUNDS = ("page", "panel")
FILLED = ("good", "bad", "doubt", "muted", *(f"series-{number}" for number in range(1, 7)))
DRAWN = ("reference", "current", *FILLED)


def luminance(color):
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [_LIGHT, _DARK], ids=["light", "dark"])
def test_colours_stand_out_as_far_as_wcag_aa_asks(palette):
    colors = dict(re.findall(r"--([\w-]+):(#\w{6})", palette))
    pairs = chain(product(TEXTS, GROUNDS, [4.5]), product(["on-color"], FILLED, [4.5]), product(DRAWN, GROUNDS, [3.0]))
    found = {(one, other): contrast(colors[one], colors[other]) / least for one, other, least in pairs}
    assert {pair: ratio for pair, ratio in found.items() if ratio < 1} == {}


def test_both_palettes_have_the_same_colours():
    names = [re.findall(r"--([\w-]+):", palette) for palette in (_LIGHT, _DARK)]
    assert names[0] == names[1]


def test_tables_say_what_their_columns_and_rows_are():
    drawn = ET.fromstring(table(["name", "n"], [["a", "1"], ["b", "2"]], numbers=[1], bad=[0], doubtful=[0, 1]))
    assert [title.get("scope") for title in drawn.findall(".//thead/tr/th")] == ["col", "col"]
    assert [(name.text, name.get("scope")) for name in drawn.findall(".//tbody/tr/th")] == [("a", "row"), ("b", "row")]
    assert [row.get("class") for row in drawn.findall(".//tbody/tr")] == ["bad", "doubt"]


def test_columns_without_anything_are_left_out_and_the_others_keep_their_kind():
    drawn = ET.fromstring(table(["a", "b", "c"], [["x", "", "1"], ["y", None, "2"]], numbers=[2]))
    assert [title.text for title in drawn.findall(".//thead/tr/th")] == ["a", "c"]
    assert [cell.get("class") for cell in drawn.findall(".//tbody/tr/td")] == ["number", "number"]


def test_a_table_without_rows_keeps_its_titles():
    assert [title.text for title in ET.fromstring(table(["a", "b"], [])).findall(".//thead/tr/th")] == ["a", "b"]


def test_columns_have_room_for_their_text_up_to_a_bound():
    """The letters of the longest line count, not those of the markup around it."""
    drawn = ET.fromstring(table(["a", "b", "c"], [["<&>", facts([("four", "longer")]), "x" * 500]]))
    widths = [float(re.search(r"calc\(([\d.]+)ch", title.get("style"))[1]) for title in drawn.findall(".//thead/tr/th")]
    assert widths == pytest.approx([3 * 1.1, 6 * 1.1, 20 * 1.1])


def test_columns_that_do_not_wrap_are_as_wide_as_they_are():
    drawn = ET.fromstring(table(["a", "b"], [["1", "2026"]], numbers=[0], shorts=[1]))
    assert [title.get("style") for title in drawn.findall(".//thead/tr/th")] == [None, None]


def test_long_lists_are_folded_and_short_ones_are_not():
    assert collapsed([], "reasons") is None
    assert "details" not in collapsed(["a", "b", "c", "d"], "reasons"), "one line takes no more room than its summary"
    assert "2 more reasons" in collapsed(["a", "b", "c", "d", "e"], "reasons")
    long = collapsed([str(number) for number in range(1004)], "reasons")
    assert "1,001 more reasons" in long
    assert long.count("<li>") == 1004


@pytest.mark.parametrize(("verdict", "kind"), [("pass", "good"), ("fail", "bad"), ("warn", "doubt"), ("", "doubt")])
def test_the_verdict_stands_beside_the_title(verdict, kind):
    drawn = ET.fromstring(heading("Audit", verdict, "said", None))
    assert [part.text for part in drawn.findall("h1/span")] == ["Audit", verdict or "not judged"]
    assert drawn.findall("h1/span")[1].get("class") == f"verdict {kind}"
    assert [said.text for said in drawn.findall("p")] == ["said"]


def test_pages_say_their_language_and_headings_are_in_order():
    reader = read(page(HOSTILE, heading("a", "pass"), section("b", panel("c", "d", color="var(--bad)"))))
    assert ("lang", "en") in reader.attributes
    assert [tag for tag in reader.tags if re.fullmatch(r"h\d", tag)] == ["h1", "h2", "h3"]
