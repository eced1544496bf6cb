"""Every event is folded once, whatever dies in between and whatever arrives late."""

import random
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace as replace_record

from featurestore import Entity, FeatureView, FileSource, FrameSource, agg, col
from featurestore.core.errors import (
    OutOfReachError,
    SourceDataError,
    StateError,
    StorageError,
)
from featurestore.core.temporal import NOTHING_YET
from featurestore.online.filling import materialize as module
from featurestore.online.filling import reading
from featurestore.online.filling.folding import StateUpdater
from featurestore.online.stores.store import (
    decode_record,
    encode_record,
    is_state_key,
    record_key,
    records_of,
)
from featurestore.sources import open_scan
from tests.unit.online.stores import SETTINGS, T0, DyingStore, MemoryStore, ask, fold, instants, plan_of, view_of

SECOND = 1_000_000
USERS = ("a", "b", "c", "nobody")

ROWS = [
    ("a", 1, 1, 0.5, "x"),
    ("a", 2, 9, 1e16, "late"),
    ("b", 3, 3, 2.0, None),
    ("a", 4, 4, None, "y"),
    ("b", 8, 8, -1.0, "z"),
    ("c", 11, 11, 3.0, "x"),
    ("a", 12, 12, 0.25, "w"),
]


def many_rows(count=120, seed=7):
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        happened = chance.randrange(40)
        rows.append(
            (
                chance.choice("abc"),
                happened,
                happened + chance.choice((0, 0, 0, 1, 7)),
                chance.choice((None, 0.1, 1e16, -2.5)),
                chance.choice((None, "p", "q", "r")),
            )
        )
    return rows


def record(store, view):
    return records_of(store, [plan_of(view)])["view"]


def answers(view, store, at):
    answer = ask(view, store, USERS, at)
    return answer.rows, answer.statuses, answer.event_times


def fresh(view, until, **options):
    """Return a store into which everything was folded at once."""
    store = MemoryStore()
    fold(view, store, until, **options)
    return store


def test_a_run_folds_what_became_known_before_its_end():
    store, view = MemoryStore(), view_of(ROWS)
    first = fold(view, store, 9)
    assert (first.events, first.entities, first.from_us, first.until_us) == (4, 2, NOTHING_YET, T0 + 9 * SECOND)
    assert ask(view, store, ["a"], 9).rows == [[2, "y", ["x", "y"], 0.5]]
    second = fold(view, store, 10)
    assert (second.events, second.entities, second.from_us, second.rebuilt) == (1, 1, first.until_us, "")
    third = fold(view, store, 20)
    assert (third.events, third.entities) == (2, 2)
    assert answers(view, store, 20) == answers(view, fresh(view, 20), 20)


def test_running_again_changes_nothing():
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 10)
    before = dict(store.values)
    for until in (10, 10, 5):
        run = fold(view, store, until)
        assert (run.events, run.entities, run.until_us) == (0, 0, T0 + 10 * SECOND)
    assert store.values == before


@pytest.mark.parametrize("ingest_time", ["learned", None])
def test_many_runs_give_what_one_gives(ingest_time):
    view = view_of(many_rows(), ingest_time=ingest_time)
    store = MemoryStore()
    for until in (3, 4, 17, 18, 30, 60):
        run = fold(view, store, until, history_us=5 * SECOND)
        assert run.rebuilt == ""
        whole = fresh(view, until, history_us=5 * SECOND)
        for at in (until - 5, until - 2, until):
            assert answers(view, store, at) == answers(view, whole, at)


@pytest.mark.parametrize("events_at_once", [1, 7, 1000])
def test_steps_that_fit_into_memory_give_what_one_step_gives(events_at_once, monkeypatch):
    monkeypatch.setattr(reading, "_SAMPLED", 1)
    view = view_of(many_rows())
    store = MemoryStore()
    fold(view, store, 20, events_at_once=events_at_once)
    run = fold(view, store, 60, events_at_once=events_at_once)
    assert run.events == sum(20 <= learned < 60 for _, _, learned, _, _ in many_rows())
    assert answers(view, store, 60) == answers(view, fresh(view, 60), 60)


