"""A small store for tests of causes: payments of a few users, served by one view whose refresh is chosen."""

from __future__ import annotations

import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, continuous
from featurestore.core.temporal import FixedClock, duration_us, to_datetime
from featurestore.guard.audit.foreign import ForeignMapping
from tests.strategies import START_US

HOUR, MINUTE = duration_us("1h"), duration_us("1m")
SERVICE = "model"
FEATURES = {
    "count": agg.count().over("6h"),
    "total": agg.sum(col("amount")).over("6h"),
    "last": agg.last(col("amount")).lifetime(),
}
INSTANT = pa.timestamp("us", "UTC")
USERS = 8


def at(hours: float) -> int:
    return START_US + round(hours * 60) * MINUTE


def payments(count: int, *, seed: int, hours: tuple[int, int] = (0, 48)):
    chance = random.Random(seed)
    return [
        {"user": f"u{number % USERS}", "at": at(chance.uniform(*hours)), "amount": round(chance.uniform(1, 99), 2)}
        for number in range(count)
    ]


class SmallWorld:
    """A folder of payments and a store that reads it."""

    def __init__(self, folder, *, refresh=None, now=60.0, features=None):
        self.folder = folder
        self.clock = FixedClock(at(now))
        source = FileSource("payments", path=folder / "payments" / "*.parquet", event_time="at")
        self.view = FeatureView(
            "spend",
            entity=Entity("user", key="user"),
            source=source,
            refresh=refresh or continuous(),
            features=features or FEATURES,
        )
        self.store = None

    def write(self, rows, name="0.parquet"):
        columns = {"user": pa.string(), "at": INSTANT, "amount": pa.float64()}
        table = {
            column: pa.array([row[column] for row in rows], pa.int64() if kind == INSTANT else kind).cast(kind)
            for column, kind in columns.items()
        }
        (self.folder / "payments").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), self.folder / "payments" / name)

    def open(self):
        self.store = FeatureStore.local(self.folder / "store", clock=self.clock)
        self.store.apply(FeatureService(SERVICE, features=[self.view]))
        return self.store

    def run(self, until, *, ended=None):
        """Materialize up to an hour; the run ends at another one, if that is said."""
        before = self.clock.instant_us
        if ended is not None:
            self.clock.instant_us = at(ended)
        self.store.materialize(to_datetime(at(until)))
        self.clock.instant_us = before

    def ask(self, hours, user):
        return self.store.get_online_features(SERVICE, [{"user": user}], as_of=to_datetime(at(hours)))

    def log(self, answer, number, **changes):
        """Log an answer once more, with something changed."""
        plan = self.store.plan(SERVICE)
        self.store.parts.serving_log.append(plan, replace(answer, request_id=f"again-{number:05d}", **changes))

    def audit(self, **options):
        return self.store.audit(SERVICE, since=to_datetime(at(0)), until=to_datetime(at(60)), **options)

    def logged(self):
        self.store.parts.serving_log.flush()
        return pa.concat_tables(list(self.store.parts.serving_log.read(SERVICE, since_us=at(0), until_us=at(60))))

    def audit_foreign(self, table, **options):
        names = [f"spend__{feature}" for feature in self.view.features]
        mapping = ForeignMapping(
            as_of="as_of", keys={"user": "key__user"}, features={name: f"value__{name}" for name in names}
        )
        return self.store.audit_foreign(SERVICE, table, mapping, **options)
