"""Picking, renaming and aliasing features, before anything is compiled."""

import pytest

from featurestore import Entity, FeatureView, FileSource, OnDemandFeatureView, agg, as_of, col
from featurestore.definitions.expr import Expr
from featurestore.definitions.views import FeatureReference, Selection

weather = FeatureView(
    "weather",
    entity=Entity("airport", key="airport"),
    source=FileSource("weather", path="weather.parquet", event_time="at"),
    features={"temp": agg.last(col("temp")), "visib": agg.last(col("visib"))},
)
asked = OnDemandFeatureView("asked", features={"at": as_of()})


def test_one_name_gives_an_expression_that_knows_its_column():
    found = weather["temp"]
    assert isinstance(found, FeatureReference)
    assert isinstance(found, Expr)
    assert (found.op, found.params) == ("feature", (("feature", "temp"), ("view", "weather")))


def test_several_names_give_a_selection():
    found = weather["temp", "visib"]
    assert isinstance(found, Selection)
    assert found.names == ("temp", "visib")


def test_one_name_in_a_tuple_gives_a_selection_of_one():
    assert isinstance(weather[("temp",)], Selection)


def test_an_alias_stands_for_the_view_in_columns():
    origin = weather.aliased("origin_weather", {"airport": "origin"})
    assert origin["temp"].params == (("feature", "temp"), ("view", "origin_weather"))
    assert origin["temp", "visib"].keys == {"airport": "origin"}


def test_on_demand_features_are_picked_in_the_same_way():
    assert asked["at"].params == (("feature", "at"), ("view", "asked"))
    assert asked["at"].selection.view is asked


def test_selecting_changes_nothing_in_what_was_selected_from():
    both = weather["temp", "visib"]
    both.renamed({"temp": "t"})
    assert both.renames == {}


def test_views_are_not_iterable():
    with pytest.raises(TypeError, match="select features by name"):
        list(weather)


def test_a_reference_can_be_computed_with():
    total = weather["temp"] + 1.0
    assert isinstance(total, Expr)
    assert isinstance(total.args[0], FeatureReference)
