"""POST /get-online-features: Feast's JSON in both directions, the store's values."""

import dataclasses
import json

import httpx
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FrameSource, agg, col
from featurestore import request as request_input
from featurestore.core.statuses import Status
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.definitions.views import OnDemandFeatureView
from featurestore.server.app import create_app
from featurestore.server.feast.answers import NO_EVENT, STATUSES
from tests.server.conftest import LAST, NOW, ORDERS, SPENDING, Caller
from tests.server.test_features import problem

ROWS = {"user": [1, 2, 9]}


def ask(call, **fields) -> httpx.Response:
    return call("POST", "/get-online-features", json={"entities": ROWS, **fields})


def columns(response) -> dict[str, dict]:
    assert response.status_code == 200, response.text
    found = response.json()
    assert sorted(found) == ["metadata", "results"]
    return dict(zip(found["metadata"]["feature_names"], found["results"], strict=True))


def logged(store) -> set[str]:
    """Return the services whose answers were logged."""
    store.close()
    return {path.parent.parent.name.removeprefix("service=") for path in store.config.data.rglob("*.parquet")}


def test_features_are_answered_column_by_column(call):
    """The request is byte for byte what Feast's client sends; the answer is what it reads."""
    body = (
        '{"entities": {"user": [1, 2, 9]}, "full_feature_names": false, "include_feature_view_version_metadata": false,'
        ' "features": ["spending:orders", "spending:expired", "last_order:shipped"]}'
    )
    response = call("POST", "/get-online-features", content=body, headers={"content-type": "application/json"})
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "metadata": {"feature_names": ["user", "orders", "expired", "shipped"]},
        "results": [
            {"values": [1, 2, 9], "statuses": ["PRESENT"] * 3, "event_timestamps": ["1970-01-01T00:00:00Z"] * 3},
            {
                "values": [2, 1, 0],
                "statuses": ["PRESENT", "PRESENT", "NOT_FOUND"],
                "event_timestamps": ["2024-05-01T02:00:00Z", "2024-05-01T03:00:00Z", "1970-01-01T00:00:00Z"],
            },
            {
                "values": [None, None, None],
                "statuses": ["OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND"],
                "event_timestamps": ["2024-05-01T02:00:00Z", "2024-05-01T03:00:00Z", "1970-01-01T00:00:00Z"],
            },
            {
                "values": [1714532400, 1714539600, None],
                "statuses": ["PRESENT", "PRESENT", "NOT_FOUND"],
                "event_timestamps": ["2024-05-01T02:00:00Z", "2024-05-01T03:00:00Z", "1970-01-01T00:00:00Z"],
            },
        ],
    }


def test_a_body_without_a_media_type_is_read(call):
    """Older versions of Feast's client name none."""
    body = json.dumps({"features": ["spending:orders"], "entities": {"user": [1]}})
    assert columns(call("POST", "/get-online-features", content=body.encode()))["orders"]["values"] == [2]


def test_every_dtype_has_a_form(call):
    names = ("price", "day", "shop", "raw", "shipped", "paid", "days")
    found = columns(ask(call, features=[f"last_order:{name}" for name in names]))
    assert {name: found[name]["values"][0] for name in names} == {
        "price": "2.20",
        "day": "2024-05-01",
        "shop": "ü",
        "raw": "",
        "shipped": 1714532400,
        "paid": False,
        "days": ["2024-04-30", "2024-05-01"],
    }


def test_a_service_is_answered_with_its_own_names(call, store):
    plan = store.plan("all_of_it")
    budget = {"budget": [10, 10, 10]}
    asked = {"feature_service": "all_of_it", "entities": ROWS | budget}
    found = columns(call("POST", "/get-online-features", json={**asked, "full_feature_names": True}))
    assert list(found) == ["user", *(output.name for output in plan.outputs)]
    assert found["budget__left"]["values"] == [7.5, 6.0, None]
    assert found["budget__left"]["event_timestamps"] == [NO_EVENT] * 3
    assert list(columns(call("POST", "/get-online-features", json=asked)))[-1] == "left"


