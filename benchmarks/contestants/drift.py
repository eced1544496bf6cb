"""Drift of two samples of the same columns: by this library, by scipy column by column, or by Evidently.

Usage: python -m benchmarks.contestants.drift WAY FOLDER COLUMNS

Reading is part of the job for none: frames are in memory before it begins. Evidently need not be installed.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.contestants.clock import timed


def ours(sides: list[pa.Table]) -> Callable[[], None]:
    from featurestore.core.dtypes import FLOAT64
    from featurestore.guard.drift.compare import compare_drift
    from featurestore.guard.drift.policy import DriftPolicy
    from featurestore.guard.drift.reference import Reference

    dtypes = dict.fromkeys(sides[0].column_names, FLOAT64)

    def job(rows: int | None = None) -> None:
        reference, current = (side.slice(0, rows).to_batches(max_chunksize=1 << 17) for side in sides)
        compare_drift(
            service="bench",
            reference=Reference("reference", dtypes, lambda: reference),
            current=lambda: current,
            current_dtypes=dtypes,
            policy=DriftPolicy(),
            since="",
            until="",
            ran_at="",
        )

    # The first call loads what is compiled.
    job(1_000)
    return job


def scipy(sides: list[pa.Table]) -> Callable[[], None]:
    from scipy import stats

    arrays = [[column.to_numpy() for column in side.columns] for side in sides]

    def job() -> None:
        for reference, current in zip(*arrays, strict=True):
            stats.ks_2samp(reference, current, method="asymp")
            stats.wasserstein_distance(reference, current)

    return job


def evidently(sides: list[pa.Table]) -> Callable[[], None]:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=sides[0].column_names)
    reference, current = (Dataset.from_pandas(side.to_pandas(), definition) for side in sides)

    def job() -> None:
        Report([DataDriftPreset(method="ks")]).run(current_data=current, reference_data=reference)

    return job


def main() -> None:
    way, folder, columns = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    names = [f"f{number}" for number in range(columns)]
    sides = [pq.read_table(folder / f"drift_{side}.parquet", columns=names) for side in ("reference", "current")]
    timed({"ours": ours, "scipy": scipy, "evidently": evidently}[way](sides))


if __name__ == "__main__":
    main()
