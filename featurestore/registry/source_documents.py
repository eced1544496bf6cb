"""Definitions of sources as JSON, so that a store that is opened again can read them without the definitions' module.

What cannot be written is not guessed: rows in memory stay with the program that has them, and secrets in URLs are never
stored. Such a source is stored all the same, and reading it back says what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, assert_never

from featurestore.core.errors import ConfigError, RegistryError
from featurestore.core.urls import holds_secret, shown
from featurestore.definitions.sources import CsvOptions, FileSource, FrameSource, Source, SqlSource
from featurestore.registry.records import Applied, Draft, Kind

_COSMETIC = frozenset({"owner", "description", "tags"})
_LEFT_OUT = {"ambiguous": "later", "nonexistent": "raise"}
"""Options that are left out at their default, so that documents written before there were any stay what they are."""

_VERSION = 1


def source_draft(source: Source) -> Draft:
    """Return a source as it is applied; its fingerprint is of its place and the way its rows are read."""
    document = json.dumps(_written(source), sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(document.encode()).hexdigest()
    return Draft(Kind.SOURCE, source.name, fingerprint, document)


def accepts_pushes(applied: Applied) -> bool:
    """Return whether an applied source is declared ``stream=True``."""
    return bool(json.loads(applied.document).get("stream"))


def read_source(applied: Applied) -> Source:
    """Return the definition of an applied source.

    Raises:
        ConfigError: It held rows in memory or a password, which are not stored.
        RegistryError: The document is of another version.
    """
    where = f"source '{applied.name}'"
    document: dict[str, Any] = json.loads(applied.document)
    if document.pop("version", None) != _VERSION:
        raise RegistryError("it was stored by another version of the library", where=where, hint="Apply it again.")
    if reason := document.pop("unstored", None):
        raise ConfigError(
            f"{reason}, which the registry does not keep",
            where=where,
            hint="Apply the definitions in this process, or name their module in the configuration: definitions = … "
            "In place of a secret a URL may name an environment variable: ${NAME}.",
            code="source-not-stored",
        )
    match document.pop("type"):
        case "file":
            return FileSource(csv=CsvOptions(**document.pop("csv")), **document)
        case "sql":
            return SqlSource(**document)
        case other:
            raise RegistryError(f"'{other}' is not a kind of source", where=where, hint="Apply it again.")


def _written(source: Source) -> dict[str, Any]:
    common = {part.name: getattr(source, part.name) for part in fields(Source) if part.name not in _COSMETIC}
    for name, default in _LEFT_OUT.items():
        if common[name] == default:
            del common[name]
    return {"version": _VERSION, **common, **_own(source)}


def _own(source: Source) -> dict[str, Any]:
    match source:
        case FileSource():
            return {
                "type": "file",
                **_place("path", str(source.path)),
                "format": source.format,
                "csv": _csv(source.csv),
                "dtypes": _names(source.dtypes),
            }
        case SqlSource():
            document = {"type": "sql", "table": source.table, "query": source.query, "dtypes": _names(source.dtypes)}
            return document | _place("url", source.url)
        case FrameSource():
            dtypes = {"dtypes": _names(source.dtypes)} if source.dtypes else {}
            return dtypes | {"type": "frame", "unstored": "its rows are in the memory of the program that applied it"}
        case Source():
            return {"type": type(source).__name__, "unstored": "it is of a kind of its own"}
        case _:
            assert_never(source)


def _csv(options: CsvOptions) -> dict[str, Any]:
    """Return how text is cut; options that came later are left out at their defaults, so that documents stay equal."""
    written = {part.name: getattr(options, part.name) for part in fields(CsvOptions)}
    default = CsvOptions()
    return {
        name: value
        for name, value in written.items()
        if name not in ("comment", "encoding") or value != getattr(default, name)
    }


def _names(dtypes: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in dtypes.items()}


def _place(name: str, place: str) -> dict[str, str]:
    """Return the place of rows as it is stored: without secrets."""
    if not holds_secret(place):
        return {name: place}
    return {name: shown(place), "unstored": "its URL holds a password, or an option that may be one"}
