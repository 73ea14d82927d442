"""A model's columns as named tensors: what the Open Inference Protocol is told, and how its tensors become rows.

========== ======== ============================================================================
column     datatype taken as well
========== ======== ============================================================================
numeric    FP64     any floating or whole-number type
boolean    BOOL     whole numbers and floats: 0, 1, and NaN for a missing value
text       BYTES    anything: numbers and booleans are written as text
time       BYTES    ISO 8601 (UTC if it names no zone), or INT64: microseconds since 1970 UTC
vector     FP64     any floating or whole-number type, [n, d]; a row of NaN is a missing vector
========== ======== ============================================================================

Every other tensor is [n] or [n, 1]. A column that the model does not need may be left out. Where all columns are
numbers, one tensor ``input`` or ``features`` of [n, d] may stand for them, in the order of the metadata.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from ray_mlops.config.data import ColumnType, Scalar
from ray_mlops.data.columns import column_type
from ray_mlops.data.values import MISSING_US
from ray_mlops.data.vectors import vector_length
from ray_mlops.errors import RequestError
from ray_mlops.serving.answering import Answered
from ray_mlops.serving.dialects.oip_tensors import BYTES, DATATYPES, FLOATS, INTEGERS, OutputTensor, Tensor
from ray_mlops.serving.http.parse import Limits, PredictRequest, build_request, check_count, check_names, near
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.remote import BundleView

PREDICTION, LABEL, PREDICTION_ID = "prediction", "label", "prediction_id"
MATRIX_NAMES = ("input", "features")
PLATFORM = "ray-mlops"
Described: TypeAlias = dict[str, Any]
_MAIN: dict[ColumnType, str] = {
    "numeric": "FP64",
    "boolean": "BOOL",
    "categorical": BYTES,
    "datetime": BYTES,
    "vector": "FP64",
}
_ACCEPTED: dict[ColumnType, frozenset[str]] = {
    "numeric": FLOATS | INTEGERS,
    "boolean": FLOATS | INTEGERS | {"BOOL"},
    "categorical": DATATYPES,
    "datetime": frozenset({BYTES, "INT64"}),
    "vector": FLOATS | INTEGERS,
}
_SCALAR_DATATYPES: tuple[tuple[set[type], str], ...] = (
    ({bool}, "BOOL"),
    ({int}, "INT64"),
    ({int, float}, "FP64"),
    ({float}, "FP64"),
)


def describe_model(loaded: LoadedModel, version: str | None = None) -> dict[str, Any]:
    """The metadata of a model, or of one of its versions that is loaded here."""
    bundle = loaded.champion.bundle
    return {
        "name": loaded.routes.model,
        "versions": loaded.versions(),
        "platform": PLATFORM,
        "inputs": describe_inputs(loaded, version),
        "outputs": describe_outputs(bundle),
    }


def describe_inputs(loaded: LoadedModel, version: str | None = None) -> list[Described]:
    """Name, datatype and shape of each input, with the column's type and whether it must be there."""
    kinds, required, lengths = column_types(loaded), loaded.columns.required, vector_lengths(loaded)
    predictor = loaded.predictors.get(version or "")
    if predictor is not None:
        kinds, required, lengths = _kinds(predictor.schema), predictor.required, _lengths(predictor.schema)
    if loaded.columns.event_time is not None:
        kinds.setdefault(loaded.columns.event_time, "datetime")
    return [
        {
            "name": name,
            "datatype": _MAIN[kind],
            "shape": [-1, lengths[name]] if name in lengths else [-1],
            "parameters": {"column_type": kind, "required": name in required},
        }
        for name, kind in kinds.items()
    ]


def describe_outputs(bundle: BundleView) -> list[Described]:
    """Name, datatype and shape of each output.

    ``prediction`` is the value (regression) or the positive class's probability [n], or the probabilities in
    the order of ``classes`` [n, k]; ``label`` is the class, by the threshold the model was tuned to.
    """
    described: list[Described] = [{"name": PREDICTION, "datatype": "FP64", "shape": [-1]}]
    if bundle.task != "regression":
        described[0]["parameters"] = {"classes": list(bundle.classes)}
        described.append({"name": LABEL, "datatype": label_datatype(bundle.classes), "shape": [-1]})
    if bundle.task == "multiclass":
        described[0]["shape"] = [-1, len(bundle.classes)]
    return [*described, {"name": PREDICTION_ID, "datatype": BYTES, "shape": [-1]}]


