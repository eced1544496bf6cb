"""Training sets are there whole or not at all: nothing half-written is left, nothing foreign is replaced."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore.core.errors import SourceDataError, StorageError
from featurestore.offline import writer
from featurestore.offline.dataset import MANIFEST_NAME, TrainingSet
from tests.unit.offline.samples import events, spine, store_of, write_events


@pytest.fixture
def store(tmp_path):
    with store_of(tmp_path / "source") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"


def listing(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def build(store, path, **options):
    return store.training_set("model", spine(), path, **options)


def test_a_training_set_is_a_folder_of_parquet_files_and_a_manifest(store, folder):
    built = build(store, folder / "one")
    assert listing(folder) == ["one", f"one/{MANIFEST_NAME}", "one/part-00000.parquet"]
    assert pq.read_table(folder / "one") == built.to_arrow()


def test_missing_folders_above_are_made(store, folder):
    build(store, folder / "a" / "b" / "one").verify()


def test_an_empty_folder_is_taken(store, folder):
    (folder / "one").mkdir()
    build(store, folder / "one").verify()


def test_a_training_set_is_replaced_only_if_that_is_asked_for(store, folder):
    before = build(store, folder / "one").manifest
    with pytest.raises(StorageError, match=r"overwrite=True.*--overwrite") as caught:
        store.training_set("model", spine(7), folder / "one")
    assert caught.value.code == "target-exists"
    assert TrainingSet.open(folder / "one").manifest == before
    built = store.training_set("model", spine(7), folder / "one", overwrite=True)
    assert built.row_count == 12
    assert TrainingSet.open(folder / "one").row_count == 12
    assert listing(folder) == ["one", f"one/{MANIFEST_NAME}", "one/part-00000.parquet"]


def test_what_is_no_training_set_is_not_replaced(store, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(StorageError, match=r"holds no training set") as caught:
        build(store, folder / "mine")
    assert caught.value.code == "target-taken"
    assert (folder / "mine" / "thesis.txt").read_text() == "ten years of work"


def test_a_file_or_a_link_is_not_replaced(store, folder):
    (folder / "file").write_text("x")
    (folder / "link").symlink_to(folder)
    for name in ("file", "link"):
        with pytest.raises(StorageError, match=r"is not a folder"):
            build(store, folder / name)
    with pytest.raises(StorageError, match=r"the folder above is a file"):
        build(store, folder / "file" / "one")
    assert listing(folder) == ["file", "link"]


def test_a_folder_that_may_not_be_written_is_named_before_any_work(store, folder, monkeypatch):
    if os.geteuid() == 0:
        # Nothing is forbidden to root, so the disk refuses as it would refuse others.
        def forbidden(target):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(writer, "_temporary_folder", forbidden)
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(StorageError, match=r"may not be written to(?s:.*)change its permissions"):
        build(store, folder / "one")
    folder.chmod(stat.S_IRWXU)
    assert listing(folder) == []


STEPS = {
    "writing a file": (writer, "_write_file"),
    "bringing a file to the disk": (os, "fsync"),
    "profiling": (writer, "profile_columns"),
    "writing the manifest": (writer, "_write_durably"),
    "renaming": (writer, "_put_in_place"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failure_in_the_middle_leaves_nothing_behind_and_what_was_there_alone(
    step, exists, store, folder, monkeypatch
):
    before = build(store, folder / "one").manifest if exists else None
    there = listing(folder)
    owner, name = STEPS[step]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, full)
        with pytest.raises(StorageError, match=r"the disk is full"):
            store.training_set("model", spine(9), folder / "one", overwrite=True)
    assert listing(folder) == there
    if before is not None:
        left = TrainingSet.open(folder / "one")
        left.verify()
        assert left.manifest == before


def test_an_interruption_leaves_nothing_behind(store, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(store, folder / "one")
    assert listing(folder) == []


def test_a_source_rewritten_meanwhile_leaves_nothing_behind(tmp_path, folder, monkeypatch):
    path = write_events(tmp_path / "source")
    with store_of(tmp_path, path) as store:
        write = writer._write_file

        def rewritten(*given):
            os.utime(path, ns=(1, 1))
            return write(*given)

        monkeypatch.setattr(writer, "_write_file", rewritten)
        with pytest.raises(SourceDataError, match=r"changed while it was read"):
            build(store, folder / "one")
    assert listing(folder) == []


@pytest.mark.parametrize(("number", "code"), [(errno.EIO, "storage"), (errno.EINVAL, "no-exchange")])
def test_a_training_set_that_cannot_be_replaced_in_one_step_stays(store, folder, monkeypatch, number, code):
    before = build(store, folder / "one").manifest

    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writer, "exchange", refused)
    with pytest.raises(StorageError) as caught:
        build(store, folder / "one", overwrite=True)
    assert caught.value.code == code
    assert TrainingSet.open(folder / "one").manifest == before
    assert listing(folder) == ["one", f"one/{MANIFEST_NAME}", "one/part-00000.parquet"]


def test_of_two_builds_of_one_target_the_later_one_is_refused(store, folder, monkeypatch):
    describe = writer._write_durably

    def meanwhile(path, content):
        monkeypatch.setattr(writer, "_write_durably", describe)
        build(store, folder / "one")
        describe(path, content)

    monkeypatch.setattr(writer, "_write_durably", meanwhile)
    with pytest.raises(StorageError) as caught:
        store.training_set("model", spine(7), folder / "one")
    assert caught.value.code == "target-exists"
    assert TrainingSet.open(folder / "one").row_count == 55
    assert listing(folder) == ["one", f"one/{MANIFEST_NAME}", "one/part-00000.parquet"]


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from featurestore.offline import writer
from tests.unit.offline.samples import spine, store_of
name, moment, target = sys.argv[1:]
owner = shutil if name == "rmtree" else writer
work = getattr(owner, name)
def killed(*given, **options):
    is_meant = name != "rmtree" or (Path(given[0]) / "_manifest.json").exists()
    if moment == "after":
        work(*given, **options)
    if is_meant:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*given, **options)
setattr(owner, name, killed)
with store_of(Path(target).parent / "source") as store:
    store.training_set("model", spine(7), target, overwrite=True)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("name", ["_write_file", "_write_durably", "exchange", "rmtree"])
def test_a_kill_leaves_the_old_or_the_new_set_and_the_next_build_removes_the_rest(store, folder, name, moment):
    build(store, folder / "one").verify()
    command = [sys.executable, "-c", KILLED, name, moment, str(folder / "one")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == -9, done.stderr
    left = TrainingSet.open(folder / "one")
    left.verify()
    is_new = name == "rmtree" or (name, moment) == ("exchange", "after")
    assert left.row_count == (12 if is_new else 55)
    shutil.rmtree(folder / "source")
    build(store, folder / "one", overwrite=True).verify()
    assert listing(folder) == ["one", f"one/{MANIFEST_NAME}", "one/part-00000.parquet"]


def test_leftovers_are_told_from_the_folders_of_builds_that_go_on(store, folder):
    names = [".one.0123456789ab.tmp", ".one.backup.tmp", ".one.0123456789ab.tmp.old", ".two.0123456789ab.tmp"]
    for name in (*names, "kept"):
        (folder / name).mkdir()
        (folder / name / "part-00000.parquet").write_text("x")
    (folder / ".one.abcdef012345.tmp").symlink_to(folder / "kept")
    with writer._temporary_folder(folder / "one") as in_use:
        build(store, folder / "one")
        assert in_use.is_dir()
    left = {path.name for path in folder.iterdir()}
    assert left == {*names[1:], "kept", "one", ".one.abcdef012345.tmp"}
    assert (folder / "kept" / "part-00000.parquet").exists()


def test_readers_find_a_training_set_at_every_moment_of_its_replacement(store, folder):
    build(store, folder / "one")
    stop, missing = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                (folder / "one" / MANIFEST_NAME).stat()
            except FileNotFoundError as error:
                missing.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(10):
        build(store, folder / "one", overwrite=True)
    stop.set()
    thread.join()
    assert missing == []


def test_a_training_set_is_its_owners_alone(store, folder):
    before = os.umask(0)
    try:
        build(store, folder / "one")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "one").iterdir()} == {0o600}
    assert stat.S_IMODE((folder / "one").stat().st_mode) == 0o700


def test_many_rows_lie_in_several_files_with_the_same_content(store, folder, monkeypatch):
    whole = build(store, folder / "whole")
    monkeypatch.setattr(writer, "FILE_ROWS", 20)
    monkeypatch.setattr(writer, "_GROUP_ROWS", 7)
    parts = build(store, folder / "parts")
    assert [file.row_count for file in parts.manifest.files] == [20, 20, 15]
    assert [file.size for file in parts.manifest.files] == [
        (folder / "parts" / file.path).stat().st_size for file in parts.manifest.files
    ]
    assert parts.manifest.content_digest == whole.manifest.content_digest
    assert parts.to_arrow().equals(whole.to_arrow())
    assert sum(batch.num_rows for batch in parts.scan(rows=3)) == 55
    parts.verify()


def test_a_spine_answered_in_pieces_gives_the_same_files_and_profile(store, folder, monkeypatch):
    whole = build(store, folder / "whole", statuses=True)

    def in_pieces(plan, row_count, resources):
        yield from ((at, min(13, row_count - at)) for at in range(0, row_count, 13))

    monkeypatch.setattr("featurestore.offline.training_set.in_pieces", in_pieces)
    pieces = build(store, folder / "pieces", statuses=True)
    assert pieces.manifest.content_digest == whole.manifest.content_digest
    assert pieces.manifest.features == whole.manifest.features
    assert pieces.to_arrow().equals(whole.to_arrow())


def test_a_training_set_can_be_moved(store, folder):
    built = build(store, folder / "one")
    shutil.move(folder / "one", folder / "two")
    moved = TrainingSet.open(folder / "two")
    moved.verify()
    assert moved.manifest == built.manifest


def test_other_files_in_the_folder_of_a_training_set_are_no_part_of_it(store, folder):
    built = build(store, folder / "one")
    pq.write_table(pa.table({"x": [1]}), folder / "one" / "part-99999.parquet")
    built.verify()
    assert built.to_arrow().num_rows == events(1).num_rows * 55
