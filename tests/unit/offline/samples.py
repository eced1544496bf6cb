"""A small service, its rows and its spine, for the tests of training sets."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    agg,
    col,
    request,
)
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.definitions.collection import collect
from featurestore.plan.compiler import compile_definitions

NOW = "2024-06-01T00:00:00Z"
START_US = instant_us("2024-05-01T00:00:00Z")
DAY_US = instant_us("2024-05-02T00:00:00Z") - START_US
INSTANT = pa.timestamp("us", tz="UTC")


def events(count=400, seed=0):
    """Return rows of six users in a month."""
    chance = np.random.default_rng(seed)
    times = START_US + chance.integers(0, 30 * DAY_US, count)
    return pa.table(
        {
            "user": chance.integers(0, 6, count),
            "at": pa.array(np.sort(times), pa.int64()).cast(INSTANT),
            "amount": pa.array(chance.normal(0, 10, count), mask=chance.random(count) < 0.1),
            "shop": pa.array(chance.choice(["a", "b", "c"], count)),
        }
    )


def spine(count=50, seed=1):
    """Return questions about these users, and one that nobody knows, in no order, some of them twice."""
    chance = np.random.default_rng(seed)
    times = START_US + chance.integers(0, 31 * DAY_US, count)
    table = pa.table(
        {
            "label": pa.array(chance.choice(["yes", "no"], count)),
            "user": chance.integers(0, 7, count),
            "as_of": pa.array(times, pa.int64()).cast(INSTANT),
            "budget": chance.normal(0, 10, count),
        }
    )
    return pa.concat_tables([table, table.slice(0, 5)]).combine_chunks()


def service_of(path):
    """Return the service over rows in Parquet files."""
    user = Entity("user", key="user", dtype="int64")
    spending = FeatureView(
        "spending",
        entity=user,
        source=FileSource("orders", path=path, event_time="at"),
        features={
            "total": agg.sum(col("amount")).over("7d"),
            "n": agg.count().over("7d"),
            "shop": agg.last(col("shop")),
            "largest": agg.max(col("amount")).over("1d"),
        },
    )
    left = OnDemandFeatureView(
        "left", request={"budget": "float64"}, features={"over": request("budget") - spending["total"]}
    )
    return FeatureService("model", features=[spending, left])


def write_events(folder, table=None, name="orders.parquet"):
    """Write rows as one file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(events() if table is None else table, folder / name)
    return folder / name


def store_of(folder, path=None):
    """Return a store that holds the service."""
    store = FeatureStore.local(folder / "store", clock=FixedClock(instant_us(NOW)))
    store.apply(service_of(path or write_events(folder)))
    return store


def plan_of(path="orders.parquet"):
    """Return the compiled service."""
    schema = {"user": "int64", "at": "timestamp", "amount": "float64", "shop": "string"}
    from featurestore.core.dtypes import parse_dtype

    dtypes = {name: parse_dtype(dtype) for name, dtype in schema.items()}
    return compile_definitions(collect(service_of(path)), {"orders": dtypes}).services["model"]
