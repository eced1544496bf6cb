"""Features of flights from New York in 2013.

A flight's delay is an event of the moment it *landed*: two hours before the next departure nobody knows how late a
flight in the air will be. A join on the day, or on the flight itself, would know; that is the leak the demo shows.
"""

from __future__ import annotations

from featurestore import (
    Entity,
    FeatureService,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    agg,
    col,
    every,
    request,
)

NEW_YORK = "America/New_York"
LATE_MINUTES = 15

carrier = Entity("carrier", key="carrier", description="An airline")
origin = Entity("origin", key="origin", description="An airport flights leave from")
route = Entity("route", key=("origin", "dest"), description="From one airport to another")
plane = Entity("plane", key="tailnum", description="An aircraft, by its tail number")

arrivals = FileSource(
    "arrivals",
    path="data/arrivals.parquet",
    event_time="landed_at",
    description="Flights that landed, at the instant they did; cancelled and diverted flights have none",
)
observations = FileSource(
    "observations",
    path="data/weather.parquet",
    event_time="observed_at",
    ingest_time="known_at",
    description="Hourly weather at the three airports; the observation of an hour is known when the hour is over",
)
aircraft = FileSource(
    "aircraft",
    path="data/planes.parquet",
    event_time="valid_from",
    inclusive=True,
    on_null="drop",
    description="Facts about aircraft, valid from an instant on",
)

is_late = (col("arr_delay") > LATE_MINUTES).cast("float64")
REFRESH = every("30m", lag="10m")

carrier_delays = FeatureView(
    "carrier_delays",
    entity=carrier,
    source=arrivals,
    features={
        "flights_{window}": agg.count().over("6h", "1d", "7d"),
        "mean_delay_{window}": agg.mean(col("arr_delay")).over("6h", "1d", "7d", "30d"),
        "late_share_{window}": agg.mean(is_late).over("1d", "7d", "30d"),
        "spread_7d": agg.std(col("arr_delay")).over("7d"),
    },
    refresh=REFRESH,
    owner="operations",
)
origin_delays = FeatureView(
    "origin_delays",
    entity=origin,
    source=arrivals,
    features={
        "flights_{window}": agg.count().over("2h", "6h", "1d"),
        "mean_delay_{window}": agg.mean(col("arr_delay")).over("2h", "6h", "1d"),
        "mean_departure_delay_{window}": agg.mean(col("dep_delay")).over("2h", "6h"),
        "late_share_{window}": agg.mean(is_late).over("2h", "6h", "1d"),
        "worst_6h": agg.max(col("arr_delay")).over("6h"),
    },
    refresh=REFRESH,
    owner="operations",
)
route_delays = FeatureView(
    "route_delays",
    entity=route,
    source=arrivals,
    features={
        "flights_7d": agg.count().over("7d"),
        "mean_delay_{window}": agg.mean(col("arr_delay")).over("1d", "7d", "30d"),
        "median_delay_30d": agg.median(col("arr_delay")).over("30d"),
        "carriers_30d": agg.count_distinct(col("carrier")).over("30d"),
    },
    refresh=REFRESH,
    owner="operations",
)
plane_delays = FeatureView(
    "plane_delays",
    entity=plane,
    source=arrivals,
    features={
        "last_delay": agg.last(col("arr_delay")).ttl("2d"),
        "last_destination": agg.last(col("dest")).ttl("2d"),
        "flights_{window}": agg.count().over("1d", "7d"),
        "mean_delay_{window}": agg.mean(col("arr_delay")).over("1d", "7d"),
        "hours_since_landing": agg.time_since_last(unit="h"),
    },
    refresh=REFRESH,
    owner="operations",
)
weather = FeatureView(
    "weather",
    entity=origin,
    source=observations,
    features={
        "temp": agg.last(col("temp")).ttl("6h"),
        "humid": agg.last(col("humid")).ttl("6h"),
        "wind_speed": agg.last(col("wind_speed")).ttl("6h"),
        "wind_gust": agg.last(col("wind_gust"), respect_nulls=True).ttl("6h"),
        "pressure": agg.last(col("pressure")).ttl("6h"),
        "visib": agg.last(col("visib")).ttl("6h"),
        "rain_6h": agg.sum(col("precip")).over("6h"),
        "worst_visib_6h": agg.min(col("visib")).over("6h"),
    },
    refresh=every("1h", lag="10m"),
    owner="meteorology",
)
plane_facts = FeatureView(
    "plane_facts",
    entity=plane,
    source=aircraft,
    features={
        "built": agg.last(col("year")),
        "seats": agg.last(col("seats")),
        "engines": agg.last(col("engines")),
    },
    owner="fleet",
)
departure = OnDemandFeatureView(
    "departure",
    request={"sched_dep": "timestamp", "distance": "float64"},
    features={
        "hour": request("sched_dep").in_zone(NEW_YORK).hour(),
        "day_of_week": request("sched_dep").in_zone(NEW_YORK).day_of_week(),
        "month": request("sched_dep").in_zone(NEW_YORK).month(),
        "is_weekend": request("sched_dep").in_zone(NEW_YORK).is_weekend(),
        "log_distance": request("distance").log1p(),
        "plane_age": request("sched_dep").year() - plane_facts["built"],
        "worse_than_usual": carrier_delays["mean_delay_1d"] - carrier_delays["mean_delay_30d"],
    },
    owner="operations",
)

flight_delay = FeatureService(
    "flight_delay",
    features=[
        carrier_delays,
        origin_delays,
        route_delays,
        plane_delays,
        weather,
        plane_facts["seats", "engines"],
        departure,
    ],
    description=f"Will a flight arrive more than {LATE_MINUTES} minutes late? Asked two hours before departure.",
)
