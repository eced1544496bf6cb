"""Simulated policies: the shares are those that a count by hand gives, and what is fresh does not differ."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, continuous, every
from featurestore.core.errors import InstantError, RequestError, SourceError
from featurestore.core.temporal import FixedClock, instant_us, parse_refresh
from featurestore.reports.simulation import render_page, render_text
from tests.unit.render.pages import read

START = instant_us("2026-03-01T00:00:00Z")
MINUTE, HOUR = 60_000_000, 3_600_000_000
INSTANT = pa.timestamp("us", tz="UTC")


def instants(values):
    return pa.array(values, pa.int64()).cast(INSTANT)


@pytest.fixture
def store(tmp_path):
    # One event at every full ten minutes of a day.
    at = instants([START + number * 10 * MINUTE for number in range(144)])
    table = pa.table({"user": ["a"] * 144, "at": at, "amount": [float(number) for number in range(144)]})
    pq.write_table(table, tmp_path / "payments.parquet")
    source = FileSource("payments", path=str(tmp_path / "payments.parquet"), event_time="at")
    features = {"n": agg.count().lifetime(), "last": agg.last(col("amount")), "first": agg.first(col("amount"))}
    view = FeatureView(
        "spend", entity=Entity("user", key="user"), source=source, features=features, refresh=every("1h", lag="10m")
    )
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 24 * HOUR)) as opened:
        opened.apply(FeatureService("model", features=[view]))
        yield opened


def shares(outcome):
    return {feature.name.removeprefix("spend__"): feature.share for feature in outcome.features}


def test_policies_differ_from_fresh_values_by_what_they_cannot_see(store):
    # Asked at every full minute of an hour in the middle: with an hourly grid, the first ten minutes after a full hour
    # see the same events as fresh ones only before the next event comes.
    spine = pa.table({"user": ["a"] * 60, "as_of": instants([START + 12 * HOUR + n * MINUTE for n in range(60)])})
    found = store.simulate("spend", ["continuous", every("1h"), "every 1h lag 30m"], spine=spine)
    fresh, hourly, lagging = found.policies
    assert (found.rows, found.declared) == (60, "every 1h, lag 10m")
    assert fresh.share == 0.0
    assert fresh.runs_per_day is None
    # An event at h:00 is seen by questions after h:00; the grid at h:00 does not see it: only h:00 itself agrees.
    assert shares(hourly) == {"n": 59 / 60, "last": 59 / 60, "first": 0.0}
    assert (hourly.runs_per_day, hourly.staleness_s) == (24.0, pytest.approx((29.5 * 60, 56.05 * 60, 59 * 60)))
    # Half an hour late, the first half of the hour stands at the hour before.
    assert shares(lagging) == {"n": 1.0, "last": 1.0, "first": 0.0}
    count = next(feature for feature in lagging.features if feature.name == "spend__n")
    assert count.numbers.largest_absolute == 9.0


def test_questions_are_chosen_where_entities_act(store):
    found = store.simulate("spend", [continuous(), every("6h")], rows=100)
    assert found.rows == 100
    assert found.questions == "half at entities' own events, half a minute after these were known"
    assert found.not_found <= 0.01, "only the first event may be asked about before anything was known"
    assert "2026-03-01T00:00:00Z" <= found.since < found.until <= "2026-03-02T00:00:00Z"
    assert found.policies[0].share == 0.0 < found.policies[1].share < 1.0
    assert json.loads(found.to_json())["policies"][1]["refresh"] == "every 6h, lag 0s"
    shown = "".join(read(render_page(found)).text)
    assert "every 6h, lag 0s" in shown


def test_entities_that_act_for_a_short_time_are_asked_about_then(tmp_path):
    """Spread over a month, questions about users who are active for an hour would find no policy wanting."""
    at = [START + user * 10 * HOUR + number * 3 * MINUTE for user in range(60) for number in range(20)]
    table = pa.table({"user": [f"u{i // 20}" for i in range(1200)], "at": instants(at), "amount": [1.0] * 1200})
    pq.write_table(table, tmp_path / "payments.parquet")
    source = FileSource("payments", path=str(tmp_path / "payments.parquet"), event_time="at")
    features = {"n": agg.count().over("1d"), "last": agg.last(col("amount"))}
    view = FeatureView("spend", entity=Entity("user", key="user"), source=source, features=features)
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(START + 700 * HOUR)) as store:
        store.apply(FeatureService("model", features=[view]))
        found = store.simulate("spend", ["every 1h lag 10m", "every 1d"])
    assert shares(found.policies[0])["n"] > 0.9
    assert found.not_found == pytest.approx(30 / 1200, abs=0.02)


def test_what_was_served_is_asked_again_if_it_is_enough(store):
    store.materialize(until="2026-03-02T00:00:00Z")
    for minute in range(40):
        store.get_online_features("model", [{"user": "a"}], as_of=f"2026-03-01T23:{minute:02}:30Z")
    store.close()
    found = store.simulate("spend", ["every 6h"], rows=30)
    assert (found.rows, found.questions) == (30, "of those served lately")
    assert found.since >= "2026-03-01T23:00:30Z"
    few = store.simulate("spend", ["every 6h"], rows=50)
    assert few.questions != found.questions


def test_costs_are_those_of_a_count_by_hand(store, tmp_path):
    # 144 events of one user, ten minutes apart; another user has one event in the middle.
    table = pq.read_table(tmp_path / "payments.parquet")
    more = pa.table({"user": ["b"], "at": instants([START + 12 * HOUR]), "amount": [1.0]}, schema=table.schema)
    pq.write_table(pa.concat_tables([table, more]), tmp_path / "payments.parquet")
    found = store.simulate("spend", ["continuous", "every 1h", "every 1h lag 10m", "every 1d"], rows=50)
    days = 143 / 144
    assert found.events_per_day == pytest.approx(145 / days)
    assert [outcome.states_per_day * days for outcome in found.policies] == pytest.approx([145, 25, 26, 2])


def test_the_terminal_shows_costs_and_sizes(store):
    spine = pa.table({"user": ["a", "z"], "as_of": instants([START + 12 * HOUR + 30 * MINUTE] * 2)})
    found = store.simulate("spend", ["every 6h", "continuous"], spine=spine)
    assert (found.not_found, found.questions) == (0.5, "given")
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(render_text(found))
    shown = console.export_text()
    assert "50.0% of them about entities without events" in shown
    heads = next(line for line in shown.splitlines() if "mean difference" in line)
    assert all(word in heads for word in ("runs a day", "states a day", "largest"))
    # Of the count, 72 events at 12:00 and 75 before 12:30.
    line = next(line for line in shown.splitlines() if line.startswith("every 6h"))
    assert line.split()[-3:] == ["50.00%", "3", "3"]


def test_policies_are_read_as_they_are_written():
    for policy in (continuous(), every("1h"), every("1d", lag="15m")):
        assert parse_refresh(str(policy)) == policy
    assert parse_refresh("every 1h") == every("1h")
    with pytest.raises(InstantError, match="'hourly' is not a valid refresh policy"):
        parse_refresh("hourly")


def test_what_cannot_be_simulated_is_named(store, tmp_path):
    with pytest.raises(RequestError, match="there is no view 'spent'"):
        store.simulate("spent", ["continuous"])
    pq.write_table(pq.read_table(tmp_path / "payments.parquet").slice(0, 0), tmp_path / "payments.parquet")
    with pytest.raises(SourceError, match="no history"):
        store.simulate("spend", ["continuous"])
