"""The catalog: what is applied is there for whoever opens the registry next, without the definitions."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import (
    ConfigError,
    DefinitionError,
    RegistryError,
    UnknownServiceError,
)
from featurestore.core.temporal import FixedClock
from featurestore.definitions.aggregations import agg
from featurestore.definitions.entities import Entity
from featurestore.definitions.expr import col
from featurestore.definitions.services import FeatureService
from featurestore.definitions.sources import FileSource, FrameSource
from featurestore.definitions.views import FeatureView
from featurestore.registry import Outcome, Registry
from featurestore.registry.catalog import Catalog
from featurestore.sources import ReadSettings

EVENTS = pa.table(
    {"user": ["a", "b"], "amount": [1.0, 2.0], "at": pa.array([1, 2], pa.timestamp("us", "UTC"))},
)

USER = Entity("user", key="user")


def spending(source, window="1d", name="spending"):
    view = FeatureView(name, entity=USER, source=source, features={"total": agg.sum(col("amount")).over(window)})
    return FeatureService(f"{name}_model", features=[view])


@pytest.fixture
def opened(tmp_path):
    registries = []

    def open_catalog(module: str = "") -> Catalog:
        registry = Registry(f"sqlite:///{tmp_path}/registry.db")
        registries.append(registry)
        settings = ReadSettings(base_folder=tmp_path)
        return Catalog(registry, settings=settings, clock=FixedClock(5), module=module, folder=tmp_path)

    yield open_catalog
    for registry in registries:
        registry.close()


@pytest.fixture
def file_source(tmp_path):
    pq.write_table(EVENTS, tmp_path / "events.parquet")
    return FileSource("events", path="events.parquet", event_time="at")


def test_plans_and_sources_are_there_after_reopening(opened, file_source):
    first = opened()
    changes = first.apply((spending(file_source),))
    assert [str(change).split()[:3] for change in changes] == [
        ["added", "source", "'events'"],
        ["added", "view", "'spending'"],
        ["added", "service", "'spending_model'"],
    ]
    second = opened()
    assert second.plan("spending_model") == first.plan("spending_model")
    assert second.views() == first.views()
    assert second.sources(["events"])["events"].path == "events.parquet"


def test_applying_again_changes_nothing(opened, file_source):
    catalog = opened()
    assert not catalog.apply((spending(file_source),)).is_empty
    assert catalog.apply((spending(file_source),)).is_empty


def test_another_process_sees_what_was_applied(opened, file_source):
    writer, reader = opened(), opened()
    writer.apply((spending(file_source),))
    before = reader.plan("spending_model").fingerprint
    writer.apply((spending(file_source, window="2d"),))
    assert reader.plan("spending_model").fingerprint != before
    writer.apply((spending(file_source),))
    assert [plan.fingerprint == before for plan in reader.past_plans("spending_model")] == [True, False]


def test_mistakes_change_nothing(opened, file_source):
    catalog = opened()
    catalog.apply((spending(file_source),))
    with pytest.raises(DefinitionError, match="not a duration"):
        catalog.apply((spending(file_source, window="soon"),))
    assert catalog.plan("spending_model").uses[0].view.features[0].window_us == 86_400_000_000


def test_objects_and_modules_leave_the_rest_applied(opened, file_source, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    catalog = opened("some_definitions")
    catalog.apply((spending(file_source), spending(file_source, name="other")))
    catalog.apply((spending(file_source),))
    assert set(catalog.services()) == {"spending_model", "other_model"}
    (tmp_path / "some_definitions.py").write_text(
        "from featurestore import *\n"
        "s = FileSource('events', path='events.parquet', event_time='at')\n"
        "v = FeatureView('only', entity=Entity('user', key='user'), source=s, features={'n': agg.count().over('1d')})\n"
        "m = FeatureService('only_model', features=[v])\n"
    )
    module = catalog.import_definitions()
    changes = catalog.apply((module,))
    assert set(catalog.services()) == {"only_model", "spending_model", "other_model"}
    assert [item.name for item in changes.missing] == ["other", "spending", "other_model", "spending_model"]
    assert "still applied though not in the module: view 'other'" in str(changes)
    assert "--allow-removal spending_model" in str(changes)
    changes = catalog.apply((module,), remove=["other", "other_model"])
    assert [(one.name, one.outcome) for one in changes if one.fingerprint is None] == [
        ("other", Outcome.REMOVED),
        ("other_model", Outcome.REMOVED),
    ]
    assert [item.name for item in changes.missing] == ["spending", "spending_model"]
    assert catalog.apply((module,), remove=["other_model"]).missing == changes.missing, "it is removed already"
    catalog.apply((module,), prune=True)
    monkeypatch.delitem(sys.modules, "some_definitions")
    assert set(catalog.services()) == {"only_model"}
    assert set(catalog.views()) == {"only"}


@pytest.mark.parametrize(
    ("names", "code", "match"),
    [
        (["spendin"], "unknown-name", "Did you mean 'spending'"),
        (["spending"], "still-used", "view 'spending' cannot be removed: service 'spending_model' uses it"),
        (["events"], "still-defined", "'events' cannot be removed"),
        (["source:spending"], "unknown-name", "not applied"),
        (["extra", "spending_model", "spending"], "still-defined", "'extra' cannot be removed"),
    ],
)
def test_removals_that_cannot_be_are_refused_by_name(opened, file_source, names, code, match):
    catalog = opened()
    catalog.apply((spending(file_source), spending(file_source, name="extra")))
    with pytest.raises(RegistryError, match=match) as caught:
        catalog.apply((spending(file_source, name="extra"),), remove=names)
    assert caught.value.code == code
    assert set(catalog.services()) == {"spending_model", "extra_model"}


def test_a_removal_is_undone_with_what_it_took_along(opened, file_source):
    catalog = opened()
    catalog.apply((spending(file_source), spending(file_source, name="extra")))
    plan = catalog.plan("spending_model")
    catalog.apply((spending(file_source, name="extra"),), remove=["spending_model", "view:spending"])
    assert set(catalog.services()) == {"extra_model"}
    restored = catalog.restore("spending_model")
    assert [(one.kind, one.name) for one in restored if one.outcome is Outcome.ADDED] == [
        ("view", "spending"),
        ("service", "spending_model"),
    ]
    assert catalog.plan("spending_model") == plan
    with pytest.raises(RegistryError, match="nothing was removed under the name 'spending_model'"):
        catalog.restore("spending_model")


def test_a_removal_is_not_undone_over_a_view_that_changed_since(opened, file_source):
    catalog = opened()
    view = spending(file_source, window="2d").features[0]
    catalog.apply((spending(file_source),))
    catalog.apply((view,), remove=["spending_model"])
    with pytest.raises(RegistryError, match="view 'spending', which was changed since") as caught:
        catalog.restore("spending_model")
    assert caught.value.code == "restore-conflict"


def test_a_source_in_memory_must_be_applied_again(opened):
    first = opened()
    source = FrameSource("events", frame=EVENTS, event_time="at")
    first.apply((spending(source),))
    assert first.sources(["events"])["events"] is source
    with pytest.raises(ConfigError, match=r"source 'events'.*Apply the definitions in this process"):
        opened().sources(["events"])


def test_a_source_that_moved_elsewhere_is_read_from_the_registry(opened, file_source, tmp_path):
    here, there = opened(), opened()
    here.apply((spending(file_source),))
    pq.write_table(EVENTS, tmp_path / "moved.parquet")
    there.apply((spending(FileSource("events", path="moved.parquet", event_time="at")),))
    assert here.sources(["events"])["events"].path == "moved.parquet"


def test_unknown_names_are_errors_that_list_the_known(opened, file_source):
    catalog = opened()
    catalog.apply((spending(file_source),))
    with pytest.raises(UnknownServiceError, match="Did you mean 'spending_model'"):
        catalog.plan("spending_modl")
    with pytest.raises(RegistryError, match="registry: there is no source 'nothing'"):
        catalog.sources(["nothing"])


@pytest.mark.parametrize(("module", "message"), [("", "no definitions' module"), ("not_there.at_all", "is not there")])
def test_a_definitions_module_that_is_not_there_is_an_error(opened, module, message):
    with pytest.raises(ConfigError, match=message):
        opened(module).import_definitions()


MODULE = """
import pyarrow as pa
import pyarrow.compute as pc
from featurestore import Entity, FeatureService, FeatureView, FrameSource, agg, col, udf

