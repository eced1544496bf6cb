"""Simulated policies: the shares are those that a count by hand gives, and what is fresh does not differ."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, continuous, every
from featurestore.errors import InstantError, RequestError, SourceError
from featurestore.skew.simulation_view import render_html
from featurestore.temporal import FixedClock, instant_us, parse_refresh
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


def test_questions_are_chosen_from_what_the_source_covers(store):
    found = store.simulate("spend", [continuous(), every("6h")], rows=500)
    assert found.rows == 500
    assert found.since == "2026-03-01T00:00:00Z"
    assert found.until <= "2026-03-02T00:00:00Z"
    assert found.policies[0].share == 0.0 < found.policies[1].share < 1.0
    assert json.loads(found.to_json())["policies"][1]["refresh"] == "every 6h, lag 0s"
    shown = "".join(read(render_html(found)).text)
    assert "every 6h, lag 0s" in shown


def test_policies_are_read_as_they_are_written():
    for policy in (continuous(), every("1h"), every("1d", lag="15m")):
        assert parse_refresh(str(policy)) == policy
    assert parse_refresh("every 1h") == every("1h")
    with pytest.raises(InstantError, match="'hourly' is no refresh"):
        parse_refresh("hourly")


def test_what_cannot_be_simulated_is_named(store, tmp_path):
    with pytest.raises(RequestError, match="no feature view 'spent'"):
        store.simulate("spent", ["continuous"])
    pq.write_table(pq.read_table(tmp_path / "payments.parquet").slice(0, 0), tmp_path / "payments.parquet")
    with pytest.raises(SourceError, match="no history"):
        store.simulate("spend", ["continuous"])
