"""A store whose serving log is full: 50 features of two views, answered by the offline road and laid down as served.

A share of the rows may be served wrong: for half of it refreshes stood still for a stretch of time, for the other half
some events of a few users never came.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.data import DAY_US, DAYS, INSTANT, SEED, START_US, USERS, Crowd, write_purchases
from featurestore import Entity, FeatureService, FeatureStore, FeatureView, FileSource, agg, col, every
from featurestore.guard.audit.facts import event_reader
from featurestore.guard.audit.proving import world_of
from featurestore.guard.causes.model import Facts
from featurestore.guard.world.world import answer, event_bounds
from featurestore.offline.build import Features
from featurestore.offline.training_set import compute_reference
from featurestore.plan.model import Plan
from featurestore.serving_log import log_schema
from featurestore.serving_log.sealing import write_file
from featurestore.sources import ReadSettings

SERVICE = "purchases"
WINDOWS = ("1h", "1d", "7d", "30d")
FILE_ROWS = 50_000
_EVENTS_LOST = 0.03
_LOTS = 4


@dataclass(frozen=True)
class _Served:
    """Answers to some questions, as they come to stand in the log."""

    plan: Plan
    spine: pa.Table
    watermark_us: np.ndarray
    found: Features


def service(events: Path) -> FeatureService:
    """Return 50 features: 44 of windows, 6 of single purchases."""
    user = Entity("user", key="user_id", dtype="int64")
    source = FileSource("purchases", path=events, event_time="happened_at")
    refresh = every("1h", lag="10m")
    numbers = {
        f"{name}_{column}_{{window}}": getattr(agg, name)(col(column)).over(*WINDOWS)
        for column in ("amount", "price")
        for name in ("sum", "mean", "min", "max")
    }
    spend = FeatureView(
        "spend",
        entity=user,
        source=source,
        refresh=refresh,
        features={
            **numbers,
            "count_{window}": agg.count().over(*WINDOWS),
            "quantity_{window}": agg.sum(col("quantity")).over(*WINDOWS),
            "cheap_{window}": agg.count(where=col("price") < 5.0).over(*WINDOWS),
        },
    )
    latest = FeatureView(
        "latest",
        entity=user,
        source=source,
        refresh=refresh,
        features={
            "amount": agg.last(col("amount")),
            "price": agg.last(col("price")),
            "shop": agg.last(col("shop")),
            "quantity": agg.last(col("quantity")),
            "first_shop": agg.first(col("shop")),
            "since": agg.time_since_last(),
        },
    )
    return FeatureService(SERVICE, features=[spend, latest])


def build(folder: Path, *, events: int, rows: int, wrong: float) -> FeatureStore:
    """Write events and the log; return the store.

    Args:
        folder: Where everything goes; events that lie there already are taken.
        events: Count of purchases.
        rows: Count of rows served.
        wrong: Share of the rows that is served wrong.
    """
    path = folder / "purchases.parquet"
    if not path.exists():
        write_purchases(path, events)
    store = FeatureStore.local(folder / f"store_{wrong}")
    store.apply(service(path))
    plan = store.plan(SERVICE)
    chance = np.random.default_rng(SEED + 2)
    instants = np.sort(chance.integers(START_US, START_US + DAYS * DAY_US, rows))
    users = Crowd().draw(chance, rows)
    if not wrong:
        parts = [_answered(plan, path, users, instants)]
    else:
        parts = _with_faults(plan, path, folder, users, instants, wrong)
    _write_log(folder / f"store_{wrong}" / "serving_log", parts)
    return store


def _with_faults(
    plan: Plan, path: Path, folder: Path, users: np.ndarray, instants: np.ndarray, wrong: float
) -> list[_Served]:
    begun = START_US + int(0.7 * DAYS * DAY_US)
    stands_still = (instants >= begun) & (instants < begun + wrong / 2 * DAYS * DAY_US)
    unlucky = _unlucky(users, wrong / 2) & ~stands_still
    right = ~(stands_still | unlucky)
    old = np.flatnonzero(stands_still)
    lots = [old[users[old] % _LOTS == number] for number in range(_LOTS)]
    return [
        _answered(plan, path, users[right], instants[right]),
        *(_answered_late(plan, path, users[lot], instants[lot], begun) for lot in lots if len(lot)),
        _answered(plan, _with_holes(path, folder, users[unlucky]), users[unlucky], instants[unlucky]),
    ]


def _with_holes(path: Path, folder: Path, users: np.ndarray) -> Path:
    """Write the events without some of a few users."""
    events = pq.read_table(path)
    lost = np.isin(events.column("user_id").to_numpy(), np.unique(users))
    lost &= np.random.default_rng(SEED + 3).random(len(lost)) < _EVENTS_LOST
    pq.write_table(events.filter(pa.array(~lost)), folder / "holes.parquet", row_group_size=1 << 20)
    return folder / "holes.parquet"


def _unlucky(users: np.ndarray, share: float) -> np.ndarray:
    """Choose rows of as many users as make up a share of all rows, none of them a frequent one."""
    counts = np.bincount(users, minlength=USERS)
    order = np.random.default_rng(SEED + 4).permutation(np.flatnonzero(counts < np.percentile(counts, 99)))
    chosen = order[: np.searchsorted(np.cumsum(counts[order]), share * len(users))]
    return np.isin(users, chosen)


def _answered(plan: Plan, events: Path, users: np.ndarray, instants: np.ndarray) -> _Served:
    """Answer questions from a file of events by states as new as promised."""
    spine = _spine(users, instants)
    found, _ = compute_reference(plan, spine, sources=_sources(events), settings=ReadSettings())
    return _Served(plan, spine, event_bounds(plan.uses[0].view, instants)[1], found)


def _answered_late(plan: Plan, events: Path, users: np.ndarray, instants: np.ndarray, begun: int) -> _Served:
    """Answer questions by states of which none was refreshed after an instant."""
    spine = _spine(users, instants)
    promised = event_bounds(plan.uses[0].view, np.append(instants, begun))[1]
    watermark = np.minimum(promised[:-1], promised[-1])
    facts = Facts((), event_reader(lambda _: _sources(events), ReadSettings()))
    world = world_of(plan, spine.rename_columns(["key__user_id", "as_of"]), facts)
    world = world.with_views(lambda view: replace(view, watermark=watermark)) or world
    answered = answer(world, [output.name for output in plan.outputs], threads=2)
    values, statuses = ({name: getattr(one, part) for name, one in answered.items()} for part in ("values", "statuses"))
    return _Served(plan, spine, watermark, Features(values, statuses))


def _spine(users: np.ndarray, instants: np.ndarray) -> pa.Table:
    return pa.table({"user_id": users, "as_of": pa.array(instants).cast(INSTANT)})


def _sources(events: Path) -> dict[str, FileSource]:
    return {"purchases": FileSource("purchases", path=events, event_time="happened_at")}


def _write_log(folder: Path, parts: list[_Served]) -> None:
    tables = [_rows(part) for part in parts]
    whole = pa.concat_tables(tables)
    whole = whole.take(pc.sort_indices(whole, sort_keys=[("as_of", "ascending")]))
    days = pc.strftime(whole.column("as_of"), "%Y-%m-%d").to_numpy()
    for day in np.unique(days):
        table = whole.filter(pa.array(days == day))
        for number, at in enumerate(range(0, table.num_rows, FILE_ROWS)):
            place = folder / f"service={SERVICE}" / f"day={day}"
            write_file(table.slice(at, FILE_ROWS), place / f"{number:08d}-0.parquet")


def _rows(part: _Served) -> pa.Table:
    plan, count = part.plan, part.spine.num_rows
    watermark = pa.array(part.watermark_us).cast(INSTANT)
    columns = {
        "request_id": pc.binary_join_element_wise("r", pa.array(np.arange(count)).cast(pa.string()), ""),
        "row": pa.array(np.zeros(count, np.int32)),
        "as_of": part.spine.column("as_of"),
        "logged_at": part.spine.column("as_of"),
        "service": pa.repeat(pa.scalar(SERVICE), count),
        "fingerprint": pa.repeat(pa.scalar(plan.fingerprint), count),
        "model": pa.repeat(pa.scalar("benchmark"), count),
        "model_version": pa.array(np.where(np.arange(count) % 2 == 0, "1", "2")),
        "key__user_id": part.spine.column("user_id"),
        **{f"value__{output.name}": part.found.values[output.name] for output in plan.outputs},
        **{f"status__{output.name}": part.found.statuses[output.name] for output in plan.outputs},
        **{f"watermark__{use.alias}": watermark for use in plan.uses},
    }
    schema = log_schema(plan)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
