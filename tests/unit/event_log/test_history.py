"""What the log knows of its own past: marks, heads in the future, and the keys of pushes."""

import pytest
import sqlalchemy as sa

from featurestore.core.errors import StorageError
from featurestore.sources.event_log import (
    EventLog,
    Head,
    KnownKeysError,
    PushKey,
)
from featurestore.sources.event_log import database as database_module
from featurestore.sources.event_log.database import PRESENT_US
from featurestore.sources.event_log.log import KEYS_KEPT_US
from featurestore.sources.event_log.maintenance import compact
from tests.unit.event_log.test_log import NOW_US, append, convert, events, held, log, url

__all__ = ["log", "url"]

DAY_US = 86_400_000_000


@pytest.fixture
def sqlite_log(tmp_path):
    opened = EventLog(f"sqlite:///{tmp_path}/log.db", tmp_path / "files")
    yield opened
    opened.close()


def truncate(log, head, first):
    """Take the events from a number on out of the log, as a failover to a replica that was behind does."""
    with log.database.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM event_log_batches WHERE first >= :first"), {"first": first})
        connection.execute(sa.text("DELETE FROM event_log_ids"))
        connection.execute(sa.text("DELETE FROM event_log_id_columns"))
        connection.execute(
            sa.text("UPDATE event_log_heads SET next_sequence = :number, next_ingest_us = :at, mark = :mark"),
            {"number": head.next_sequence, "at": head.next_ingest_us, "mark": head.mark},
        )


def is_past(log, head):
    return log.is_past("orders", head)


def test_every_head_that_the_log_had_is_its_past(log):
    heads = [Head()] + [append(log, events(number)).head for number in range(4)]
    log.seal("orders", NOW_US + 50)
    assert all(is_past(log, head) for head in heads)
    assert not is_past(log, Head(5, NOW_US + 100, "other"))


def test_a_log_that_lost_its_end_and_grew_again_does_not_have_that_end_in_its_past(log):
    """Not even where numbers and ingest times are the same again."""
    kept = append(log, events(1)).head
    gone = append(log, events(2)).head
    truncate(log, kept, 1)
    assert is_past(log, kept)
    assert not is_past(log, gone)
    again = append(log, events(3)).head
    assert again.next_sequence == gone.next_sequence
    assert again.next_ingest_us == gone.next_ingest_us
    append(log, events(4))
    assert is_past(log, kept)
    assert not is_past(log, gone)


def test_a_compacted_log_still_knows_its_past(log):
    """Of a head in the midst of a file the ingest times of the events before it tell."""
    kept = append(log, events(1)).head
    gone = append(log, events(2)).head
    truncate(log, kept, 1)
    middle = append(log, events(3), now_us=NOW_US + 1_000).head
    last = append(log, events(4), now_us=NOW_US + 2_000).head
    append(log, events(5), now_us=NOW_US + 3_000)
    assert compact(log, "orders", before_us=NOW_US + DAY_US * 100_000) == 4
    append(log, events(6), now_us=NOW_US + 4_000)
    assert all(is_past(log, head) for head in (kept, middle, last))
    assert not is_past(log, gone)


def test_a_log_made_before_marks_were_kept_gets_them(tmp_path, url):
    old = EventLog(url, tmp_path / "files")
    append(old, events(1))
    with old.database.engine.begin() as connection:
        for table in ("event_log_heads", "event_log_batches", "event_log_files"):
            connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN mark"))
    old.close()
    opened = EventLog(url, tmp_path / "files")
    assert opened.head("orders").mark == ""
    head = append(opened, events(2)).head
    assert head.mark
    assert is_past(opened, head)
    assert is_past(opened, Head(1, head.next_ingest_us))
    opened.close()


