"""Entity keys as bytes. The encoding is typed and injective, so that no two keys ever share a state.

Each part is a tag for its dtype followed by its value in a self-delimiting form: (1, 11) differs from (11, 1), "1"
differs from 1. The encoding is part of the stored form and must never change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from featurestore.core.columns import Ints
from featurestore.core.dtypes import DType
from featurestore.core.temporal import instant_us

_INT = struct.Struct(">cq")
_LENGTH = struct.Struct(">cI")
_EXACT = Context(prec=60)
"""Precise enough for every decimal of the contract; Python's default context would round."""


def _bool(value: bool) -> bytes:
    return b"b\x01" if value else b"b\x00"


def _int(value: int) -> bytes:
    return _INT.pack(b"i", value)


def _float(value: float) -> bytes:
    return b"f" + struct.pack(">d", value + 0.0)


def _string(value: str) -> bytes:
    data = value.encode()
    return _LENGTH.pack(b"s", len(data)) + data


def _timestamp(value: datetime) -> bytes:
    return _INT.pack(b"t", instant_us(value))


def _date(value: date) -> bytes:
    return _INT.pack(b"d", value.toordinal())


def _binary(value: bytes) -> bytes:
    return _LENGTH.pack(b"y", len(value)) + value


def _decimal(value: Decimal) -> bytes:
    # Zero has one form: Python's decimals have a negative zero, Arrow's do not.
    data = format(value.normalize(_EXACT), "f").encode() if value else b"0"
    return _LENGTH.pack(b"n", len(data)) + data


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "bool": _bool,
    "int64": _int,
    "float64": _float,
    "string": _string,
    "timestamp": _timestamp,
    "date": _date,
    "binary": _binary,
    "decimal": _decimal,
}


def key_encoder(dtypes: Sequence[DType]) -> Callable[[Sequence[Any]], bytes | None]:
    """Return a function that encodes the parts of a key, in entity order.

    The parts must be Python values of the dtypes, as ``read_value`` returns them. For a key with a null part the
    function returns ``None``.
    """
    encoders = [_ENCODERS[dtype.kind] for dtype in dtypes]
    if len(encoders) == 1:
        single = encoders[0]
        return lambda parts: None if parts[0] is None else single(parts[0])

    def encode(parts: Sequence[Any]) -> bytes | None:
        if None in parts:
            return None
        return b"".join([encoder(part) for encoder, part in zip(encoders, parts, strict=True)])

    return encode


def ordered_keys(prefix: bytes, dtypes: Sequence[DType], columns: Sequence[pa.Array]) -> tuple[tuple[bytes, ...], Ints]:
    """Encode many keys and sort them.

    Args:
        prefix: The common prefix.
        dtypes: The dtypes of the parts.
        columns: The parts, without nulls.

    Returns:
        The keys, ascending, and the row of each.
    """
    if all(dtype.kind in _NUMBERED for dtype in dtypes):
        return _numbered(prefix, dtypes, columns)
    encode = key_encoder(dtypes)
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    encoded = [encode(row) for row in rows]
    keys = [prefix + key for key in encoded if key is not None]
    assert len(keys) == len(encoded), "the parts of a key must not be null"
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return tuple([keys[i] for i in order]), np.array(order, dtype=np.int64)


_NUMBERED = {"int64": b"i", "timestamp": b"t", "date": b"d"}
"""Dtypes whose parts are a tag and a number: these are encoded as whole columns."""

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


def _numbered(prefix: bytes, dtypes: Sequence[DType], columns: Sequence[pa.Array]) -> tuple[tuple[bytes, ...], Ints]:
    numbers = [_number(column, dtype).view(np.uint64) for column, dtype in zip(columns, dtypes, strict=True)]
    order = np.lexsort(numbers[::-1]) if len(numbers) > 1 else np.argsort(numbers[0])
    width = len(prefix) + 9 * len(numbers)
    rows = np.empty((len(order), width), dtype=np.uint8)
    rows[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    for i, (number, dtype) in enumerate(zip(numbers, dtypes, strict=True)):
        at = len(prefix) + 9 * i
        rows[:, at] = ord(_NUMBERED[dtype.kind])
        rows[:, at + 1 : at + 9] = number[order].astype(">u8").view(np.uint8).reshape(-1, 8)
    raw = rows.tobytes()
    return tuple([raw[begin : begin + width] for begin in range(0, len(raw), width)]), order


def _number(column: pa.Array, dtype: DType) -> Ints:
    if dtype.kind == "date":
        days = column.cast(pa.int32()).to_numpy(zero_copy_only=False)
        return np.asarray(days.astype(np.int64) + _EPOCH_ORDINAL)
    return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False), dtype=np.int64)
