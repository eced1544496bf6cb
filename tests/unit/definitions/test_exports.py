"""The names that ``import featurestore`` offers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featurestore


def test_the_public_names_are_sorted_and_each_has_a_home():
    assert featurestore.__all__ == sorted(featurestore.__all__)
    assert featurestore.__all__ == sorted(featurestore._HOMES)


@pytest.mark.parametrize("name", featurestore.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name):
    assert getattr(featurestore, name).__doc__


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(featurestore.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"featurestore.{home}" for name, home in featurestore._HOMES.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'featurestore' has no attribute 'Featureview'"):
        featurestore.Featureview  # noqa: B018


def test_the_public_names_are_listed():
    assert set(featurestore.__all__) <= set(dir(featurestore))


def test_definitions_need_nothing_heavy():
    """Writing definitions imports neither Arrow nor pandas, NumPy, numba, DuckDB or SQLAlchemy."""
    names = [name for name in featurestore.__all__ if name != "FeatureStore"]
    heavy = ("pyarrow", "pandas", "numpy", "numba", "duckdb", "sqlalchemy", "fastapi", "pydantic")
    code = (
        f"import sys, featurestore\nfor name in {names}: getattr(featurestore, name)\n"
        f"sys.exit(', '.join(sorted(set(sys.modules) & set({heavy}))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
