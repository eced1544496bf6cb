"""Pages in a real browser: without network, light and dark, on a wide and on a narrow screen.

Needs Chromium and Playwright, which are not among the extras; without them these tests are skipped.
"""

import shutil

import pytest

from featurestore.explaining.html import render_html as render_explanation
from featurestore.skew.html import render_html
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


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    from featurestore.skew.drift.html import render_html as render_drift

    folder = tmp_path_factory.mktemp("pages")
    (folder / "audit.html").write_text(render_html(rich(HOSTILE)), encoding="utf-8")
    (folder / "explanation.html").write_text(render_explanation(rich_explanation(HOSTILE)), encoding="utf-8")
    (folder / "drift.html").write_text(render_drift(given("word")), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["audit", "drift", "explanation"])
@pytest.mark.parametrize("width", [1150, 390])
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
        assert said == []
        assert len(asked) == 1, "the page is the only thing that is loaded"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("svg").count() >= (1 if name == "explanation" else 3)
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert len(backgrounds) == 2, "light and dark differ"
