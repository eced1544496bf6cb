"""A small set of definitions that the tests of the compiler share, made anew for each use."""

from dataclasses import dataclass
from typing import Any

from featurestore import (
    Entity,
    FeatureService,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    agg,
    as_of,
    col,
    every,
    request,
)
from featurestore.core.dtypes import (
    BOOL,
    DATE,
    FLOAT64,
    INT64,
    STRING,
    TIMESTAMP,
    DType,
    list_of,
)
from featurestore.core.errors import DefinitionError, Mistake
from featurestore.definitions.collection import collect
from featurestore.plan.compiler import Plans, compile_definitions
from featurestore.plan.model import Plan, ViewPlan

SCHEMAS: dict[str, dict[str, DType | None]] = {
    "flights": {
        "carrier": STRING,
        "origin": STRING,
        "dest": STRING,
        "number": INT64,
        "landed_at": TIMESTAMP,
        "known_at": TIMESTAMP,
        "flight_id": STRING,
        "arr_delay": FLOAT64,
        "distance": INT64,
        "fare": DType("decimal", precision=12, scale=2),
        "wide_fare": DType("decimal", precision=30, scale=2),
        "cancelled": BOOL,
        "day": DATE,
        "stops": list_of(STRING),
        "odd": None,
    },
    "weather": {"airport": STRING, "at": TIMESTAMP, "temp": FLOAT64, "visib": FLOAT64},
}


def flights(**changes: Any) -> FileSource:
    return FileSource("flights", **({"path": "flights.parquet", "event_time": "landed_at"} | changes))


def weather_source(**changes: Any) -> FileSource:
    return FileSource("weather", **({"path": "weather.parquet", "event_time": "at"} | changes))


def carrier(**changes: Any) -> Entity:
    return Entity("carrier", **({"key": "carrier"} | changes))


def view(features: dict[Any, Any] | None = None, **changes: Any) -> FeatureView:
    """Return a view over flights; by default with the one feature ``flights_1d``."""
    name = changes.pop("name", "delays")
    given = {"entity": carrier(), "source": flights(), "features": features or {"flights_1d": agg.count().over("1d")}}
    return FeatureView(name, **(given | changes))


def plan_of(view: FeatureView, **schemas: Any) -> ViewPlan:
    return compile_definitions(collect(view), SCHEMAS | schemas).views[view.name]


def service_plan(service: FeatureService) -> Plan:
    return compiled(service).services[service.name]


def compiled(*definitions: Any) -> Plans:
    return compile_definitions(collect(*definitions), SCHEMAS)


def mistakes_in(*definitions: Any) -> list[Mistake]:
    """Return the mistakes that compiling finds; none if it works."""
    try:
        compiled(*definitions)
    except DefinitionError as error:
        return list(error.mistakes)
    return []


def the_mistake(*definitions: Any) -> Mistake:
    (found,) = mistakes_in(*definitions)
    return found


@dataclass
class World:
    """Definitions that refer to one another in every way there is."""

    delays: FeatureView
    weather: FeatureView
    on_demand: OnDemandFeatureView
    second: OnDemandFeatureView
    service: FeatureService


def world() -> World:
    airport = Entity("airport", key="airport")
    delays = FeatureView(
        "delays",
        entity=carrier(),
        source=flights(),
        where=col("cancelled") == False,  # noqa: E712  # an expression
        features={
            "flights_{window}": agg.count().over("1d", "7d"),
            "mean_7d": agg.mean(col("arr_delay")).over("7d", resolution="1h"),
            "last": agg.last(col("arr_delay")).ttl("2d"),
            "late": agg.count(where=col("arr_delay") > 15).lifetime(),
        },
        refresh=every("1h", lag="10m"),
    )
    weather = FeatureView(
        "weather",
        entity=airport,
        source=weather_source(),
        features={"temp": agg.last(col("temp")), "visib": agg.last(col("visib"))},
    )
    here, there = (weather.aliased(f"{role}_weather", {"airport": role}) for role in ("origin", "dest"))
    on_demand = OnDemandFeatureView(
        "usual",
        request={"dep_delay": "float64", "unused": "int64"},
        features={"excess": request("dep_delay") - delays["mean_7d"], "warmer": here["temp"] - there["temp"]},
    )
    second = OnDemandFeatureView("second", features={"twice": on_demand["excess"] * 2.0, "asked": as_of()})
    service = FeatureService(
        "model", features=[delays, weather["temp"], here["temp", "visib"], on_demand["excess"], second]
    )
    return World(delays, weather, on_demand, second, service)
