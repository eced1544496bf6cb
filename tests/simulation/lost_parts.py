"""A small world in which parts of a store get lost: states, records, the log's tail; everything follows from a seed.

Between pushes, lookups, runs and restarts some states are deleted, or a record, or all of them, or the log is set back
to an earlier copy of itself, and grows again. An answer is right, or an error, or says that it is behind.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.errors import StateError, StorageError
from featurestore.core.temporal import NO_WATERMARK, FixedClock
from featurestore.online.answering import state_watch
from featurestore.online.stores.memory import memory_store
from featurestore.online.stores.store import is_state_key
from featurestore.plan.model import INGEST_COLUMN
from featurestore.sources.event_log import EventLog
from tests.stores import local_store
from tests.strategies import START_US, to_datetime

USERS = tuple("abcdef")
DTYPES = {"id": "int64", "user": "string", "amount": "float64", "at": "timestamp"}
SCHEMA = pa.schema(
    [("id", pa.int64()), ("user", pa.string()), ("amount", pa.float64()), ("at", pa.timestamp("us", "UTC"))]
)
TABLES = (
    "event_log_heads",
    "event_log_batches",
    "event_log_files",
    "event_log_ids",
    "event_log_id_columns",
    "event_log_keys",
)
STEPS = 40


class Keys(Protocol):
    """The keys of an online store, to be lost one by one."""

    def all(self) -> list[bytes]:
        """Return all keys, sorted."""
        ...

    def lose(self, key: bytes) -> None:
        """Delete a key as an operator or an eviction would: nothing else learns of it."""
        ...


class MemoryKeys:
    """The keys of a store in memory."""

    def __init__(self, name: str) -> None:
        self._values = memory_store(name).values

    def all(self) -> list[bytes]:
        """Return all keys, sorted."""
        return sorted(self._values)

    def lose(self, key: bytes) -> None:
        """Delete a key."""
        self._values.pop(key, None)


class LostPartsWorld:
    """Pushes with and without names, and what gets lost."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        online: str | None = None,
        keys: Keys | None = None,
        has_ids: bool | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        name = uuid.uuid4().hex
        self.folder, self.online, self.keys = folder, online or f"memory://{name}", keys or MemoryKeys(name)
        self.clock = FixedClock(START_US)
        self.has_ids = self.chance.random() < 0.5
        self.factor = 1
        self.numbers = 0
        self.copies: list[dict[str, list]] = []
        self.acknowledged: list[tuple[str, list[dict]]] = []
        self.right = self.behind = self.refused = 0
        self.fingerprints: list[str] = []
        self.story: list[str] = []
        self.answered = 0
        self.events_outside = [self._event() for _ in range(self.chance.choice((0, 5)))]
        if self.events_outside:
            (folder / "clicks").mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(self.events_outside, SCHEMA), folder / "clicks/first.parquet")
        self.store = self._open(self.online)
        self.elsewhere = self._open("memory://")
        self.apply()
        self.database = sa.create_engine(f"sqlite:///{folder / 'store/event_log.db'}")
        self.log = EventLog(str(self.database.url), folder / "store/event_log")
        self.head: tuple[int, str] | None = None
        self.logged: list[dict] = []

    def _open(self, online: str) -> FeatureStore:
        return local_store(self.folder / "store", online=online, clock=self.clock, has_serving_log=False)

    def close(self) -> None:
        self.log.close()
        self.database.dispose()
        self.elsewhere.close()
        self.store.close()

    def apply(self) -> None:
        """Apply the definitions."""
        source = FileSource(
            "clicks",
            path=self.folder / "clicks/*.parquet",
            event_time="at",
            event_id="id" if self.has_ids else None,
            stream=True,
            dtypes=DTYPES,
        )
        total = agg.sum(col("amount") * self.factor).lifetime()
        features = {"count": agg.count().lifetime(), "total": total}
        view = FeatureView("spend", entity=Entity("user", key="user"), source=source, features=features)
        self.store.apply(FeatureService("churn", features=[view]))
        self.fingerprints.append(self.store.plan("churn").fingerprint)

    def _event(self) -> dict:
        self.numbers += 1
        amount = float(self.chance.randrange(1, 100))
        return {
            "id": self.numbers,
            "user": self.chance.choice(USERS),
            "amount": amount,
            "at": to_datetime(START_US - 1),
        }

    # What happens.

    def push(self) -> None:
        """Push some events under a name, now and then twice."""
        events = [self._event() for _ in range(self.chance.randrange(1, 4))]
        key = uuid.UUID(int=self.chance.getrandbits(128)).hex
        for _ in range(self.chance.choice((1, 1, 2))):
            self.store.push("clicks", events, idempotency_key=key)
        self.acknowledged.append((key, events))

    def repeat(self) -> None:
        """Repeat a push of before, as a client does that had no answer."""
        if self.acknowledged:
            key, events = self.chance.choice(self.acknowledged[-5:])
            self.store.push("clicks", events, idempotency_key=key)

    def grow(self) -> None:
        """Let a process that cannot reach the online store push."""
        self.elsewhere.push("clicks", [self._event()])

    def materialize(self) -> None:
        with suppress(StateError):
            self.store.materialize(full=self.chance.random() < 0.2)

    def restart(self) -> None:
        self.store.close()
        self.store = self._open(self.online)

    def change(self) -> None:
        """Change the definition; it goes live when it is filled."""
        self.factor += 1
        self.apply()
        self.materialize()

    def compact(self) -> None:
        self.store.compact("clicks")

    def copy_log(self) -> None:
        """Take a copy of the log, to be restored later."""
        with self.database.connect() as connection:
            self.copies.append(
                {
                    table: [dict(row._mapping) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
                    for table in TABLES
                    if sa.inspect(connection).has_table(table)
                }
            )

    # What gets lost.

    def lose_states(self) -> None:
        states = [key for key in self.keys.all() if is_state_key(key)]
        for key in self.chance.sample(states, min(len(states), self.chance.randrange(1, 4))):
            self.keys.lose(key)

    def lose_record(self) -> None:
        records = [key for key in self.keys.all() if not is_state_key(key)]
        if records:
            self.keys.lose(self.chance.choice(records))

    def lose_everything(self) -> None:
        for key in self.keys.all():
            self.keys.lose(key)

    def lose_tail(self) -> None:
        """Set the log back to a copy; files that were compacted since are left over."""
        copies = [copy for copy in self.copies if self._has_files(copy)]
        if not copies:
            return
        copy = self.chance.choice(copies)
        with self.database.begin() as connection:
            for table, rows in copy.items():
                connection.exec_driver_sql(f"DELETE FROM {table}")
                for row in rows:
                    names, marks = ", ".join(row), ", ".join("?" * len(row))
                    connection.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))
        self.copies = [copy]
        if self.chance.random() < 0.5:
            for _ in range(self.chance.randrange(6)):
                self.clock.instant_us += 1_000_000
                self.grow()

    def _has_files(self, copy: dict[str, list]) -> bool:
        folder = self.folder / "store/event_log"
        return all((folder / row["path"]).exists() for row in copy["event_log_files"])

    # What is answered.

    def notice(self) -> None:
        """Let some seconds pass in a server: it follows the log, and looks after the states."""
        with suppress(StateError):
            self.store.catch_up()
        self.store.problems()

    def ask(self) -> None:
        """Ask about every user and compare with the events that are in the log and outside."""
        try:
            answer = self.store.get_online_features("churn", [{"user": user} for user in USERS])
        except (StateError, StorageError):
            self.refused += 1
            return
        self._check_plan(answer.fingerprint)
        (view,) = answer.views.values()
        if view.is_stale or view.complete_until_us < answer.as_of_us:
            self.behind += 1
            return
        expected = self.expected(to_datetime(answer.as_of_us))
        factor = self.fingerprints.index(answer.fingerprint) + 1
        for user, row, statuses in zip(USERS, answer.rows, answer.statuses, strict=True):
            count, total = expected[user]
            values = dict(zip(answer.columns, row, strict=True))
            if values != {"spend__count": count, "spend__total": total * factor if count else None}:
                raise AssertionError(f"user {user}: {values}, expected {(count, total, factor)}, {statuses}")
            if ("NOT_FOUND" in statuses) != (count == 0):
                raise AssertionError(f"user {user}: {statuses} where {count} events are known")
        self.right += 1

    def _check_plan(self, fingerprint: str) -> None:
        place = self.fingerprints.index(fingerprint)
        if place < self.answered:
            raise AssertionError(f"plan {place} answers, after plan {self.answered} did")
        self.answered = place

    def expected(self, as_of: datetime) -> dict[str, tuple[int, float]]:
        """Return count and sum of each user's events that were known, from the log itself."""
        rows = [row for row in self._pushed() if row[INGEST_COLUMN] < as_of] + self.events_outside
        if self.has_ids:
            rows = list({row["id"]: row for row in rows}.values())
        found = dict.fromkeys(USERS, (0, 0.0))
        for row in rows:
            count, total = found[row["user"]]
            found[row["user"]] = (count + 1, total + row["amount"])
        return found

    def _pushed(self) -> list[dict]:
        """Return the events of the log; they are read if its head is another one."""
        with self.database.connect() as connection:
            (head,) = connection.exec_driver_sql("SELECT next_sequence, mark FROM event_log_heads").fetchall()
        if head != self.head:
            tables = self.log.read("clicks", 0, NO_WATERMARK, ["id", "user", "amount", INGEST_COLUMN])
            self.logged = [row for table in tables for row in table.to_pylist()]
            self.head = head
        return self.logged

    def live(self, steps: int = STEPS) -> None:
        """Live through a history; in the end everything is healed, and right."""
        self.push()
        self.materialize()
        happens: list[Callable[[], None]] = [
            *[self.push] * 6,
            *[self.ask] * 8,
            *[self.materialize] * 4,
            self.repeat,
            self.repeat,
            self.grow,
            self.restart,
            self.change,
            self.compact,
            *[self.copy_log] * 3,
        ]
        losses = [
            self.lose_states,
            self.lose_states,
            self.lose_record,
            self.lose_everything,
            self.lose_tail,
            self.lose_tail,
        ]
        for _ in range(steps):
            self.clock.instant_us += self.chance.choice((1, 1_000_000, 60_000_000))
            if self.chance.random() < 0.12:
                self._happens(self.chance.choice(losses))
                if self.chance.random() < 0.3:
                    self._happens(self.push)
            else:
                self._happens(self.chance.choice(happens))
            self.notice()
            self.ask()
        self.clock.instant_us += 1_000_000
        self.store.materialize()
        self.notice()
        if problems := self.store.problems():
            raise AssertionError(f"after a run: {problems}")
        before = self.right
        self.ask()
        if self.right == before:
            raise AssertionError("after a run nothing is answered")

    def _happens(self, event: Callable[[], None]) -> None:
        self.story.append(event.__name__)
        event()


def look_at_once() -> None:
    """Let every look count the states: in the tests no second passes."""
    state_watch.LOOK_SECONDS = 0.0
    state_watch._SHARE = 1e9


def run(seeds: range) -> list[int]:
    """Live through many histories, print how many answers were of each kind, and return the seeds that failed."""
    look_at_once()
    logging.disable()
    counts: Counter[str] = Counter()
    failed: list[int] = []
    for seed in seeds:
        with (
            tempfile.TemporaryDirectory(prefix="lost-parts-") as folder,
            closing(LostPartsWorld(Path(folder), seed)) as world,
        ):
            try:
                world.live()
            except Exception:
                failed.append(seed)
                print(f"seed {seed} failed after {', '.join(world.story)}", flush=True)
                traceback.print_exc()
        counts.update(right=world.right, behind=world.behind, refused=world.refused)
        count = seed + 1 - seeds.start
        if count % 50 == 0 or count == len(seeds):
            print(f"{count} histories, {dict(counts)} answers, failed: {failed}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(bool(run(range(int(sys.argv[1]), int(sys.argv[2])))))
