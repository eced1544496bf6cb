"""Errors say where, what and the fix, and carry a code for programs."""

import inspect

import pytest

from featurestore.core import errors
from featurestore.core.errors import (
    ConfigError,
    DefinitionError,
    FeatureStoreError,
    Mistake,
    RequestError,
    UnknownServiceError,
    did_you_mean,
    listing,
    render,
    unknown_feature,
    unknown_service,
    unknown_view,
)

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, FeatureStoreError)]
WITH_MESSAGE = [kind for kind in TREE if kind is not DefinitionError]


def test_a_message_reads_where_problem_hint_code():
    error = FeatureStoreError("column 'x' is missing", where="source 'flights'", hint="Add it.", code="unknown-column")
    assert str(error) == "source 'flights': column 'x' is missing. Add it.   [unknown-column]"
    assert (error.where, error.problem, error.hint) == ("source 'flights'", "column 'x' is missing", "Add it.")


def test_parts_that_are_empty_leave_no_trace():
    assert render(where="", problem="it is broken", hint="", code="broken") == "it is broken   [broken]"


@pytest.mark.parametrize("kind", WITH_MESSAGE)
def test_every_error_has_a_code_of_its_own_kind(kind):
    assert str(kind("it is broken")).endswith(f"[{kind.default_code}]")
    assert kind("it is broken", code="special").code == "special"


def test_codes_of_kinds_differ():
    codes = [kind.default_code for kind in TREE]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", TREE)
def test_every_error_stands_in_the_drawn_tree(kind):
    assert kind is FeatureStoreError or f" {kind.__name__}" in (errors.__doc__ or "")


def test_all_mistakes_of_definitions_are_told_together():
    mistakes = [Mistake("view 'a'", "it is empty", "Fill it.", "empty"), Mistake("view 'b'", "so is it", "", "empty")]
    error = DefinitionError(mistakes)
    assert error.mistakes == tuple(mistakes)
    assert str(error).splitlines() == [
        "2 mistakes in the definitions:",
        "  view 'a': it is empty. Fill it.   [empty]",
        "  view 'b': so is it   [empty]   [definition]",
    ]
    assert str(DefinitionError(mistakes[:1])).startswith("1 mistake in")


def test_a_request_error_points_into_the_request():
    error = RequestError("it is missing", field="/entities/3/carrier")
    assert error.field == "/entities/3/carrier"
    assert error.where == "request/entities/3/carrier"
    assert RequestError("it is empty").where == "request"


def test_an_unknown_service_is_also_a_lookup_error():
    with pytest.raises(LookupError):
        raise UnknownServiceError("there is none")


def test_the_nearest_word_is_suggested():
    assert did_you_mean("amout", ["amount", "card"]) == "Did you mean 'amount'?"
    assert did_you_mean("zzz", ["amount", "card"]) == ""


def test_a_listing_is_sorted_and_ends_with_a_suggestion():
    assert listing("Columns", ["b", "amount"], wrong="amout") == "Columns: amount, b. Did you mean 'amount'?"
    assert listing("Columns", ["b", "a"]) == "Columns: a, b."
    assert listing("Columns", [], wrong="x") == "Columns: none."


def test_an_unknown_name_reads_the_same_in_every_error():
    unknown = unknown_view("spnd", ["spend", "visits"])
    text = "there is no view 'spnd'. Views: spend, visits. Did you mean 'spend'?   [unknown-view]"
    assert str(unknown.mistake("feature service 'model'")) == f"feature service 'model': {text}"
    assert str(unknown.error(ConfigError, "policies.x")) == f"policies.x: {text}"
    assert str(unknown.in_request("/view")) == f"request/view: {text}"
    assert unknown.in_request("/view").field == "/view"


def test_an_unknown_service_in_a_request_has_its_own_class():
    assert isinstance(unknown_service("modle", ["model"]).in_request("/service"), UnknownServiceError)
    assert not isinstance(unknown_view("v", []).in_request(), UnknownServiceError)


def test_an_unknown_feature_names_its_view():
    assert unknown_feature("lst", ["last"], view="delays").problem == "view 'delays' has no feature 'lst'"
