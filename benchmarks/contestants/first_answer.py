"""From an empty folder to an audited answer: events, definitions, training set, refresh, lookup, audit.

Usage: python -m benchmarks.contestants.first_answer FOLDER
"""

import sys
from pathlib import Path

from benchmarks.contestants.clock import timed


def job(folder: Path) -> dict[str, object]:
    import pyarrow as pa

    from benchmarks.contestants.online_store import NOW, SERVICE, build

    store = build(folder)
    spine = pa.table({"user_id": [1, 2, 3], "as_of": [NOW] * 3})
    store.training_set(SERVICE, spine, folder / "training", overwrite=True)
    store.get_online_features(SERVICE, [{"user_id": user} for user in (1, 2, 3)], as_of=NOW)
    report = store.audit(SERVICE, since="2026-01-01T00:00:00Z", until="2027-01-01T00:00:00Z")
    store.close()
    return {"verdict": str(getattr(report.verdict, "name", report.verdict))}


if __name__ == "__main__":
    timed(lambda: job(Path(sys.argv[1])))
