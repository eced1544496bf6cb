"""Small files of past days become one for each plan; every row is read once at any point of that."""

import json
import time

import pytest

from featurestore import agg, col
from featurestore.core.temporal import FixedClock, duration_us
from featurestore.online.answering.lookup import OnlineReader
from featurestore.serving_log import ServingLog
from featurestore.serving_log.merging import (
    KEEP_REPLACED_US,
    has_work,
    maintenance,
    merge,
)
from tests.unit.online.stores import T0, MemoryStore, compiled, fold, view_of

DAY = duration_us("1d")
ALWAYS = {"since_us": 0, "until_us": 2**60}


@pytest.fixture
def clock():
    return FixedClock(T0)


@pytest.fixture
def reader(clock):
    view = view_of([("a", 1, 1, 0.5, "x"), ("b", 3, 3, None, None)])
    store = MemoryStore()
    fold(view, store, 5)
    return OnlineReader(compiled(view), store, clock)


@pytest.fixture
def log(tmp_path, clock):
    opened = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0)
    yield opened
    opened.close()


def serve(log, reader, clock, times, *, each="3h", as_of=None):
    """Serve some rows, each sealed into a file of its own; return their requests' ids."""
    ids = []
    for _ in range(times):
        answer = reader.get([{"user": "a"}, {"user": "b"}], as_of=as_of)
        ids += [answer.request_id] * 2
        log.append(reader.plan, answer)
        log.seal()
        clock.instant_us += duration_us(each)
    return ids


def ids_in(log, **options):
    return [row["request_id"] for table in log.read("model", **(ALWAYS | options)) for row in table.to_pylist()]


def files(tmp_path):
    return sorted((tmp_path / "log" / "service=model").glob("day=*/*.parquet"))


def test_past_days_have_one_file_and_the_rows_and_their_order_stay(log, reader, clock, tmp_path):
    served = serve(log, reader, clock, 24)
    assert len(files(tmp_path)) == 24
    before = list(log.read("model", **ALWAYS))
    assert merge(tmp_path / "log", clock) > 8
    assert ids_in(log) == served
    after = list(log.read("model", **ALWAYS))
    assert len(after) < len(before) / 2
    assert log.count("model", **ALWAYS) == 48
    clock.instant_us += KEEP_REPLACED_US
    merge(tmp_path / "log", clock)
    assert ids_in(log) == served
    assert len(files(tmp_path)) < 12
    clock.instant_us += KEEP_REPLACED_US
    merge(tmp_path / "log", clock)
    days = [path.parent for path in files(tmp_path)]
    assert sorted(days) == sorted(set(days)), "one file a day"
    assert not has_work(tmp_path / "log", clock.now_us())


def test_the_present_day_is_left_alone(log, reader, clock, tmp_path):
    serve(log, reader, clock, 4, each="1m")
    assert not has_work(tmp_path / "log", clock.now_us())
    assert merge(tmp_path / "log", clock) == 0
    assert len(files(tmp_path)) == 4


def test_plans_with_other_columns_are_merged_by_themselves(log, reader, clock, tmp_path):
    view = view_of([("a", 1, 1, 0.5, "x")], features={"most": agg.max(col("x")).lifetime()})
    store = MemoryStore()
    fold(view, store, 5)
    other = OnlineReader(compiled(view), store, clock)
    served = []
    for _ in range(3):
        served += serve(log, reader, clock, 1, each="1m") + serve(log, other, clock, 1, each="1m")
    clock.instant_us += 2 * DAY
    assert merge(tmp_path / "log", clock) == 6
    assert sorted(ids_in(log)) == sorted(served)
    assert len(list(log.read("model", **ALWAYS))) == 2


@pytest.mark.parametrize("step", ["before the name", "before deleting", "amid deleting", "torn record"])
def test_a_merge_that_dies_at_any_point_neither_doubles_nor_loses_a_row(log, reader, clock, tmp_path, step):
    served = serve(log, reader, clock, 5, each="1m")
    originals = {path: path.read_bytes() for path in files(tmp_path)}
    clock.instant_us += 2 * DAY
    merge(tmp_path / "log", clock)
    (merged,) = set(files(tmp_path)) - set(originals)
    record = merged.with_suffix(".json")
    match step:
        case "before the name":
            merged.unlink()
        case "torn record":
            merged.unlink()
            record.write_bytes(record.read_bytes()[:20])
        case "amid deleting":
            for path in list(originals)[:2]:
                path.unlink()
        case "before deleting":
            pass
    assert ids_in(log) == served
    for _ in range(3):
        merge(tmp_path / "log", clock)
        assert ids_in(log) == served
        clock.instant_us += KEEP_REPLACED_US
    assert len(files(tmp_path)) == 1
    assert not has_work(tmp_path / "log", clock.now_us())


