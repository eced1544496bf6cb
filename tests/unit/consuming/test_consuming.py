"""Consuming a topic over TCP: a broker of librdkafka's own, which speaks the protocol and keeps nothing on disk."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

import msgspec
import pyarrow as pa
import pytest
from confluent_kafka import Producer

from featurestore import FeatureStore
from featurestore.core.errors import ConfigError, RequestError, StorageError
from featurestore.online.pushing.dead_letters import DeadLetter
from featurestore.operations.consuming import Consumed, consume
from tests.unit.pushing.test_push import orders, spending

AT = (datetime.now(UTC) - timedelta(hours=1)).replace(microsecond=0)


@pytest.fixture(scope="module")
def producer():
    return Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1})


@pytest.fixture
def brokers(producer):
    return ",".join(str(broker).partition("/")[0] for broker in producer.list_topics(timeout=10).brokers.values())


@pytest.fixture
def store(tmp_path):
    with FeatureStore.local(tmp_path / "store") as opened:
        opened.apply(spending(orders(tmp_path)))
        yield opened


def order(number, **changes):
    return {"user": "a", "amount": 1.0, "at": AT.isoformat(), "id": number} | changes


def arrow(*numbers, **changes):
    rows = [{"user": "a", "amount": 1.0, "at": AT, "id": number} for number in numbers]
    table = pa.Table.from_pylist(rows)
    for name, values in changes.items():
        table = table.set_column(table.column_names.index(name), name, values)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def send(producer, topic, *values):
    for value in values:
        producer.produce(topic, value if isinstance(value, bytes) else json.dumps(value).encode(), partition=0)
    producer.flush(10)


class Running:
    """A consumer in a thread, until it has read so many messages."""

    def __init__(self, store, brokers, topic, dead_letters, **more):
        self.done, self.stop, self.error = Consumed(), Event(), None
        # The broker waits that long for members that are gone before it gives their partitions to others.
        options = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, **more}
        self.arguments = {"brokers": brokers, "topic": topic, "group": topic, "options": options}
        self.arguments["dead_letters"] = dead_letters
        self.thread = Thread(target=self._run, args=(store,))
        self.thread.start()

    def _run(self, store):
        try:
            consume(store, "orders", stop=self.stop, done=self.done, **self.arguments)
        except Exception as error:  # it is looked at in the test's thread
            self.error = error

    def until(self, messages):
        ends = time.monotonic() + 60
        while self.done.messages < messages and self.thread.is_alive() and time.monotonic() < ends:
            time.sleep(0.02)
        self.stop.set()
        self.thread.join()
        assert self.done.messages >= messages or self.error is not None
        return self.done


def totals(store):
    store.catch_up()
    return store.get_online_features("model", [{"user": "a"}]).to_dicts()[0]


def test_events_of_every_form_are_pushed_and_the_poisonous_laid_aside(store, brokers, producer, tmp_path):
    letters = tmp_path / "dead" / "orders.jsonl"
    bad = order(4, amount="much")
    send(
        producer, "forms", order(1), [order(2), bad], arrow(3, 1), b"\xff\xff\xff\xffnonsense", b"{", order(5), order(2)
    )
    done = Running(store, brokers, "forms", letters).until(7)
    assert (done.messages, done.accepted, done.duplicates, done.dead) == (7, 4, 2, 3)
    assert totals(store)["spending__count"] == 4
    found = [msgspec.json.decode(line, type=DeadLetter) for line in letters.read_bytes().splitlines()]
    assert sorted((letter.offset, letter.row, letter.field) for letter in found if letter.row is not None) == [
        (1, 1, "amount")
    ]
    assert sorted(letter.offset for letter in found) == [1, 3, 4]
    assert {base64.b64decode(letter.value) for letter in found} >= {b"{", b"\xff\xff\xff\xffnonsense"}


def not_unicode():
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])


POISON = {
    "an integer beyond int64": arrow(1, id=pa.array([2**64 - 1], pa.uint64())),
    "an instant that no calendar has": arrow(1, at=pa.array([2**60], pa.timestamp("s", "UTC"))),
    "JSON that is too deep": b"[" * 100_000 + b"]" * 100_000,
    "JSON that is no text": b'"\xff\xfe"',
    "an Arrow stream that is cut off": arrow(1)[:-200],
    "an Arrow stream with other bytes": arrow(1)[:-80] + b"\xff" * 60 + arrow(1)[-20:],
    "text that is no UTF-8": arrow(1, user=not_unicode()),
    "an index of no word": arrow(
        1, user=pa.DictionaryArray.from_arrays(pa.array([7], pa.int8()), pa.array(["a"]), safe=False)
    ),
}


@pytest.mark.parametrize("kind", POISON)
def test_no_message_stops_the_stream(store, brokers, producer, tmp_path, kind):
    """Whatever a message holds, it is laid aside, and those beside it are pushed."""
    topic = kind.replace(" ", "-")
    send(producer, topic, order(10), POISON[kind], order(11), arrow(12))
    done = Running(store, brokers, topic, tmp_path / "dead").until(4)
    assert (done.messages, done.accepted, done.dead) == (4, 3, 1)
    (letter,) = [msgspec.json.decode(line, type=DeadLetter) for line in (tmp_path / "dead").read_bytes().splitlines()]
    assert letter.offset == 1 and letter.problem
    assert base64.b64decode(letter.value) == POISON[kind]
    assert totals(store)["spending__count"] == 3


def test_a_message_that_a_push_fails_over_is_found_among_others(store, brokers, producer, tmp_path, monkeypatch):
    """Whatever goes wrong with it: of messages that are pushed together only that one is laid aside."""
    push = store.push

    def choosy(source, events, **options):
        if any(event["id"] == 3 for event in events):
            raise TypeError("I do not like threes")
        return push(source, events, **options)

    monkeypatch.setattr(store, "push", choosy)
    send(producer, "choosy", *(order(number) for number in range(7)))
    done = Running(store, brokers, "choosy", tmp_path / "dead").until(7)
    assert (done.messages, done.accepted, done.dead) == (7, 6, 1)
    (letter,) = [msgspec.json.decode(line, type=DeadLetter) for line in (tmp_path / "dead").read_bytes().splitlines()]
    assert (letter.offset, letter.problem) == (3, "I do not like threes")


def test_a_source_that_is_gone_ends_the_stream_and_lays_nothing_aside(store, brokers, producer, tmp_path, monkeypatch):
    push = store.push

    def gone(source, events, **options):
        if events:
            raise RequestError("there is no source 'orders' that accepts pushes", code="unknown-source")
        return push(source, events, **options)

    monkeypatch.setattr(store, "push", gone)
    send(producer, "gone", order(1), order(2))
    running = Running(store, brokers, "gone", tmp_path / "dead")
    running.thread.join(60)
    assert isinstance(running.error, RequestError)
    assert not (tmp_path / "dead").exists()


def said_while_waiting(store, brokers, topic, folder, caplog):
    running = Running(store, brokers, topic, folder / "dead")
    ends = time.monotonic() + 60
    while not caplog.messages and time.monotonic() < ends:
        time.sleep(0.05)
    time.sleep(1.5)
    running.until(0)
    return caplog.messages


def test_a_topic_that_is_not_there_is_said_once(store, brokers, tmp_path, caplog):
    (said,) = said_while_waiting(store, brokers, "no_such_topic", tmp_path, caplog)
    assert said.startswith("topic 'no_such_topic' does not deliver, and is retried: ")
    assert "not available" in said


def test_brokers_that_cannot_be_reached_are_said_once(store, tmp_path, caplog):
    said = said_while_waiting(store, "127.0.0.1:1", "orders", tmp_path, caplog)
    assert any("Connection refused" in one for one in said)
    assert len(said) == len(set(said)) <= 2


def test_what_is_read_again_after_a_crash_counts_once(store, brokers, producer, tmp_path, monkeypatch):
    """The events were committed to the log, their offsets were not: the next run reads them again."""
    send(producer, "again", *(order(number) for number in range(5)))
    from confluent_kafka import Consumer

    class Dying(Consumer):
        def commit(self, *_, **__):
            raise StorageError("died before the offsets were committed")

    with monkeypatch.context() as patched:
        patched.setattr("confluent_kafka.Consumer", Dying)
        running = Running(store, brokers, "again", tmp_path / "dead")
        running.until(5)
        assert isinstance(running.error, StorageError)
    send(producer, "again", order(5))
    done = Running(store, brokers, "again", tmp_path / "dead").until(6)
    assert (done.accepted, done.duplicates) == (1, 5)
    assert totals(store)["spending__count"] == 6
    assert not (tmp_path / "dead").exists()


@pytest.fixture
def failing_log(store, monkeypatch):
    """Lets the log fail for so many pushes to come."""
    log, failures = store.parts.event_log, []
    taken = log.append

    def append(source, events, **options):
        if events.num_rows and failures:
            raise failures.pop()
        return taken(source, events, **options)

    monkeypatch.setattr(log, "append", append)
    return failures


def until(is_true):
    ends = time.monotonic() + 60
    while not is_true() and time.monotonic() < ends:
        time.sleep(0.02)
    assert is_true()


def test_a_database_that_restarts_is_waited_for(store, brokers, producer, tmp_path, failing_log, caplog):
    """The messages in hand are pushed once it is back; it is said once that it is away, and that it is back."""
    failing_log += [StorageError("the database restarts", code="event-log-unavailable")] * 3
    send(producer, "restarts", order(1), order(2))
    running = Running(store, brokers, "restarts", tmp_path / "dead")
    done = running.until(2)
    assert (running.error, done.accepted, failing_log) == (None, 2, [])
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "the push is retried until it succeeds",
        "pushes succeed again",
    ]
    assert totals(store)["spending__count"] == 2


def test_who_is_stopped_during_an_outage_leaves_the_offsets(store, brokers, producer, tmp_path, failing_log):
    failing_log += [StorageError("the database is away")] * 1_000
    send(producer, "stopped", order(1))
    running = Running(store, brokers, "stopped", tmp_path / "dead")
    until(lambda: len(failing_log) < 1_000)
    running.stop.set()
    running.thread.join(60)
    assert (running.error, running.done.messages) == (None, 0)
    failing_log.clear()
    assert Running(store, brokers, "stopped", tmp_path / "dead").until(1).accepted == 1


def with_commits(monkeypatch, *codes):
    """Let the next commits of consumers fail with these errors."""
    from confluent_kafka import Consumer, KafkaError, KafkaException

    left = list(codes)

    class Refused(Consumer):
        def commit(self, *given, **options):
            if left:
                raise KafkaException(KafkaError(getattr(KafkaError, left.pop(0))))
            return super().commit(*given, **options)

    monkeypatch.setattr("confluent_kafka.Consumer", Refused)
    return left


@pytest.mark.parametrize("code", ["REBALANCE_IN_PROGRESS", "_ASSIGNMENT_LOST", "NOT_COORDINATOR", "_TRANSPORT"])
def test_offsets_that_a_rebalance_refuses_end_no_consumer(store, brokers, producer, tmp_path, monkeypatch, code):
    left = with_commits(monkeypatch, code, code)
    topic = f"rebalance-{code.lower()}"
    running = Running(store, brokers, topic, tmp_path / "dead")
    for number in range(4):
        send(producer, topic, order(number))
        until(lambda number=number: running.done.messages > number or not running.thread.is_alive())
    done = running.until(4)
    assert (running.error, left, done.accepted) == (None, [], 4)
    assert totals(store)["spending__count"] == 4


@pytest.mark.parametrize("code", ["GROUP_AUTHORIZATION_FAILED", "FENCED_INSTANCE_ID"])
def test_offsets_that_are_refused_for_good_end_the_consumer(store, brokers, producer, tmp_path, monkeypatch, code):
    with_commits(monkeypatch, code)
    send(producer, f"refused-{code.lower()}", order(1))
    running = Running(store, brokers, f"refused-{code.lower()}", tmp_path / "dead")
    running.thread.join(60)
    assert isinstance(running.error, StorageError)
    assert running.error.code == "kafka"


def test_a_push_that_takes_longer_than_the_group_waits_ends_no_consumer(
    store, brokers, producer, tmp_path, monkeypatch
):
    """The group gives the partition away, and back; what was pushed is read again, and counts once."""
    push, slow = store.push, [7.0]

    def slowly(source, events, **options):
        if events and slow:
            time.sleep(slow.pop())
        return push(source, events, **options)

    monkeypatch.setattr(store, "push", slowly)
    send(producer, "slow", order(1), order(2))
    running = Running(store, brokers, "slow", tmp_path / "dead", **{"max.poll.interval.ms": 6000})
    until(lambda: running.done.messages >= 2)
    send(producer, "slow", order(3))
    until(lambda: running.done.accepted >= 3 or not running.thread.is_alive())
    done = running.until(3)
    assert (running.error, done.accepted) == (None, 3)
    assert totals(store)["spending__count"] == 3


def test_sources_that_cannot_be_consumed_into_are_refused(store, tmp_path):
    options = {"brokers": "127.0.0.1:1", "topic": "t", "group": "g", "dead_letters": tmp_path / "d", "stop": Event()}
    with pytest.raises(RequestError, match="accepts pushes"):
        consume(store, "nothing", **options)
    with pytest.raises(ConfigError, match="refuses its options"):
        consume(store, "orders", **options, options={"no.such.option": "1"})
    store.apply(spending(orders(tmp_path, event_id=None)), prune=True)
    with pytest.raises(ConfigError, match="no event id"):
        consume(store, "orders", **options)


def test_the_command_ends_with_a_signal_and_says_what_it_did(store, brokers, producer, tmp_path):
    (tmp_path / "store" / "featurestore.toml").write_text(
        "".join(f'{name} = "sqlite:///{name}.db"\n' for name in ("registry", "online", "event_log")) + 'data = "."\n'
    )
    send(producer, "command", *(order(number) for number in range(3)))
    store.push("orders", [order(100) | {"at": AT}])
    command = [sys.executable, "-m", "featurestore.cli", "--config", str(tmp_path / "store"), "consume", "orders"]
    with subprocess.Popen(
        [*command, "--topic", "command", "--brokers", brokers], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        try:
            ends = time.monotonic() + 60
            while store.parts.event_log.head("orders").next_sequence < 4 and time.monotonic() < ends:
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            said = process.communicate(timeout=30)[0]
        finally:
            process.kill()
    assert (process.returncode, said) == (0, "3 messages: 3 events accepted, 0 duplicates, 0 dead letters\n")
    assert totals(store)["spending__count"] == 4
