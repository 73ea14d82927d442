"""The OpenAPI 3.1 document of the models that are deployed, exact to the column."""

from typing import Any

import pyarrow as pa

from ray_mlops.data.vectors import vector_length
from ray_mlops.serving.dialects import openapi_mlflow, openapi_oip
from ray_mlops.serving.http.openapi_parts import (
    ERRORS,
    ID_SCHEMA,
    PREDICT_ERRORS,
    ROUTING_KEY_SCHEMA,
    Schema,
    array,
    json_content,
    operation,
    record,
    ref,
    text_operation,
)
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.loaded import LoadedModel, LoadedTable

_TYPES: tuple[tuple[pa.DataType, dict[str, Any]], ...] = (
    (pa.float64(), {"type": ["number", "null"]}),
    (pa.bool_(), {"enum": [True, False, 1, 0, None]}),
    (pa.string(), {"type": ["string", "number", "boolean", "null"]}),
    (pa.timestamp("us", tz="UTC"), {"anyOf": [{"type": "string", "format": "date-time"}, {"enum": ["", None]}]}),
)
_EVENT_TIME: Schema = {
    "type": ["string", "null"],
    "format": "date-time",
    "description": "Event time; UTC if it has no zone.",
}

_COMMANDS = {
    "pause": "Hold the rollout where it is; its guards go on.",
    "resume": "Go on with a paused rollout.",
    "promote": "Make the candidate champion now.",
    "rollback": "Return all traffic to the champion, and count that against the candidate.",
    "abort": "End the rollout at once, whatever its state, and conclude nothing about the candidate.",
}


