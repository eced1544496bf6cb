"""Whoever pushes and compacts is killed at any point: every acknowledged event counts once, on both roads."""

import random
import sys
from itertools import count
from pathlib import Path

import pytest

from tests.crash.rounds import rounds, run_and_kill
from tests.simulation.payments import check_all_counted, events_of, opened, service
from tests.stores import NETWORKED

ROUNDS = 8
LONGEST_SECONDS = 0.4
NAME = "z"


@pytest.mark.parametrize("kind", ["sqlite", *NETWORKED])
def test_an_event_is_neither_lost_nor_doubled_by_who_dies_while_compacting(kind, tmp_path, online_urls_of):
    online = None if kind == "sqlite" else online_urls_of(kind)
    with opened(tmp_path, online) as store:
        store.apply(service(tmp_path))
        store.materialize()
    chance = random.Random(5)
    acknowledged = 0
    # The log is the same whatever the store of states is: all rounds of it once, a few beside each.
    for _ in range(rounds(ROUNDS if kind == "sqlite" else 2)):
        said = run_and_kill(
            "tests.crash.test_compacting",
            [tmp_path, online or "", acknowledged],
            chance.random() * LONGEST_SECONDS,
        )
        acknowledged = int(said[-1]) if said else acknowledged
        with opened(tmp_path, online) as store:
            # It may have arrived without an answer; pushed again, it counts once all the same.
            store.push("payments", events_of(NAME, acknowledged))
        acknowledged += 1
        check_all_counted(
            tmp_path, online, [event for batch in range(acknowledged) for event in events_of(NAME, batch)]
        )
    with opened(tmp_path, online) as store:
        store.compact()
    files = list((tmp_path / "store").rglob("source=payments/*"))
    assert files
    assert all(path.suffix == ".parquet" and not path.name.startswith(".") for path in files)


def push_and_compact(folder, online, first):
    with opened(folder, online) as store:
        print("go", flush=True)
        for batch in count(first):
            store.push("payments", events_of(NAME, batch))
            print(batch + 1, flush=True)
            if batch % 2:
                store.compact()


if __name__ == "__main__":
    push_and_compact(Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3]))
