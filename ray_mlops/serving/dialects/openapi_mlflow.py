"""MLflow's scoring protocol in the OpenAPI document."""

from typing import Any

from ray_mlops.serving.http.openapi_parts import (
    ID_SCHEMA,
    PREDICT_ERRORS,
    ROUTING_KEY_SCHEMA,
    Schema,
    array,
    operation,
    record,
    ref,
    text_operation,
)
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.training.mlmodel import probability_column

_CELL: Schema = {"type": ["number", "string", "boolean", "null"]}


def server_paths() -> dict[str, Any]:
    """The endpoints of the server."""
    ping = text_operation("Can every model answer?", {503: "Not all of them."})
    return {
        "/ping": {"get": ping},
        "/health": {"get": ping},
        "/version": {"get": text_operation("The version of MLflow whose protocol this is.")},
    }


def model_paths(prefix: str, name: str) -> dict[str, Any]:
    """The endpoints of a model."""
    invoke = operation(
        "Predict, by MLflow's scoring protocol.",
        ref(f"{name}.Predictions"),
        ref(f"{name}.Invocation"),
        PREDICT_ERRORS,
        "MlflowError",
    )
    text = {"type": "string", "description": "A header with the columns' names, then a line for each row."}
    invoke["requestBody"]["content"]["text/csv"] = {"schema": text}
    return {f"{prefix}/invocations": {"post": invoke}}


def invocation_schema(name: str, limits: Limits, instance: Schema) -> Schema:
    """JSON Schema of a request in JSON, where null stands for the NaN that MLflow's client may write."""
    rows = array(ref(f"{name}.Instance"), minItems=1, maxItems=limits.rows)
    params = record(
        {
            "ids": {"anyOf": [array(ID_SCHEMA, uniqueItems=True), {"type": "null"}]},
            "request_id": {"anyOf": [ID_SCHEMA, {"type": "null"}]},
            "routing_key": ROUTING_KEY_SCHEMA,
        },
        required=(),
    )
    forms = {
        "dataframe_split": _split(instance, limits),
        "dataframe_records": rows,
        "instances": rows,
        "inputs": {"anyOf": [rows, _by_column(instance, limits)]},
    }
    named = {"params": {"anyOf": [params, {"type": "null"}]}}
    return {"oneOf": [record({form: schema, **named}, required=(form,)) for form, schema in forms.items()]}


def answer_schema(loaded: LoadedModel) -> Schema:
    """JSON Schema of an answer: what the bundle's pyfunc returns, as records, and the rows' ids."""
    bundle = loaded.champion.bundle
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    prediction: Schema = {"type": "number"} if bundle.task == "regression" else {"enum": list(bundle.classes)}
    columns = {"prediction": prediction}
    if bundle.task == "binary":
        columns["probability"] = probability
    elif bundle.task == "multiclass":
        columns.update({probability_column(name): probability for name in bundle.classes})
    return record({"predictions": array(record(columns)), "ids": array(ID_SCHEMA)})


def _split(instance: Schema, limits: Limits) -> Schema:
    names = list(instance["properties"])
    columns = array({"enum": names}, uniqueItems=True)
    columns["allOf"] = [{"contains": {"const": name}} for name in instance["required"]]
    data = array(array(_CELL, maxItems=len(names)), minItems=1, maxItems=limits.rows)
    return record({"columns": columns, "index": {}, "data": data}, required=("columns", "data"))


def _by_column(instance: Schema, limits: Limits) -> Schema:
    some = {"minItems": 1, "maxItems": limits.rows}
    columns = {
        name: {"anyOf": [array(schema, **some), array(array(schema, minItems=1, maxItems=1), **some)]}
        for name, schema in instance["properties"].items()
    }
    return record(columns, required=tuple(instance["required"])) | {"minProperties": 1}
