"""What was served is read back as it was served; what cannot be written waits, is bounded, and is counted."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import pytest

from featurestore import FeatureStore, OnDemandFeatureView, request
from featurestore.core.errors import StorageError
from featurestore.core.statuses import Status
from featurestore.core.temporal import (
    FixedClock,
    duration_us,
    instant_us,
    to_datetime,
)
from featurestore.online.answering.lookup import OnlineReader
from featurestore.serving_log import Caller, ServingLog, log_schema
from featurestore.serving_log.segments import (
    RecordFrame,
    SegmentWriter,
    framed,
    read_segment,
    segments_in,
    unlocked,
)
from tests.unit.online.stores import T0, MemoryStore, compiled, fold, view_of

SECOND = 1_000_000
ALWAYS = {"since_us": 0, "until_us": 2**60}


@pytest.fixture
def clock():
    return FixedClock(T0 + 5 * SECOND)


@pytest.fixture
def reader(clock):
    view = view_of([("a", 1, 1, 0.5, "x"), ("b", 3, 3, None, None)])
    demand = OnDemandFeatureView(
        "demand", request={"extra": "float64"}, features={"more": view["total"] + request("extra")}
    )
    store = MemoryStore()
    fold(view, store, 5)
    return OnlineReader(compiled(view, demand), store, clock)


@pytest.fixture
def log(tmp_path, clock):
    opened = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0)
    yield opened
    opened.close()


def ask(reader, *users, extra=1.0, **options):
    return reader.get([{"user": user} for user in users], request={"extra": extra}, **options)


def serving_process(program, folder):
    """Start a process that serves, and is given the folder of the log."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)


def rows_of(log):
    return [row for table in log.read("model", **ALWAYS) for row in table.to_pylist()]


def test_every_served_row_is_read_back_with_its_question(log, reader, clock):
    answer = ask(reader, "b", "a", "nobody", request_id="r1")
    clock.instant_us += 7
    log.append(reader.plan, answer)
    log.flush()
    (table,) = log.read("model", **ALWAYS)
    assert table.schema.equals(log_schema(reader.plan))
    assert table.column("request_id").to_pylist() == ["r1"] * 3
    assert table.column("row").to_pylist() == [0, 1, 2]
    assert table.column("as_of").to_pylist() == [to_datetime(T0 + 5 * SECOND)] * 3
    assert table.column("logged_at").to_pylist() == [to_datetime(T0 + 5 * SECOND + 7)] * 3
    assert set(table.column("service").to_pylist()) == {"model"}
    assert set(table.column("fingerprint").to_pylist()) == {reader.plan.fingerprint}
    assert table.column("key__user").to_pylist() == ["b", "a", "nobody"]
    assert table.column("request__extra").to_pylist() == [1.0] * 3
    assert table.column("watermark__view").to_pylist() == [to_datetime(T0 + 5 * SECOND)] * 3
    for place, name in enumerate(answer.columns):
        assert table.column(f"value__{name}").to_pylist() == [row[place] for row in answer.rows]
        codes = table.column(f"status__{name}").to_pylist()
        assert [Status(code).name for code in codes] == [row[place] for row in answer.statuses]


def test_rows_are_found_by_the_instant_they_were_asked_about(log, reader):
    for at in (2, 3, 4):
        log.append(reader.plan, ask(reader, "a", as_of=to_datetime(T0 + at * SECOND)))
    log.flush()
    found = log.read("model", since_us=T0 + 3 * SECOND, until_us=T0 + 4 * SECOND)
    assert [table.column("as_of").to_pylist() for table in found] == [[to_datetime(T0 + 3 * SECOND)]]


def test_nothing_is_visible_before_it_is_flushed_and_nothing_of_others(log, reader):
    log.append(reader.plan, ask(reader, "a"))
    assert rows_of(log) == []
    log.flush()
    assert len(rows_of(log)) == 1
    assert list(log.read("other", **ALWAYS)) == []


def test_files_lie_by_service_and_day_and_in_the_order_of_time(log, reader, clock, tmp_path):
    log.append(reader.plan, ask(reader, "a", request_id="first"))
    log.flush()
    clock.instant_us += duration_us("1d")
    log.append(reader.plan, ask(reader, "a", request_id="second"))
    log.seal()
    days = sorted(path.parent.name for path in (tmp_path / "log" / "service=model").glob("*/*.parquet"))
    assert days == ["day=2023-11-14", "day=2023-11-15"]
    assert [row["request_id"] for row in rows_of(log)] == ["first", "second"]


