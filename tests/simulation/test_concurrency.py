"""Many who push and read at once, and some who are killed: every acknowledged event counts once, on every store."""

import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.simulation.payments import USERS, changed, check_all_counted, events_of, opened, service
from tests.stores import OTHERS

BATCHES = 12
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", *OTHERS])
def world(tmp_path, request, online_urls_of):
    """A folder and the URL of an online store, applied and materialized."""
    online = None if request.param == "sqlite" else online_urls_of(request.param)
    with opened(tmp_path, online) as store:
        store.apply(service(tmp_path))
        store.materialize()
    return tmp_path, online


def push_all(folder, online, *names):
    """Push everybody's payments through one store, each in a thread: they are committed together."""
    with opened(folder, online) as store, ThreadPoolExecutor(len(names)) as pool:

        def push(name):
            for batch in range(BATCHES):
                assert store.push("payments", events_of(name, batch)).accepted == len(events_of(name, batch))

        list(pool.map(push, names))


def read_until(folder, online, has_ended):
    """Look all users up again and again; return how many payments each had."""
    seen = []
    with opened(folder, online) as store:
        while True:
            is_last = has_ended.is_set()
            answer = store.get_online_features("model", [{"user": user} for user in USERS])
            place = answer.columns.index("spend__number")
            seen.append([row[place] or 0 for row in answer.rows])
            if is_last:
                return seen


def test_who_pushes_and_reads_at_once_loses_nothing(world):
    """Some with connections of their own, some through one store; readers never see a payment vanish.

    What they were told meanwhile is what a training set says of the instants they were told of.
    """
    folder, online = world
    begun = datetime.now(UTC)
    names = ["x", "y", "z", "u", "v"]
    has_ended = threading.Event()
    with ThreadPoolExecutor(len(names)) as pool:
        readers = [pool.submit(read_until, folder, online, has_ended) for _ in range(2)]
        try:
            for done in [pool.submit(push_all, folder, online, *some) for some in (["x"], ["y"], ["z", "u", "v"])]:
                done.result()
        finally:
            has_ended.set()
        for reader in readers:
            for counts in zip(*reader.result(), strict=True):
                assert list(counts) == sorted(counts)
    check_all_counted(folder, online, [event for name in names for b in range(BATCHES) for event in events_of(name, b)])
    with opened(folder, online) as store:
        report = store.audit("model", since=begun, until=datetime.now(UTC) + timedelta(seconds=1))
    assert (report.verdict, report.different) == ("pass", 0)


def test_who_pushes_while_definitions_are_refilled_is_not_held_up(world):
    """Several processes push while changed definitions are filled beside the live ones: no push waits for long.

    A minute is how long a lock is waited for: two processes that wait for each other would take that long.
    """
    folder, online = world
    names = ["x", "y", "z"]
    with opened(folder, online) as store, ThreadPoolExecutor(len(names)) as pool:
        pushes = [pool.submit(push_all, folder, online, name) for name in names]
        for revision in range(4):
            store.apply(changed(folder, revision))
            store.materialize(wait_seconds=30)
        for done in pushes:
            done.result(timeout=50)
        store.apply(service(folder))
        store.materialize(wait_seconds=30)
    check_all_counted(folder, online, [event for name in names for b in range(BATCHES) for event in events_of(name, b)])


PUSHER = """
import sys
from pathlib import Path
from tests.simulation.payments import events_of, opened
folder, online, name, first = sys.argv[1:]
with opened(Path(folder), online or None) as store:
    for batch in range(int(first), 10_000):
        print(batch, flush=True)
        store.push("payments", events_of(name, batch))
"""


def test_who_is_killed_while_pushing_leaves_each_event_once(world):
    """What was acknowledged counts; what was not is pushed again, and counts once whether it had arrived or not."""
    folder, online = world
    if online and online.startswith("memory"):
        pytest.skip("memory ends with its process")
    chance = random.Random(1)
    begun = [0, 0]
    for _ in range(2):
        pushers = [start_pusher(folder, online, name, begun[i]) for i, name in enumerate("xy")]
        for i, pusher in enumerate(pushers):
            for _ in range(chance.randrange(2, 7)):
                begun[i] = int(pusher.stdout.readline())
        for i, pusher in enumerate(pushers):
            pusher.kill()
            pusher.wait()
            lines = pusher.stdout.read().split()
            pusher.stdout.close()
            begun[i] = int(lines[-1]) if lines else begun[i]
    events = []
    with opened(folder, online) as store:
        for i, name in enumerate("xy"):
            store.push("payments", events_of(name, begun[i]))
            events += [event for batch in range(begun[i] + 1) for event in events_of(name, batch)]
    check_all_counted(folder, online, events)


def start_pusher(folder, online, name, first):
    command = [sys.executable, "-c", PUSHER, str(folder), online or "", name, str(first)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
