"""Canonical JSON and fingerprints of frozen dataclasses.

The codec follows a class's fields and their types and knows nothing of plans; the classes of a plan use it. Equal
objects give equal text: keys are sorted, there is no space, fields at their default are left out (so that a new
field with a default changes no older text), dtypes are written by name, floats by the shortest text that reads back
the same bits.

The fields themselves declare whether the fingerprint covers them: ``field(metadata=COSMETIC)`` leaves a field out,
``field(metadata=UNORDERED)`` ignores the order of its items; everything else is covered.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from featurestore.core.dtypes import DType, parse_dtype
from featurestore.core.errors import RegistryError

VERSION = 1
"""Version of the JSON form and of what a plan means. It is part of every fingerprint: raise it when a kernel's rule
changes."""

COSMETIC: Mapping[str, bool] = types.MappingProxyType({"cosmetic": True})
"""Metadata of a field that changes no value."""

UNORDERED: Mapping[str, bool] = types.MappingProxyType({"unordered": True})
"""Metadata of a tuple field whose order changes no value."""

_T = TypeVar("_T")
_SCALARS = (bool, int, float, str)


def to_json(value: Any) -> str:
    """Return a dataclass as canonical JSON, with the name of its class and the version.

    Raises:
        ValueError: A float inside is not finite.
    """
    return canonical({"kind": type(value).__name__, "version": VERSION, "value": encode(value)})


def from_json(cls: type[_T], text: str | bytes) -> _T:
    """Read a dataclass written by ``to_json``, strictly: the result is equal to what was written.

    Raises:
        RegistryError: The text is not an object of this class, or has another version.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _unreadable(cls, f"it is not JSON ({error})") from None
    if not isinstance(document, dict) or document.get("kind") != cls.__name__:
        raise _unreadable(cls, "it holds something else")
    if document.get("version") != VERSION:
        raise _unreadable(cls, f"it has version {document.get('version')!r}, this library reads {VERSION}")
    try:
        return _decode(cls, document.get("value"), cls.__name__)  # type: ignore[no-any-return]  # decoded as cls
    except _MalformedError as error:
        raise _unreadable(cls, str(error)) from None


def fingerprint_of(value: Any) -> str:
    """Return the hash (SHA-256, hexadecimal) of everything in a dataclass that can change a value.

    Cosmetic fields are left out and unordered ones sorted, at every depth; the class and the version are in.
    """
    meaning = {"kind": type(value).__name__, "version": VERSION, "value": encode(value, only_meaning=True)}
    return hashlib.sha256(canonical(meaning).encode()).hexdigest()


def canonical(data: Any) -> str:
    """Return JSON data as its one canonical text: ASCII, keys sorted, no space, only finite numbers."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def encode(value: Any, *, only_meaning: bool = False) -> Any:
    """Return a value as JSON data.

    Args:
        value: A dataclass, a dtype, a tuple, or a scalar.
        only_meaning: Leave cosmetic fields out and sort unordered ones.
    """
    return _encode(value, only_meaning)


def _encode(value: Any, only_meaning: bool) -> Any:
    # Plans may hold thousands of constants: frequent types come first, and a class's fields are looked up once.
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, tuple):
        return [item if type(item) in _SCALARS else _encode(item, only_meaning) for item in value]
    if isinstance(value, DType):
        return _dtype_text(value)
    assert is_dataclass(value), f"{type(value).__name__} has no JSON form"
    encoded = {}
    kind: Any = type(value)
    for name, default, is_cosmetic, is_unordered in _encoded_parts(kind):
        part = getattr(value, name)
        # Defaults are compared with their type: 1, 1.0 and True are three values.
        if (only_meaning and is_cosmetic) or (type(default) is type(part) and default == part):
            continue
        data = _encode(part, only_meaning)
        encoded[name] = sorted(data, key=canonical) if only_meaning and is_unordered else data
    return encoded


_dtype_text = cache(str)


@cache
def _encoded_parts(kind: Any) -> tuple[tuple[str, Any, bool, bool], ...]:
    """Return a class's fields: name, default, whether it is cosmetic, whether it is unordered."""
    return tuple(
        (part.name, part.default, bool(part.metadata.get("cosmetic")), bool(part.metadata.get("unordered")))
        for part in fields(kind)
    )


class _MalformedError(Exception):
    """JSON data of another type than the field has."""


def _decode(kind: Any, data: Any, where: str) -> Any:
    """Read JSON data as the type of a field."""
    if kind is Any:
        return _decode_constant(data, where)
    if kind is DType:
        return _decode_dtype(data, where)
    is_class, origin, parts = _shape(kind)
    if is_class:
        return _decode_dataclass(kind, data, where)
    if origin in (Union, types.UnionType):
        return _decode_optional(parts, data, where)
    if origin is tuple:
        return _decode_tuple(parts, data, where)
    if origin is Literal:
        if data not in parts:
            raise _MalformedError(f"{where}: got {data!r}, expected one of {', '.join(map(repr, parts))}")
        return data
    if type(data) is not kind:
        raise _MalformedError(f"{where}: got {type(data).__name__}, expected {kind.__name__}")
    return data


@cache
def _shape(kind: Any) -> tuple[bool, Any, tuple[Any, ...]]:
    """Return whether a type is a dataclass, its origin and its arguments."""
    return is_dataclass(kind), get_origin(kind), get_args(kind)


def _decode_constant(data: Any, where: str) -> Any:
    if isinstance(data, list):
        return tuple(_decode_constant(item, where) for item in data)
    if data is not None and not isinstance(data, _SCALARS):
        raise _MalformedError(f"{where}: got {type(data).__name__}, expected a constant")
    return data


def _decode_dtype(data: Any, where: str) -> DType:
    try:
        return parse_dtype(data)
    except (TypeError, ValueError) as error:
        raise _MalformedError(f"{where}: {error}") from None


def _decode_optional(parts: tuple[Any, ...], data: Any, where: str) -> Any:
    (kind,) = (part for part in parts if part is not type(None))
    return None if data is None else _decode(kind, data, where)


def _decode_tuple(parts: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise _MalformedError(f"{where}: got {type(data).__name__}, expected a list")
    kinds = [parts[0]] * len(data) if parts[-1] is Ellipsis else list(parts)
    if len(kinds) != len(data):
        raise _MalformedError(f"{where}: got {len(data)} items, expected {len(kinds)}")
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _decode_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise _MalformedError(f"{where}: got {type(data).__name__}, expected an object")
    known = _field_types(kind)
    if unknown := sorted(data.keys() - known.keys()):
        raise _MalformedError(f"{where}: unknown field '{unknown[0]}'")
    if missing := sorted(_required(kind) - data.keys()):
        raise _MalformedError(f"{where}: field '{missing[0]}' is missing")
    return kind(**{name: _decode(known[name], item, f"{where}.{name}") for name, item in data.items()})


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    # ``Param`` refers to itself, which type hints cannot resolve: constants are read by their JSON type.
    hints = get_type_hints(kind, localns={"Param": Any})
    return {part.name: hints[part.name] for part in fields(kind)}


@cache
def _required(kind: Any) -> frozenset[str]:
    return frozenset(part.name for part in fields(kind) if part.default is MISSING)


def _unreadable(cls: type[Any], problem: str) -> RegistryError:
    return RegistryError(
        problem,
        where=f"stored {cls.__name__}",
        hint="Apply the definitions again with this version of the library.",
        code="unreadable-plan",
    )
