"""The log of pushed events: commits, order, ids, compaction and removal, on SQLite and on PostgreSQL."""

import threading
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from featurestore.core.dtypes import INT64, STRING
from featurestore.core.errors import ConfigError, SourceDataError, StorageError
from featurestore.core.temporal import NO_WATERMARK, NOTHING_YET
from featurestore.plan.model import INGEST_COLUMN, SEQUENCE_COLUMN
from featurestore.sources.convert import to_contract
from featurestore.sources.event_log import MOST_ROWS, EventLog, Head, IdColumn, maintenance
from featurestore.sources.event_log import database as database_module
from featurestore.sources.event_log.database import BATCHES, FILES, HEADS, LOOSE, LogDatabase
from featurestore.sources.event_log.maintenance import compact, forget
from featurestore.sources.event_log.stored import packed

NOW_US = 1_700_000_000_000_000
INGEST = INGEST_COLUMN
INSTANT = pa.timestamp("us", tz="UTC")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/log.db"
    return request.getfixturevalue("postgres_database")


@pytest.fixture
def log(url, tmp_path):
    opened = EventLog(url, tmp_path / "files", is_shared=True)
    yield opened
    opened.close()


def events(*ids, user="a"):
    return pa.table({"id": pa.array(ids, pa.int64()), "user": [user] * len(ids)})


def append(log, table, *, source="orders", now_us=NOW_US):
    """Append at an instant, by the machine's clock and by PostgreSQL's."""
    database_module.PRESENT_US = f"{now_us}::bigint"
    return log.append(source, table, event_id="id", convert=convert, now_us=lambda: now_us)


def convert(column, dtype):
    return to_contract(column, dtype, timezone=None, where="the log")[0]


def of_gone(table):
    return pc.equal(table.column("user"), "gone").combine_chunks()


def held(log, source="orders"):
    """Return the ids and ingest times of a source's events, in the order of their numbers."""
    stretches = log.stretches(source)
    tables = log.read(source, 0, stretches[-1].last, ["id", INGEST]) if stretches else []
    return [(row["id"], int(row[INGEST].timestamp() * 1e6 + 0.5)) for table in tables for row in table.to_pylist()]


def test_an_event_gets_the_present_instant_and_the_next_number(log):
    appended = append(log, events(1, 2))
    assert held(log) == [(1, NOW_US), (2, NOW_US)]
    assert appended.before.next_sequence == 0
    assert appended.head == Head(2, NOW_US + 1, appended.head.mark) == log.head("orders")
    assert log.head("others") == Head()


def test_ingest_times_never_go_backwards(log):
    """Of two appends the later has the larger ingest time, also if the clock stood still or went back."""
    append(log, events(1))
    append(log, events(2))
    append(log, events(3), now_us=NOW_US - 500_000)
    append(log, events(4), now_us=NOW_US + 50)
    assert held(log) == [(1, NOW_US), (2, NOW_US + 1), (3, NOW_US + 2), (4, NOW_US + 50)]


def test_after_a_seal_no_event_is_dated_before_it(log):
    log.seal("orders", NOW_US + 10)
    assert log.seal("orders", NOW_US).next_ingest_us == NOW_US + 10
    append(log, events(1))
    assert held(log) == [(1, NOW_US + 10)]


def test_an_id_is_taken_once_for_each_source_and_for_ever(log, url, tmp_path):
    append(log, events(1, 2))
    appended = append(log, events(2, 3))
    assert (appended.events.column("id").to_pylist(), list(appended.places)) == ([3], [1])
    compact(log, "orders", before_us=NOW_US + 100)
    log.close()
    again = EventLog(url, tmp_path / "files")
    assert not append(again, events(3, 1)).places
    assert list(append(again, events(1), source="others").places) == [0]
    assert [one for one, _ in held(again)] == [1, 2, 3]
    again.close()


def test_events_without_an_id_are_events_of_their_own(log):
    append(log, events(None, None))
    assert list(append(log, events(None)).places) == [0]
    assert len(held(log)) == 3


def test_a_large_append_is_cut_and_its_parts_have_instants_of_their_own(log):
    append(log, events(*range(MOST_ROWS + 1)))
    assert [stretch.row_count for stretch in log.stretches("orders")] == [MOST_ROWS, 1]
    assert {at for _, at in held(log)} == {NOW_US, NOW_US + 1}


