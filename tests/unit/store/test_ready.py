"""A process is ready if it can answer what it answered before, and starts with the cached plans."""

import importlib
import json
import stat
import textwrap

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureView, FileSource, agg
from featurestore.core.errors import RegistryError, StateError, UnknownUdfError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.definitions import udf
from featurestore.online.answering.cached_value import RECHECK_US
from featurestore.online.filling.removal import discard
from featurestore.parts import Parts
from featurestore.store import FeatureStore
from tests.server.conftest import NOW, ORDERS, USER
from tests.stores import local_store

KNOWN = [{"user": 1}]
AWAY = "sqlite:////proc/nowhere/registry.db"


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def opened(tmp_path, clock):
    stores = []

    def open_store(plan_cache=None, **changes) -> FeatureStore:
        config = local_store(tmp_path / "store").config.model_copy(update=changes)
        ready = {} if plan_cache is None else {"plan_cache": plan_cache}
        store = FeatureStore(config, parts=Parts(config, clock=clock, **ready))
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def orders(tmp_path):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    return FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")


def add(store, orders, name, window="1d"):
    view = FeatureView(name, entity=USER, source=orders, features={"n": agg.count().over(window)})
    store.apply(FeatureService(f"{name}_model", features=[view]), prune=False)


def away(store):
    """Let the registry of an open store fail from now on."""

    def fail(*_):
        raise RegistryError("connection refused", where="registry")

    store.parts.catalog.services = store.parts.catalog.views = store.parts.live_plans.plan = fail
    store.clock.instant_us += RECHECK_US
    return store


def unready(store):
    return [one.service for one in store.readiness().unready]


def test_a_new_service_without_state_takes_nobody_out(opened, orders, clock):
    server, trainer = opened(), opened()
    add(trainer, orders, "old")
    trainer.materialize()
    assert server.readiness().is_ready
    add(trainer, orders, "new")
    clock.instant_us += RECHECK_US
    assert server.readiness().is_ready
    assert unready(server) == ["new_model"]
    trainer.materialize()
    clock.instant_us += RECHECK_US
    assert unready(server) == []


def test_a_service_that_lost_its_state_takes_the_process_out(opened, orders, clock):
    store = opened()
    for name in ("a", "b"):
        add(store, orders, name)
    store.materialize()
    assert store.readiness().is_ready
    lost = store.services()[1].uses[0].view
    discard(store.parts.online, lost, is_needed=lambda: False)
    clock.instant_us += RECHECK_US
    found = store.readiness()
    assert not found.is_ready
    assert (unready(store), found.problem.code) == (["b_model"], "not-materialized")


def test_a_process_that_can_answer_nothing_is_not_ready(opened, orders):
    store = opened()
    assert store.readiness().is_ready, "there is nothing to answer"
    add(store, orders, "a")
    store._discard_live_plans()
    found = store.readiness()
    assert isinstance(found.problem, StateError)


def test_a_registry_that_is_away_takes_nobody_out(opened, orders):
    store = opened()
    add(store, orders, "a")
    store.materialize()
    assert store.readiness().is_ready
    away(store)
    found = store.readiness()
    assert found.is_ready
    assert found.registry_problem is not None
    assert [plan.name for plan in store.live_services()] == ["a_model"]
    assert [view.name for view in store.live_views()] == ["a"]


def test_a_process_starts_with_the_plans_known_last_while_the_registry_is_away(opened, orders):
    before = opened()
    add(before, orders, "a")
    before.materialize()
    expected = before.get_online_features("a_model", KNOWN)
    before.readiness()
    server = opened(before.parts.plan_cache, registry=AWAY)
    assert server.service_names() == ("a_model",)
    assert server.readiness().is_ready
    found = server.get_online_features("a_model", KNOWN, expected_fingerprint=expected.fingerprint)
    assert (found.rows, found.fingerprint) == (expected.rows, expected.fingerprint)
    assert server.get_online_views(["a"], KNOWN).rows == expected.rows
    with pytest.raises(RegistryError):
        server.get_online_features("b_model", KNOWN)


def test_the_first_start_ever_needs_the_registry(opened):
    server = opened(registry=AWAY)
    with pytest.raises(RegistryError):
        server.service_names()
    assert isinstance(server.readiness().problem, RegistryError)


