"""Reading online requests: entities and request inputs, checked against the plan of the service.

Every error has a JSON pointer to the field that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from featurestore.core.answers import OnlineQuestion
from featurestore.core.dtypes import DType, read_value
from featurestore.core.errors import (
    FingerprintMismatchError,
    InstantError,
    RequestError,
    did_you_mean,
    json_pointer,
    listing,
)
from featurestore.core.request_ids import new_request_id
from featurestore.core.temporal import MAX_INSTANT_US, MIN_INSTANT_US, instant_us
from featurestore.plan.model import Column, Plan

_ENTITIES_HINT = "Give a list of objects, one per entity: [{…}, {…}]."


class ParsedRequest(NamedTuple):
    """The contents of a valid request.

    Attributes:
        entities: The key columns of each entity.
        inputs: The request inputs of each entity.
        request_id: The identifier of the request.
    """

    entities: list[dict[str, Any]]
    inputs: list[dict[str, Any]]
    request_id: str


class RequestParser:
    """Parses the requests to one service.

    Attributes:
        keys: The dtypes of the key columns.
        inputs: The dtypes of the request inputs.
    """

    def __init__(self, plan: Plan) -> None:
        """Take the plan of the service."""
        self._plan = plan
        self.keys: dict[str, DType] = {column.name: column.dtype for column in plan.join_keys}
        self.inputs: dict[str, DType] = {column.name: column.dtype for column in plan.request}

    def parse(self, question: OnlineQuestion) -> ParsedRequest | Exception:
        """Parse a request; return the error if it is invalid."""
        expected = question.expected_fingerprint
        if expected not in (None, self._plan.fingerprint) and not question.takes_live_plan:
            return fingerprint_mismatch(self._plan, expected)
        try:
            entities = self._parse_entities(question.entities)
            inputs = self._parse_inputs(question.request, len(entities))
        except Exception as error:  # only this caller gets it
            return error
        return ParsedRequest(entities, inputs, question.request_id or new_request_id())

    def _parse_entities(self, entities: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        is_list = isinstance(entities, list)  # the usual case; the other checks take longer
        if not is_list and (isinstance(entities, str | bytes | Mapping) or not isinstance(entities, Sequence)):
            raise RequestError(
                f"got {type(entities).__name__}, expected a list", field="/entities", hint=_ENTITIES_HINT
            )
        return [self._parse_entity(i, entity) for i, entity in enumerate(entities)]

    def _parse_entity(self, number: int, entity: Mapping[str, Any]) -> dict[str, Any]:
        try:
            if len(entity) == len(self.keys):
                return {name: read_value(dtype, entity[name]) for name, dtype in self.keys.items()}
        except (ValueError, LookupError, TypeError):
            pass
        # The entity is invalid: parse it slowly, for an error that names the field.
        pointer = f"/entities/{number}"
        if not isinstance(entity, Mapping):
            raise RequestError(f"got {type(entity).__name__}, expected an object", field=pointer, hint=_ENTITIES_HINT)
        return read_fields(entity, self.keys, pointer, "entity field")

    def _parse_inputs(
        self, request: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None, count: int
    ) -> list[dict[str, Any]]:
        columns = self._plan.request
        if not columns and not request:
            return [{}] * count
        if request is None:
            request = {}
        if isinstance(request, Mapping):
            return [_read_inputs(columns, request, "/request")] * count
        if isinstance(request, str) or not isinstance(request, Sequence) or len(request) != count:
            got = f"{len(request)} objects" if isinstance(request, Sequence) else type(request).__name__
            raise RequestError(
                f"got {got}, expected one object, or one for each of the {count} entities", field="/request"
            )
        return [_read_inputs(columns, row, f"/request/{i}") for i, row in enumerate(request)]


def fingerprint_mismatch(plan: Plan, expected: str | None) -> FingerprintMismatchError:
    """Return the error for a caller that expects a plan which cannot answer.

    Args:
        plan: The live plan.
        expected: Fingerprint of the plan that the caller expects.
    """
    return FingerprintMismatchError(
        f"the live plan of '{plan.name}' is {plan.fingerprint}, expected {expected}, which has no online state",
        field="/expected_fingerprint",
        hint="Train on the live definition, or apply the one the model was trained on and materialize it.",
    )


def read_instant(as_of: datetime | str) -> int:
    """Return the instant that a request gives, in microseconds.

    Raises:
        RequestError: It is not an instant with a time zone, or lies outside the years 1 to 9999.
    """
    try:
        instant = instant_us(as_of, where="as_of")
    except InstantError as error:
        raise RequestError(error.problem, field="/as_of", hint=error.hint, code=error.code) from None
    if not MIN_INSTANT_US <= instant <= MAX_INSTANT_US:
        raise RequestError("as_of lies outside the years 1 to 9999", field="/as_of")
    return instant


def read_fields(row: Mapping[str, Any], known: Mapping[str, DType], pointer: str, kind: str) -> dict[str, Any]:
    """Read the fields of an object: exactly the known ones, each of its dtype.

    Args:
        row: The object.
        known: The dtypes of the fields.
        pointer: JSON pointer to the object.
        kind: What a field is, for messages.

    Raises:
        RequestError: A field is missing, unknown or of another type.
    """
    for name in row:
        if name not in known:
            hint = f"Known: {', '.join(known) or 'none'}. {did_you_mean(str(name), known)}".rstrip()
            field = pointer + json_pointer(name)
            raise RequestError(f"unknown {kind} '{name}'", field=field, hint=hint, code="unknown-field")
    for name, dtype in known.items():
        if name not in row:
            hint = f"Expected {dtype}. {listing('Known', known)}"
            field = pointer + json_pointer(name)
            raise RequestError(f"{kind} '{name}' is missing", field=field, hint=hint, code="missing-field")
    return {name: _read(dtype, row[name], pointer + json_pointer(name)) for name, dtype in known.items()}


def _read_inputs(columns: Sequence[Column], row: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise RequestError(f"got {type(row).__name__}, expected an object", field=pointer)
    return read_fields(row, {column.name: column.dtype for column in columns}, pointer, "request input")


def _read(dtype: DType, value: Any, pointer: str) -> Any:
    try:
        return read_value(dtype, value)
    except ValueError as error:
        raise RequestError(str(error), field=pointer, code="wrong-type") from None
