"""Windows by hand in Polars: events and questions in one frame, rolling over time by user, questions kept.

Usage: python -m benchmarks.contestants.windows_polars FOLDER
"""

import sys
from pathlib import Path

import polars as pl

from benchmarks.contestants.clock import timed

WINDOWS = ("1h", "1d", "7d", "30d")


def features(name: str) -> list[pl.Expr]:
    """Return the aggregates of one window; a question has no amount, so that it counts nowhere."""
    amount = pl.col("amount")
    return [
        amount.count().alias(f"count_{name}"),
        amount.sum().alias(f"sum_{name}"),
        amount.mean().alias(f"mean_{name}"),
        amount.min().alias(f"min_{name}"),
        amount.max().alias(f"max_{name}"),
    ]


def job(folder: Path) -> None:
    events = pl.read_parquet(folder / "events.parquet")
    spine = pl.read_parquet(folder / "spine.parquet").rename({"as_of": "happened_at"})
    both = pl.concat([events, spine], how="diagonal").sort("user_id", "happened_at")
    parts = [both.select("row")]
    for name in WINDOWS:
        rolled = both.rolling(index_column="happened_at", period=name, closed="left", group_by="user_id").agg(
            features(name)
        )
        parts.append(rolled.drop("user_id", "happened_at"))
    found = pl.concat(parts, how="horizontal").filter(pl.col("row").is_not_null()).sort("row")
    answer = spine.rename({"happened_at": "as_of"}).hstack(found.drop("row"))
    answer.write_parquet(folder / "windows_polars.parquet")


if __name__ == "__main__":
    timed(lambda: job(Path(sys.argv[1])))
