"""Folding locks: a process never waits for one while it holds another, so pushes, runs and removals never block."""

import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featurestore import Entity, FeatureService, FeatureView, FileSource, agg
from featurestore.online.filling import streaming
from featurestore.online.filling.streaming import folding
from featurestore.online.stores.locks import hold_lock
from featurestore.sources.event_log import EventLog
from tests.stores import OTHERS, local_store

BEGIN = datetime.now(UTC) - timedelta(hours=1)
VIEWS = 40
"""More than one PostgreSQL store lends connections."""


def source(folder):
    """A source with an event outside the log, so that no view begins by itself."""
    (folder / "events").mkdir(exist_ok=True)
    known = pa.table({"user": [1], "at": pa.array([BEGIN], pa.timestamp("us", "UTC"))})
    pq.write_table(known, folder / "events/first.parquet")
    return FileSource("events", path=folder / "events/*.parquet", event_time="at", stream=True)


def views(origin, count):
    user = Entity("user", key="user", dtype="int64")
    return [
        FeatureView(f"v{i}", entity=user, source=origin, features={"n": agg.count().over(f"{24 + i}h")})
        for i in range(count)
    ]


@pytest.fixture(params=["sqlite", *OTHERS])
def store(tmp_path, request, online_urls_of):
    online = None if request.param == "sqlite" else online_urls_of(request.param)
    with local_store(tmp_path / "store", online=online) as opened:
        yield opened


def push(store):
    return store.push("events", [{"user": 1, "at": datetime.now(UTC)}])


class PausedLog(EventLog):
    """A log in which something happens before an append."""

    def append(self, *arguments, **options):
        self.meanwhile()
        return super().append(*arguments, **options)


def test_a_view_materialized_during_a_push_is_not_waited_for_while_other_locks_are_held(store, tmp_path, monkeypatch):
    """A push knew one view; a second one is filled meanwhile, and its lock is held until the first one's is free.

    That is what a second process does that begins to push then: it has the second lock, and waits for the first. Before
    locks were given back first, each waited for the other until the time was up.
    """
    monkeypatch.setattr(streaming, "_LOCK_SECONDS", 3.0)
    log = store.parts.event_log = PausedLog(store.config.event_log, store.config.data / "event_log")
    store.apply(FeatureService("model", features=views(source(tmp_path), 2)))
    first, second = store.views()
    store.materialize(views=[first.name])
    is_held = threading.Event()

    def hold_second_then_first():
        names = [f"fold-{view.fingerprint[:16]}" for view in (second, first)]
        with hold_lock(store.parts.online, names[0], wait_seconds=20):
            is_held.set()
            with hold_lock(store.parts.online, names[1], wait_seconds=20):
                pass

    other = threading.Thread(target=hold_second_then_first)

    def meanwhile():
        store.materialize(views=[second.name])
        other.start()
        assert is_held.wait(20)

    log.meanwhile = meanwhile
    result = push(store)
    other.join()
    assert result.is_followed
    row = store.get_online_features("model", [{"user": 1}]).to_dicts()[0]
    assert (row["v0__n"], row["v1__n"]) == (2, 2)


def test_a_thread_that_holds_a_folding_lock_takes_no_other(store, tmp_path):
    """The rule is checked where the locks are taken, so that no later change breaks it unseen."""
    store.apply(FeatureService("model", features=views(source(tmp_path), 2)))
    first, second = store.views()
    with folding([first, second], store.parts.online):
        with pytest.raises(AssertionError, match="held already"), folding([second], store.parts.online):
            pass
        with (
            pytest.raises(Exception, match="holds"),
            hold_lock(store.parts.online, f"fold-{first.fingerprint[:16]}", wait_seconds=0),
        ):
            pass
    with folding([second], store.parts.online):
        pass


def test_a_push_may_hold_the_locks_of_many_views(store, tmp_path):
    """As many names as a source has views are held at a time, also where each name needs a connection."""
    store.apply(FeatureService("model", features=views(source(tmp_path), VIEWS)))
    store.materialize()
    assert push(store).is_followed
    row = store.get_online_features("model", [{"user": 1}]).to_dicts()[0]
    assert [row[f"v{i}__n"] for i in range(VIEWS)] == [2] * VIEWS
    store.forget("user", {"user": 1})
