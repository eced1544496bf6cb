"""Mistakes are reported together, also beside files that cannot be read, and with their place in the user's files."""

import sys

import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.cli import main
from featurestore.core.errors import DefinitionError, SourceMissingError

USER = Entity("user", key="user")


def view(name, path, **options):
    source = FileSource(f"source_{name}", path=path, event_time="at")
    return FeatureView(name, entity=USER, source=source, **({"features": {"n": agg.count().lifetime()}} | options))


def test_mistakes_are_reported_beside_a_missing_and_an_unreadable_file(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is no Parquet PAR1")
    (tmp_path / "good.csv").write_text("user,at,amount\nann,2026-01-01T00:00:00Z,1.5\n")
    good = view("good", tmp_path / "good.csv", features={"total": agg.sum(col("amuont")).lifetime()})
    listed = view("listed", tmp_path / "good.csv", features=[agg.count()])
    missing, broken = view("missing", tmp_path / "none.parquet"), view("broken", tmp_path / "broken.parquet")
    with pytest.raises(DefinitionError) as caught:
        FeatureStore.local(tmp_path / "store").apply(good, listed, FeatureService("s", features=[missing, broken]))
    assert [mistake.code for mistake in caught.value.mistakes] == [
        "unknown-column",
        "wrong-argument",
        "corrupt-file",
        "missing-file",
    ]
    assert "Write features={'spent_7d': agg.sum(col('amount')).over('7d')}." in str(caught.value)


def test_a_missing_file_alone_is_an_error_of_its_source(tmp_path):
    with pytest.raises(SourceMissingError, match=r"none\.parquet' is not there"):
        FeatureStore.local(tmp_path / "store").apply(view("missing", tmp_path / "none.parquet"))


MODULES = {
    "a name that is not defined": ("x = 1\ny = colum('a')\n", "line 2: NameError: name 'colum' is not defined"),
    "a syntax error": ("x = 1\ny = (1,\n", "line 2: Python cannot read the line 'y = (1,': '(' was never closed"),
    "an argument of Feast": (
        "from featurestore import Entity\nuser = Entity('user', join_keys=['user'])\n",
        "line 2: TypeError: Entity has no argument 'join_keys'. Write key='driver_id'",
    ),
    "a module that is not installed": ("import numppy\n", "line 1: ModuleNotFoundError: No module named 'numppy'"),
    "an error of this library": (
        "from featurestore import every\nx = every('7 parsecs')\n",
        "line 2: '7 parsecs' is not a duration.",
    ),
    "a mistake in a library that it calls": (
        "import json\nx = json.loads('{')\n",
        "line 2: JSONDecodeError: Expecting property name enclosed in double quotes",
    ),
}


@pytest.mark.parametrize(("text", "message"), MODULES.values(), ids=MODULES)
def test_a_mistake_of_python_is_shown_with_file_and_line_and_no_traceback(tmp_path, monkeypatch, capsys, text, message):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    (tmp_path / "broken_definitions.py").write_text(text)
    (tmp_path / "featurestore.toml").write_text('definitions = "broken_definitions"\n')
    with pytest.raises(SystemExit) as caught:
        main(["--config", str(tmp_path / "featurestore.toml"), "apply"])
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert f"file '{tmp_path / 'broken_definitions.py'}', {message}" in printed
    assert "Traceback" not in printed
    assert len(printed.splitlines()) == 2
