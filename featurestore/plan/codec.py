"""Canonical JSON and fingerprints of frozen dataclasses.

The codec follows a class's fields and their types; it knows no plan, and the plan's classes stand on it. Equal objects
give equal text: keys are sorted, there is no space, fields at their default are left out (so that a new field with a
default changes no older text), dtypes are written by name, floats by the shortest text that reads back the same bits.

What a fingerprint covers is said where the fields are declared: ``field(metadata=COSMETIC)`` leaves a field out,
``field(metadata=UNORDERED)`` makes the order of its items count for nothing; everything else is in.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from featurestore.dtypes import DType, parse_dtype
from featurestore.errors import RegistryError

VERSION = 1
"""Version of the JSON form and of what a plan means. It is part of every fingerprint: raise it when a kernel's rule
changes."""

COSMETIC: Mapping[str, bool] = types.MappingProxyType({"cosmetic": True})
"""Metadata of a field that changes no value."""

UNORDERED: Mapping[str, bool] = types.MappingProxyType({"unordered": True})
"""Metadata of a tuple field of which the order changes no value."""

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
        RegistryError: The text is no such object, or of another version.
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
    if isinstance(value, DType):
        return str(value)
    if isinstance(value, tuple):
        return [encode(item, only_meaning=only_meaning) for item in value]
    if is_dataclass(value):
        kept = (part for part in fields(value) if not (only_meaning and part.metadata.get("cosmetic")))
        return {
            part.name: _encode_field(part, getattr(value, part.name), only_meaning)
            for part in kept
            if not _is_default(part, getattr(value, part.name))
        }
    assert value is None or isinstance(value, _SCALARS), f"{type(value).__name__} has no JSON form"
    return value


def _encode_field(part: Field[Any], value: Any, only_meaning: bool) -> Any:
    encoded = encode(value, only_meaning=only_meaning)
    if only_meaning and part.metadata.get("unordered"):
        return sorted(encoded, key=canonical)
    return encoded


def _is_default(part: Field[Any], value: Any) -> bool:
    """Tell whether a field holds its default, types included: 1, 1.0 and True are three values."""
    return part.default is not MISSING and type(part.default) is type(value) and bool(part.default == value)


class _MalformedError(Exception):
    """JSON data that is not of the type it should be."""


def _decode(kind: Any, data: Any, where: str) -> Any:
    """Read JSON data as a type of a field."""
    if kind is Any:
        return _decode_constant(data, where)
    if kind is DType:
        return _decode_dtype(data, where)
    if is_dataclass(kind):
        return _decode_dataclass(kind, data, where)
    origin, parts = get_origin(kind), get_args(kind)
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
    if unknown := sorted(set(data) - set(known)):
        raise _MalformedError(f"{where}: unknown field '{unknown[0]}'")
    required = {part.name for part in fields(kind) if part.default is MISSING}
    if missing := sorted(required - set(data)):
        raise _MalformedError(f"{where}: field '{missing[0]}' is missing")
    return kind(**{name: _decode(known[name], item, f"{where}.{name}") for name, item in data.items()})


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    # ``Param`` names itself, which type hints cannot follow: constants are read by what they are.
    hints = get_type_hints(kind, localns={"Param": Any})
    return {part.name: hints[part.name] for part in fields(kind)}


def _unreadable(cls: type[Any], problem: str) -> RegistryError:
    return RegistryError(
        problem,
        where=f"stored {cls.__name__}",
        hint="Apply the definitions again with this version of the library.",
        code="unreadable-plan",
    )
