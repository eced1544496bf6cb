"""Which plans a push keeps complete: those that are live, applied or kept to roll back to, and no other."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureView, FileSource, agg
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.online.filling.runs import materialize
from featurestore.online.stores.store import records_of
from tests.stores import local_store

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
DTYPES = {"user": "string", "at": "timestamp"}


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture
def store(tmp_path, clock):
    with local_store(tmp_path / "store", clock=clock) as opened:
        yield opened


def service(folder, hours):
    """The service in its form of so many hours: each is another plan."""
    source = FileSource("events", path=folder / "events/*.parquet", event_time="at", stream=True, dtypes=DTYPES)
    view = FeatureView(
        "v", entity=Entity("user", key="user"), source=source, features={"n": agg.count().over(f"{hours}h")}
    )
    return FeatureService("model", features=[view])


def push(store, clock):
    clock.instant_us += 2_000_000
    result = store.push("events", [{"user": "a", "at": NOW - timedelta(minutes=1)}])
    assert result.is_followed
    clock.instant_us += 2_000_000


def ask(store):
    return store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]["v__n"]


def log_instants(store):
    """How far the states of each plan of the view have followed the log, newest plan first."""
    views = list(store.parts.catalog.past_views("v"))
    return [records_of(store.parts.online, [view])["v"].log_us for view in views]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_push_folds_into_the_applied_plan_and_those_kept_to_roll_back_to(store, clock, tmp_path, keep):
    store.parts.config = store.config.model_copy(
        update={"schedule": store.config.schedule.model_copy(update={"keep_plans": keep})}
    )
    for hours in range(1, 7):
        store.apply(service(tmp_path, hours))
        push(store, clock)
    before = log_instants(store)
    assert len(before) == 6
    assert all(instant > 0 for instant in before), "all of them have states"
    push(store, clock)
    moved = [new > old for new, old in zip(log_instants(store), before, strict=True)]
    assert moved == [True] * (1 + keep) + [False] * (5 - keep)
    assert ask(store) == 7
    # A plan that was left behind catches up from the log once it is live again.
    for _ in range(2):
        store.rollback("model")
    store.apply(service(tmp_path, 1))
    clock.instant_us += 2_000_000
    store.catch_up()
    clock.instant_us += 2_000_000
    assert ask(store) == 7


def test_a_plan_that_goes_live_without_a_change_of_definitions_is_kept_complete(store, clock, tmp_path):
    """It was applied and is no more, and the run that fills it ends before the newest plan is filled."""
    (tmp_path / "events").mkdir()
    known = pa.table({"user": ["a"], "at": pa.array([NOW - timedelta(minutes=5)], pa.timestamp("us", "UTC"))})
    pq.write_table(known, tmp_path / "events/first.parquet")
    store.apply(service(tmp_path, 1))
    store.materialize()
    (second, third) = (service(tmp_path, hours) for hours in (2, 3))
    store.apply(second)
    between = store.views()
    store.apply(third)
    push(store, clock)
    assert ask(store) == 2
    parts = {"catalog": store.parts.catalog, "registry": store.registry, "store": store.parts.online, "clock": clock}
    materialize(between, **parts, settings=store.parts.settings, until_us=clock.now_us(), full=False)
    push(store, clock)
    answer = store.get_online_features("model", [{"user": "a"}])
    assert store.status()[0].live == answer.fingerprint != store.status()[0].applied
    assert answer.to_dicts()[0]["v__n"] == 3


def test_a_view_without_a_service_answers_and_is_kept_while_its_new_plan_is_not_filled(store, clock, tmp_path):
    """Its old state is neither left behind by pushes nor removed."""
    (tmp_path / "events").mkdir()
    known = pa.table({"user": ["a"], "at": pa.array([NOW - timedelta(minutes=5)], pa.timestamp("us", "UTC"))})
    pq.write_table(known, tmp_path / "events/first.parquet")
    store.apply(*service(tmp_path, 1).features)
    store.materialize()
    store.apply(*service(tmp_path, 2).features)
    push(store, clock)
    assert store.gc() == ()
    assert store.get_online_views(["v"], [{"user": "a"}]).rows[0][-1] == 2
