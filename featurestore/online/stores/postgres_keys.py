"""Keys of any length in a PostgreSQL index, whose entries have at most some 2,700 bytes.

A long key is stored as its beginning and a digest of the whole, and its value as the whole key and the value. So keys
that begin with a prefix still lie side by side, and a key that is found is compared to the last byte. What is stored
for a long key is longer than any short key, so the two are never taken for each other.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence

LONGEST = 2_000
"""Longest key that is stored as it is, in bytes."""

_DIGEST_BYTES = 32
BEGINNING = LONGEST + 1 - _DIGEST_BYTES
"""So many bytes of a long key are stored as they are."""

_LENGTH = struct.Struct(">I")
VALUE_AT = _LENGTH.size
"""Where in the stored value of a long key the key begins."""


def has_long(keys: Sequence[bytes]) -> bool:
    """Tell whether any of some keys is long."""
    return max(map(len, keys), default=0) > LONGEST


def stored_key(key: bytes) -> bytes:
    """Return what stands for a key in the index.

    Example:
        >>> stored_key(b"short")
        b'short'
        >>> len(stored_key(bytes(100_000)))
        2001
    """
    if len(key) <= LONGEST:
        return key
    return key[:BEGINNING] + hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()


def stored_value(key: bytes, value: bytes) -> bytes:
    """Return what is stored as the value of a key."""
    return value if len(key) <= LONGEST else _LENGTH.pack(len(key)) + key + value


def stored_expected(expected: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """Return what is stored where some keys have the values they are expected to have."""
    return {stored_key(key): None if value is None else stored_value(key, value) for key, value in expected.items()}


def opened(key: bytes, stored: bytes) -> bytes | None:
    """Return the value of a key; ``None`` if another key is stored in its place."""
    if len(key) <= LONGEST:
        return stored
    begin = VALUE_AT + len(key)
    return stored[begin:] if stored[:begin] == _LENGTH.pack(len(key)) + key else None
