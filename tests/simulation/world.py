"""A small world with a clock of its own: payments that arrive late, twice and out of order, and a store that serves.

Everything follows from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.core.answers import OnlineFeatures
from featurestore.core.errors import StorageError
from featurestore.core.temporal import FixedClock, duration_us
from featurestore.online.filling.materialize import materialize_view
from featurestore.online.stores.opening import open_online_store
from featurestore.online.stores.store import OnlineStore
from featurestore.sources import open_scan
from tests.stores import local_store
from tests.strategies import START_US, to_datetime

USERS = tuple("abcde")
HOURS = 72
SERVICE = "model"
INSTANT = pa.timestamp("us", tz="UTC")


class FailingStore:
    """An online store that refuses to write after some writes, as a full disk would."""

    def __init__(self, store: OnlineStore, writes_left: int) -> None:
        self._writes_left = writes_left
        self.read, self.delete, self.exclusive, self.close = store.read, store.delete, store.exclusive, store.close
        self._write = store.write

    def write(self, items, *, expected=None) -> None:
        if self._writes_left == 0:
            raise StorageError("the disk is full")
        self._writes_left -= 1
        self._write(items, expected=expected)


class World:
    """Payments, the files they are delivered in, and the store."""

    def __init__(self, folder: Path, seed: int, online: str | None = None) -> None:
        self.chance = random.Random(seed)
        self.online = online
        self.folder = folder
        self.clock = FixedClock(START_US)
        self.pending = sorted(self._deliveries(), key=lambda row: row["learned"])
        self.files = 0
        self.served: list[OnlineFeatures] = []
        (folder / "payments").mkdir()
        self._write([row for row in self.pending if row["learned"] < self.clock.now_us()] or [self.pending[0]])
        self.source = FileSource(
            "payments", path=folder / "payments/*.parquet", event_time="paid", ingest_time="learned", event_id="id"
        )
        self.store = self._open()
        self.store.apply(self._service())

    def _deliveries(self) -> Iterator[dict]:
        """Yield payments over three days: most are known at once, some hours later, and some are told twice."""
        for number in range(HOURS * 4):
            paid = START_US - duration_us("6h") + self.chance.randrange(HOURS * 60) * duration_us("1m")
            learned = paid + self.chance.choice((0, 0, 0, 1, duration_us("20m"), duration_us("5h")))
            amount = self.chance.choice((None, round(self.chance.uniform(-50, 50), 2), 0.1, 1e16))
            row = {"id": f"p{number}", "user": self.chance.choice(USERS), "paid": paid, "amount": amount}
            yield row | {"learned": learned}
            if self.chance.random() < 0.15:
                yield row | {"learned": learned + self.chance.choice((0, 1, duration_us("3h")))}

    def _service(self) -> FeatureService:
        user = Entity("user", key="user")
        amount = col("amount")
        spend = FeatureView(
            "spend",
            entity=user,
            source=self.source,
            features={
                "payments_{window}": agg.count().over("1h", "6h"),
                "sum_6h": agg.sum(amount).over("6h"),
                "mean_1d": agg.mean(amount).over("1d", resolution="1h"),
                "last": agg.last(amount).ttl("3h"),
                "recent": agg.last_n(amount, 3).over("1d"),
                "idle": agg.time_since_last(unit="m"),
            },
        )
        hourly = FeatureView(
            "hourly",
            entity=user,
            source=self.source,
            where=col("amount") > 0,
            features={"median_6h": agg.median(amount).over("6h"), "kinds": agg.count_distinct(amount).over("1d")},
            refresh=every("1h", lag="10m"),
        )
        return FeatureService(SERVICE, features=[spend, hourly])

    def _open(self) -> FeatureStore:
        return local_store(self.folder / "store", online=self.online, clock=self.clock)

    def _write(self, rows: list[dict]) -> None:
        """Write delivered rows, in no order, as one more file."""
        self.chance.shuffle(rows)
        self.pending = [row for row in self.pending if row not in rows]
        columns = {
            "id": pa.string(),
            "user": pa.string(),
            "paid": INSTANT,
            "learned": INSTANT,
            "amount": pa.float64(),
        }
        table = pa.table(
            {
                name: pa.array([to_datetime(row[name]) if kind == INSTANT else row[name] for row in rows], kind)
                for name, kind in columns.items()
            }
        )
        name = f"{self.chance.randrange(10**6):06d}-{self.files}.parquet"
        pq.write_table(table, self.folder / "payments" / name)
        self.files += 1

    def pass_time(self) -> None:
        """Let the clock go on, and what became known meanwhile arrive."""
        self.clock.instant_us += self.chance.choice((1, duration_us("7m"), duration_us("1h"), duration_us("2h")))
        arrived = [row for row in self.pending if row["learned"] < self.clock.now_us()]
        if arrived:
            self._write(arrived)

    def refresh(self) -> None:
        """Materialize up to now; sometimes the disk is full at first, or the process starts anew before."""
        event = self.chance.random()
        if event < 0.15:
            self.crash()
        elif event < 0.3:
            self.restart()
        self.store.materialize()

    def crash(self) -> None:
        """Let a run die after its first writes."""
        plan = self.store.plan(SERVICE)
        view = self.chance.choice(plan.uses).view
        failing = FailingStore(open_online_store(self.store.config.online), self.chance.randrange(4))
        with open_scan(self.source, view.source, keys=["user"]) as scan, suppress(StorageError):
            materialize_view(view, scan, failing, until_us=self.clock.now_us())
        failing.close()

    def restart(self) -> None:
        self.store.close()
        self.store = self._open()

    def ask(self) -> None:
        """Ask about some users, known and unknown, now or a little earlier."""
        users = self.chance.sample((*USERS, "nobody"), self.chance.randrange(1, 4))
        earlier = self.chance.choice((0, 0, 0, duration_us("30m"), duration_us("5h")))
        as_of = to_datetime(max(START_US, self.clock.now_us() - earlier)) if earlier else None
        self.served.append(self.store.get_online_features(SERVICE, [{"user": user} for user in users], as_of=as_of))

    def rewrite(self) -> None:
        """Change the amounts in the largest of the files, as nobody should."""
        path = max((self.folder / "payments").iterdir(), key=lambda file: pq.read_metadata(file).num_rows)
        table = pq.read_table(path)
        changed = [None if value is None else 2.0 * value for value in table.column("amount").to_pylist()]
        pq.write_table(table.set_column(4, "amount", pa.array(changed, pa.float64())), path)

    def audit(self):
        return self.store.audit(SERVICE, since=to_datetime(START_US), until=to_datetime(self.clock.now_us() + 1))

    def recount(self) -> dict[str, int]:
        """Count by hand, per feature, how many served values are not the training set's."""
        spine = pa.table(
            {
                "user": [entity["user"] for answer in self.served for entity in answer.entities],
                "as_of": pa.array(
                    [to_datetime(answer.as_of_us) for answer in self.served for _ in answer.entities], INSTANT
                ),
            }
        )
        built = self.store.training_set(
            SERVICE, spine, self.folder / "training", statuses=True, overwrite=True
        ).to_arrow()
        found = dict.fromkeys(self.served[0].columns, 0)
        rows = [pair for answer in self.served for pair in zip(answer.rows, answer.statuses, strict=True)]
        for place, name in enumerate(self.served[0].columns):
            values, statuses = built.column(name).to_pylist(), built.column(f"{name}__status").to_pylist()
            for (row, status), value, expected in zip(rows, values, statuses, strict=True):
                found[name] += (row[place], status[place]) != (value, expected)
        return found