def test_compaction_changes_no_event(log, tmp_path):
    for number in range(5):
        append(log, events(number), now_us=NOW_US + number)
    before = held(log)
    assert compact(log, "orders", before_us=NOW_US + 3) == 3
    assert held(log) == before
    assert [stretch.path is not None for stretch in log.stretches("orders")] == [True, False, False]
    assert compact(log, "orders", before_us=NOW_US + 3) == 0
    assert compact(log, "orders", before_us=NOW_US + 100) == 2
    assert held(log) == before
    assert [one.first for one in log.stretches("orders", ingest=(NOW_US + 3, NOW_US + 4))] == [3]


def files_in(folder):
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_written", [False, True])
def test_a_file_that_a_crash_leaves_is_deleted_by_the_next_compaction(log, tmp_path, monkeypatch, is_written):
    """The process ends before the file is named, whether the file was written or not."""
    add_file = maintenance._add_file

    def add_and_crash(*arguments):
        if is_written:
            add_file(*arguments)
        raise SystemExit

    append(log, events(1))
    with monkeypatch.context() as patched:
        patched.setattr(maintenance, "_add_file", add_and_crash)
        with pytest.raises(SystemExit):
            compact(log, "orders", before_us=NOW_US + 1)
    assert len(files_in(tmp_path / "files")) == is_written
    assert compact(log, "orders", before_us=NOW_US + 1) == 1
    assert [str(path) for path in files_in(tmp_path / "files")] == [stretch.path for stretch in log.stretches("orders")]
    assert compact(log, "orders", before_us=NOW_US + 1) == 0
    assert [one for one, _ in held(log)] == [1]


def test_compaction_deletes_no_file_that_the_log_did_not_write(log, tmp_path):
    """Other logs may have files beside, of a source of the same name."""
    with closing(EventLog(f"sqlite:///{tmp_path}/other.db", tmp_path / "files")) as other:
        append(other, events(7, 8))
        compact(other, "orders", before_us=NOW_US + 1)
        stranger = tmp_path / "files" / "source=orders" / "notes.txt"
        stranger.write_text("not the log's")
        append(log, events(1, user="gone"))
        compact(log, "orders", before_us=NOW_US + 1)
        forget(log, "orders", of_gone)
        compact(log, "orders", before_us=NOW_US + 1)
        assert [one for one, _ in held(other)] == [7, 8]
    assert stranger.exists()
    assert held(log) == []


def test_a_file_is_written_only_while_its_record_stands(log, monkeypatch):
    """Another process may sweep the record of a file away before the head is locked: then a new record is made."""
    append(log, events(1))
    lock, swept = LogDatabase.lock, []

    def lock_after_a_sweep(self, connection, source):
        if not swept:
            swept.append(connection.execute(sa.delete(LOOSE)).rowcount)
        return lock(self, connection, source)

    monkeypatch.setattr(LogDatabase, "lock", lock_after_a_sweep)
    assert compact(log, "orders", before_us=NOW_US + 1) == 1
    assert swept == [1]
    assert [one for one, _ in held(log)] == [1]


def test_a_log_that_other_machines_use_is_compacted_only_into_a_folder_that_is_declared_shared(url, tmp_path):
    """A folder of one machine alone would take acknowledged events away from all others."""
    with closing(EventLog(url, tmp_path / "files")) as log:
        append(log, events(1))
        if url.startswith("sqlite"):
            assert compact(log, "orders", before_us=NOW_US + 1) == 1
            return
        with pytest.raises(ConfigError, match="data_is_shared") as raised:
            compact(log, "orders", before_us=NOW_US + 1)
        assert raised.value.code == "data-not-shared"
        assert [one for one, _ in held(log)] == [1]
    assert not (tmp_path / "files").exists()


def test_a_folder_without_the_files_compacted_before_is_refused(log, url, tmp_path):
    """It is declared shared, and is not: the next compaction finds out before it moves anything."""
    append(log, events(1))
    compact(log, "orders", before_us=NOW_US + 1)
    with closing(EventLog(url, tmp_path / "elsewhere", is_shared=True)) as other:
        append(other, events(2))
        with pytest.raises(ConfigError, match="in another folder") as raised:
            compact(other, "orders", before_us=NOW_US + 100)
    assert raised.value.code == "other-data-folder"
    assert [one for one, _ in held(log)] == [1, 2]


