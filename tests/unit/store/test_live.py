"""Blue and green: a changed definition fills states of its own, and people decide when it answers."""

import threading
import time

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.errors import (
    RegistryError,
    StateError,
    StorageError,
    UnknownServiceError,
)
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.online.answering.cached_value import RECHECK_US
from featurestore.online.answering.live import RESTORABLE_US, acting_user
from featurestore.online.stores.deadline import Deadline
from featurestore.online.stores.store import record_key, records_of, state_prefix
from tests.server.conftest import NOW, ORDERS, USER
from tests.stores import NETWORKED, local_store

KNOWN = [{"user": 1}]
MODEL = "spending_model"


@pytest.fixture
def clock():
    return FixedClock(instant_us(NOW))


@pytest.fixture(params=["sqlite", *NETWORKED])
def open_store(request, tmp_path, clock, online_urls_of):
    online = None if request.param == "sqlite" else online_urls_of(request.param)
    stores = []

    def opened() -> FeatureStore:
        stores.append(local_store(tmp_path / "store", online=online, clock=clock))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store):
    return open_store()


@pytest.fixture
def source(tmp_path):
    pq.write_table(ORDERS, tmp_path / "orders.parquet")
    return FileSource("orders", path=str(tmp_path / "orders.parquet"), event_time="at")


