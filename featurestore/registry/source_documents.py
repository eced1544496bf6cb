"""Definitions of sources as JSON, so that a store that is opened again can read them without the definitions' module.

What cannot be written is not guessed: rows in memory stay with the program that has them, and passwords are never
stored. Such a source is stored all the same, and reading it back says what to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, assert_never

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from featurestore.definitions.sources import CsvOptions, FileSource, FrameSource, Source, SqlSource
from featurestore.errors import ConfigError, RegistryError
from featurestore.registry.records import Applied, Draft, Kind

_COSMETIC = frozenset({"owner", "description", "tags"})
_VERSION = 1


def source_draft(source: Source) -> Draft:
    """Return a source as it is applied; its fingerprint says where its rows lie and how they are read."""
    document = json.dumps(_written(source), sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(document.encode()).hexdigest()
    return Draft(Kind.SOURCE, source.name, fingerprint, document)


def accepts_pushes(applied: Applied) -> bool:
    """Tell whether an applied source is declared ``stream=True``."""
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
            hint="Apply the definitions in this process, or name their module in the configuration: definitions = …",
            code="source-not-stored",
        )
    match document.pop("type"):
        case "file":
            return FileSource(csv=CsvOptions(**document.pop("csv")), **document)
        case "sql":
            return SqlSource(**document)
        case other:
            raise RegistryError(f"'{other}' is no kind of source", where=where, hint="Apply it again.")


def _written(source: Source) -> dict[str, Any]:
    common = {part.name: getattr(source, part.name) for part in fields(Source) if part.name not in _COSMETIC}
    return {"version": _VERSION, **common, **_own(source)}


def _own(source: Source) -> dict[str, Any]:
    match source:
        case FileSource():
            return {
                "type": "file",
                "path": str(source.path),
                "format": source.format,
                "csv": _csv(source.csv),
                "dtypes": _names(source.dtypes),
            }
        case SqlSource():
            own = {"type": "sql", "table": source.table, "query": source.query, "dtypes": _names(source.dtypes)}
            if not _has_password(source.url):
                return own | {"url": source.url}
            url = sa.make_url(source.url).render_as_string(hide_password=True)
            return own | {"url": url, "unstored": "its URL holds a password"}
        case FrameSource():
            return {"type": "frame", "unstored": "its rows lie in the memory of the program that applied it"}
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


def _has_password(url: str) -> bool:
    try:
        return sa.make_url(url).password is not None
    except ArgumentError:
        return False