def test_on_demand_features_are_asked_for_with_their_inputs(call):
    features = ["budget:left", "spending:total"]
    found = columns(ask(call, features=features, entities=ROWS | {"budget": [1, 2, 3]}))
    assert list(found) == ["user", "left", "total"]
    assert found["left"]["values"][0] == -1.5
    refused = problem(ask(call, features=features))
    assert (refused["status"], refused["field"]) == (422, "/entities/budget")


def test_a_renamed_feature_is_asked_for_by_its_own_name(store):
    store.apply(FeatureService("renamed", features=[LAST["shop"].renamed("where")]))
    call = Caller(create_app(store))
    assert columns(ask(call, feature_service="renamed"))["where"]["values"] == ["ü", None, None]
    assert columns(ask(call, features=["last_order:shop"]))["shop"]["values"] == ["ü", None, None]


def test_a_service_that_reads_just_these_views_answers_and_logs(store):
    """What no service reads just so is answered too, from the views themselves."""
    store.apply(FeatureService("too_many", features=[SPENDING, LAST, LAST.aliased("again")]))
    call = Caller(create_app(store))
    assert columns(ask(call, features=["spending:total"]))["total"]["values"] == [2.5, 4.0, None]
    columns(ask(call, features=["last_order:shop", "spending:total"]))
    assert logged(store) == {"plain"}


def test_a_view_is_never_answered_by_another_that_a_service_calls_by_its_name(store):
    """Found in a review: of a service that used another view under this name its values came."""
    other = dataclasses.replace(
        SPENDING, name="other", features={"total": agg.sum(col("amount") * -1).over("1d"), "n": agg.count().over("1d")}
    )
    odd = FeatureService("odd", features=[other.aliased("spending")])
    store.apply(odd, other)
    store.materialize()
    call = Caller(create_app(store))
    assert columns(ask(call, features=["spending:total"]))["total"]["values"] == [2.5, 4.0, None]
    store.apply(odd, LAST, prune=True)
    assert columns(ask(call, features=["spending:total"]))["total"]["values"] == [-2.5, -4.0, None]


def test_a_feature_that_only_a_namesake_has_is_not_the_views(store):
    other = dataclasses.replace(SPENDING, name="other", features={"n": agg.count().over("1d")})
    store.apply(FeatureService("odd", features=[other.aliased("spending")]))
    store.materialize()
    found = problem(ask(Caller(create_app(store)), features=["spending:n"]))
    assert (found["status"], found["code"]) == (404, "unknown-feature")


def test_a_service_that_asks_a_view_by_other_keys_does_not_answer_for_it(store):
    buyer = FeatureService("by_buyer", features=[SPENDING.aliased("spending", keys={"user": "buyer"})])
    store.apply(buyer, FeatureService("plain", features=[LAST]))
    call = Caller(create_app(store))
    asked = {"features": ["spending:total"], "entities": {"user": [1], "buyer": [2]}}
    assert columns(call("POST", "/get-online-features", json=asked))["total"]["values"] == [2.5]


def test_null_stands_for_what_is_not_asked(call):
    """Clients write both fields, of which one is null."""
    assert "orders" in columns(ask(call, features=None, feature_service="plain"))
    assert "orders" in columns(ask(call, features=["spending:orders"], feature_service=None))


def test_an_answer_is_logged_under_the_name_of_its_request(call, store):
    asked = {"features": ["spending:total"], "entities": ROWS}
    response = call("POST", "/get-online-features", json=asked, headers={"x-request-id": "feast-7"})
    assert response.headers["x-request-id"] == "feast-7"
    store.close()
    (file,) = store.config.data.rglob("*.parquet")
    assert set(pq.read_table(file).column("request_id").to_pylist()) == {"feast-7"}


def test_unknown_columns_are_ignored_as_feast_does(call):
    found = columns(ask(call, features=["spending:total"], entities=ROWS | {"session": ["a", "b", "c"]}))
    assert list(found) == ["user", "total"]


