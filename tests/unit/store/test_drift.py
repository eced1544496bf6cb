"""Drift of what a store served: against training sets, manifests and other periods, split by cause."""

import sqlite3

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, OnDemandFeatureView, agg, col, request
from featurestore.config import DriftPolicyConfig, PolicyConfig
from featurestore.core.errors import InstantError, RegistryError, TrainingSetError
from featurestore.core.temporal import FixedClock, instant_us, to_datetime
from featurestore.guard.drift.policy import DriftPolicy
from featurestore.guard.drift.reference import read_reference
from featurestore.reports.drift import render_page
from tests.server.conftest import USER

NOW = "2024-05-03T00:00:00Z"
USERS = 400
DAY = ("2024-05-02T00:00:00Z", "2024-05-04T00:00:00Z")


def spending(source, window="7d", **more):
    features = {"total": agg.sum(col("amount")).over(window), "n": agg.count().over(window)} | more
    return FeatureView("spending", entity=USER, source=source, features=features)


def orders(path):
    """Two orders a user, the amount rising with the user's number; then one that is known only later."""
    at = instant_us("2024-05-01T00:00:00Z")
    users = [user for user in range(USERS) for _ in range(2)] + list(range(USERS))
    events = pa.table(
        {
            "user": users,
            "amount": [float(user) for user in users],
            "at": pa.array([at] * (2 * USERS) + [at + 3_600_000_000] * USERS, pa.int64()).cast(
                pa.timestamp("us", "UTC")
            ),
            "known": pa.array([at] * (2 * USERS) + [instant_us("2024-05-02T12:00:00Z")] * USERS, pa.int64()).cast(
                pa.timestamp("us", "UTC")
            ),
        }
    )
    pq.write_table(events, path)


@pytest.fixture
def source(tmp_path):
    orders(tmp_path / "orders.parquet")
    return FileSource("orders", path=tmp_path / "orders.parquet", event_time="at", ingest_time="known")


@pytest.fixture
def store(source, tmp_path):
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as opened:
        opened.apply(FeatureService("model", features=[spending(source)]))
        yield opened


@pytest.fixture
def trained(store, tmp_path):
    spine = pa.table({"user": range(USERS), "as_of": [to_datetime(instant_us("2024-05-02T00:00:00Z"))] * USERS})
    return store.training_set("model", spine, tmp_path / "training", overwrite=True)


def serve(store, users, as_of=NOW):
    store.get_online_features("model", [{"user": user} for user in users], as_of=as_of)


def features(report):
    return {feature.name: feature for feature in report.features}


def test_the_same_rows_do_not_drift(store, trained):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS))
    report = store.drift("model", reference=trained, current=DAY)
    assert (report.verdict, report.exit_code) == ("pass", 0)
    assert report.reference_rows == report.current_rows == USERS
    assert all(one.value == 0 for feature in report.features for one in feature.measures)


def test_another_population_is_not_skew(store, trained):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS // 2, USERS), as_of="2024-05-02T06:00:00Z")
    report = store.drift("model", reference=trained.path, current=DAY, recompute=True)
    assert report.verdict == "fail"
    for part in features(report)["spending__total"].split:
        assert part.skew == pytest.approx(0.0, abs=1e-12)
        assert part.population == pytest.approx(part.total)


def test_state_that_is_behind_is_skew(store, tmp_path):
    """The training set has the order that became known late; what was served does not."""
    spine = pa.table({"user": range(USERS), "as_of": [to_datetime(instant_us(NOW))] * USERS})
    trained = store.training_set("model", spine, tmp_path / "training", overwrite=True)
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS))
    report = store.drift("model", reference=trained, current=DAY, recompute=True)
    assert {feature.name for feature in report.drifted} == {"spending__n", "spending__total"}
    for part in features(report)["spending__n"].split:
        assert part.population == pytest.approx(0.0, abs=1e-12)
        assert part.skew == pytest.approx(part.total)
    assert {part.measure: part for part in features(report)["spending__n"].split}["kolmogorov_smirnov"].skew == 1.0


