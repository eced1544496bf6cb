"""Formats of an answer: JSON or Arrow, uncompressed or compressed."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

import msgspec
import pyarrow as pa

from featurestore.core.answers import OnlineFeatures
from featurestore.core.dtypes import TIMESTAMP, DType
from featurestore.server.messages import reply, to_bytes
from featurestore.server.problems import RefusedError
from featurestore.serving_log.columns import status_column

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
METADATA_KEY = "featurestore"
"""Key in the schema metadata of an Arrow answer: all of a reply but its rows, as JSON."""

_MAX_CACHED_DTYPES = 256
_unbounded_columns_cache: dict[int, tuple[tuple[DType, ...], list[int]]] = {}
_UNBOUNDED = frozenset({"string", "binary", "list"})
_MIN_VALUE_BYTES = 4
"""A value with its status takes at least this many bytes in any format."""

_GZIP_LEVEL = 1
_GZIP_BITS = 31
_WEIGHT = re.compile(r"\bq\s*=\s*(0(?:\.\d*)?|1(?:\.0*)?)\s*(?:;|$)")

Coding = Literal["", "gzip", "zstd"]


class AnswerFormat(NamedTuple):
    """A format that the client accepts.

    Attributes:
        media_type: JSON or an Arrow IPC stream.
        coding: How a large answer may be compressed; empty if it may not.
    """

    media_type: str
    coding: Coding


@lru_cache(maxsize=256)
def negotiate_format(accept: bytes | None, accept_encoding: bytes | None) -> AnswerFormat:
    """Return the format that a client prefers among those that the server has.

    Args:
        accept: The header ``Accept``; a client that does not send it gets JSON.
        accept_encoding: The header ``Accept-Encoding``; without it nothing is compressed.

    Raises:
        RefusedError: The client accepts none of the formats (406).
    """
    accepted = _weights(accept) if accept is not None else {"*/*": 1.0}
    weights = {kind: _weight(accepted, kind, f"{kind.partition('/')[0]}/*", "*/*") for kind in (JSON, ARROW_STREAM)}
    preferred = max(weights, key=lambda kind: weights[kind])
    if weights[preferred] <= 0:
        detail = f"The answer cannot be given in an accepted format. Accept {JSON} or {ARROW_STREAM}."
        raise RefusedError(HTTPStatus.NOT_ACCEPTABLE, detail, "not-acceptable")
    codings = _weights(accept_encoding) if accept_encoding is not None else {}
    order: tuple[Coding, ...] = ("zstd", "gzip")
    coding = max(order, key=lambda name: _weight(codings, name, "*"))
    return AnswerFormat(preferred, coding if _weight(codings, coding, "*") > 0 else "")


def _weights(header: bytes) -> dict[str, float]:
    """Parse ``a;q=0.5, b`` into the weight of each value."""
    weights: dict[str, float] = {}
    for part in header.decode("latin-1").split(","):
        name, _, parameters = part.partition(";")
        weight = _WEIGHT.search(parameters)
        if name.strip():
            weights[name.strip().lower()] = float(weight[1]) if weight else 1.0
    return weights


def _weight(weights: dict[str, float], *names: str) -> float:
    """Return the weight of the first name that has one; names go from the most to the least specific."""
    return next((weights[name] for name in names if name in weights), 0.0)


def body_of(
    result: OnlineFeatures, answer_format: AnswerFormat, *, describe: bool, event_times: bool, max_bytes: int
) -> bytes:
    """Return an answer in a format, uncompressed.

    Raises:
        RefusedError: The answer takes more than ``max_bytes`` (413). Mostly that is known before it is encoded.
    """
    check_size(result, max_bytes)
    if answer_format.media_type == JSON:
        content = to_bytes(reply(result, describe=describe, event_times=event_times))
    else:
        content = arrow_of(result, describe=describe, event_times=event_times)
    if len(content) > max_bytes:
        raise _answer_too_large(max_bytes)
    return content


def check_size(result: OnlineFeatures, max_bytes: int) -> None:
    """Refuse an answer whose values alone exceed the limit.

    Only values of unbounded size are measured: text, binary and lists.

    Raises:
        RefusedError: The values take more than ``max_bytes`` (413).
    """
    columns = _unbounded_columns(result.dtypes)
    bytes_left = max_bytes - _MIN_VALUE_BYTES * len(result.rows) * len(result.columns)
    for row in result.rows if columns else ():
        for column in columns:
            bytes_left -= _min_bytes(row[column])
        if bytes_left < 0:
            break
    if bytes_left < 0:
        raise _answer_too_large(max_bytes)


def _unbounded_columns(dtypes: tuple[DType, ...]) -> list[int]:
    """Return the positions of columns whose values may be of any size.

    All answers of a service share one tuple of dtypes. The cache finds it by identity, which costs less than comparing.
    """
    cached = _unbounded_columns_cache.get(id(dtypes))
    if cached is None or cached[0] is not dtypes:
        if len(_unbounded_columns_cache) >= _MAX_CACHED_DTYPES:
            _unbounded_columns_cache.clear()
        cached = dtypes, [column for column, dtype in enumerate(dtypes) if dtype.kind in _UNBOUNDED]
        _unbounded_columns_cache[id(dtypes)] = cached
    return cached[1]


def _min_bytes(value: Any) -> int:
    """Return how many bytes a value takes at least."""
    if isinstance(value, str | bytes):
        return len(value)
    return sum(2 + _min_bytes(item) for item in value) if isinstance(value, list | tuple) else 0


def _answer_too_large(max_bytes: int) -> RefusedError:
    detail = f"The answer is larger than {max_bytes} bytes. Ask for fewer entities at once."
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, "answer-too-large", "/entities")


def arrow_of(result: OnlineFeatures, *, describe: bool, event_times: bool) -> bytes:
    """Return an answer as an Arrow IPC stream.

    Its columns are the features in their dtypes, ``status__…`` per feature and ``event_time__…`` per view.
    """
    table = result.to_arrow()
    for column, name in enumerate(result.columns):
        statuses = pa.array([row[column] for row in result.statuses], pa.string())
        table = table.append_column(status_column(name), statuses)
    for alias, times in result.event_times.items() if event_times else ():
        table = table.append_column(f"event_time__{alias}", pa.array(times, pa.int64()).cast(TIMESTAMP.arrow))
    reply_without_rows = msgspec.structs.replace(reply(result, describe=describe), rows=[])
    table = table.replace_schema_metadata({METADATA_KEY: to_bytes(reply_without_rows)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def compressed(body: bytes, coding: Coding) -> bytes:
    """Compress an answer."""
    if coding == "zstd":
        return bytes(pa.Codec("zstd", compression_level=1).compress(body, asbytes=True))
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_BITS)
    return packer.compress(body) + packer.flush()
