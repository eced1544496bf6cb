"""Encodes requests of clients and decodes responses: JSON on the wire, the library's results in Python.

JSON carries every dtype exactly: integers with all digits, floats as the shortest text that is read back as the same
bits, instants and dates as ISO 8601, decimals as text, binary as base64. The server adds the dtypes if the request asks
for them, and ``read_value`` decodes by them, as everywhere.

Decoders ignore unknown fields of a response, so that an older client understands a newer server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from numbers import Real
from typing import Any

import msgspec

from featurestore.core.answers import (
    OnlineFeatures,
    PushResult,
    RejectedRow,
    ViewError,
    ViewState,
)
from featurestore.core.dtypes import (
    DType,
    parse_dtype,
    plain,
    read_value,
)
from featurestore.core.errors import RequestError, json_pointer
from featurestore.core.statuses import codes_of
from featurestore.core.temporal import NOTHING_YET, instant_us

_SAME_IN_JSON = ("bool", "int64", "float64", "string")


@dataclass(frozen=True)
class ServiceInfo:
    """A feature service of the server: the inputs of a question, and the columns of an answer.

    Attributes:
        name: Name of the service.
        fingerprint: Fingerprint of the applied plan, for ``expected_fingerprint``.
        keys: Dtypes of the fields of each entity by name.
        request: Dtypes of the request inputs by name.
        columns: Dtypes of the columns of the answer by name, in its order.
        views: Name of each view it reads, by the view's alias.
    """

    name: str
    fingerprint: str
    keys: dict[str, DType]
    request: dict[str, DType]
    columns: dict[str, DType]
    views: dict[str, str]


@dataclass(frozen=True)
class Health:
    """How a server is.

    Attributes:
        is_ready: Whether every service can be answered.
        problem: Why not; empty if it is ready.
    """

    is_ready: bool
    problem: str = ""


def write_question(
    service: str,
    entities: Sequence[Mapping[str, Any]],
    request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None,
    as_of: datetime | str | None,
    options: Mapping[str, Any],
) -> bytes:
    """Return the body of a question.

    Args:
        service: Name of the service.
        entities: Keys, per row of the answer.
        request: Request inputs.
        as_of: Instant of the answer.
        options: Further options; those that are ``None`` or false are left to the server's default.

    Raises:
        RequestError: A value cannot be written as JSON; ``field`` points at it if it is found.
    """
    _check_keys(entities)
    set_options = {name: value for name, value in options.items() if value is not None and value is not False}
    question = {
        "service": service,
        "entities": entities,
        "request": request,
        "as_of": as_of,
        **set_options,
        "describe": True,
    }
    return _encode({name: value for name, value in question.items() if value is not None})


def _check_keys(entities: Sequence[Mapping[str, Any]]) -> None:
    """Refuse keys that are NaN: JSON has no NaN, and null is another entity.

    Raises:
        RequestError: There is one; ``field`` points at it.
    """
    if not isinstance(entities, list | tuple):
        return
    for number, entity in enumerate(entities):
        for name, value in entity.items() if isinstance(entity, Mapping) else ():
            if isinstance(value, Real) and not isinstance(value, int) and math.isnan(value):
                raise RequestError(
                    "got NaN, expected a key",
                    field=json_pointer("entities", number, name),
                    hint="Replace the NaN of pandas by None.",
                    code="wrong-type",
                )


def write_events(events: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the body of a push of rows.

    Raises:
        RequestError: A value cannot be written as JSON; ``field`` points at it if it is found.
    """
    return _encode({"events": events})


def read_features(body: bytes, question: bytes) -> OnlineFeatures:
    """Decode an answer, which equals the one of the server's own store to the bit.

    Args:
        body: The response.
        question: The body of the request; entities and request inputs are decoded from it as the server decodes them.
    """
    reply, request = msgspec.json.decode(body), msgspec.json.decode(question)
    dtypes = reply["dtypes"]
    columns = tuple(parse_dtype(name) for name in dtypes["columns"])
    keys = _parsed(dtypes["keys"])
    inputs = _parsed(dtypes["request"])
    rows = reply["rows"]
    errors = _errors(reply.get("errors"))
    return OnlineFeatures(
        service=reply["service"],
        fingerprint=reply["fingerprint"],
        request_id=reply["request_id"],
        as_of_us=instant_us(reply["as_of"]),
        columns=tuple(reply["columns"]),
        dtypes=columns,
        rows=_read_rows([row["values"] for row in rows], columns),
        codes=b"".join([codes_of(row["statuses"]) for row in rows]),
        event_times={
            alias: [_instant(row["event_times"][alias]) for row in rows] for alias in {**reply["views"], **errors}
        },
        errors=errors,
        views={alias: _view_state(view) for alias, view in reply["views"].items()},
        entities=[_read_object(entity, keys) for entity in request["entities"]],
        requests=_read_inputs(request.get("request"), inputs, len(rows)),
        keys=keys,
        inputs=inputs,
    )


