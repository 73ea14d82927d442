"""NVIDIA's `tritonclient.http`, unmodified: JSON and binary tensors, compression, threads, asyncio, errors."""

import asyncio
from typing import Any

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from checks import DATATYPES, EXPECTED, HOST, LABELS, MODEL, ROWS, TOKEN, VERSION, check, columns, finish, raises

OPERATOR = {"Authorization": f"Bearer {TOKEN}", "x-model-version": VERSION}
client = triton.InferenceServerClient(HOST, concurrency=4)


def inputs(is_binary: bool = True, module: Any = triton, shape: tuple[int, ...] = (-1,)) -> list[Any]:
    tensors = []
    for name, array in columns().items():
        array = array.reshape(shape)
        tensor = module.InferInput(name, list(array.shape), DATATYPES[name])
        if not is_binary and DATATYPES[name] == "FP64":  # JSON has no NaN: this column goes in binary form
            tensor.set_data_from_numpy(array, binary_data=True)
        else:
            tensor.set_data_from_numpy(array, binary_data=is_binary)
        tensors.append(tensor)
    return tensors


def wanted(is_binary: bool, *names: str) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=is_binary) for name in names]


def agrees(result: Any) -> bool:
    return bool(result.as_numpy("prediction").tolist() == EXPECTED)


check("server is live")(client.is_server_live)
check("server is ready")(client.is_server_ready)
check("model is ready")(lambda: client.is_model_ready(MODEL))
check("version is ready")(lambda: client.is_model_ready(MODEL, VERSION))
check("unknown model is not ready")(lambda: not client.is_model_ready("ships"))
check("unknown version is not ready")(lambda: not client.is_model_ready(MODEL, "999"))
check("server metadata")(lambda: "binary_tensor_data" in client.get_server_metadata()["extensions"])


@check("repository index lists every version")
def _() -> bool:
    return {"name": MODEL, "version": VERSION, "state": "READY", "reason": ""} in client.get_model_repository_index()


@check("model metadata names every column")
def _() -> bool:
    metadata = client.get_model_metadata(MODEL)
    found = {item["name"]: item["datatype"] for item in metadata["inputs"]}
    return found == {**DATATYPES, "seats": "FP64", "time": "BYTES"} and VERSION in metadata["versions"]


check("binary in, binary out")(lambda: agrees(client.infer(MODEL, inputs())))
check("binary in, JSON out")(lambda: agrees(client.infer(MODEL, inputs(), outputs=wanted(False, "prediction"))))
check("JSON in, JSON out")(lambda: agrees(client.infer(MODEL, inputs(False), outputs=wanted(False, "prediction"))))
check("JSON in, binary out")(lambda: agrees(client.infer(MODEL, inputs(False), outputs=wanted(True, "prediction"))))
check("tensors of [n, 1]")(lambda: agrees(client.infer(MODEL, inputs(shape=(-1, 1)))))
check("version in the path")(lambda: agrees(client.infer(MODEL, inputs(), model_version=VERSION)))


@check("labels, ids and who answered")
def _() -> bool:
    result = client.infer(MODEL, inputs(), request_id="conformance-1")
    ids = [name.decode() for name in result.as_numpy("prediction_id")]
    response = result.get_response()
    return (
        result.as_numpy("label").tolist() == LABELS
        and ids == [f"conformance-1-{index}" for index in range(len(ROWS))]
        and (response["id"], response["model_version"]) == ("conformance-1", VERSION)
    )


@check("requested outputs, in their order, in either form")
def _() -> bool:
    outputs = [*wanted(True, "label"), *wanted(False, "prediction")]
    result = client.infer(MODEL, inputs(), outputs=outputs)
    return [item["name"] for item in result.get_response()["outputs"]] == ["label", "prediction"] and agrees(result)


for algorithm in ("gzip", "deflate"):
    check(f"request compressed by {algorithm}")(
        lambda a=algorithm: agrees(client.infer(MODEL, inputs(), request_compression_algorithm=a))
    )
    check(f"response compressed by {algorithm}")(
        lambda a=algorithm: agrees(client.infer(MODEL, inputs(), response_compression_algorithm=a))
    )


@check("a long response is compressed")
def _() -> bool:
    tensors = []
    for name, array in columns().items():
        many = np.tile(array, 200)
        tensors.append(triton.InferInput(name, [len(many)], DATATYPES[name]).set_data_from_numpy(many))
    result = client.infer(MODEL, tensors, response_compression_algorithm="gzip")
    return len(result.as_numpy("prediction")) == 200 * len(ROWS)


check("asynchronous calls")(
    lambda: all(agrees(call.get_result()) for call in [client.async_infer(MODEL, inputs()) for _ in range(8)])
)


@check("asyncio client")
def _() -> bool:
    async def scenario() -> bool:
        async with triton_aio.InferenceServerClient(HOST) as own:
            results = await asyncio.gather(*(own.infer(MODEL, inputs()) for _ in range(4)))
            return all(map(agrees, results)) and await own.is_server_ready()

    return asyncio.run(scenario())


check("operator's token goes in a header")(
    lambda: agrees(
        client.infer(MODEL, inputs(), headers={"Authorization": f"Bearer {TOKEN}", "x-model-version": VERSION})
    )
)
check("error: missing column")(lambda: raises(lambda: client.infer(MODEL, inputs()[:2]), "[400]", "is missing"))
check("error: unknown model")(lambda: raises(lambda: client.infer("ships", inputs()), "[404]", "no model 'ships'"))
check("error: version that needs an operator")(
    lambda: raises(lambda: client.infer(MODEL, inputs(), model_version="999"), "[401]", "operate")
)
check("error: unknown output")(
    lambda: raises(lambda: client.infer(MODEL, inputs(), outputs=wanted(True, "predicton")), "[400]", "prediction")
)


@check("error: shapes that differ")
def _() -> bool:
    tensors = inputs()
    short = triton.InferInput("carrier", [1], "BYTES").set_data_from_numpy(np.array(["UA"], object))
    tensors[list(DATATYPES).index("carrier")] = short
    return raises(lambda: client.infer(MODEL, tensors), "[400]", "rows")


client.close()
finish("tritonclient.http")
