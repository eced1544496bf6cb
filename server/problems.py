"""From exceptions to RFC 9457 problem documents: the only place where errors of the library meet HTTP."""

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

_MOST_LETTERS = 1_000
_LOGGER = logging.getLogger("featurestore.server")
_PLACE = re.compile(r"^(?P<text>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_MEMBER = re.compile(r"^Object (?P<what>missing required|contains unknown) field `(?P<name>.*)`$")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_UNAVAILABLE = (StateError, RegistryError, StorageError, UnknownUdfError)


class RefusedError(Exception):
    """A request that the server refuses before the library sees it.

    Attributes:
        status: HTTP status.
        detail: What is wrong, and what would be right.
        code: Stable name of the mistake.
        field: JSON pointer into the request; may be empty.
        headers: What the answer's header says besides.
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
    """Return the refusal of a request that is larger than the server takes."""
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, "too-large", field, headers=headers)


def not_started() -> RefusedError:
    """Return the refusal of requests that come before the server has started, or after it has stopped."""
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is starting or stopping.", "not-started")


def draining() -> RefusedError:
    """Return what a server that is about to end says of its readiness."""
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is about to end.", "draining")


def problem_of(error: Exception, shape: type[Struct] = Question) -> Problem:
    """Return the problem document for an exception; what is not the caller's mistake is logged.

    Args:
        error: What was raised.
        shape: What the body should have been.
    """
    match error:
        case RefusedError():
            return _problem(error.status, error.detail, error.code, error.field)
        case msgspec.ValidationError():
            return _misshapen(str(error), shape)
        case RecursionError():
            # Nothing here calls itself but what follows the nesting of a body.
            return _problem(HTTPStatus.BAD_REQUEST, "The body is nested too deeply.", "malformed-json")
        case FeatureStoreError():
            return _library(error)
        case RequestValidationError():
            return _misplaced(error)
        case HTTPException():
            return _problem(HTTPStatus(error.status_code), str(error.detail), _kebab(error.status_code))
        case _:
            _LOGGER.error("a request failed", exc_info=error)
            return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed; its log says why.", "internal-error")


def headers_of(error: Exception) -> dict[str, str]:
    """Return what the header of the answer says of an exception besides its problem document."""
    match error:
        case RefusedError() | HTTPException():
            return dict(error.headers or {})
        case StorageError(retry_seconds=float(seconds)) | UnknownUdfError(retry_seconds=float(seconds)):
            return {"retry-after": str(max(1, math.ceil(seconds)))}
        case _:
            return {}


def document_of(error: Exception) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of the answer for an exception; see ``problem_of``."""
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
    """Return the answer for an exception, and its problem's code; see ``problem_of``."""
    problem = problem_of(error, shape)
    headers = headers_of(error)
    response = Response(to_bytes(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)
    return response, problem.code


def _library(error: FeatureStoreError) -> Problem:
    status = _status(error)
    detail = f"{_cut(error.problem)}. {_cut(error.hint)}".strip()
    if status == HTTPStatus.SERVICE_UNAVAILABLE:  # an outage, not a bug: in a storm of them a line each must do
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
    """Return the problem of the first parameter that FastAPI could not read."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    detail = f"{' '.join(place)}: {first['msg']}, got {first['input']!r}."
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, detail, "wrong-parameter", json_pointer(place[-1]))


def _misshapen(message: str, shape: type[Struct]) -> Problem:
    """Return the problem of JSON that has not its shape, with the place the decoder names."""
    found = _PLACE.match(message)
    assert found is not None
    text, field = found["text"], _pointer(found["path"] or "")
    code = "wrong-type"
    if member := _MEMBER.match(text):
        is_missing = member["what"].startswith("missing")
        code = "missing-field" if is_missing else "unknown-field"
        hint = listing("Fields", shape.__struct_fields__, wrong="" if is_missing else member["name"])
        text = f"Field '{member['name']}' is {'missing' if is_missing else 'unknown'}. {hint}"
        field += json_pointer(member["name"])
    return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, text, code, field)


def _pointer(path: str) -> str:
    """Return the JSON pointer for a decoder's path: ``.entities[3]`` is ``/entities/3``."""
    return json_pointer(*(name or number for name, number in _STEP.findall(path) if number != "..."))


def _problem(
    status: HTTPStatus, detail: str, code: str, field: str = "", *, hint: str = "", error: str = ""
) -> Problem:
    return Problem(
        type=f"urn:featurestore:problem:{code}",
        title=status.phrase,
        status=int(status),
        detail=_cut(detail, 2 * _MOST_LETTERS),
        code=code,
        field=_cut(field),
        hint=_cut(hint),
        error=error,
    )


def _cut(text: str, most: int = _MOST_LETTERS) -> str:
    """Return a text, without its end if it is so long that a caller's own words must be in it."""
    return text if len(text) <= most else f"{text[:most]}…"


def _kebab(status: int) -> str:
    return HTTPStatus(status).phrase.lower().replace(" ", "-")
