"""What every online store must be able to do, as tests that any store can be put to.

Derive a class, say how the store is opened, and let pytest collect it::

    from featurestore.testing import OnlineStoreConformance


    class TestMyStore(OnlineStoreConformance):
        def make_store(self):
            return MyStore("my://localhost/test")

**Every test begins by deleting all that the store holds**: give it a database, table or prefix of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import signal
import threading
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any, ClassVar

from featurestore.core.errors import StateError, StorageError
from featurestore.online.stores.store import OnlineStore

_SPAWN = multiprocessing.get_context("spawn")
_KEY = b"\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00i\x00"
"""Looks as keys look in use: binary, with zeros."""


class OnlineStoreConformance:
    """Tests of one kind of store; its methods named ``test_…`` are what pytest collects.

    The class must be importable and its instances picklable, as other processes open the store with them too.

    Attributes:
        shared_by_processes: Whether other processes that open the store see the same keys; if not, what needs them
            is skipped.
        release_seconds: How long a name may stay held after its holder has died.
        failure_seconds: How long a store whose server is down may take to say so.
        many: How many keys are read and written at once.
    """

    shared_by_processes: ClassVar[bool] = True
    release_seconds: ClassVar[float] = 20.0
    failure_seconds: ClassVar[float] = 10.0
    many: ClassVar[int] = 20_000

    def make_store(self) -> OnlineStore:
        """Open the store; each call of one test opens the same one."""
        raise NotImplementedError

    def make_unreachable_store(self) -> OnlineStore:
        """Open a store whose server is down; the test is skipped if a store has no server."""
        raise unittest.SkipTest("this store has no server")

    def take_away(self, name: str) -> None:
        """End the hold on a name from outside, as a restart of the server would; skipped if nothing can."""
        raise unittest.SkipTest(f"nothing takes '{name}' away from its holder in this store")

    # What is written is read.

    def test_what_was_written_is_read(self) -> None:
        """Values come back byte for byte, also empty ones; keys that do not exist are left out."""
        with self._emptied() as store:
            items = [(b"a", b"1"), (b"b", b""), (_KEY, bytes(range(256))), (_KEY + b"\xff", b"\x00")]
            store.write(items)
            assert store.read([key for key, _ in items] + [b"missing", b""]) == dict(items)

    def test_a_later_write_replaces_a_value(self) -> None:
        """There is one value per key: the last one."""
        with self._emptied() as store:
            store.write([(b"a", b"1"), (b"b", b"1")])
            store.write([(b"a", b"2")])
            assert store.read([b"a", b"b"]) == {b"a": b"2", b"b": b"1"}

    def test_the_last_of_several_values_for_one_key_counts(self) -> None:
        """A key may occur more than once in a write, and in a read."""
        with self._emptied() as store:
            store.write([(b"a", b"1"), (b"b", b"1"), (b"a", b"2")])
            assert store.read([b"a", b"b", b"a"]) == {b"a": b"2", b"b": b"1"}

    def test_nothing_is_read_and_written_too(self) -> None:
        """No keys and no items are allowed; a condition alone is checked and changes nothing."""
        with self._emptied() as store:
            assert store.read([]) == {}
            store.write([])
            store.write([], expected={})
            store.write([(b"a", b"1")])
            store.write([], expected={b"a": b"1", b"b": None})
            _refused(store, [], {b"a": b"2"})
            _refused(store, [], {b"a": None})
            assert store.read([b"a", b"b"]) == {b"a": b"1"}

    def test_large_values_are_kept(self) -> None:
        """A value may have a megabyte, and be compared."""
        with self._emptied() as store:
            large = bytes(range(256)) * 4096
            store.write([(b"a", large), (b"b", large[::-1])])
            assert store.read([b"a", b"b"]) == {b"a": large, b"b": large[::-1]}
            _refused(store, [(b"a", b"")], {b"a": large[:-1]})
            store.write([(b"a", b"small")], expected={b"a": large})
            assert store.read([b"a"]) == {b"a": b"small"}

    def test_keys_of_any_length_are_kept_apart(self) -> None:
        """Also keys that differ only far behind, and ends of lengths at which a store may change its ways."""
        common = hashlib.shake_256(b"a key that no index can compress").digest(9_000)
        lengths = (1, 500, *range(1_960, 2_012), 2_700, 4_000, 8_191, 8_192, len(common))
        keys = [common[:length] for length in lengths] + [common + bytes([end]) for end in range(3)]
        items = [(key, str(place).encode()) for place, key in enumerate(keys)]
        with self._emptied() as store:
            store.write(items, expected=dict.fromkeys(keys))
            assert store.read(keys) == dict(items)
            for key in keys:
                assert store.read([key, b"none"]) == {key: dict(items)[key]}
                _refused(store, [(key, b"new")], {key: b"other"})
                _refused(store, [(b"none", b"new")], {key: None})
            assert store.read([common + b"other"]) == {}
            store.write([(keys[-1], b"new"), (keys[0], b"new")], expected=dict(items[-2:]))
            assert store.read(keys) == dict(items) | {keys[-1]: b"new", keys[0]: b"new"}
            # A prefix of any length deletes the keys that begin with it, and no other.
            for prefix in (keys[-1], common + b"other", common[:8_192], common[:2_001], common[:1_970], common[:1_960]):
                left = [key for key in keys if not key.startswith(prefix)]
                assert store.delete(prefix) == len(keys) - len(left), len(prefix)
                assert set(store.read(keys)) == set(left), len(prefix)
                keys = left

    def test_many_keys_are_read_and_written_at_once(self) -> None:
        """As many as a run of materialize writes, and then some."""
        with self._emptied() as store:
            items = [(_KEY + number.to_bytes(4, "big"), b"%d" % number) for number in range(self.many)]
            store.write(items)
            assert store.read([key for key, _ in items]) == dict(items)
            store.write([(key, value + b"!") for key, value in items], expected=dict(items))
            assert store.read([items[0][0], items[-1][0]]) == {
                items[0][0]: b"0!",
                items[-1][0]: b"%d!" % (self.many - 1),
            }
            assert store.delete(_KEY) == self.many

    def test_another_opening_sees_what_was_written(self) -> None:
        """Written states exist for every process that opens the store."""
        with self._emptied() as store, self._opened() as other:
            store.write([(b"a", b"1")])
            assert other.read([b"a"]) == {b"a": b"1"}
            other.write([(b"a", b"2")], expected={b"a": b"1"})
            assert store.read([b"a"]) == {b"a": b"2"}

    def test_a_closed_store_can_be_used_again(self) -> None:
        """Closing releases connections and nothing else; it can be repeated."""
        with self._emptied() as store:
            store.write([(b"a", b"1")])
            store.close()
            store.close()
            assert store.read([b"a"]) == {b"a": b"1"}
            store.close()
            store.write([(b"a", b"2")], expected={b"a": b"1"})
            store.close()
            assert store.delete(b"a") == 1

    def test_closing_disturbs_nobody(self) -> None:
        """Reads and writes while another thread closes the store are answered correctly."""
        with self._emptied() as store:
            has_ended = threading.Event()
            with ThreadPoolExecutor(4) as pool:
                store.write([(b"a", b"1" * 10_000), (b"n", b"0"), (b"m", b"0")])
                readers = [pool.submit(_read_until, store, [b"a"], has_ended) for _ in range(3)]
                counter = pool.submit(_count, store, 40)
                try:
                    while not counter.done():
                        store.close()
                        sleep(0.001)
                finally:
                    has_ended.set()
                counter.result()
                for reader in readers:
                    assert all(values == {b"a": b"1" * 10_000} for values in reader.result())
            assert store.read([b"n"]) == {b"n": b"40"}

    # Deleting by prefix.

    def test_deleting_a_prefix_deletes_nothing_else(self) -> None:
        """Prefixes are bytes: neither zeros, nor the highest byte, nor signs of patterns are special."""
        prefixes = [
            b"ab",
            b"ab\x00",
            b"a\xff",
            b"\xff",
            b"\xff\xff",
            b"a*",
            b"a?",
            b"a[bc]",
            b"a\\",
            b"[^a]",
            b"a-b",
            b"",
        ]
        keys = [b"a", b"abc", b"ac", b"b", b"\x00", b"\x00\x00", b"\xff\xff\xff", b"a]", b"\\a", b"A", b"AB", b"\x80"]
        keys += [prefix + tail for prefix in prefixes for tail in (b"", b"\x00", b"\xff", b"x") if prefix + tail]
        with self._emptied() as store:
            for prefix in prefixes:
                store.write([(key, key) for key in keys])
                gone = {key for key in keys if key.startswith(prefix)}
                assert store.delete(prefix) == len(gone), prefix
                assert store.read(keys) == {key: key for key in keys if key not in gone}, prefix
                assert store.delete(prefix) == 0, prefix

    def test_a_deleted_key_is_absent(self) -> None:
        """A condition on a key that was deleted meanwhile fails; the key can be made again."""
        with self._emptied() as store:
            store.write([(b"a", b"1")])
            assert store.delete(b"a") == 1
            _refused(store, [(b"a", b"2")], {b"a": b"1"})
            store.write([(b"a", b"2")], expected={b"a": None})
            assert store.read([b"a"]) == {b"a": b"2"}

    # All or nothing, on a condition.

    def test_a_write_whose_condition_fails_writes_nothing(self) -> None:
        """Neither the keys of the condition nor others, whichever of the expectations fails."""
        with self._emptied() as store:
            store.write([(b"a", b"1"), (b"b", b"1"), (b"e", b"")])
            wrong: list[dict[bytes, bytes | None]] = [
                {b"a": b"2"},
                {b"a": None},
                {b"c": b"1"},
                {b"c": b""},
                {b"e": None},
                {b"a": b""},
                {b"a": b"1", b"b": b"2"},
                {b"a": b"1", b"b": None},
                {b"a": b"1", b"c": b"1"},
                {b"c": None, b"b": b"2"},
                {b"c": None, b"b": None},
            ]
            for expected in wrong:
                _refused(store, [(b"a", b"3"), (b"c", b"3"), (b"d", b"3")], expected)
                assert store.read([b"a", b"b", b"c", b"d", b"e"]) == {b"a": b"1", b"b": b"1", b"e": b""}, expected

    def test_a_write_whose_condition_holds_writes_all(self) -> None:
        """Keys of the condition may be written or not; those that must not exist are not made by asking."""
        with self._emptied() as store:
            store.write([(b"a", b"1"), (b"b", b"1"), (b"e", b"")])
            store.write(
                [(b"a", b"2"), (b"d", b"2")], expected={b"a": b"1", b"b": b"1", b"c": None, b"d": None, b"e": b""}
            )
            assert store.read([b"a", b"b", b"c", b"d", b"e"]) == {b"a": b"2", b"b": b"1", b"d": b"2", b"e": b""}
            store.write([(b"a", b"3"), (b"c", b"")], expected={b"c": None})
            _refused(store, [(b"a", b"4")], {b"c": None})
            assert store.read([b"a", b"c"]) == {b"a": b"3", b"c": b""}

    def test_readers_see_writes_whole(self) -> None:
        """What one read returns was there at one moment, also for more keys than fit in a packet."""
        with self._emptied() as store, self._opened() as other:
            keys = [_KEY + number.to_bytes(2, "big") for number in range(2_000)]
            store.write([(key, b"0") for key in keys])
            has_ended = threading.Event()
            with ThreadPoolExecutor(2) as pool:
                readers = [pool.submit(_read_until, reader, keys, has_ended) for reader in (store, other)]
                try:
                    for version in range(1, 15):
                        store.write([(key, b"%d" % version) for key in keys])
                finally:
                    has_ended.set()
                seen = [reader.result() for reader in readers]
            for snapshots in seen:
                assert all(len(set(values.values())) == 1 and len(values) == len(keys) for values in snapshots)
                versions = [int(values[keys[0]]) for values in snapshots]
                assert versions == sorted(versions)

    # An older write never replaces a newer value.

    def test_writers_that_read_the_same_value_do_not_both_succeed(self) -> None:
        """In any order of two writers' steps, a writer that has not read the other's last write is refused."""
        for start in (None, b"0"):
            for order in sorted(set(itertools.permutations("aabb"))):
                with self._emptied() as store, self._opened() as other:
                    if start is not None:
                        store.write([(b"n", start)])
                    writers = {"a": _Counter(store), "b": _Counter(other)}
                    for name in order:
                        writers[name].step()
                    succeeded = [writer.has_written for writer in writers.values()]
                    is_overlapping = order[0] != order[1]
                    assert sorted(succeeded) == ([False, True] if is_overlapping else [True, True]), order
                    assert store.read([b"n"]) == {b"n": b"%d" % sum(succeeded)}, order

    def test_a_writer_that_was_held_up_cannot_put_an_old_value_back(self) -> None:
        """However many writes came between, also one that wrote the same key without a condition, or deleted it."""
        with self._emptied() as store, self._opened() as other:
            store.write([(b"n", b"1")])
            late = store.read([b"n"])
            other.write([(b"n", b"2")], expected=late)
            other.write([(b"n", b"3")])
            _refused(store, [(b"n", b"1 and more")], late)
            assert store.read([b"n"]) == {b"n": b"3"}
            other.delete(b"n")
            _refused(store, [(b"n", b"1 and more")], late)
            assert store.read([b"n"]) == {}

    def test_a_condition_on_a_record_guards_other_keys(self) -> None:
        """A writer that rests on an old record writes none of its states, although no other writer changed them."""
        with self._emptied() as store, self._opened() as other:
            store.write([(b"record", b"1"), (b"record state", b"old")])
            other.write([(b"record", b"2")], expected={b"record": b"1"})
            _refused(store, [(b"record state", b"stale")], {b"record": b"1"})
            assert store.read([b"record state"]) == {b"record state": b"old"}

    def test_states_never_belong_to_an_older_record(self) -> None:
        """Also while the record changes: at any time, a state that rests on it has its version."""
        with self._emptied() as store, self._opened() as other:
            store.write([(b"record", b"0"), (b"state", b"0")])
            has_ended = threading.Event()
            with ThreadPoolExecutor(4) as pool:
                reader = pool.submit(_read_until, store, [b"record", b"state"], has_ended)
                resting = [pool.submit(_rest_on_record, opened, has_ended) for opened in (store, other)]
                try:
                    pool.submit(_advance_record, other, 40).result()
                finally:
                    has_ended.set()
                assert all(values[b"record"] == values[b"state"] for values in reader.result())
                assert sum(worker.result() for worker in resting) > 0
            assert store.read([b"record", b"state"]) == {b"record": b"40", b"state": b"40"}

    def test_of_many_that_make_a_key_one_succeeds(self) -> None:
        """Each expects that it does not exist; the first one is not overwritten."""
        with self._emptied() as store, self._opened() as other, ThreadPoolExecutor(4) as pool:
            for number in range(30):
                start = threading.Barrier(4)
                makers = [
                    pool.submit(_make, opened, b"k%d" % number, b"%d" % maker, start)
                    for maker, opened in enumerate([store, other] * 2)
                ]
                made = [b"%d" % maker for maker, made in enumerate(makers) if made.result()]
                assert made == [store.read([b"k%d" % number])[b"k%d" % number]]

    def test_events_that_arrive_in_any_order_leave_the_newest(self) -> None:
        """Threads that each bring events in an order of their own; readers never see time go back."""
        with self._emptied() as store:
            orders = [list(range(1, 41)), list(range(40, 0, -1)), [1 + 7 * i % 40 for i in range(40)]]
            has_ended = threading.Event()
            with ThreadPoolExecutor(len(orders) + 1) as pool:
                reader = pool.submit(_read_until, store, [b"n"], has_ended)
                try:
                    for done in [pool.submit(_keep_newest, store, order) for order in orders]:
                        done.result()
                finally:
                    has_ended.set()
                seen = [int(values.get(b"n", b"0")) for values in reader.result()]
            assert seen == sorted(seen)
            assert store.read([b"n"]) == {b"n": b"40"}

    def test_of_threads_that_count_none_is_lost(self) -> None:
        """Each adds one to what it read, many times; also the first, when there is nothing to read yet."""
        with self._emptied() as store, self._opened() as other, ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(_count, opened, 15) for opened in [store, other] * 4]:
                done.result()
            assert store.read([b"n", b"m"]) == {b"n": b"120", b"m": b"120"}

    def test_of_processes_that_count_none_is_lost(self) -> None:
        """As threads do."""
        self._need_processes()
        with self._emptied() as store:
            workers = [_SPAWN.Process(target=_count_elsewhere, args=(self.make_store, 40)) for _ in range(2)]
            for worker in workers:
                worker.start()
            _count(store, 40)
            for worker in workers:
                worker.join()
            assert [worker.exitcode for worker in workers] == [0, 0]
            assert store.read([b"n", b"m"]) == {b"n": b"120", b"m": b"120"}

    def test_transfers_in_both_directions_neither_block_nor_lose(self) -> None:
        """Writers of the same keys in different orders: all come to an end, and the sum stays."""
        with self._emptied() as store, ThreadPoolExecutor(4) as pool:
            store.write([(b"a", b"100"), (b"b", b"100")])
            transfers = [(b"a", b"b"), (b"b", b"a")] * 2
            for done in [pool.submit(_transfer, store, source, target, 10) for source, target in transfers]:
                done.result()
            assert store.read([b"a", b"b"]) == {b"a": b"100", b"b": b"100"}

    def test_many_writers_and_readers_of_few_entities_agree(self) -> None:
        """States and their sum are written together: every reader finds the sum right at every moment."""
        keys = [b"e%d" % number for number in range(4)]
        with self._emptied() as store, self._opened() as other:
            has_ended = threading.Event()
            with ThreadPoolExecutor(6) as pool:
                readers = [pool.submit(_read_until, reader, [*keys, b"sum"], has_ended) for reader in (store, other)]
                try:
                    writers = [pool.submit(_add, (store, other)[n % 2], keys[n], keys[n - 1], 12) for n in range(4)]
                    for done in writers:
                        done.result()
                finally:
                    has_ended.set()
                for reader in readers:
                    for values in reader.result():
                        assert sum(int(values.get(key, b"0")) for key in keys) == int(values.get(b"sum", b"0"))
            assert store.read([b"sum"]) == {b"sum": b"96"}

    def test_a_writer_that_is_killed_leaves_whole_writes(self) -> None:
        """Wherever it was: a write is there for all of its keys or for none, and what was acknowledged is there."""
        self._need_processes()
        with self._emptied() as store:
            keys = [_KEY + number.to_bytes(2, "big") for number in range(500)]
            for tries in range(2):
                acknowledged = _SPAWN.Value("q", -1, lock=False)
                writer = _SPAWN.Process(target=_write_versions, args=(self.make_store, keys, acknowledged))
                writer.start()
                deadline = monotonic() + 60
                while acknowledged.value < 5 + 3 * tries:
                    assert monotonic() < deadline, "no version was written"
                assert writer.pid is not None
                os.kill(writer.pid, signal.SIGKILL)
                writer.join()
                found = store.read(keys)
                assert len(found) == len(keys)
                assert len(set(found.values())) == 1
                assert int(found[keys[0]]) >= acknowledged.value
                store.write([(keys[0], b"-1")], expected={keys[0]: found[keys[0]]})

    # Names held alone.

    def test_a_name_is_held_by_one_alone(self) -> None:
        """Among openings and threads; other names are free, and so is the name afterwards, also after an error."""
        with self._emptied() as store, self._opened() as other:
            with store.exclusive("view") as hold:
                assert _is_busy(other, "view")
                assert _is_busy(store, "view")
                with ThreadPoolExecutor(1) as pool:
                    assert pool.submit(_is_busy, store, "view").result()
                    assert pool.submit(hold.is_held).result()
                with other.exclusive("another view"):
                    pass
            with suppress(ZeroDivisionError), other.exclusive("view"):
                raise ZeroDivisionError
            assert not _is_busy(store, "view")

    def test_a_name_is_no_key(self) -> None:
        """It is neither read nor deleted with the keys."""
        with self._emptied() as store:
            with store.exclusive("view"):
                assert store.read([b"view"]) == {}
                assert store.delete(b"") == 0
                assert _is_busy(store, "view")
            assert not _is_busy(store, "view")

    def test_a_name_stays_held_for_as_long_as_the_work_takes(self) -> None:
        """Longer than a dead holder's name, as long as the holder lives."""
        with self._emptied() as store, self._opened() as other, store.exclusive("view") as hold:
            deadline = monotonic() + min(self.release_seconds, 1.5)
            while monotonic() < deadline:
                assert _is_busy(other, "view")
                assert hold.is_held()
                sleep(0.1)

    def test_who_lost_a_name_is_told(self) -> None:
        """As soon as another holder can have it: when its holder checks, and when it is released."""
        with self._emptied() as store, self._opened() as other:
            is_told = False
            try:
                with store.exclusive("view") as hold:
                    self.take_away("view")
                    deadline = monotonic() + self.release_seconds
                    while _is_busy(other, "view"):
                        assert monotonic() < deadline, "a name that was taken away stays held"
                        sleep(0.05)
                    assert not hold.is_held()
                    with other.exclusive("view") as taken:
                        assert not hold.is_held()
                        assert taken.is_held()
                    assert not hold.is_held(), "what was lost stays lost"
            except StateError as error:
                is_told = error.code == "lease-lost"
            assert is_told, "a lost name was released without an error"

    def test_of_many_that_want_a_name_one_at_a_time_has_it(self) -> None:
        """Counting without a condition loses nothing under a name."""
        with self._emptied() as store, self._opened() as other, ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(_count_alone, opened, 5) for opened in [store, other] * 2]:
                done.result()
            assert store.read([b"n"]) == {b"n": b"20"}

    def test_a_name_is_free_again_when_its_holder_is_killed(self) -> None:
        """It is held by another process, and free after that has died."""
        self._need_processes()
        with self._emptied() as store:
            is_held = _SPAWN.Event()
            holder = _SPAWN.Process(target=_hold, args=(self.make_store, "view", is_held))
            holder.start()
            try:
                assert is_held.wait(60)
                assert _is_busy(store, "view")
            finally:
                assert holder.pid is not None
                os.kill(holder.pid, signal.SIGKILL)
                holder.join()
            deadline = monotonic() + self.release_seconds
            while _is_busy(store, "view"):
                assert monotonic() < deadline, "the name of a dead holder stays held"
                sleep(0.05)

    # A server that is down.

    def test_a_server_that_is_down_is_an_error_and_quick(self) -> None:
        """Every operation says so with the library's error; nothing hangs, nothing is tried for long."""
        operations: list[Callable[[OnlineStore], object]] = [
            lambda store: store.read([b"a"]),
            lambda store: store.write([(b"a", b"1")]),
            lambda store: store.write([(b"a", b"1")], expected={b"a": None}),
            lambda store: store.delete(b"a"),
            lambda store: store.exclusive("view").__enter__(),
        ]
        for operation in operations:
            begun = monotonic()
            try:
                with _closing(self.make_unreachable_store()) as store:
                    operation(store)
            except StorageError:
                is_told = True
            else:
                is_told = False
            assert is_told, "a store without a server answered"
            assert monotonic() - begun < self.failure_seconds

    @contextmanager
    def _opened(self) -> Iterator[OnlineStore]:
        with _closing(self.make_store()) as store:
            yield store

    @contextmanager
    def _emptied(self) -> Iterator[OnlineStore]:
        with self._opened() as store:
            store.delete(b"")
            yield store

    def _need_processes(self) -> None:
        if not self.shared_by_processes:
            raise unittest.SkipTest("this store is not shared by processes")


