"""Leaks that are planted are found, honest features are not, whatever they lose over time."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.errors import RequestError
from featurestore.skew.association import association, coded
from featurestore.skew.leakage import LeakageReport
from featurestore.skew.leakage_view import render_html
from featurestore.temporal import FixedClock, instant_us
from tests.unit.render.pages import read

START = instant_us("2026-03-01T00:00:00Z")
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
USERS = [f"u{number}" for number in range(40)]
COUNT = 3000


def instants(values):
    return pa.array(values, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def world(folder):
    """Orders come all the time; some are returned, users differ in how often; what a return is worth is known late."""
    chance = random.Random(1)
    at = sorted(START + chance.randrange(20 * DAY) for _ in range(COUNT))
    users = [chance.choice(USERS) for _ in at]
    returned = [chance.random() < (0.1 if int(user[1:]) % 2 else 0.6) for user in users]
    orders = {"user": users, "at": instants(at), "returned": returned}
    orders["noise"] = [chance.random() for _ in at]
    # Somebody else dates returns to the order, though they are known three days later.
    orders["known"] = instants([instant + 3 * DAY for instant in at])
    pq.write_table(pa.table(orders), folder / "orders.parquet")
    rows = [number for number in range(COUNT) if at[number] > START + 5 * DAY]
    return pa.table(
        {
            "user": [users[number] for number in rows],
            "as_of": instants([at[number] for number in rows]),
            "returned": [returned[number] for number in rows],
            "always": [1] * len(rows),
        }
    )


def service(folder):
    user, path = Entity("user", key="user"), str(folder / "orders.parquet")
    honest = FileSource("orders", path=path, event_time="at")
    inclusive = FileSource("orders_inclusive", path=path, event_time="at", inclusive=True)
    known = FileSource("orders_known", path=path, event_time="at", ingest_time="known")
    share = agg.mean(col("returned").cast("int64"))
    return FeatureService(
        "returns",
        features=[
            FeatureView(
                "honest",
                entity=user,
                source=honest,
                features={
                    "rate": share.over("4d"),
                    "recent": share.over("6h"),
                    "noise": agg.last(col("noise")),
                    "n": agg.count().over("1h"),
                },
            ),
            FeatureView("leaking", entity=user, source=inclusive, features={"last": agg.last(col("returned"))}),
            FeatureView("late", entity=user, source=known, features={"rate": share.over("1d")}),
        ],
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leakage")
    spine = world(folder)
    with FeatureStore.local(folder / "store", clock=FixedClock(START + 30 * DAY)) as store:
        store.apply(service(folder))
        yield store, store.training_set("returns", spine, folder / "training")


def test_a_feature_that_sees_the_event_it_predicts_is_flagged_and_no_other(built):
    store, training_set = built
    report = store.leakage(training_set, "returned")
    assert [feature.name for feature in report.flagged] == ["leaking__last"]
    assert report.exit_code == 1
    leak = report.features[0]
    assert leak.share == pytest.approx(1.0, abs=0.01)
    assert leak.earlier["1us"] < 0.3
    assert "1us earlier" in leak.flags[0]
    honest = {feature.name: feature for feature in report.features}
    assert honest["honest__rate"].share > 0.05
    assert abs(honest["honest__rate"].earlier["1us"] - honest["honest__rate"].share) < 0.01
    assert honest["honest__noise"].share < 0.01
    assert all(feature.changed == 0 for feature in report.features)


def test_sources_whose_events_are_known_late_are_listed_first(built):
    report = built[0].leakage(built[1].path, "returned", rows=500)
    assert report.rows == 500
    late = report.sources[0]
    assert (late.source, late.beyond_lag, late.median_s) == ("orders_known", 1.0, 3 * 86_400)
    assert {delay.source: delay.beyond_lag for delay in report.sources[1:]} == {"orders": 0.0, "orders_inclusive": 0.0}


def test_hindsight_is_flagged_for_what_it_brings(built, tmp_path):
    store, training_set = built
    spine = pa.table({name: training_set.to_arrow().column(name) for name in ("user", "as_of", "returned")})
    # Asked an hour after the order: the returns of the last days are known with hindsight only, their own among them.
    later = pa.array(spine.column("as_of").cast(pa.int64()).to_numpy() + HOUR).cast(pa.timestamp("us", tz="UTC"))
    spine = spine.set_column(1, "as_of", later)
    hindsight = store.training_set("returns", spine, tmp_path / "hindsight", hindsight=True)
    flagged = {feature.name: feature.flags for feature in store.leakage(hindsight, "returned").flagged}
    assert "without hindsight" in flagged["late__rate"][-1]
    honest = store.training_set("returns", spine, tmp_path / "honest")
    late = next(one for one in store.leakage(honest, "returned").features if one.name == "late__rate")
    assert not late.flags
    assert "with hindsight it would tell" in late.notes[0]


def test_a_source_that_was_changed_since_is_noticed(built, tmp_path):
    spine = world(tmp_path)
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 30 * DAY)) as store:
        store.apply(service(tmp_path))
        training_set = store.training_set("returns", spine, tmp_path / "training")
        orders = pq.read_table(tmp_path / "orders.parquet")
        doubled = pa.array(orders.column("noise").to_numpy() * 2)
        pq.write_table(
            orders.set_column(orders.column_names.index("noise"), "noise", doubled), tmp_path / "orders.parquet"
        )
        report = store.leakage(training_set, "returned", rows=300)
    changed = {feature.name: feature.changed for feature in report.features}
    assert changed["honest__noise"] > 250
    assert changed["honest__n"] == 0


def test_a_report_can_be_read_by_people_and_programs(built):
    report = built[0].leakage(built[1], "returned", rows=1000)
    import msgspec

    assert msgspec.json.decode(report.to_json(), type=LeakageReport) == report
    shown = "".join(read(render_html(report)).text)
    assert "leaking__last" in shown
    assert "1 of 6 look like leaks" in shown


@pytest.mark.parametrize(("label", "problem"), [("retured", "no label 'retured'"), ("always", "one value only")])
def test_labels_that_are_none_are_refused(built, label, problem):
    with pytest.raises(RequestError, match=problem):
        built[0].leakage(built[1], label)


def test_association_is_0_for_what_tells_nothing_and_1_for_the_label_itself():
    chance = np.random.default_rng(3)
    label = coded(pa.array(chance.integers(0, 2, 20_000)))
    itself = association(label, label)
    assert itself.share == pytest.approx(1.0, abs=1e-3)
    noise = [association(coded(pa.array(chance.normal(size=20_000))), label) for _ in range(50)]
    assert np.mean([one.share for one in noise]) < 0.0005
    half = association(np.where(chance.random(20_000) < 0.5, label, 0), label)
    # Known with probability one half, else nothing: half of the entropy goes.
    assert half.share == pytest.approx(0.5, abs=4 * half.error)
    assert 0 < half.error < 0.01


def test_codes_of_numbers_are_bins_of_equal_count_and_null_is_one_of_its_own():
    codes = coded(pa.array([*range(100), None], pa.int64()))
    assert codes[-1] == 0
    assert np.bincount(codes[:-1])[1:].tolist() == [10] * 10 or max(np.bincount(codes[:-1])) <= 11
    few = coded(pa.array([3.5, -1.0, 3.5, None]))
    assert few.tolist() == [2, 1, 2, 0]
    words = coded(pa.array(["b", "a", "b", None, *map(str, range(20))]))
    assert words[0] == words[2] != words[1]
    assert len(set(words.tolist())) <= 11