def test_segments_that_are_sealed_late_join_the_merged_file(log, reader, clock, tmp_path):
    served = serve(log, reader, clock, 3, each="1m")
    merged_at = clock.instant_us + 2 * DAY
    merge(tmp_path / "log", FixedClock(merged_at))
    served += serve(log, reader, clock, 1, each="1m")
    merge(tmp_path / "log", FixedClock(merged_at + 2 * DAY))
    merge(tmp_path / "log", FixedClock(merged_at + 4 * DAY))
    assert ids_in(log) == served
    assert len(files(tmp_path)) == 1


def test_what_is_forgotten_is_forgotten_in_merged_and_replaced_files(log, reader, clock, tmp_path):
    serve(log, reader, clock, 5, each="1m")
    clock.instant_us += 2 * DAY
    merge(tmp_path / "log", clock)
    log.forget({"model": [{"user": "a"}]})
    assert [row["key__user"] for table in log.read("model", **ALWAYS) for row in table.to_pylist()] == ["b"] * 5
    for path in files(tmp_path):
        path.unlink() if "-merged-" in path.name else None
    assert [row["key__user"] for table in log.read("model", **ALWAYS) for row in table.to_pylist()] == ["b"] * 5


def test_nothing_is_merged_while_another_process_works_on_past_days(log, reader, clock, tmp_path):
    serve(log, reader, clock, 5, each="1m")
    clock.instant_us += 2 * DAY
    with maintenance(tmp_path / "log", wait=False) as is_held:
        assert is_held
        assert merge(tmp_path / "log", clock) == 0
    assert merge(tmp_path / "log", clock) == 5


def test_days_before_the_first_instant_are_not_opened(log, reader, clock, tmp_path):
    serve(log, reader, clock, 2)
    for path in files(tmp_path):
        path.write_bytes(b"damaged")
    clock.instant_us = T0 + 3 * DAY
    served = serve(log, reader, clock, 2)
    assert ids_in(log, since_us=T0 + 3 * DAY) == served
    assert log.count("model", since_us=T0 + 3 * DAY, until_us=2**60) == 4


def test_questions_about_later_days_are_found_by_these_days(log, reader, clock, tmp_path):
    later = "2100-01-01T00:00:00Z"
    asked = serve(log, reader, clock, 3, each="1m", as_of=later)
    serve(log, reader, clock, 3, each="1m")
    clock.instant_us += 2 * DAY
    for _ in range(2):
        assert ids_in(log, since_us=T0 + 30 * DAY) == asked
        merge(tmp_path / "log", clock)


def test_the_newest_rows_come_first_if_asked(log, reader, clock):
    served = serve(log, reader, clock, 4)
    log.append(reader.plan, last := reader.get([{"user": "a"}]))
    log.flush()
    tables = list(log.read("model", **ALWAYS, newest_first=True))
    assert [table.column("request_id")[0].as_py() for table in tables] == [last.request_id, *reversed(served[::2])]


def test_a_log_that_serves_merges_past_days_by_itself(reader, clock, tmp_path):
    first = ServingLog(tmp_path / "log", clock=clock, interval_seconds=0)
    served = serve(first, reader, clock, 3, each="1m")
    first.close()
    now = FixedClock(clock.instant_us + 3 * DAY)
    with_thread = ServingLog(tmp_path / "log", clock=now, interval_seconds=0.05)
    with_thread.append(reader.plan, reader.get([{"user": "a"}]))
    end = time.monotonic() + 60
    while not list((tmp_path / "log").glob("service=model/day=*/*-merged-*.parquet")) and time.monotonic() < end:
        time.sleep(0.05)
    (record,) = (tmp_path / "log").glob("service=model/day=*/*-merged-*.json")
    assert len(json.loads(record.read_bytes())["files"]) == 3
    with_thread.close()
    assert ids_in(with_thread)[:6] == served