class _Counter:
    """A writer in two steps: reads a number, then writes the next one unless another writer was faster."""

    def __init__(self, store: OnlineStore) -> None:
        self._store = store
        self._found: bytes | None = None
        self._has_read = False
        self.has_written = False

    def step(self) -> None:
        if not self._has_read:
            self._found = self._store.read([b"n"]).get(b"n")
            self._has_read = True
            return
        number = int(self._found or b"0") + 1
        with suppress(StateError):
            self._store.write([(b"n", b"%d" % number)], expected={b"n": self._found})
            self.has_written = True


@contextmanager
def _closing(store: OnlineStore) -> Iterator[OnlineStore]:
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _only(code: str) -> Iterator[None]:
    """Let a refusal of one code pass, and no other."""
    try:
        yield
    except StateError as error:
        if error.code != code:
            raise


def _refused(store: OnlineStore, items: Sequence[tuple[bytes, bytes]], expected: Mapping[bytes, bytes | None]) -> None:
    """Make sure that a write is refused for its condition."""
    is_refused = True
    with _only("conflict"):
        store.write(items, expected=expected)
        is_refused = False
    assert is_refused, f"written in spite of {expected}"


def _is_busy(store: OnlineStore, name: str) -> bool:
    with _only("busy"), store.exclusive(name):
        return False
    return True