def openapi(table: LoadedTable, limits: Limits) -> dict[str, Any]:
    """Describe every endpoint of every model; the short paths as well, where one model is deployed."""
    schemas: dict[str, Any] = {**ERRORS, **openapi_oip.shared_schemas(limits)}
    paths: dict[str, Any] = {
        "/healthz": {"get": _health()},
        "/models": {"get": operation("The models that are deployed.", _deployed())},
        "/metrics": {"get": text_operation("Metrics for Prometheus.")},
        "/openapi.json": {"get": operation("This document.", {"type": "object"})},
        **openapi_oip.server_paths(),
        **openapi_mlflow.server_paths(),
    }
    for name, loaded in sorted(table.models.items()):
        schemas |= _model_schemas(name, loaded, limits)
        paths |= openapi_oip.model_paths(name)
        prefixes = [f"/models/{name}", ""] if len(table.models) == 1 else [f"/models/{name}"]
        for prefix in prefixes:
            paths |= _model_paths(prefix, name, loaded, limits) | openapi_mlflow.model_paths(prefix, name)
    return {
        "openapi": "3.1.0",
        "info": {"title": "ray-mlops", "version": str(table.version), "description": "Predictions, labels, rollouts."},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _model_schemas(name: str, loaded: LoadedModel, limits: Limits) -> dict[str, Any]:
    instance = instance_schema(loaded)
    return {
        f"{name}.Instance": instance,
        f"{name}.Prediction": prediction_schema(loaded),
        f"{name}.InferRequest": openapi_oip.infer_schema(loaded, limits),
        f"{name}.InferAnswer": openapi_oip.answer_schema(name, loaded),
        f"{name}.Invocation": openapi_mlflow.invocation_schema(name, limits, instance),
        f"{name}.Predictions": openapi_mlflow.answer_schema(loaded),
    }


def instance_schema(loaded: LoadedModel) -> dict[str, Any]:
    """JSON Schema of one instance, as the request path checks it."""
    properties = {item.name: column_schema(item.type) for item in loaded.format.schema}
    if loaded.columns.event_time is not None:
        properties[loaded.columns.event_time] = _EVENT_TIME
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
    if length := vector_length(arrow):
        numbers = {"type": "array", "items": {"type": "number"}, "minItems": length, "maxItems": length}
        return {"anyOf": [numbers, {"type": "null"}]}
    return next(dict(schema) for known, schema in _TYPES if known == arrow)


def prediction_schema(loaded: LoadedModel) -> dict[str, Any]:
    """JSON Schema of one prediction."""
    bundle = loaded.champion.bundle
    if bundle.task == "regression":
        return {"type": "number"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    label = {"enum": list(bundle.classes)}
    if bundle.task == "binary":
        return record({"label": label, "probability": probability})
    by_class = {str(name): probability for name in bundle.classes}
    return record({"label": label, "probabilities": record(by_class)})


def _model_paths(prefix: str, name: str, loaded: LoadedModel, limits: Limits) -> dict[str, Any]:
    label = {"enum": list(loaded.champion.bundle.classes)} if loaded.champion.bundle.classes else {"type": "number"}
    instances = {"type": "array", "items": ref(f"{name}.Instance"), "minItems": 1, "maxItems": limits.rows}
    ids = {"type": "array", "items": ID_SCHEMA, "uniqueItems": True}
    predict = record(
        {
            "instances": instances,
            "routing_key": ROUTING_KEY_SCHEMA,
            "ids": {"anyOf": [ids, {"type": "null"}]},
            "request_id": {"anyOf": [ID_SCHEMA, {"type": "null"}]},
        },
        required=("instances",),
    )
    predicted = record(
        {
            "predictions": {"type": "array", "items": ref(f"{name}.Prediction")},
            "ids": ids,
            "model": {"const": name},
            "version": {"type": "string"},
            "arm": {"enum": ["champion", "candidate"]},
            "request_id": ID_SCHEMA,
        }
    )
    time = {"type": ["string", "null"], "format": "date-time"}
    correction = {"type": "boolean", "default": False, "description": "Replaces the label that is in force."}
    one_label = record(
        {"id": ID_SCHEMA, "label": label, "time": time, "correction": correction}, required=("id", "label")
    )
    labels = {"type": "array", "items": one_label, "minItems": 1, "maxItems": limits.rows}
    text = {"type": ["string", "null"]}
    reason = {"reason": text, "by": text}
    start = {
        "version": {"type": "string"},
        "override_gate": text,
        "skip_shadow": {"type": ["boolean", "null"]},
        "by": text,
    }
    shadow = {"version": {"type": "string"}, "stop": {"type": ["boolean", "null"]}, **reason}
    explain = operation("Why a prediction was made.", {"type": "object"}, errors=(401, 403, 404, 503))
    explain["parameters"] = [{"name": "prediction_id", "in": "path", "required": True, "schema": ID_SCHEMA}]
    paths: dict[str, Any] = {
        "/predict": {"post": operation("Predict.", predicted, predict, PREDICT_ERRORS)},
        "/feedback": {
            "post": operation(
                "Send labels.", _taken(name), record({"labels": labels}), (400, 401, 403, 404, 408, 413, 503)
            )
        },
        "/monitoring": {"get": operation("What the monitor sees.", {"type": "object"})},
        "/rollout": {
            "get": operation("The rollout's state and evidence.", {"type": "object"}, errors=(401, 403, 404, 503))
        },
        "/explain/{prediction_id}": {"get": explain},
        "/rollout/start": {"post": _command("Put a version on trial.", record(start, required=("version",)))},
        "/rollout/shadow": {
            "post": _command(
                "Let a version score logged rows beside the champion; it never answers. With stop: let it be.",
                record(shadow, required=("version",)),
            )
        },
    }
    for verb, summary in _COMMANDS.items():
        paths[f"/rollout/{verb}"] = {"post": _command(summary, record(reason, ()))}
    return {prefix + path: operations for path, operations in paths.items()}


def _health() -> Schema:
    state = {"ready": {"type": "boolean"}, "table": {"type": "integer"}, "problems": array({"type": "string"})}
    described = operation("Is this replica ready?", record(state), errors=())
    described["responses"]["503"] = {"description": "Not yet, or no longer.", "content": json_content(record(state))}
    return described


def _deployed() -> Schema:
    arm = record(
        {
            "version": {"type": "string"},
            "weight": {"type": "number", "minimum": 0, "maximum": 1},
            "placement": {"type": "string"},
        }
    )
    always = {
        "name": {"type": "string"},
        "route_version": {"type": "integer"},
        "rollout_id": {"type": ["string", "null"]},
        "champion": arm,
    }
    model = record({**always, "candidate": arm, "previous": arm}, required=tuple(always))
    return record({"models": array(model), "replica": {"type": "string"}})


def _taken(name: str) -> Schema:
    """What becomes of labels."""
    names = ("received", "accepted", "duplicate", "conflicting", "corrected")
    counts = {count: {"type": "integer", "minimum": 0} for count in names}
    always = {"model": {"const": name}, **counts}
    return record({**always, "monitor": {"const": "unavailable"}}, required=tuple(always))


def _command(summary: str, body: dict[str, Any]) -> dict[str, Any]:
    described = operation(summary, {"type": "object"}, body, (400, 401, 403, 404, 408, 409, 413, 503))
    described["requestBody"]["required"] = "required" in body
    return {**described, "security": [{"token": []}]}