def test_a_crash_while_a_file_is_named_loses_and_doubles_nothing(log, monkeypatch):
    append(log, events(1, 2))
    with monkeypatch.context() as patched:
        patched.setattr(maintenance, "_add_file", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            compact(log, "orders", before_us=NOW_US + 1)
    assert [one for one, _ in held(log)] == [1, 2]
    assert compact(log, "orders", before_us=NOW_US + 1) == 2
    assert [one for one, _ in held(log)] == [1, 2]


def test_what_is_forgotten_leaves_no_copy(log, tmp_path):
    append(log, events(1, 2, user="gone"))
    append(log, events(3))
    compact(log, "orders", before_us=NOW_US + 1)
    append(log, events(4, user="gone"))
    assert forget(log, "orders", of_gone) == 3
    assert [one for one, _ in held(log)] == [3]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "files").rglob("*.parquet"))
    assert b"gone" not in kept


def test_events_that_compaction_moves_meanwhile_are_forgotten_too(log, monkeypatch):
    append(log, events(1, user="gone"))
    append(log, events(2))
    append(log, events(3, user="gone"))
    listed = log.stretches

    def listed_before_compaction(*given, **options):
        found = listed(*given, **options)
        compact(log, "orders", before_us=NOW_US + 100)
        return found

    monkeypatch.setattr(log, "stretches", listed_before_compaction)
    assert forget(log, "orders", of_gone) == 2
    monkeypatch.undo()
    assert [one for one, _ in held(log)] == [2]


def test_only_what_became_known_from_an_instant_on_is_forgotten(log):
    append(log, events(1, 2, user="gone"))
    after = append(log, events(3)).head.next_ingest_us
    append(log, events(4, user="gone"))
    assert forget(log, "orders", of_gone, from_us=after) == 1
    assert [one for one, _ in held(log)] == [1, 2, 3]


def test_appends_of_many_threads_are_all_there_in_one_order(log):
    def work(first):
        for number in range(first, first + 10):
            append(log, events(number, 1_000))

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = held(log)
    assert sorted(one for one, _ in found) == sorted([*(100 * a + b for a in range(4) for b in range(10)), 1_000])
    times = [at for _, at in found]
    assert times == sorted(times)
    assert log.head("orders").next_sequence == 41


def test_a_database_that_cannot_be_used_is_an_error_with_a_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        EventLog(f"sqlite:///{tmp_path}/file/log.db", tmp_path).head("orders")
    assert caught.value.code == "event-log-unwritable"
    with pytest.raises(StorageError, match="cannot be used"):
        EventLog("nothing://", tmp_path).head("orders")


def test_a_reader_beside_compaction_sees_each_event_once(log, url, tmp_path):
    """Between two statements of one read, events move from the database to a file."""
    other = EventLog(url, tmp_path / "files", is_shared=True)
    append(log, events(*range(100)))
    seen, is_over = [], threading.Event()

    def read():
        while not is_over.is_set():
            stretches = log.stretches("orders")
            seen.append(sum(one.row_count for one in stretches))
            tables = log.read("orders", 0, 99, ["id"])
            seen.append(sum(table.num_rows for table in tables))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(20):
        append(other, events(*range(100 * (number + 1), 100 * (number + 2))), source="others", now_us=NOW_US + number)
        compact(other, "orders", before_us=NOW_US + 1)
        with other.database.writing() as connection:
            bring_back(connection, other)
    is_over.set()
    for reader in readers:
        reader.join()
    other.close()
    assert len(seen) >= 4
    assert set(seen) == {100}


def bring_back(connection, log):
    """Undo a compaction of all orders, as if it had never been."""
    log.database.lock(connection, "orders")
    found = connection.execute(sa.select(FILES).where(FILES.c.source == "orders")).all()
    for row in found:
        table = pq.read_table(log.place(row.path), partitioning=None)
        connection.execute(sa.delete(FILES).where(FILES.c.source == "orders", FILES.c.first == row.first))
        values = {"first": row.first, "last": row.last, "row_count": row.row_count, "ingest_us": row.ingest_from_us}
        connection.execute(sa.insert(BATCHES).values(source="orders", events=packed(table), **values))


