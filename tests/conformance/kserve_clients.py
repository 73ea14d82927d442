"""KServe's `InferenceRESTClient` and `InferenceGRPCClient`, unmodified."""

import asyncio
import logging
from typing import Any

from checks import DATATYPES, EXPECTED, GRPC, LABELS, MODEL, URL, VERSION, check, columns, finish, raises
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

logging.disable()  # it logs every refusal with a traceback, and some checks ask for one


def request(is_binary: bool, **options: Any) -> InferRequest:
    tensors = []
    for name, array in columns().items():
        tensor = InferInput(name, list(array.shape), DATATYPES[name])
        tensor.set_data_from_numpy(array, binary_data=is_binary)
        tensors.append(tensor)
    return InferRequest(model_name=MODEL, infer_inputs=tensors, **options)


def agrees(response: Any) -> bool:
    found = {output.name: output.as_numpy() for output in response.outputs}
    return bool(found["prediction"].tolist() == EXPECTED and found["label"].tolist() == LABELS)


def over_rest(work: Any) -> Any:
    async def scenario() -> Any:
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            return await work(client)

    return asyncio.run(scenario())


def over_grpc(work: Any) -> Any:
    async def scenario() -> Any:
        async with InferenceGRPCClient(GRPC) as client:
            return await work(client)

    return asyncio.run(scenario())


check("REST: server is live")(lambda: over_rest(lambda client: client.is_server_live(URL)))
check("REST: server is ready")(lambda: over_rest(lambda client: client.is_server_ready(URL)))
check("REST: model is ready")(lambda: over_rest(lambda client: client.is_model_ready(URL, MODEL)))
check("REST: unknown model is not ready")(lambda: not over_rest(lambda client: client.is_model_ready(URL, "ships")))


def infer_rest(content: InferRequest, model: str = MODEL) -> Any:
    async def work(client: InferenceRESTClient) -> Any:
        return await client.infer(URL, content, model_name=model)

    return over_rest(work)


check("REST: JSON in, JSON out")(lambda: agrees(infer_rest(request(False))))
check("REST: binary in, JSON out")(lambda: agrees(infer_rest(request(True))))
check("REST: binary in, binary out")(lambda: agrees(infer_rest(request(True, parameters={"binary_data_output": True}))))


@check("REST: requested outputs and request id")
def _() -> bool:
    outputs = [RequestedOutput("prediction", parameters={"binary_data": True})]
    response = infer_rest(request(False, request_id="conformance-3", request_outputs=outputs))
    names = [output.name for output in response.outputs]
    # (Its REST client does not keep the version that the answer names.)
    return (response.id, names) == ("conformance-3", ["prediction"])


check("REST: error says what is wrong")(
    lambda: raises(lambda: infer_rest(request(False), "ships"), "404", "no model 'ships'")
)

check("gRPC: server is live")(lambda: over_grpc(lambda client: client.is_server_live()))
check("gRPC: server is ready")(lambda: over_grpc(lambda client: client.is_server_ready()))
check("gRPC: model is ready")(lambda: over_grpc(lambda client: client.is_model_ready(MODEL)))


def infer_grpc(content: InferRequest) -> Any:
    async def work(client: InferenceGRPCClient) -> Any:
        return await client.infer(content)

    return over_grpc(work)


check("gRPC: typed contents")(lambda: agrees(infer_grpc(request(False))))
check("gRPC: raw contents")(lambda: agrees(infer_grpc(request(True))))


@check("gRPC: request id and version")
def _() -> bool:
    response = infer_grpc(request(True, request_id="conformance-4"))
    return (response.id, response.model_version) == ("conformance-4", VERSION)


@check("gRPC: error says what is wrong")
def _() -> bool:
    content = request(True)
    content.inputs = content.inputs[:2]
    return raises(lambda: infer_grpc(content), "INVALID_ARGUMENT", "is missing")


finish("kserve")