def test_answers_of_two_plans_are_kept_apart(log, reader, clock):
    other_view = view_of([("a", 1, 1, 0.5, "x")])
    store = MemoryStore()
    fold(other_view, store, 5)
    other = OnlineReader(compiled(other_view), store, clock)
    log.append(reader.plan, ask(reader, "a"))
    log.append(other.plan, other.get([{"user": "a"}]))
    log.flush()
    tables = list(log.read("model", **ALWAYS))
    assert {len(table.column_names) for table in tables} == {
        len(log_schema(reader.plan)),
        len(log_schema(other.plan)),
    }


def test_an_answer_without_rows_writes_nothing(log, reader, tmp_path):
    log.append(reader.plan, ask(reader))
    log.flush()
    assert not (tmp_path / "log").exists()


def test_a_thread_writes_what_waits(tmp_path, reader):
    log = ServingLog(tmp_path / "log", interval_seconds=0.01)
    log.append(reader.plan, ask(reader, "a"))
    wait = threading.Event()
    while not rows_of(log):
        wait.wait(0.01)
    log.close()
    assert len(rows_of(log)) == 1


def test_closing_writes_what_is_left(tmp_path, reader):
    log = ServingLog(tmp_path / "log", interval_seconds=60)
    log.append(reader.plan, ask(reader, "a"))
    log.close()
    assert len(rows_of(log)) == 1


def test_many_threads_lose_nothing(tmp_path, reader):
    log = ServingLog(tmp_path / "log", interval_seconds=0.005)

    def serve(name):
        for number in range(20):
            log.append(reader.plan, ask(reader, "a", "b", request_id=f"{name}-{number}"))

    threads = [threading.Thread(target=serve, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    found = {(row["request_id"], row["row"]) for row in rows_of(log)}
    assert found == {(f"{name}-{number}", row) for name in range(4) for number in range(20) for row in range(2)}


def test_what_cannot_be_written_waits_and_is_written_later(tmp_path, reader, clock):
    blocked = tmp_path / "log"
    blocked.write_text("a file where the folder should be")
    log = ServingLog(blocked, clock=clock, interval_seconds=0)
    log.append(reader.plan, ask(reader, "a", request_id="kept"))
    with pytest.raises(StorageError, match="cannot write to"):
        log.flush()
    assert isinstance(log.failure, StorageError)
    log.append(reader.plan, ask(reader, "a", request_id="later"))
    blocked.unlink()
    log.close()
    assert [row["request_id"] for row in rows_of(log)] == ["kept", "later"]
    assert log.failure is None
    assert list(blocked.rglob("*.unfinished")) == []


def test_what_waits_is_bounded_and_losses_are_counted(tmp_path, reader, clock):
    log = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0, most_waiting_rows=3)
    log.append(reader.plan, ask(reader, "a", "b", request_id="taken"))
    log.append(reader.plan, ask(reader, "a", "b", request_id="lost"))
    log.append(reader.plan, ask(reader, "a", request_id="fits"))
    assert log.lost_rows == 2
    log.flush()
    log.append(reader.plan, ask(reader, "a", "b", "a", request_id="room again"))
    log.close()
    assert log.lost_rows == 2
    assert {row["request_id"] for row in rows_of(log)} == {"taken", "fits", "room again"}


def test_a_damaged_file_is_an_error_with_its_name(log, reader, tmp_path):
    log.append(reader.plan, ask(reader, "a"))
    log.seal()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"cannot read .*\.parquet"):
        rows_of(log)


def test_unfinished_files_are_not_read(log, reader, tmp_path):
    log.append(reader.plan, ask(reader, "a"))
    log.seal()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    path.with_name(f".{path.name}.unfinished").write_bytes(b"PAR1")
    assert len(rows_of(log)) == 1


def segments(folder):
    return sorted((folder / "log" / "segments").glob("*.segment"))


def test_a_caller_that_names_its_model_is_found_by_it(log, reader):
    log.append(reader.plan, ask(reader, "a"), Caller("churn", "7"))
    log.append(reader.plan, ask(reader, "a"))
    log.flush()
    assert [(row["model"], row["model_version"]) for row in rows_of(log)] == [("churn", "7"), (None, None)]