def test_manifests_alone_and_other_periods_are_references(store, trained):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS), as_of="2024-05-02T06:00:00Z")
    serve(store, range(USERS // 2, USERS))
    for reference in (trained.path / "_manifest.json", ("2024-05-02T00:00:00Z", "2024-05-02T12:00:00Z")):
        report = store.drift("model", reference=reference, current=("12h", None))
        assert report.verdict == "fail", reference
        assert {feature.name for feature in report.drifted} == {"spending__total"}
        assert features(report)["spending__total"].measured("kolmogorov_smirnov").value == pytest.approx(0.5, abs=0.03)
    named = store.drift("model", reference=trained, policy=DriftPolicy(fixed=("psi-0.2",)), current=("12h", None))
    assert named.verdict == "fail"


def test_nothing_served_cannot_be_told(store, trained):
    store.materialize("2024-05-02T00:00:00Z")
    assert store.drift("model", reference=trained).exit_code == 2


def test_a_training_set_of_another_service_is_refused(store, trained):
    manifest = trained.path / "_manifest.json"
    manifest.write_text(manifest.read_text().replace('"service": "model"', '"service": "other"', 1))
    with pytest.raises(TrainingSetError, match="service 'other'"):
        store.drift("model", reference=trained.path)


def test_reports_are_kept_with_a_number_unless_told_otherwise(store, trained):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS))
    found = store.drift("model", reference=trained, current=DAY)
    store.drift("model", reference=trained, current=DAY, record=False)
    (record,) = store.drifts("model")
    assert (record.id, record.verdict) == (1, found.verdict)
    assert (record.since_us, record.until_us) == tuple(map(instant_us, DAY))
    assert store.drift_report(1) == found
    assert store.drifts("other") == ()
    with pytest.raises(RegistryError, match="no drift 99"):
        store.drift_report(99)
    said = store.forget("user", {"user": 1}).unreachable
    assert "drift reports of service 'model' in the registry may name its values" in said


def test_the_configuration_says_what_drift_is(store, trained, tmp_path):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS // 2, USERS))
    assert store.drift("model", reference=trained).verdict == "fail"
    drift = DriftPolicyConfig(allowed_features=1)
    config = store.config.model_copy(update={"policies": {"model": PolicyConfig(drift=drift)}})
    with FeatureStore(config, clock=store.clock) as other:
        assert other.drift("model", reference=trained).verdict == "pass"


@pytest.mark.parametrize("period", [("7d", "14d"), ("1d", "1d"), DAY[::-1]])
def test_periods_that_end_before_they_begin_are_errors(store, trained, period):
    with pytest.raises(InstantError, match=r"reference: the period ends.*\[empty-period\]"):
        store.drift("model", reference=period)
    with pytest.raises(InstantError, match="current: the period ends"):
        store.drift("model", reference=trained, current=period)
    with pytest.raises(InstantError, match="audit: the period ends"):
        store.audit("model", *period)


def test_a_reference_is_a_path_if_there_is_one_and_else_may_be_a_period(tmp_path):
    (tmp_path / "14d..7d").mkdir()
    assert read_reference("14d..7d") == ("14d", "7d")
    assert read_reference("14d..7d", tmp_path) == str(tmp_path / "14d..7d")
    assert read_reference("training/set", tmp_path) == str(tmp_path / "training" / "set")
    assert read_reference("..") == ".."


def changed(store, *features, until="2024-05-02T00:00:00Z"):
    """Apply another definition of the service, and fill its state."""
    store.apply(FeatureService("model", features=features))
    store.materialize(until)


def test_another_definition_is_neither_population_nor_skew(store, trained, source):
    """Trained over seven days, served over one hour, for the same users and instant."""
    changed(store, spending(source, "1h"))
    serve(store, range(USERS), as_of="2024-05-02T00:00:00Z")
    for reference in (trained, trained.path / "_manifest.json"):
        report = store.drift("model", reference=reference, current=DAY, recompute=True)
        assert features(report)["spending__n"].is_drift
        assert report.not_recomputed == {}
        for part in features(report)["spending__n"].split:
            assert (part.population, part.skew) == pytest.approx((0.0, 0.0), abs=1e-12)
            assert part.definition == pytest.approx(part.total)


