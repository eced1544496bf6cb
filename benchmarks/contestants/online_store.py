"""A store to ask online: 50 features in 5 views of one entity, some events for each of a thousand users."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contestants.clock import timed
from benchmarks.data import DAY_US, INSTANT, SEED, START_US
from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.config import Config
from featurestore.core.temporal import to_datetime

USERS = 1_000
EVENTS_EACH = 20
SERVICE = "online"
NOW = to_datetime(START_US + 8 * DAY_US)


def _features() -> dict[str, object]:
    windows = ("1d", "7d")
    return {
        "count_{window}": agg.count().over(*windows),
        "sum_{window}": agg.sum(col("amount")).over(*windows),
        "mean_{window}": agg.mean(col("amount")).over(*windows),
        "min_{window}": agg.min(col("amount")).over(*windows),
        "last": agg.last(col("amount")),
        "since": agg.time_since_last(),
    }


def build(folder: Path, online: str = "") -> FeatureStore:
    """Write the events, apply, and materialize into SQLite or the store of a URL; return the store."""
    user = Entity("user", key="user_id", dtype="int64")
    views = []
    for number in range(5):
        path = folder / f"events_{number}.parquet"
        chance, count = np.random.default_rng(SEED + number), USERS * EVENTS_EACH
        table = pa.table(
            {
                "user_id": np.arange(count) % USERS,
                "happened_at": pa.array(START_US + chance.integers(0, 8 * DAY_US, count), pa.int64()).cast(INSTANT),
                "amount": chance.normal(50.0, 20.0, count),
            }
        )
        pq.write_table(table, path)
        source = FileSource(f"events_{number}", path=path, event_time="happened_at")
        views.append(FeatureView(f"view_{number}", entity=user, source=source, features=_features()))
    config = Config.local(folder / "store")
    store = FeatureStore(config.model_copy(update={"online": online}) if online else config)
    store.apply(FeatureService(SERVICE, features=views))
    store.materialize(until=NOW + timedelta(seconds=1))
    return store


if __name__ == "__main__":
    place, *urls = sys.argv[1:]
    timed(lambda: build(Path(place), *urls).close())
