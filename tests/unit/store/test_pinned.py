"""Two models that pin two plans of one service are both answered, whichever plan is live, while both have state."""

import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.answers import OnlineQuestion
from featurestore.core.errors import FingerprintMismatchError, UnknownServiceError
from featurestore.core.temporal import FixedClock, instant_us, to_datetime
from featurestore.online.answering.cached_value import RECHECK_US
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
def orders(tmp_path):
    path = tmp_path / "orders.parquet"
    pq.write_table(ORDERS, path)
    return path


def apply(store, orders, window, **options):
    source = FileSource("orders", path=str(orders), event_time="at", stream=True)
    view = FeatureView("spending", entity=USER, source=source, features={"n": agg.count().over(window)})
    store.apply(FeatureService(MODEL, features=[view]), **options)
    return store.plan(MODEL).fingerprint


def asked(store, fingerprint):
    return store.get_online_features(MODEL, KNOWN, expected_fingerprint=fingerprint)


def answers_by(store, *fingerprints):
    return [asked(store, fingerprint).fingerprint for fingerprint in fingerprints] == list(fingerprints)


def test_both_plans_answer_before_and_after_promoting_and_after_rolling_back(open_store, orders, clock):
    store, server = open_store(), open_store()
    old = apply(store, orders, "1d")
    store.materialize()
    new = apply(store, orders, "2d", promote=False)
    with pytest.raises(FingerprintMismatchError):
        asked(server, new)
    store.materialize()
    for step in (lambda: None, lambda: store.promote(MODEL), lambda: store.rollback(MODEL)):
        step()
        clock.instant_us += RECHECK_US
        assert answers_by(server, old, new)
        assert server.get_online_features(MODEL, KNOWN).fingerprint == store.status()[0].live


def test_questions_that_expect_several_plans_are_answered_together_each_by_its_own(open_store, orders):
    store = open_store()
    old = apply(store, orders, "1d")
    store.materialize()
    new = apply(store, orders, "2d")
    store.materialize()
    expected = [old, new, None, "f" * 64, old]
    questions = [OnlineQuestion(MODEL, KNOWN, expected_fingerprint=one) for one in expected]
    answers = store.get_online_features_together(questions)
    prints = [getattr(answer, "fingerprint", type(answer)) for answer in answers]
    assert prints == [old, new, new, FingerprintMismatchError, old]


def test_a_plan_without_state_is_a_mismatch_and_the_live_one_answers_who_takes_it(open_store, orders, clock):
    store, server = open_store(), open_store()
    old = apply(store, orders, "1d")
    store.materialize()
    new = apply(store, orders, "2d")
    store.materialize()
    assert answers_by(server, old, new)
    assert [removed.fingerprint for removed in store.gc(keep=0)]
    clock.instant_us += RECHECK_US
    with pytest.raises(FingerprintMismatchError, match=f"is {new}, expected {old}"):
        asked(server, old)
    question = OnlineQuestion(MODEL, KNOWN, expected_fingerprint=old, takes_live_plan=True)
    assert server.get_online_features_together([question])[0].fingerprint == new
    with pytest.raises(UnknownServiceError):
        server.get_online_features("nowhere", KNOWN, expected_fingerprint=old)


def test_what_is_kept_to_go_back_to_is_kept_fresh_by_runs_and_pushes(open_store, orders, clock):
    store = open_store()
    old = apply(store, orders, "10d")
    store.materialize()
    new = apply(store, orders, "20d")
    store.materialize()
    store.gc()
    clock.instant_us += 3_600_000_000
    store.materialize()
    assert {asked(store, one).views["spending"].watermark_us for one in (old, new)} == {clock.instant_us}
    store.push("orders", [{"user": 1, "at": to_datetime(clock.instant_us), "amount": 1.0}])
    clock.instant_us += 1_000_000
    store.catch_up()
    assert [asked(store, one).rows for one in (old, new)] == [[[3]], [[3]]]


def test_a_plan_that_is_kept_and_cannot_be_refreshed_fails_no_run(open_store, orders, caplog):
    """The column that the earlier plan reads was renamed since."""
    store = open_store()
    view = FeatureView(
        "spending",
        entity=USER,
        source=FileSource("orders", path=str(orders), event_time="at"),
        features={"n": agg.count(col("amount")).over("1d")},
    )
    store.apply(FeatureService(MODEL, features=[view]))
    store.materialize()
    names = ["amount_eur" if name == "amount" else name for name in ORDERS.column_names]
    pq.write_table(ORDERS.rename_columns(names), orders)
    apply(store, orders, "2d")
    assert [run.view for run in store.materialize()] == ["spending"]
    assert "of an earlier plan" in caplog.text


def test_fingerprints_that_are_made_up_are_not_kept(open_store, orders, monkeypatch):
    monkeypatch.setattr("featurestore.online.answering.serving.COMBINATIONS", 4)
    store = open_store()
    old = apply(store, orders, "1d")
    store.materialize()
    for number in range(20):
        with pytest.raises(FingerprintMismatchError):
            asked(store, f"{number:064x}")
        assert len(store.parts.serving._readers) <= 5
    for number in range(20):
        with pytest.raises(UnknownServiceError):
            store.get_online_features(f"nowhere_{number}", KNOWN)
        assert len(store.parts.serving._readers) <= 5
    assert answers_by(store, old)
