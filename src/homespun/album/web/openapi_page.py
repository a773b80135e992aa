"""The API's documentation page, made on the server from the OpenAPI document: no scripts, nothing from a network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_METHODS = ("get", "post", "put", "patch", "delete")
_REFERENCE = "#/components/schemas/"


def describe_api(document: dict[str, Any]) -> dict[str, Any]:
    """What api.html shows: operations by tag, and the records that they speak of."""
    schemas: dict[str, Any] = document.get("components", {}).get("schemas", {})
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                operation = operations[method]
                tag = operation.get("tags", ["other"])[0]
                groups.setdefault(tag, []).append(_operation(path, method, operation))
    return {
        "title": document["info"]["title"],
        "version": document["info"]["version"],
        "summary": document["info"].get("summary", ""),
        "groups": groups,
        "records": [_record(name, schema) for name, schema in sorted(schemas.items())],
    }


def _operation(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": path,
        "method": method.upper(),
        "id": operation["operationId"],
        "summary": operation.get("summary", ""),
        "parameters": [
            {
                "name": parameter["name"],
                "in": parameter["in"],
                "required": parameter.get("required", False),
                "type": type_of(parameter["schema"]),
                "text": parameter.get("description", ""),
            }
            for parameter in operation.get("parameters", [])
        ],
        "body": next(_contents(operation.get("requestBody", {})), None),
        "answers": [
            {
                "status": status,
                "text": response.get("description", ""),
                "type": next(_contents(response), None),
            }
            for status, response in sorted(operation["responses"].items())
        ],
    }


def _contents(holder: dict[str, Any]) -> Iterator[str]:
    for media_type, content in holder.get("content", {}).items():
        schema = content.get("schema")
        yield type_of(schema) if schema else media_type


def _record(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    required = schema.get("required", [])
    return {
        "name": name,
        "text": schema.get("description", ""),
        "fields": [
            {
                "name": field,
                "type": type_of(inner),
                "required": field in required,
                "text": inner.get("description", ""),
            }
            for field, inner in schema.get("properties", {}).items()
        ],
    }


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words: `list of Photo`, `string or null`, `"yes" | "no"`."""
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_REFERENCE)
    if "enum" in schema:
        return " | ".join(repr(value).replace("'", '"') for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(type_of(choice) for choice in schema["anyOf"])
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {type_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of {type_of(schema['additionalProperties'])}"
    return str(kind)
