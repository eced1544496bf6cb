"""The example of the contract: one view on a refresh grid, another picked from, one on-demand feature."""

from featurestore import Entity, FeatureService, FeatureView, FileSource, OnDemandFeatureView, agg, col, every, request
from featurestore.core.dtypes import (
    BOOL,
    FLOAT64,
    STRING,
    TIMESTAMP,
)

SCHEMAS = {
    "flights": {"carrier": STRING, "landed_at": TIMESTAMP, "arr_delay": FLOAT64, "cancelled": BOOL, "dest": STRING},
    "weather": {"origin": STRING, "at": TIMESTAMP, "temp": FLOAT64, "visib": FLOAT64, "wind": FLOAT64},
}

carrier = Entity("carrier", key="carrier", dtype="string")
airport = Entity("airport", key="origin")
flights = FileSource("flights", path="data/flights/*.parquet", event_time="landed_at")
weather_reports = FileSource("weather", path="data/weather.parquet", event_time="at", inclusive=True)

carrier_delays = FeatureView(
    "carrier_delays",
    entity=carrier,
    source=flights,
    where=col("cancelled") == False,  # noqa: E712  # an expression
    features={
        "flights_1d": agg.count().over("1d"),
        "mean_delay_7d": agg.mean(col("arr_delay")).over("7d"),
        "late_share_7d": agg.mean((col("arr_delay") > 15).cast("float64")).over("7d"),
        "last_delay": agg.last(col("arr_delay")).ttl("2d"),
    },
    refresh=every("1h", lag="10m"),
    owner="ops",
)
weather = FeatureView(
    "weather",
    entity=airport,
    source=weather_reports,
    features={name: agg.last(col(name)) for name in ("temp", "visib", "wind")},
)
vs_usual = OnDemandFeatureView(
    "vs_usual",
    request={"dep_delay": "float64"},
    features={"excess": request("dep_delay") - carrier_delays["mean_delay_7d"]},
)
delay_model = FeatureService("delay_model", features=[carrier_delays, weather["temp", "visib"], vs_usual])
