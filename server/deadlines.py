"""Until when an answer is of use: what a caller says, by header or body."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from featurestore.server.problems import RefusedError

HEADER = "x-deadline-ms"
_HEADER = HEADER.encode()
_LONGEST_DIGITS = 12


def allowed_seconds(headers: Mapping[bytes, bytes], most: float, timeout_ms: int | None = None) -> float:
    """Return how long after its arrival a request is to be answered: as its caller says, and no longer than ``most``.

    Raises:
        RefusedError: The header is no whole number.
    """
    asked = asked_seconds(headers, timeout_ms)
    return most if asked is None else min(asked, most)


def asked_seconds(headers: Mapping[bytes, bytes], timeout_ms: int | None) -> float | None:
    """Return how long after its arrival a request is to be answered; ``None`` if it does not say.

    Args:
        headers: Those of the request; ``X-Deadline-Ms`` counts milliseconds.
        timeout_ms: What the body says; the shorter of both holds.

    Raises:
        RefusedError: The header is no whole number.
    """
    given = headers.get(_HEADER)
    if given is None:
        return None if timeout_ms is None else timeout_ms / 1_000
    text = given.strip()
    if not text.isdigit() or len(text) > _LONGEST_DIGITS:
        detail = f"X-Deadline-Ms is {given.decode('latin-1')!r}; write whole milliseconds, for instance 250."
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "deadline")
    milliseconds = int(text) if timeout_ms is None else min(int(text), timeout_ms)
    return milliseconds / 1_000


def too_late(seconds: float) -> RefusedError:
    """Return the refusal of a request that could not be answered in time."""
    detail = f"There was no answer within {seconds * 1_000:g} ms. Ask for fewer entities, or wait longer."
    return RefusedError(HTTPStatus.GATEWAY_TIMEOUT, detail, "deadline-exceeded")
