"""Logs as lines of JSON: warnings and errors on standard error; every request, if configured, on standard output.

A line has the id of its request. It never has API keys or feature values; entity keys are hashed unless configured
otherwise. The hash does not anonymize: a reader with a list of all keys can find the key of a hash.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from io import FileIO
from threading import Condition, Lock, Thread, Timer
from typing import Any, Protocol

from featurestore.core.cleaning import clean_json
from featurestore.core.temporal import Clock, format_instant
from featurestore.server.calls import REQUEST_ID, Call
from featurestore.server.messages import to_bytes

MAX_ENTITIES = 20
"""A line names at most this many entities."""

FLUSH_SECONDS = 0.1
"""How long a request's line may wait to be written together with others."""

MAX_WAITING_BYTES = 4_000_000
"""Size of the queue of lines while the stream's reader stalls; further lines are dropped and counted."""

FLUSH_AT_END_SECONDS = 1.0
"""How long a process that ends waits until its lines are read."""

REPEAT_SECONDS = 10.0
MAX_REPEATS = 10
"""How many similar records are written within ``REPEAT_SECONDS``."""

_RETRY_SECONDS = 0.05
_MAX_KINDS = 1_000
_HASH_BYTES = 8


class Target(Protocol):
    """An unbuffered file."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some bytes; return how many were written."""
        ...


class LineWriter:
    """Writes lines in a thread, so that a stalled reader of the stream blocks only that thread.

    The queue is bounded. Lines for which there is no room are dropped; once there is room, a line reports how many.
    """

    def __init__(self, target: Callable[[], Target], *, max_bytes: int = MAX_WAITING_BYTES) -> None:
        """Create a writer; nothing is opened yet.

        Args:
            target: Opens the file, when there is something to write; the file must be unbuffered.
            max_bytes: Size of the queue.
        """
        self._open = target
        self._max_bytes = max_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._dropped = 0
        self._thread: Thread | None = None
        self._changed = Condition()

    def put(self, lines: bytes, count: int = 1) -> None:
        """Queue whole lines to be written. Never blocks."""
        with self._changed:
            if self._queued_bytes + len(lines) > self._max_bytes:
                self._dropped += count
                return
            if self._dropped:
                self._enqueue(_dropped(self._dropped))
                self._dropped = 0
            self._enqueue(lines)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="log lines", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float = FLUSH_AT_END_SECONDS) -> None:
        """Wait until all lines are written, but no longer than ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queued_bytes, seconds)

    def _enqueue(self, lines: bytes) -> None:
        self._queue.append(lines)
        self._queued_bytes += len(lines)

    def _run(self) -> None:
        target = self._open()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                lines = self._queue.popleft()
            with suppress(OSError):  # the reader has closed the stream
                _write_all(target, lines)
            with self._changed:
                self._queued_bytes -= len(lines)
                if not self._queue and self._dropped:
                    self._enqueue(_dropped(self._dropped))
                    self._dropped = 0
                self._changed.notify_all()


def _write_all(target: Target, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        written = target.write(rest)
        if written is None:  # the stream is non-blocking and full
            time.sleep(_RETRY_SECONDS)
        rest = rest[written or 0 :]


def _dropped(count: int) -> bytes:
    message = f"{count} lines were dropped: the stream was not read in time"
    return json.dumps({"level": "warning", "logger": __name__, "message": message}).encode() + b"\n"


@cache
def _stream(descriptor: int) -> LineWriter:
    """Return the writer of a stream of the process. It bypasses Python's own buffers and their locks."""
    return LineWriter(lambda: FileIO(descriptor, "wb", closefd=False))


