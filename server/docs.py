"""The page that describes the API: rendered from the OpenAPI document, without scripts and external resources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from featurestore.reports.markup import Child, Markup, element
from featurestore.reports.page import page

PATH = "/docs"

_Json = Mapping[str, Any]


def docs_page(document: _Json, address: str) -> str:
    """Return the page.

    Args:
        document: The OpenAPI document.
        address: Address of the server for the examples, without a trailing slash.
    """
    operations = list(_operations(document))
    schemas = document["components"]["schemas"]
    info = document["info"]
    return page(
        info["title"],
        element(
            "header",
            element("h1", f"{info['title']} API, version {info['version']}"),
            element("p", info["description"], class_="lead"),
            element(
                "p",
                "Where a scope is named, send a key with this scope or the scope admin: ",
                element("code", "Authorization: Bearer fs_…"),
                ". The same description for programs: ",
                element("a", "openapi.json", href=f"{address}/openapi.json"),
            ),
        ),
        element(
            "ul",
            *(
                element(
                    "li",
                    element("a", _name(method, path), href=f"#{_anchor(method, path)}"),
                    f": {operation['summary']}",
                )
                for method, path, operation in operations
            ),
        ),
        *(_operation(method, path, operation, schemas, address) for method, path, operation in operations),
        element("h2", "Messages"),
        *(_schema(name, schema) for name, schema in sorted(schemas.items())),
    )


def _operations(document: _Json) -> Iterator[tuple[str, str, _Json]]:
    """Yield method, path and description of all operations; lookups of features come first."""
    for path, operations in sorted(document["paths"].items(), key=lambda item: (item[0] != "/v1/features", item[0])):
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _operation(method: str, path: str, operation: _Json, schemas: _Json, address: str) -> Markup:
    body = operation.get("requestBody", {}).get("content", {})
    return element(
        "section",
        element("h2", _name(method, path), id=_anchor(method, path)),
        element("p", operation["summary"], ". ", operation.get("description", "")),
        _parameters(operation.get("parameters", ())),
        *(_body(media_type, content, schemas, f"{address}{path}") for media_type, content in body.items()),
        _responses(operation["responses"]),
        class_="panel",
    )


def _parameters(parameters: Sequence[_Json]) -> Markup | None:
    rows = [
        (
            parameter["name"],
            parameter["in"],
            _type(parameter["schema"]),
            parameter.get("description") or parameter["schema"].get("description", ""),
        )
        for parameter in parameters
    ]
    return _table(("parameter", "in", "type", "meaning"), rows) if rows else None


def _body(media_type: str, content: _Json, schemas: _Json, url: str) -> Markup:
    shape = content["schema"]
    examples = [(example["summary"], example["value"]) for example in content.get("examples", {}).values()]
    if not examples and "$ref" in shape:
        examples = [("Example", _example(schemas[_referred(shape)]))]
    return element(
        "div",
        element("p", "Body: ", element("code", media_type), ", ", _linked(shape)),
        *(
            element("div", element("p", f"{title}:", class_="muted"), _curl(url, media_type, value))
            for title, value in examples
        ),
    )


def _curl(url: str, media_type: str, value: Any) -> Markup:
    text = json.dumps(value, ensure_ascii=False).replace("'", "'\\''")
    command = f"curl -s '{url}' -H 'content-type: {media_type}' \\\n  -d '{text}'"
    return element("div", element("pre", element("code", command)), class_="scroll")


def _example(schema: _Json) -> dict[str, Any]:
    """Return a message of the fields that have an example."""
    properties = schema.get("properties", {})
    return {name: field["examples"][0] for name, field in properties.items() if field.get("examples")}


def _responses(responses: _Json) -> Markup:
    rows: list[tuple[Child, ...]] = []
    for status, response in sorted(responses.items()):
        contents = [
            (element("code", media_type), " ", _linked(content["schema"]), " ") if content.get("schema") else media_type
            for media_type, content in response.get("content", {}).items()
        ]
        rows.append((str(status), response.get("description", ""), contents))
    return _table(("status", "when", "answer"), rows)


def _schema(name: str, schema: _Json) -> Markup:
    required = schema.get("required", ())
    rows = [
        (
            element("code", field),
            _type(property_),
            "yes" if field in required else "",
            property_.get("description", ""),
            element("code", json.dumps(property_["examples"][0], ensure_ascii=False))
            if property_.get("examples")
            else "",
        )
        for field, property_ in schema.get("properties", {}).items()
    ]
    return element(
        "section",
        element("h3", name, id=name),
        element("p", schema.get("description", "")),
        _table(("field", "type", "required", "meaning", "example"), rows) if rows else None,
        class_="panel",
    )


def _type(schema: _Json) -> Child:
    """Return the name of a type; the name of a message is a link to it."""
    if "$ref" in schema:
        return _linked(schema)
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        names = [_type(option) for option in schema["anyOf"]]
        return [part for i, name in enumerate(names) for part in ((" or ", name) if i else (name,))]
    if schema.get("type") == "array":
        return ["array of ", _type(schema.get("items", {}))]
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return ["object of ", _type(schema["additionalProperties"])]
    return str(schema.get("type", "anything"))


def _linked(schema: _Json) -> Child:
    if "$ref" not in schema:
        return str(schema.get("format") or schema.get("type", "anything"))
    name = _referred(schema)
    return element("a", name, href=f"#{name}")


def _referred(schema: _Json) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _table(names: Sequence[str], rows: Sequence[Sequence[Child]]) -> Markup:
    head = element("tr", *(element("th", name) for name in names))
    lines = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    table = element("table", element("thead", head), element("tbody", *lines))
    return element("div", table, class_="scroll")


def _name(method: str, path: str) -> str:
    return f"{method} {path}"


def _anchor(method: str, path: str) -> str:
    return f"{method}-{path}".lower().translate(str.maketrans("/{}", "---"))
