"""Training sets by this library, from Parquet to Parquet with profile and manifest.

What the others import before the clock starts is imported here by a job on a few rows; its seconds are told, too.

Usage: python -m benchmarks.contestants.ours windows|as_of FOLDER EVENTS_FILE [MEMORY_LIMIT]
"""

import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contestants.clock import timed
from benchmarks.data import WIDE_COLUMNS
from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col

WINDOWS = ("1h", "1d", "7d", "30d")

FEATURES = {
    "windows": {
        "count_{window}": agg.count(col("amount")).over(*WINDOWS),
        "sum_{window}": agg.sum(col("amount")).over(*WINDOWS),
        "mean_{window}": agg.mean(col("amount")).over(*WINDOWS),
        "min_{window}": agg.min(col("amount")).over(*WINDOWS),
        "max_{window}": agg.max(col("amount")).over(*WINDOWS),
    },
    "as_of": {name: agg.last(col(name), respect_nulls=True) for name in WIDE_COLUMNS},
}


def service(job: str, events: Path) -> FeatureService:
    """Return the features of a job."""
    view = FeatureView(
        "view",
        entity=Entity("user", key="user_id", dtype="int64"),
        source=FileSource("events", path=events, event_time="happened_at"),
        features=FEATURES[job],
    )
    return FeatureService(job, features=[view])


def main(job: str, folder: Path, events: str, memory_limit: str = "") -> None:
    if memory_limit:
        os.environ["FEATURESTORE_MEMORY_LIMIT"] = memory_limit
    begun = time.perf_counter()
    warm_up(job, folder, events)
    loading = time.perf_counter() - begun
    with FeatureStore.local(folder / "store") as store:
        store.apply(service(job, folder / events))

        def build() -> dict[str, object]:
            built = store.training_set(job, folder / "spine.parquet", folder / f"{job}_ours", overwrite=True)
            return {"rows": built.row_count, "digest": built.manifest.content_digest, "loading_seconds": loading}

        timed(build)


def warm_up(job: str, folder: Path, events: str) -> None:
    """Do the job on a few rows, which imports what it needs and loads the compiled kernels."""
    small = folder / "small"
    small.mkdir(exist_ok=True)
    for name in (events, "spine.parquet"):
        with pq.ParquetFile(folder / name) as file:
            pq.write_table(pa.Table.from_batches([next(file.iter_batches(1_000))]), small / name)
    with FeatureStore.local(small / "store") as store:
        store.apply(service(job, small / events))
        store.training_set(job, small / "spine.parquet", small / f"{job}_ours", overwrite=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
