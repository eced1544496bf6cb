"""A small world whose payments are pushed, delivered in files, or both; everything follows from a seed."""

from __future__ import annotations

import random
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.core.answers import OnlineFeatures
from featurestore.core.errors import StorageError
from featurestore.core.temporal import FixedClock, duration_us
from tests.stores import local_store
from tests.strategies import START_US, to_datetime

USERS = tuple("abcd")
SERVICE = "model"
INSTANT = pa.timestamp("us", tz="UTC")
COLUMNS = {"id": pa.int64(), "user": pa.string(), "paid": INSTANT, "amount": pa.float64(), "learned": INSTANT}


class StreamWorld:
    """Payments on two ways, and the store."""

    def __init__(self, folder: Path, seed: int, *, online: str | None = None) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.online = online
        self.clock = FixedClock(START_US)
        self.payments: list[dict] = []
        self.pushed: list[dict] = []
        self.files = 0
        self.served: list[OnlineFeatures] = []
        self.source = FileSource(
            "payments",
            path=folder / "payments/*.parquet",
            event_time="paid",
            ingest_time="learned",
            event_id="id",
            stream=True,
            dtypes={"id": "int64", "user": "string", "paid": "timestamp", "amount": "float64", "learned": "timestamp"},
        )
        self.store = self._open()
        self.store.apply(self._service())

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
                "ever": agg.sum(amount).lifetime(),
                "last": agg.last(amount).ttl("3h"),
                "recent": agg.last_n(amount, 3).over("1d"),
            },
        )
        hourly = FeatureView(
            "hourly",
            entity=user,
            source=self.source,
            where=col("amount") > 0,
            features={"median_6h": agg.median(amount).over("6h"), "newest": agg.last(amount)},
            refresh=every("1h", lag="10m"),
        )
        return FeatureService(SERVICE, features=[spend, hourly])

    def _open(self) -> FeatureStore:
        return local_store(self.folder / "store", online=self.online, clock=self.clock)

    def pass_time(self) -> None:
        self.clock.instant_us += self.chance.choice((0, 1, duration_us("7m"), duration_us("40m"), duration_us("2h")))

    def _payment(self) -> dict:
        """Make a payment of now, of some hours ago, or of the future."""
        shift = self.chance.choice((0, 0, -1, -duration_us("20m"), -duration_us("9h"), duration_us("30m")))
        made = {
            "id": len(self.payments),
            "user": self.chance.choice(USERS),
            "paid": to_datetime(self.clock.now_us() + shift),
            "amount": self.chance.choice((None, 0.1, 1e16, -1e16, round(self.chance.uniform(-50, 50), 2))),
        }
        self.payments.append(made)
        return made

    def push(self) -> None:
        """Push new payments, and some that were pushed or delivered before; sometimes online state cannot follow."""
        events = [self._payment() for _ in range(self.chance.randrange(1, 6))]
        events += self.chance.sample(self.payments, min(len(self.payments), self.chance.randrange(3)))
        self.chance.shuffle(events)
        if self.chance.random() < 0.35:
            with mock.patch.object(
                type(self.store.parts.online), "write", side_effect=StorageError("the disk is full")
            ):
                assert not self.store.push("payments", events).is_followed
            return
        assert self.store.push("payments", events).is_followed

    def deliver(self) -> None:
        """Deliver payments in a file, which become known now: new ones, and some that were pushed."""
        rows = [self._payment() for _ in range(self.chance.randrange(1, 5))]
        rows += self.chance.sample(self.payments, min(len(self.payments), self.chance.randrange(4)))
        self.clock.instant_us += 1
        learned = to_datetime(self.clock.now_us())
        self.clock.instant_us += 1
        table = {name: pa.array([row.get(name, learned) for row in rows], type=kind) for name, kind in COLUMNS.items()}
        (self.folder / "payments").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), self.folder / "payments" / f"{self.files:03d}.parquet")
        self.files += 1

    def refresh(self) -> None:
        """Materialize, sometimes anew, sometimes only up to an earlier instant."""
        until = to_datetime(self.clock.now_us() - self.chance.choice((0, 0, duration_us("1h"))))
        self.store.materialize(until=until, full=self.chance.random() < 0.3)

    def restart(self) -> None:
        self.store.close()
        self.store = self._open()

    def compact(self) -> None:
        self.store.compact(before=to_datetime(self.clock.now_us() - self.chance.choice((0, duration_us("1h")))))

    def catch_up(self) -> None:
        self.store.catch_up()

    def ask(self) -> None:
        users = self.chance.sample((*USERS, "nobody"), self.chance.randrange(1, 4))
        self.served.append(self.store.get_online_features(SERVICE, [{"user": user} for user in users]))

    def differences(self) -> tuple[dict[str, int], list[tuple]]:
        """Compare what was served complete with the training set.

        Returns:
            How many values of each column were compared; and of each that differs the column and both values.
        """
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
        compared, wrong = dict.fromkeys(self.served[0].columns, 0), []
        rows = [(answer, place) for answer in self.served for place in range(len(answer.rows))]
        for column, name in enumerate(self.served[0].columns):
            view = name.partition("__")[0]
            values, statuses = built.column(name).to_pylist(), built.column(f"{name}__status").to_pylist()
            for (answer, place), value, status in zip(rows, values, statuses, strict=True):
                if answer.views[view].complete_until_us < answer.as_of_us:
                    continue
                compared[name] += 1
                if (answer.rows[place][column], answer.statuses[place][column]) != (value, status):
                    wrong.append((name, answer.rows[place][column], value))
        return compared, wrong