def test_columns_whose_type_changed_are_compacted_into_files_of_their_own(log):
    append(log, pa.table({"id": [1], "x": pa.array([1], pa.int64())}))
    append(log, pa.table({"id": [2], "x": pa.array([1.5])}))
    append(log, pa.table({"id": [3], "x": pa.array([2.5])}))
    assert compact(log, "orders", before_us=NOW_US + 10) == 3
    stretches = log.stretches("orders")
    assert [one.row_count for one in stretches] == [1, 2]
    assert [one.path is not None for one in stretches] == [True, True]
    assert held(log) == [(1, NOW_US), (2, NOW_US + 1), (3, NOW_US + 2)]


def test_a_file_that_was_replaced_while_it_was_read_is_looked_up_again(log, monkeypatch):
    append(log, events(1, 2))
    compact(log, "orders", before_us=NOW_US + 1)
    opened, places = log.place, iter(["/nowhere.parquet"])
    monkeypatch.setattr(log, "place", lambda path: next(places, None) or opened(path))
    assert [table.num_rows for table in log.read("orders", 0, 1, ["id"])] == [2]


def test_a_file_that_is_gone_is_an_error_with_a_name(log):
    append(log, events(1, 2))
    compact(log, "orders", before_us=NOW_US + 1)
    Path(log.stretches("orders")[0].path).unlink()
    with pytest.raises(StorageError, match="event log"):
        log.read("orders", 0, 1, ["id"])


EID, GROUP = IdColumn("id", INT64), IdColumn("group", STRING)


def unnamed(log, table, *, now_us=NOW_US, event_id=None):
    """Append by a definition without an event id, or with another one."""
    return log.append("orders", table, event_id=event_id, convert=convert, now_us=lambda: now_us)


def grouped(ids, groups):
    return events(*ids).append_column("group", pa.array(groups, pa.string()))


@pytest.mark.parametrize("is_compacted", [False, True])
def test_an_id_that_was_pushed_before_it_was_declared_is_taken(log, is_compacted):
    unnamed(log, events(1, 2, 2))
    if is_compacted:
        compact(log, "orders", before_us=NOW_US + 100)
    assert list(append(log, events(2, 3)).places) == [1]
    assert log.unique_from_us("orders", EID) > NOW_US


def test_a_log_in_which_no_id_is_repeated_is_unique_from_its_beginning(log):
    unnamed(log, events(1, 2, None, None))
    assert log.unique_from_us("orders", EID) == NO_WATERMARK
    log.enter_ids("orders", EID, convert=convert)
    assert log.unique_from_us("orders", EID) == NOTHING_YET
    assert append(log, events(3)).unique_by == {EID}
    assert log.unique_from_us("orders", EID) == NOTHING_YET


def test_ids_of_other_columns_are_kept_and_their_repetitions_noted(log):
    """Whatever definition appends: a process may know an old one, and old plans have their ids elsewhere."""
    assert append(log, grouped([1], ["x"])).unique_by == {EID}
    assert unnamed(log, grouped([2], ["y"]), event_id="group").unique_by == {EID, GROUP}
    repeated = unnamed(log, grouped([1], ["z"]), event_id="group")
    assert (list(repeated.places), repeated.unique_by) == ([0], {GROUP})
    assert log.unique_from_us("orders", EID) == repeated.head.next_ingest_us
    assert not append(log, grouped([2], ["y"])).places
    assert append(log, grouped([5], ["y"])).unique_by == {EID}
    assert unnamed(log, grouped([6, 6], ["v", "w"])).unique_by == {GROUP}


def test_ids_are_of_one_dtype(log):
    """The number 5 and the text 5 are one id to a plan that reads both as text."""
    append(log, events(5))
    as_text = pa.table({"id": ["5", "q"], "user": ["a", "a"]})
    assert list(append(log, as_text).places) == [1]
    assert list(append(log, pa.table({"id": ["q"], "user": ["a"]})).places) == []


def test_ids_that_are_not_of_the_dtype_are_refused_and_nothing_is_appended(log):
    append(log, pa.table({"id": ["q"], "user": ["a"]}))
    with pytest.raises(SourceDataError, match="'q'"):
        append(log, events(1))
    assert log.head("orders").next_sequence == 1
    assert forget(log, "orders", lambda table: pc.equal(table.column("id"), "q").combine_chunks()) == 1
    assert list(append(log, events(1)).places) == [0]


def test_a_column_whose_ids_cannot_be_kept_any_more_is_not_called_unique(log):
    append(log, events(1))
    appended = unnamed(log, pa.table({"id": ["q"], "user": ["a"]}))
    assert (appended.unique_by, log.unique_from_us("orders", EID)) == (set(), NO_WATERMARK)


