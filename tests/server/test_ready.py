"""Probes and metrics tell what can be answered, within a second whatever hangs."""

import dataclasses
import threading
import time

import pytest

from featurestore import FeatureService
from featurestore.config import Config
from featurestore.core.errors import ConfigError, RegistryError, UnknownUdfError
from featurestore.online.answering.cached_value import RECHECK_US
from featurestore.online.filling.removal import discard
from featurestore.server.app import create_app
from featurestore.server.probes import PROBE_SECONDS
from featurestore.server.workers import _temporary_folder
from tests.server.conftest import LAST, SPENDING, Caller
from tests.server.test_telemetry import samples

FEAST = {"features": ["spending:total"], "entities": {"user": [1]}}


def later(store):
    store.clock.instant_us += RECHECK_US


def is_quick(ask):
    began = time.perf_counter()
    answer = ask()
    assert time.perf_counter() - began < 5 * PROBE_SECONDS, "the machine may be busy, but nothing hangs for 30 s"
    return answer


@pytest.fixture
def hanging():
    """Return what lets a method hang until the test is over."""
    is_over = threading.Event()

    def hang(owner, name):
        method = getattr(owner, name)

        def hung(*arguments, **options):
            is_over.wait(60)
            return method(*arguments, **options)

        setattr(owner, name, hung)

    yield hang
    is_over.set()


def test_a_new_service_is_named_and_takes_nobody_out(call, store):
    assert call("GET", "/readyz").json() == {"status": "ready"}
    store.apply(FeatureService("new", features=[SPENDING, dataclasses.replace(LAST, name="newer")]))
    later(store)
    found = call("GET", "/readyz")
    assert (found.status_code, list(found.json()["unready"])) == (200, ["new"])
    assert "nothing is materialized" in found.json()["unready"]["new"]
    assert call("GET", "/health").status_code == 200
    assert samples(call)["featurestore_service_ready", "new"] == 0
    assert samples(call)["featurestore_service_ready", "plain"] == 1


def test_a_registry_that_is_away_takes_nobody_out_and_feasts_routes_answer(call, store):
    assert (call("GET", "/readyz").status_code, call("POST", "/get-online-features", json=FEAST).status_code) == (
        200,
        200,
    )

    def fail(*_):
        raise RegistryError("connection refused", where="registry")

    store.parts.catalog.services = store.parts.catalog.views = store.parts.catalog.streams = (
        store.parts.live_plans.plan
    ) = fail
    store.registry.last_jobs = store.parts.live_plans.view = fail
    later(store)
    ready = call("GET", "/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready", "registry": "registry"})
    assert call("GET", "/health").status_code == 200
    assert call("POST", "/get-online-features", json=FEAST).status_code == 200
    assert [one["name"] for one in call("GET", "/v1/services").json()["services"]] == ["all_of_it", "plain"]
    found = samples(call)
    assert (found["featurestore_store_up",], found["featurestore_registry_up",]) == (1, 0)


def test_a_registry_that_hangs_keeps_neither_probes_nor_metrics_nor_questions(call, store, hanging):
    assert call("GET", "/readyz").status_code == 200
    call("POST", "/get-online-features", json=FEAST)
    hanging(store.parts.catalog, "services")
    hanging(store.parts.catalog, "views")
    hanging(store.parts.live_plans, "plan")
    hanging(store.parts.live_plans, "view")
    hanging(store.parts.streams, "heads")
    hanging(store.registry, "last_jobs")
    for _ in range(3):
        later(store)
        assert is_quick(lambda: call("GET", "/readyz")).status_code == 200
        assert is_quick(lambda: call("GET", "/health")).status_code == 200
        assert is_quick(call.ask).status_code == 200
        assert is_quick(lambda: call("POST", "/get-online-features", json=FEAST)).status_code == 200
        found = is_quick(lambda: samples(call))
        assert (found["featurestore_store_up",], found["featurestore_registry_up",]) == (1, 0)
        assert found["featurestore_event_log_up",] == 0
    assert sum(thread.name in ("registry", "findings", "log heads") for thread in threading.enumerate()) < 12


def test_a_store_that_hangs_is_not_ready_and_leaves_metrics(call, store, hanging):
    assert call("GET", "/readyz").status_code == 200
    hanging(store.parts.serving.store._store, "read")
    for _ in range(2):
        found = is_quick(lambda: call("GET", "/readyz"))
        assert (found.status_code, found.json()["code"]) == (503, "not-ready-in-time")
        assert is_quick(lambda: call("GET", "/health")).status_code == 503
        assert is_quick(lambda: samples(call))["featurestore_store_up",] == 0


def test_a_view_that_lost_its_state_is_told_and_its_staleness_rises(call, store):
    assert samples(call)["featurestore_view_has_state", "spending"] == 1
    discard(store.parts.online, store.views()[-1], is_needed=lambda: False)
    store.clock.instant_us += 90_000_000
    found = samples(call)
    assert found["featurestore_view_has_state", "spending"] == 0
    assert found["featurestore_view_staleness_seconds", "spending"] == 90
    ready = call("GET", "/readyz")
    assert (ready.status_code, ready.json()["code"]) == (503, "not-materialized")


def test_a_plan_whose_function_is_missing_is_refused_with_503_on_every_route(call, store, monkeypatch):
    def fail(*_):
        raise UnknownUdfError("the function is not defined in this process", where="udf 'taxed'")

    monkeypatch.setattr("featurestore.online.answering.lookup.find_udf", fail)
    monkeypatch.setattr("featurestore.plan.model.Plan.udfs", frozenset({("taxed", "")}))
    feast = {"feature_service": "plain", "entities": {"user": [1]}}
    for answer in (call.ask(), call("POST", "/get-online-features", json=feast), call("GET", "/readyz")):
        assert (answer.status_code, answer.json()["code"]) == (503, "unknown-udf")
    assert call.ask().headers["retry-after"] == "5"


def test_clients_of_feast_may_expect_a_plan(call, store):
    feast = {"feature_service": "plain", "entities": {"user": [1]}}
    live = store.plan("plain").fingerprint
    assert call("POST", "/get-online-features", json={**feast, "expected_fingerprint": live}).status_code == 200
    refused = call("POST", "/get-online-features", json={**feast, "expected_fingerprint": "f" * 64})
    assert (refused.status_code, refused.json()["code"]) == (409, "fingerprint-mismatch")


def test_workers_share_metrics_where_something_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    with _temporary_folder(tmp_path / "data") as folder:
        assert folder.startswith(str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="TMPDIR"):
        _temporary_folder(Config.local("/proc/nowhere").data)


def test_probes_answer_while_all_other_threads_hang(call, store, hanging):
    app = create_app(store)
    asked = Caller(app)
    assert asked("GET", "/readyz").status_code == 200
    is_over = threading.Event()
    for _ in range(16):
        app.threads._threads.submit(lambda: is_over.wait(60))
    try:
        assert is_quick(lambda: asked("GET", "/readyz")).status_code == 200
        assert is_quick(lambda: asked("GET", "/metrics")).status_code == 200
    finally:
        is_over.set()
