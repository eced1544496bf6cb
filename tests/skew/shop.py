"""A shop whose payments are served: seeded events, definitions that can be got wrong in many ways, and questions.

A *truth* is a shop with the right events and definitions. A *faulty* shop answers the same questions by the same online
road from other events or other definitions; its answers are then logged as if the truth had given them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    agg,
    col,
    continuous,
    every,
    request,
)
from featurestore.core.answers import OnlineFeatures
from featurestore.core.temporal import (
    FixedClock,
    Refresh,
    duration_us,
    to_datetime,
)
from tests.strategies import START_US

HOUR = duration_us("1h")
MINUTE = duration_us("1m")
DAYS = 4
END_US = START_US + DAYS * 24 * HOUR
SERVICE = "shop"
SEED = 7
EVENTS = 1_400
ROWS = 360
USERS = (*(f"u{number:02d}" for number in range(14)), *(f"{number:04d}" for number in range(1, 11)))
INSTANT = pa.timestamp("us", tz="UTC")

Row = dict[str, Any]


@dataclass(frozen=True)
class Shop:
    """How a shop is set up.

    Attributes:
        rows: Its deliveries of payments.
        ingest: Whether its source names when a payment became known.
        event_id: Whether its source names payments.
        inclusive: Whether its source counts events at their own instant.
        ttl: Time to live of the last amount; empty for none.
        window: Length of the long window.
        refresh: Refresh of the view that is on a grid.
        until_us: Up to where its online state is materialized.
        serves: Features of payments, only a count of them, values of all kinds, or what is computed from two sources.
        moved_us: How much later than they are the times of the second source stand.
    """

    rows: tuple[tuple[tuple[str, Any], ...], ...] = field(repr=False)
    ingest: bool = True
    event_id: bool = True
    inclusive: bool = False
    ttl: str = "3h"
    window: str = "1d"
    refresh: Refresh = field(default_factory=lambda: every("1h", lag="10m"))
    until_us: int = END_US
    serves: Literal["payments", "a count", "kinds", "two sources"] = "payments"
    moved_us: int = 0


@dataclass(frozen=True)
class Question:
    """One row that is asked for."""

    user: str
    as_of_us: int
    limit: float


def frozen(rows: Sequence[Row]) -> tuple[tuple[tuple[str, Any], ...], ...]:
    return tuple(tuple(row.items()) for row in rows)


def thawed(rows: Sequence[tuple[tuple[str, Any], ...]]) -> list[Row]:
    return [dict(row) for row in rows]


@cache
def payments(seed: int = SEED) -> tuple[tuple[tuple[str, Any], ...], ...]:
    """Make payments: some known late, some told twice, some at equal times, on full minutes that questions hit."""
    chance = random.Random(seed)
    rows: list[Row] = []
    for number in range(EVENTS):
        paid = START_US + chance.randrange(DAYS * 24 * 60) * MINUTE
        learned = paid + chance.choice((0, 0, 0, 0, 0, 20 * MINUTE, 5 * HOUR))
        row = {
            "id": f"p{number}",
            "user": chance.choice(USERS),
            "paid": paid,
            "learned": learned,
            "amount": chance.choice((None, *[round(chance.uniform(1, 400), 2) for _ in range(9)])),
            "kind": chance.choice(("card", "cash", "cheque")),
        }
        rows.append(row)
        if chance.random() < 0.1:
            rows.append(row | {"learned": learned + chance.choice((0, 3 * HOUR))})
        if chance.random() < 0.25:
            rows.append(row | {"id": f"t{number}", "amount": round(chance.uniform(1, 400), 2)})
    return frozen(rows)


@cache
def questions(seed: int = SEED) -> tuple[Question, ...]:
    """Ask within the last day, every few minutes, on full minutes."""
    chance = random.Random(seed + 1)
    instants = sorted(END_US - 1 - chance.randrange(22 * 60) * MINUTE for _ in range(ROWS))
    return tuple(
        Question(chance.choice(USERS), instant // MINUTE * MINUTE, round(chance.uniform(10, 500), 1))
        for instant in instants
    )


def service_of(shop: Shop, folder: Path) -> FeatureService:
    user = Entity("user", key="user")
    source = _source(shop, folder, "payments")
    if shop.serves == "a count":
        counted = FeatureView("spend", entity=user, source=source, features={"payments_6h": agg.count().over("6h")})
        return FeatureService(SERVICE, features=[counted])
    if shop.serves == "kinds":
        return FeatureService(SERVICE, features=[_kinds(user, source)])
    if shop.serves == "two sources":
        return _two_sources(user, source, _source(shop, folder, "returns"))
    return _payments(shop, user, source)


def _source(shop: Shop, folder: Path, name: str) -> FileSource:
    return FileSource(
        name,
        path=folder / name / "*.parquet",
        event_time="paid",
        ingest_time="learned" if shop.ingest else None,
        event_id="id" if shop.event_id else None,
        inclusive=shop.inclusive,
    )


def _kinds(user: Entity, source: FileSource) -> FeatureView:
    """Serve values of most dtypes."""
    amount, paid = col("amount"), col("paid")
    features = {
        "is_large": agg.last(amount > 200.0).ttl("6h"),
        "kind": agg.last(col("kind")).ttl("6h"),
        "price": agg.sum(amount.cast("decimal(12,2)")).over("12h"),
        "recent": agg.last_n(amount, 3).over("3h"),
        "paid": agg.last(paid).lifetime(),
        "day": agg.last(paid.date()).lifetime(),
        "payments_6h": agg.count().over("6h"),
    }
    return FeatureView("spend", entity=user, source=source, features=features)


def _two_sources(user: Entity, first: FileSource, second: FileSource) -> FeatureService:
    """Serve what is computed on demand from two views, and one of the two."""
    total = agg.sum(col("amount")).over("12h")
    spend = FeatureView("spend", entity=user, source=first, features={"total_12h": total})
    back = FeatureView("back", entity=user, source=second, features={"total_12h": total})
    left = OnDemandFeatureView("left", features={"over": spend["total_12h"] - back["total_12h"]})
    return FeatureService(SERVICE, features=[spend, left])


def _payments(shop: Shop, user: Entity, source: FileSource) -> FeatureService:
    amount = col("amount")
    last = agg.last(amount).ttl(shop.ttl) if shop.ttl else agg.last(amount)
    spend = FeatureView(
        "spend",
        entity=user,
        source=source,
        refresh=continuous(),
        features={
            "payments_6h": agg.count().over("6h"),
            "sum": agg.sum(amount).over(shop.window),
            "mean": agg.mean(amount).over(shop.window),
            "last": last,
            "recent": agg.last_n(amount, 3).over("12h"),
        },
    )
    hourly = FeatureView(
        "hourly",
        entity=user,
        source=source,
        refresh=shop.refresh,
        features={
            "largest_1d": agg.max(amount).over("1d"),
            "total_12h": agg.sum(amount).over("12h"),
            "kind": agg.last(col("kind")).lifetime(),
        },
    )
    excess = OnDemandFeatureView(
        "excess", request={"limit": "float64"}, features={"over": request("limit") - spend["mean"]}
    )
    return FeatureService(SERVICE, features=[spend, hourly, excess])


def moved(rows: Sequence[Row], offset_us: int) -> list[Row]:
    """Let payments have happened, and become known, at other instants."""
    return [row | {"paid": row["paid"] + offset_us, "learned": row["learned"] + offset_us} for row in rows]


def write_rows(folder: Path, rows: Sequence[Row], name: str = "0.parquet", source: str = "payments") -> None:
    """Write payments as one file of a shop."""
    kinds = {
        "id": pa.string(),
        "user": pa.string(),
        "paid": INSTANT,
        "learned": INSTANT,
        "amount": pa.float64(),
        "kind": pa.string(),
    }
    columns = {
        column: pa.array([row[column] for row in rows], pa.int64() if kind == INSTANT else kind).cast(kind)
        for column, kind in kinds.items()
    }
    (folder / source).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / source / name)


def opened(shop: Shop, folder: Path) -> FeatureStore:
    """Open a store on a shop's rows, apply its definitions, and materialize them."""
    rows = thawed(shop.rows)
    write_rows(folder, rows)
    write_rows(folder, moved(rows[::2], shop.moved_us), source="returns")
    store = FeatureStore.local(folder / "store", clock=FixedClock(END_US))
    store.apply(service_of(shop, folder))
    store.materialize(until=to_datetime(shop.until_us))
    return store


@cache
def answers(shop: Shop) -> tuple[OnlineFeatures, ...]:
    """Let a shop answer all questions on the online road."""
    with opened(shop, Path(mkdtemp())) as store:
        return tuple(ask(store, question) for question in questions())


def ask(store: FeatureStore, question: Question, **changed: Any) -> OnlineFeatures:
    asked = replace(question, **changed)
    return store.get_online_features(
        SERVICE, [{"user": asked.user}], request=request_of(store, asked.limit), as_of=to_datetime(asked.as_of_us)
    )


def request_of(store: FeatureStore, limit: float) -> dict[str, float] | None:
    """Return the request inputs of a question; none where the service takes none."""
    return {"limit": limit} if store.plan(SERVICE).request else None
