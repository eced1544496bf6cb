"""What clients send and what they read: JSON on one side, the library's results on the other.

JSON carries every dtype exactly: integers in all their digits, floats by the shortest text that reads back the same
bits, instants and dates as ISO 8601, decimals as text, binary as base64. The server names the dtypes when asked to,
and ``read_value`` reads by them, as it does everywhere.

Readers take what they need from an answer and leave the rest, so that an older client understands a newer server.
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

_AS_WRITTEN = ("bool", "int64", "float64", "string")


@dataclass(frozen=True)
class ServiceInfo:
    """A feature service of the server: what to ask with, what comes back.

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
        as_of: Instant asked about.
        options: What else the caller said; what is ``None`` or false is left to the server's default.

    Raises:
        RequestError: A value has no form in JSON; ``field`` points at it if it is found.
    """
    _check_keys(entities)
    said = {name: value for name, value in options.items() if value is not None and value is not False}
    question = {"service": service, "entities": entities, "request": request, "as_of": as_of, **said, "describe": True}
    return _encode({name: value for name, value in question.items() if value is not None})


def _check_keys(entities: Sequence[Mapping[str, Any]]) -> None:
    """Refuse keys that are NaN: JSON has no such thing, and null is another entity.

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
                    hint="Where pandas writes NaN for what is missing, give None.",
                    code="wrong-type",
                )


def write_events(events: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the body of a push of rows.

    Raises:
        RequestError: A value has no form in JSON; ``field`` points at it if it is found.
    """
    return _encode({"events": events})


def read_features(body: bytes, question: bytes) -> OnlineFeatures:
    """Read an answer, to the bit what the server's own store gave.

    Args:
        body: The answer.
        question: What was asked; entities and request inputs are read from it as the server reads them.
    """
    found, asked = msgspec.json.decode(body), msgspec.json.decode(question)
    dtypes = found["dtypes"]
    columns = tuple(parse_dtype(name) for name in dtypes["columns"])
    keys = _parsed(dtypes["keys"])
    inputs = _parsed(dtypes["request"])
    rows = found["rows"]
    errors = _errors(found.get("errors"))
    return OnlineFeatures(
        service=found["service"],
        fingerprint=found["fingerprint"],
        request_id=found["request_id"],
        as_of_us=instant_us(found["as_of"]),
        columns=tuple(found["columns"]),
        dtypes=columns,
        rows=_read_rows([row["values"] for row in rows], columns),
        codes=b"".join([codes_of(row["statuses"]) for row in rows]),
        event_times={
            alias: [_instant(row["event_times"][alias]) for row in rows] for alias in {**found["views"], **errors}
        },
        errors=errors,
        views={alias: _view_state(view) for alias, view in found["views"].items()},
        entities=[_read_object(entity, keys) for entity in asked["entities"]],
        requests=_read_inputs(asked.get("request"), inputs, len(rows)),
        keys=keys,
        inputs=inputs,
    )


def read_services(body: bytes) -> tuple[ServiceInfo, ...]:
    """Read the list of services, sorted by name."""
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
    """Read what became of a push.

    Args:
        source: What it was pushed to.
        body: The answer.
    """
    found = msgspec.json.decode(body)
    return PushResult(
        source=source,
        accepted=found["accepted"],
        duplicates=found["duplicates"],
        sequence=found["sequence"],
        ingest_time_us=instant_us(found["ingest_time"]),
        is_followed=found["is_followed"],
        rejected=tuple(RejectedRow(item["row"], item["field"], item["problem"]) for item in found["rejected"]),
    )


def _columns(columns: list[dict[str, str]]) -> dict[str, DType]:
    return {column["name"]: parse_dtype(column["dtype"]) for column in columns}


def _parsed(names: dict[str, str]) -> dict[str, DType]:
    return {name: parse_dtype(dtype) for name, dtype in names.items()}


def _read_rows(rows: list[list[Any]], dtypes: Sequence[DType]) -> list[list[Any]]:
    """Read values by their dtypes; most dtypes are in JSON what they are in Python."""
    places = [(place, dtype) for place, dtype in enumerate(dtypes) if dtype.kind not in _AS_WRITTEN]
    for row in rows:
        for place, dtype in places:
            row[place] = read_value(dtype, row[place])
    return rows


def _read_object(values: Mapping[str, Any], dtypes: Mapping[str, DType]) -> dict[str, Any]:
    return {name: read_value(dtype, values[name]) for name, dtype in dtypes.items()}


def _read_inputs(request: Any, dtypes: Mapping[str, DType], count: int) -> list[dict[str, Any]]:
    """Read the request inputs of each entity: one object may stand for all of them."""
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
    """Read an instant; the few of one answer are the same for many rows."""
    return None if text is None else instant_us(text)


def _bound(text: str | None) -> int:
    """Read the bound of a view's state; one before the first instant there is has no text."""
    return NOTHING_YET if text is None else instant_us(text)


def _encode(document: dict[str, Any]) -> bytes:
    try:
        return _to_json(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(
            f"it cannot be written as JSON: {error}",
            field=_place(document, ""),
            hint="Use bool, int, float, str, datetime, date, Decimal, bytes, lists of these, and None.",
            code="wrong-type",
        ) from None


def _plain(value: Any) -> Any:
    """Return what the encoder does not know as what it is a kind of: ``pandas.Timestamp`` is a ``datetime``.

    Numbers of NumPy are what Python makes of them, each exactly; what pandas writes for missing values is null.
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


def _place(value: Any, place: str) -> str:
    """Return the JSON pointer to the first value inside that cannot be written."""
    if isinstance(value, Mapping):
        inside: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        inside = list(enumerate(value))
    else:
        return place
    for name, item in inside:
        try:
            _to_json(item)
        except (TypeError, ValueError, RecursionError):
            return _place(item, place + json_pointer(name))
    return place
