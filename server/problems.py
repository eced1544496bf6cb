"""Problem documents of RFC 9457 for exceptions: the only place that maps errors of the library to HTTP."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

import msgspec
from fastapi import Response
from fastapi.exceptions import RequestValidationError
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.types import Send

from featurestore.core.errors import (
    FeatureStoreError,
    FingerprintMismatchError,
    InstantError,
    RegistryError,
    RequestError,
    StateError,
    StorageError,
    UnknownServiceError,
    UnknownUdfError,
    ValueOverflowError,
    json_pointer,
    listing,
)
from featurestore.server.messages import Problem, Question, to_bytes
from featurestore.sources.event_log import OUTCOME_UNKNOWN

MEDIA_TYPE = "application/problem+json"

_MAX_LETTERS = 1_000
_LOGGER = logging.getLogger("featurestore.server")
_LOCATED = re.compile(r"^(?P<text>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MEMBER = re.compile(r"^Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`$")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_UNAVAILABLE = (StateError, RegistryError, StorageError, UnknownUdfError)


class RefusedError(Exception):
    """A request that the server refuses without asking the library.

    Attributes:
        status: HTTP status.
        detail: What is wrong, and what would be right.
        code: Stable name of the mistake.
        field: JSON pointer into the request; may be empty.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        code: str,
        field: str = "",
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(detail)
        self.headers = headers
        self.status = status
        self.detail = detail
        self.code = code
        self.field = field


def too_large(detail: str, *, field: str = "", headers: Mapping[str, str] = MappingProxyType({})) -> RefusedError:
    """Return the refusal of a request that exceeds a limit (413)."""
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, "too-large", field, headers=headers)


def not_started() -> RefusedError:
    """Return the refusal of a request that arrives before the server has started, or after it has stopped (503)."""
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is starting or stopping.", "not-started")


def draining() -> RefusedError:
    """Return the readiness problem of a server that is about to stop (503)."""
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is about to stop.", "draining")


def deadline_exceeded(seconds: float) -> RefusedError:
    """Return the refusal of a request that could not be answered in time (504)."""
    detail = f"There was no answer within {seconds * 1_000:g} ms. Ask for fewer entities, or wait longer."
    return RefusedError(HTTPStatus.GATEWAY_TIMEOUT, detail, "deadline-exceeded")


def problem_of(error: Exception, shape: type[Struct] = Question) -> Problem:
    """Return the problem document for an exception, and log it unless the caller made the mistake.

    Args:
        error: The exception.
        shape: Expected shape of the body.
    """
    match error:
        case RefusedError():
            return _problem(error.status, error.detail, error.code, error.field)
        case msgspec.ValidationError():
            return _misshapen(str(error), shape)
        case RecursionError():
            # Only code that follows the nesting of a body is recursive.
            return _problem(HTTPStatus.BAD_REQUEST, "The body is nested too deeply.", "malformed-json")
        case FeatureStoreError():
            return _library(error)
        case RequestValidationError():
            return _misplaced(error)
        case HTTPException():
            return _problem(HTTPStatus(error.status_code), str(error.detail), _kebab(error.status_code))
        case _:
            _LOGGER.error("a request failed", exc_info=error)
            return _problem(
                HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed. Its log has the reason.", "internal-error"
            )


def headers_of(error: Exception) -> dict[str, str]:
    """Return the headers of the answer to an exception, besides those of its problem document."""
    match error:
        case RefusedError() | HTTPException():
            return dict(error.headers or {})
        case StorageError(retry_seconds=float(seconds)) | UnknownUdfError(retry_seconds=float(seconds)):
            return {"retry-after": str(max(1, math.ceil(seconds)))}
        case _:
            return {}


def document_of(error: Exception) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of the answer to an exception; see ``problem_of``."""
    return _document(problem_of(error), error)


async def refuse(send: Send, error: Exception) -> str:
    """Answer a request with the problem document for an exception; return the problem's code."""
    problem = problem_of(error)
    headers, body = _document(problem, error)
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return problem.code