def test_sealing_changes_no_row(log, reader, tmp_path):
    for _ in range(3):
        log.append(reader.plan, ask(reader, "a", "b"))
    log.flush()
    before = rows_of(log)
    assert len(before) == 6
    log.seal()
    assert rows_of(log) == before
    assert segments(tmp_path) == []
    log.append(reader.plan, ask(reader, "a"))
    log.flush()
    assert len(rows_of(log)) == 7


def test_a_segment_counts_and_not_the_files_that_a_dying_seal_wrote_of_it(log, reader, tmp_path):
    log.append(reader.plan, ask(reader, "a", "b"))
    log.flush()
    (segment,) = segments(tmp_path)
    kept = segment.read_bytes()
    log.seal()
    segment.write_bytes(kept)
    assert len(rows_of(log)) == 2
    log.seal()
    assert segments(tmp_path) == []
    assert len(rows_of(log)) == 2


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_what_a_crash_cut_off_is_left_out_and_what_is_before_it_is_not(log, reader, tmp_path, cut):
    log.append(reader.plan, ask(reader, "a", request_id="whole"))
    log.flush()
    log.append(reader.plan, ask(reader, "a", request_id="torn"))
    log.flush()
    (segment,) = segments(tmp_path)
    left = segment.with_name(f"0{segment.name}")
    left.write_bytes(segment.read_bytes()[:-cut])
    other = ServingLog(tmp_path / "log", interval_seconds=0)
    log._close_segment()
    segment.unlink()
    assert [row["request_id"] for row in rows_of(other)] == ["whole"]
    other.seal()
    assert [row["request_id"] for row in rows_of(other)] == ["whole"]


def test_the_segment_of_a_living_process_is_left_alone(log, reader, tmp_path):
    log.append(reader.plan, ask(reader, "a"))
    log.flush()
    other = ServingLog(tmp_path / "log", interval_seconds=0)
    other.seal()
    assert len(segments(tmp_path)) == 1
    assert len(rows_of(other)) == 1
    log.append(reader.plan, ask(reader, "a"))
    log.close()
    assert len(rows_of(other)) == 2


def test_a_full_disk_leaves_no_half_record(log, reader, tmp_path, monkeypatch):
    log.append(reader.plan, ask(reader, "a", request_id="first"))
    log.flush()
    log.append(reader.plan, ask(reader, "a", request_id="second"))

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", fail)
        with pytest.raises(StorageError, match="No space left"):
            log.flush()
    (segment,) = segments(tmp_path)
    assert [len(logged.records) for logged in read_segment(segment)[0]] == [1]
    log.flush()
    assert [row["request_id"] for row in rows_of(log)] == ["first", "second"]


def test_losses_are_kept_beside_the_log(tmp_path, reader, clock):
    log = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0, most_waiting_rows=1)
    log.append(reader.plan, ask(reader, "a"))
    log.append(reader.plan, ask(reader, "a", "b"))
    assert log.losses("model", **ALWAYS) == 2
    log.close()
    again = ServingLog(tmp_path / "log", interval_seconds=0)
    now_us = clock.now_us()
    assert again.losses("model", since_us=now_us, until_us=now_us + 1) == 2
    assert again.losses("model", since_us=now_us + 1, until_us=now_us + 2) == 0
    assert again.losses("other", **ALWAYS) == 0


def test_losses_of_which_a_crash_left_half_a_line_count_for_every_service(tmp_path, reader, clock):
    log = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0, most_waiting_rows=1)
    times = []
    for _ in range(3):
        clock.instant_us += 10 * SECOND
        times.append(clock.now_us())
        log.append(reader.plan, ask(reader, "a", "b"))
        log.flush()
    path = tmp_path / "log" / "losses.jsonl"
    first, second, third = path.read_bytes().split()
    path.write_bytes(b"\n" + first + b"\n\n" + second[:20] + b"\n" + third + b"\n")
    assert log.losses("model", **ALWAYS) == 2 + 1 + 2
    assert log.losses("other", **ALWAYS) == 1
    assert log.losses("other", since_us=times[0] + 1, until_us=times[2]) == 1
    assert log.losses("other", since_us=0, until_us=times[0]) == 0
    log.close()