@pytest.mark.parametrize("damage", ["cut", "other plan", "other version", "no json", "a list"])
def test_plans_that_were_damaged_on_disk_are_not_answered(opened, orders, damage, caplog):
    before = opened()
    add(before, orders, "a")
    before.materialize()
    before.readiness()
    file = before.parts.plan_cache.file
    written = json.loads(file.read_bytes())
    if damage == "other plan":
        written["plans"][0]["plan"] = written["plans"][0]["plan"].replace("86400000000", "86400000001")
    if damage == "other version":
        written["version"] = 0
    text = {"cut": json.dumps(written)[:-40], "no json": "", "a list": "[1]"}.get(damage, json.dumps(written))
    file.write_text(text)
    server = opened(before.parts.plan_cache, registry=AWAY)
    with pytest.raises(RegistryError):
        server.get_online_features("a_model", KNOWN)


def test_plans_are_kept_for_their_owner_alone_and_leave_nothing_half_written(opened, orders, clock):
    store = opened()
    add(store, orders, "a")
    store.materialize()
    store.readiness()
    (file,) = store.parts.plan_cache.file.parent.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.stat().st_mtime_ns
    store.readiness()
    assert file.stat().st_mtime_ns == before, "nothing changed"
    add(store, orders, "a", "2d")
    store.materialize()
    clock.instant_us += RECHECK_US
    store.readiness()
    assert store.plan("a_model").fingerprint in file.read_text()


def test_a_disk_that_refuses_plans_fails_nobody(opened, orders, caplog):
    store = opened()
    add(store, orders, "a")
    store.materialize()
    (store.config.data / "serving").write_text("a file where the folder should be")
    for _ in range(3):
        assert store.readiness().is_ready
    assert caplog.text.count("plans cannot be cached in") == 1


DEFINITIONS = """
    import pyarrow.compute as pc
    from featurestore import Entity, FeatureService, FeatureView, FileSource, OnDemandFeatureView, agg, col, udf
    @udf(returns="float64")
    def taxed(x):
        return pc.multiply(x, {rate})
    user = Entity("user", key="user", dtype="int64")
    orders = FileSource("orders", path="{path}", event_time="at")
    spending = FeatureView("spending", entity=user, source=orders, features={{"last": agg.last(col("amount"))}})
    od = OnDemandFeatureView("od", features={{"tax": taxed(spending["last"])}})
    model = FeatureService("model", features=[spending, od])
    plain = FeatureService("plain", features=[spending])
"""


@pytest.fixture
def version(tmp_path, orders, monkeypatch):
    """Return what lets this process have one version of the function, and no other; it gives the definitions."""
    known: dict[float, dict] = {}

    def become(rate):
        module = f"definitions_{tmp_path.name}_{str(rate).replace('.', '_')}"
        (tmp_path / f"{module}.py").write_text(
            textwrap.dedent(DEFINITIONS.format(rate=rate, path=tmp_path / "orders.parquet"))
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        if rate not in known:
            monkeypatch.setattr(udf, "_REGISTERED", {})
            known[rate] = (importlib.import_module(module), dict(udf._REGISTERED))
        monkeypatch.setattr(udf, "_REGISTERED", known[rate][1])
        return known[rate][0]

    return become


def test_while_a_changed_function_is_rolled_out_old_processes_answer_on_by_the_plan_they_know(opened, version, clock):
    old_process, job = opened(), opened()
    old = version(1.1)
    job.apply(old)
    job.materialize()
    before = old_process.get_online_features("model", KNOWN)
    assert old_process.readiness().is_ready
    job.apply(version(1.2))
    job.materialize()
    after = job.get_online_features("model", KNOWN)
    assert after.fingerprint != before.fingerprint
    version(1.1)
    clock.instant_us += RECHECK_US
    assert old_process.get_online_features("model", KNOWN).rows == before.rows
    assert old_process.readiness().is_ready
    started_again = opened()
    found = started_again.get_online_features("model", KNOWN)
    assert (found.rows, found.fingerprint) == (before.rows, before.fingerprint)


def test_a_new_process_refuses_a_plan_whose_function_it_lacks_and_answers_the_other_services(opened, version, clock):
    job = opened()
    job.apply(version(1.1))
    job.materialize()
    version(1.2)
    new_process = opened()
    for _ in range(2):
        with pytest.raises(UnknownUdfError) as raised:
            new_process.get_online_features("model", KNOWN)
        assert raised.value.retry_seconds
        clock.instant_us += RECHECK_US
    assert new_process.get_online_features("plain", KNOWN).rows
    assert [plan.name for plan in new_process.live_services()] == ["plain"]
    assert unready(new_process) == ["model"]