def _read_until(store: OnlineStore, keys: Sequence[bytes], has_ended: threading.Event) -> list[dict[bytes, bytes]]:
    """Read again and again; return what was seen."""
    seen = [store.read(keys)]
    while not has_ended.is_set():
        seen.append(store.read(keys))
    return seen


def _until_written(change: Callable[[], None]) -> None:
    """Repeat a conditional change until no other writer intervenes."""
    while True:
        with _only("conflict"):
            return change()


def _keep_newest(store: OnlineStore, instants: Sequence[int]) -> None:
    """Put the newer of what is stored and what arrives."""
    for instant in instants:

        def put(instant: int = instant) -> None:
            found = store.read([b"n"]).get(b"n")
            if found is None or int(found) < instant:
                store.write([(b"n", b"%d" % instant)], expected={b"n": found})

        _until_written(put)


def _rest_on_record(store: OnlineStore, has_ended: threading.Event) -> int:
    """Write a state of the record's version, on condition of the record; return how often that succeeded."""
    successes = 0
    while not has_ended.is_set():
        record = store.read([b"record"])[b"record"]
        with _only("conflict"):
            store.write([(b"state", record)], expected={b"record": record})
            successes += 1
    return successes


def _advance_record(store: OnlineStore, times: int) -> None:
    """Write the next version of the record and its state together."""

    def advance() -> None:
        record = store.read([b"record"])[b"record"]
        following = b"%d" % (int(record) + 1)
        store.write([(b"record", following), (b"state", following)], expected={b"record": record})

    for _ in range(times):
        _until_written(advance)


