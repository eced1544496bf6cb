"""Many who push and read at once, and some who are killed: every acknowledged event counts once, on every store."""

import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import Entity, FeatureService, FeatureView, FileSource, agg, col
from tests.stores import OTHERS, local_store

USERS = ("a", "b", "c")
BATCHES, AT_ONCE = 12, 4
ROOT = Path(__file__).parents[2]


def service(folder):
    payments = FileSource(
        "payments",
        path=folder / "payments/*.parquet",
        event_time="paid",
        event_id="id",
        stream=True,
        dtypes={"id": "string", "user": "string", "paid": "timestamp", "amount": "int64"},
    )
    user = Entity("user", key="user")
    spend = FeatureView(
        "spend",
        entity=user,
        source=payments,
        features={"number": agg.count().lifetime(), "total": agg.sum(col("amount")).lifetime()},
    )
    newest = FeatureView("newest", entity=user, source=payments, features={"last": agg.last(col("amount"))})
    return FeatureService("model", features=[spend, newest])


def opened(folder, online):
    return local_store(folder / "store", online=online)


@pytest.fixture(params=["sqlite", *OTHERS])
def world(tmp_path, request, online_urls_of):
    """A folder and the URL of an online store, applied and materialized."""
    online = None if request.param == "sqlite" else online_urls_of(request.param)
    with opened(tmp_path, online) as store:
        store.apply(service(tmp_path))
        store.materialize()
    return tmp_path, online


def events_of(name, batch):
    """Return the payments of one batch; pushed again they are the same."""
    chance = random.Random(f"{name}{batch}")
    paid = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randrange(100))
    return [
        {"id": f"{name}-{batch}-{i}", "user": chance.choice(USERS), "paid": paid, "amount": chance.randrange(-9, 99)}
        for i in range(AT_ONCE)
    ]


def push_all(folder, online, name):
    with opened(folder, online) as store:
        for batch in range(BATCHES):
            store.push("payments", events_of(name, batch))


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


def check_all_counted(folder, online, events):
    """Both roads have each of the events once."""
    expected = Counter(event["user"] for event in events)
    totals = {user: sum(event["amount"] for event in events if event["user"] == user) for user in USERS}
    with opened(folder, online) as store:
        store.catch_up()
        answer = store.get_online_features("model", [{"user": user} for user in USERS])
        spine = pa.table(
            {
                "user": list(USERS),
                "as_of": pa.array([answer.as_of_us] * len(USERS), pa.int64()).cast(pa.timestamp("us", tz="UTC")),
            }
        )
        built = store.training_set("model", spine, folder / "training", statuses=True).to_arrow()
    for place, name in enumerate(answer.columns):
        values = [row[place] for row in answer.rows], [row[place] for row in answer.statuses]
        assert values == (built.column(name).to_pylist(), built.column(f"{name}__status").to_pylist()), name
    assert built.column("spend__number").to_pylist() == [expected[user] for user in USERS]
    assert built.column("spend__total").to_pylist() == [totals[user] for user in USERS]


def test_who_pushes_and_reads_at_once_loses_nothing(world):
    """Each with connections of its own; readers never see a payment vanish."""
    folder, online = world
    names = ["x", "y", "z"]
    has_ended = threading.Event()
    with ThreadPoolExecutor(len(names) + 2) as pool:
        readers = [pool.submit(read_until, folder, online, has_ended) for _ in range(2)]
        try:
            for done in [pool.submit(push_all, folder, online, name) for name in names]:
                done.result()
        finally:
            has_ended.set()
        for reader in readers:
            for counts in zip(*reader.result(), strict=True):
                assert list(counts) == sorted(counts)
    check_all_counted(folder, online, [event for name in names for b in range(BATCHES) for event in events_of(name, b)])


PUSHER = """
import sys
from pathlib import Path
from tests.simulation.test_concurrency import events_of, opened
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