def read_services(body: bytes) -> tuple[ServiceInfo, ...]:
    """Decode the list of services, sorted by name."""
    return tuple(
        ServiceInfo(
            name=service["name"],
            fingerprint=service["fingerprint"],
            keys=_columns(service["keys"]),
            request=_columns(service["request"]),
            columns=_columns(service["columns"]),
            views={alias: view["name"] for alias, view in service["views"].items()},
        )
        for service in msgspec.json.decode(body)["services"]
    )


def read_pushed(source: str, body: bytes) -> PushResult:
    """Decode the result of a push.

    Args:
        source: Name of the source.
        body: The response.
    """
    result = msgspec.json.decode(body)
    return PushResult(
        source=source,
        accepted=result["accepted"],
        duplicates=result["duplicates"],
        sequence=result["sequence"],
        ingest_time_us=instant_us(result["ingest_time"]),
        is_followed=result["is_followed"],
        rejected=tuple(RejectedRow(item["row"], item["field"], item["problem"]) for item in result["rejected"]),
    )


def _columns(columns: list[dict[str, str]]) -> dict[str, DType]:
    return {column["name"]: parse_dtype(column["dtype"]) for column in columns}


def _parsed(names: dict[str, str]) -> dict[str, DType]:
    return {name: parse_dtype(dtype) for name, dtype in names.items()}


def _read_rows(rows: list[list[Any]], dtypes: Sequence[DType]) -> list[list[Any]]:
    """Decode values by their dtypes; most dtypes are the same in JSON and in Python."""
    encoded = [(column, dtype) for column, dtype in enumerate(dtypes) if dtype.kind not in _SAME_IN_JSON]
    for row in rows:
        for column, dtype in encoded:
            row[column] = read_value(dtype, row[column])
    return rows


def _read_object(values: Mapping[str, Any], dtypes: Mapping[str, DType]) -> dict[str, Any]:
    return {name: read_value(dtype, values[name]) for name, dtype in dtypes.items()}


def _read_inputs(request: Any, dtypes: Mapping[str, DType], count: int) -> list[dict[str, Any]]:
    """Decode the request inputs of each entity: one object may stand for all entities."""
    if not isinstance(request, list):
        return [_read_object(request or {}, dtypes)] * count
    return [_read_object(row, dtypes) for row in request] if dtypes else [{}] * count


def _errors(errors: Mapping[str, Mapping[str, str]] | None) -> dict[str, ViewError]:
    return {alias: ViewError(error["code"], error["detail"]) for alias, error in (errors or {}).items()}


def _view_state(view: Mapping[str, Any]) -> ViewState:
    return ViewState(
        watermark_us=_bound(view["watermark"]),
        complete_until_us=_bound(view["complete_until"]),
        is_stale=view["is_stale"],
        horizon_us=_bound(view["horizon"]),
    )


@lru_cache(maxsize=4096)
def _instant(text: str | None) -> int | None:
    """Parse an instant. The cache pays since the few instants of an answer repeat over its rows."""
    return None if text is None else instant_us(text)


def _bound(text: str | None) -> int:
    """Parse a bound of a view's state; a state without events has none."""
    return NOTHING_YET if text is None else instant_us(text)


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return _to_json(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"the request cannot be written as JSON: {error}",
            field=_pointer_to_unencodable(document, ""),
            hint="Use bool, int, float, str, datetime, date, Decimal, bytes, lists of these, and None.",
            code="wrong-type",
        ) from None


def _plain(value: Any) -> Any:
    """Convert a value that the encoder does not know to its base type: ``pandas.Timestamp`` is a ``datetime``.

    NumPy numbers are converted exactly to Python numbers; the missing values of pandas become null.
    """
    simple = plain(value)
    if simple is not value:
        return simple
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"got {type(value).__name__}")


_to_json: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=_plain).encode


def _pointer_to_unencodable(value: Any, pointer: str) -> str:
    """Return the JSON pointer to the first value inside that cannot be written."""
    if isinstance(value, Mapping):
        inside: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        inside = list(enumerate(value))
    else:
        return pointer
    for name, item in inside:
        try:
            _to_json(item)
        except (TypeError, ValueError, RecursionError):
            return _pointer_to_unencodable(item, pointer + json_pointer(name))
    return pointer
