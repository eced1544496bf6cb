"""The example's definitions say what they mean, and the demo's helpers do what they say."""

from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa

from feature_definitions.demo import LEAKING_FEATURES, with_leak
from feature_definitions.flights import carrier_delays, flight_delay, plane_facts, weather
from featurestore.definitions.collection import collect
from featurestore.testing import evaluate


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def landings(*minutes: tuple[str, float]) -> pa.Table:
    return pa.table(
        {
            "carrier": ["UA"] * len(minutes),
            "landed_at": pa.array([at(text) for text, _ in minutes], pa.timestamp("us", "UTC")),
            "arr_delay": [delay for _, delay in minutes],
        }
    )


def test_a_flight_in_the_air_has_no_delay_yet():
    """The one that lands at 12:05 counts from the refresh after it on: 12:30, served at 12:40."""
    events = landings(("2013-07-01T09:00", 10.0), ("2013-07-01T12:05", 60.0))
    seen = {}
    for asked in ("2013-07-01T12:39", "2013-07-01T12:40"):
        (row,) = evaluate(carrier_delays, events=events, at=at(asked)).to_pylist()
        seen[asked[-5:]] = (row["carrier_delays__flights_1d"], row["carrier_delays__mean_delay_1d"])
    assert seen == {"12:39": (1, 10.0), "12:40": (2, 35.0)}


def test_late_means_more_than_fifteen_minutes():
    events = landings(("2013-07-01T09:00", 15.0), ("2013-07-01T09:10", 16.0))
    (row,) = evaluate(carrier_delays, events=events, at=at("2013-07-01T12:00")).to_pylist()
    assert row["carrier_delays__late_share_1d"] == 0.5


def test_weather_of_an_hour_is_served_when_the_hour_is_over():
    hours = [at("2013-07-01T09:00"), at("2013-07-01T10:00"), at("2013-07-01T11:00")]
    measured = {
        name: [1.0, 2.0, 3.0] for name in ("temp", "humid", "wind_speed", "wind_gust", "pressure", "visib", "precip")
    }
    events = pa.table(
        {
            "origin": ["EWR"] * 3,
            "observed_at": hours,
            "known_at": [*hours[1:], at("2013-07-01T12:00")],
            **measured,
        }
    )
    for asked, expected in (("2013-07-01T11:09", 1.0), ("2013-07-01T11:10", 2.0)):
        (row,) = evaluate(weather, events=events, at=at(asked)).to_pylist()
        assert row["weather__temp"] == expected


def test_facts_about_a_plane_count_from_their_own_instant():
    planes = pa.table(
        {
            "tailnum": ["N14228"],
            "valid_from": pa.array([at("2013-01-01T00:00")], pa.timestamp("us", "UTC")),
            "year": [1999],
            "seats": [149],
            "engines": [2],
        }
    )
    (row,) = evaluate(plane_facts, events=planes, at=at("2013-01-01T00:00")).to_pylist()
    assert (row["plane_facts__built"], row["plane_facts__seats"]) == (1999, 149)


def test_the_service_brings_all_its_definitions_along():
    found = collect(flight_delay)
    assert [entity.name for entity in found.entities] == ["carrier", "origin", "plane", "route"]
    assert [source.name for source in found.sources] == ["aircraft", "arrivals", "observations"]


def test_the_leaking_join_holds_the_flight_itself():
    """With one flight a day of its kind, the average it is joined to is its own delay."""
    flights = pd.DataFrame(
        {
            "late": [False, True],
            "sched_dep": pd.to_datetime(["2013-07-01T12:00Z", "2013-07-02T12:00Z"], utc=True),
            "arr_delay": [1.0, 99.0],
            "carrier": ["UA", "UA"],
            "origin": ["EWR", "EWR"],
            "dest": ["LAX", "LAX"],
            "tailnum": ["N1", "N1"],
        }
    )
    joined = with_leak(flights)
    assert list(joined.columns) == ["late", *LEAKING_FEATURES]
    assert joined["plane_delay_that_day"].tolist() == [1.0, 99.0]
