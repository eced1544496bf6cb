"""Answers as records of a segment, and records as rows of the serving log.

A record is an answer as MessagePack, which is quick to write; rows are Arrow, made when a segment is read or sealed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.core.answers import OnlineFeatures
from featurestore.core.dtypes import (
    TIMESTAMP,
    DType,
    from_arrow,
    read_value,
)
from featurestore.plan.model import Plan
from featurestore.plan.names import AS_OF
from featurestore.serving_log.columns import (
    FINGERPRINT,
    KEY_PREFIX,
    LOGGED_AT,
    MODEL,
    MODEL_VERSION,
    REQUEST_ID,
    REQUEST_PREFIX,
    ROW,
    SERVICE,
    VALUE_PREFIX,
    key_column,
)

_INSTANT = TIMESTAMP.arrow
_SHARES = 1 << 32


class Caller(NamedTuple):
    """The model that asked, as far as the caller named it.

    Attributes:
        model: Name of the model.
        model_version: Its version.
    """

    model: str | None = None
    model_version: str | None = None


NO_CALLER = Caller()


class Record(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it is appended.

    Attributes:
        request_id: Name of the request.
        as_of_us: Instant asked about.
        logged_at_us: When it was answered.
        model: The caller's model.
        model_version: Its version.
        places: Place of each row in its request.
        keys: Per row the key columns, in the order of the plan's join keys.
        requests: Per row the request inputs, in the plan's order.
        values: Per row the values, in the plan's order.
        statuses: The ``Status`` code of each value, a byte each, row by row.
        watermarks_us: Per view, in the plan's order.
    """

    request_id: str
    as_of_us: int
    logged_at_us: int
    model: str | None
    model_version: str | None
    places: list[int]
    keys: list[list[Any]]
    requests: list[list[Any]]
    values: list[list[Any]]
    statuses: bytes
    watermarks_us: list[int]


def is_sampled(keys: Sequence[Any], share: float) -> bool:
    """Return whether an entity is in a share of all; the answer is the same in every process."""
    return crc32(msgspec.msgpack.encode(keys)) < share * _SHARES


def record_of(plan: Plan, answer: OnlineFeatures, caller: Caller, *, logged_at_us: int, share: float) -> Record:
    """Return the record of an answer, with the rows of sampled entities."""
    names, inputs = [column.name for column in plan.join_keys], [column.name for column in plan.request]
    keys = [[row[name] for name in names] for row in answer.entities]
    width = len(answer.columns)
    places = list(range(len(keys))) if share >= 1.0 else [i for i, key in enumerate(keys) if is_sampled(key, share)]
    is_whole = len(places) == len(keys)
    return Record(
        request_id=answer.request_id,
        as_of_us=answer.as_of_us,
        logged_at_us=logged_at_us,
        model=caller.model,
        model_version=caller.model_version,
        places=places,
        keys=keys if is_whole else [keys[i] for i in places],
        requests=[[answer.requests[i][name] for name in inputs] for i in places],
        values=answer.rows if is_whole else [answer.rows[i] for i in places],
        statuses=answer.codes if is_whole else b"".join([answer.codes[i * width : (i + 1) * width] for i in places]),
        watermarks_us=[answer.views[use.alias].watermark_us for use in plan.uses],
    )


def table_of(schema: pa.Schema, service: str, fingerprint: str, records: Sequence[Record]) -> pa.Table:
    """Return records of one plan as rows of its log."""
    lengths = np.array([len(record.places) for record in records], dtype=np.int64)
    rows = int(lengths.sum())

    def repeated(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
        return pa.array(values, type=dtype).take(pa.array(np.repeat(np.arange(len(values)), lengths)))

    def instants(values: Sequence[int]) -> pa.Array:
        return repeated(values, pa.int64()).cast(_INSTANT)

    common: dict[str, pa.Array] = {
        REQUEST_ID: repeated([record.request_id for record in records], pa.string()),
        ROW: pa.array([place for record in records for place in record.places], pa.int32()),
        AS_OF: instants([record.as_of_us for record in records]),
        LOGGED_AT: instants([record.logged_at_us for record in records]),
        SERVICE: pa.repeat(pa.scalar(service), rows),
        FINGERPRINT: pa.repeat(pa.scalar(fingerprint), rows),
        MODEL: repeated([record.model for record in records], pa.string()),
        MODEL_VERSION: repeated([record.model_version for record in records], pa.string()),
    }
    statuses = np.frombuffer(b"".join(record.statuses for record in records), dtype=np.uint8)
    per_name = [
        *_columns(schema, KEY_PREFIX, (row for record in records for row in record.keys), rows),
        *_columns(schema, REQUEST_PREFIX, (row for record in records for row in record.requests), rows),
        *_columns(schema, VALUE_PREFIX, (row for record in records for row in record.values), rows),
        *(pa.array(column) for column in (statuses.reshape(rows, -1).T if rows else ())),
        *(instants(column) for column in zip(*(record.watermarks_us for record in records), strict=True)),
    ]
    arrays = iter(per_name)
    return pa.Table.from_arrays([common.get(name) or next(arrays) for name in schema.names], schema=schema)


def matching(table: pa.Table, wanted: Iterable[Mapping[str, Any]]) -> pa.Array:
    """Return for each row of a log whether it has one of some keys: all its columns with its values."""
    matches = pa.array(np.zeros(table.num_rows, dtype=np.bool_))
    for keys in wanted:
        columns = {key_column(name): value for name, value in keys.items()}
        if set(columns) <= set(table.column_names):
            matches = pc.or_(matches, _has(table, columns))
    return matches


def _has(table: pa.Table, columns: Mapping[str, Any]) -> pa.Array:
    matches = pa.array(np.ones(table.num_rows, dtype=np.bool_))
    for name, value in columns.items():
        column = table.column(name).combine_chunks()
        try:
            key = pa.scalar(value, column.type)
        except (pa.ArrowException, TypeError):
            # The key had another dtype when these rows were served.
            return pa.array(np.zeros(table.num_rows, dtype=np.bool_))
        matches = pc.and_(matches, pc.equal(column, key).fill_null(False))
    return matches


def _columns(schema: pa.Schema, prefix: str, rows: Iterable[Sequence[Any]], count: int) -> list[pa.Array]:
    """Turn rows into the columns of the schema that have a prefix."""
    types = [field.type for field in schema if field.name.startswith(prefix)]
    columns = list(zip(*rows, strict=True)) if count else [()] * len(types)
    return [_column(values, kind) for values, kind in zip(columns, types, strict=True)] if types else []


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    dtype = from_arrow(kind)
    assert dtype is not None
    return pa.array([read_value(dtype, value) for value in values] if _is_text(dtype) else values, type=kind)


def _is_text(dtype: DType) -> bool:
    """Return whether MessagePack stores values of a dtype as text."""
    return dtype.kind in ("date", "decimal") or (dtype.item is not None and _is_text(dtype.item))
