"""The Open Inference Protocol over HTTP: JSON, and JSON followed by binary tensors."""

from collections.abc import Mapping
from typing import Any

from ray_mlops.errors import RequestError
from ray_mlops.serving.answering import Answered
from ray_mlops.serving.dialects.dialect import answer_headers
from ray_mlops.serving.dialects.oip_columns import output_tensors, parse_tensors
from ray_mlops.serving.dialects.oip_request import Wanted, check_parameters, read_flag, read_names, read_wanted
from ray_mlops.serving.dialects.oip_tensors import (
    OutputTensor,
    Tensor,
    check_tensor,
    tensor_from_bytes,
    tensor_from_json,
)
from ray_mlops.serving.http.asgi import Response, json_response
from ray_mlops.serving.http.json_body import parse_json
from ray_mlops.serving.http.parse import Limits, PredictRequest, members, shorten
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.parts import Request

HEADER_LENGTH = b"inference-header-content-length"
"""Says where the JSON ends and the binary tensors begin; lower case, as ASGI gives it."""
BINARY_TYPE = b"application/octet-stream"
_KEYS = frozenset({"id", "parameters", "inputs", "outputs", "model_name", "model_version"})
"""Of a request. Some clients repeat the model's name in it; the path decides."""
_INPUT_KEYS = frozenset({"name", "shape", "datatype", "parameters", "data"})
_OUTPUT_KEYS = frozenset({"name", "parameters"})


class RestDialect:
    """``POST /v2/models/{model}/infer``.

    Args:
        limits: How large a request may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def parse(self, content: bytes, request: Request, loaded: LoadedModel) -> tuple[PredictRequest, Wanted]:
        """Read ``{"inputs": [...], "outputs"?, "id"?, "parameters"?}`` and the binary tensors behind it."""
        header, tail = split_body(request.headers, content)
        document = members(parse_json(header, self._limits.depth), _KEYS, "body")
        parameters = check_parameters(document.get("parameters"), "parameters")
        named = read_names(document.get("id"), parameters)
        is_binary = read_flag(parameters, "binary_data_output", "parameters")
        wanted = read_wanted(_outputs(document), is_binary, loaded.champion.bundle)
        arrival_us = int(request.arrival_s * 1e6)
        parsed = parse_tensors(
            _tensors(document, tail),
            named,
            loaded,
            self._limits,
            transport_id=request.transport_id,
            arrival_us=arrival_us,
        )
        return parsed, wanted

    def respond(
        self, request: Request, loaded: LoadedModel, parsed: PredictRequest, wanted: Wanted, answered: Answered
    ) -> Response:
        """Write the outputs that were asked for, each in the form that was asked for."""
        described, tail = [], []
        for tensor in output_tensors(loaded, parsed, answered, wanted.outputs):
            shown, content = _written(tensor, wanted.is_binary or tensor.name in wanted.binary)
            described.append(shown)
            tail.append(content)
        document = {
            "model_name": loaded.routes.model,
            "model_version": answered.version,
            "id": parsed.request_id,
            "parameters": {"arm": answered.arm, "route_version": loaded.routes.version},
            "outputs": described,
        }
        headers = answer_headers(request, loaded, parsed, answered)
        response = json_response(document, headers=headers)
        if not any(tail):
            return response
        length = (HEADER_LENGTH, str(len(response.body)).encode())
        return Response(200, b"".join((response.body, *tail)), BINARY_TYPE, (*headers, length))


def split_body(headers: Mapping[bytes, bytes], content: bytes) -> tuple[bytes, bytes | None]:
    """Part the JSON of a body from the binary tensors behind it; None where the header names no such part.

    Raises:
        RequestError: The length of the JSON is no number, or longer than the body.

    Example:
        >>> split_body({b"inference-header-content-length": b"2"}, b"{}1234")
        (b'{}', b'1234')
    """
    length = headers.get(HEADER_LENGTH)
    if length is None:
        return content, None
    if not length.isdigit() or len(length) > 18 or int(length) > len(content):
        problem = f"expected the length of the JSON, at most {len(content)}, got {shorten(length.decode('latin-1'))}"
        raise RequestError(problem, "Inference-Header-Content-Length")
    return content[: int(length)], content[int(length) :]


def _tensors(document: Mapping[str, Any], tail: bytes | None) -> list[Tensor]:
    inputs = document.get("inputs")
    if not isinstance(inputs, list):
        raise RequestError(f"expected a list of tensors, got {shorten(inputs)}", "inputs")
    tensors, at = [], 0
    for index, item in enumerate(inputs):
        where = f"inputs[{index}]"
        members(item, _INPUT_KEYS, where)
        name = item.get("name")
        if not isinstance(name, str) or not name:
            raise RequestError(f"expected the name of a column, got {shorten(name)}", where)
        where = f"input {shorten(name)}"
        datatype, shape = item.get("datatype"), check_tensor(item.get("datatype"), item.get("shape"), where)
        size = _binary_size(check_parameters(item.get("parameters"), where), where)
        if size is None:
            tensors.append(tensor_from_json(name, datatype, shape, item.get("data"), where))
            continue
        if "data" in item:
            raise RequestError("it has both 'data' and 'binary_data_size'", where, "send it in one of the two forms")
        if tail is None:
            remedy = "send the length of the JSON in the header Inference-Header-Content-Length"
            raise RequestError("it is binary, but nothing says where the JSON ends", where, remedy)
        if at + size > len(tail):
            problem = f"it has {size} bytes by its binary_data_size, and {len(tail) - at} are left in the body"
            raise RequestError(problem, where)
        tensors.append(tensor_from_bytes(name, datatype, shape, tail[at : at + size], where))
        at += size
    if tail is not None and at != len(tail):
        raise RequestError(f"{len(tail) - at} bytes follow the last binary tensor", "body")
    return tensors


def _outputs(document: Mapping[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    outputs = document.get("outputs")
    if outputs is None:
        return []
    if not isinstance(outputs, list):
        raise RequestError(f"expected a list, got {shorten(outputs)}", "outputs")
    named = []
    for index, item in enumerate(outputs):
        where = f"outputs[{index}]"
        members(item, _OUTPUT_KEYS, where)
        named.append((item.get("name"), check_parameters(item.get("parameters"), where)))
    return named


def _binary_size(parameters: Mapping[str, Any], where: str) -> int | None:
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise RequestError(f"expected binary_data_size to be a number of bytes, got {shorten(size)}", where)
    return size


def _written(tensor: OutputTensor, is_binary: bool) -> tuple[dict[str, Any], bytes]:
    described: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    if not is_binary:
        return {**described, "data": tensor.to_json()}, b""
    content = tensor.to_bytes()
    return {**described, "parameters": {"binary_data_size": len(content)}}, content