def test_a_head_in_the_future_refuses_pushes_until_it_is_repaired(sqlite_log):
    """A clock was a day ahead for one push: what is pushed then would be visible a day later."""
    log = sqlite_log
    before = append(log, events(1)).head
    ahead = append(log, events(2), now_us=NOW_US + DAY_US).head
    assert log.ahead_us("orders", machine_us=NOW_US) == DAY_US + 1
    with pytest.raises(StorageError, match=r"1d.*ahead of the present.*repair-log") as caught:
        append(log, events(3))
    assert caught.value.code == "log-head-ahead"
    assert log.redate("orders", machine_us=NOW_US + 10) == 1
    assert held(log) == [(1, NOW_US), (2, NOW_US + 10)]
    after = append(log, events(3), now_us=NOW_US + 20).head
    assert held(log)[-1] == (3, NOW_US + 20)
    assert is_past(log, before)
    assert is_past(log, after)
    assert not is_past(log, ahead)
    assert log.ahead_us("orders", machine_us=NOW_US + 30) == 0


def test_a_promise_in_the_future_is_repaired_too(sqlite_log):
    log = sqlite_log
    head = append(log, events(1)).head
    log.seal("orders", NOW_US + DAY_US)
    assert log.redate("orders", machine_us=NOW_US + 10) == 0
    append(log, events(2), now_us=NOW_US + 20)
    assert held(log) == [(1, NOW_US), (2, NOW_US + 20)]
    assert not is_past(log, head)


def test_a_second_ahead_is_allowed(sqlite_log):
    append(sqlite_log, events(1), now_us=NOW_US + 1_000_000 - 1)
    append(sqlite_log, events(2))
    assert held(sqlite_log)[-1] == (2, NOW_US + 1_000_000)


def test_postgres_gives_ingest_times_by_its_own_clock(tmp_path, postgres_database, monkeypatch):
    """A machine whose clock is a day ahead, or behind, makes no event visible late, or early."""
    monkeypatch.setattr(database_module, "PRESENT_US", PRESENT_US)
    log = EventLog(postgres_database, tmp_path / "files")

    def append_at(machine_us, number):
        log.append("orders", events(number), event_id="id", convert=convert, now_us=lambda: machine_us)

    append_at(0, 1)
    ((_, now_us),) = held(log)
    assert now_us > NOW_US
    append_at(now_us + DAY_US, 2)
    assert 0 < held(log)[1][1] - now_us < 60_000_000
    assert log.now_us(now_us + DAY_US) < now_us + 60_000_000
    sealed = log.seal("orders", now_us + DAY_US)
    assert sealed.next_ingest_us < now_us + 60_000_000
    append_at(now_us + DAY_US, 3)
    assert [number for number, _ in held(log)] == [1, 2, 3]
    log.close()


def push(log, table, *keys, now_us=NOW_US):
    database_module.PRESENT_US = f"{now_us}::bigint"

    def named(places, head):
        return [PushKey(key, b"content", len(places), head) for key in keys]

    return log.append("orders", table, event_id=None, convert=convert, now_us=lambda: now_us, keys=named)


def test_a_known_key_appends_nothing(log):
    head = push(log, events(1), b"k").head
    with pytest.raises(KnownKeysError):
        push(log, events(2), b"other", b"k")
    assert held(log) and len(held(log)) == 1
    found = log.pushed_before("orders", [b"k", b"other"])
    assert list(found) == [b"k"]
    assert (found[b"k"].accepted, found[b"k"].head.next_sequence) == (1, head.next_sequence)
    push(log, events(2), b"other")
    assert len(held(log)) == 2


def test_keys_are_forgotten_after_a_day(sqlite_log):
    push(sqlite_log, events(1), b"k")
    push(sqlite_log, events(2), b"l", now_us=NOW_US + KEYS_KEPT_US)
    assert sqlite_log.pushed_before("orders", [b"k"])
    push(sqlite_log, events(3), b"m", now_us=NOW_US + KEYS_KEPT_US + 60_000_000)
    assert not sqlite_log.pushed_before("orders", [b"k"])
    assert sqlite_log.pushed_before("orders", [b"l"])
