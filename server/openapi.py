"""The OpenAPI document: all texts about operations that FastAPI cannot derive from the code."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from featurestore.server.admission import DEADLINE_HEADER
from featurestore.server.auth import needed_scope
from featurestore.server.calls import FEATURES_PATH
from featurestore.server.formats import ARROW_STREAM, JSON
from featurestore.server.messages import schemas
from featurestore.server.problems import MEDIA_TYPE

DESCRIPTION = "Feature values for models, computed by the same plan and the same kernels as their training sets."


def schema_ref(name: str) -> dict[str, Any]:
    """Return a reference to the schema of a message."""
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def refusals(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return responses with a problem document, by status."""
    return {
        str(status): {"description": description, "content": {MEDIA_TYPE: schema_ref("Problem")}}
        for status, description in descriptions.items()
    }


COMMON_REFUSALS = refusals(
    {
        422: "A header is wrong.",
        503: "The registry or the online store cannot answer.",
        504: "There was no answer in time.",
    }
)
METRICS_RESPONSES: dict[int | str, dict[str, Any]] = {
    **refusals({404: "The server keeps no metrics.", 504: "There was no answer in time."}),
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
}
_EXAMPLES: dict[str, Any] = {
    "examples": {
        "now": {
            "summary": "Two entities, at this instant",
            "value": {"service": "delay_model", "entities": [{"carrier": "UA"}, {"carrier": "DL"}]},
        },
        "then": {
            "summary": "At an instant of the past, with the plan that the model was trained on and a request input",
            "value": {
                "service": "delay_model",
                "entities": [{"carrier": "UA"}],
                "request": {"dep_delay": 12.5},
                "as_of": "2013-12-01T12:00:00Z",
                "expected_fingerprint": "5e0c6a3f0b6d4f0c9a7e2d1b8c4f6a1e5e0c6a3f0b6d4f0c9a7e2d1b8c4f6a1e",
            },
        },
    }
}
_FEATURES: dict[str, Any] = {
    "summary": "Get the features of some entities",
    "operationId": "get_features",
    "parameters": [
        {
            "name": DEADLINE_HEADER,
            "in": "header",
            "description": "Refuse with 504 if there is no answer within this many milliseconds after the request "
            "arrived.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999},
        },
        {
            "name": "x-request-id",
            "in": "header",
            "description": "Id of the request in the answer and in all logs. The server generates one if the header is "
            "missing or is not a valid id.",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {"required": True, "content": {JSON: _EXAMPLES | schema_ref("Question")}},
    "responses": {
        "200": {
            "description": "One row per entity, in the order of the question. As Arrow: the features in their dtypes, "
            "status__… per feature, event_time__… per view, and the rest of a reply as JSON in the schema's metadata.",
            "content": {JSON: schema_ref("Reply"), ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}}},
        },
        **refusals(
            {
                400: "The body is not JSON.",
                404: "There is no such service.",
                406: "The answer cannot be given in an accepted format.",
                408: "The body was not complete in time.",
                409: "The live plan has another fingerprint than the expected one.",
                413: "The body, the list of entities or the answer is too large.",
                415: "The body is not application/json.",
                422: "A field is missing, unknown or of a wrong type.",
                431: "The request line and the headers are too large.",
                503: "The registry or the online store cannot answer, or too many requests are under way.",
                504: "There was no answer in time.",
            }
        ),
    },
}
PUSH: dict[str, Any] = {
    "operationId": "push_events",
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": "Names the push. The server accepts the same key with the same events once, and remembers "
            "it for at least a day. It refuses the same key with other events.",
            "schema": {"type": "string", "maxLength": 255},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {JSON: schema_ref("Events"), ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}}},
    },
    "responses": {
        "200": {
            "description": "The events are committed. Training sets and lookups count them.",
            "content": {JSON: schema_ref("Pushed")},
        },
        **refusals(
            {
                400: "The body is not JSON, or not an Arrow IPC stream.",
                404: "There is no such source, or it accepts no pushes.",
                408: "The body was not complete in time.",
                413: "The body is too large, or there are too many events or columns.",
                415: "The body is neither JSON nor an Arrow IPC stream, or it is compressed.",
                422: "An event is wrong, or the idempotency key was used for other events. No event was accepted.",
                503: "The log or the registry cannot be used.",
                504: "There was no answer in time, or the log did not confirm the commit (push-outcome-unknown). The"
                " events may be committed or not: repeat the push with its idempotency key.",
            }
        ),
    },
}


def feast_operation(message: str, reply: str, further_refusals: Mapping[int, str]) -> dict[str, Any]:
    """Return the description of a Feast route.

    Args:
        message: Name of the message that it reads.
        reply: Name of the message that it answers with; empty if it answers with null.
        further_refusals: Descriptions, by status, of refusals that only this route has.
    """
    return {
        "requestBody": {"required": True, "content": {JSON: schema_ref(message)}},
        "responses": {
            "200": {
                "description": "Done.",
                "content": {JSON: schema_ref(reply) if reply else {"schema": {"type": "null"}}},
            },
            **refusals(
                {
                    **further_refusals,
                    400: "The body is not JSON.",
                    404: "There is no such view, feature, service or source.",
                    413: "The body, the list of entities or the answer is too large.",
                    415: "The body is compressed.",
                    422: "A field is missing, or of a wrong type.",
                    503: "The registry or the online store cannot answer.",
                    504: "There was no answer in time.",
                }
            ),
        },
    }


def document_of(app: FastAPI, message_schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI document of an application, the hot route included.

    Args:
        app: The application.
        message_schemas: JSON schemas by name of the messages that routes read and send by themselves.
    """
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["paths"][FEATURES_PATH] = {"post": deepcopy(_FEATURES)}
    _drop_fastapi_refusals(document)
    _add_security(document)
    document["components"].setdefault("schemas", {}).update(schemas() | message_schemas)
    return document


def _drop_fastapi_refusals(document: dict[str, Any]) -> None:
    """Remove FastAPI's own validation errors: this server answers with problem documents."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                content = response.get("content", {})
                if content.get(JSON, {}).get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
                    del content[JSON]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)


def _add_security(document: dict[str, Any]) -> None:
    """Add to each operation the scope that its API key needs."""
    document.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key; 'featurestore keys create' makes one."}
    }
    for path, operations in document["paths"].items():
        scope = needed_scope(path)
        if scope is None:
            continue
        for operation in operations.values():
            operation["security"] = [{"key": []}]
            operation["responses"].update(
                refusals({401: "There is no key, or it is not valid.", 403: f"The key lacks scope '{scope}'."})
            )
