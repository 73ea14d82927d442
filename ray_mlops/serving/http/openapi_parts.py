"""Pieces of the OpenAPI document that every protocol uses."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from ray_mlops.serving.http.parse import ID_PATTERN, MAX_ROUTING_KEY

Schema: TypeAlias = dict[str, Any]
ErrorName = Literal["Error", "OipError", "MlflowError"]
ID_SCHEMA: Schema = {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"}
ROUTING_KEY_SCHEMA: Schema = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": MAX_ROUTING_KEY,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
}
_TEXT: Schema = {"type": "string"}
ERRORS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["type", "message", "where", "remedy"],
                "properties": dict.fromkeys(("type", "message", "where", "remedy"), _TEXT),
            }
        },
    },
    "OipError": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
    "MlflowError": {
        "type": "object",
        "required": ["error_code", "message"],
        "properties": {"error_code": _TEXT, "message": _TEXT},
    },
}
"""How each protocol says what is wrong."""
PREDICT_ERRORS = (400, 401, 403, 404, 408, 413, 500, 503)


def operation(
    summary: str,
    answer: Schema,
    body: Schema | None = None,
    errors: tuple[int, ...] = (401, 403, 404),
    error: ErrorName = "Error",
) -> Schema:
    """An operation that reads and writes JSON."""
    responses = {"200": {"description": "Done.", "content": json_content(answer)}}
    responses |= {
        str(status): {"description": "See the error.", "content": json_content(ref(error))} for status in errors
    }
    described: Schema = {"summary": summary, "responses": responses}
    if body is not None:
        described["requestBody"] = {"required": True, "content": json_content(body)}
    return described


def text_operation(summary: str, errors: Mapping[int, str] | None = None) -> Schema:
    """An operation that writes plain text; ``errors`` are what other statuses mean."""
    content = {"text/plain": {"schema": _TEXT}}
    meanings = {200: "Done.", **(errors or {})}
    responses = {str(status): {"description": meaning, "content": content} for status, meaning in meanings.items()}
    return {"summary": summary, "responses": responses}


def record(properties: Mapping[str, Any], required: tuple[str, ...] | None = None) -> Schema:
    """An object with these members and no others; None: all are required."""
    names = list(properties) if required is None else list(required)
    described = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**described, "required": names} if names else described


def json_content(schema: Schema) -> Schema:
    """Content that is JSON."""
    return {"application/json": {"schema": schema}}


def ref(name: str) -> Schema:
    """A reference to a named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema, **limits: Any) -> Schema:
    """A list."""
    return {"type": "array", "items": items, **limits}
