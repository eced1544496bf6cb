"""Lines of JSON: what goes wrong, on the standard error; every request if wanted, on the standard output.

A line names its request. API keys and feature values are never in it; entity keys are hashed unless
the configuration says otherwise. The hash spares eyes; who knows all keys can find out which one it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, BinaryIO

from featurestore.render.cleaning import clean_json
from featurestore.temporal import Clock, format_instant
from server.calls import REQUEST_ID, Call
from server.messages import to_bytes

MOST_ENTITIES = 20
"""A line says of so many entities which they were."""

FLUSH_SECONDS = 0.1
"""How long a request's line may wait for others."""

_HASH_BYTES = 8


class JsonLines(logging.Formatter):
    """Formats log records as JSON, one a line."""

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


CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "server.logs.JsonLines"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "loggers": {
        "featurestore": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}
"""The configuration of logging by which ``python -m server`` runs."""


class RequestLog:
    """Writes a line for every request. Lines are collected for a moment, so that one write has many."""

    def __init__(
        self, clock: Callable[[], Clock], *, with_entity_keys: bool = False, target: BinaryIO | None = None
    ) -> None:
        """Take the parts.

        Args:
            clock: Tells when a request ended.
            with_entity_keys: Whether entity keys are written as they are.
            target: Where lines go; the standard output if ``None``.
        """
        self._clock = clock
        self._with_entity_keys = with_entity_keys
        self._target = sys.stdout.buffer if target is None else target
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
        self._waiting.append(_cleaned(to_bytes(line)))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the lines that wait."""
        lines, self._waiting = self._waiting, []
        if lines:
            self._target.write(b"\n".join(lines) + b"\n")
            self._target.flush()

    def _named(self, entities: Sequence[dict[str, Any]]) -> list[Any]:
        if self._with_entity_keys:
            return list(entities)
        return [blake2b(to_bytes(entity), digest_size=_HASH_BYTES).hexdigest() for entity in entities]


def _cleaned(line: bytes) -> bytes:
    """Escape what would control a terminal that shows a line of JSON."""
    return clean_json(line.decode()).encode()
