"""Consuming topics of a Kafka-protocol broker: every message's events are pushed to a source.

A message holds one event as a JSON object, several as a JSON array of objects, or an Arrow IPC stream. Offsets are
committed after the events are committed to the event log. So a crash in between repeats messages, and nothing is lost;
the source's event ids absorb the repetition, and a source without them is refused. What cannot be pushed goes to a file
of dead letters, with its error, and does not stop the stream.

What passes by itself does not end a consumer: a database that restarts is waited for with the messages in hand, and
offsets that cannot be committed because the group has given the partitions to another member meanwhile are left, so the
messages are read again.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featurestore.core.errors import (
    ConfigError,
    FeatureStoreError,
    RegistryError,
    RequestError,
    StorageError,
)
from featurestore.core.retrying import Backoff, retry
from featurestore.online.pushing.dead_letters import DeadLetter, append_letters, events_in
from featurestore.store import FeatureStore

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, Message

    from featurestore.online.pushing import PushResult

_LOGGER = logging.getLogger("featurestore.operations.consuming")
_WAIT_SECONDS = 0.5

_BACKOFF = Backoff(0.2, longest_seconds=5.0)
"""How long a database that fails is left alone before a push is tried again, at first and at most."""

_REFUSALS = (
    "GROUP_AUTHORIZATION_FAILED",
    "TOPIC_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
    "SASL_AUTHENTICATION_FAILED",
    "INVALID_GROUP_ID",
    "INVALID_COMMIT_OFFSET_SIZE",
    "OFFSET_METADATA_TOO_LARGE",
    "FENCED_INSTANCE_ID",
)
"""Names of errors for which a broker refuses offsets for good, beside those that the client calls fatal."""

_POISON = (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, pa.ArrowException)
"""What reading a message, or pushing what it holds, fails with because of what it holds. Failures of disks, databases
and networks are none of these."""


@dataclass
class Consumed:
    """What a consumer has done so far.

    Attributes:
        messages: Messages read.
        accepted: Events that are new in the log.
        duplicates: Events whose id the log had.
        dead: Events, or whole messages, that went to the dead letters.
    """

    messages: int = 0
    accepted: int = 0
    duplicates: int = 0
    dead: int = 0


@dataclass(frozen=True)
class _Read:
    """A message, and the events it holds: rows, or a table."""

    message: Message
    events: Any

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.events)


def consume(
    store: FeatureStore,
    source: str,
    *,
    brokers: str,
    topic: str,
    group: str,
    dead_letters: Path,
    stop: Event,
    messages_at_once: int = 500,
    options: Mapping[str, Any] | None = None,
    done: Consumed | None = None,
) -> Consumed:
    """Push the messages of a topic until told to stop.

    Args:
        store: The store.
        source: Name of a source with ``stream=True`` and an event id.
        brokers: Addresses of brokers, ``host:port`` with commas.
        topic: The topic.
        group: Name of the consumer group: its members share the partitions, and its offsets are where it goes on.
        dead_letters: File that what cannot be pushed is appended to, as JSON lines.
        stop: Set to end it; what was read is committed first.
        messages_at_once: Most messages of one push.
        options: More options of the client, as librdkafka names them (for instance ``security.protocol``).
        done: Counts what is done while it is done.

    Returns:
        What was done.

    Raises:
        ConfigError: ``featurestore[kafka]`` is not installed, an option is wrong, or the source has no event id.
        RequestError: The source accepts no pushes.
        StorageError: The dead letters cannot be written, the broker refuses for good, or, when it begins, the log
            cannot be used; later it waits for the log. Offsets of what was not pushed are not committed.
        RegistryError: When it begins, the registry cannot be used; later it waits for it.
    """
    done = done or Consumed()
    store.push(source, [])
    if store.source(source).event_id is None:
        raise ConfigError(
            "it has no event id, and a message that is read twice would count twice",
            where=f"source '{source}'",
            hint="Declare event_id=… on the source.",
            code="no-event-id",
        )
    troubles, outage = _Troubles(topic), _Outage(stop)
    at_once = messages_at_once
    with _consumer(brokers, topic, group, {**(options or {}), "error_cb": troubles.tell}) as consumer:
        while not stop.is_set():
            messages = _sound(consumer.consume(at_once, _WAIT_SECONDS), troubles)
            if not messages:
                continue
            troubles.end()
            try:
                _push(store, source, messages, dead_letters, done, outage)
            except _StoppedError:
                break  # the messages are read again by the next consumer
            is_committed = _commit(consumer, topic)
            # A push that takes longer than the group waits loses its partitions: fewer messages take less time.
            at_once = min(messages_at_once, 2 * at_once) if is_committed else max(1, at_once // 2)
    return done


def _commit(consumer: Consumer, topic: str) -> bool:
    """Commit the offsets of what was read; tell whether they were committed, or their messages are read again.

    Raises:
        KafkaException: The broker refuses for good.
    """
    from confluent_kafka import KafkaException

    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        reason = error.args[0]
        if reason.fatal() or reason.name() in _REFUSALS:
            raise
        _LOGGER.warning("topic '%s': offsets are not committed, messages are read again: %s", topic, reason.str())
        return False
    return True


class _StoppedError(Exception):
    """A consumer was stopped while it waited for a database."""


class _Outage:
    """Waits until databases that fail can be used again, and says so once."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._said = ""

    def wait_out(self, push: Callable[[], PushResult]) -> PushResult:
        """Push, again and again while the log or the registry cannot be used.

        What was committed although the answer got lost is known by its ids when it is pushed again.

        Raises:
            _StoppedError: The consumer was stopped meanwhile.
        """

        def push_and_log() -> PushResult:
            try:
                result = push()
            except (StorageError, RegistryError) as error:
                if error.code != self._said:
                    _LOGGER.warning("the push is tried again until it succeeds: %s", error)
                self._said = error.code
                raise
            if self._said:
                _LOGGER.warning("pushes succeed again")
            self._said = ""
            return result

        return retry(push_and_log, is_transient=_is_outage, backoff=_BACKOFF, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _StoppedError


def _is_outage(error: Exception) -> bool:
    return isinstance(error, StorageError | RegistryError)


@contextmanager
def _consumer(brokers: str, topic: str, group: str, options: Mapping[str, Any]) -> Iterator[Consumer]:
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError as error:
        raise ConfigError(
            "the client of Kafka is not installed",
            where="consumer",
            hint="Install it: pip install 'featurestore[kafka]'.",
            code="missing-extra",
        ) from error
    settings = {
        "auto.offset.reset": "earliest",
        **options,
        "bootstrap.servers": brokers,
        "group.id": group,
        "enable.auto.commit": False,
    }
    try:
        consumer = Consumer(settings)
    except (KafkaException, ValueError, TypeError) as error:
        raise ConfigError(f"the client refuses its options: {error}", where="consumer", code="kafka-options") from error
    try:
        consumer.subscribe([topic])
        yield consumer
    except KafkaException as error:
        hint = "See that the broker can be reached, and that the topic is there."
        raise StorageError(f"the broker refuses: {error}", where="consumer", hint=hint, code="kafka") from error
    finally:
        consumer.close()


class _Troubles:
    """Says why no messages come, once until some do: the client goes on trying, whatever it is."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._said: set[str] = set()

    def tell(self, error: KafkaError) -> None:
        """Say what is wrong, unless that was said."""
        if error.name() not in self._said:
            self._said.add(error.name())
            _LOGGER.warning("topic '%s' is waited for: %s", self._topic, error.str())

    def end(self) -> None:
        """Take note that messages come."""
        self._said.clear()


def _sound(messages: Sequence[Message], troubles: _Troubles) -> list[Message]:
    """Return the messages that are no errors; say what the others are.

    Raises:
        StorageError: The client says that it cannot go on.
    """
    for message in messages:
        error = message.error()
        if error is not None and error.fatal():
            raise StorageError(f"the broker refuses: {error}", where="consumer", code="kafka")
        if error is not None:
            troubles.tell(error)
    return [message for message in messages if message.error() is None]


def _push(
    store: FeatureStore,
    source: str,
    messages: Sequence[Message],
    dead_letters: Path,
    done: Consumed,
    outage: _Outage,
) -> None:
    """Push the events of some messages; when it returns they are in the log or among the dead letters."""
    rows: list[_Read] = []
    dead: list[DeadLetter] = []
    for message in messages:
        try:
            read = _Read(message, events_in(message.value()))
        except ValueError as error:
            dead.append(_letter(message, None, "", str(error)))
            continue
        if isinstance(read.events, list):
            rows.append(read)
        else:
            dead += _pushed(store, source, [read], done, outage)
    dead += _pushed(store, source, rows, done, outage)
    append_letters(dead_letters, dead)
    if dead:
        store.note_data_folder()
    done.messages += len(messages)
    done.dead += len(dead)


def _pushed(
    store: FeatureStore, source: str, some: Sequence[_Read], done: Consumed, outage: _Outage
) -> list[DeadLetter]:
    """Push the events of some messages, and return those that were rejected.

    If they cannot be pushed together, and that is not the store's fault, the message whose fault it is is found by
    halving.
    """
    origins = [(read.message, number) for read in some for number in range(read.count)]
    if not origins:
        return []
    events = some[0].events if len(some) == 1 else [event for read in some for event in read.events]
    try:
        result = outage.wait_out(lambda: store.push(source, events, partial=True))
    except _POISON as error:
        if _is_of_the_store(error):
            raise
        if len(some) == 1:
            name = error.field if isinstance(error, RequestError) else ""
            return [_letter(some[0].message, None, name, _said(error))]
        half = len(some) // 2
        return [
            *_pushed(store, source, some[:half], done, outage),
            *_pushed(store, source, some[half:], done, outage),
        ]
    done.accepted += result.accepted
    done.duplicates += result.duplicates
    return [_letter(*origins[row.row], row.field, row.problem) for row in result.rejected]


def _is_of_the_store(error: Exception) -> bool:
    """Return whether an error is about the store's definitions, whatever is pushed."""
    return isinstance(error, ConfigError) or (isinstance(error, RequestError) and error.code == "unknown-source")


def _said(error: Exception) -> str:
    problem = error.problem if isinstance(error, FeatureStoreError) else str(error)
    return problem or type(error).__name__


def _letter(message: Message, row: int | None, field_name: str, problem: str) -> DeadLetter:
    return DeadLetter(
        topic=str(message.topic()),
        partition=int(message.partition() or 0),
        offset=int(message.offset() or 0),
        row=row,
        field=field_name,
        problem=problem,
        value=base64.b64encode(message.value() or b"").decode(),
    )
