"""The columns that features are known by, and the names that can be parts of them."""

import pytest

from featurestore.plan.names import LONGEST_NAME, feature_column, is_name, is_output_name, split_column, view_of


@pytest.mark.parametrize(("view", "feature"), [("spend", "sum_7d"), ("a", "b"), ("origin_weather", "temp")])
def test_a_column_is_taken_apart_into_what_it_was_built_from(view, feature):
    assert is_name(view) and is_name(feature)
    assert split_column(feature_column(view, feature)) == (view, feature)
    assert view_of(feature_column(view, feature)) == view


@pytest.mark.parametrize("name", ["a__b", "_a", "a_", "1a", "", "ä", "a b", "a" * (LONGEST_NAME + 1), None, 3])
def test_a_name_that_could_not_be_told_from_its_neighbour_is_not_valid(name):
    assert not is_name(name)


def test_the_whole_name_of_a_column_may_hold_the_separator():
    assert is_output_name("spend__sum_7d")
    assert not is_output_name("spend sum")
