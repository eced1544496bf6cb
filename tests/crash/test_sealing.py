"""Whoever serves is killed at any point of writing and sealing: each row that was flushed is in the log once."""

import random
import sys
from itertools import count
from pathlib import Path

from featurestore.core.temporal import FixedClock
from featurestore.online.answering.lookup import OnlineReader
from featurestore.serving_log import ServingLog
from tests.budget import times
from tests.crash.rounds import run_and_kill
from tests.unit.online.stores import T0, MemoryStore, compiled, fold, view_of

ROUNDS = 3
LONGEST_SECONDS = 0.3
SECOND = 1_000_000
DAY = 86_400 * SECOND


def test_a_row_is_neither_lost_nor_doubled_by_who_dies_while_sealing(tmp_path):
    chance = random.Random(3)
    flushed = 0
    for _ in range(times(ROUNDS)):
        delay = chance.random() * LONGEST_SECONDS
        said = run_and_kill("tests.crash.test_sealing", [tmp_path / "log", flushed], delay)
        flushed = int(said[-1]) if said else flushed
        # A reader beside it sees each row once, also before anybody has cleared up.
        found = numbers(ServingLog(tmp_path / "log", interval_seconds=0))
        assert found[:flushed] == list(range(flushed))
        assert found == sorted(set(found))
        flushed = len(found)
    log = ServingLog(tmp_path / "log", interval_seconds=0)
    log.seal()
    assert numbers(log) == list(range(flushed))
    assert list((tmp_path / "log" / "segments").glob("*.segment")) == []
    assert flushed > 0


def numbers(log):
    """Return the numbers of all answers in the log, ascending."""
    tables = log.read("model", since_us=0, until_us=2**60)
    return sorted(int(name) for table in tables for name in table.column("request_id").to_pylist())


def serve(folder, first):
    """Answer, flush and say so; seal after every third answer, on the next day."""
    clock = FixedClock(T0 + 5 * SECOND)
    view = view_of([("a", 1, 1, 0.5, "x")])
    store = MemoryStore()
    fold(view, store, 5)
    reader = OnlineReader(compiled(view), store, clock)
    log = ServingLog(folder, clock=clock, interval_seconds=0)
    answers = [reader.get([{"user": "a"}], request_id=str(number)) for number in range(first, first + 500)]
    print("go", flush=True)
    for number, answer in zip(count(first), answers):
        log.append(reader.plan, answer)
        log.flush()
        print(number + 1, flush=True)
        if number % 3 == 2:
            clock.instant_us += DAY
            log.seal()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
