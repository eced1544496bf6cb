"""What the project says about itself is so: commands, dependencies, imports, errors."""

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import featurestore
from featurestore import cli
from featurestore.core import errors

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = {
    "duckdb",
    "fastapi",
    "llvmlite",
    "numba",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "rich",
    "sqlalchemy",
    "uvicorn",
}


def in_new_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60
    ).stdout


@pytest.mark.parametrize("module", ["featurestore", "featurestore.cli"])
def test_importing_loads_nothing_heavy(module):
    loaded = in_new_process(f"import sys, {module}; print(*sys.modules)").split()
    assert HEAVY.isdisjoint(loaded)


def modules():
    yield featurestore.__name__
    for found in pkgutil.walk_packages(featurestore.__path__, f"{featurestore.__name__}."):
        if not found.name.endswith("__main__"):
            yield found.name


@pytest.mark.parametrize("name", list(modules()))
def test_every_module_says_what_it_owns(name):
    module = importlib.import_module(name)
    text = Path(str(module.__file__)).read_text()
    is_empty_package = module.__file__.endswith("__init__.py") and not text.strip()
    assert is_empty_package or ast.get_docstring(ast.parse(text))


def test_the_tree_of_errors_is_drawn_whole():
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FeatureStoreError)
    }
    assert set(re.findall(r"(\w+Error)\b(?!\))", errors.__doc__)) >= defined
    codes = [vars(errors)[name].default_code for name in defined]
    assert len(set(codes)) == len(codes)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands() -> set[str]:
    return set(typer.main.get_command(cli.app).commands)


def code_of(page: Path) -> str:
    found = re.findall(r"```(?:sh|bash|shell|console)\n(.*?)```|`([^`\n]+)`", page.read_text(), re.DOTALL)
    return "\n".join(block or span for block, span in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_pages_exist(page):
    code = code_of(page)
    assert set(re.findall(r"^(?:\$ )?make ([a-z]+)", code, re.MULTILINE)) <= make_targets()
    assert set(re.findall(r"^(?:\$ )?(?:\.venv/bin/)?featurestore ([a-z][a-z-]*)", code, re.MULTILINE)) <= commands()


def test_ci_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"^make (\w+)$", script.read_text(), re.MULTILINE) == ["check", "test"]
    assert {"demo", "test", "check", "bench"} <= make_targets()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def dependencies():
    """Return every requirement of the project and its extras; one extra may name others of the project itself."""
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    return [line for group in groups for line in group if not line.startswith(f"{PROJECT['project']['name']}[")]


def test_every_dependency_is_pinned_to_a_tested_version():
    lines = (ROOT / "constraints.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    named = {canonical(re.split(r"[\[<>=!~;]", line)[0].strip()) for line in dependencies()}
    assert named <= pinned


def test_every_dependency_has_a_lower_bound():
    for line in dependencies():
        assert re.search(r">=|==", line), line


def test_only_featurestore_is_installed_and_holds_the_server():
    """Packages named server or feature_definitions would collide with everybody's own."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("there is no setuptools to ask")
    include = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    code = f"import setuptools; print(*setuptools.find_packages({str(ROOT)!r}, include={include!r}))"
    found = in_new_process(code).split()
    assert {name.partition(".")[0] for name in found} == {"featurestore"}
    assert {"featurestore.server", "featurestore.server.feast"} <= set(found)