def test_events_learned_at_one_instant_are_folded_entity_by_entity(monkeypatch):
    """A load of years of history at once, which no cut of ingest times can divide."""
    rows = [(user, happened, 50, x, name) for user, happened, _, x, name in many_rows()]
    view = view_of(rows)
    tables = []
    kept = StateUpdater.arrange
    monkeypatch.setattr(
        StateUpdater, "arrange", lambda folder, table, *rest: tables.append(table) or kept(folder, table, *rest)
    )
    store = MemoryStore()
    run = fold(view, store, 60, events_at_once=15)
    assert run.events == len(rows)
    assert len(tables) > 1
    users = [set(table.column("user").to_pylist()) for table in tables]
    assert sum(map(len, users)) == len(set().union(*users)) == 3
    assert answers(view, store, 60) == answers(view, fresh(view, 60), 60)


def test_composite_keys_of_every_dtype_are_spread_and_found():
    day = pa.array([T0 // 86_400_000_000 + i % 3 for i in range(60)], pa.int32()).cast(pa.date32())
    table = pa.table(
        {
            "number": pa.array([i % 4 for i in range(60)], pa.int64()),
            "day": day,
            "price": pa.array([i % 2 for i in range(60)], pa.int64()).cast(pa.decimal128(30, 2)),
            "at": instants([1.0] * 60),
            "x": pa.array([float(i) for i in range(60)]),
        }
    )
    entity = Entity("thing", key=("number", "day", "price"), dtype=("int64", "date", "decimal(30,2)"))
    source = FrameSource("events", frame=table, event_time="at")
    view = FeatureView("view", entity=entity, source=source, features={"sum": agg.sum(col("x")).over("10s")})
    store, whole = MemoryStore(), MemoryStore()
    assert fold(view, store, 5, events_at_once=3).entities == 12
    fold(view, whole, 5)
    assert store.values == whole.values


def test_every_death_of_a_run_is_survived():
    """Wherever a run dies, its successor ends with the same answers, and readers never see a mixture."""
    view = view_of(many_rows(60))
    untils = (15, 30, 60)
    whole = {until: answers(view, fresh(view, until), until) for until in untils}
    writes = 0
    while True:
        store, died = MemoryStore(), False
        for i, until in enumerate(untils):
            dying = DyingStore(store.values, writes)
            try:
                fold(view, dying, until, events_at_once=20)
            except StorageError:
                died = True
                if i:
                    assert answers(view, store, untils[i - 1]) == whole[untils[i - 1]]
                run = fold(view, store, until, events_at_once=20)
                assert run.rebuilt == ""
            assert answers(view, store, until) == whole[until]
        if not died:
            break
        writes += 1
    assert writes > 5


def test_every_death_of_a_rebuild_is_survived():
    view, rewritten = view_of(ROWS), view_of([*ROWS, ("a", 5, 5, 7.0, "found")])
    whole = answers(rewritten, fresh(rewritten, 20), 20)
    for writes in range(20):
        store = MemoryStore()
        fold(view, store, 20)
        before = answers(view, store, 20)
        try:
            fold(rewritten, DyingStore(store.values, writes), 20)
        except StorageError:
            assert answers(view, store, 20) in (before, whole)
            fold(rewritten, store, 20)
            assert answers(rewritten, store, 20) == whole
            continue
        assert answers(rewritten, store, 20) == whole
        break
    assert 2 < writes < 19


class RemovingNothing(MemoryStore):
    """A store that dies where there is something to remove."""

    def delete(self, prefix):
        if any(key.startswith(prefix) for key in self.values):
            raise StorageError("this store removes nothing")
        return 0


def test_what_a_finished_rebuild_left_behind_is_removed_by_the_next_run():
    view, rewritten = view_of(ROWS), view_of([*ROWS, ("a", 5, 5, 7.0, "found")])
    store = MemoryStore()
    fold(view, store, 20)
    removing = RemovingNothing()
    removing.values = store.values
    with pytest.raises(StorageError, match="removes nothing"):
        fold(rewritten, removing, 20)
    assert len(store.values) == 1 + 3 + 3
    fold(rewritten, store, 21)
    assert len(store.values) == 1 + 3


def test_rows_below_the_watermark_rebuild_the_view():
    """A source without an ingest time gets late rows: they are behind the watermark, and must not be lost."""
    view, late = view_of(ROWS, ingest_time=None), view_of([*ROWS, ("b", 5, 5, 9.0, "late")], ingest_time=None)
    store = MemoryStore()
    fold(view, store, 20)
    run = fold(late, store, 20)
    assert run.rebuilt == "the source has 8 events below the watermark, where it had 7"
    assert (run.events, run.until_us) == (8, T0 + 20 * SECOND)
    assert answers(late, store, 20) == answers(late, fresh(late, 20), 20)
    assert record(store, late).generation == 1
    assert fold(late, store, 20).rebuilt == ""


def test_rows_that_arrive_below_what_a_dead_run_had_folded_are_not_lost():
    """States may be ahead of the watermark after a run died; rows that come in between would be taken as folded."""
    rows = [row for row in many_rows(60) if row[1] < 30]
    view, late = view_of(rows, ingest_time=None), view_of([*rows, ("a", 25, 25, 9.0, "late")], ingest_time=None)
    for watermark in (None, 10):
        for writes in range(1, 8):
            store = MemoryStore()
            if watermark is not None:
                fold(view, store, watermark)
            try:
                fold(view, DyingStore(store.values, writes), 30)
            except StorageError:
                run = fold(late, store, 40)
                assert answers(late, store, 40) == answers(late, fresh(late, 40), 40), (watermark, writes, run)


def test_a_shorter_run_after_a_dead_first_one_starts_over():
    """What the dead run kept was cut for its own later reach."""
    view = view_of(many_rows(60))
    store = MemoryStore()
    with pytest.raises(StorageError):
        fold(view, DyingStore(store.values, 2), 60, history_us=0)
    run = fold(view, store, 20, history_us=0)
    assert run.rebuilt == "an interrupted first run had a later bound"
    assert answers(view, store, 20) == answers(view, fresh(view, 20, history_us=0), 20)


@pytest.mark.parametrize("has_late_row", [False, True])
def test_a_shorter_run_after_a_dead_one_forgets_nothing_of_it(has_late_row):
    """States stay ahead of the watermark until a run gets as far as the dead one was to."""
    rows = [row for row in many_rows(60) if row[1] < 40]
    late = [("a", 25, 25, 9.0, "late")] if has_late_row else []
    view, later = view_of(rows, ingest_time=None), view_of([*rows, *late], ingest_time=None)
    for writes in range(1, 6):
        store = MemoryStore()
        fold(view, store, 10)
        try:
            fold(view, DyingStore(store.values, writes), 30)
        except StorageError:
            fold(view, store, 20)
            assert answers(view, store, 20) == answers(view, fresh(view, 20), 20)
            fold(later, store, 40)
            for at in (20, 29, 40):
                assert answers(later, store, at) == answers(later, fresh(later, 40), at)


def test_a_rebuild_that_died_and_a_refresh_that_died_are_both_remembered():
    rows = [row for row in many_rows(60) if row[1] < 40]
    late = [*rows, ("a", 25, 25, 9.0, "late")]
    view, later = view_of(rows, ingest_time=None), view_of(late, ingest_time=None)
    for full_writes in (3, 4, 5):
        for writes in range(1, 6):
            store = MemoryStore()
            fold(view, store, 10)
            with pytest.raises(StorageError):
                fold(view, DyingStore(store.values, full_writes), 10, full=True, events_at_once=5)
            assert record(store, view).filling is not None
            try:
                fold(view, DyingStore(store.values, writes), 30)
            except StorageError:
                fold(view, store, 20)
                assert answers(view, store, 20) == answers(view, fresh(view, 20), 20)
                fold(later, store, 40)
                for at in (20, 29, 40):
                    assert answers(later, store, at) == answers(later, fresh(later, 40), at)


def test_a_rebuild_that_died_goes_on_after_its_last_step(monkeypatch):
    monkeypatch.setattr(reading, "_SAMPLED", 1)
    view = view_of(many_rows())
    store = MemoryStore()
    fold(view, store, 30)
    with pytest.raises(StorageError):
        fold(view, DyingStore(store.values, 12), 30, full=True, events_at_once=10)
    done_us = record(store, view).filling.done_us
    assert done_us > T0 + 5 * SECOND
    run = fold(view, store, 30, full=True, events_at_once=10)
    assert run.events == sum(done_us <= T0 + learned * SECOND < T0 + 30 * SECOND for _, _, learned, _, _ in many_rows())
    assert record(store, view).generation == 1
    assert record(store, view).filling is None
    assert answers(view, store, 30) == answers(view, fresh(view, 30), 30)


class Reading(MemoryStore):
    """Counts the states that are read, and does something after some writes."""

    def __init__(self, after_write=lambda _: None):
        super().__init__()
        self.states_read = 0
        self.writes = 0
        self._after_write = after_write

    def read(self, keys):
        self.states_read += sum(is_state_key(key) for key in keys)
        return super().read(keys)

    def write(self, items, *, expected=None):
        super().write(items, expected=expected)
        self.writes += 1
        self._after_write(self)


@pytest.mark.parametrize("remembered_bytes", [0, 500, 1_000_000])
def test_a_fill_reads_nothing_back_that_it_can_remember(remembered_bytes, monkeypatch):
    monkeypatch.setattr(reading, "_SAMPLED", 1)
    monkeypatch.setattr(module, "CACHED_BYTES", remembered_bytes)
    view, store = view_of(many_rows()), Reading()
    fold(view, store, 30, events_at_once=10)
    assert (store.states_read == 0) == (remembered_bytes == 1_000_000)
    assert answers(view, store, 30) == answers(view, fresh(view, 30), 30)


def test_a_fill_does_not_bring_back_what_is_forgotten_meanwhile(monkeypatch):
    """States of a source with a log are filled beside whoever forgets, who notes it in the view's record."""
    monkeypatch.setattr(reading, "_SAMPLED", 1)
    view = view_of(many_rows())
    plan = plan_of(view)
    forgotten = []

    def forget(store):
        key = record_key(plan)
        known = store.values[key]
        states = [key for key in store.values if is_state_key(key)]
        if len(states) == 3 and not forgotten:
            forgotten.append(min(states))
            del store.values[forgotten[0]]
            marked = decode_record(plan, known)
            store.values[key] = encode_record(replace_record(marked, forgets=marked.forgets + 1))

    store = Reading(forget)
    with pytest.raises(StateError) as caught:
        fold(view, store, 30, events_at_once=10)
    assert caught.value.code == "conflict"
    assert forgotten[0] not in store.values

    filled = module._StateCache(store, 0, is_empty=True)
    filled.keep([(forgotten[0], b"remembered")])
    assert filled.reader(0)(forgotten) == {forgotten[0]: b"remembered"}
    assert filled.reader(1)(forgotten) == {}
    assert filled.reader(0)(forgotten) == {}, "it is forgotten for good"


def test_a_rebuild_uses_nothing_of_one_that_died():
    view = view_of(ROWS)
    for writes in (1, 2):
        store = MemoryStore()
        fold(view, store, 20)
        dying = DyingStore(store.values, writes)
        with pytest.raises(StorageError):
            fold(view_of([*ROWS, ("c", 12, 12, 7.0, "wrong")]), dying, 20)
        rewritten = view_of([*ROWS, ("a", 12, 12, 8.0, "right")])
        fold(rewritten, store, 20)
        assert answers(rewritten, store, 20) == answers(rewritten, fresh(rewritten, 20), 20)


def test_a_full_run_folds_everything_again_and_never_goes_back():
    store, view = MemoryStore(), view_of(ROWS)
    assert fold(view, store, 10, full=True).rebuilt == ""
    run = fold(view, store, 5, full=True)
    assert (run.rebuilt, run.until_us, run.events) == ("asked for", T0 + 10 * SECOND, 5)
    assert answers(view, store, 10) == answers(view, fresh(view, 10), 10)


def test_a_second_run_at_the_same_time_is_refused():
    store, view = MemoryStore(), view_of(ROWS)
    with store.exclusive(f"materialize-{plan_of(view).fingerprint[:16]}"), pytest.raises(StateError) as caught:
        fold(view, store, 10)
    assert caught.value.code == "busy"


def test_a_run_that_was_overtaken_writes_nothing():
    """Where a lock does not hold, on a network's disk say, the record's condition does."""
    view = view_of(ROWS)
    store = MemoryStore()
    fold(view, store, 5)

    class Overtaken(MemoryStore):
        def read(self, keys):
            found = super().read(keys)
            if len(keys) > 1:
                fold(view, store, 20)
            return found

    slow = Overtaken()
    slow.values = store.values
    with pytest.raises(StateError) as caught:
        fold(view, slow, 10)
    assert caught.value.code == "conflict"
    assert answers(view, store, 20) == answers(view, fresh(view, 20), 20)


def test_only_touched_entities_are_written():
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 10)
    before = dict(store.values)
    fold(view, store, 12)
    changed = {key for key, value in store.values.items() if before.get(key) != value}
    assert len(changed) == 2  # one new state, and the record


def test_lookups_beside_a_run_see_the_state_before_or_after_it():
    view = view_of(many_rows())
    store = MemoryStore()
    fold(view, store, 20, history_us=5 * SECOND)
    before = answers(view, store, 20)
    seen = []

    class Watched(MemoryStore):
        def write(self, items, *, expected=None):
            super().write(items, expected=expected)
            if record(self, view).watermark_us == T0 + 20 * SECOND:
                seen.append(answers(view, self, 20))

    watched = Watched()
    watched.values = store.values
    fold(view, watched, 60, history_us=5 * SECOND)
    assert len(seen) > 1
    assert all(answer == before for answer in seen)
    with pytest.raises(OutOfReachError):
        ask(view, store, USERS, 20)


def test_history_says_how_far_back_lookups_may_ask():
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 10, history_us=3 * SECOND)
    assert record(store, view).reach_us == T0 + 7 * SECOND
    assert ask(view, store, ["a"], 7).rows == ask(view, fresh(view, 7), ["a"], 7).rows
    with pytest.raises(OutOfReachError, match="reaches back to 2023-11-14T22:13:27Z"):
        ask(view, store, ["a"], 6.999999)


