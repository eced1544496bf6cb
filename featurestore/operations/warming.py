"""Compiling all kernels ahead, by using each of them on a store in a temporary folder.

A kernel is compiled for the types that it is called with. Only its callers know these, so this module calls no kernel
itself: it uses the store as users do, with every aggregation and every kind of column.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.config import Config
from featurestore.core.temporal import every
from featurestore.definitions.aggregations import agg
from featurestore.definitions.entities import Entity
from featurestore.definitions.expr import col
from featurestore.definitions.services import FeatureService
from featurestore.definitions.sources import FileSource
from featurestore.definitions.views import FeatureView
from featurestore.kernels.code_cache import Compiled, compiled
from featurestore.store import FeatureStore

_START = datetime(2024, 1, 1, tzinfo=UTC)
_EVENTS = 24

_QUESTIONS = 1 << 15
"""Enough rows for the kernels of large batches."""


def warm(folder: Path | None = None) -> Compiled:
    """Compile every kernel that is not in the cache yet.

    Args:
        folder: Folder for the temporary store; the system's folder for temporary files if ``None``.

    Returns:
        The compiled kernels, and the folder of their cache.

    Raises:
        OSError: The folder cannot be written.
    """
    with TemporaryDirectory(prefix="featurestore-warm-", dir=folder) as place:
        _use_everything(Path(place))
    return compiled()


def _use_everything(folder: Path) -> None:
    """Build a training set, fill online state in every way, and ask for it."""
    events = folder / "events.parquet"
    pq.write_table(pa.Table.from_pylist(list(_events(0, _EVENTS)), schema=_SCHEMA), events)
    with FeatureStore(_config(folder / "store")) as store:
        store.apply(*_services(events))
        store.training_set("all", _spine(_QUESTIONS), folder / "training", statuses=True, progress=False)
        store.training_set("newest", _spine(1), folder / "newest", progress=False)
        store.materialize()
        store.push("pushed", list(_events(_EVENTS, 2 * _EVENTS)))
        pq.write_table(pa.Table.from_pylist(list(_events(0, 2 * _EVENTS)), schema=_SCHEMA), events)
        store.materialize()
        store.get_online_features("all", [{"user": 1, "shop": "a"}, {"user": 9, "shop": "c"}])
        store.audit("all", since="1h", causes=False)


def _spine(count: int) -> pa.Table:
    """Return questions about four entities, some of them about many instants."""
    rows = [
        {"user": 1 + number % 2, "shop": "ab"[number % 4 // 2], "as_of": _START + timedelta(minutes=number)}
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*map(_SCHEMA.field, ("user", "shop")), ("as_of", _INSTANT)]))


def _config(folder: Path) -> Config:
    """Return a configuration that overrides of the environment cannot lead to another store."""
    places = {name: f"sqlite:///{folder / name}.db" for name in ("registry", "online", "event_log")}
    return Config.local(folder).model_copy(update={**places, "data": folder, "memory_limit": None})


_INSTANT = pa.timestamp("us", "UTC")
_SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("shop", pa.string()),
        ("amount", pa.float64()),
        ("count", pa.int64()),
        ("price", pa.decimal128(9, 2)),
        ("paid", pa.bool_()),
        ("at", _INSTANT),
        ("known", _INSTANT),
        ("id", pa.int64()),
    ]
)


def _events(first: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield events, some with nulls, some known late, and some of one entity at one instant."""
    for number in range(first, stop):
        at = _START + timedelta(hours=number // 8)
        yield {
            "user": 1 + number % 2,
            "shop": "ab"[number % 3 % 2],
            "amount": None if number % 5 == 0 else number / 3,
            "count": number,
            "price": Decimal(number) / 4,
            "paid": number % 2 == 0,
            "at": at,
            "known": at + timedelta(hours=9 * (number % 2)),
            "id": number,
        }


def _services(path: Path) -> list[FeatureService]:
    user = Entity("user", key="user", dtype="int64")
    shop = Entity("shop", key=("user", "shop"), dtype=("int64", "string"))
    file = FileSource("file", path=str(path), event_time="at", ingest_time="known", event_id="id")
    pushed = FileSource("pushed", path=str(path), event_time="at", event_id="id", stream=True)
    plain = FileSource("plain", path=str(path), event_time="at")
    by_user = FeatureView("by_user", entity=user, source=file, where=col("count") >= 0, features=_features())
    by_shop = FeatureView("by_shop", entity=shop, source=pushed, features=_features(), refresh=every("1h", lag="10m"))
    recent = FeatureView("recent", entity=user, source=plain, features={"n": agg.count().over("3h")})
    newest = FeatureView("newest", entity=user, source=plain, features={"paid": agg.last(col("amount"))})
    return [
        FeatureService("all", features=[by_user, by_shop, recent]),
        FeatureService("newest", features=[newest]),
    ]


def _features() -> dict[str, Any]:
    """Return every aggregation over every kind of column that it takes."""
    numbers = {"float": col("amount"), "int": col("count"), "decimal": col("price")}
    values = {**numbers, "text": col("shop"), "bool": col("paid")}
    features: dict[str, Any] = {"n": agg.count().over("5h"), "since": agg.time_since_last().lifetime()}
    for name, column in numbers.items():
        features |= {
            f"sum_{name}_{{window}}": agg.sum(column).over("3h", "9h"),
            f"min_{name}": agg.min(column).over("9h"),
            f"max_{name}": agg.max(column).lifetime(),
        }
    for name in ("float", "int"):
        features |= {
            f"mean_{name}": agg.mean(numbers[name]).over("9h"),
            f"var_{name}": agg.var(numbers[name]).over("9h"),
            f"std_{name}": agg.std(numbers[name]).over("9h"),
            f"median_{name}": agg.median(numbers[name]).over("9h"),
            f"quantile_{name}": agg.quantile(numbers[name], 0.9).over("9h"),
        }
    for name, column in values.items():
        features |= {
            f"first_{name}": agg.first(column).over("9h"),
            f"last_{name}": agg.last(column).ttl("9h"),
            f"last_two_{name}": agg.last_n(column, 2).over("9h"),
            f"distinct_{name}": agg.count_distinct(column).over("9h"),
            f"mode_{name}": agg.mode(column).over("9h"),
        }
    features["bucket_text"] = agg.last(col("shop").hash_bucket(7)).over("9h")
    features["bucket_int"] = agg.last(col("count").hash_bucket(7)).over("9h")
    return features
