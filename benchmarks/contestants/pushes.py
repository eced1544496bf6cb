"""Pushed events: how many a second, in process and over HTTP, a hundred at a time.

Usage: python -m benchmarks.contestants.pushes FOLDER EVENTS [ADDRESS]
"""

import json
import sys
import time
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from benchmarks.contestants.clock import timed
from benchmarks.data import SEED
from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.temporal import to_datetime

AT_ONCE = 100
USERS = 10_000
SOURCE = "payments"
START_US = 1_767_225_600_000_000


def build(folder: Path) -> FeatureStore:
    """Apply a view of a source that accepts pushes."""
    source = FileSource(
        SOURCE,
        path=folder / "payments/*.parquet",
        event_time="at",
        event_id="id",
        stream=True,
        dtypes={"user": "int64", "at": "timestamp", "id": "int64", "amount": "float64"},
    )
    features = {
        "n": agg.count().over("1d"),
        "sum": agg.sum(col("amount")).over("1d"),
        "mean": agg.mean(col("amount")).over("7d"),
        "last": agg.last(col("amount")),
    }
    view = FeatureView("spending", entity=Entity("user", key="user", dtype="int64"), source=source, features=features)
    store = FeatureStore.local(folder / "store")
    store.apply(FeatureService("spending_model", features=[view]))
    store.materialize()
    return store


def batches(events: int, first: int) -> list[list[dict[str, object]]]:
    """Return events of many users, a second apart, a hundred at a time."""
    chance = np.random.default_rng(SEED + first)
    users = chance.integers(0, USERS, events).tolist()
    amounts = chance.normal(50.0, 20.0, events).tolist()
    begun = to_datetime(START_US)
    rows: list[dict[str, object]] = [
        {"user": user, "at": begun + timedelta(seconds=first + i), "id": first + i, "amount": amount}
        for i, (user, amount) in enumerate(zip(users, amounts, strict=True))
    ]
    return [rows[start : start + AT_ONCE] for start in range(0, events, AT_ONCE)]


def in_process(folder: Path, events: int) -> dict[str, object]:
    """Push through the embedded store."""
    with build(folder) as store:
        for batch in batches(2_000, 10**9):
            store.push(SOURCE, batch)
        given = batches(events, 0)
        begun, cpu = time.perf_counter(), time.process_time()
        for batch in given:
            store.push(SOURCE, batch)
        return {"pushed": time.perf_counter() - begun, "cpu": time.process_time() - cpu}


def over_http(address: str, events: int) -> dict[str, object]:
    """Push to a server, one request after the other."""
    bodies = [
        json.dumps({"events": [{**event, "at": event["at"].isoformat()} for event in batch]}).encode()  # type: ignore[attr-defined]
        for batch in batches(events, 2 * 10**9)
    ]
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port))
    begun = time.perf_counter()
    for body in bodies:
        connection.request("POST", f"/v1/sources/{SOURCE}/events", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(said.decode())
    return {"pushed": time.perf_counter() - begun}


if __name__ == "__main__":
    place, count, *where = sys.argv[1:]
    timed(lambda: over_http(where[0], int(count)) if where else in_process(Path(place), int(count)))