def accepted_datatypes(kind: ColumnType) -> list[str]:
    """Datatypes that a column of a type is taken from."""
    return sorted(_ACCEPTED[kind])


def column_types(loaded: LoadedModel) -> dict[str, ColumnType]:
    """Type of each column that a request may send, the event time aside where it is no input."""
    return _kinds(loaded.format.schema)


def vector_lengths(loaded: LoadedModel) -> dict[str, int]:
    """How many numbers a vector has, of each column of vectors that a request may send."""
    return _lengths(loaded.format.schema)


def parse_tensors(
    tensors: Sequence[Tensor],
    named: Mapping[str, Any],
    loaded: LoadedModel,
    limits: Limits,
    *,
    transport_id: str | None,
    arrival_us: int,
) -> PredictRequest:
    """Turn tensors into a request for predictions.

    Args:
        tensors: One for each column; ``prediction_id`` (where no column has that name) holds the rows' ids.
        named: What the client chose of ``request_id`` and ``routing_key``.
        loaded: The model.
        limits: The most rows.
        transport_id: The request id of the transport, if any.
        arrival_us: Stands in for an event time that a row lacks.

    Raises:
        RequestError: Anything that is wrong, with the tensor's name.
        PayloadTooLargeError: Too many rows.
    """
    if not tensors:
        raise RequestError("there is no input", "inputs")
    num_rows = tensors[0].shape[0]
    check_count(num_rows, limits.rows, "inputs")
    kinds = column_types(loaded)
    if loaded.columns.event_time is not None:
        kinds.setdefault(loaded.columns.event_time, "datetime")
    columns: dict[str, list[Any]] = {}
    lengths = vector_lengths(loaded)
    for tensor in tensors:
        where = f"input {tensor.name!r}"
        if tensor.shape[0] != num_rows:
            raise RequestError(f"{tensor.shape[0]} rows, but {tensors[0].name!r} has {num_rows}", where)
        if tensor.name in lengths:
            added = {tensor.name: _vectors(tensor, lengths[tensor.name], where)}
        else:
            added = _split_matrix(tensor, loaded, where) if _is_matrix(tensor, kinds) else _column(tensor, kinds, where)
        if twice := added.keys() & columns.keys():
            raise RequestError(f"column {min(twice)!r} is there twice", where)
        columns |= added
    if PREDICTION_ID in columns and PREDICTION_ID not in kinds:
        named = {**named, "ids": columns.pop(PREDICTION_ID)}
    check_names(columns.keys(), loaded.columns, "inputs", "send it as an input of its own, NaN or '' where missing")
    names = tuple(columns)
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    rows = rows or [{} for _ in range(num_rows)]
    return build_request(rows, loaded.columns, named, where="rows", transport_id=transport_id, arrival_us=arrival_us)


def output_tensors(
    loaded: LoadedModel, request: PredictRequest, answered: Answered, names: Sequence[str] | None
) -> list[OutputTensor]:
    """The outputs that were asked for, in that order; None asks for all."""
    bundle, prediction = loaded.champion.bundle, answered.answer.prediction
    tensors = []
    for described in describe_outputs(bundle):
        name, datatype = described["name"], described["datatype"]
        values: Any = prediction.values
        if name == PREDICTION_ID:
            values = request.ids
        elif name == LABEL:
            labels = prediction.labels()
            is_text = datatype == BYTES
            values = [str(label) for label in labels] if is_text else np.array(labels)
        shape = (len(request.ids), *described["shape"][1:])
        tensors.append(OutputTensor(name, datatype, shape, values))
    if names is None:
        return tensors
    known = {tensor.name: tensor for tensor in tensors}
    return [known[name] for name in names]