def test_a_feature_that_came_after_training_is_left_out(store, trained, source):
    changed(store, spending(source, "7d", largest=agg.max(col("amount")).over("7d")))
    serve(store, range(USERS), as_of="2024-05-02T00:00:00Z")
    report = store.drift("model", reference=trained, current=DAY, recompute=True)
    assert report.not_compared == {"spending__largest": "only the current sample has it"}
    assert all(part.total == 0.0 for feature in report.features for part in feature.split)
    assert features(report)["spending__n"].split


def test_between_periods_another_definition_is_told_apart_too(store, source):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS), as_of="2024-05-02T00:00:00Z")
    changed(store, spending(source, "1h"))
    serve(store, range(USERS), as_of="2024-05-02T06:00:00Z")
    earlier, later = ("2024-05-02T00:00:00Z", "2024-05-02T03:00:00Z"), ("2024-05-02T03:00:00Z", "2024-05-03T00:00:00Z")
    report = store.drift("model", reference=earlier, current=later, recompute=True)
    assert report.verdict == "fail"
    for part in features(report)["spending__n"].split:
        assert (part.population, part.skew) == pytest.approx((0.0, 0.0), abs=1e-12)
        assert part.definition == pytest.approx(part.total)


def test_hindsight_of_a_training_set_is_neither_population_nor_skew(store, tmp_path):
    """Its values have the orders that became known only later."""
    spine = pa.table({"user": range(USERS), "as_of": [to_datetime(instant_us("2024-05-02T06:00:00Z"))] * USERS})
    trained = store.training_set("model", spine, tmp_path / "hindsight", hindsight=True)
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(USERS), as_of="2024-05-02T06:00:00Z")
    report = store.drift("model", reference=trained, current=DAY, recompute=True)
    part = {part.measure: part for part in features(report)["spending__n"].split}["kolmogorov_smirnov"]
    assert (part.total, part.population, part.definition, part.skew) == (1.0, 0.0, 1.0, 0.0)


def test_rows_that_a_forgotten_definition_answered_are_counted_and_left_out(store, trained, source):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(100), as_of="2024-05-02T00:00:00Z")
    lost = store.services()[0].fingerprint
    changed(store, spending(source, "1h"))
    serve(store, range(USERS), as_of="2024-05-02T06:00:00Z")
    with sqlite3.connect(store.config.registry.removeprefix("sqlite:///")) as registry:
        registry.execute("DELETE FROM registry_history WHERE fingerprint = ?", [lost])
    registry.close()
    report = store.drift("model", reference=trained, current=DAY, recompute=True)
    assert report.current_rows == USERS + 100
    assert report.not_recomputed == {"the registry does not have the definition that answered": 100}
    parts = {part.measure: part for part in features(report)["spending__n"].split}
    assert parts["kolmogorov_smirnov"].total == 1.0, "of the rows that were recomputed"
    period = store.drift("model", reference=("24h", "20h"), current=("20h", None), recompute=True)
    assert period.not_recomputed == {"the registry does not have the definition of the reference": USERS}


def test_rows_that_the_training_set_cannot_ask_about_are_counted(store, source, tmp_path):
    view = spending(source)
    left = {"left": request("budget") - view["total"]}
    budget = OnDemandFeatureView("budget", request={"budget": "float64"}, features=left)
    store.apply(FeatureService("model", features=[view, budget]))
    at = [to_datetime(instant_us("2024-05-02T00:00:00Z"))] * USERS
    spine = pa.table({"user": range(USERS), "as_of": at, "budget": [1.0] * USERS})
    trained = store.training_set("model", spine, tmp_path / "budgets")
    changed(store, spending(source))
    serve(store, range(USERS), as_of="2024-05-02T00:00:00Z")
    report = store.drift("model", reference=trained, current=DAY, recompute=True)
    assert report.not_recomputed == {"the definition of the reference needs budget, which the log does not have": USERS}
    assert report.not_compared == {"budget__left": "only the reference has it"}
    assert all(feature.split == () for feature in report.features)


