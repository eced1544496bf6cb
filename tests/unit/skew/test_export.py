"""The file of mismatches holds every value that differs, whether its cause was looked for or not."""

import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import ConfigError, StorageError
from featurestore.core.temporal import to_datetime
from featurestore.guard.audit import kept_rows
from tests.strategies import START_US
from tests.unit.skew.test_batches import HOUR, served_wrong
from tests.unit.skew.test_batches import store as store  # noqa: PLC0414  # a fixture

SPAN = {"since": to_datetime(START_US), "until": to_datetime(START_US + 99 * HOUR)}


def written(store, folder, **options):
    report = store.audit("model", **SPAN, mismatches=folder, **options)
    return report, pq.read_table(folder / "mismatches.parquet").to_pylist()


def test_every_value_is_there_with_its_cause(store, tmp_path):
    served_wrong(store)
    report, rows = written(store, tmp_path / "all")
    assert len(rows) == report.different == 10
    assert {row["entity"] for row in rows} == {f"user={user}" for user in range(0, 30, 3)}
    assert {(row["feature"], row["cause"]) for row in rows} == {("spending__orders", "event_lost")}
    assert all(int(row["reference"]) == int(row["current"]) + 1 for row in rows)
    assert {(row["reference_status"], row["current_status"]) for row in rows} == {("PRESENT", "PRESENT")}


@pytest.mark.parametrize(("name", "value"), [("MOST_ROWS", 4), ("MOST_VALUES", 8)])
def test_what_does_not_fit_into_memory_is_explained_too(store, tmp_path, monkeypatch, name, value):
    served_wrong(store)
    whole, _ = written(store, tmp_path / "whole")
    monkeypatch.setattr(kept_rows, name, value)
    report, rows = written(store, tmp_path / "all")
    assert report.different == report.examined == len(rows) == 10
    assert len({row["entity"] for row in rows}) == 10
    assert {row["cause"] for row in rows} == {"event_lost"}
    assert report.causes == whole.causes
    assert [mismatch.cause for mismatch in report.worst] == [mismatch.cause for mismatch in whole.worst]


def test_who_wants_fewer_explained_finds_the_others_without_a_cause(store, tmp_path):
    served_wrong(store)
    report, rows = written(store, tmp_path / "all", explain_rows=4)
    assert report.different == len(rows) == 10
    assert 0 < report.examined <= 4
    assert sum(row["cause"] != "" for row in rows) == report.examined
    assert len({row["entity"] for row in rows}) == 10


def test_an_audit_that_only_counts_writes_them_too(store, tmp_path):
    served_wrong(store)
    report, rows = written(store, tmp_path / "all", causes=False)
    assert (report.findings, report.examined, len(rows)) == ((), 0, 10)
    assert {row["cause"] for row in rows} == {""}


def test_a_folder_that_cannot_be_is_named(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"mismatches\.parquet"):
        store.audit("model", **SPAN, mismatches=tmp_path / "file")


def test_no_rows_cannot_be_explained(store):
    with pytest.raises(ConfigError, match="causes=False"):
        store.audit("model", **SPAN, explain_rows=0)