def check_outputs(names: Sequence[Any], bundle: BundleView) -> None:
    """Check the names of requested outputs.

    Raises:
        RequestError: One is unknown, or there twice.
    """
    known = [described["name"] for described in describe_outputs(bundle)]
    for index, name in enumerate(names):
        if name not in known:
            raise RequestError(f"unknown output {name!r}", f"outputs[{index}]", near(str(name), known))
        if name in names[:index]:
            raise RequestError(f"output {name!r} is asked for twice", f"outputs[{index}]")


def label_datatype(classes: Sequence[Scalar]) -> str:
    """The datatype of labels.

    Example:
        >>> label_datatype((0, 1)), label_datatype((False, True)), label_datatype(("no", "yes"))
        ('INT64', 'BOOL', 'BYTES')
    """
    types = {type(name) for name in classes}
    return next((datatype for known, datatype in _SCALAR_DATATYPES if types == known), BYTES)


def _kinds(schema: pa.Schema) -> dict[str, ColumnType]:
    return {item.name: column_type(item.type, item.name) for item in schema}


def _lengths(schema: pa.Schema) -> dict[str, int]:
    return {item.name: vector_length(item.type) for item in schema if vector_length(item.type)}


def _vectors(tensor: Tensor, length: int, where: str) -> list[list[Any] | None]:
    """The rows of a tensor [n, length]; one without a number is a missing vector."""
    if tensor.shape != (tensor.shape[0], length):
        raise RequestError(f"expected the shape [{tensor.shape[0]}, {length}], got {list(tensor.shape)}", where)
    if tensor.datatype not in _ACCEPTED["vector"]:
        raise RequestError(f"{tensor.datatype} cannot be a column of vectors", where, "use FP32 or FP64")
    rows = [tensor.values[start : start + length] for start in range(0, len(tensor.values), length)]
    return [None if all(value is None or value != value for value in row) else row for row in rows]


def _is_matrix(tensor: Tensor, kinds: Mapping[str, ColumnType]) -> bool:
    return len(tensor.shape) == 2 and tensor.name in MATRIX_NAMES and tensor.name not in kinds


def _split_matrix(tensor: Tensor, loaded: LoadedModel, where: str) -> dict[str, list[Any]]:
    kinds = _kinds(loaded.champion.schema)
    if other := [name for name, kind in kinds.items() if kind != "numeric"]:
        problem = f"one tensor cannot stand for all columns: {other[0]!r} is no number"
        raise RequestError(problem, where, "send one input for each column")
    if tensor.datatype not in _ACCEPTED["numeric"]:
        raise RequestError(f"expected numbers, got {tensor.datatype}", where, "use FP32 or FP64")
    width = len(kinds)
    if tensor.shape[1] != width:
        problem = f"expected the shape [{tensor.shape[0]}, {width}], got {list(tensor.shape)}"
        raise RequestError(problem, where, f"columns: {', '.join(kinds)}")
    return {name: tensor.values[index::width] for index, name in enumerate(kinds)}


def _column(tensor: Tensor, kinds: Mapping[str, ColumnType], where: str) -> dict[str, list[Any]]:
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        rows = tensor.shape[0]
        raise RequestError(f"expected the shape [{rows}] or [{rows}, 1], got {list(tensor.shape)}", where)
    kind = kinds.get(tensor.name)
    if kind is None:
        return {tensor.name: tensor.values}  # the rows' ids, or a name that will be refused
    if tensor.datatype not in _ACCEPTED[kind]:
        taken = ", ".join(accepted_datatypes(kind))
        raise RequestError(f"{tensor.datatype} cannot be a {kind} column", where, f"use {_MAIN[kind]}; taken: {taken}")
    is_count = kind == "datetime" and tensor.datatype == "INT64"
    return {tensor.name: _iso_times(tensor.values) if is_count else tensor.values}


def _iso_times(values: Sequence[int | None]) -> list[str | None]:
    """Microseconds since 1970 UTC as ISO 8601: rows hold what JSON holds, whatever protocol they came by."""
    missing = [value is None or value == MISSING_US for value in values]
    counts = np.array([0 if skip else value for value, skip in zip(values, missing, strict=True)], np.int64)
    times = counts.view("datetime64[us]").astype(str).tolist()
    return [None if skip else f"{time}Z" for time, skip in zip(times, missing, strict=True)]