def test_entering_the_ids_of_a_long_log_that_died_half_way_is_taken_up(log, monkeypatch):
    monkeypatch.setattr("featurestore.sources.event_log.log._ENTERED_AT_ONCE", 2)
    unnamed(log, events(1, 2, 3))
    compact(log, "orders", before_us=NOW_US + 100)
    unnamed(log, events(4, 5))
    calls = []

    def dies(column, dtype):
        calls.append(column)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return convert(column, dtype)

    with pytest.raises(KeyboardInterrupt):
        log.enter_ids("orders", EID, convert=dies)
    assert log.unique_from_us("orders", EID) == NO_WATERMARK
    assert list(append(log, events(1, 2, 3, 4, 5, 6)).places) == [5]


def test_appends_beside_entering_are_all_compared(log, url, tmp_path, monkeypatch):
    monkeypatch.setattr("featurestore.sources.event_log.log._ENTERED_AT_ONCE", 3)
    unnamed(log, events(*range(30)))
    other = EventLog(url, tmp_path / "files")
    accepted = []

    def work(opened):
        for number in range(20, 50):
            accepted.extend(append(opened, events(number)).events.column("id").to_pylist())

    threads = [threading.Thread(target=work, args=(opened,)) for opened in (log, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(accepted) == list(range(30, 50))


FIRST_NAMES = [
    ("known", {"x": pa.array([1])}),
    ("known", {"known": None}),
    (INGEST_COLUMN, {"known": pa.array([NOW_US - 7], INSTANT)}),
]


@pytest.mark.parametrize("is_compacted", [False, True])
@pytest.mark.parametrize(("name", "more"), FIRST_NAMES)
def test_events_of_the_first_logs_have_their_ingest_time(log, name, more, is_compacted):
    """They stored it under the name that the source had for it, before the number."""
    columns = {column: values for column, values in more.items() if values is not None}
    numbers = pa.array([0], pa.int64())
    table = pa.table({"id": [1], **columns, name: pa.array([NOW_US], INSTANT), SEQUENCE_COLUMN: numbers})
    store_as_first_logs_did(log, 0, table)
    append(log, events(2))
    if is_compacted:
        compact(log, "orders", before_us=NOW_US + 100)
    assert held(log) == [(1, NOW_US), (2, NOW_US + 1)]
    read = [row.get("known") for table in log.read("orders", 0, 1, ["known"]) for row in table.to_pylist()]
    sent = None if "known" not in columns else pa.scalar(NOW_US - 7, INSTANT).as_py()
    assert read == [sent, None]


def test_a_file_of_the_first_logs_may_hold_both_names(log, tmp_path):
    numbers = pa.array([0, 1], pa.int64())
    known, ingested = pa.array([NOW_US, NOW_US - 9], INSTANT), pa.array([None, NOW_US + 1], INSTANT)
    table = pa.table({"id": [1, 2], "known": known, SEQUENCE_COLUMN: numbers, INGEST_COLUMN: ingested})
    store_as_first_logs_did(log, 0, table.slice(0, 1).drop_columns([INGEST_COLUMN]))
    compact(log, "orders", before_us=NOW_US + 100)
    (path,) = (tmp_path / "files" / "source=orders").iterdir()
    pq.write_table(table, path)
    found = log.read("orders", 0, 1, ["id", "known"])[0]
    assert found.column(INGEST_COLUMN).cast(pa.int64()).to_pylist() == [NOW_US, NOW_US + 1]
    assert found.column("known").cast(pa.int64()).to_pylist() == [None, NOW_US - 9]


def store_as_first_logs_did(log, first, table):
    with log.database.writing() as connection:
        log.database.lock(connection, "orders")
        count = table.num_rows
        values = {"first": first, "last": first + count - 1, "row_count": count, "ingest_us": NOW_US}
        connection.execute(sa.insert(BATCHES).values(source="orders", events=packed(table), **values))
        connection.execute(sa.update(HEADS).values(next_sequence=first + count, next_ingest_us=NOW_US + 1))


def test_events_without_any_of_the_columns_asked_for_are_counted(log):
    append(log, events(1, 2))
    assert [table.num_rows for table in log.read("orders", 0, 1, ["later"])] == [2]
