"""Online answers in process: how long one takes, as a caller sees it.

Usage: python -m benchmarks.contestants.online FOLDER ROUNDS
"""

import statistics
import sys
import time
from pathlib import Path

from benchmarks.contestants.clock import timed
from benchmarks.contestants.online_store import NOW, SERVICE, USERS, build
from featurestore import FeatureStore


def microseconds(store: FeatureStore, entities: int, rounds: int) -> dict[str, float]:
    """Return median and 99th percentile of answers about so many entities, other ones each time."""
    took = []
    for number in range(rounds):
        asked = [{"user_id": (number * 37 + i) % USERS} for i in range(entities)]
        begun = time.perf_counter()
        answer = store.get_online_features(SERVICE, asked, as_of=NOW)
        took.append((time.perf_counter() - begun) * 1e6)
        assert len(answer.columns) == 50
    took = took[len(took) // 10 :]
    return {"median_us": statistics.median(took), "p99_us": statistics.quantiles(took, n=100)[98]}


def main(folder: Path, rounds: int) -> None:
    store = build(folder)
    store.check()
    timed(
        lambda: {
            "one": microseconds(store, 1, rounds),
            "ten": microseconds(store, 10, max(200, rounds // 5)),
            "hundred": microseconds(store, 100, max(100, rounds // 20)),
        }
    )
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
