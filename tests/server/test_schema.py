"""Requests made up from the API's own description: none makes the server fail, and every answer is as described."""

import warnings
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from featurestore import FeatureStore
from featurestore.temporal import FixedClock, instant_us
from server.app import create_app
from tests.server.conftest import NOW, SERVICES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it imports is not ours
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_SERVER__AUTH", "none")
        store = FeatureStore.local(tmp_path_factory.mktemp("schema"), clock=FixedClock(instant_us(NOW)))
    with store:
        store.apply(*SERVICES)
        store.materialize()
        yield schemathesis.openapi.from_asgi("/openapi.json", create_app(store))


def examples_of(operation, mode):
    """Return a test that makes some requests up and checks the answers."""

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def keeps_to_it(case):
        case.validate_response(case.call(), checks=CHECKS)

    return keeps_to_it


@pytest.mark.parametrize("mode", list(GenerationMode), ids=str)
def test_the_server_keeps_to_its_description(api, mode):
    tried = []
    for found in api.get_all_operations():
        operation = found.ok()
        # Requests that have nothing to be wrong in cannot be wrong.
        with suppress(Unsatisfiable):
            examples_of(operation, mode)()
            tried.append(operation.path)
    assert "/v1/features" in tried
    assert len(tried) >= (6 if mode == GenerationMode.NEGATIVE else 11)


@pytest.mark.parametrize("form", ["application/json", "application/vnd.apache.arrow.stream"])
@pytest.mark.parametrize("extra", [{}, {"describe": True}, {"event_times": False}, {"as_of": "1999-01-01T00:00:00Z"}])
def test_answers_are_as_described(api, form, extra):
    body = {"service": "all_of_it", "entities": [{"user": 1}, {"user": 9}], "request": {"budget": 1}} | extra
    case = api["/v1/features"]["POST"].Case(body=body, media_type="application/json", headers={"accept": form})
    response = case.call()
    case.validate_response(response, checks=CHECKS)
    assert response.status_code == (422 if "as_of" in extra else 200)