def test_losses_are_told_apart_from_half_a_line_before_them(tmp_path, reader, clock):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "losses.jsonl").write_bytes(b'{"service":"mod')
    log = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0, most_waiting_rows=1)
    log.append(reader.plan, ask(reader, "a", "b"))
    log.close()
    assert log.losses("model", **ALWAYS) == 3


def test_writing_goes_on_while_a_segment_is_sealed(tmp_path, reader, monkeypatch):
    """However long sealing takes, what was taken longer ago than the interval is on the disk."""
    started = []

    class Slow(subprocess.Popen):
        def __init__(self, command, **options):
            started.append(self)
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)

    monkeypatch.setattr("featurestore.serving_log.log.subprocess.Popen", Slow)
    log = ServingLog(tmp_path / "log", interval_seconds=0.1)
    log.append(reader.plan, ask(reader, "a", request_id="before"))
    wait_until(lambda: len(rows_of(log)) == 1)
    (tmp_path / "log" / "segments" / "asked").touch()
    wait_until(lambda: started)
    log.append(reader.plan, ask(reader, "a", request_id="meanwhile"))
    wait_until(lambda: len(rows_of(log)) == 2)
    assert started[0].poll() is None
    assert len(segments(tmp_path)) == 2
    started[0].kill()
    log.close()
    assert [row["request_id"] for row in rows_of(log)] == ["before", "meanwhile"]


def wait_until(is_so):
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_segment_that_was_taken_for_one_left_behind_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    locked, taken = fcntl.flock, []

    def lock(file, kind):
        if kind == fcntl.LOCK_EX and not taken:
            taken.extend(segments_in(tmp_path))
            with unlocked(taken[0]) as is_held:
                assert is_held
                taken[0].unlink()
        locked(file, kind)

    monkeypatch.setattr("featurestore.serving_log.segments.fcntl.flock", lock)
    writer = SegmentWriter(tmp_path, first_us=T0)
    assert len(taken) == 1
    assert writer.path.exists()
    writer.close()


