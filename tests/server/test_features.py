"""POST /v1/features: what the library answers, on the wire; and every way to ask wrongly, with its place."""

import json
from types import SimpleNamespace

import msgspec
import pytest

from featurestore.config import ServerConfig
from featurestore.core.errors import RequestError, StateError
from featurestore.server.features import ENTITIES_IN_LOOP
from featurestore.server.messages import Problem, Reply
from featurestore.store import FeatureStore
from tests.server.conftest import Caller, create_app


def problem(response) -> dict:
    """Return a response as a problem document, of which the form is checked."""
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    msgspec.convert(found, Problem)
    assert found["status"] == response.status_code
    assert found["type"] == f"urn:featurestore:problem:{found['code']}"
    return found


def test_the_answer_is_the_librarys(call, store):
    response = call.ask("all_of_it", [{"user": 1}, {"user": 9}], request={"budget": 10})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    own = store.get_online_features("all_of_it", [{"user": 1}, {"user": 9}], {"budget": 10})
    assert found["columns"] == list(own.columns)
    assert found["fingerprint"] == store.plan("all_of_it").fingerprint
    assert found["as_of"] == "2024-05-02T00:00:00Z"
    assert [row["statuses"] for row in found["rows"]] == own.statuses
    msgspec.convert(found, Reply)


def test_every_dtype_has_one_form_on_the_wire(call):
    found = call.ask("all_of_it", [{"user": 1}], request={"budget": 10}).json()
    values = dict(zip(found["columns"], found["rows"][0]["values"], strict=True))
    statuses = dict(zip(found["columns"], found["rows"][0]["statuses"], strict=True))
    assert values == {
        "spending__expired": None,
        "spending__orders": 2,
        "spending__total": 2.5,
        "last_order__day": "2024-05-01",
        "last_order__days": ["2024-04-30", "2024-05-01"],
        "last_order__paid": False,
        "last_order__price": "2.20",
        "last_order__raw": "",
        "last_order__shipped": "2024-05-01T03:00:00Z",
        "last_order__shop": "ü",
        "budget__left": 7.5,
    }
    assert statuses["spending__expired"] == "EXPIRED"
    assert statuses["spending__total"] == "PRESENT"


def test_an_answer_describes_its_dtypes_if_asked(call):
    assert "dtypes" not in call.ask().json()
    assert call.ask("all_of_it", request={"budget": 1}, describe=True).json()["dtypes"] == {
        "columns": [
            "string",
            "int64",
            "float64",
            "date",
            "list<date>",
            "bool",
            "decimal(9,2)",
            "binary",
            "timestamp",
            "string",
            "float64",
        ],
        "keys": {"user": "int64"},
        "request": {"budget": "float64"},
    }


def test_a_problem_names_the_librarys_error_and_the_hint(call, store):
    with pytest.raises(RequestError) as raised:
        store.get_online_features("plain", [{"user": 1, "usr": 2}])
    found = problem(call.ask("plain", [{"user": 1, "usr": 2}]))
    assert found["error"] == "RequestError"
    assert found["hint"] == raised.value.hint
    assert found["detail"] == f"{raised.value.problem}. {raised.value.hint}"


def test_unknown_entities_are_answered_and_said_so(call):
    row = call.ask("plain", [{"user": 77}]).json()["rows"][0]
    assert set(row["statuses"]) == {"NOT_FOUND"}
    assert row["event_times"] == {"spending": None}


def test_event_times_and_watermarks_are_told_per_view(call):
    found = call.ask("all_of_it", [{"user": 1}], request={"budget": 1}).json()
    assert found["rows"][0]["event_times"] == {
        "last_order": "2024-05-01T02:00:00Z",
        "spending": "2024-05-01T02:00:00Z",
    }
    assert found["views"]["spending"] == {
        "horizon": "2024-05-02T00:00:00Z",
        "watermark": "2024-05-02T00:00:00Z",
        "complete_until": "2024-05-02T00:00:00Z",
        "is_stale": False,
    }


def test_a_late_refresh_is_stale(call, store):
    store.clock.instant_us += 7_200_000_000
    found = call.ask("all_of_it", request={"budget": 1}).json()
    assert found["views"]["last_order"]["is_stale"]
    assert found["views"]["last_order"]["horizon"] == "2024-05-02T00:00:00Z"


def test_the_past_can_be_asked_about(call):
    found = call.ask(as_of="2024-05-01T03:30:00+02:00").json()
    assert found["as_of"] == "2024-05-01T01:30:00Z"
    assert dict(zip(found["columns"], found["rows"][0]["values"], strict=True))["spending__orders"] == 1


