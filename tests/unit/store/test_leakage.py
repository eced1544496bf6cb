"""Leaks that are planted are found, honest features are not, whatever they lose over time."""

import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.errors import RequestError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.guard.release.association import association, coded
from featurestore.guard.release.leakage import LeakageReport
from featurestore.reports.leakage import render_page
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


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """Cards are tried in the half hour before a fraud, which is honest; charge-backs are dated to the fraud."""
    folder = tmp_path_factory.mktemp("cards")
    chance, count = np.random.default_rng(0), 2000
    as_of = START + 5 * DAY + chance.integers(0, 20 * DAY, count)
    fraud = chance.random(count) < 0.3
    tries = [(i, as_of[i] - chance.integers(2 * HOUR, 20 * HOUR)) for i in range(count)]
    tries += [
        (i, as_of[i] - chance.integers(5 * MINUTE, 30 * MINUTE)) for i in range(count) if fraud[i] for _ in "abcde"
    ]
    backs = [(i, as_of[i] - 2 * DAY) for i in range(count)]
    backs += [(i, as_of[i] - 3_000_000) for i in range(count) if fraud[i]]
    for name, rows in {"tries": tries, "backs": backs}.items():
        keys, at = zip(*rows, strict=True)
        pq.write_table(pa.table({"card": keys, "at": instants(at)}), folder / f"{name}.parquet")
    card = Entity("card", key="card", dtype="int64")
    views = [
        FeatureView(
            name,
            entity=card,
            source=FileSource(name, path=str(folder / f"{name}.parquet"), event_time="at"),
            features={"n_1d": agg.count().over("1d"), "n": agg.count().lifetime(), "since": agg.time_since_last()},
        )
        for name in ("tries", "backs")
    ]
    # A set asked some seconds after the payments it predicts.
    happened = instants([at - 5_000_000 if is_fraud else None for at, is_fraud in zip(as_of, fraud, strict=True)])
    spine = {"card": list(range(count)), "as_of": instants(as_of), "fraud": fraud, "happened": happened}
    with FeatureStore.local(folder / "store", clock=FixedClock(START + 30 * DAY)) as store:
        store.apply(FeatureService("frauds", features=views))
        yield store, store.training_set("frauds", pa.table(spine), folder / "training")


def test_what_cannot_be_proven_is_doubted_whatever_the_aggregation(cards):
    """A leak dated some seconds early and an honest feature of the last half hour look alike: neither is flagged."""
    report = cards[0].leakage(cards[1], "fraud")
    assert (report.flagged, report.exit_code) == ((), 0)
    assert {feature.name for feature in report.doubted} == {
        *("backs__n_1d", "backs__n", "backs__since"),
        *("tries__n_1d", "tries__n", "tries__since"),
    }
    leak = next(feature for feature in report.doubted if feature.name == "backs__n")
    assert "computed 1m earlier it loses 100%" in leak.doubts[0]
    newest = "the newest event of 'backs' is 3s old where fraud is True, 2d old where fraud is False (median)"
    assert leak.evidence[0] == newest
    assert "has no ingest time" in leak.evidence[1]
    honest = next(feature for feature in report.doubted if feature.name == "tries__n_1d")
    assert "computed 1h earlier" in honest.doubts[0]


def test_what_sees_beyond_the_label_is_proven_by_its_time(cards):
    report = cards[0].leakage(cards[1], "fraud", label_time="happened")
    assert {feature.name for feature in report.flagged} == {"backs__n_1d", "backs__n", "backs__since"}
    assert {feature.name for feature in report.doubted} == {"tries__n_1d", "tries__n", "tries__since"}
    assert "just before the label's event" in report.flagged[0].flags[0]
    assert report.exit_code == 1
    assert report.after_label == int(np.sum(cards[1].to_arrow(["fraud"]).column(0).to_numpy()))
    assert "before the label" in "".join(read(render_page(report)).text)


def test_an_inclusive_source_is_asked_before_the_label_too(built, tmp_path):
    store, training_set = built
    spine = training_set.to_arrow(["user", "as_of", "returned"])
    later = instants(spine.column("as_of").cast(pa.int64()).to_numpy() + MINUTE)
    asked = spine.append_column("ordered", spine.column("as_of")).set_column(1, "as_of", later)
    report = store.leakage(store.training_set("returns", asked, tmp_path / "t"), "returned", label_time="ordered")
    flags = {feature.name: feature.flags[0] for feature in report.flagged}
    assert "just before the label's event" in flags["leaking__last"]


def test_rows_are_chosen_by_what_they_ask_not_by_where_they_stand(cards, tmp_path):
    store, training_set = cards
    spine = training_set.to_arrow(["card", "as_of", "fraud"])
    turned = store.training_set("frauds", spine.take(list(range(spine.num_rows - 1, -1, -1))), tmp_path / "turned")
    found = [store.leakage(one, "fraud", rows=700) for one in (training_set, turned)]
    assert [(report.rows, report.sampled_of) for report in found] == [(700, 2000)] * 2
    assert found[0].features == found[1].features
    # A set that alternates is no trap: every second row would be one class.
    assert found[0].features[0].share > 0.5


@pytest.mark.parametrize(("column", "problem"), [("fraud", "is bool, expected instants"), ("hapened", "no label time")])
def test_a_label_time_that_is_none_is_refused(cards, column, problem):
    with pytest.raises(RequestError, match=problem):
        cards[0].leakage(cards[1], "fraud", label_time=column)


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
    assert "with hindsight it would say" in late.notes[0]


def test_a_source_that_was_changed_since_is_noticed(built, tmp_path):
    spine = world(tmp_path)
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 30 * DAY)) as store:
        store.apply(service(tmp_path))
        training_set = store.training_set("returns", spine, tmp_path / "training", overwrite=True)
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
    shown = "".join(read(render_page(report)).text)
    assert "leaking__last" in shown
    assert "1 of 6 features are leaks" in shown
    assert "Leakage in returns: fail" in shown


def test_bars_of_noise_are_short_and_every_remark_is_on_the_page(cards, built):
    noise = render_page(built[0].leakage(built[1], "returned"))
    bar = re.search(r"honest__noise</h3>.*?\*([\d.]+)\)", noise)
    assert bar is not None
    assert float(bar[1]) < 0.01
    report = cards[0].leakage(cards[1], "fraud")
    shown = read(render_page(report)).text
    assert "Leakage in frauds: doubtful" in shown
    assert all(line in shown for feature in report.features for line in (*feature.evidence, *feature.notes))


@pytest.mark.parametrize(("label", "problem"), [("retured", "no label 'retured'"), ("always", "has only one value")])
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