def test_no_entities_have_no_values(call):
    found = columns(ask(call, features=["spending:total"], entities={"user": []}))
    assert found["total"] == {"values": [], "statuses": [], "event_timestamps": []}


def test_null_keys_are_answered(call):
    found = columns(ask(call, features=["spending:total"], entities={"user": [None]}))
    assert found["user"]["statuses"] == ["NULL_VALUE"]
    assert found["total"]["statuses"] == ["NOT_FOUND"]


def test_every_kind_of_answer_has_feasts_word():
    assert set(STATUSES) == {status.name for status in Status}


@pytest.mark.parametrize(
    ("fields", "status", "code", "field"),
    [
        ({}, 422, "request", "/features"),
        ({"features": ["spending"]}, 422, "reference", "/features/0"),
        ({"features": ["spending:orders", ":x"]}, 422, "reference", "/features/1"),
        ({"features": ["spendin:orders"]}, 404, "unknown-view", "/features/0"),
        ({"features": ["spending:orders", "spending:order"]}, 404, "unknown-feature", "/features/1"),
        ({"features": ["budget:left", "budget:lef"]}, 404, "unknown-view", "/features/1"),
        ({"features": ["budget:left", "spending:order"]}, 404, "unknown-feature", "/features/1"),
        ({"feature_service": "plane"}, 404, "unknown-service", "/feature_service"),
        ({"features": ["spending:orders"], "entities": {}}, 422, "missing-field", "/entities/user"),
        ({"features": ["spending:orders"], "entities": {"user": [1], "x": []}}, 422, "lengths-differ", "/entities"),
        ({"features": ["spending:orders"], "entities": {"user": [1, "2"]}}, 422, "wrong-type", "/entities/user/1"),
        ({"features": ["last_order:shop"], "entities": {"user": [1.5]}}, 422, "wrong-type", "/entities/user/0"),
        ({"features": ["spending:orders"] * 2}, 422, "asked-twice", "/features/1"),
        ({"features": None}, 422, "request", "/features"),
        ({"features": ["spending:orders"], "entities": {"user": [1] * 1001}}, 413, "too-large", "/entities"),
        ({"features": "spending:orders"}, 422, "wrong-type", "/features"),
        (
            {"feature_service": "all_of_it", "entities": ROWS | {"budget": [1, 2, ""]}},
            422,
            "wrong-type",
            "/entities/budget/2",
        ),
    ],
)
def test_a_callers_mistake_names_its_place(call, fields, status, code, field):
    found = problem(ask(call, **fields))
    assert (found["status"], found["code"], found["field"]) == (status, code, field)


def test_what_is_not_json_is_refused(call):
    assert problem(call("POST", "/get-online-features", content=b"{"))["code"] == "malformed-json"
    large = b'{"entities": {"user": [' + b"1," * 600_000 + b"1]}}"
    assert problem(call("POST", "/get-online-features", content=large))["code"] == "too-large"


def test_features_of_several_views_that_share_a_name_need_their_full_names(store):
    store.apply(FeatureService("two", features=[SPENDING, SPENDING.aliased("again")]))
    call = Caller(create_app(store))
    assert problem(ask(call, feature_service="two"))["code"] == "name-collision"
    assert "again__total" in columns(ask(call, feature_service="two", full_feature_names=True))


def test_of_services_that_hold_an_on_demand_feature_the_smallest_is_asked(store):
    """One needs inputs that are not given, another reads more views."""
    view = OnDemandFeatureView("twice", features={"total": SPENDING["total"] * 2})
    other = OnDemandFeatureView(
        "more", request={"x": "float64"}, features={"x": request_input("x") + LAST["price"].cast("float64")}
    )
    store.apply(
        FeatureService("a_large", features=[view, other]),
        FeatureService("larger", features=[view, LAST]),
        FeatureService("small", features=[view]),
    )
    found = columns(ask(Caller(create_app(store)), features=["twice:total"]))
    assert found["total"]["values"] == [5.0, 8.0, None]
    assert logged(store) == {"small"}