def test_request_inputs_are_given_once_or_per_entity(call):
    entities = [{"user": 1}, {"user": 2}]
    column = call.ask("all_of_it", entities, request={"budget": 10}).json()["columns"].index("budget__left")

    def left(request):
        return [row["values"][column] for row in call.ask("all_of_it", entities, request=request).json()["rows"]]

    assert left({"budget": 10}) == [7.5, 6.0]
    assert left([{"budget": 10}, {"budget": None}]) == [7.5, None]


def test_no_entities_give_no_rows(call):
    found = call.ask(entities=[])
    assert found.status_code == 200
    assert found.json()["rows"] == []


def test_many_entities_are_answered_like_few(call):
    many = call.ask(entities=[{"user": i % 3} for i in range(ENTITIES_IN_LOOP + 30)]).json()["rows"]
    few = call.ask(entities=[{"user": i} for i in range(3)]).json()["rows"]
    assert many == [few[i % 3] for i in range(ENTITIES_IN_LOOP + 30)]


def test_the_expected_fingerprint_is_answered_and_another_is_a_conflict(call, store):
    assert call.ask(expected_fingerprint=store.plan("plain").fingerprint).status_code == 200
    response = call.ask(expected_fingerprint="0" * 64)
    assert response.status_code == 409
    assert problem(response)["field"] == "/expected_fingerprint"
    assert store.plan("plain").fingerprint in problem(response)["detail"]


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ({"service": "plian", "entities": []}, 404, "unknown-service", "/service"),
        ({"entities": []}, 422, "missing-field", "/service"),
        ({"service": "plain"}, 422, "missing-field", "/entities"),
        ({"service": "plain", "entitys": [], "entities": []}, 422, "unknown-field", "/entitys"),
        ({"service": 3, "entities": []}, 422, "wrong-type", "/service"),
        ({"service": "plain", "entities": {"user": 1}}, 422, "wrong-type", "/entities"),
        ({"service": "plain", "entities": [{"user": 1}, 7]}, 422, "wrong-type", "/entities/1"),
        ({"service": "plain", "entities": [{"user": "1"}]}, 422, "wrong-type", "/entities/0/user"),
        ({"service": "plain", "entities": [{"user": True}]}, 422, "wrong-type", "/entities/0/user"),
        ({"service": "plain", "entities": [{"user": 2**63}]}, 422, "wrong-type", "/entities/0/user"),
        ({"service": "plain", "entities": [{"usr": 1}]}, 422, "unknown-field", "/entities/0/usr"),
        ({"service": "plain", "entities": [{"user": 1, "more": 1}]}, 422, "unknown-field", "/entities/0/more"),
        ({"service": "plain", "entities": [{}]}, 422, "missing-field", "/entities/0/user"),
        ({"service": "plain", "entities": [], "request": [3]}, 422, "wrong-type", "/request/0"),
        ({"service": "plain", "entities": [], "as_of": 5}, 422, "wrong-type", "/as_of"),
        ({"service": "plain", "entities": [], "as_of": "2024-05-02"}, 422, "naive-instant", "/as_of"),
        ({"service": "plain", "entities": [], "as_of": "noon"}, 422, "instant", "/as_of"),
        ({"service": "plain", "entities": [], "as_of": "2001-01-01T00:00:00Z"}, 422, "out-of-reach", "/as_of"),
        ({"service": "all_of_it", "entities": [{"user": 1}]}, 422, "missing-field", "/request/budget"),
        ({"service": "all_of_it", "entities": [], "request": {"budget": "1"}}, 422, "wrong-type", "/request/budget"),
        (
            {"service": "all_of_it", "entities": [{"user": 1}], "request": [{"budget": "1"}]},
            422,
            "wrong-type",
            "/request/0/budget",
        ),
        ([], 422, "wrong-type", ""),
    ],
)
def test_a_callers_mistake_names_its_place(call, body, status, code, field):
    response = call("POST", "/v1/features", json=body)
    found = problem(response)
    assert (response.status_code, found["code"], found.get("field", "")) == (status, code, field)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b'{"service": NaN}', b'{"service": "plain", "entities": []} more', b"[" * 9000]
)
def test_what_is_no_json_is_a_bad_request(call, body):
    response = call("POST", "/v1/features", content=body, headers={"content-type": "application/json"})
    found = problem(response)
    assert (response.status_code, found["code"]) in {(400, "malformed-json"), (422, "wrong-type")}


@pytest.mark.parametrize("path", ["/v1/features", "/v1/sources/x/events", "/get-online-features", "/push"])
@pytest.mark.parametrize(
    "body", [b'{"a": ' + b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"service": "\xff"}', b"\xff\xfe", b"{"]
)
def test_no_route_fails_at_what_is_no_json(call, path, body):
    """Found in a review: nesting and text that is no UTF-8 were answered 500."""
    found = problem(call("POST", path, content=body, headers={"content-type": "application/json"}))
    assert (found["status"], found["code"]) == (400, "malformed-json") or found["status"] == 422


