"""Payments, some of which become known late, and what other systems would serve of them."""

import random

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col
from featurestore.core.temporal import FixedClock, instant_us

START = instant_us("2026-03-01T00:00:00Z")
MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
INSTANT = pa.timestamp("us", tz="UTC")
USERS = [f"u{number:02}" for number in range(20)]
FEATURES = {"spend__total": "total", "spend__last": "last_amount", "spend__n": "n"}
SERVICE = "risk"


def instants(values):
    return pa.array(values, pa.int64()).cast(INSTANT)


def write_payments(path, *, without_late=False):
    """Write four days of payments; every sixth became known three hours after it happened."""
    chance = random.Random(11)
    rows = []
    for number in range(1200):
        at = START + chance.randrange(4 * DAY)
        late = 3 * HOUR if number % 6 == 0 else 0
        rows.append((chance.choice(USERS), at, at + late, round(chance.uniform(1, 100), 2) / 3))
    kept = [row for row in rows if not (without_late and row[2] > row[1])]
    users, at, known, amounts = zip(*kept, strict=True)
    table = {"user": users, "at": instants(at), "known": instants(known), "amount": amounts}
    pq.write_table(pa.table(table), path)


def service(path, *, ttl="2h"):
    source = FileSource("payments", path=str(path), event_time="at", ingest_time="known")
    last = agg.last(col("amount"))
    features = {
        "total": agg.sum(col("amount")).over("1d"),
        "n": agg.count().over("1d"),
        "last": last.ttl(ttl) if ttl else last,
    }
    view = FeatureView("spend", entity=Entity("user", key="user"), source=source, features=features)
    return FeatureService(SERVICE, features=[view])


def questions(count=400, *, shift_us=0):
    """Return whom is asked about when; shifted questions are asked at another instant than they say."""
    chance = random.Random(5)
    users = [chance.choice(USERS) for _ in range(count)]
    at = [START + DAY + chance.randrange(3 * DAY) + shift_us for _ in range(count)]
    return pa.table({"user": users, "as_of": instants(at)})


def answers(folder, definitions, asked):
    """Return what definitions give for questions: their rows, with the columns of a serving system's log."""
    with FeatureStore.local(folder, clock=FixedClock(START + 9 * DAY)) as store:
        store.apply(definitions)
        built = store.training_set(SERVICE, asked, folder / "training", overwrite=True).to_arrow()
    names = {"user": "user_id", "as_of": "served_at"} | FEATURES
    return built.select(list(names)).rename_columns(list(names.values()))
