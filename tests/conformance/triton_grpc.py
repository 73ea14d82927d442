"""NVIDIA's `tritonclient.grpc`, unmodified: the six calls, threads, asyncio, metadata, status codes."""

import asyncio
import queue
from typing import Any

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from checks import DATATYPES, EXPECTED, GRPC, LABELS, MODEL, ROWS, TOKEN, VERSION, check, columns, finish, raises

client = triton.InferenceServerClient(GRPC)


def inputs(shape: tuple[int, ...] = (-1,)) -> list[Any]:
    tensors = []
    for name, array in columns().items():
        array = array.reshape(shape)
        tensors.append(triton.InferInput(name, list(array.shape), DATATYPES[name]).set_data_from_numpy(array))
    return tensors


def agrees(result: Any) -> bool:
    return bool(result.as_numpy("prediction").tolist() == EXPECTED)


check("server is live")(client.is_server_live)
check("server is ready")(client.is_server_ready)
check("model is ready")(lambda: client.is_model_ready(MODEL))
check("version is ready")(lambda: client.is_model_ready(MODEL, VERSION))
check("server metadata")(lambda: client.get_server_metadata().name == "ray-mlops")


@check("model metadata names every column")
def _() -> bool:
    found = {item.name: item.datatype for item in client.get_model_metadata(MODEL).inputs}
    return found == {**DATATYPES, "seats": "FP64", "time": "BYTES"}


check("infer")(lambda: agrees(client.infer(MODEL, inputs())))
check("tensors of [n, 1]")(lambda: agrees(client.infer(MODEL, inputs((-1, 1)))))
check("version of its own")(lambda: agrees(client.infer(MODEL, inputs(), model_version=VERSION)))
check("compressed by gzip")(lambda: agrees(client.infer(MODEL, inputs(), compression_algorithm="gzip")))


@check("labels, ids and who answered")
def _() -> bool:
    result = client.infer(MODEL, inputs(), request_id="conformance-2")
    ids = [name.decode() for name in result.as_numpy("prediction_id")]
    response = result.get_response()
    return (
        result.as_numpy("label").tolist() == LABELS
        and ids == [f"conformance-2-{index}" for index in range(len(ROWS))]
        and (response.id, response.model_version) == ("conformance-2", VERSION)
    )


@check("requested outputs, in their order")
def _() -> bool:
    outputs = [triton.InferRequestedOutput(name) for name in ("label", "prediction")]
    result = client.infer(MODEL, inputs(), outputs=outputs)
    return [item.name for item in result.get_response().outputs] == ["label", "prediction"] and agrees(result)


@check("asynchronous calls")
def _() -> bool:
    answers: queue.Queue[Any] = queue.Queue()
    for _ in range(8):
        client.async_infer(MODEL, inputs(), callback=lambda result, error: answers.put(error or result))
    return all(agrees(answers.get(timeout=10)) for _ in range(8))


@check("asyncio client")
def _() -> bool:
    async def scenario() -> bool:
        async with triton_aio.InferenceServerClient(GRPC) as own:
            results = await asyncio.gather(*(own.infer(MODEL, inputs()) for _ in range(4)))
            return all(map(agrees, results)) and await own.is_server_ready()

    return asyncio.run(scenario())


check("operator's token goes in metadata")(
    lambda: raises(
        lambda: client.infer(MODEL, inputs(), model_version="999", headers={"authorization": f"Bearer {TOKEN}"}),
        "NOT_FOUND",
    )
)
check("error: missing column")(
    lambda: raises(lambda: client.infer(MODEL, inputs()[:2]), "INVALID_ARGUMENT", "is missing")
)
check("error: unknown model")(lambda: raises(lambda: client.infer("ships", inputs()), "NOT_FOUND", "no model 'ships'"))
check("error: version that needs an operator")(
    lambda: raises(lambda: client.infer(MODEL, inputs(), model_version="999"), "UNAUTHENTICATED", "operate")
)
check("error: wrong token")(
    lambda: raises(
        lambda: client.infer(MODEL, inputs(), model_version="999", headers={"authorization": "Bearer wrong"}),
        "UNAUTHENTICATED",
    )
)
client.close()
finish("tritonclient.grpc")
