"""Lines of JSON: what goes wrong, on the standard error; every request if wanted, on the standard output.

A line names its request. API keys and feature values are never in it; entity keys are hashed unless
the configuration says otherwise. The hash spares eyes; who knows all keys can find out which one it was.
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

MOST_ENTITIES = 20
"""A line says of so many entities which they were."""

FLUSH_SECONDS = 0.1
"""How long a request's line may wait for others."""

MOST_WAITING_BYTES = 4_000_000
"""So many bytes of lines may wait for who reads the stream; further lines are dropped and counted."""

FLUSH_AT_END_SECONDS = 1.0
"""So long a process that ends waits until its lines are read."""

ALIKE_SECONDS = 10.0
MOST_ALIKE = 10
"""Of records that are alike so many are written in so long."""

_RETRY_SECONDS = 0.05
_MOST_KINDS = 1_000
_HASH_BYTES = 8


class Target(Protocol):
    """Takes bytes, as files without a buffer do."""

    def write(self, data: memoryview, /) -> int | None:
        """Write some bytes; return how many were taken."""
        ...


class LineWriter:
    """Writes lines in a thread, so that a reader who stalls keeps nobody but that thread.

    What waits is bounded. Lines for which there is no room are dropped, and a line says how many once there is.
    """

    def __init__(self, target: Callable[[], Target], *, most_bytes: int = MOST_WAITING_BYTES) -> None:
        """Take the parts.

        Args:
            target: Opens what is written to, when there is something to write; it must not keep anything back.
            most_bytes: How many bytes may wait.
        """
        self._open = target
        self._most_bytes = most_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._thread: Thread | None = None
        self._changed = Condition()

    def put(self, lines: bytes, count: int = 1) -> None:
        """Have some whole lines written soon. Never waits for the reader."""
        with self._changed:
            if self._waiting_bytes + len(lines) > self._most_bytes:
                self._dropped += count
                return
            if self._dropped:
                self._keep(_dropped(self._dropped))
                self._dropped = 0
            self._keep(lines)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="log lines", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float = FLUSH_AT_END_SECONDS) -> None:
        """Wait until all is written, or for so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting_bytes, seconds)

    def _keep(self, lines: bytes) -> None:
        self._waiting.append(lines)
        self._waiting_bytes += len(lines)

    def _run(self) -> None:
        target = self._open()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                lines = self._waiting.popleft()
            with suppress(OSError):  # nobody reads any more
                _write_all(target, lines)
            with self._changed:
                self._waiting_bytes -= len(lines)
                if not self._waiting and self._dropped:
                    self._keep(_dropped(self._dropped))
                    self._dropped = 0
                self._changed.notify_all()


def _write_all(target: Target, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:
        written = target.write(rest)
        if written is None:  # whoever opened the stream does not let it wait
            time.sleep(_RETRY_SECONDS)
        rest = rest[written or 0 :]


def _dropped(count: int) -> bytes:
    message = f"{count} lines were dropped: nobody read them in time"
    return json.dumps({"level": "warning", "logger": __name__, "message": message}).encode() + b"\n"


@cache
def _stream(descriptor: int) -> LineWriter:
    """Return the one writer of a stream of the process. It bypasses Python's own buffers and their locks."""
    return LineWriter(lambda: FileIO(descriptor, "wb", closefd=False))


class JsonLines(logging.Formatter):
    """Formats log records as JSON, one a line. Characters that control a terminal are written as escapes."""

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
    """Writes log records to the standard error, in a thread, and of those that are alike only some.

    Alike are records of one logger and level with one text before its values are filled in, one kind of exception and,
    if they name one, one code. Beyond ``most`` in ``seconds`` they are counted; at the end of that time a line says how
    many there were.
    """

    def __init__(
        self, writer: LineWriter | None = None, *, most: int = MOST_ALIKE, seconds: float = ALIKE_SECONDS
    ) -> None:
        """Take the parts.

        Args:
            writer: Writes the lines; the one of the standard error if ``None``.
            most: How many records that are alike are written.
            seconds: In how long.
        """
        super().__init__()
        self._writer = _stream(2) if writer is None else writer
        self._most = most
        self._seconds = seconds
        self._alike: dict[Hashable, _Alike] = {}
        self._counting = Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless too many were like it."""
        try:
            if self._may_be_written(record):
                self._write(record)
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Say how many records were not written, and wait a moment for the reader."""
        for alike in list(self._alike.values()):
            self._report(alike)
        self._writer.flush()

    def _write(self, record: logging.LogRecord) -> None:
        self._writer.put(self.format(record).encode("utf-8", "replace") + b"\n")

    def _may_be_written(self, record: logging.LogRecord) -> bool:
        kind = (
            record.name,
            record.levelno,
            str(record.msg),
            record.exc_info[0] if record.exc_info else None,
            getattr(record, "code", ""),
        )
        now = time.monotonic()
        with self._counting:
            alike = self._alike.get(kind)
            if alike is None or now - alike.since >= self._seconds:
                if len(self._alike) >= _MOST_KINDS:
                    self._alike.clear()
                alike = self._alike[kind] = _Alike(now)
            alike.count += 1
            if alike.count <= self._most:
                return True
            is_first, alike.last = alike.last is None, record
        if is_first:
            timer = Timer(self._seconds, self._report, (alike,))
            timer.daemon = True
            timer.start()
        return False

    def _report(self, alike: _Alike) -> None:
        """Write a line that says how many records were not written."""
        with self._counting:
            last, alike.last = alike.last, None
            count, alike.count = alike.count - self._most, min(alike.count, self._most)
        if last is not None:
            record = copy(last)
            record.msg, record.args = f"{last.getMessage()} ({count} like this were not logged)", ()
            self._write(record)


@dataclass
class _Alike:
    """How many records were alike since an instant, and the last one that was not written."""

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
"""The configuration of logging by which ``python -m server`` runs; other packages' warnings go the same way."""


class RequestLog:
    """Writes a line for every request. Lines are collected for a moment, so that one write has many."""

    def __init__(
        self, clock: Callable[[], Clock], *, with_entity_keys: bool = False, writer: LineWriter | None = None
    ) -> None:
        """Take the parts.

        Args:
            clock: Tells when a request ended.
            with_entity_keys: Whether entity keys are written as they are.
            writer: Writes the lines; the one of the standard output if ``None``.
        """
        self._clock = clock
        self._with_entity_keys = with_entity_keys
        self._writer = _stream(1) if writer is None else writer
        self._waiting: list[bytes] = []

    def note(self, call: Call) -> None:
        """Take a request that has been answered."""
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
                "entities": self._named(answer.entities[:MOST_ENTITIES]),
            }
            if answer.errors:
                line["errors"] = {alias: error.code for alias, error in answer.errors.items()}
        self._waiting.append(clean_json(to_bytes(line).decode()).encode())
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Have the lines written that wait."""
        lines, self._waiting = self._waiting, []
        if lines:
            self._writer.put(b"\n".join(lines) + b"\n", len(lines))

    def close(self) -> None:
        """Have all lines written, if somebody reads them."""
        self.flush()
        self._writer.flush()

    def _named(self, entities: Sequence[dict[str, Any]]) -> list[Any]:
        if self._with_entity_keys:
            return list(entities)
        return [blake2b(to_bytes(entity), digest_size=_HASH_BYTES).hexdigest() for entity in entities]
