"""Files and folders: rights, steps that are whole or nothing, and addresses that are not paths."""

import os
import sqlite3
import stat
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from featurestore import FeatureService, FeatureStore, FeatureView, FileSource, agg
from featurestore.cli.common import write_file
from featurestore.core.errors import FeatureStoreError
from featurestore.core.temporal import FixedClock, instant_us
from featurestore.guard.audit.export import MismatchFile
from featurestore.offline.writer import check_target
from featurestore.online.pushing.dead_letters import DeadLetter, append_letters, remove_letters
from featurestore.online.stores.opening import open_online_store
from featurestore.storage.database import open_database
from featurestore.storage.files import exchange, local_path, make_file, make_folder, opener
from featurestore.storage.parquet import write_parquet
from tests.server.conftest import NOW, USER

LETTER = DeadLetter("topic", 0, 0, None, "", "no event", "")
WRITERS = {
    "training set": lambda path: check_target(path, overwrite=False),
    "mismatches": lambda path: MismatchFile(Path(path)),
    "dead letters": lambda path: append_letters(Path(path), [LETTER]),
    "report": lambda path: write_file(Path(path), "text"),
    "database": lambda path: open_database(f"sqlite:///{path}", where="registry"),
    "online store": lambda path: open_online_store(f"sqlite:///{path}").read([b"key"]),
}


@pytest.mark.parametrize("address", ["s3://bucket/one", "gs://b/c", "abfss://c@a.dfs.core.windows.net/x", "hdfs://h/x"])
@pytest.mark.parametrize("what", WRITERS)
def test_an_address_is_never_taken_for_a_path(what, address, tmp_path, monkeypatch):
    """Taken for a path it would make a folder named after the scheme, which ends with the machine."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FeatureStoreError, match="is not a path on this machine"):
        WRITERS[what](address)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["one/two", "/one/two", "a:b", "C:/one", "one/s3:/two", "./s3x", "s3", "~/one"])
def test_other_paths_stay_what_they_are(path):
    assert local_path(path) == Path(path)
    assert local_path(Path(path)) == Path(path)


@pytest.fixture(params=[0, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_whole_store_is_its_owners_alone(tmp_path, umask):
    folder = tmp_path / "deep" / "store"
    dtypes = {"user": "int64", "at": "timestamp"}
    source = FileSource("orders", path="orders/*.parquet", event_time="at", stream=True, dtypes=dtypes)
    view = FeatureView("spending", entity=USER, source=source, features={"n": agg.count().lifetime()})
    with FeatureStore.local(folder, clock=FixedClock(instant_us(NOW))) as store:
        store.apply(FeatureService("model", features=[view]))
        store.push("orders", [{"user": 1, "at": "2024-06-01T00:00:00Z"}])
        store.materialize()
        store.get_online_features("model", [{"user": 1}])
        store.api_keys.create("key", ["read"], now_us=0)
        store.parts.serving_log.flush()
        during = list(folder.rglob("*"))
        store.compact()
    append_letters(folder / "dead_letters" / "orders.jsonl", [DeadLetter("t", 0, 0, None, "", "", "")])
    remove_letters(folder / "dead_letters" / "orders.jsonl", lambda _: True)
    found = {path for path in (folder.parent, folder, *during, *folder.rglob("*")) if path.exists()}
    assert any(path.suffix == ".db-wal" for path in during) and any(path.suffix == ".segment" for path in during)
    assert {".db", ".parquet", ".jsonl"} <= {path.suffix for path in found}
    for path in found:
        assert rights(path) == (0o700 if path.is_dir() else 0o600), path


def test_what_is_there_keeps_its_rights(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    file = folder / "registry.db"
    file.touch()
    file.chmod(0o640)
    make_folder(folder)
    make_file(file)
    with open(file, "ab", opener=opener):
        pass
    assert (rights(folder), rights(file)) == (0o755, 0o640)


def test_in_a_folder_shared_by_a_group_the_group_has_its_rights(tmp_path):
    before = os.umask(0o007)
    try:
        folder = tmp_path / "shared"
        folder.mkdir()
        folder.chmod(0o2775)
        write_parquet(pa.table({"x": [1]}), folder / "below" / "part.parquet")
        make_file(folder / "registry.db")
    finally:
        os.umask(before)
    assert rights(folder / "below") & 0o777 == 0o770
    assert rights(folder / "below" / "part.parquet") == rights(folder / "registry.db") == 0o660


def test_making_a_file_takes_no_lock_from_a_database(tmp_path):
    """Closing a file gives up all locks that the process holds on it."""
    path = tmp_path / "some.db"
    make_file(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    connection.execute("BEGIN EXCLUSIVE")
    make_file(path)
    other = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    assert os.spawnlp(os.P_WAIT, "python3", "python3", "-c", other) != 0
    connection.close()


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file")


def test_several_threads_make_one_folder(tmp_path):
    folder, failures = tmp_path / "a" / "b" / "c", []

    def make():
        try:
            make_folder(folder)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folder.is_dir() and failures == []


def test_two_folders_change_places(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "first", tmp_path / "second")
    assert (tmp_path / "first" / "second").exists() and (tmp_path / "second" / "first").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "first", tmp_path / "missing")
