"""The Open Inference Protocol in the OpenAPI document: each column a tensor, each datatype with its elements.

What JSON Schema cannot say: that all tensors have as many rows as the first, that a tensor has as many elements
as its shape says, and what follows the JSON of a body in binary form.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from ray_mlops.config.data import ColumnType
from ray_mlops.serving.dialects.oip_columns import (
    MATRIX_NAMES,
    PREDICTION_ID,
    accepted_datatypes,
    column_types,
    describe_outputs,
    vector_lengths,
)
from ray_mlops.serving.dialects.oip_tensors import BYTES, DATATYPES, DTYPES, FLOATS, INTEGERS
from ray_mlops.serving.http.openapi_parts import (
    ID_SCHEMA,
    PREDICT_ERRORS,
    ROUTING_KEY_SCHEMA,
    Schema,
    array,
    json_content,
    operation,
    record,
    ref,
)
from ray_mlops.serving.http.parse import Limits
from ray_mlops.serving.loaded import LoadedModel

_FLAGS: Schema = {"enum": [0, 1, None]}
_TIME_TEXT: Schema = {"anyOf": [{"type": "string", "format": "date-time"}, {"enum": ["", None]}]}
_TIME_US: Schema = {"type": ["integer", "null"], "minimum": -62_135_596_800_000_000, "maximum": 253_402_300_799_999_999}
_BINARY: Schema = {
    "type": "string",
    "format": "binary",
    "description": "JSON, then the binary tensors in their order; the header says how long the JSON is.",
}
_LENGTH: Schema = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "schema": {"type": "integer", "minimum": 0},
    "description": "Length of the JSON where binary tensors follow it.",
}
_TEXT: Schema = {"type": "string"}
_ANY: Schema = {"type": ["object", "null"]}
_STATE: Schema = {"type": "object", "properties": {"live": {"type": "boolean"}, "ready": {"type": "boolean"}}}


def server_paths() -> dict[str, Any]:
    """The endpoints of the server."""
    server = record(
        {"name": {"type": "string"}, "version": {"type": "string"}, "extensions": array({"type": "string"})}
    )
    ready = operation("Can every model answer?", _STATE, errors=())
    ready["responses"]["503"] = {"description": "Not all of them.", "content": json_content(_STATE)}
    names = record({"models": array(_TEXT)})
    state = {"enum": ["READY", "UNAVAILABLE"]}
    index = array(record({"name": _TEXT, "version": _TEXT, "state": state, "reason": _TEXT}))
    wanted = record({"ready": {"type": ["boolean", "null"]}}, required=())
    listed = operation(
        "Every version that can be asked for.", index, wanted, (400, 401, 403, 408, 413, 503), "OipError"
    )
    listed["requestBody"]["required"] = False
    return {
        "/v2": {"get": operation("What this server is.", server, errors=(401, 403), error="OipError")},
        "/v2/models": {"get": operation("Names of the models.", names, errors=(401, 403), error="OipError")},
        "/v2/repository/index": {"post": listed},
        "/v2/health/live": {"get": operation("Is the server alive?", _STATE, errors=())},
        "/v2/health/ready": {"get": ready},
    }


def model_paths(name: str) -> dict[str, Any]:
    """The endpoints of a model, and of its versions."""
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    paths: dict[str, Any] = {}
    for prefix, parameters in ((f"/v2/models/{name}", []), (f"/v2/models/{name}/versions/{{version}}", [version])):
        operations = {
            "": {"get": operation("Inputs and outputs.", ref("OipModel"), error="OipError")},
            "/ready": {"get": operation("Can it answer?", _ready(name), errors=(404,), error="OipError")},
            "/infer": {"post": _infer(name)},
        }
        for suffix, described in operations.items():
            for method in described.values():
                if parameters:
                    method["parameters"] = [*parameters, *method.get("parameters", [])]
            paths[prefix + suffix] = described
    return paths


def shared_schemas(limits: Limits) -> dict[str, Any]:
    """Schemas that every model's inputs are made of: tensors by datatype, columns by type."""
    schemas: dict[str, Any] = {
        f"Tensor.{datatype}": _tensor({"const": datatype}, _elements(datatype), limits)
        for datatype in sorted(DATATYPES)
    }
    numbers = {"enum": sorted(FLOATS | INTEGERS)}
    schemas["Tensor.flags"] = _tensor(numbers, _FLAGS, limits)
    schemas["Tensor.times"] = _tensor({"const": BYTES}, _TIME_TEXT, limits)
    schemas["Tensor.counted_times"] = _tensor({"const": "INT64"}, _TIME_US, limits)
    schemas["Tensor.ids"] = _tensor({"const": BYTES}, ID_SCHEMA, limits)
    for kind in ("numeric", "categorical"):
        names: list[Any] = [ref(f"Tensor.{datatype}") for datatype in accepted_datatypes(kind)]
        schemas[f"Column.{kind}"] = {"oneOf": names}
    schemas["Column.boolean"] = {"oneOf": [ref("Tensor.BOOL"), ref("Tensor.flags")]}
    schemas["Column.datetime"] = {"oneOf": [ref("Tensor.times"), ref("Tensor.counted_times")]}
    tensor = {"type": "object", "required": ["name", "datatype", "shape"]}
    named = {"name": _TEXT, "versions": array(_TEXT), "platform": _TEXT}
    schemas["OipModel"] = record({**named, "inputs": array(tensor), "outputs": array(tensor)})
    return schemas


