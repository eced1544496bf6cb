"""Everything but the hot route: what services there are, health, and the API's own description."""

import asyncio
import re

import httpx

from featurestore.config import CONFIG_VARIABLE
from featurestore.server.app import create_app
from featurestore.store import FeatureStore
from tests.server.conftest import NOW, Caller


def test_services_say_what_to_ask_with_and_what_comes_back(call, store):
    found = {service["name"]: service for service in call("GET", "/v1/services").json()["services"]}
    assert sorted(found) == ["all_of_it", "plain"]
    plan = store.plan("all_of_it")
    service = found["all_of_it"]
    assert service["fingerprint"] == plan.fingerprint
    assert service["keys"] == [{"name": "user", "dtype": "int64"}]
    assert service["request"] == [{"name": "budget", "dtype": "float64"}]
    assert [column["name"] for column in service["columns"]] == [output.name for output in plan.outputs]
    assert service["views"]["last_order"]["refresh"] == "every 1h, lag 0s"


def test_a_running_server_is_healthy(call):
    assert call("GET", "/healthz").json() == {"status": "ok"}


def test_a_server_is_ready_once_every_service_can_be_answered(call, store, tmp_path):
    assert call("GET", "/readyz").json() == {"status": "ready"}
    config = store.config.model_copy(update={"online": f"sqlite:///{tmp_path}/empty.db"})
    with FeatureStore(config, clock=store.clock) as empty:
        response = Caller(create_app(empty))("GET", "/readyz")
    assert response.status_code == 503
    assert response.json()["code"] == "not-materialized"
    assert response.headers["content-type"] == "application/problem+json"


def test_unknown_paths_are_problems_too(call):
    response = call("GET", "/v2")
    assert response.status_code == 404
    assert response.json()["code"] == "not-found"
    assert response.headers["content-type"] == "application/problem+json"


def test_openapi_describes_every_route_and_its_refusals(call):
    document = call("GET", "/openapi.json").json()
    assert {"/v1/features", "/v1/services", "/healthz", "/readyz"} <= set(document["paths"])
    feast = {"/get-online-features", "/push", "/materialize", "/materialize-incremental", "/health"}
    assert feast | {"/v1/sources/{source}/events"} <= set(document["paths"])
    features = document["paths"]["/v1/features"]["post"]
    codes = "200 400 401 403 404 406 408 409 413 415 422 431 503 504"
    assert set(features["responses"]) == set(codes.split())
    schemas = document["components"]["schemas"]
    for reference in ("Question", "Reply", "Row", "ViewState", "Problem"):
        assert reference in schemas
    assert features["requestBody"]["content"]["application/json"]["examples"]


def test_the_store_is_opened_at_the_start_and_closed_at_the_end(store, tmp_path, monkeypatch):
    file = tmp_path / "featurestore.toml"
    file.write_text(f'registry = "{store.config.registry}"\nonline = "{store.config.online}"\ndata = "data"')
    monkeypatch.setenv(CONFIG_VARIABLE, str(file))
    question = {"service": "plain", "entities": [{"user": 1}], "as_of": NOW}
    app = create_app()

    async def live() -> httpx.Response:
        async with (
            app.lifespan(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            return await client.post("/v1/features", json=question)

    assert asyncio.run(live()).status_code == 200
    assert Caller(app).ask().json()["code"] == "not-started"
    assert list((tmp_path / "data").rglob("*.parquet"))


def test_requests_before_the_start_are_told_to_wait():
    async def call():
        return Caller(create_app())

    caller = asyncio.run(call())
    assert caller.ask().status_code == 503
    assert caller("GET", "/readyz").json()["code"] == "not-started"


def test_the_page_for_people_describes_every_route_and_loads_nothing(call):
    page = call("GET", "/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    for path, operations in call("GET", "/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}</h2>" in page.text
    assert "default-src &#x27;none&#x27;" in page.text
    assert "<script" not in page.text
    assert set(re.findall(r'(?:src|href)="([^#"][^"]*)"', page.text)) == {"http://test/openapi.json"}
    assert "curl -s &#x27;http://test/v1/features&#x27;" in page.text


def test_the_page_for_people_takes_nothing_of_its_caller_as_markup(call):
    page = call("GET", "/docs", headers={"host": 'a"><script>b'})
    assert page.status_code in (200, 400)
    assert "<script" not in page.text
