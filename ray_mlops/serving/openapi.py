"""The OpenAPI 3.1 document of the models that are deployed, exact to the column."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ray_mlops.serving.loaded import LoadedModel, LoadedTable
from ray_mlops.serving.parse import ID_PATTERN, MAX_ROUTING_KEY, Limits

_TYPES: tuple[tuple[pa.DataType, dict[str, Any]], ...] = (
    (pa.float64(), {"type": ["number", "null"]}),
    (pa.bool_(), {"type": ["boolean", "integer", "null"], "description": "true, false, 1 or 0"}),
    (pa.string(), {"type": ["string", "number", "boolean", "null"]}),
    (pa.timestamp("us", tz="UTC"), {"type": ["string", "null"], "format": "date-time"}),
)
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message", "where", "remedy"],
            "properties": {name: {"type": "string"} for name in ("type", "message", "where", "remedy")},
        }
    },
}
_ID = {"type": "string", "pattern": f"^{ID_PATTERN.pattern}$"}


def openapi(table: LoadedTable, limits: Limits) -> dict[str, Any]:
    """Describe every endpoint of every model; the short paths as well, where one model is deployed."""
    schemas: dict[str, Any] = {"Error": ERROR_SCHEMA}
    paths: dict[str, Any] = {
        "/healthz": {"get": _operation("Is this replica ready?", {"type": "object"}, errors=())},
        "/models": {"get": _operation("The models that are deployed.", {"type": "object"})},
        "/metrics": {"get": _text("Metrics for Prometheus.")},
        "/openapi.json": {"get": _operation("This document.", {"type": "object"})},
    }
    for name, loaded in sorted(table.models.items()):
        schemas[f"{name}.Instance"] = instance_schema(loaded)
        schemas[f"{name}.Prediction"] = prediction_schema(loaded)
        prefixes = [f"/models/{name}", ""] if len(table.models) == 1 else [f"/models/{name}"]
        for prefix in prefixes:
            paths.update(_model_paths(prefix, name, loaded, limits))
    return {
        "openapi": "3.1.0",
        "info": {"title": "ray-mlops", "version": str(table.version), "description": "Predictions, labels, rollouts."},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def instance_schema(loaded: LoadedModel) -> dict[str, Any]:
    """JSON Schema of one instance, as the request path checks it."""
    properties = {item.name: column_schema(item.type) for item in loaded.format.schema}
    if loaded.columns.event_time is not None:
        time = {"type": ["string", "null"], "format": "date-time", "description": "Event time; UTC if it has no zone."}
        properties.setdefault(loaded.columns.event_time, time)
    return {
        "type": "object",
        "properties": properties,
        "required": [item.name for item in loaded.format.schema if item.name in loaded.columns.required],
        "additionalProperties": False,
    }


def column_schema(arrow: pa.DataType) -> dict[str, Any]:
    """JSON Schema of one column.

    Example:
        >>> column_schema(pa.float64())
        {'type': ['number', 'null']}
    """
    return next(dict(schema) for known, schema in _TYPES if known == arrow)


def prediction_schema(loaded: LoadedModel) -> dict[str, Any]:
    """JSON Schema of one prediction."""
    bundle = loaded.champion.bundle
    if bundle.task == "regression":
        return {"type": "number"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"enum": list(bundle.classes)}
    if bundle.task == "binary":
        return _object({"label": label, "probability": probability})
    by_class = {str(name): probability for name in bundle.classes}
    return _object({"label": label, "probabilities": _object(by_class)})


def _model_paths(prefix: str, name: str, loaded: LoadedModel, limits: Limits) -> dict[str, Any]:
    label = {"enum": list(loaded.champion.bundle.classes)} if loaded.champion.bundle.classes else {"type": "number"}
    instances = {"type": "array", "items": _ref(f"{name}.Instance"), "minItems": 1, "maxItems": limits.rows}
    ids = {"type": "array", "items": _ID, "uniqueItems": True}
    predict = _object(
        {
            "instances": instances,
            "routing_key": {"type": "string", "minLength": 1, "maxLength": MAX_ROUTING_KEY},
            "ids": ids,
            "request_id": _ID,
        },
        required=("instances",),
    )
    predicted = _object(
        {
            "predictions": {"type": "array", "items": _ref(f"{name}.Prediction")},
            "ids": ids,
            "model": {"const": name},
            "version": {"type": "string"},
            "arm": {"enum": ["champion", "candidate"]},
            "request_id": _ID,
        }
    )
    time = {"type": ["string", "null"], "format": "date-time"}
    one_label = _object({"id": _ID, "label": label, "time": time}, required=("id", "label"))
    labels = {"type": "array", "items": one_label, "minItems": 1, "maxItems": limits.rows}
    reason = {"reason": {"type": "string"}}
    start = {"version": {"type": "string"}, "override_gate": {"type": "string"}, "skip_shadow": {"type": "boolean"}}
    explain = _operation("Why a prediction was made.", {"type": "object"}, errors=(401, 403, 404))
    explain["parameters"] = [{"name": "prediction_id", "in": "path", "required": True, "schema": _ID}]
    paths: dict[str, Any] = {
        "/predict": {"post": _operation("Predict.", predicted, predict, (400, 401, 403, 404, 413, 503))},
        "/feedback": {
            "post": _operation(
                "Send labels.", {"type": "object"}, _object({"labels": labels}), (400, 401, 403, 404, 413, 503)
            )
        },
        "/monitoring": {"get": _operation("What the monitor sees.", {"type": "object"})},
        "/rollout": {"get": _operation("The rollout's state and evidence.", {"type": "object"})},
        "/explain/{prediction_id}": {"get": explain},
        "/rollout/start": {"post": _command("Put a version on trial.", _object(start, required=("version",)))},
    }
    for verb in ("pause", "resume", "promote", "rollback"):
        paths[f"/rollout/{verb}"] = {"post": _command(f"{verb.capitalize()} the rollout.", _object(reason, ()))}
    return {prefix + path: operations for path, operations in paths.items()}


def _operation(
    summary: str, answer: dict[str, Any], body: dict[str, Any] | None = None, errors: tuple[int, ...] = (401, 403, 404)
) -> dict[str, Any]:
    responses = {"200": {"description": "Done.", "content": _json(answer)}}
    responses |= {str(status): {"description": "See the error.", "content": _json(_ref("Error"))} for status in errors}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return operation


def _command(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    operation = _operation(summary, {"type": "object"}, body, (400, 401, 403, 404, 409, 503))
    operation["requestBody"]["required"] = "required" in body
    return {**operation, "security": [{"token": []}]}


def _text(summary: str) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}}
    return {"summary": summary, "responses": {"200": {"description": "Done.", "content": content}}}


def _object(properties: Mapping[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    names = list(properties) if required is None else list(required)
    described = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return {**described, "required": names} if names else described


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
