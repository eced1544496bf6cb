"""What the processes of these tests share: a small world in files, and the work that is killed.

As a program it does the work of one round and says ``go`` when it begins: ``python -m tests.crash.refreshing FOLDER
VERSION NOW_US KEEP``.
"""

import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.temporal import FixedClock

T0 = 1_700_000_000_000_000
HOUR = 3_600_000_000
USERS = [f"user{number}" for number in range(400)]


def service(folder, version):
    """Return the definitions of a version: every one has other fingerprints."""
    user = Entity("user", key="user", dtype="string")
    source = FileSource("events", path=str(folder / "events" / "*.parquet"), event_time="at", ingest_time="learned")
    recent = {"n": agg.count().over("6h"), "total": agg.sum(col("x")).over(f"{12 + version}h")}
    ever = {"n": agg.count().lifetime(), "mean": agg.mean(col("x")).lifetime(), "last": agg.last_n(col("x"), version)}
    views = [
        FeatureView("recent", entity=user, source=source, features=recent),
        FeatureView("ever", entity=user, source=source, features=ever),
    ]
    return FeatureService("model", features=views)


def write_hour(folder, hour, *, seed):
    """Write, or write anew, the events that became known in an hour; some of them happened long before."""
    chance = random.Random(f"{hour}-{seed}")
    count = 1000
    learned = [T0 + hour * HOUR + chance.randrange(HOUR) for _ in range(count)]
    late = [chance.choice((0, 0, 0, 5 * 60_000_000, 3 * HOUR)) for _ in range(count)]
    numbers = (None, 0.1, 1e16, -2.5, chance.random(), chance.random())
    table = pa.table(
        {
            "user": pa.array(USERS + [chance.choice(USERS) for _ in range(count - len(USERS))]),
            "at": instants([known - behind for known, behind in zip(learned, late, strict=True)]),
            "learned": instants(learned),
            "x": pa.array([chance.choice(numbers) for _ in range(count)], pa.float64()),
        }
    )
    target = folder / "events" / f"{hour:04}.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target.with_suffix(".tmp"))
    target.with_suffix(".tmp").rename(target)


def instants(values):
    return pa.array(values, pa.int64()).cast(pa.timestamp("us", tz="UTC"))


def work(folder, version, now_us, keep):
    """Apply a version beside the one that serves, fill it, switch to it, and remove what is not needed."""
    with FeatureStore.local(folder / "store", clock=FixedClock(now_us)) as store:
        store.materialize() if store.services() else None
        store.apply(service(folder, version), promote=False)
        store.gc(keep=0)
        store.materialize()
        store.gc(keep=keep)
        store.apply(service(folder, version), promote=True)
        store.gc(keep=keep)
        store.materialize(full=True)
        store.gc(keep=keep)


if __name__ == "__main__":
    place, number, instant, kept = sys.argv[1:]
    from featurestore.online.filling import runs as materializing  # noqa: F401  # what the work needs, loaded before it begins

    print("go", flush=True)
    work(Path(place), int(number), int(instant), int(kept))