def test_health_is_whether_it_can_answer(call):
    response = call("GET", "/health")
    assert (response.status_code, response.content) == (200, b"")


def test_until_a_definition_is_promoted_the_one_before_answers(store):
    """Also about what there is to ask: a feature that only the new one has is not there yet."""
    features = {"total": agg.sum(col("amount")).over("2h"), "largest": agg.max(col("amount")).over("1d")}
    store.apply(FeatureService("plain", features=[dataclasses.replace(SPENDING, features=features)]), promote=False)
    store.materialize()
    call = Caller(create_app(store))
    assert "orders" in columns(ask(call, feature_service="plain"))
    assert columns(ask(call, features=["spending:orders"]))["orders"]["values"] == [2, 1, 0]
    assert problem(ask(call, features=["spending:largest"]))["code"] == "unknown-feature"
    (service,) = (found for found in call("GET", "/v1/services").json()["services"] if found["name"] == "plain")
    assert (
        service["fingerprint"] == store.get_online_features("plain", []).fingerprint != store.plan("plain").fingerprint
    )
    store.promote("plain")
    assert columns(ask(call, features=["spending:largest"]))["largest"]["values"] == [2.5, 4.0, None]


def test_features_that_no_service_has_together_are_asked_apart(store):
    twice = OnDemandFeatureView("twice", features={"total": SPENDING["total"] * 2})
    thrice = OnDemandFeatureView("thrice", features={"total": SPENDING["total"] * 3})
    store.apply(FeatureService("a", features=[twice]), FeatureService("b", features=[thrice]))
    found = problem(ask(Caller(create_app(store)), features=["twice:total", "thrice:total"]))
    assert (found["status"], found["code"]) == (404, "no-such-service")


def test_keys_that_are_instants_come_in_seconds(store):
    """As Feast writes them; or as text, as the store reads them."""
    view = dataclasses.replace(SPENDING, name="by_hour", entity=Entity("hour", key="at_hour", dtype="timestamp"))
    hours = ORDERS.append_column("at_hour", ORDERS["at"])
    source = FrameSource("hours", frame=hours, event_time="at")
    store.apply(FeatureService("hourly", features=[dataclasses.replace(view, source=source)]))
    store.materialize(views=["by_hour"])
    call = Caller(create_app(store))
    seconds = instant_us("2024-05-01T03:00:00Z") // 1_000_000
    keys = {"at_hour": [seconds, "2024-05-01T03:00:00Z", seconds + 1]}
    assert columns(ask(call, feature_service="hourly", entities=keys))["orders"]["values"] == [1, 1, 0]
    far = problem(ask(call, feature_service="hourly", entities={"at_hour": [10**15]}))
    assert (far["status"], far["field"]) == (422, "/entities/at_hour/0")


def test_without_state_it_is_not_healthy(store, tmp_path):
    config = store.config.model_copy(update={"online": f"sqlite:///{tmp_path}/empty.db"})
    with FeatureStore(config, clock=store.clock) as empty:
        call = Caller(create_app(empty))
        assert (call("GET", "/health").status_code, call("GET", "/health").content) == (503, b"")
        assert problem(ask(call, features=["spending:total"]))["code"] == "not-materialized"


def test_a_sum_that_does_not_fit_takes_nothing_from_features_of_views(tmp_path):
    bigs = FrameSource("bigs", frame=ORDERS.append_column("big", [[2**62, 2**62, 1]]), event_time="at")
    features = {"sum": agg.sum(col("big")).over("1d"), "n": agg.count().over("1d")}
    view = dataclasses.replace(SPENDING, name="bigs", source=bigs, features=features)
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as store:
        store.apply(view)
        store.materialize()
        call = Caller(create_app(store))
        assert columns(ask(call, features=["bigs:n"]))["n"]["values"] == [2, 1, 0]
        refused = problem(ask(call, features=["bigs:n", "bigs:sum"]))
    assert (refused["status"], refused["code"], refused["field"]) == (422, "overflow", "/entities/user/0")