def _make(store: OnlineStore, key: bytes, value: bytes, start: threading.Barrier) -> bool:
    """Make a key with all others at once; tell whether this one did."""
    start.wait()
    with _only("conflict"):
        store.write([(key, value)], expected={key: None})
        return True
    return False


def _count(store: OnlineStore, times: int) -> None:
    """Add one to two numbers, so many times."""

    def add() -> None:
        found = store.read([b"n", b"m"])
        items = [(key, b"%d" % (int(found.get(key, b"0")) + 1)) for key in (b"n", b"m")]
        store.write(items, expected={key: found.get(key) for key in (b"n", b"m")})

    for _ in range(times):
        _until_written(add)


def _count_elsewhere(make_store: Callable[[], OnlineStore], times: int) -> None:
    with _closing(make_store()) as store:
        _count(store, times)


def _count_alone(store: OnlineStore, times: int) -> None:
    """Add one without a condition, but under a name."""
    for _ in range(times):
        while True:
            with suppress(StateError), store.exclusive("counting"):
                number = int(store.read([b"n"]).get(b"n", b"0")) + 1
                store.write([(b"n", b"%d" % number)])
                break
            sleep(0.001)


def _transfer(store: OnlineStore, source: bytes, target: bytes, times: int) -> None:
    """Move one from a number to another, both named in this order."""

    def move() -> None:
        found = store.read([source, target])
        items = [(source, b"%d" % (int(found[source]) - 1)), (target, b"%d" % (int(found[target]) + 1))]
        store.write(items, expected={source: found[source], target: found[target]})

    for _ in range(times):
        _until_written(move)


def _add(store: OnlineStore, first: bytes, second: bytes, times: int) -> None:
    """Add one to two numbers and two to the sum."""

    def add() -> None:
        found = store.read([first, second, b"sum"])
        steps = {first: 1, second: 1, b"sum": 2}
        items = [(key, b"%d" % (int(found.get(key, b"0")) + step)) for key, step in steps.items()]
        store.write(items, expected={key: found.get(key) for key in steps})

    for _ in range(times):
        _until_written(add)


def _write_versions(make_store: Callable[[], OnlineStore], keys: Sequence[bytes], acknowledged: Any) -> None:
    """Write all keys with one version after the other until killed."""
    with _closing(make_store()) as store:
        for version in itertools.count():
            store.write([(key, b"%d" % version) for key in keys])
            acknowledged.value = version


def _hold(make_store: Callable[[], OnlineStore], name: str, is_held: Any) -> None:
    """Hold a name until killed."""
    with _closing(make_store()) as store, store.exclusive(name):
        is_held.set()
        sleep(600)
