"""Pushing files of events."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from featurestore import FeatureStore, cli
from featurestore.core.errors import RequestError, SourceDataError, SourceMissingError
from tests.unit.pushing.test_push import orders, spending

ROWS = [
    {"user": "a", "amount": 1.5, "at": "2024-05-01T11:00:00Z", "id": 1},
    {"user": "b", "amount": None, "at": "2024-05-01T11:00:00+02:00", "id": 2},
]


@pytest.fixture
def store(tmp_path):
    with FeatureStore.local(tmp_path / "store") as opened:
        opened.apply(spending(orders(tmp_path)))
        yield opened


def written(folder, suffix, rows=ROWS):
    path = folder / f"events{suffix}"
    table = pa.Table.from_pylist(rows)
    match suffix:
        case ".csv":
            pyarrow.csv.write_csv(table, path)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        case ".parquet":
            instants = pa.compute.strptime(
                pa.compute.utf8_slice_codeunits(table["at"], 0, 19), format="%Y-%m-%dT%H:%M:%S", unit="us"
            )
            pq.write_table(table.set_column(2, "at", instants.cast(pa.timestamp("us", "UTC"))), path)
        case _:
            path.write_text("?")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_files_of_every_kind_are_pushed_and_once_however_often(store, tmp_path, suffix):
    path = written(tmp_path, suffix)
    assert [(first, result.accepted) for first, result in store.push_file("orders", path)] == [(0, 2)]
    assert [result.duplicates for _, result in store.push_file("orders", path)] == [2]
    answer = store.get_online_features("model", [{"user": user} for user in "ab"])
    assert [row[answer.columns.index("spending__last")] for row in answer.rows] == [1.5, None]


def test_what_is_wrong_with_a_file_is_said(store, tmp_path):
    with pytest.raises(SourceMissingError, match="the file does not exist"):
        list(store.push_file("orders", tmp_path / "none.csv"))
    with pytest.raises(SourceDataError, match="not that of a known format"):
        list(store.push_file("orders", written(tmp_path, ".doc")))
    with pytest.raises(RequestError, match="accepts pushes"):
        list(store.push_file("nothing", written(tmp_path, ".csv")))
    for name, content in (("a.jsonl", "{}\n{"), ("a.parquet", "?"), ("a.csv", "user,amount\na,much")):
        (tmp_path / name).write_text(content)
        with pytest.raises((SourceDataError, RequestError), match=r"line 2|not valid Parquet|much"):
            list(store.push_file("orders", tmp_path / name))


def test_the_command_takes_good_rows_and_names_the_others_by_their_place_in_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("featurestore.sources.event_files._ROWS_AT_ONCE", 2)
    with FeatureStore.local(tmp_path) as store:
        store.apply(spending(orders(tmp_path)))
    (tmp_path / "featurestore.toml").write_text(
        "".join(f'{name} = "sqlite:///{name}.db"\n' for name in ("registry", "online", "event_log")) + 'data = "."\n'
    )
    rows = [*ROWS, ROWS[0] | {"id": 3}, ROWS[0] | {"id": 4, "amount": "x"}]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--config", str(tmp_path), "push", "orders", str(path), "--partial"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0
    assert out == "3 events accepted, 0 duplicates, 1 rejected\n"
    assert err.startswith("row 3: amount: got str 'x'")
