"""Requests made up from the API's own description: none makes the server fail, and every answer is as described."""

import warnings
from contextlib import suppress

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from featurestore import FeatureService, FeatureStore, FeatureView, FrameSource, agg, col
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.server.app import create_app
from tests.server.conftest import NOW, SERVICES, USER, hour

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


def refusals_are_problems(_, response, __):
    """Whatever the description allows, a refusal that says anything is a problem document."""
    if response.status_code >= 400 and response.content:
        assert response.headers["content-type"] == ["application/problem+json"]


CHECKS = [
    refusals_are_problems,
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


BIG = pa.table(
    {
        "user": [1, 3, 3],
        "cents": [1, 2**62, 2**62],
        "at": pa.array([hour(1), hour(2), hour(3)], pa.timestamp("us", "UTC")),
    }
)
PAYMENTS = FeatureView(
    "payments",
    entity=USER,
    source=FrameSource("payments", frame=BIG, event_time="at", stream=True),
    features={"cents": agg.sum(col("cents")).over("1d"), "n": agg.count().over("1d")},
)
"""What user 3 paid does not fit."""

RICH = FeatureService("rich", features=[PAYMENTS])


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATURESTORE_SERVER__AUTH", "none")
        store = FeatureStore.local(tmp_path_factory.mktemp("schema"), clock=FixedClock(instant_us(NOW)))
    with store:
        store.apply(*SERVICES, RICH)
        store.materialize()
        yield schemathesis.openapi.from_asgi("/openapi.json", create_app(store))


KNOWN = {
    "/v1/features": st.fixed_dictionaries(
        {
            "service": st.sampled_from(["all_of_it", "plain", "rich"]),
            "entities": st.lists(st.fixed_dictionaries({"user": st.integers(1, 4)}), max_size=4),
            "request": st.sampled_from([None, {"budget": 1}]),
            **dict.fromkeys(("as_of", "expected_fingerprint", "timeout_ms"), st.none()),
        }
    ),
    "/get-online-features": st.fixed_dictionaries(
        {"entities": st.fixed_dictionaries({"user": st.lists(st.integers(1, 4), max_size=4)})}
    ).flatmap(
        lambda fields: st.sampled_from(
            [
                {**fields, "features": None, "feature_service": "rich"},
                {**fields, "features": ["payments:n"], "feature_service": None},
                {**fields, "features": ["payments:cents", "spending:total"], "feature_service": None},
            ]
        )
    ),
}
"""Parts of questions that would hardly be made up: about services and entities that there are."""


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
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def keeps_to_it(case, data):
        if operation.path in KNOWN and isinstance(case.body, dict) and data.draw(st.booleans()):
            case.body |= data.draw(KNOWN[operation.path])
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


@pytest.mark.parametrize("users", [[1], [1, 3], [3]])
@pytest.mark.parametrize("partial", [False, True])
def test_a_sum_that_does_not_fit_is_answered_as_described(api, users, partial):
    body = {"service": "rich", "entities": [{"user": user} for user in users], "partial": partial}
    case = api["/v1/features"]["POST"].Case(body=body, media_type="application/json")
    response = case.call()
    case.validate_response(response, checks=CHECKS)
    assert response.status_code == (422 if 3 in users and not partial else 200)
    if response.status_code == 422:
        assert response.json()["field"] == f"/entities/{users.index(3)}"
        assert "payments__cents" in response.json()["detail"]


@pytest.mark.parametrize(("features", "status"), [(["payments:n"], 200), (["payments:n", "payments:cents"], 422)])
def test_feasts_clients_meet_it_only_if_they_ask_for_it(api, features, status):
    body = {"entities": {"user": [1, 3]}, "features": features}
    case = api["/get-online-features"]["POST"].Case(body=body, media_type="application/json")
    response = case.call()
    case.validate_response(response, checks=CHECKS)
    assert response.status_code == status
    if status == 422:
        assert response.json()["field"] == "/entities/user/1"


DEEP = [b"[" * depth + b"]" * depth for depth in (500, 900, 990, 100_000)]
STRANGE = [*DEEP, b'"\xff"', b'"\\ud800"', b"1e999", b"NaN", b"null"]
HEADS = [b'{"service": "rich", "entities": [{"user": ', b'{"events": [{"user": ', b'{"entities": {"user": [', b'{"a": ']


@st.composite
def broken(draw) -> bytes:
    """Return a question or events with one value that is strange, or with a byte changed."""
    whole = bytearray(draw(st.sampled_from(HEADS)) + draw(st.sampled_from(STRANGE)))
    whole += draw(st.sampled_from([b"}]}", b"]}}", b"}", b""]))
    if draw(st.booleans()):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(whole)


def test_bodies_that_are_no_json_are_answered_as_described(api):
    """Of every route: nested deeply, no UTF-8, cut off, changed."""
    posting = [found.ok() for found in api.get_all_operations() if found.ok().method.lower() == "post"]
    assert len(posting) == 6

    @settings(max_examples=25, deadline=None, derandomize=True, database=None)
    @given(body=st.one_of(st.sampled_from(DEEP), st.binary(max_size=50), broken()))
    def keeps_to_it(body):
        for operation in posting:
            path = {"source": "payments"} if "{source}" in operation.path else {}
            case = operation.Case(body=body, media_type="application/json", path_parameters=path)
            response = case.call()
            assert bytes(response.request.body or b"") == body
            case.validate_response(response, checks=CHECKS)

    keeps_to_it()


@pytest.mark.parametrize("wrong", ["banana", "", "2"])
def test_wrong_parameters_are_answered_as_described(api, wrong):
    case = api["/v1/sources/{source}/events"]["POST"].Case(
        path_parameters={"source": "payments"},
        query={"partial": wrong},
        body={"events": []},
        media_type="application/json",
    )
    response = case.call()
    case.validate_response(response, checks=CHECKS)
    assert response.status_code == 422
