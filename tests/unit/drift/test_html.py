"""Drift as one file: everything in it, nothing loaded, nothing run, whatever features and categories are called."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from featurestore.reports.drift import render_page
from tests.unit.drift.test_collect import drift, table
from tests.unit.render.pages import HOSTILE, read


def given(word):
    random = np.random.default_rng(2)
    words = [pa.array(random.choice(["a", "b", mark + word], size=2000)) for mark in ("new", "old")]
    sides = [
        table(random, 2000, shift=shift).set_column(2, "word", column)
        for shift, column in zip((0.0, 0.5), words, strict=True)
    ]
    return drift(*sides, recomputed=sides[1])


def test_hostile_names_stay_text():
    text = HOSTILE.replace("\ud800", "")
    pages = []
    for word in (text, "plain"):
        report = given(word)
        named = [replace(one, name=one.name + word, dtype=word) for one in report.features]
        report = replace(report, features=tuple(named), service=word, reference=word, not_compared={word: word})
        pages.append(read(render_page(report)))
    assert pages[0].tags == pages[1].tags
    assert "<script>alert(1)</script>" in "".join(pages[0].text)


def test_a_person_finds_everything():
    shown = "".join(read(render_page(given("x"))).text)
    for text in ("fail", "Kolmogorov-Smirnov", "PSI", "Skew or population", "newx", "Distributions", "corrected"):
        assert text in shown, text


def test_steps_of_features_that_moved_less_are_folded_away():
    report = given("x")
    several = [replace(feature, name=f"{feature.name}{turn}") for turn in range(3) for feature in report.features]
    few, many = (read(render_page(replace(report, features=some))) for some in (report.features, tuple(several)))
    assert "7 more features" in many.text
    assert "7 more features" not in few.text
    assert all(many.text.count(feature.name) >= 2 for feature in several), "folded away, not left out"


@pytest.mark.parametrize("rows", [0, 1])
def test_reports_of_little_are_pages(rows):
    side = pa.table({"number": pa.array([1.0] * rows, pa.float64())})
    assert "cannot tell" in "".join(read(render_page(drift(side, side))).text)
