"""Whoever pushes and compacts is killed at any point: every acknowledged event counts once, on both roads."""

import random
import sys
from itertools import count
from pathlib import Path

import pytest

from tests.budget import times
from tests.crash.rounds import run_and_kill
from tests.simulation.payments import check_all_counted, events_of, opened, service
from tests.stores import NETWORKED

ROUNDS = 3
LONGEST_SECONDS = 0.4
NAME = "z"


@pytest.mark.parametrize("kind", ["sqlite", *NETWORKED, "postgresql log"])
def test_an_event_is_neither_lost_nor_doubled_by_who_dies_while_compacting(kind, tmp_path, request, online_urls_of):
    online = online_urls_of(kind) if kind in NETWORKED else None
    event_log = request.getfixturevalue("postgres_database") if kind == "postgresql log" else None
    with opened(tmp_path, online, event_log) as store:
        store.apply(service(tmp_path))
        store.materialize()
    chance = random.Random(5)
    acknowledged = 0
    # Each log all rounds, and a few beside the other stores of states.
    for _ in range(times(2 if online else ROUNDS)):
        said = run_and_kill(
            "tests.crash.test_compacting",
            [tmp_path, online or "", event_log or "", acknowledged],
            chance.random() * LONGEST_SECONDS,
        )
        acknowledged = int(said[-1]) if said else acknowledged
        with opened(tmp_path, online, event_log) as store:
            # It may have arrived without an answer; pushed again, it counts once all the same.
            store.push("payments", events_of(NAME, acknowledged))
        acknowledged += 1
        events = [event for batch in range(acknowledged) for event in events_of(NAME, batch)]
        check_all_counted(tmp_path, online, events, event_log)
    with opened(tmp_path, online, event_log) as store:
        store.compact()
    files = list((tmp_path / "store").rglob("source=payments/*"))
    assert files
    assert all(path.suffix == ".parquet" and not path.name.startswith(".") for path in files)


def push_and_compact(folder, online, event_log, first):
    with opened(folder, online, event_log) as store:
        print("go", flush=True)
        for batch in count(first):
            store.push("payments", events_of(NAME, batch))
            print(batch + 1, flush=True)
            if batch % 2:
                store.compact()


if __name__ == "__main__":
    push_and_compact(Path(sys.argv[1]), sys.argv[2] or None, sys.argv[3] or None, int(sys.argv[4]))
