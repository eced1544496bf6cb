"""The latest of 13 columns by hand in Polars.

Usage: python -m benchmarks.contestants.as_of_polars FOLDER
"""

import sys
from pathlib import Path

import polars as pl

from benchmarks.contestants.clock import timed


def job(folder: Path) -> None:
    events = pl.read_parquet(folder / "wide.parquet").set_sorted("happened_at")
    spine = pl.read_parquet(folder / "spine.parquet").sort("as_of")
    joined = spine.join_asof(
        events,
        left_on="as_of",
        right_on="happened_at",
        by="user_id",
        allow_exact_matches=False,
        check_sortedness=False,
    )
    joined.drop("happened_at", strict=False).sort("row").write_parquet(folder / "as_of_polars.parquet")


if __name__ == "__main__":
    timed(lambda: job(Path(sys.argv[1])))