def infer_schema(loaded: LoadedModel, limits: Limits) -> Schema:
    """JSON Schema of a request whose tensors are all in JSON."""
    parameters = {
        "type": ["object", "null"],
        "properties": {
            "routing_key": ROUTING_KEY_SCHEMA,
            "binary_data_output": {"type": "boolean"},
        },
    }
    outputs = [described["name"] for described in describe_outputs(loaded.champion.bundle)]
    form = {
        "type": ["object", "null"],
        "properties": {"binary_data": {"type": "boolean"}, "classification": {"const": 0}},
    }
    output = record({"name": {"enum": outputs}, "parameters": form}, required=("name",))
    return record(
        {
            "id": {"anyOf": [ID_SCHEMA, {"enum": ["", None]}]},
            "parameters": parameters,
            "inputs": _inputs(loaded, limits),
            "outputs": {"anyOf": [array(output, uniqueItems=True), {"type": "null"}]},
            "model_name": {"description": "Not looked at: the path decides."},
            "model_version": {"description": "Not looked at: the path decides."},
        },
        required=("inputs",),
    )


def answer_schema(name: str, loaded: LoadedModel) -> Schema:
    """JSON Schema of an answer; an output in binary form has its size in place of its data."""
    outputs = []
    for described in describe_outputs(loaded.champion.bundle):
        common = {
            "name": {"const": described["name"]},
            "datatype": {"const": described["datatype"]},
            "shape": array({"type": "integer", "minimum": 1}, minItems=1, maxItems=2),
        }
        size = record({"binary_data_size": {"type": "integer", "minimum": 0}})
        data = array(_elements(described["datatype"]))
        outputs.append({"oneOf": [record({**common, "data": data}), record({**common, "parameters": size})]})
    parameters = record({"arm": {"enum": ["champion", "candidate"]}, "route_version": {"type": "integer"}})
    return record(
        {
            "model_name": {"const": name},
            "model_version": {"type": "string"},
            "id": ID_SCHEMA,
            "parameters": parameters,
            "outputs": array({"anyOf": outputs}),
        }
    )


def _infer(name: str) -> Schema:
    described = operation(
        "Predict.", ref(f"{name}.InferAnswer"), ref(f"{name}.InferRequest"), PREDICT_ERRORS, "OipError"
    )
    binary = {"application/octet-stream": {"schema": _BINARY}}
    described["parameters"] = [_LENGTH]
    described["requestBody"]["content"] |= binary
    described["responses"]["200"]["content"] |= binary
    return described


