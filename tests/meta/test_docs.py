"""What the pages show runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = [
    "README.md",
    "docs/audits.md",
    "docs/drift.md",
    "docs/how_it_works.md",
    "docs/missing_values.md",
    "docs/online_stores.md",
    "docs/serving_log.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run(page, tmp_path, monkeypatch):
    """The snippets of a page are one program."""
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    known = {}
    for block in blocks:
        exec(compile(block, page, "exec"), known)
    if "store" in known:
        assert known["training"].to_pandas()["spend__total_7d"].tolist() == [3.0, 8.0]
        assert known["online"].to_dicts() == [{"user": "ann", "spend__last": 0.1, "spend__total_7d": 3.1}]
        known["store"].close()


def test_the_call_paths_are_those_of_the_code():
    """Each function that the page names is defined in the file it names."""
    text = (ROOT / "docs/how_it_works.md").read_text()
    named = re.findall(r"([a-z_/]+\.py) ([a-z_]+)", text)
    assert len(named) > 10
    for path, function in named:
        assert f"def {function}(" in (ROOT / "featurestore" / path).read_text(), (path, function)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_inside_the_project_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    inside = [target for target in targets if "://" not in target]
    generated = {"benchmarks/results.md"}
    assert [t for t in inside if t not in generated and not ((ROOT / page).parent / t).exists()] == []
