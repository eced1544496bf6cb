"""Whoever fills, switches or removes is killed at any point: every lookup still equals the training set's value."""

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore
from featurestore.core.temporal import FixedClock, to_datetime
from tests.assertions import bits
from tests.budget import times
from tests.crash import refreshing
from tests.crash.refreshing import HOUR, T0, USERS

ROUNDS = 4
LONGEST_SECONDS = 1.5
"""About how long the work takes that is killed."""


def truth(folder, where, version, as_of_us):
    """Return what a version's training set says of all users, by view."""
    spine = pa.table({"user": USERS, "as_of": refreshing.instants([as_of_us] * len(USERS))})
    with FeatureStore.local(where, clock=FixedClock(as_of_us)) as store:
        store.apply(refreshing.service(folder, version))
        built = pq.read_table(store.training_set("model", spine, where / "training", overwrite=True).path)
        fingerprint = store.plan("model").fingerprint
    return fingerprint, {view: rows_of(built, view) for view in ("recent", "ever")}


def rows_of(table, view):
    columns = sorted(name for name in table.column_names if name.startswith(f"{view}__"))
    return [[bits(value) for value in row.values()] for row in table.select(columns).to_pylist()]


def served(folder, now_us):
    """Return the fingerprint that answers, up to when all its views are complete, and the answers then, by view."""
    with FeatureStore.local(folder / "store", clock=FixedClock(now_us)) as store:
        entities = [{"user": user} for user in USERS]
        answer = store.get_online_features("model", entities)
        as_of_us = min(view.watermark_us for view in answer.views.values())
        answer = store.get_online_features("model", entities, as_of=to_datetime(as_of_us))
    table = pa.table({name: [row[i] for row in answer.rows] for i, name in enumerate(answer.columns)})
    return answer.fingerprint, as_of_us, {view: rows_of(table, view) for view in ("recent", "ever")}


def killed(folder, version, now_us, keep, delay):
    """Begin the work in a process of its own, and kill it; return whether it had ended before."""
    arguments = [str(folder), str(version), str(now_us), str(keep)]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.crash.refreshing", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout.readline() == "go\n"
        time.sleep(delay)
        has_ended = process.poll() is not None
        process.kill()
    return has_ended


def states(folder):
    with closing(sqlite3.connect(folder / "store" / "online.db")) as connection:
        return connection.execute("SELECT count(*) FROM online_state").fetchone()[0]


@pytest.fixture(scope="module")
def history():
    """What is compared in the end: how many rounds were killed before they ended."""
    return []


@pytest.mark.parametrize("number", range(times(ROUNDS)))
def test_a_killed_refresh_never_shows(number, tmp_path, history):
    chance = random.Random(number)
    before_us, now_us = T0 + 5 * HOUR, T0 + 8 * HOUR
    for hour in range(5):
        refreshing.write_hour(tmp_path, hour, seed=0)
    refreshing.work(tmp_path, 1, before_us, 1)
    old_print, old_rows = truth(tmp_path, tmp_path / "truth", 1, before_us)
    for hour in range(5, 8):
        refreshing.write_hour(tmp_path, hour, seed=0)
    if chance.random() < 0.5:
        refreshing.write_hour(tmp_path, chance.randrange(5), seed=number + 1)
    keep = chance.randrange(2)

    history.append(not killed(tmp_path, 2, now_us, keep, chance.random() * LONGEST_SECONDS))

    fingerprint, as_of_us, rows = served(tmp_path, now_us)
    version = 1 if fingerprint == old_print else 2
    expected_print, expected = truth(tmp_path, tmp_path / "truth", version, as_of_us)
    assert fingerprint == expected_print
    for view in ("recent", "ever"):
        # Before the run of a view had seen that a file was rewritten, it answers as it did.
        was_there = version == 1 and as_of_us == before_us and rows[view] == old_rows[view]
        assert was_there or rows[view] == expected[view]

    refreshing.work(tmp_path, 2, now_us, keep)
    new_print, expected = truth(tmp_path, tmp_path / "truth", 2, now_us)
    assert served(tmp_path, now_us) == (new_print, now_us, expected)
    with FeatureStore.local(tmp_path / "store") as store:
        assert {run.outcome for run in store.runs()} <= {"done", "interrupted"}
    of_one_plan = 2 * (1 + len(USERS))
    assert states(tmp_path) in (of_one_plan, (1 + keep) * of_one_plan), "nothing is left of what nobody needs"


def test_most_rounds_were_killed_at_work(history):
    assert not history or sum(history) >= len(history) // 3
