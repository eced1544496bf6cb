"""Auditing what was served: an audit of a whole log, causes included.

Usage: python -m benchmarks.contestants.audit build|audit FOLDER EVENTS ROWS WRONG
"""

import resource
import sys
from pathlib import Path

from benchmarks.contestants.clock import timed
from benchmarks.contestants.served import SERVICE, build
from featurestore import FeatureStore


def audited(folder: Path, wrong: float) -> dict[str, object]:
    """Audit everything that was served."""
    with FeatureStore.local(folder / f"store_{wrong}") as store:
        report = store.audit(SERVICE, since="2025-12-01T00:00:00Z", until="2027-01-01T00:00:00Z")
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": report.compared,
        "values": sum(feature.compared for feature in report.features),
        "different": report.different,
        "rows_different": sum(bucket.different for bucket in report.over_time),
        "causes": report.causes,
        "verdict": report.verdict,
        "cpu_seconds": used.ru_utime + used.ru_stime,
    }


def main(job: str, folder: Path, events: int, rows: int, wrong: float) -> None:
    if job == "build":
        timed(lambda: build(folder, events=events, rows=rows, wrong=wrong).close())
    else:
        timed(lambda: audited(folder, wrong))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
