"""Pushed events: how many a second, in process and over HTTP, a hundred at a time.

Usage: python -m benchmarks.contestants.pushes FOLDER EVENTS [ADDRESS]
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.contestants.clock import timed
from benchmarks.data import SEED
from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.temporal import to_datetime

AT_ONCE = 100
CALLERS = 8
CROWD = 32
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
    """Push through the embedded store: by one caller, and by several at once."""
    with build(folder) as store:
        for batch in batches(2_000, 10**9):
            store.push(SOURCE, batch)
        found: dict[str, object] = {}
        for callers in (1, CALLERS, CROWD):
            given = batches(events, callers * 10**8)
            begun, cpu = time.perf_counter(), time.process_time()
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(lambda batch: store.push(SOURCE, batch), given))
            found |= {f"pushed_{callers}": time.perf_counter() - begun, f"cpu_{callers}": time.process_time() - cpu}
    return found


def over_http(address: str, events: int) -> dict[str, object]:
    """Push to a server over one connection, and over several, as JSON and as Arrow."""
    found: dict[str, object] = {}
    for number, (form, callers) in enumerate((("json", 1), ("json", CALLERS), ("arrow", CALLERS))):
        bodies = [_bodies[form](batch) for batch in batches(events, (2 + number) * 10**9)]
        begun = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            for done in [pool.submit(_post, address, form, bodies[place::callers]) for place in range(callers)]:
                done.result()
        found[f"{form}_{callers}"] = time.perf_counter() - begun
    return found


def _post(address: str, form: str, bodies: list[bytes]) -> None:
    host, _, port = address.rpartition(":")
    connection = HTTPConnection(host, int(port))
    for body in bodies:
        connection.request("POST", f"/v1/sources/{SOURCE}/events", body, {"Content-Type": _KINDS[form]})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(said.decode())
    connection.close()


def _json(batch: list[dict[str, object]]) -> bytes:
    return json.dumps({"events": [{**event, "at": event["at"].isoformat()} for event in batch]}).encode()  # type: ignore[attr-defined]


def _arrow(batch: list[dict[str, object]]) -> bytes:
    table = pa.Table.from_pylist(batch)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


_bodies = {"json": _json, "arrow": _arrow}
_KINDS = {"json": "application/json", "arrow": "application/vnd.apache.arrow.stream"}


if __name__ == "__main__":
    place, count, *where = sys.argv[1:]
    timed(lambda: over_http(where[0], int(count)) if where else in_process(Path(place), int(count)))
