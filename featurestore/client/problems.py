"""Maps a server's problem documents to the exceptions that the embedded store raises."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from featurestore.core import errors
from featurestore.core.errors import (
    FeatureStoreError,
    RequestError,
    ServerError,
    UnreachableError,
)

_CLIENT_ERRORS = (400, 413, 422)


def error_of(status: int, body: bytes) -> FeatureStoreError:
    """Return the exception for a response that is not a success.

    A problem document has the class of the library's error, so the client raises the same class. A refusal of the
    server itself is a ``RequestError`` if the request was wrong, an ``UnreachableError`` if the deadline was exceeded,
    else a ``ServerError``.

    Args:
        status: HTTP status.
        body: The body; it need not be a problem document.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict) or "code" not in document:
        return ServerError(
            f"it answered {status} without a problem document",
            status=status,
            hint="Check that this is the address of a feature server. A proxy may have answered.",
            code="no-problem-document",
        )
    hint = _text(document, "hint")
    problem = _text(document, "detail").removesuffix(hint).rstrip().removesuffix(".")
    return _error(status, problem, hint, _text(document, "code"), _text(document, "field"), _text(document, "error"))


def _text(document: dict[str, Any], name: str) -> str:
    """Return a text member of a problem document; empty if it is missing or not text."""
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _error(status: int, problem: str, hint: str, code: str, field: str, name: str) -> FeatureStoreError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, RequestError):
        return kind(problem, field=field, hint=hint, code=code)
    if kind is errors.ValueOverflowError:
        return errors.ValueOverflowError(problem, field=field, hint=hint, code=code)
    if isinstance(kind, type) and kind in _PLAIN:
        return kind(problem, hint=hint, code=code)
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return UnreachableError(problem, status=status, hint=hint, code=code)
    if status in _CLIENT_ERRORS:
        return RequestError(problem, field=field, hint=hint, code=code)
    return ServerError(problem, status=status, hint=hint, code=code)


_PLAIN: frozenset[type[FeatureStoreError]] = frozenset(
    {
        errors.InstantError,
        errors.UnknownUdfError,
        errors.ConfigError,
        errors.SourceError,
        errors.SourceDataError,
        errors.SourceMissingError,
        errors.StateError,
        errors.RegistryError,
        errors.StorageError,
    }
)
"""Errors without fields of their own."""
