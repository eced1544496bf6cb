"""Entity keys as bytes: typed and injective, so that no two keys ever share a state.

Each part is a tag for its dtype followed by its value in a form that says itself where it ends: (1, 11) is not (11, 1),
"1" is not 1. The encoding is part of the stored form and must never change.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Context, Decimal
from typing import Any

from featurestore.dtypes import DType
from featurestore.temporal import instant_us

_INT = struct.Struct(">cq")
_LENGTH = struct.Struct(">cI")
_EXACT = Context(prec=60)
"""Wide enough for every decimal of the contract; Python's own context would round."""


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
    data = format(value.normalize(_EXACT), "f").encode()
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

    The parts must be Python values of the dtypes, as ``read_value`` gives them. A key with a null part is no key: it
    gives ``None``.
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
