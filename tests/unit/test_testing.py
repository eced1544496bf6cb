"""Definitions run on small frames, with no store."""

from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pytest

from featurestore import (
    DefinitionError,
    Entity,
    FeatureService,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    agg,
    as_of,
    col,
    request,
)
from featurestore.core.errors import SourceDataError, SourceMissingError, SpineError
from featurestore.testing import evaluate


def at(hour, minute=0):
    return datetime(2026, 1, 1, hour, minute, tzinfo=UTC)


def delays(**changes):
    source = {"path": "nowhere/*.parquet", "event_time": "landed"} | changes
    return FeatureView(
        "delays",
        entity=Entity("carrier", key="carrier"),
        source=FileSource("flights", **source),
        features={"worst": agg.max(col("minutes")).over("2h"), "last": agg.last(col("minutes")).ttl("1h")},
    )


def weather():
    return FeatureView(
        "weather",
        entity=Entity("airport", key="airport"),
        source=FileSource("weather", path="nowhere.parquet", event_time="hour"),
        features={"temp": agg.last(col("temp"))},
    )


FLIGHTS = pa.table(
    {"carrier": ["UA", "AA", "UA"], "landed": [at(8), at(9), at(12)], "minutes": pa.array([5, None, 90], pa.int64())}
)
HOURS = pa.table({"airport": ["EWR", "JFK"], "hour": [at(7), at(7)], "temp": [1.5, 2.5]})


def test_one_instant_asks_about_every_key_in_their_order():
    found = evaluate(delays(), events=FLIGHTS, at="2026-01-01T09:30Z")
    assert found.to_pylist() == [
        {"carrier": "AA", "as_of": at(9, 30), "delays__last": None, "delays__worst": None},
        {"carrier": "UA", "as_of": at(9, 30), "delays__last": None, "delays__worst": 5},
    ]


def test_a_spine_keeps_its_rows_order_and_columns():
    spine = pd.DataFrame({"label": [1, 0, 1], "carrier": ["ZZ", "UA", "UA"], "as_of": [at(13), at(13), at(9)]})
    found = evaluate(delays(), events=FLIGHTS.to_pandas(), at=spine)
    assert found.column_names == ["label", "carrier", "as_of", "delays__last", "delays__worst"]
    assert found.column("delays__worst").to_pylist() == [None, 90, 5]
    assert found.column("label").to_pylist() == [1, 0, 1]


def test_statuses_tell_nothing_from_not_found_and_expired():
    spine = pa.table({"carrier": ["ZZ", "AA", "UA"], "as_of": [at(10, 30)] * 3})
    found = evaluate(delays(), events=FLIGHTS, at=spine, statuses=True)
    assert found.column("delays__last__status").to_pylist() == ["NOT_FOUND", "NULL", "EXPIRED"]


def test_a_service_takes_rows_by_source_and_request_inputs_from_the_spine():
    usual = OnDemandFeatureView(
        "usual",
        request={"minutes": "float64"},
        features={"excess": request("minutes") - delays_view["worst"], "asked": as_of()},
    )
    service = FeatureService("model", features=[usual, weather_view["temp"].renamed("temp")])
    spine = pa.table({"carrier": ["UA"], "airport": ["JFK"], "as_of": [at(9)], "minutes": [7.5]})
    found = evaluate(service, events={"flights": FLIGHTS, "weather": HOURS}, at=spine)
    assert found.select(["usual__excess", "usual__asked", "temp"]).to_pylist() == [
        {"usual__excess": 2.5, "usual__asked": at(9), "temp": 2.5}
    ]


delays_view, weather_view = delays(), weather()


def test_the_sources_own_rules_hold():
    doubled = pa.concat_tables([FLIGHTS, FLIGHTS]).append_column("id", pa.array([1, 2, 3, 1, 2, 3]))
    counted = FeatureView(
        "counted",
        entity=Entity("carrier", key="carrier"),
        source=FileSource("flights", path="x.parquet", event_time="landed", event_id="id", inclusive=True),
        features={"flights": agg.count().lifetime()},
    )
    found = evaluate(counted, events=doubled, at=at(12))
    assert found.column("counted__flights").to_pylist() == [1, 2]


def test_declared_dtypes_are_cast_to_as_when_a_file_is_read():
    text = FLIGHTS.set_column(2, "minutes", pa.array(["5", None, "90"]))
    found = evaluate(delays(dtypes={"minutes": "int64"}), events=text, at=at(9))
    assert found.column("delays__worst").to_pylist() == [None, 5]


def test_a_mistake_in_the_definition_is_told_as_at_apply():
    with pytest.raises(DefinitionError, match="minutes"):
        evaluate(delays(), events=FLIGHTS.drop_columns(["minutes"]), at=at(9))


def test_naive_times_are_refused_with_the_fix():
    naive = FLIGHTS.set_column(1, "landed", FLIGHTS.column("landed").cast(pa.timestamp("us")))
    with pytest.raises(SourceDataError, match="timezone='UTC'"):
        evaluate(delays(), events=naive, at=at(9))


@pytest.mark.parametrize("events", [{"flight": FLIGHTS}, {"flights": FLIGHTS, "weather": HOURS}, {}])
def test_rows_are_given_for_exactly_the_sources_there_are(events):
    with pytest.raises(SourceMissingError, match="Sources: flights"):
        evaluate(delays(), events=events, at=at(9))


def test_one_frame_cannot_be_for_two_sources():
    service = FeatureService("model", features=[delays_view, weather_view])
    with pytest.raises(SourceMissingError, match="mapping"):
        evaluate(service, events=FLIGHTS, at=at(9))


def test_one_instant_cannot_say_which_pairs_of_keys_are_meant():
    service = FeatureService("model", features=[delays_view, weather_view])
    with pytest.raises(SpineError, match="airport, carrier and as_of"):
        evaluate(service, events={"flights": FLIGHTS, "weather": HOURS}, at=at(9))