def eventually(is_so):
    """Wait for what another thread does."""
    for _ in range(3_000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def service(source, window, *more):
    features = {"n": agg.count().over(window), **{f"sum_{name}": agg.sum(col("amount")).over(name) for name in more}}
    view = FeatureView("spending", entity=USER, source=source, features=features)
    return FeatureService(MODEL, features=[view])


def store_views(source, window):
    return [FeatureView("spending", entity=USER, source=source, features={"n": agg.count().over(window)})]


def apply(store, source, window, **options):
    store.apply(service(source, window), **options)
    return store.plan(MODEL).fingerprint


def live(store):
    return store.get_online_features(MODEL, KNOWN).fingerprint


def test_without_promotion_the_old_plan_answers_although_the_new_one_is_filled(store, source, clock):
    old = apply(store, source, "1d")
    store.materialize()
    new = apply(store, source, "2d", promote=False)
    store.materialize()
    assert live(store) == old
    assert store.get_online_views(["spending"], KNOWN).rows == store.get_online_features(MODEL, KNOWN).rows
    (state,) = store.status()
    assert (state.live, state.applied, state.is_pending, state.is_decided) == (old, new, True, True)
    assert {(view.is_live, view.is_applied, view.watermark_us) for view in state.views} == {
        (True, False, clock.instant_us),
        (False, True, clock.instant_us),
    }
    assert store.promote(MODEL).previous == old
    assert live(store) == new
    (state,) = store.status()
    assert (state.live, state.applied, state.previous, state.is_pending) == (new, new, old, False)


def test_a_plan_that_answers_by_decision_is_kept_fresh(store, source, clock):
    apply(store, source, "1d")
    store.materialize()
    apply(store, source, "2d", promote=False)
    clock.instant_us += 3_600_000_000
    runs = store.materialize()
    assert [run.view for run in runs] == ["spending", "spending"]
    assert store.get_online_features(MODEL, KNOWN).views["spending"].watermark_us == clock.instant_us
    assert len(store.materialize(views=["spending"])) == 2


def test_promoting_what_is_not_filled_is_refused_by_the_name_of_the_view(store, source):
    old = apply(store, source, "1d")
    store.materialize()
    with pytest.raises(StateError, match="view 'spending' has no online state") as caught:
        apply(store, source, "2d", promote=True)
    assert caught.value.code == "not-materialized"
    assert live(store) == old
    store.materialize()
    assert live(store) == old, "it was said to keep the old one until it is promoted"
    new = apply(store, source, "2d", promote=True)
    assert live(store) == new != old


def test_a_plan_that_was_rolled_back_from_stays_down_until_it_is_promoted(store, source):
    old = apply(store, source, "1d")
    store.materialize()
    new = apply(store, source, "2d")
    store.materialize()
    assert live(store) == new
    back = store.rollback(MODEL)
    assert (back.fingerprint, back.previous) == (old, new)
    assert live(store) == old
    assert apply(store, source, "2d") == new
    store.materialize()
    assert live(store) == old, "an apply that changes nothing leaves what was decided"
    with pytest.raises(StateError, match="no earlier plan"):
        store.rollback(MODEL)
    apply(store, source, "3d")
    assert live(store) == old, "a change that is not filled does not revive the plan that was rolled back from"
    assert store.get_online_views(["spending"], KNOWN).rows == store.get_online_features(MODEL, KNOWN).rows
    store.materialize()
    newest = store.plan(MODEL).fingerprint
    assert live(store) == newest, "a change goes live when it is filled"
    assert "rolled back from" in str(store.apply(service(source, "2d")))
    store.materialize()
    assert live(store) == newest, "the plan is applied again, but not promoted"
    (state,) = store.status()
    assert (state.applied, state.is_decided, state.is_withdrawn) == (new, True, True)
    assert store.promote(MODEL).fingerprint == new
    assert live(store) == new


def test_a_plan_that_was_never_promoted_does_not_go_live_with_the_next_apply(store, source):
    old = apply(store, source, "1d")
    store.materialize()
    apply(store, source, "2d", promote=False)
    store.materialize()
    apply(store, source, "3d")
    assert live(store) == old
    assert store.get_online_views(["spending"], KNOWN).rows == store.get_online_features(MODEL, KNOWN).rows
    store.materialize()
    assert live(store) == store.plan(MODEL).fingerprint


def test_a_plan_that_went_live_and_was_not_recorded_stays_live(store, source, monkeypatch):
    apply(store, source, "1d")
    store.materialize()
    new = apply(store, source, "2d")
    with monkeypatch.context() as dying:
        dying.setattr(type(store.parts.live_plans), "record", lambda *_, **__: None)
        store.materialize()
    apply(store, source, "3d")
    assert live(store) == new
    assert store.live_changes(MODEL)[0].fingerprint == new


def test_apply_with_promotion_leaves_down_what_was_rolled_back_from(store, source):
    old = apply(store, source, "1d")
    store.materialize()
    apply(store, source, "2d")
    store.materialize()
    store.rollback(MODEL)
    changed = service(source, "2d")
    store.apply(changed, FeatureService("other", features=changed.features), promote=True)
    assert live(store) == old


def test_rolling_back_one_of_several_services_that_share_a_view_leaves_the_others(store, source):
    def both(window):
        view = store_views(source, window)
        return [FeatureService(name, features=view) for name in ("first", "second")]

    def answered(name):
        return store.get_online_features(name, KNOWN).fingerprint

    prints = []
    for window in ("1d", "2d"):
        store.apply(both(window))
        store.materialize()
        prints.append({name: store.plan(name).fingerprint for name in ("first", "second")})
    store.rollback("second")
    assert (answered("first"), answered("second")) == (prints[1]["first"], prints[0]["second"])
    store.apply(both("3d"))
    assert (answered("first"), answered("second")) == (prints[1]["first"], prints[0]["second"])
    old_view = store.get_online_features("second", KNOWN)
    assert store.get_online_views(["spending"], KNOWN).rows == old_view.rows
    store.materialize()
    newest = {name: store.plan(name).fingerprint for name in ("first", "second")}
    assert {name: answered(name) for name in newest} == newest
    assert {plan.name: plan.fingerprint for plan in store.live_services()} == newest


def test_every_change_of_the_live_plan_is_recorded(open_store, source, clock):
    store, other = open_store(), open_store()
    old = apply(store, source, "1d")
    store.materialize()
    clock.instant_us += 1
    new = apply(store, source, "2d")
    other.materialize(by="the schedule")
    store.rollback(MODEL, by="alice")
    store.promote(MODEL)
    store.materialize()
    apply(store, source, "1d", by="ci")
    changes = store.live_changes(MODEL)
    user = acting_user()
    assert [(one.previous, one.fingerprint, one.verb, one.changed_by) for one in changes] == [
        (new, old, "apply", "ci"),
        (old, new, "promote", user),
        (new, old, "rollback", "alice"),
        (old, new, "materialize", "the schedule"),
        ("", old, "materialize", user),
    ]
    assert changes[0].changed_at_us - changes[-1].changed_at_us == 1
    assert store.live_changes(limit=1) == changes[:1]
    with pytest.raises(UnknownServiceError):
        store.live_changes("nothing")


def test_what_a_live_plan_uses_is_not_removed_although_the_applied_plan_does_not(store, source):
    (used,) = store_views(source, "1d")
    more = FeatureView("more", entity=USER, source=source, features={"n": agg.count().over("3d")})
    store.apply(FeatureService(MODEL, features=[used, more]))
    store.materialize()
    with pytest.raises(RegistryError, match=f"view 'more' cannot be removed: service '{MODEL}' uses it") as caught:
        store.apply(FeatureService(MODEL, features=[used]), promote=False, remove=["more"])
    assert caught.value.code == "still-used"
    store.apply(FeatureService(MODEL, features=[used]), promote=False)
    with pytest.raises(RegistryError, match="cannot be removed"):
        store.apply(FeatureService(MODEL, features=[used]), remove=["more"])
    store.promote(MODEL)
    changes = store.apply(FeatureService(MODEL, features=[used]), remove=["more"])
    assert [one.name for one in changes if one.fingerprint is None] == ["more"]


def test_a_service_that_is_restored_answers_at_once_by_what_was_live(store, source):
    old = apply(store, source, "1d")
    store.materialize()
    apply(store, source, "2d")
    store.materialize()
    store.rollback(MODEL)
    store.apply([], remove=[MODEL, "spending", "orders"])
    with pytest.raises(UnknownServiceError):
        live(store)
    assert {one.fingerprint for one in store.gc()} == set()
    restored = store.restore(MODEL)
    assert [one.name for one in restored] == ["orders", "spending", MODEL]
    assert live(store) == old, "the plan that was rolled back from stays down"


def test_a_live_plan_whose_record_is_lost_is_an_error_and_not_an_older_plan(open_store, source):
    store = open_store()
    for window in ("1d", "2d"):
        apply(store, source, window)
        store.materialize()
    store.parts.online.delete(record_key(store.plan(MODEL).uses[0].view))
    with pytest.raises(StateError):
        live(open_store())


def test_there_is_no_rolling_back_to_what_never_was_or_is_gone(store, source):
    apply(store, source, "1d")
    with pytest.raises(StateError, match="no earlier plan") as caught:
        store.rollback(MODEL)
    assert caught.value.code == "nothing-to-roll-back"
    store.materialize()
    new = apply(store, source, "2d")
    store.materialize()
    assert [one.count for one in store.gc(keep=0)] == [3]
    with pytest.raises(StateError, match="no earlier plan"):
        store.rollback(MODEL)
    assert live(store) == new


def test_other_processes_follow_within_a_second(open_store, source, clock):
    server, trainer = open_store(), open_store()
    old = apply(trainer, source, "1d")
    trainer.materialize()
    assert live(server) == old
    new = apply(trainer, source, "2d", promote=False)
    trainer.materialize()
    clock.instant_us += RECHECK_US
    assert live(server) == old
    trainer.promote(MODEL)
    clock.instant_us += RECHECK_US
    assert live(server) == new
    trainer.rollback(MODEL)
    clock.instant_us += RECHECK_US
    assert live(server) == old


def test_gc_keeps_what_is_live_applied_or_previous(store, source):
    prints = []
    for window in ("1d", "2d", "3d", "4d"):
        apply(store, source, window)
        prints.append(store.plan(MODEL).uses[0].view.fingerprint)
        store.materialize()
    apply(store, source, "5d", promote=False)
    assert [one.fingerprint for one in store.gc(dry_run=True)] == [prints[1], prints[0]]
    removed = store.gc()
    assert [one.fingerprint for one in removed] == [prints[1], prints[0]]
    assert all(one.count == 3 and one.view == "spending" for one in removed)
    assert store.gc() == ()
    assert [one.fingerprint for one in store.gc(keep=0)] == [prints[2]]
    assert live(store) is not None
    apply(store, source, "1d", promote=False)
    with pytest.raises(StateError, match="has no online state"):
        store.promote(MODEL)
    assert store.materialize()[0].events == 3
    store.promote(MODEL)


@pytest.mark.parametrize("is_late", [True, False])
def test_gc_removes_states_of_views_that_are_not_applied_any_more(store, source, clock, is_late):
    apply(store, source, "1d")
    store.materialize()
    store.apply([], prune=True)
    assert store.gc() == (), "the removal can still be undone"
    clock.instant_us += RESTORABLE_US + 1 if is_late else 0
    assert [one.view for one in store.gc(keep=1 if is_late else 0)] == ["spending"]


def test_gc_leaves_what_a_run_is_at_work_on(store, source):
    apply(store, source, "1d")
    store.materialize()
    old = store.plan(MODEL).uses[0].view.fingerprint
    apply(store, source, "2d")
    store.materialize()
    with store.parts.online.exclusive(f"materialize-{old[:16]}"):
        assert [(one.is_busy, one.count) for one in store.gc(keep=0)] == [(True, 0)]
    assert [(one.is_busy, one.count) for one in store.gc(keep=0)] == [(False, 3)]


def test_gc_removes_generations_that_a_rebuild_left_behind(store, source):
    apply(store, source, "1d")
    store.materialize()
    view = store.plan(MODEL).uses[0].view
    store.materialize(full=True)
    assert records_of(store.parts.online, [view])["spending"].generation == 1
    store.parts.online.write([(state_prefix(view, 0) + b"old", b"x"), (state_prefix(view, 2) + b"new", b"x")])
    assert [(one.count, one.reason) for one in store.gc()] == [(2, "a rebuild left it behind")]
    assert store.get_online_features(MODEL, KNOWN).rows == [[2]]


def test_gc_that_died_left_no_state_that_answers_in_part(store, source):
    """Whatever of a state is gone, its record says that nothing is there; and a new fill uses nothing of the rest."""
    apply(store, source, "1d")
    store.materialize()
    apply(store, source, "2d")
    store.materialize()
    online = store.parts.online

    class Dying:
        def __getattr__(self, name):
            return getattr(online, name)

        def delete(self, prefix):
            raise StorageError("dead")

    store.parts.live_plans._store = Dying()
    with pytest.raises(StorageError):
        store.gc(keep=0)
    store.parts.live_plans._store = online
    apply(store, source, "1d")

    pq.write_table(ORDERS.slice(0, 1), source.path)
    store.materialize()
    assert store.get_online_features(MODEL, [{"user": 2}]).statuses == [["NOT_FOUND"]]


@pytest.mark.parametrize("moment", ["before", "while its record goes"])
def test_state_of_a_plan_that_is_applied_again_meanwhile_is_not_removed(open_store, source, moment):
    """Applying takes no lock: it needs no online store."""
    store, other = open_store(), open_store()
    first = apply(store, source, "1d")
    (view,) = store.views()
    for window in ("1d", "2d", "3d"):
        apply(store, source, window)
        store.materialize()
    exclusive, write, waiting = store.parts.online.exclusive, store.parts.online.write, [True]

    def held(name):
        if moment == "before" and name == f"materialize-{view.fingerprint[:16]}" and waiting:
            waiting.pop()
            apply(other, source, "1d")
        return exclusive(name)

    def written(items, **options):
        write(items, **options)
        if moment != "before" and items[0][0] == record_key(view) and waiting:
            waiting.pop()
            apply(other, source, "1d")

    store.parts.online.exclusive, store.parts.online.write = held, written
    removed = store.gc(keep=0)
    store.parts.online.exclusive, store.parts.online.write = exclusive, write
    assert len(removed) == 1 and not waiting
    assert live(open_store()) == first


def test_a_damaged_record_takes_no_plan_off_and_cannot_be_promoted(open_store, source):
    store = open_store()
    old = apply(store, source, "1d")
    store.materialize()
    store.parts.online.write([(record_key(store.plan(MODEL).uses[0].view), b"damaged")])
    later = open_store()
    with pytest.raises(StateError):
        later.get_online_features(MODEL, KNOWN)
    assert [plan.fingerprint for plan in later.live_services()] == [old]
    with pytest.raises(StateError):
        later.promote(MODEL)


def test_who_has_little_time_is_answered_by_the_plan_known_last(open_store, source, clock, monkeypatch):
    """A registry that does not answer keeps the event loop of a server no longer than it allows."""
    server, trainer = open_store(), open_store()
    old = apply(trainer, source, "1d")
    trainer.materialize()
    assert live(server) == old
    new = apply(trainer, source, "2d")
    trainer.materialize()
    may_answer, ask = threading.Event(), server.parts.live_plans.plan
    monkeypatch.setattr(server.parts.live_plans, "plan", lambda service: may_answer.wait(60) and ask(service))
    clock.instant_us += RECHECK_US
    with Deadline(1.0):
        assert live(server) == old
    assert live(server) == old, "somebody asks already"
    may_answer.set()
    eventually(lambda: live(server) == new)
