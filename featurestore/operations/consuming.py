"""Consuming topics of a Kafka-protocol broker: every message's events are pushed to a source.

A message holds one event as a JSON object, several as a JSON array of objects, or an Arrow IPC stream. Offsets are
committed after the events are committed to the event log. So a crash in between repeats messages, and nothing is lost;
the source's event ids absorb the repetition, and a source without them is refused. Events that cannot be pushed go to a
file of dead letters, with their errors, and do not stop the stream.

Temporary failures do not end a consumer. It waits for a database that restarts, with the messages in memory. If offsets
cannot be committed because the group has assigned the partitions to another member meanwhile, the messages are read
again.
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
"""How long to wait before a push to a database that fails is retried, at first and at most."""

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
"""Errors that the content of a message causes, while it is read or pushed; not those of disks, databases, networks."""


@dataclass
class Consumed:
    """Counts of a consumer so far.

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
class _MessageEvents:
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
    """Push the messages of a topic until stopped.

    Args:
        store: The store.
        source: Name of a source with ``stream=True`` and an event id.
        brokers: Addresses of brokers, ``host:port`` with commas.
        topic: The topic.
        group: Name of the consumer group: its members share the partitions, and it continues at its offsets.
        dead_letters: File that events which cannot be pushed are appended to, as JSON lines.
        stop: Set to end it; messages that were read are committed first.
        messages_at_once: Most messages of one push.
        options: More options of the client, as librdkafka names them (for instance ``security.protocol``).
        done: Counts to update while it runs.

    Returns:
        The counts.

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
    broker_errors, retries = _BrokerErrors(topic), _PushRetries(stop)
    at_once = messages_at_once
    with _consumer(brokers, topic, group, {**(options or {}), "error_cb": broker_errors.log}) as consumer:
        while not stop.is_set():
            messages = _without_errors(consumer.consume(at_once, _WAIT_SECONDS), broker_errors)
            if not messages:
                continue
            broker_errors.end()
            try:
                _push(store, source, messages, dead_letters, done, retries)
            except _StoppedError:
                break  # the messages are read again by the next consumer
            is_committed = _commit(consumer, topic)
            # A push that takes longer than the group waits loses its partitions: fewer messages take less time.
            at_once = min(messages_at_once, 2 * at_once) if is_committed else max(1, at_once // 2)
    return done


def _commit(consumer: Consumer, topic: str) -> bool:
    """Commit the offsets of read messages; return whether they were committed, else the messages are read again.

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


class _PushRetries:
    """Retries pushes while a database cannot be used, and logs that once."""

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._logged_code = ""

    def push(self, push_once: Callable[[], PushResult]) -> PushResult:
        """Push, with retries while the log or the registry cannot be used.

        Events that were committed although the answer was lost are recognized by their ids.

        Raises:
            _StoppedError: The consumer was stopped meanwhile.
        """

        def push_and_log() -> PushResult:
            try:
                result = push_once()
            except (StorageError, RegistryError) as error:
                if error.code != self._logged_code:
                    _LOGGER.warning("the push is retried until it succeeds: %s", error)
                self._logged_code = error.code
                raise
            if self._logged_code:
                _LOGGER.warning("pushes succeed again")
            self._logged_code = ""
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
        hint = "Check that the broker can be reached, and that the topic exists."
        raise StorageError(f"the broker refuses: {error}", where="consumer", hint=hint, code="kafka") from error
    finally:
        consumer.close()


class _BrokerErrors:
    """Logs why no messages arrive, once until some do; the client retries by itself."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._logged: set[str] = set()

    def log(self, error: KafkaError) -> None:
        """Log an error, unless it was logged."""
        if error.name() not in self._logged:
            self._logged.add(error.name())
            _LOGGER.warning("topic '%s' does not deliver, and is retried: %s", self._topic, error.str())

    def end(self) -> None:
        """Note that messages arrive."""
        self._logged.clear()


def _without_errors(messages: Sequence[Message], broker_errors: _BrokerErrors) -> list[Message]:
    """Return the messages that are not errors, and log the others.

    Raises:
        StorageError: The client reports a fatal error.
    """
    for message in messages:
        error = message.error()
        if error is not None and error.fatal():
            raise StorageError(f"the broker refuses: {error}", where="consumer", code="kafka")
        if error is not None:
            broker_errors.log(error)
    return [message for message in messages if message.error() is None]


def _push(
    store: FeatureStore,
    source: str,
    messages: Sequence[Message],
    dead_letters: Path,
    done: Consumed,
    retries: _PushRetries,
) -> None:
    """Push the events of some messages; when it returns they are in the log or among the dead letters."""
    rows: list[_MessageEvents] = []
    dead: list[DeadLetter] = []
    for message in messages:
        try:
            read = _MessageEvents(message, events_in(message.value()))
        except ValueError as error:
            dead.append(_letter(message, None, "", str(error)))
            continue
        if isinstance(read.events, list):
            rows.append(read)
        else:
            dead += _pushed(store, source, [read], done, retries)
    dead += _pushed(store, source, rows, done, retries)
    append_letters(dead_letters, dead)
    if dead:
        store.note_data_folder()
    done.messages += len(messages)
    done.dead += len(dead)


def _pushed(
    store: FeatureStore, source: str, messages: Sequence[_MessageEvents], done: Consumed, retries: _PushRetries
) -> list[DeadLetter]:
    """Push the events of some messages, and return those that were rejected.

    If they cannot be pushed together because of their content, the message that causes it is found by halving.
    """
    origins = [(read.message, number) for read in messages for number in range(read.count)]
    if not origins:
        return []
    events = messages[0].events if len(messages) == 1 else [event for read in messages for event in read.events]
    try:
        result = retries.push(lambda: store.push(source, events, partial=True))
    except _POISON as error:
        if _is_of_the_store(error):
            raise
        if len(messages) == 1:
            name = error.field if isinstance(error, RequestError) else ""
            return [_letter(messages[0].message, None, name, _problem_of(error))]
        half = len(messages) // 2
        return [
            *_pushed(store, source, messages[:half], done, retries),
            *_pushed(store, source, messages[half:], done, retries),
        ]
    done.accepted += result.accepted
    done.duplicates += result.duplicates
    return [_letter(*origins[row.row], row.field, row.problem) for row in result.rejected]


def _is_of_the_store(error: Exception) -> bool:
    """Return whether an error is about the store's definitions, whatever is pushed."""
    return isinstance(error, ConfigError) or (isinstance(error, RequestError) and error.code == "unknown-source")


def _problem_of(error: Exception) -> str:
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
