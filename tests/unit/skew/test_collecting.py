"""Of rows that differ as many are kept as can be explained, from first to last, and every row is counted once."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from featurestore.skew import collecting
from featurestore.skew.collecting import Collected
from tests.unit.skew.test_lots import store as store  # noqa: PLC0414  # a fixture

MOST = 40
OUTPUT = "spending__total"


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(collecting, "MOST_EXPLAINED", MOST)


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


def numbers(table, flags):
    return table.column("row").filter(pa.array(flags)).to_pylist()


def collect(store, users_of_pieces, is_wrong=lambda rows: np.ones(len(rows), dtype=np.bool_)):
    """Collect pieces; return what is kept, and the numbers of rows that are not."""
    collected, left, first = Collected(store.plan("model")), [], 0
    for users in users_of_pieces:
        log = piece(first, users)
        first += len(users)
        left += numbers(log, collected.add(log, {OUTPUT: is_wrong(log.column("row").to_numpy())}))
        dropped = collected.thin()
        if dropped is not None:
            left += numbers(dropped[0], dropped[1][OUTPUT])
    return collected, left


def kept(collected):
    return collected.table().filter(pa.array(collected.flags()[OUTPUT]))


def test_few_rows_are_all_kept(store):
    collected, left = collect(store, [[1, 2, 3]] * 10)
    assert kept(collected).column("row").to_pylist() == list(range(30))
    assert (left, collected.kept_share) == ([], 1.0)


@pytest.mark.parametrize("size", [7, 50, 1_000])
def test_of_many_rows_those_of_some_entities_are_kept_from_first_to_last(store, size):
    users = np.random.default_rng(2).integers(0, 200, 1_000)
    collected, left = collect(store, np.split(users, range(size, 1_000, size)))
    table = kept(collected)
    rows = table.column("row").to_pylist()
    assert MOST / 4 <= len(rows) <= MOST
    assert Counter([*rows, *left]) == Counter(range(1_000)), "every row is kept or left, once"
    chosen = set(table.column("key__user").to_pylist())
    assert rows == np.flatnonzero(np.isin(users, list(chosen))).tolist(), "all rows of an entity, or none"
    assert min(rows) < 250
    assert max(rows) > 750
    assert (collected.suspects, collected.seen) == (len(rows), 1_000)


def test_of_one_entity_rows_from_first_to_last_are_kept(store):
    collected, left = collect(store, [[1] * 100] * 10)
    rows = kept(collected).column("row").to_pylist()
    assert MOST / 4 <= len(rows) <= MOST
    assert (min(rows), max(rows)) == (0, 999)
    assert Counter([*rows, *left]) == Counter(range(1_000))


def test_rows_that_do_not_differ_stay(store):
    collected, _ = collect(store, [list(range(50))] * 20, is_wrong=lambda rows: rows % 5 == 0)
    flags = collected.flags()[OUTPUT]
    assert int((~flags).sum()) == collected.controls > 0
    assert int(flags.sum()) == collected.suspects <= MOST
