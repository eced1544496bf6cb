"""Collecting definitions from modules, packages and objects."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from featurestore.definitions.collection import collect
from tests.unit.plan.world import carrier, flights, view, world


def module_with(**values):
    module = ModuleType("definitions_of_a_test")
    vars(module).update(values)
    return module


def test_a_service_brings_along_all_it_refers_to():
    w = world()
    found = collect(w.service)
    assert found.views == (w.delays, w.weather)
    assert found.on_demand == (w.second, w.on_demand)
    assert [source.name for source in found.sources] == ["flights", "weather"]
    assert [entity.name for entity in found.entities] == ["airport", "carrier"]


def test_a_module_gives_its_top_level_names_also_in_lists_and_dicts():
    one, two, three = (view(name=name) for name in ("one", "two", "three"))
    found = collect(module_with(a=one, b=[two], c={"x": (three,)}, d=3, e="text", f=SimpleNamespace()))
    assert found.views == (one, three, two)


def test_a_module_inside_a_module_is_not_followed():
    assert collect(module_with(other=module_with(a=view()))).views == ()


def test_a_package_gives_its_modules_too(tmp_path, monkeypatch):
    package = tmp_path / "package_of_a_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit")
    (package / "entities.py").write_text(
        "from featurestore import Entity\ncarrier = Entity('carrier', key='carrier')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import package_of_a_test

    try:
        assert [entity.name for entity in collect(package_of_a_test).entities] == ["carrier"]
    finally:
        for name in ("package_of_a_test", "package_of_a_test.entities"):
            sys.modules.pop(name, None)


def test_objects_of_all_kinds_can_be_given():
    found = collect(carrier(), iter([flights()]), {view()})
    assert (len(found.entities), len(found.sources), len(found.views)) == (2, 2, 1)


def test_a_source_is_found_by_name():
    w = world()
    assert collect(w.service).source("weather") is w.weather.source
    with pytest.raises(KeyError):
        collect(w.service).source("elsewhere")


@pytest.mark.parametrize("item", [3, "flights", None, [3]])
def test_what_is_no_definition_is_refused(item):
    with pytest.raises(TypeError, match="expected a module or definitions"):
        collect(item)
