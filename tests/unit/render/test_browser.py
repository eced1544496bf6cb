"""Pages in a real browser: without network, light and dark, on a wide and on a narrow screen.

Needs Chromium and Playwright, which are not among the extras; without them these tests are skipped.
"""

import shutil
from dataclasses import replace

import pytest

from featurestore.guard.audit.policy import Policy
from featurestore.guard.comparing.compare import FeatureCounts
from featurestore.guard.release.delays import SourceDelay
from featurestore.guard.release.leakage import (
    HINDSIGHT,
    SHIFTS,
    FeaturePower,
    LeakageReport,
)
from featurestore.guard.release.simulate import PolicyOutcome, Simulation
from featurestore.reports.audit import render_page
from featurestore.reports.drift import render_page as render_drift
from featurestore.reports.explanation import render_page as render_explanation
from featurestore.reports.leakage import render_page as render_leakage
from featurestore.reports.simulation import render_page as render_simulation
from tests.unit.drift.test_html import given
from tests.unit.explaining.test_html import rich as rich_explanation
from tests.unit.render.pages import HOSTILE
from tests.unit.skew.test_html import rich

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    "--disable-gpu",
    "--disable-dev-shm-usage",
]


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


LEAK = FeaturePower(
    *("a_feature_with_a_rather_long_name_over_1d", 0.9, 0.01),
    dict.fromkeys((*SHIFTS, HINDSIGHT), 0.05),
    ("it loses 95% of its association",),
)
OUTCOME = PolicyOutcome(
    "every 1h, lag 10m", 24.0, 240.0, (60.0, 3600.0, 7200.0), (FeatureCounts("f", "float64", 5, 0, 5),)
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    audit = rich(HOSTILE)
    many = [replace(audit.features[0], name=f"a_feature_with_a_rather_long_name_{place:03d}") for place in range(200)]
    leakage = LeakageReport("s", "f", "label", 10, 10, "", 0, (LEAK,), (SourceDelay("v", "s", 0, 1, 2, 0.5, True),))
    simulation = Simulation("v", "every 1h", "a", "b", 10, "asked", 0.1, 100.0, (OUTCOME,))
    shown = {
        "audit": render_page(audit),
        "audit of 200": render_page(Policy().judge(replace(audit, features=tuple(many)))),
        "explanation": render_explanation(rich_explanation(HOSTILE)),
        "drift": render_drift(given("word")),
        "leakage": render_leakage(leakage),
        "simulation": render_simulation(simulation),
    }
    for name, text in shown.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


STRAY_LABELS = """() => [...document.querySelectorAll("figure svg")].flatMap(svg => {
    const room = svg.closest("figure").getBoundingClientRect();
    const labels = [...svg.querySelectorAll("text")].map(label => [label, label.getBoundingClientRect()]);
    const stray = labels.filter(([label, box]) => box.left < room.left - 1 || box.right > room.right + 1
        || parseFloat(getComputedStyle(label).fontSize) < 12);
    const meet = ([, one], [, other]) => one.left < other.right - 1 && other.left < one.right - 1
        && one.top < other.bottom - 4 && other.top < one.bottom - 4;
    const hit = labels.filter((one, i) => labels.some((other, j) => j > i && meet(one, other)));
    return [...stray, ...hit].map(([label]) => label.textContent);
})"""
"""Labels of charts that are too small, stick out of their chart, or lie on one another."""

SQUEEZED = """() => [...document.querySelectorAll(".scroll td, .scroll tbody th")].filter(cell =>
    cell.textContent.length > 5 && cell.clientWidth && cell.clientWidth < 50).map(cell => cell.textContent)"""
"""Cells of some letters that are a few letters wide."""


@pytest.mark.parametrize("name", ["audit", "audit of 200", "drift", "explanation", "leakage", "simulation"])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_load_nothing_run_nothing_and_fit(browser, pages, name, width):
    backgrounds = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("dialog", lambda dialog, said=said: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto((pages / f"{name}.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert said == []
        assert len(asked) == 1, "the page is the only thing that is loaded"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(STRAY_LABELS) == []
        assert page.evaluate(SQUEEZED) == []
        assert page.locator("figure.chart").count() >= 1
        backgrounds.add(page.evaluate(BACKGROUND))
        page.emulate_media(media="print")
        assert page.evaluate(BACKGROUND) == "rgb(255, 255, 255)", "paper is light"
        context.close()
    assert len(backgrounds) == 2, "light and dark differ"


def test_what_differs_and_why_is_on_the_first_screen(browser, pages):
    """However many features there are."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto((pages / "audit of 200.html").as_uri())
    why = page.locator("h2", has_text="Why values differ").bounding_box()
    context.close()
    assert why["y"] < 800