def test_a_longer_history_does_not_bring_back_what_was_dropped():
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 10, history_us=3 * SECOND)
    fold(view, store, 12, history_us=100 * SECOND)
    assert record(store, view).reach_us == T0 + 7 * SECOND


def test_a_view_that_keeps_everything_reaches_back_for_ever():
    view = view_of(ROWS, features={"sum": agg.sum(col("x")).lifetime()})
    store = fresh(view, 20, history_us=0)
    assert record(store, view).reach_us == NOTHING_YET
    assert ask(view, store, ["a"], 2).rows == [[0.5]]


@pytest.mark.parametrize(("damaged", "code"), [(b"?", "corrupt-state"), (None, "foreign-state")])
def test_a_damaged_state_stops_the_run_and_a_full_one_mends_it(damaged, code):
    """Also one of which nothing is left."""
    store, view = MemoryStore(), view_of(ROWS)
    fold(view, store, 10)
    key = next(key for key in store.values if key.endswith(b"a"))
    store.values[key] = store.values[key][:-1] + damaged if damaged else b""
    with pytest.raises(StateError, match="full=True") as caught:
        fold(view, store, 20)
    assert caught.value.code == code
    fold(view, store, 20, full=True)
    assert answers(view, store, 20) == answers(view, fresh(view, 20), 20)