def test_time_passing_is_no_drift(store, source, tmp_path):
    """Each user orders once a day, at any time; a week later the newest order is as old."""
    days = [
        (user, instant_us(f"2024-04-{day:02}T00:00:00Z") + user * 200_000_000)
        for user in range(USERS)
        for day in (1, 8)
    ]
    at = pa.array([moment for _, moment in days], pa.int64()).cast(pa.timestamp("us", "UTC"))
    events = pa.table({"user": [user for user, _ in days], "amount": [1.0] * len(days), "at": at, "known": at})
    pq.write_table(events.append_column("day", at.cast(pa.date32())), source.path)
    view = spending(source, "30d", last_at=agg.last(col("at")), last_day=agg.last(col("day")))
    changed(store, view, until="2024-04-09T00:00:00Z")
    asked = ("2024-04-02T00:00:00Z", "2024-04-09T00:00:00Z")
    spine = pa.table({"user": range(USERS), "as_of": [to_datetime(instant_us(asked[0]))] * USERS})
    trained = store.training_set("model", spine, tmp_path / "april")
    serve(store, range(USERS), as_of=asked[1])
    report = store.drift("model", reference=trained, current=("2024-04-03T00:00:00Z", None), recompute=True)
    for name in ("spending__last_at", "spending__last_day"):
        found = features(report)[name]
        assert not found.is_drift
        assert found.measured("kolmogorov_smirnov").value == 0.0
        assert all(part.total == 0.0 for part in found.split)
    assert features(report)["spending__last_day"].reference_range == (1.0, 1.0)
    low, high = features(report)["spending__last_at"].current_range
    assert (low, high) == (86_400e6 - 200e6 * (USERS - 1), 86_400e6)
    assert "1 d before" in render_page(report)
    alone = store.drift("model", reference=trained.path / "_manifest.json", current=("2024-04-03T00:00:00Z", None))
    assert alone.not_compared.keys() == {"spending__last_at", "spending__last_day"}


@pytest.mark.parametrize("seed", range(3))
def test_few_users_who_are_asked_about_often_are_no_alarm(store, trained, seed):
    store.materialize("2024-05-02T00:00:00Z")
    users = np.random.default_rng(seed).choice(USERS, 60, replace=False).tolist()
    for _ in range(20):
        serve(store, users, as_of="2024-05-02T00:00:00Z")
    report = store.drift("model", reference=trained, current=DAY)
    assert (report.verdict, report.current_rows, report.effective_rows) == ("pass", 1200, (USERS, 60)), report.reasons


def test_a_feature_is_about_the_entity_of_its_view(store, source):
    """One seller is asked about with every buyer: the seller's features are those of one entity."""
    view = spending(source)
    changed(store, *(view.aliased(side, {"user": side}) for side in ("buyer", "seller")))
    store.get_online_features(
        "model", [{"buyer": user, "seller": 7} for user in range(USERS)], as_of="2024-05-02T00:00:00Z"
    )
    at = [to_datetime(instant_us("2024-05-02T00:00:00Z"))] * USERS
    pairs = pa.table({"buyer": range(USERS), "seller": [user // 2 for user in range(USERS)], "as_of": at})
    trained = store.training_set("model", pairs, store.config.data / "pairs")
    report = store.drift("model", reference=trained, current=DAY)
    found = {name: (one.reference_effective_rows, one.current_effective_rows) for name, one in features(report).items()}
    assert found["buyer__total"] == (USERS, USERS)
    assert found["seller__total"] == (USERS // 2, 1)


def test_audits_are_kept_with_a_number(store):
    store.materialize("2024-05-02T00:00:00Z")
    serve(store, range(3))
    found = store.audit("model", *DAY)
    (record,) = store.audits("model")
    assert record.verdict == found.verdict
    assert store.audit_report(record.id) == found
    assert store.audits("other") == ()
    with pytest.raises(RegistryError, match="no audit 99"):
        store.audit_report(99)
