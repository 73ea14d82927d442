"""The Open Inference Protocol's messages of gRPC: tensors in typed fields, or in binary form behind them."""

from collections.abc import Mapping
from typing import Any

from ray_mlops.errors import RequestError
from ray_mlops.serving.answering import Answered
from ray_mlops.serving.dialects.oip_columns import describe_model, output_tensors, parse_tensors
from ray_mlops.serving.dialects.oip_request import Wanted, check_parameters, read_names, read_wanted
from ray_mlops.serving.dialects.oip_tensors import (
    BYTES,
    OutputTensor,
    Tensor,
    check_length,
    check_tensor,
    tensor_from_bytes,
    tensor_from_values,
)
from ray_mlops.serving.dialects.open_inference_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataResponse,
)
from ray_mlops.serving.http.asgi import too_large
from ray_mlops.serving.http.parse import Limits, PredictRequest, shorten
from ray_mlops.serving.loaded import LoadedModel
from ray_mlops.serving.parts import Request

CONTENTS: dict[str, str] = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""The typed field of each datatype; half precision has none, and travels in binary form only."""


class GrpcDialect:
    """``ModelInfer``.

    Args:
        limits: How large a request may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def parse(self, content: ModelInferRequest, request: Request, loaded: LoadedModel) -> tuple[PredictRequest, Wanted]:
        """Read a message; the answer takes the form, typed or binary, that the inputs had."""
        if content.ByteSize() > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        named = read_names(content.id, _plain(content.parameters, "parameters"))
        outputs = [(item.name, _plain(item.parameters, f"output {item.name!r}")) for item in content.outputs]
        wanted = read_wanted(outputs, bool(content.raw_input_contents), loaded.champion.bundle)
        parsed = parse_tensors(
            _tensors(content),
            named,
            loaded,
            self._limits,
            transport_id=request.transport_id,
            arrival_us=int(request.arrival_s * 1e6),
        )
        return parsed, wanted

    def respond(
        self, request: Request, loaded: LoadedModel, parsed: PredictRequest, wanted: Wanted, answered: Answered
    ) -> ModelInferResponse:
        """Write the outputs that were asked for."""
        response = ModelInferResponse(
            model_name=loaded.routes.model,
            model_version=answered.version,
            id=parsed.request_id,
            parameters={
                "arm": InferParameter(string_param=answered.arm),
                "route_version": InferParameter(int64_param=loaded.routes.version),
            },
        )
        for tensor in output_tensors(loaded, parsed, answered, wanted.outputs):
            output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            if wanted.is_binary:
                response.raw_output_contents.append(tensor.to_bytes())
            else:
                _fill(output.contents, tensor)
        return response


def metadata_message(loaded: LoadedModel, version: str | None) -> ModelMetadataResponse:
    """The metadata of a model, or of one of its versions."""
    described = describe_model(loaded, version)
    message = ModelMetadataResponse(
        name=described["name"], versions=described["versions"], platform=described["platform"]
    )
    for field, tensors in ((message.inputs, described["inputs"]), (message.outputs, described["outputs"])):
        for tensor in tensors:
            field.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
    return message


def _tensors(message: ModelInferRequest) -> list[Tensor]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise RequestError(f"{len(raw)} entries for {len(message.inputs)} inputs", "raw_input_contents")
    tensors = []
    for index, item in enumerate(message.inputs):
        if not item.name:
            raise RequestError("expected the name of a column, got ''", f"inputs[{index}]")
        where = f"input {shorten(item.name)}"
        shape = check_tensor(item.datatype, list(item.shape), where)
        check_parameters(_plain(item.parameters, where), where)
        if not raw:
            values = _contents(item.contents, item.datatype, where)
            check_length(len(values), shape, where)
            tensors.append(tensor_from_values(item.name, item.datatype, shape, values, where))
            continue
        if item.contents.ListFields():
            problem = "it has both contents and raw_input_contents"
            raise RequestError(problem, where, "send all inputs in one of the two forms")
        tensors.append(tensor_from_bytes(item.name, item.datatype, shape, raw[index], where))
    return tensors


def _contents(contents: InferTensorContents, datatype: str, where: str) -> list[Any]:
    field = CONTENTS.get(datatype)
    if field is None:
        raise RequestError(f"{datatype} has no typed field", where, "send it in raw_input_contents")
    if other := [descriptor.name for descriptor, _ in contents.ListFields() if descriptor.name != field]:
        raise RequestError(f"elements of {datatype} are in {other[0]}", where, f"put them in {field}")
    values = list(getattr(contents, field))
    if datatype != BYTES:
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        raise RequestError(f"an element is not UTF-8: {error.reason}", where) from None


def _plain(parameters: Mapping[str, InferParameter], where: str) -> dict[str, Any]:
    """Parameters as plain values; one without a value is None."""
    choices = {name: parameter.WhichOneof("parameter_choice") for name, parameter in parameters.items()}
    plain = {name: getattr(parameters[name], choice) if choice else None for name, choice in choices.items()}
    return check_parameters(plain, where)


def _fill(contents: InferTensorContents, tensor: OutputTensor) -> None:
    values = tensor.to_json()
    plain = values if isinstance(values, list) else values.tolist()
    field = getattr(contents, CONTENTS[tensor.datatype])
    field.extend([value.encode("utf-8", "replace") for value in plain] if tensor.datatype == BYTES else plain)