@pytest.mark.parametrize("depth", range(100, 1_100, 50))
def test_nesting_is_no_failure_of_the_server_however_deep(call, depth):
    value = b"[" * depth + b"]" * depth
    body = b'{"service": "plain", "entities": [{"user": ' + value + b"}]}"
    found = problem(call("POST", "/v1/features", content=body))
    assert (found["status"], found["code"]) in {(400, "malformed-json"), (422, "wrong-type")}


def test_lone_surrogates_are_refused(call):
    body = rb'{"service": "plain", "entities": [{"user": "\ud800"}]}'
    response = call("POST", "/v1/features", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)


def test_other_content_types_are_refused(call):
    response = call("POST", "/v1/features", content=b"{}", headers={"content-type": "text/plain"})
    assert response.status_code == 415
    assert problem(response)["code"] == "unsupported-media-type"


def test_other_methods_are_refused(call):
    response = call("GET", "/v1/features")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert problem(response)["code"] == "method-not-allowed"


@pytest.fixture
def narrow(store):
    config = store.config.model_copy(update={"server": ServerConfig(max_body=200, max_entities=2, auth="none")})
    with FeatureStore(config, clock=store.clock) as opened:
        yield Caller(create_app(opened))


def test_a_body_over_the_limit_is_too_large(narrow):
    response = narrow.ask(entities=[{"user": 1}] * 50)
    assert response.status_code == 413
    assert problem(response)["code"] == "too-large"


def test_the_limit_counts_bytes_not_what_the_header_says(narrow):
    async def chunks():
        for _ in range(100):
            yield b" " * 50

    response = narrow("POST", "/v1/features", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 413


def test_entities_over_the_limit_are_too_many(narrow):
    assert narrow.ask(entities=[{"user": 1}] * 2).status_code == 200
    response = narrow.ask(entities=[{"user": 1}] * 3)
    assert response.status_code == 413
    assert problem(response)["field"] == "/entities"


def test_a_view_without_state_is_no_mistake_of_the_caller(store, tmp_path):
    config = store.config.model_copy(update={"online": f"sqlite:///{tmp_path}/empty.db"})
    with FeatureStore(config, clock=store.clock) as opened:
        response = Caller(create_app(opened)).ask()
    assert response.status_code == 503
    assert problem(response)["code"] == "not-materialized"


def test_what_nobody_foresaw_is_told_without_its_details(call, store, caplog):
    class Broken:
        store = SimpleNamespace(keeps_time=True)

        def answer_many(self, _):
            raise RuntimeError("a secret")

        def forget(self):
            pass

    store.parts.serving = Broken()
    response = call.ask()
    assert response.status_code == 500
    assert problem(response)["code"] == "internal-error"
    assert "secret" not in response.text
    assert "a secret" in caplog.text


def test_damaged_state_is_an_error_and_never_a_number(call, store):
    import sqlite3

    call.ask()
    with sqlite3.connect(store.config.folder / "online.db") as connection:
        connection.execute("UPDATE online_state SET value = CAST(substr(value, 1, length(value) - 1) || x'5a' AS BLOB)")
    connection.close()
    response = call.ask()
    assert response.status_code == 503
    assert problem(response)["code"] in {"corrupt-state", "foreign-state"}
    with pytest.raises(StateError):
        store.get_online_features("plain", [{"user": 1}])


def test_served_rows_are_in_the_log_once_the_store_is_closed(call, store):
    request_id = call.ask("plain", [{"user": 1}, {"user": 2}]).json()["request_id"]
    call.ask("plain", [{"user": "no"}])
    store.close()
    tables = list(store.parts.serving_log.read("plain", since_us=0, until_us=2**60))
    rows = [row for table in tables for row in table.to_pylist()]
    assert [(row["request_id"], row["row"], row["key__user"]) for row in rows] == [
        (request_id, 0, 1),
        (request_id, 1, 2),
    ]


def test_the_body_of_the_documented_example_is_answered(call):
    document = call("GET", "/openapi.json").json()
    question = document["components"]["schemas"]["Question"]["properties"]
    assert json.loads(json.dumps(question["entities"]["examples"]))
    assert question["as_of"]["examples"] == ["2013-12-01T12:00:00Z"]


def test_another_plan_than_expected_is_flagged_if_the_server_says_so(store):
    flagging = store.config.server.model_copy(update={"on_fingerprint_mismatch": "flag"})
    store.parts.config = store.config.model_copy(update={"server": flagging})
    live = store.plan("plain").fingerprint
    call = Caller(create_app(store))
    answer = call.ask(expected_fingerprint="0" * 64)
    assert (answer.status_code, answer.headers["x-fingerprint-mismatch"]) == (200, live)
    assert "x-fingerprint-mismatch" not in call.ask(expected_fingerprint=live).headers
