"""Every row that differs is kept: some entities' in memory, from first to last, the others' on disk; each once."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from featurestore.core.errors import StorageError
from featurestore.guard.audit import kept_rows
from featurestore.guard.audit.kept_rows import KeptRows
from tests.unit.skew.test_batches import store as store  # noqa: PLC0414  # a fixture

MOST = 40
OUTPUT = "spending__total"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(kept_rows, "MOST_ROWS", MOST)


def piece(first, users):
    """Return a piece of a log: an answer for each of some users, one a second."""
    rows = np.arange(first, first + len(users))
    columns = {
        "key__user": pa.array(users, pa.int64()),
        "row": pa.array(rows),
        "as_of": pa.array(rows * 1_000_000).cast(pa.timestamp("us", "UTC")),
        f"value__{OUTPUT}": pa.array(np.zeros(len(rows))),
        f"status__{OUTPUT}": pa.array(np.zeros(len(rows), np.uint8)),
    }
    return pa.table(columns)


def every(rows):
    return np.ones(len(rows), dtype=np.bool_)


@pytest.fixture
def collect(store):
    """Collects pieces of a log, each given by the users that were asked about."""
    made = []

    def collecting_of(users_of_pieces, *, is_wrong=every, most=None):
        collected, first = KeptRows(store.plan("model"), most), 0
        made.append(collected)
        for users in users_of_pieces:
            log = piece(first, users)
            first += len(users)
            collected.add(log, {OUTPUT: is_wrong(log.column("row").to_numpy())})
        return collected

    yield collecting_of
    for one in made:
        one.close()


def rounds_of(collected):
    """Return the rounds as tables of the rows that differ."""
    return [one.log.filter(pa.array(one.differs[OUTPUT])) for one in collected.rounds()]


def rows_of(tables):
    return [row for table in tables for row in table.column("row").to_pylist()]


def test_few_rows_are_one_round(collect):
    collected = collect([[1, 2, 3]] * 10)
    (one,) = collected.rounds()
    assert one.log.column("row").to_pylist() == list(range(30))
    assert (one.share, collected.to_explain) == (1.0, 30)


@pytest.mark.parametrize("size", [7, 50, 1_000])
def test_of_many_rows_every_one_is_in_one_round_with_its_entity(collect, size):
    users = np.random.default_rng(2).integers(0, 200, 1_000)
    collected = collect(np.split(users, range(size, 1_000, size)))
    assert collected.suspects <= MOST, "no more lie in memory"
    tables = rounds_of(collected)
    assert all(MOST / 4 <= table.num_rows <= MOST for table in tables[:-1])
    assert Counter(rows_of(tables)) == Counter(range(1_000))
    owners = [set(table.column("key__user").to_pylist()) for table in tables]
    assert sum(len(own) for own in owners) == len(set(users)), "all rows of an entity are in one round"
    first = tables[0].column("row").to_pylist()
    assert first == sorted(first)
    assert first[0] < 250
    assert first[-1] > 750


def test_rows_of_one_entity_are_taken_in_parts(collect):
    collected = collect([[1] * 100] * 10)
    tables = rounds_of(collected)
    assert all(table.num_rows <= MOST for table in tables)
    assert Counter(rows_of(tables)) == Counter(range(1_000))
    first = tables[0].column("row").to_pylist()
    assert (min(first), max(first)) == (0, 999), "the first from first to last"


@pytest.mark.parametrize("most", [10, MOST, 100, 333])
def test_who_wants_fewer_gets_that_many_and_the_rest_apart(collect, most):
    users = np.random.default_rng(2).integers(0, 200, 1_000)
    collected = collect(np.split(users, 10), most=most)
    explained = rows_of(rounds_of(collected))
    assert most / 4 <= len(explained) <= most
    rest = [
        row
        for table, flags in collected.rest()
        for row in table.column("row").filter(pa.array(flags[OUTPUT])).to_pylist()
    ]
    assert Counter([*explained, *rest]) == Counter(range(1_000))


def test_rows_that_do_not_differ_are_there_too(collect):
    users = [list(range(50))] * 20
    collected = collect(users, is_wrong=lambda rows: rows % 5 == 0)
    assert collected.controls > 0
    tables = list(collected.rounds())
    assert len(tables) > 3
    assert all((~one.differs[OUTPUT]).any() for one in tables)
    assert Counter(rows_of([one.log.filter(pa.array(one.differs[OUTPUT])) for one in tables])) == Counter(
        range(0, 1_000, 5)
    )
    assert sum(one.share for one in tables) == pytest.approx(1.0)


def test_a_closed_one_leaves_nothing_on_disk(collect, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    collected = collect([list(range(100))] * 3)
    assert list(tmp_path.glob("disk/featurestore-audit-*/rows.arrow"))
    next(collected.rounds())
    collected.close()
    assert list(tmp_path.glob("disk/*")) == []


def test_a_disk_that_refuses_is_told(collect, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_rows.pa.ipc, "new_file", full)
    with pytest.raises(StorageError, match=r"No space left.*TMPDIR"):
        collect([list(range(100))] * 3)
