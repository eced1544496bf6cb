"""Seeded data for all measurements, written once per run into a temporary folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SEED = 20261123
USERS = 100_000
DAYS = 90
START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""
DAY_US = 86_400_000_000
INSTANT = pa.timestamp("us", tz="UTC")
WIDE_COLUMNS = tuple(f"x{number}" for number in range(11))
_CHUNK = 5_000_000


@dataclass(frozen=True)
class Sizes:
    """How much is measured; ``--quick`` takes a tenth."""

    events: int = 10_000_000
    spine: int = 1_000_000
    many_events: int = 50_000_000

    def divided(self, by: int) -> Sizes:
        """Return smaller sizes."""
        return Sizes(self.events // by, self.spine // by, self.many_events // by)


class Crowd:
    """Users of whom the n-th appears with a weight of 1 / n."""

    def __init__(self) -> None:
        self._edges = np.cumsum(1.0 / np.arange(1, USERS + 1))

    def draw(self, chance: np.random.Generator, count: int) -> np.ndarray:
        """Return ids of users."""
        picked = np.searchsorted(self._edges, chance.random(count) * self._edges[-1])
        return (picked * 7919 % USERS).astype(np.int64)


def write_events(path: Path, count: int) -> None:
    """Write events of users in the order of time: ``user_id``, ``happened_at``, ``amount``."""
    _write_events(path, count, lambda chance, rows: {"amount": pa.array(chance.normal(50.0, 20.0, rows))})


def write_wide_events(path: Path, count: int) -> None:
    """Write events with 13 columns: ``user_id``, ``happened_at`` and eleven floats, one of them a tenth null."""

    def columns(chance: np.random.Generator, rows: int) -> dict[str, pa.Array]:
        found = {name: pa.array(chance.random(rows)) for name in WIDE_COLUMNS[1:]}
        return {WIDE_COLUMNS[0]: pa.array(chance.random(rows), mask=chance.random(rows) < 0.1), **found}

    _write_events(path, count, columns)


def write_purchases(path: Path, count: int) -> None:
    """Write purchases of users in the order of time: ``user_id``, ``happened_at``, amounts, a count and a shop."""

    def columns(chance: np.random.Generator, rows: int) -> dict[str, pa.Array]:
        shops = pa.array([f"shop {number:03d}" for number in range(200)])
        return {
            "amount": pa.array(chance.normal(50.0, 20.0, rows)),
            "price": pa.array(chance.lognormal(2.0, 1.0, rows), mask=chance.random(rows) < 0.05),
            "quantity": pa.array(chance.poisson(2.0, rows) + 1),
            "shop": shops.take(pa.array(chance.integers(0, 200, rows))),
        }

    _write_events(path, count, columns)


def _write_events(path: Path, count: int, columns) -> None:
    chance, crowd = np.random.default_rng(SEED), Crowd()
    with_writer = None
    for begin in range(0, count, _CHUNK):
        rows = min(_CHUNK, count - begin)
        low, high = (START_US + DAYS * DAY_US * place // count for place in (begin, begin + rows))
        table = pa.table(
            {
                "user_id": crowd.draw(chance, rows),
                "happened_at": pa.array(np.sort(chance.integers(low, high, rows)), pa.int64()).cast(INSTANT),
                **columns(chance, rows),
            }
        )
        with_writer = with_writer or pq.ParquetWriter(path, table.schema)
        with_writer.write_table(table, row_group_size=1 << 20)
    if with_writer is not None:
        with_writer.close()


def write_spine(path: Path, count: int) -> None:
    """Write questions in no order: ``row``, ``user_id``, ``as_of``."""
    chance = np.random.default_rng(SEED + 1)
    instants = chance.integers(START_US, START_US + DAYS * DAY_US, count)
    table = pa.table(
        {
            "row": np.arange(count),
            "user_id": Crowd().draw(chance, count),
            "as_of": pa.array(instants, pa.int64()).cast(INSTANT),
        }
    )
    pq.write_table(table, path)


def write_sample(path: Path, rows: int, columns: int, *, shift: float) -> None:
    """Write a sample of normal, skewed, even and whole numbers, every tenth column shifted."""
    chance = np.random.default_rng(SEED + len(path.stem))
    with_writer = None
    for begin in range(0, rows, 1 << 17):
        count = min(1 << 17, rows - begin)
        draws = [
            chance.normal(size=count),
            chance.lognormal(size=count),
            chance.random(count),
            chance.poisson(3.0, count).astype(np.float64),
        ]
        table = pa.table(
            {f"f{i}": draws[i % 4] * (1 + i / columns) + (shift if i % 10 == 0 else 0.0) for i in range(columns)}
        )
        with_writer = with_writer or pq.ParquetWriter(path, table.schema)
        with_writer.write_table(table)
    if with_writer is not None:
        with_writer.close()
