"""A refusal becomes the exception that the embedded store raises, with the same message."""

import inspect
import json

import pytest

from featurestore.client.problems import error_of
from featurestore.core import errors
from featurestore.core.errors import (
    FeatureStoreError,
    RequestError,
    ServerError,
    StateError,
    UnreachableError,
)
from featurestore.server.messages import to_bytes
from featurestore.server.problems import problem_of

OWN = {"DefinitionError", "ServerError", "UnreachableError", "FeatureStoreError"}
"""Errors that no answer of a server carries, or of which it has nothing but the message."""

CLASSES = [
    kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, FeatureStoreError) and name not in OWN
]


def over_the_wire(error: Exception) -> FeatureStoreError:
    problem = problem_of(error)
    return error_of(problem.status, to_bytes(problem))


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("hint", ["", "Do it. So."])
def test_every_error_of_the_library_arrives_as_itself(kind, hint):
    sent = kind("something is wrong", hint=hint, code="a-code")
    found = over_the_wire(sent)
    assert type(found) is (kind if not issubclass(kind, (errors.SpineError, errors.TrainingSetError)) else ServerError)
    assert found.code == "a-code"
    assert found.hint == hint
    assert found.problem == "something is wrong"


def test_places_and_messages_survive():
    sent = RequestError("got 1, expected text", field="/entities/0/user", hint="Quote it.", code="wrong-type")
    found = over_the_wire(sent)
    assert (found.field, str(found)) == (sent.field, str(sent))
    state = StateError("it is damaged", where="online state of 'spend'", hint="Materialize.", code="corrupt-state")
    assert str(over_the_wire(state)) == str(state)


@pytest.mark.parametrize(
    "name", ["ServerError", "FeatureStoreError", "render", "Mistake", "annotations", "__doc__", ""]
)
def test_a_class_that_answers_do_not_carry_is_not_made(name):
    """What a document names is looked up, never trusted."""
    found = error_of(500, json.dumps({"code": "x", "detail": "It broke.", "error": name}).encode())
    assert type(found) is ServerError
    assert (found.status, found.problem, found.code) == (500, "It broke", "x")


@pytest.mark.parametrize(
    ("status", "kind"), [(413, RequestError), (422, RequestError), (401, ServerError), (504, UnreachableError)]
)
def test_refusals_without_a_class_go_by_their_status(status, kind):
    found = error_of(status, b'{"code": "x", "detail": "No.", "field": "/entities"}')
    assert type(found) is kind
    assert found.code == "x"


@pytest.mark.parametrize("body", [b"", b"<html>502</html>", b"\xff", b"[]", b'{"detail": 1}'])
def test_what_is_no_problem_document_says_so(body):
    found = error_of(502, body)
    assert type(found) is ServerError
    assert found.code == "no-problem-document"
    assert "502" in str(found)
