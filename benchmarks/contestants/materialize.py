"""Online state of the as-of job, filled from nothing and then refreshed by the last day, in the store of a URL.

Usage: python -m benchmarks.contestants.materialize FOLDER EVENTS_FILE [ONLINE_URL]
"""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contestants.ours import service
from benchmarks.data import DAY_US, DAYS, START_US
from featurestore import FeatureStore
from featurestore.core.temporal import to_datetime

JOB = "as_of"
MINUTE_US = 60_000_000


def main(folder: Path, events: str, url: str = "") -> None:
    choose(url, "warm")
    warm_up(folder, events)
    choose(url, "bench")
    shutil.rmtree(folder / "materialized", ignore_errors=True)
    with FeatureStore.local(folder / "materialized") as store:
        store.apply(service(JOB, folder / events))
        filled = timed_run(store, START_US + (DAYS - 1) * DAY_US)
        refreshed = timed_run(store, START_US + DAYS * DAY_US)
        unchanged = timed_run(store, START_US + (DAYS + 1) * DAY_US)
    print(json.dumps({"seconds": filled["seconds"], "filled": filled, "refreshed": refreshed, "unchanged": unchanged}))


def choose(url: str, name: str) -> None:
    """Choose the store of a URL, if one is given, and what its keys or its table begin with."""
    if url:
        os.environ["FEATURESTORE_ONLINE"] = f"{url}{name}"


def timed_run(store: FeatureStore, until_us: int) -> dict[str, float]:
    """Materialize up to an instant; tell seconds, events and states written."""
    begun = time.perf_counter()
    (run,) = store.materialize(until=to_datetime(until_us), full=False)
    return {"seconds": time.perf_counter() - begun, "events": run.events, "entities": run.entities}


def warm_up(folder: Path, events: str) -> None:
    """Do the job on a few rows, which imports what it needs and loads the compiled kernels."""
    small = folder / "small"
    small.mkdir(exist_ok=True)
    with pq.ParquetFile(folder / events) as file:
        pq.write_table(pa.Table.from_batches([next(file.iter_batches(1_000))]), small / "few.parquet")
    shutil.rmtree(small / "materialized", ignore_errors=True)
    with FeatureStore.local(small / "materialized") as store:
        store.apply(service(JOB, small / "few.parquet"))
        store.materialize(until=to_datetime(START_US + MINUTE_US))
        store.materialize()
        store.materialize(full=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