@udf(returns="float64")
def doubled(values):
    return pc.multiply(values, 2.0)

frame = pa.table({"user": ["a"], "amount": [1.0], "at": pa.array([1], pa.timestamp("us", "UTC"))})
source = FrameSource("held", frame=frame, event_time="at")
view = FeatureView(
    "twice", entity=Entity("user", key="user"), source=source,
    features={"total": agg.sum(doubled(col("amount"))).over("1d")},
)
service = FeatureService("twice_model", features=[view])
"""


@pytest.fixture
def module(tmp_path):
    (tmp_path / "held_definitions.py").write_text(MODULE)
    before = list(sys.path)
    yield "held_definitions"
    sys.modules.pop("held_definitions", None)
    sys.path[:] = before


def test_what_a_registry_cannot_keep_comes_from_the_configured_module(opened, module):
    first = opened(module)
    first.apply((first.import_definitions(),))
    sys.modules.pop(module)
    second = opened(module)
    assert second.sources(["held"])["held"].frame.num_rows == 1


def test_plans_with_functions_bring_the_configured_module_along(opened, module):
    first = opened(module)
    first.apply((first.import_definitions(),))
    sys.modules.pop(module)
    opened(module).plan("twice_model")
    assert module in sys.modules


def test_a_module_that_lacks_a_module_itself_says_which(opened, tmp_path, monkeypatch):
    (tmp_path / "lacking.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        DefinitionError, match=r"lacking\.py', line 1: ModuleNotFoundError: No module.*not_there_at_all"
    ):
        opened("lacking").import_definitions()
