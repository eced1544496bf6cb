"""From a server's refusals to the exceptions that the embedded store raises."""

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

_CALLERS_MISTAKES = (400, 413, 422)


def error_of(status: int, body: bytes) -> FeatureStoreError:
    """Return the exception for an answer that is no success.

    A problem document names the class of the library's error, so that it is raised here as it was there. What the
    server refused before the library saw it is a ``RequestError`` if the request was wrong, an ``UnreachableError`` if
    time was up, else a ``ServerError``.

    Args:
        status: HTTP status.
        body: What was sent with it; it need not be a problem document.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = None
    if not isinstance(document, dict) or "code" not in document:
        return ServerError(
            f"it answered {status} and no problem document",
            status=status,
            hint="Is this the address of a feature server? Something on the way may have answered.",
            code="no-problem-document",
        )
    hint = _text(document, "hint")
    problem = _text(document, "detail").removesuffix(hint).rstrip().removesuffix(".")
    return _error(status, problem, hint, _text(document, "code"), _text(document, "field"), _text(document, "error"))


def _text(document: dict[str, Any], name: str) -> str:
    """Return a member of a problem document; a missing or foreign one is empty."""
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
    if status in _CALLERS_MISTAKES:
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
"""Errors that are nothing but their message."""