class JsonLines(logging.Formatter):
    """Formats log records as JSON, one per line. Terminal control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "at": format_instant(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return clean_json(json.dumps(line, ensure_ascii=False))


class LinesHandler(logging.Handler):
    """Writes log records to standard error in a thread, and limits the rate of similar records.

    Records are similar if they share the logger, the level, the text before its values are filled in, the kind of
    exception and the code, if they have one. Beyond ``max_repeats`` within ``seconds`` similar records are counted
    instead; at the end of that time a line reports how many.
    """

    def __init__(
        self, writer: LineWriter | None = None, *, max_repeats: int = MAX_REPEATS, seconds: float = REPEAT_SECONDS
    ) -> None:
        """Create a handler.

        Args:
            writer: Writes the lines; the writer of standard error if ``None``.
            max_repeats: How many similar records are written within ``seconds``.
            seconds: The period.
        """
        super().__init__()
        self._writer = _stream(2) if writer is None else writer
        self._max_repeats = max_repeats
        self._seconds = seconds
        self._similar: dict[Hashable, _SimilarRecords] = {}
        self._lock = Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless there were too many similar ones."""
        try:
            if self._is_within_limit(record):
                self._write(record)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Report the records that were not written, and wait a moment until all lines are written."""
        for similar in list(self._similar.values()):
            self._report(similar)
        self._writer.flush()

    def _write(self, record: logging.LogRecord) -> None:
        self._writer.put(self.format(record).encode("utf-8", "replace") + b"\n")

    def _is_within_limit(self, record: logging.LogRecord) -> bool:
        kind = (
            record.name,
            record.levelno,
            str(record.msg),
            record.exc_info[0] if record.exc_info else None,
            getattr(record, "code", ""),
        )
        now = time.monotonic()
        with self._lock:
            similar = self._similar.get(kind)
            if similar is None or now - similar.since >= self._seconds:
                if len(self._similar) >= _MAX_KINDS:
                    self._similar.clear()
                similar = self._similar[kind] = _SimilarRecords(now)
            similar.count += 1
            if similar.count <= self._max_repeats:
                return True
            is_first, similar.last = similar.last is None, record
        if is_first:
            timer = Timer(self._seconds, self._report, (similar,))
            timer.daemon = True
            timer.start()
        return False

    def _report(self, similar: _SimilarRecords) -> None:
        """Write a line with the number of similar records that were not written."""
        with self._lock:
            last, similar.last = similar.last, None
            count, similar.count = similar.count - self._max_repeats, min(similar.count, self._max_repeats)
        if last is not None:
            record = copy(last)
            record.msg, record.args = f"{last.getMessage()} ({count} like this were not logged)", ()
            self._write(record)


@dataclass
class _SimilarRecords:
    """Counts similar records since an instant, and keeps the last one that was not written."""

    since: float
    count: int = 0
    last: logging.LogRecord | None = None


CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "featurestore.server.logs.JsonLines"}},
    "handlers": {"stderr": {"class": "featurestore.server.logs.LinesHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {
        "featurestore": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
"""The logging configuration of ``python -m featurestore.server``; it covers the warnings of other packages."""


class RequestLog:
    """Writes a line for every request. Lines are collected for a moment, to write many at once."""

    def __init__(
        self, clock: Callable[[], Clock], *, with_entity_keys: bool = False, writer: LineWriter | None = None
    ) -> None:
        """Create a log.

        Args:
            clock: Returns the clock of the requests' ends.
            with_entity_keys: Whether entity keys are written in clear.
            writer: Writes the lines; the writer of standard output if ``None``.
        """
        self._clock = clock
        self._with_entity_keys = with_entity_keys
        self._writer = _stream(1) if writer is None else writer
        self._waiting: list[bytes] = []

    def record(self, call: Call) -> None:
        """Record a request that has been answered."""
        line: dict[str, Any] = {
            "at": format_instant(self._clock().now_us()),
            "request_id": call.request_id,
            "method": call.method,
            "route": call.route,
            "status": call.status,
            "ms": round(call.seconds * 1_000, 3),
            "bytes": call.sent,
        }
        if call.code:
            line["code"] = call.code
        if (answer := call.answer) is not None:
            line |= {
                "service": answer.service,
                "fingerprint": answer.fingerprint[:16],
                "entity_count": len(answer.rows),
                "entities": self._entities(answer.entities[:MAX_ENTITIES]),
            }
            if answer.errors:
                line["errors"] = {alias: error.code for alias, error in answer.errors.items()}
        self._waiting.append(clean_json(to_bytes(line).decode()).encode())
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Hand the collected lines to the writer."""
        lines, self._waiting = self._waiting, []
        if lines:
            self._writer.put(b"\n".join(lines) + b"\n", len(lines))

    def close(self) -> None:
        """Hand the collected lines to the writer, and wait a moment until they are written."""
        self.flush()
        self._writer.flush()

    def _entities(self, entities: Sequence[dict[str, Any]]) -> list[Any]:
        if self._with_entity_keys:
            return list(entities)
        return [blake2b(to_bytes(entity), digest_size=_HASH_BYTES).hexdigest() for entity in entities]
