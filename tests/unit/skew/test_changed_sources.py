"""What runs took down tells rows that only came later from rows that were changed or are gone."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore import every
from featurestore.core.temporal import format_instant
from featurestore.guard.audit.changed_sources import source_comparer
from featurestore.sources.content import row_hashes
from tests.budget import examples
from tests.unit.skew.world import INSTANT, SERVICE, USERS, SmallWorld, at, payments

LATE = [{"user": f"u{number}", "at": at(40 + number), "amount": 5.0 + number} for number in range(5)]


@pytest.fixture
def world(tmp_path):
    made = SmallWorld(tmp_path)
    made.write(payments(200, seed=1))
    made.open()
    made.run(48, ended=48.5)
    yield made
    made.store.close()


def change_of(world):
    compare = source_comparer(world.store.parts.catalog.sources, world.store.parts.registry, world.store.parts.settings)
    return compare(world.store.plan(SERVICE).uses[0].view)


def hashes_of(rows):
    table = pa.table(
        {
            "user": [row["user"] for row in rows],
            "at": pa.array([row["at"] for row in rows], pa.int64()).cast(INSTANT),
            "amount": [row["amount"] for row in rows],
        }
    )
    return sorted(row_hashes(table).tolist())


def came(change):
    return [(one.read_until_us, one.seen_at_us, sorted(one.hashes.tolist())) for one in change.late_rows]


def test_a_source_that_says_what_it_said_has_no_change(world):
    world.write([{"user": "u1", "at": at(50), "amount": 1.0}], "1.parquet")
    assert change_of(world) is None


@pytest.mark.parametrize("is_appended", [False, True])
def test_rows_that_only_came_are_told_one_by_one(world, is_appended):
    world.write([*payments(200, seed=1), *LATE] if is_appended else LATE, "0.parquet" if is_appended else "1.parquet")
    change = change_of(world)
    assert came(change) == [(at(48), None, hashes_of(LATE))]
    assert (change.is_rewritten, change.was_rewritten, change.grown_until_us) == (False, False, None)


def test_rows_that_came_are_dated_by_the_runs_around_them(world):
    world.write(LATE[:2], "1.parquet")
    world.run(50, ended=50.5)
    world.write(LATE[2:], "2.parquet")
    world.run(52, ended=52.5)
    change = change_of(world)
    assert came(change) == [(at(48), at(50.5), hashes_of(LATE[:2])), (at(50), at(52.5), hashes_of(LATE[2:]))]
    assert change.descriptions[-1] == (
        f"3 events were not in the source when the run up to {format_instant(at(50))} read it;"
        f" the run that ended at {format_instant(at(52.5))} read them"
    )


def test_rows_that_were_changed_are_no_rows_that_came(world):
    rows = payments(200, seed=1)
    world.write([rows[0] | {"amount": 0.5}, *rows[1:]])
    change = change_of(world)
    assert (change.is_rewritten, change.late_rows, change.grown_until_us) == (True, (), None)


def test_rows_that_are_gone_are_told_after_the_next_run_as_well(world):
    world.write(payments(200, seed=1)[1:])
    assert change_of(world).is_rewritten
    world.run(49)
    change = change_of(world)
    assert (change.is_rewritten, change.was_rewritten) == (False, True)
    assert change.descriptions == (
        f"the run up to {format_instant(at(48))} read 200 events; below that the source has 199 now",
    )


def test_where_files_were_put_in_another_order_it_is_not_claimed_which_rows_came(world):
    rows = sorted([*payments(200, seed=1), *LATE], key=lambda row: row["at"])
    world.write(rows)
    change = change_of(world)
    assert (change.late_rows, change.grown_until_us) == ((), at(48))


@given(st.data())
@examples(25)
def test_every_row_is_dated_right_whatever_came_when(tmp_path_factory, data):
    """Files come in any order and late; runs lie in between."""
    world = SmallWorld(tmp_path_factory.mktemp("world"))
    world.write(payments(20, seed=3))
    world.open()
    expected = {}
    ended = 0.0
    waiting = []
    for number in range(data.draw(st.integers(1, 4))):
        until = 10 * (number + 1)
        world.run(until, ended=until + 0.5)
        ended = until + 0.5
        for one in waiting:
            expected[one][1] = at(ended)
        waiting = []
        for place in range(data.draw(st.integers(0, 3))):
            hour = data.draw(st.integers(0, 47))
            row = {"user": f"u{place % USERS}", "at": at(hour + number / 60), "amount": float(100 * number + place)}
            world.write([row], f"{data.draw(st.integers(0, 9))}-{number}-{place}.parquet")
            if row["at"] < at(until):
                (key,) = hashes_of([row])
                expected[key] = [at(until), None]
                waiting.append(key)
    change = change_of(world)
    found = {
        int(key): [one.read_until_us, one.seen_at_us]
        for one in (change.late_rows if change else ())
        for key in one.hashes
    }
    assert found == expected
    assert change is None or not (change.is_rewritten or change.was_rewritten)
    world.store.close()


@pytest.mark.parametrize("refresh", [None, every("1h")])
@pytest.mark.parametrize("is_read_since", [False, True])
def test_answers_that_late_rows_are_missing_in_are_called_late(tmp_path, refresh, is_read_since):
    world = SmallWorld(tmp_path, refresh=refresh)
    world.write(payments(200, seed=1))
    world.open()
    world.run(48)
    for number in range(60):
        world.ask(46 + number / 60, f"u{number % USERS}")
    world.write(LATE, "1.parquet")
    if is_read_since:
        world.run(49)
    (finding,) = world.audit().findings
    assert (finding.cause, finding.share, finding.is_proven) == ("late_event", 1.0, True)
    assert finding.said.startswith("5 events of payments came later than they say")
    assert "ingest_time='…'" in finding.fix
    assert "lag='…'" in finding.fix
    assert {event.values["amount"] for example in finding.examples for event in example.events} <= {
        str(row["amount"]) for row in LATE
    }
    world.store.close()


def test_rows_that_say_the_same_as_older_ones_came_as_often_as_they_came(world):
    again = [row for row in payments(200, seed=1) if at(42) <= row["at"] < at(46)][:3]
    for number in range(40):
        world.ask(47 + number / 60, f"u{number % USERS}")
    world.write(again, "1.parquet")
    (finding,) = world.audit().findings
    assert (finding.cause, finding.share) == ("late_event", 1.0)


def test_what_nothing_explains_stays_unexplained_beside_a_rewritten_source(world, tmp_path):
    """In findings, in Parquet and in the worst rows alike; the rewritten source is evidence."""
    for number in range(120):
        answer = world.ask(33 + number / 20, f"u{number % USERS}")
        if number % USERS == 5:
            place = answer.columns.index("spend__total")
            rows = [
                [
                    value and value * (1 + number % 7 / 100) + number if i == place else value
                    for i, value in enumerate(answer.rows[0])
                ]
            ]
            world.log(answer, number, rows=rows)
    world.write([row | ({"amount": row["amount"] + 1} if row["user"] == "u0" else {}) for row in payments(200, seed=1)])
    report = world.audit(mismatches=tmp_path / "mismatches")
    causes = {finding.cause: finding.values for finding in report.findings}
    assert causes.keys() == {"source_rewritten", "unexplained"}
    left = report.findings[[finding.cause for finding in report.findings].index("unexplained")]
    assert not left.is_proven
    assert any("no longer holds all that was read" in line for line in left.evidence)
    written = pq.read_table(tmp_path / "mismatches").column("cause").to_pylist()
    assert {cause: written.count(cause) for cause in set(written)} == causes
    assert np.isin([one.cause for one in report.worst], list(causes)).all()


def test_an_audit_of_entities_that_are_gone_from_the_source_ends(tmp_path):
    """Their rows were erased and the state was built anew: nothing is left to search."""
    world = SmallWorld(tmp_path)
    world.write(payments(200, seed=1))
    world.open()
    world.run(48)
    for number in range(30):
        world.ask(30 + number / 10, "u3")
    world.write([row for row in payments(200, seed=1) if row["user"] != "u3"])
    world.store.materialize(full=True)
    report = world.audit()
    assert report.verdict == "fail"
    assert report.examined == report.different
    world.store.close()


@pytest.mark.parametrize("refresh", [None, every("1h")])
def test_answers_of_the_run_that_read_late_rows_are_right_and_stay_so(tmp_path, refresh):
    world = SmallWorld(tmp_path, refresh=refresh)
    world.write(payments(200, seed=1))
    world.open()
    world.run(48, ended=48)
    for number in range(40):
        world.ask(48 + number / 60, f"u{number % USERS}")
    world.write(LATE, "1.parquet")
    world.run(49, ended=49)
    for number in range(40):
        world.ask(49 + number / 60, f"u{number % USERS}")
    report = world.audit(mismatches=tmp_path / "mismatches")
    (finding,) = report.findings
    assert (finding.cause, finding.share) == ("late_event", 1.0)
    instants = pq.read_table(tmp_path / "mismatches").column("as_of").cast(pa.int64()).to_pylist()
    assert max(instants) < at(49)
    world.store.close()
