"""One view in two roles, a composite key, on-demand features over on-demand features, renamed columns, a function."""

import pyarrow.compute as pc

from featurestore import (
    Entity,
    FeatureService,
    FeatureView,
    OnDemandFeatureView,
    SqlSource,
    agg,
    as_of,
    coalesce,
    col,
    lit,
    request,
    udf,
    when,
)
from featurestore.core.dtypes import (
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
)

SCHEMAS = {
    "reports": {"airport": STRING, "at": TIMESTAMP, "temp": FLOAT64, "sky": STRING},
    "tickets": {
        "origin": STRING,
        "dest": STRING,
        "sold_at": TIMESTAMP,
        "known_at": TIMESTAMP,
        "ticket": INT64,
        "price": DType("decimal", precision=10, scale=2),
        "seats": INT64,
    },
}


@udf(returns="float64")
def celsius(fahrenheit):
    return pc.divide(pc.multiply(pc.subtract(fahrenheit, 32.0), 5.0), 9.0)


reports = SqlSource("reports", url="sqlite:///reports.db", table="reports", event_time="at", timezone="UTC")
tickets = SqlSource(
    "tickets",
    url="sqlite:///tickets.db",
    query="select * from tickets where price > 0",
    event_time="sold_at",
    ingest_time="known_at",
    event_id="ticket",
)
weather = FeatureView(
    "weather",
    entity=Entity("airport", key="airport"),
    source=reports,
    features={
        "temp": agg.latest(celsius(col("temp"))),
        "skies_{window}": agg.mode(col("sky"), where=col("sky") != "unknown").over("6h", "1d", resolution="1h"),
        "since": agg.time_since_last(unit="h"),
    },
)
sales = FeatureView(
    "sales",
    entity=Entity("route", key=("origin", "dest"), dtype=("string", "string")),
    source=tickets,
    features={
        "revenue": agg.sum(col("price")).lifetime(),
        "seats_p90": agg.quantile(col("seats"), 0.9).over("30d"),
        "recent": agg.last_n(col("seats"), 3),
        "spread": agg.std(col("seats"), ddof=0).over("30d"),
    },
)
here = weather.aliased("here", keys={"airport": "origin"})
there = weather.aliased("there", keys={"airport": "dest"})
journey = OnDemandFeatureView(
    "journey",
    request={"departs_at": "timestamp"},
    features={
        "warmer": there["temp"] - here["temp"],
        "wait": request("departs_at").since(as_of(), "minute"),
    },
)
advice = OnDemandFeatureView(
    "advice",
    features={"coat": when(coalesce(journey["warmer"], 0.0) < 0.0).then(lit(True)).otherwise(lit(False))},
)
trip = FeatureService(
    "trip",
    features=[
        sales,
        here["temp"].renamed("temp_here"),
        there["temp", "skies_6h"].prefixed("dest"),
        advice,
        journey["warmer"],
    ],
)
