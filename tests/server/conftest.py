"""A small store with two views, an on-demand feature and values of every dtype, behind a real application."""

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal

import httpx
import pyarrow as pa
import pytest

from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FrameSource, OnDemandFeatureView, agg, col
from featurestore import request as request_input
from featurestore.core.temporal import (
    FixedClock,
    duration_us,
    every,
    instant_us,
)
from featurestore.server.app import create_app

NOW = "2024-05-02T00:00:00Z"
USER = Entity("user", key="user", dtype="int64")


def hour(number: int) -> datetime:
    return datetime(2024, 5, 1, number, tzinfo=UTC)


ORDERS = pa.table(
    {
        "user": [1, 1, 2],
        "amount": [2.5, None, 4.0],
        "price": pa.array([Decimal("1.10"), Decimal("2.20"), None], pa.decimal128(9, 2)),
        "day": pa.array([date(2024, 4, 30), date(2024, 5, 1), None], pa.date32()),
        "shop": ["a", "ü", None],
        "raw": pa.array([b"\x00\xff", b"", None], pa.binary()),
        "shipped": pa.array([hour(3), None, hour(5)], pa.timestamp("us", "UTC")),
        "paid": [True, False, None],
        "at": pa.array([hour(1), hour(2), hour(3)], pa.timestamp("us", "UTC")),
    }
)
SOURCE = FrameSource("orders", frame=ORDERS, event_time="at")
SPENDING = FeatureView(
    "spending",
    entity=USER,
    source=SOURCE,
    features={
        "orders": agg.count().over("1d"),
        "total": agg.sum(col("amount")).over("1d"),
        "expired": agg.last(col("shop")).ttl("1h"),
    },
)
LAST = FeatureView(
    "last_order",
    entity=USER,
    source=SOURCE,
    refresh=every("1h"),
    features={name: agg.last(col(name)) for name in ("price", "day", "shop", "raw", "shipped", "paid")}
    | {"days": agg.last_n(col("day"), 2)},
)
BUDGET = OnDemandFeatureView(
    "budget", request={"budget": "float64"}, features={"left": request_input("budget") - SPENDING["total"]}
)
SERVICES = (
    FeatureService("all_of_it", features=[SPENDING, LAST, BUDGET]),
    FeatureService("plain", features=[SPENDING]),
)


@pytest.fixture(autouse=True)
def _everybody_may_ask(monkeypatch):
    """Servers of these tests need no key, unless a test says otherwise."""
    monkeypatch.setenv("FEATURESTORE_SERVER__AUTH", "none")


@pytest.fixture
def store(tmp_path):
    with FeatureStore.local(tmp_path / "store", clock=FixedClock(instant_us(NOW))) as opened:
        opened.apply(*SERVICES)
        opened.materialize()
        yield opened


class Caller:
    """Calls an application through ASGI, one request at a time."""

    def __init__(self, app):
        self.app = app

    def __call__(self, method: str, path: str, **arguments) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(call())

    def ask(self, service: str = "plain", entities=({"user": 1},), **fields) -> httpx.Response:
        return self("POST", "/v1/features", json={"service": service, "entities": list(entities), **fields})


@pytest.fixture
def call(store):
    return Caller(create_app(store))


def later(duration: str) -> int:
    return instant_us(NOW) + duration_us(duration)