def _inputs(loaded: LoadedModel, limits: Limits) -> Schema:
    kinds, required = column_types(loaded), loaded.columns.required
    extras: dict[str, Schema] = {}
    if loaded.columns.event_time is not None and loaded.columns.event_time not in kinds:
        extras[loaded.columns.event_time] = ref("Column.datetime")
    if PREDICTION_ID not in kinds:
        extras[PREDICTION_ID] = ref("Tensor.ids")
    lengths = vector_lengths(loaded)
    columns = {name: ref(f"Column.{kind}") for name, kind in kinds.items() if name not in lengths}
    columns |= {name: _matrix(length, limits, INTEGERS) for name, length in lengths.items()}
    by_column = _named(columns | extras, required)
    if set(_champion_kinds(loaded).values()) != {"numeric"}:
        return by_column
    width = len(loaded.champion.schema.names)
    matrices = {name: _matrix(width, limits) for name in MATRIX_NAMES if name not in kinds}
    others = {name: schema for name, schema in columns.items() if name not in loaded.champion.schema.names}
    return {"anyOf": [by_column, *(_named({name: m} | others | extras, {name}) for name, m in matrices.items())]}


def _named(tensors: dict[str, Schema], required: Any) -> Schema:
    """A list with each of these tensors once: the required ones exactly, the others at most."""
    items = [{"allOf": [{"properties": {"name": {"const": name}}}, schema]} for name, schema in tensors.items()]
    once = [
        {
            "contains": {"properties": {"name": {"const": name}}, "required": ["name"]},
            "minContains": int(name in required),
            "maxContains": 1,
        }
        for name in tensors
    ]
    return {**array({"anyOf": items}, minItems=1), "allOf": once}


def _tensor(datatype: Schema, element: Schema, limits: Limits) -> Schema:
    rows = {"type": "integer", "minimum": 1, "maximum": limits.rows}
    flat = {"type": "array", "prefixItems": [rows], "minItems": 1, "maxItems": 1}
    column = {"type": "array", "prefixItems": [rows, {"const": 1}], "minItems": 2, "maxItems": 2}
    some = {"minItems": 1, "maxItems": limits.rows}
    data = {"anyOf": [array(element, **some), array(array(element, minItems=1, maxItems=1), **some)]}
    return record(
        {
            "name": {"type": "string"},
            "datatype": datatype,
            "shape": {"oneOf": [flat, column]},
            "parameters": _ANY,
            "data": data,
        },
        required=("name", "datatype", "shape", "data"),
    )


def _matrix(width: int, limits: Limits, others: Collection[str] = ()) -> Schema:
    rows = {"type": "integer", "minimum": 1, "maximum": limits.rows}
    number = {"type": ["number", "null"]}
    shape = {"type": "array", "prefixItems": [rows, {"const": width}], "minItems": 2, "maxItems": 2}
    nested = array(array(number, minItems=width, maxItems=width), minItems=1)
    data = {"anyOf": [array(number, minItems=width), nested]}
    properties = {
        "name": {"type": "string"},
        "datatype": {"enum": sorted(FLOATS.union(others))},
        "shape": shape,
        "parameters": _ANY,
    }
    return record({**properties, "data": data}, required=("name", "datatype", "shape", "data"))


def _elements(datatype: str) -> Schema:
    if datatype in INTEGERS:
        limits = np.iinfo(DTYPES[datatype])
        return {"type": ["integer", "null"], "minimum": int(limits.min), "maximum": int(limits.max)}
    kind = "string" if datatype == BYTES else "boolean" if datatype == "BOOL" else "number"
    return {"type": [kind, "null"]}


def _ready(name: str) -> Schema:
    return record({"name": {"const": name}, "ready": {"const": True}})


def _champion_kinds(loaded: LoadedModel) -> dict[str, ColumnType]:
    kinds = column_types(loaded)
    return {name: kinds[name] for name in loaded.champion.schema.names}