def test_events_that_the_view_rejects_make_no_state():
    view = view_of(ROWS, where=col("user") != "a")
    store = fresh(view, 20)
    assert len(store.values) == 1 + 2
    assert set(ask(view, store, ["a"], 20).statuses[0]) == {"NOT_FOUND"}


def test_an_empty_source_moves_the_watermark():
    view = view_of([])
    store = fresh(view, 20)
    assert record(store, view).watermark_us == T0 + 20 * SECOND
    assert ask(view, store, ["a"], 20).statuses == [["NOT_FOUND"] * 4]


@pytest.mark.parametrize("writes", [1, 2])
def test_a_file_that_changes_under_a_run_stops_it_and_the_next_one_starts_over(tmp_path, writes):
    """Before its events are read, or after."""
    path = tmp_path / "events.parquet"
    view = view_of(many_rows())
    table = view.source.frame
    pq.write_table(table, path)
    stored = replace(view, source=FileSource("events", path=path, event_time="at", ingest_time="learned"))
    plan = plan_of(stored)
    store = MemoryStore()

    class Rewriting(MemoryStore):
        def write(self, items, *, expected=None):
            super().write(items, expected=expected)
            self.writes = getattr(self, "writes", 0) + 1
            if self.writes != writes:
                return
            changed = table.set_column(3, "x", pa.array([5.0] * len(table)))
            pq.write_table(changed, path)

    rewriting = Rewriting()
    rewriting.values = store.values
    scan = open_scan(stored.source, plan.source, keys=["user"], settings=SETTINGS)
    with scan, pytest.raises(SourceDataError):
        module.materialize_view(plan, scan, rewriting, until_us=T0 + 60 * SECOND)
    assert record(store, stored).watermark_us == NOTHING_YET
    assert fold(stored, store, 60).rebuilt == "the source changed after a run that did not end"
    assert answers(stored, store, 60) == answers(stored, fresh(stored, 60), 60)
