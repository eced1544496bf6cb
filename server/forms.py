"""The forms an answer can have: JSON or Arrow, plain or compressed."""

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
"""Where the schema of an Arrow answer holds, as JSON, what is not of a row: all of a reply but its rows."""

_MOST_KNOWN = 256
_known_places: dict[int, tuple[tuple[DType, ...], list[int]]] = {}
_UNBOUNDED = frozenset({"string", "binary", "list"})
_LEAST_VALUE_BYTES = 4
"""A value takes no less in any form, its status included."""

_GZIP_LEVEL = 1
_GZIP_BITS = 31
_WEIGHT = re.compile(r"\bq\s*=\s*(0(?:\.\d*)?|1(?:\.0*)?)\s*(?:;|$)")

Coding = Literal["", "gzip", "zstd"]


class Form(NamedTuple):
    """A form that the caller accepts.

    Attributes:
        media_type: JSON or an Arrow IPC stream.
        coding: How a large answer may be compressed; empty if it may not.
    """

    media_type: str
    coding: Coding


@lru_cache(maxsize=256)
def form_of(accept: bytes | None, accept_encoding: bytes | None) -> Form:
    """Return the form that a caller likes best among those there are.

    Args:
        accept: The header of that name; without it everything is accepted, and JSON is given.
        accept_encoding: Likewise; without it nothing is compressed.

    Raises:
        RefusedError: None of the forms is accepted (406).
    """
    liked = _weights(accept) if accept is not None else {"*/*": 1.0}
    weights = {kind: _weight(liked, kind, f"{kind.partition('/')[0]}/*", "*/*") for kind in (JSON, ARROW_STREAM)}
    best = max(weights, key=lambda kind: weights[kind])
    if weights[best] <= 0:
        detail = f"The answer cannot be given as asked; there are {JSON} and {ARROW_STREAM}."
        raise RefusedError(HTTPStatus.NOT_ACCEPTABLE, detail, "not-acceptable")
    codings = _weights(accept_encoding) if accept_encoding is not None else {}
    order: tuple[Coding, ...] = ("zstd", "gzip")
    coding = max(order, key=lambda name: _weight(codings, name, "*"))
    return Form(best, coding if _weight(codings, coding, "*") > 0 else "")


def _weights(header: bytes) -> dict[str, float]:
    """Read ``a;q=0.5, b``: how much each of the values is liked."""
    found: dict[str, float] = {}
    for part in header.decode("latin-1").split(","):
        name, _, parameters = part.partition(";")
        weight = _WEIGHT.search(parameters)
        if name.strip():
            found[name.strip().lower()] = float(weight[1]) if weight else 1.0
    return found


def _weight(liked: dict[str, float], *names: str) -> float:
    """Return how much something is liked: the first of its names counts, most special first."""
    return next((liked[name] for name in names if name in liked), 0.0)


def body_of(result: OnlineFeatures, form: Form, *, describe: bool, event_times: bool, most: int) -> bytes:
    """Return an answer in a form, not compressed.

    Raises:
        RefusedError: It would take more than ``most`` bytes (413). Mostly that is known before it is made.
    """
    check_size(result, most)
    if form.media_type == JSON:
        content = to_bytes(reply(result, describe=describe, event_times=event_times))
    else:
        content = arrow_of(result, describe=describe, event_times=event_times)
    if len(content) > most:
        raise _answer_too_large(most)
    return content


def check_size(result: OnlineFeatures, most: int) -> None:
    """Refuse an answer of which the values alone take more than it may.

    Only values that have no bound of their own are looked at: text, binary and lists.

    Raises:
        RefusedError: They take more than ``most`` bytes (413).
    """
    places = _unbounded(result.dtypes)
    left = most - _LEAST_VALUE_BYTES * len(result.rows) * len(result.columns)
    for row in result.rows if places else ():
        for place in places:
            left -= _size(row[place])
        if left < 0:
            break
    if left < 0:
        raise _answer_too_large(most)


def _unbounded(dtypes: tuple[DType, ...]) -> list[int]:
    """Return the places of columns whose values may be of any size.

    All answers of a service share one tuple of dtypes: it is known by being the same object, which costs less than to
    compare it.
    """
    known = _known_places.get(id(dtypes))
    if known is None or known[0] is not dtypes:
        if len(_known_places) >= _MOST_KNOWN:
            _known_places.clear()
        known = dtypes, [place for place, dtype in enumerate(dtypes) if dtype.kind in _UNBOUNDED]
        _known_places[id(dtypes)] = known
    return known[1]


def _size(value: Any) -> int:
    """Return how many bytes a value takes at least."""
    if isinstance(value, str | bytes):
        return len(value)
    return sum(2 + _size(item) for item in value) if isinstance(value, list | tuple) else 0


def _answer_too_large(most: int) -> RefusedError:
    detail = f"The answer is larger than {most} bytes. Ask for fewer entities at once."
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, "answer-too-large", "/entities")


def arrow_of(result: OnlineFeatures, *, describe: bool, event_times: bool) -> bytes:
    """Return an answer as an Arrow IPC stream.

    Its columns are the features in their dtypes, ``status__…`` per feature and ``event_time__…`` per view.
    """
    table = result.to_arrow()
    for place, name in enumerate(result.columns):
        table = table.append_column(status_column(name), pa.array([row[place] for row in result.statuses], pa.string()))
    for alias, times in result.event_times.items() if event_times else ():
        table = table.append_column(f"event_time__{alias}", pa.array(times, pa.int64()).cast(TIMESTAMP.arrow))
    head = msgspec.structs.replace(reply(result, describe=describe), rows=[])
    table = table.replace_schema_metadata({METADATA_KEY: to_bytes(head)})
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