def test_a_share_of_entities_is_logged_always_or_never(tmp_path, reader):
    log = ServingLog(tmp_path / "log", interval_seconds=0, share=0.3)
    users = [f"user{number}" for number in range(200)]
    log.append(reader.plan, ask(reader, *users))
    log.append(reader.plan, ask(reader, *reversed(users)))
    log.close()
    rows = rows_of(log)
    logged = [row["key__user"] for row in rows]
    assert 30 < len(set(logged)) < 90
    assert sorted(logged) == sorted(2 * list(set(logged)))
    assert all(users[row["row"]] == row["key__user"] for row in rows[: len(rows) // 2])


def test_days_beyond_the_retention_are_removed(tmp_path, reader, clock):
    log = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0, retention_days=1)
    for _ in range(3):
        log.append(reader.plan, ask(reader, "a"))
        log.seal()
        clock.instant_us += duration_us("1d")
    clock.instant_us -= duration_us("1d")
    log.prune()
    days = sorted(path.name for path in (tmp_path / "log" / "service=model").iterdir())
    assert days == ["day=2023-11-15", "day=2023-11-16"]


SEGMENT = f"{T0:020d}-1-{'0' * 32}.segment"


def junk_in(folder, outside):
    """Put all kinds of things into the folder of a log that are not its own."""
    segments = folder / "segments"
    old_day = folder / "service=model" / "day=2020-01-01"
    for path in (
        segments / "notes.segment",
        segments / "README",
        folder / "service=model" / "README",
        old_day / "mine",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x00junk")
    (segments / SEGMENT.replace("-1-", "-2-")).mkdir()
    (segments / SEGMENT.replace("-1-", "-3-")).symlink_to(outside / "kept.parquet")
    (segments / SEGMENT.replace("-1-", "-4-")).symlink_to(segments / "nowhere")
    os.mkfifo(segments / SEGMENT.replace("-1-", "-5-"))
    (segments / SEGMENT).write_bytes(framed(RecordFrame(7, "no record")))
    (folder / "service=model" / "day=someday").mkdir()
    (folder / "service=model" / "day=2020-01-02").symlink_to(outside)
    (folder / "service=model" / "day=2020-01-03").write_text("a file")
    (old_day / "x.parquet").mkdir()
    (folder / "service=other").symlink_to(outside)


def test_the_log_survives_whatever_lies_in_its_folder(tmp_path, reader, clock, caplog):
    outside = tmp_path / "outside"
    (outside / "day=2020-01-01").mkdir(parents=True)
    for path in (outside / "kept.parquet", outside / "day=2020-01-01" / "kept.parquet"):
        path.write_bytes(b"kept")
    folder = tmp_path / "log"
    junk_in(folder, outside)
    log = ServingLog(folder, clock=clock, interval_seconds=0.02, retention_days=1)
    log.append(reader.plan, ask(reader, "a"))
    end = time.monotonic() + 30
    while (log.waiting_rows or log.failure is None) and time.monotonic() < end:
        time.sleep(0.01)
    assert log.waiting_rows == 0 and SEGMENT in str(log.failure) and "damaged" in str(log.failure)
    assert log.failure_count == 1
    assert [SEGMENT in record.getMessage() for record in caplog.records] == [True], "it is said once, and at once"
    log.append(reader.plan, ask(reader, "b"))
    log.prune()
    log.close()
    with pytest.raises(StorageError, match=SEGMENT):
        rows_of(log)
    (folder / "segments" / SEGMENT).unlink()
    (folder / "service=model" / "day=2020-01-02").unlink()
    assert [row["key__user"] for row in rows_of(log)] == ["a", "b"]
    for path in (outside / "kept.parquet", outside / "day=2020-01-01" / "kept.parquet"):
        assert path.read_bytes() == b"kept", "links are not followed to remove anything"
    assert (folder / "service=model" / "day=2020-01-01" / "mine").exists()
    assert (folder / "segments" / "notes.segment").exists()


@pytest.mark.parametrize("name", ["segments", "losses.jsonl", "service=model"])
def test_the_thread_goes_on_when_something_is_in_the_way(tmp_path, reader, clock, name):
    folder = tmp_path / "log"
    in_the_way = folder / name
    folder.mkdir()
    in_the_way.mkdir() if name == "losses.jsonl" else in_the_way.write_text("in the way")
    log = ServingLog(folder, clock=clock, interval_seconds=0.02, most_waiting_rows=2)
    for user in "abc":
        log.append(reader.plan, ask(reader, user))
    end = time.monotonic() + 60
    while log.failure is None and time.monotonic() < end:
        time.sleep(0.01)
        clock.instant_us += duration_us("2m")
    assert log.failure is not None and log.failure_count > 0
    in_the_way.rmdir() if name == "losses.jsonl" else in_the_way.unlink()
    while (log.failure is not None or log.waiting_rows) and time.monotonic() < end:
        time.sleep(0.01)
        log.append(reader.plan, ask(reader, "d")) if log.waiting_rows == 0 else None
        clock.instant_us += duration_us("2m")
    assert log.failure is None
    log.close()
    assert {row["key__user"] for row in rows_of(log)} >= {"a", "b"}


def test_a_segment_that_no_process_can_be_started_for_stays_the_writers(tmp_path, reader, clock, monkeypatch):
    log = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0)
    log.append(reader.plan, ask(reader, "a"))
    log.flush()
    clock.instant_us += duration_us("2m")

    def refused(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr("featurestore.serving_log.log.subprocess.Popen", refused)
        with pytest.raises(StorageError, match="Resource temporarily"):
            log._seal_if_due()
    log.append(reader.plan, ask(reader, "b"))
    log.flush()
    assert len(segments_in(tmp_path / "log" / "segments")) == 1
    log.close()
    assert len(rows_of(log)) == 2


def test_closing_seals_all_it_can_and_is_no_error_for_what_others_left(tmp_path, reader, clock):
    folder = tmp_path / "log"
    (folder / "segments").mkdir(parents=True)
    (folder / "segments" / SEGMENT).write_bytes(framed(RecordFrame(7, "no record")))
    log = ServingLog(folder, clock=clock, interval_seconds=0)
    log.append(reader.plan, ask(reader, "a"))
    log.close()
    assert [path.name for path in (folder / "segments").iterdir()] == [SEGMENT]
    with pytest.raises(StorageError, match=SEGMENT):
        log.seal()


def test_an_entity_is_forgotten_in_all_files(log, reader, tmp_path):
    log.append(reader.plan, ask(reader, "a", "b"))
    log.seal()
    log.append(reader.plan, ask(reader, "a"))
    log.flush()
    assert log.forget({"model": [{"user": "a"}]}) == {"model": 2}
    assert [row["key__user"] for row in rows_of(log)] == ["b"]
    assert log.forget({"model": [{"user": "a"}]}) == {}


def test_an_entity_is_forgotten_in_what_another_process_has_not_sealed(tmp_path):
    program = """
import sys, time
from pathlib import Path
from tests.unit.online.test_serving_log import *

clock = FixedClock(T0 + 5 * SECOND)
view = view_of([("a", 1, 1, 0.5, "x")])
store = MemoryStore()
fold(view, store, 5)
reader = OnlineReader(compiled(view), store, clock)
log = ServingLog(Path(sys.argv[1]), clock=clock, interval_seconds=0.05)
log.append(reader.plan, reader.get([{"user": "a"}, {"user": "b"}]))
log.flush()
log.append(reader.plan, reader.get([{"user": "a"}]))
print("served", flush=True)
time.sleep(60)
"""
    with serving_process(program, tmp_path / "log") as process:
        assert process.stdout.readline() == "served\n"
        log = ServingLog(tmp_path / "log", interval_seconds=0.1)
        assert log.forget({"model": [{"user": "a"}]}) == {"model": 2}
        assert [row["key__user"] for row in rows_of(log)] == ["b"]
        assert process.poll() is None
        process.kill()


def test_every_dtype_is_read_back_as_it_was_served(tmp_path, clock):
    from tests.server.conftest import SERVICES

    with FeatureStore.local(tmp_path, clock=FixedClock(instant_us("2024-05-02T00:00:00Z"))) as store:
        store.apply(*SERVICES)
        store.materialize()
        answer = store.get_online_features("all_of_it", [{"user": 1}, {"user": 2}, {"user": 9}], {"budget": 1.5})
        store.parts.serving_log.flush()
        (table,) = store.parts.serving_log.read("all_of_it", **ALWAYS)
    for place, name in enumerate(answer.columns):
        assert table.column(f"value__{name}").to_pylist() == [row[place] for row in answer.rows]


def test_a_killed_process_loses_at_most_the_last_interval(tmp_path):
    """What was answered longer ago than the interval is in the log, whole, once it is opened again."""
    program = """
import sys, time
from pathlib import Path
from tests.unit.online.test_serving_log import *

clock = FixedClock(T0 + 5 * SECOND)
view = view_of([("a", 1, 1, 0.5, "x")])
store = MemoryStore()
fold(view, store, 5)
reader = OnlineReader(compiled(view), store, clock)
log = ServingLog(Path(sys.argv[1]), interval_seconds=0.1)
for number in range(10**9):
    log.append(reader.plan, reader.get([{"user": "a"}], request_id=str(number)))
    print(number, flush=True)
    time.sleep(0.001)
"""
    with serving_process(program, tmp_path / "log") as process:
        for line in process.stdout:
            if int(line) == 200:
                break
        time.sleep(1.0)
        process.kill()
        answered = 1 + int((process.stdout.read().split() or [line])[-1])
    log = ServingLog(tmp_path / "log", interval_seconds=0)
    log.seal()
    found = [int(row["request_id"]) for row in rows_of(log)]
    assert found == list(range(len(found)))
    assert 200 < len(found) <= answered
    assert list((tmp_path / "log" / "segments").iterdir()) == []


def test_a_disk_that_is_full_is_reported_once_and_once_when_it_is_not(tmp_path, reader, caplog):
    """With counts, so that those who read no metrics learn of it at once."""
    log = ServingLog(tmp_path / "log", interval_seconds=0, most_waiting_rows=3)
    (tmp_path / "log").write_text("not a folder")
    for _ in range(2):
        log.append(reader.plan, ask(reader, "a"))
        with pytest.raises(StorageError):
            log.flush()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "1 rows wait" in caplog.text
    for _ in range(3):
        log.append(reader.plan, ask(reader, "a"))
        with pytest.raises(StorageError):
            log.flush()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "rows are being lost" in caplog.text
    (tmp_path / "log").unlink()
    log.flush()
    log.flush()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING"]
    assert "written again; 0 rows wait, 2 were lost" in caplog.text
    log.close()