def _document(problem: Problem, error: Exception) -> tuple[list[tuple[bytes, bytes]], bytes]:
    body = to_bytes(problem)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode("latin-1")) for name, value in headers_of(error).items()]
    return headers, body


def response_of(error: Exception, shape: type[Struct] = Question) -> tuple[Response, str]:
    """Return the answer to an exception, and its problem's code; see ``problem_of``."""
    problem = problem_of(error, shape)
    headers = headers_of(error)
    response = Response(to_bytes(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
    return response, problem.code


def _library(error: FeatureStoreError) -> Problem:
    status = _status(error)
    detail = f"{_cut(error.problem)}. {_cut(error.hint)}".strip()
    if status == HTTPStatus.SERVICE_UNAVAILABLE:  # an outage, not a bug: one line without a traceback
        _LOGGER.error("a request was refused: %s", error, extra={"code": error.code})
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _LOGGER.error("a request failed: %s", error, exc_info=error, extra={"code": error.code})
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.where:
        detail = f"{error.where}: {detail}"
    field = "/as_of" if isinstance(error, InstantError) else getattr(error, "field", "")
    return _problem(status, detail, error.code, field, hint=error.hint, error=type(error).__name__)


def _status(error: FeatureStoreError) -> HTTPStatus:
    match error:
        case UnknownServiceError():
            return HTTPStatus.NOT_FOUND
        case FingerprintMismatchError():
            return HTTPStatus.CONFLICT
        case RequestError(code="unknown-source"):
            return HTTPStatus.NOT_FOUND
        case RequestError() | InstantError() | ValueOverflowError():
            return HTTPStatus.UNPROCESSABLE_ENTITY
        case StorageError(code=code) if code == OUTCOME_UNKNOWN:
            return HTTPStatus.GATEWAY_TIMEOUT
        case _ if isinstance(error, _UNAVAILABLE):
            return HTTPStatus.SERVICE_UNAVAILABLE
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR


def _misplaced(error: RequestValidationError) -> Problem:
    """Return the problem of the first parameter that FastAPI could not parse."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    detail = f"{' '.join(location)}: {first['msg']}, got {first['input']!r}."
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "wrong-parameter", json_pointer(location[-1]))


def _misshapen(message: str, shape: type[Struct]) -> Problem:
    """Return the problem of JSON of a wrong shape, with the location that the decoder reports."""
    located = _LOCATED.match(message)
    assert located is not None
    text, field = located["text"], _pointer(located["path"] or "")
    code = "wrong-type"
    if member := _MEMBER.match(text):
        is_missing = member["what"].startswith("missing")
        code = "missing-field" if is_missing else "unknown-field"
        hint = listing("Fields", shape.__struct_fields__, wrong="" if is_missing else member["name"])
        text = f"Field '{member['name']}' is {'missing' if is_missing else 'unknown'}. {hint}"
        field += json_pointer(member["name"])
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, text, code, field)


def _pointer(path: str) -> str:
    """Return the JSON pointer for a path of msgspec's decoder: ``.entities[3]`` is ``/entities/3``."""
    return json_pointer(*(name or number for name, number in _STEP.findall(path) if number != "..."))


def _problem(
    status: HTTPStatus, detail: str, code: str, field: str = "", *, hint: str = "", error: str = ""
) -> Problem:
    return Problem(
        type=f"urn:featurestore:problem:{code}",
        title=status.phrase,
        status=int(status),
        detail=_cut(detail, 2 * _MAX_LETTERS),
        code=code,
        field=_cut(field),
        hint=_cut(hint),
        error=error,
    )


def _cut(text: str, max_letters: int = _MAX_LETTERS) -> str:
    """Return a text, shortened if it is so long that it must quote the caller's own input."""
    return text if len(text) <= max_letters else f"{text[:max_letters]}…"


def _kebab(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "-")
