"""MLflow's scoring protocol: data frames, records, tensors by column and CSV; answers as its pyfunc gives them."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import orjson

from ray_mlops.errors import RequestError
from ray_mlops.serving.answering import Answered
from ray_mlops.serving.dialects.csv_rows import parse_csv
from ray_mlops.serving.dialects.dialect import answer_headers
from ray_mlops.serving.dialects.oip_columns import vector_lengths
from ray_mlops.serving.http.asgi import Response, json_response
from ray_mlops.serving.http.json_body import check_depth, parse_json
from ray_mlops.serving.http.parse import (
    Limits,
    PredictRequest,
    build_request,
    check_columns,
    check_count,
    list_of_rows,
    members,
    shorten,
)
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.parts import Request
from ray_mlops.training.bundle import Prediction
from ray_mlops.training.mlmodel import probability_column

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
PARAMS = frozenset({"ids", "request_id", "routing_key"})
JSON_MEDIA, CSV_MEDIA = "application/json", "text/csv"
_SPLIT_KEYS = frozenset({"columns", "index", "data"})


class MlflowDialect:
    """``POST /invocations``.

    Args:
        limits: How large a request may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def parse(self, content: bytes, request: Request, loaded: LoadedModel) -> tuple[PredictRequest, None]:
        """Read a body of one of MLflow's forms, by its content type."""
        media = media_type(request.headers.get(b"content-type", JSON_MEDIA.encode()).decode("latin-1"))
        named: Mapping[str, Any] = {}
        if media == CSV_MEDIA:
            where, rows = "body", parse_csv(content, loaded, self._limits)
        else:
            where, rows, named = parse_frame(content, self._limits, vector_lengths(loaded))
        check_columns(rows, loaded.columns, where)
        arrival_us = int(request.arrival_s * 1e6)
        parsed = build_request(
            rows, loaded.columns, named, where=where, transport_id=request.transport_id, arrival_us=arrival_us
        )
        return parsed, None

    def respond(
        self, request: Request, loaded: LoadedModel, parsed: PredictRequest, wanted: None, answered: Answered
    ) -> Response:
        """Write ``{"predictions": [...]}``, with the rows' ids beside them."""
        content = {"predictions": to_records(answered.answer.prediction), "ids": parsed.ids}
        return json_response(content, headers=answer_headers(request, loaded, parsed, answered))


def media_type(content_type: str) -> str:
    """The media type of a body.

    Raises:
        RequestError: It is neither JSON nor CSV, or not in UTF-8.

    Example:
        >>> media_type("text/csv; charset=UTF-8")
        'text/csv'
    """
    media, *parameters = (part.strip().lower() for part in content_type.split(";"))
    if media not in (JSON_MEDIA, CSV_MEDIA):
        raise RequestError(f"cannot read {shorten(media)}", "Content-Type", f"use {JSON_MEDIA} or {CSV_MEDIA}")
    for parameter in filter(None, parameters):
        name, _, value = parameter.partition("=")
        if name != "charset" or value.strip('"') not in ("utf-8", "utf8"):
            raise RequestError(f"cannot read {shorten(parameter)}", "Content-Type", "only charset=utf-8 is known")
    return media


def parse_frame(
    content: bytes, limits: Limits, vectors: Collection[str] = ()
) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """Read a JSON body.

    Args:
        content: The body.
        limits: The most rows and nesting.
        vectors: Names of the columns of vectors: of the others, ``inputs`` may hold lists of one value.

    Returns:
        The name of its form, the rows, and ``params``.

    Raises:
        RequestError: Anything that is wrong, with its place.
        PayloadTooLargeError: Too many rows.
    """
    document = members(_parse_lenient(content, limits.depth), {*FORMATS, "params"}, "body")
    forms = document.keys() - {"params"}
    if len(forms) != 1:
        problem = f"expected exactly one of {', '.join(FORMATS)}, got {', '.join(sorted(forms)) or 'none'}"
        raise RequestError(problem, "body")
    form = min(forms)
    params = document.get("params")
    named = members({} if params is None else params, PARAMS, "params")
    value = document[form]
    if form == "dataframe_split":
        rows = _from_split(value, limits)
    elif form == "inputs" and isinstance(value, dict):
        rows = _from_columns(value, limits, vectors)
    else:
        rows = list_of_rows(document, form, limits.rows)
    return form, rows, named


def to_records(prediction: Prediction) -> list[dict[str, Any]]:
    """Predictions as MLflow writes what the bundle's pyfunc returns.

    Example:
        >>> import numpy as np
        >>> to_records(Prediction("binary", np.array([0.75]), ("no", "yes")))
        [{'prediction': 'yes', 'probability': 0.75}]
    """
    labels, values = prediction.labels(), prediction.values.tolist()
    if prediction.task == "regression":
        return [{"prediction": label} for label in labels]
    if prediction.task == "binary":
        pairs = zip(labels, values, strict=True)
        return [{"prediction": label, "probability": value} for label, value in pairs]
    names = [probability_column(name) for name in prediction.classes]
    rows = zip(labels, values, strict=True)
    return [{"prediction": label, **dict(zip(names, row, strict=True))} for label, row in rows]


def _parse_lenient(content: bytes, max_depth: int) -> Any:
    """Parse JSON in which NaN may stand for a missing value: MLflow's own client writes it so."""
    try:
        return parse_json(content, max_depth)
    except RequestError as error:
        if b"NaN" not in content:
            raise
        check_depth(content, max_depth)
        try:
            document = json.loads(content.decode(), parse_constant=_constant, parse_float=_finite)
            return orjson.loads(orjson.dumps(document))  # or it holds what no strict JSON holds, and no log takes
        except (ValueError, TypeError):
            raise error from None


def _constant(name: str) -> None:
    if name != "NaN":
        raise ValueError(name)


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(text)
    return value


def _from_split(frame: Any, limits: Limits) -> list[dict[str, Any]]:
    where = "dataframe_split"
    members(frame, _SPLIT_KEYS, where)
    columns, data = frame.get("columns"), frame.get("data")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise RequestError(f"expected a list of names, got {shorten(columns)}", f"{where}.columns")
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise RequestError(f"column {twice!r} is there twice", f"{where}.columns")
    if not isinstance(data, list):
        raise RequestError(f"expected a list of rows, got {shorten(data)}", f"{where}.data")
    check_count(len(data), limits.rows, f"{where}.data")
    for index, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(columns):
            problem = f"expected a list of {len(columns)} values, got {shorten(row)}"
            raise RequestError(problem, f"{where}.data[{index}]")
    return [dict(zip(columns, row, strict=True)) for row in data]


def _from_columns(columns: Mapping[str, Any], limits: Limits, vectors: Collection[str]) -> list[dict[str, Any]]:
    lists: dict[str, list[Any]] = {}
    for name, values in columns.items():
        if not isinstance(values, list):
            raise RequestError(f"expected a list of values, got {shorten(values)}", f"inputs.{shorten(name)}")
        is_nested = name not in vectors and all(isinstance(value, list) and len(value) == 1 for value in values)
        lists[name] = [value[0] for value in values] if is_nested else values
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise RequestError(f"columns differ in length: {shorten(lengths)}", "inputs")
    check_count(next(iter(lengths.values()), 0), limits.rows, "inputs")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
