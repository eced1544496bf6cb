"""The store as users hold it: applied once it answers everywhere, and an apply interrupts nobody."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, FrameSource, agg, col
from featurestore.core.errors import (
    ConfigError,
    RegistryError,
    RequestError,
    StateError,
    UnknownServiceError,
)
from featurestore.core.temporal import FixedClock, instant_us, to_datetime
from featurestore.online.answering.cached_value import RECHECK_US
from featurestore.serving_log import ServingLog
from tests.server.conftest import NOW, ORDERS, USER

KNOWN = [{"user": 1}]


def spending(source, window="1d", name="spending"):
    view = FeatureView(
        name,
        entity=USER,
        source=source,
        features={"total": agg.sum(col("amount")).over(window), "n": agg.count().over("1d")},
    )
    return FeatureService(f"{name}_model", features=[view])


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def opened(tmp_path, clock):
    stores = []

    def open_store() -> FeatureStore:
        stores.append(FeatureStore.local(tmp_path / "store", clock=clock))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def source(tmp_path):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    return FileSource("orders", path=tmp_path / "orders.parquet", event_time="at")


def test_making_a_store_writes_nothing(opened, tmp_path):
    opened().close()
    assert not (tmp_path / "store").exists()


def test_a_store_opened_again_serves_and_materializes_without_definitions(opened, source):
    with opened() as first:
        first.apply(spending(source))
    second = opened()
    assert [run.events for run in second.materialize()] == [3]
    assert second.get_online_features("spending_model", KNOWN).to_dicts() == [
        {"user": 1, "spending__n": 2, "spending__total": 2.5}
    ]


def test_rows_in_memory_serve_on_and_must_be_applied_to_be_read_again(opened):
    first = opened()
    first.apply(spending(FrameSource("orders", frame=ORDERS, event_time="at")))
    first.materialize()
    first.close()
    second = opened()
    assert second.get_online_features("spending_model", KNOWN).rows == [[2, 2.5]]
    with pytest.raises(ConfigError, match=r"source 'orders'.*Apply the definitions"):
        second.materialize()


def test_a_closed_store_opens_again_with_the_next_use(opened, source):
    store = opened()
    store.apply(spending(source))
    store.close()
    store.close()
    assert [plan.name for plan in store.services()] == ["spending_model"]


def test_services_are_sorted_by_name(opened, source):
    store = opened()
    store.apply(spending(source, name="b"), [spending(source, name="a")])
    assert [plan.name for plan in store.services()] == ["a_model", "b_model"]


def test_the_old_plan_answers_until_the_new_one_is_filled(opened, source, clock):
    store = opened()
    store.apply(spending(source))
    store.materialize()
    old = store.plan("spending_model").fingerprint
    store.apply(spending(source, window="22h"))
    new = store.plan("spending_model").fingerprint
    assert new != old
    assert store.get_online_features("spending_model", KNOWN).fingerprint == old
    store.materialize()
    answer = store.get_online_features("spending_model", KNOWN, expected_fingerprint=new)
    assert answer.rows == [[2, None]]


def test_another_process_answers_by_the_new_plan_within_a_second(opened, source, clock):
    server, trainer = opened(), opened()
    trainer.apply(spending(source))
    trainer.materialize()
    old = server.get_online_features("spending_model", KNOWN).fingerprint
    trainer.apply(spending(source, window="2d"))
    trainer.materialize()
    clock.instant_us += RECHECK_US
    assert server.get_online_features("spending_model", KNOWN).fingerprint != old


def test_materialize_takes_views_by_name_and_records_its_runs(opened, source):
    store = opened()
    store.apply(spending(source, name="a"), spending(source, name="b"))
    assert [run.view for run in store.materialize(views=["b"])] == ["b"]
    assert [run.view for run in store.materialize()] == ["a", "b"]
    assert sorted((run.view, run.event_count) for run in store.runs()) == [("a", 3), ("b", 0), ("b", 3)]
    with pytest.raises(RegistryError, match="Did you mean 'a'"):
        store.materialize(views=["aa"])


def test_what_is_not_materialized_cannot_be_asked_and_is_not_ready(opened, source):
    store = opened()
    store.apply(spending(source))
    with pytest.raises(StateError, match="nothing is materialized"):
        store.get_online_features("spending_model", KNOWN)
    with pytest.raises(StateError):
        store.check()
    store.materialize()
    store.check()


def test_questions_about_nothing_known_name_it(opened, source):
    store = opened()
    store.apply(spending(source))
    store.materialize()
    with pytest.raises(UnknownServiceError, match="Did you mean"):
        store.get_online_features("spending_modl", KNOWN)
    with pytest.raises(RequestError, match="/entities/0/user"):
        store.get_online_features("spending_model", [{"user": "1"}])


def test_answers_are_logged_unless_the_configuration_says_no(opened, source, tmp_path, monkeypatch):
    with opened() as store:
        store.apply(spending(source))
        store.materialize()
        store.get_online_features("spending_model", KNOWN)
    logged = list((tmp_path / "store" / "serving_log").rglob("*.parquet"))
    assert len(logged) == 1
    monkeypatch.setenv("FEATURESTORE_SERVING_LOG__ENABLED", "false")
    with opened() as store:
        store.get_online_features("spending_model", KNOWN)
    assert list((tmp_path / "store" / "serving_log").rglob("*.parquet")) == logged


def test_readiness_is_not_logged(opened, source, tmp_path):
    with opened() as store:
        store.apply(spending(source))
        store.materialize()
        store.check()
    assert not list((tmp_path / "store").rglob("serving_log/*"))


def test_relative_paths_of_sources_count_from_the_configuration(tmp_path, clock, monkeypatch):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    (tmp_path / "featurestore.toml").write_text("")
    monkeypatch.chdir("/")
    with FeatureStore.open(tmp_path, clock=clock) as store:
        store.apply(spending(FileSource("orders", path="orders.parquet", event_time="at")))
        assert [run.events for run in store.materialize()] == [3]
    assert sorted(path.name for path in (tmp_path / "featurestore").glob("*.db")) == ["online.db", "registry.db"]


def test_composite_keys_and_types_do_not_collide(opened, tmp_path):
    events = pa.table(
        {"a": [1, 11], "b": [11, 1], "amount": [1.0, 2.0], "at": ORDERS["at"].slice(1)},
    )
    pair = Entity("pair", key=("a", "b"), dtype="int64")
    source = FrameSource("pairs", frame=events, event_time="at")
    view = FeatureView("pairs", entity=pair, source=source, features={"total": agg.sum(col("amount")).over("1d")})
    store = opened()
    store.apply(FeatureService("pairs_model", features=[view]))
    store.materialize()
    answer = store.get_online_features("pairs_model", [{"a": 1, "b": 11}, {"a": 11, "b": 1}, {"a": 1, "b": 1}])
    assert answer.rows == [[1.0], [2.0], [None]]


def test_training_sets_and_lookups_agree_about_the_same_instant(opened, source, tmp_path, clock):
    store = opened()
    store.apply(spending(source))
    store.materialize()
    spine = pa.table({"user": [1, 2, 9], "as_of": pa.array([clock.instant_us] * 3, pa.timestamp("us", "UTC"))})
    built = store.training_set("spending_model", spine, path=tmp_path / "training", statuses=True)
    answer = store.get_online_features("spending_model", [{"user": user} for user in (1, 2, 9)])
    table = built.to_arrow()
    assert [list(row) for row in zip(*(table[name].to_pylist() for name in answer.columns), strict=True)] == answer.rows
    statuses = (table[f"{name}__status"].to_pylist() for name in answer.columns)
    assert [list(row) for row in zip(*statuses, strict=True)] == answer.statuses
    assert built.manifest.fingerprint == answer.fingerprint
    built.verify()


def test_views_are_answered_without_a_service(opened, source):
    """The newest plan that has state answers, as it does for services."""
    with opened() as store:
        store.apply(spending(source))
        with pytest.raises(StateError):
            store.get_online_views(["spending"], KNOWN)
        store.materialize()
        own = store.get_online_features("spending_model", KNOWN)
        found = store.get_online_views(["spending", "spending"], KNOWN)
        assert sorted(found.to_dicts()[0].items()) == sorted(own.to_dicts()[0].items())
        assert found.service == ""
        store.apply(spending(source, window="2h"))
        assert store.get_online_views(["spending"], KNOWN).fingerprint == found.fingerprint
        store.materialize()
        assert store.get_online_views(["spending"], KNOWN).fingerprint != found.fingerprint
        with pytest.raises(RequestError, match="Did you mean 'spending'"):
            store.get_online_views(["spendin"], KNOWN)


def test_no_more_combinations_of_views_are_kept_than_some(opened, source, monkeypatch):
    monkeypatch.setattr("featurestore.online.answering.serving.COMBINATIONS", 2)
    names = ["a", "b", "c"]
    with opened() as store:
        store.apply(*(spending(source, name=name) for name in names))
        store.materialize()
        for chosen in (["a"], ["b"], ["c"], ["a", "b", "c"], ["a"]):
            assert len(store.get_online_views(chosen, KNOWN).columns) == 2 * len(chosen)
            assert len(store.parts.serving._readers) <= 2


def test_views_with_one_key_of_two_dtypes_are_asked_one_by_one(opened):
    text = ORDERS.set_column(0, "user", ORDERS["user"].cast(pa.string()))
    other = FeatureView(
        "other",
        entity=Entity("customer", key="user"),
        source=FrameSource("texts", frame=text, event_time="at"),
        features={"n": agg.count().over("1d")},
    )
    with opened() as store:
        store.apply(spending(FrameSource("orders", frame=ORDERS, event_time="at")), other)
        store.materialize()
        with pytest.raises(RequestError, match="'user' is string for one view and int64"):
            store.get_online_views(["spending", "other"], KNOWN)


def test_nothing_is_complete_up_to_the_future(opened, source):
    """An instant far away, from a typing error or a stranger, does not put questions out of reach until then."""
    with opened() as store:
        store.apply(spending(source))
        store.materialize("2912-06-29T00:00:00Z")
        (view,) = store.get_online_features("spending_model", KNOWN).views.values()
        assert view.watermark_us == instant_us(NOW)


def test_what_is_live_is_told_apart_from_what_is_applied(opened, source):
    with opened() as store:
        store.apply(spending(source))
        store.materialize()
        (applied,) = store.services()
        assert (store.live_services(), store.live_views()) == ((applied,), store.views())
        store.apply(spending(source, window="2h"), promote=False)
        store.materialize()
        assert store.services() != (applied,)
        assert store.live_services() == (applied,)
        assert store.live_views() == (applied.uses[0].view,)
        store.promote("spending_model")
        assert (store.live_services(), store.live_views()) == (store.services(), store.views())


def test_an_audit_cannot_tell_about_rows_that_the_serving_log_lost(opened, source, clock):
    with opened() as store:
        store.apply(spending(source))
        store.materialize()
        answer = store.get_online_features("spending_model", KNOWN)
        now_us = clock.now_us()
        day = {"since": to_datetime(now_us), "until": to_datetime(now_us + 1)}
        assert store.audit("spending_model", **day).verdict == "pass"
        # Another process that serves, and whose disk was too slow.
        overflowing = ServingLog(store.config.data / "serving_log", clock=clock, most_waiting_rows=0)
        overflowing.append(store.plan("spending_model"), answer)
        overflowing.close()
        report = store.audit("spending_model", **day)
    assert (report.served, report.compared, report.verdict) == (2, 1, "cannot tell")
    assert report.reasons == ("1 rows were not compared: the serving log could not keep them",)
