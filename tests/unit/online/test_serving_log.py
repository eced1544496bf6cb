"""What was served is read back as it was served; what cannot be written waits, is bounded, and is counted."""

import threading

import pytest

from featurestore import OnDemandFeatureView, request
from featurestore.errors import StorageError
from featurestore.kernels.events import Status
from featurestore.online.lookup import OnlineReader
from featurestore.online.serving_log import ServingLog, log_schema
from featurestore.temporal import FixedClock, duration_us, to_datetime
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
    log.flush()
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
    log.flush()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"cannot read .*\.parquet"):
        rows_of(log)


def test_unfinished_files_are_not_read(log, reader, tmp_path):
    log.append(reader.plan, ask(reader, "a"))
    log.flush()
    (path,) = (tmp_path / "log").rglob("*.parquet")
    path.with_name(f".{path.name}.unfinished").write_bytes(b"PAR1")
    assert len(rows_of(log)) == 1
