"""The Open Inference Protocol over gRPC: the six calls, through the same gateway, without a server."""

import asyncio
import importlib
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError

from ray_mlops.config import ServingConfig
from ray_mlops.serving.dialects.grpc_methods import SERVICER, GrpcMethods, add_to_server
from ray_mlops.serving.dialects.grpc_service import CODES, MAX_DETAILS, GrpcService
from ray_mlops.serving.dialects.oip_tensors import join_strings
from ray_mlops.serving.dialects.open_inference_pb2 import (
    DESCRIPTOR,
    InferParameter,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerReadyRequest,
)

ROW = {"distance": 200.0, "carrier": "UA"}
ROWS = [ROW, {"distance": 100.0, "carrier": "DL"}]
TWO = InferParameter(int64_param=2)
OK, INVALID = None, grpc.StatusCode.INVALID_ARGUMENT


@dataclass
class Context:
    """A call's context that remembers its status."""

    metadata: tuple[tuple[str, Any], ...] = ()
    address: str = "ipv4:127.0.0.1:51000"
    code: Any = None
    details: str = ""
    trailers: list[Any] = field(default_factory=list)

    def invocation_metadata(self) -> Any:
        return self.metadata

    def peer(self) -> str:
        return self.address

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


def call(rig: Any, method: str, message: Any, context: Context | None = None, routes: Any = ()) -> tuple[Any, Context]:
    context = context or Context()

    async def scenario() -> Any:
        await rig.apply(*routes)
        return await getattr(GrpcService(rig.gateway, rig.parts), method)(message, context)

    return asyncio.run(scenario()), context


def typed(**content: Any) -> ModelInferRequest:
    """Two rows in typed fields."""
    message = ModelInferRequest(model_name="flights", **content)
    message.inputs.add(name="distance", datatype="FP64", shape=[2], contents={"fp64_contents": [200.0, 100.0]})
    message.inputs.add(name="carrier", datatype="BYTES", shape=[2], contents={"bytes_contents": [b"UA", b"DL"]})
    return message


def raw(**content: Any) -> ModelInferRequest:
    """Two rows in binary form."""
    message = ModelInferRequest(model_name="flights", **content)
    message.inputs.add(name="distance", datatype="FP32", shape=[2, 1])
    message.inputs.add(name="carrier", datatype="BYTES", shape=[2])
    message.raw_input_contents.extend([np.array([200.0, 100.0], "<f4").tobytes(), join_strings([b"UA", b"DL"])])
    return message


def test_messages_can_be_pickled_and_found_by_serve() -> None:
    assert pickle.loads(pickle.dumps(typed())) == typed()
    module, _, name = SERVICER.rpartition(".")
    assert callable(getattr(importlib.import_module(module), name))
    methods = DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert all(callable(getattr(GrpcMethods, method.name)) for method in methods)
    assert len(methods) == 6


def test_registered_calls_are_answered_over_a_real_channel() -> None:
    class Servicer(GrpcMethods):
        def __init__(self) -> None:
            self.asked: list[str] = []

        def ServerLive(self, message: Any, context: Any) -> ServerLiveResponse:  # type: ignore[override]  # noqa: N802
            self.asked.append(type(message).__name__)
            return ServerLiveResponse(live=True)

    servicer = Servicer()
    server = grpc.server(ThreadPoolExecutor(1))
    add_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                request_serializer=ServerLiveRequest.SerializeToString,
                response_deserializer=ServerLiveResponse.FromString,
            )
            assert ask(ServerLiveRequest(), timeout=10).live
    finally:
        server.stop(None).wait()
    assert servicer.asked == ["ServerLiveRequest"]


def test_server_and_model_pages(rig: Any, kit: Any) -> None:
    assert call(rig, "server_live", ServerLiveRequest())[0].live
    assert call(rig, "server_ready", ServerReadyRequest())[0].ready
    server, _ = call(rig, "server_metadata", ServerMetadataRequest())
    assert (server.name, list(server.extensions)) == ("ray-mlops", ["binary_tensor_data"])
    assert call(rig, "model_ready", ModelReadyRequest(name="flights", version="1"))[0].ready
    model, _ = call(rig, "model_metadata", ModelMetadataRequest(name="flights"))
    assert (model.name, list(model.versions), model.platform) == ("flights", ["1"], "ray-mlops")
    assert [(item.name, item.datatype, list(item.shape)) for item in model.inputs] == [
        ("distance", "FP64", [-1]),
        ("carrier", "BYTES", [-1]),
    ]
    assert [item.name for item in model.outputs] == ["prediction", "label", "prediction_id"]


@pytest.mark.parametrize("method", ["model_ready", "model_metadata"])
@pytest.mark.parametrize(("name", "version"), [("ships", ""), ("flights", "9"), ("../flights", ""), ("flights", "..")])
def test_unknown_models_are_not_found(rig: Any, method: str, name: str, version: str) -> None:
    kind = ModelReadyRequest if method == "model_ready" else ModelMetadataRequest
    answer, context = call(rig, method, kind(name=name, version=version))
    assert context.code == grpc.StatusCode.NOT_FOUND
    assert answer == type(answer)(), "the message stays empty"


def test_typed_contents(rig: Any) -> None:
    message = typed(id="call-1", parameters={"routing_key": InferParameter(string_param="user-1")})
    answer, context = call(rig, "model_infer", message)
    assert (context.code, answer.model_name, answer.model_version, answer.id) == (OK, "flights", "1", "call-1")
    assert (answer.parameters["arm"].string_param, answer.parameters["route_version"].int64_param) == ("champion", 3)
    expected = rig.bundles["one"].predict(ROWS)
    found = {item.name: item.contents for item in answer.outputs}
    assert list(found["prediction"].fp64_contents) == expected.values.tolist()
    assert list(found["label"].int64_contents) == expected.labels()
    assert list(found["prediction_id"].bytes_contents) == [b"call-1-0", b"call-1-1"]
    assert not answer.raw_output_contents
    assert rig.telemetry.requests == {("flights", "champion", "1", "ok"): 1}
    logged = asyncio.run(rig.logged()).to_pylist()
    assert [row["prediction_id"] for row in logged] == ["call-1-0", "call-1-1"]
    assert all(row["routing_key_hash"] > 0 for row in logged)


def test_raw_contents(rig: Any) -> None:
    message = raw()
    message.outputs.add(name="label")
    message.outputs.add(name="prediction")
    answer, context = call(rig, "model_infer", message)
    assert context.code is OK, context.details
    assert [item.name for item in answer.outputs] == ["label", "prediction"]
    expected = rig.bundles["one"].predict(ROWS)
    labels, values = answer.raw_output_contents
    assert np.frombuffer(labels, "<i8").tolist() == expected.labels()
    assert np.frombuffer(values, "<f8").tolist() == expected.values.tolist()
    assert not answer.outputs[0].contents.ListFields()


@pytest.mark.parametrize(
    ("datatype", "contents", "values"),
    [
        ("INT8", "int_contents", [100, -7]),
        ("INT32", "int_contents", [100, 200]),
        ("UINT16", "uint_contents", [100, 200]),
        ("INT64", "int64_contents", [100, 200]),
        ("UINT64", "uint64_contents", [100, 200]),
        ("FP32", "fp32_contents", [100.0, math.nan]),
    ],
)
def test_numbers_of_every_typed_field(rig: Any, datatype: str, contents: str, values: Any) -> None:
    message = typed()
    message.inputs[0].CopyFrom(type(message.inputs[0])(name="distance", datatype=datatype, shape=[2]))
    getattr(message.inputs[0].contents, contents).extend(values)
    answer, context = call(rig, "model_infer", message)
    assert context.code is OK, context.details
    rows = [{"distance": value, "carrier": name} for value, name in zip(values, ("UA", "DL"), strict=True)]
    assert list(answer.outputs[0].contents.fp64_contents) == rig.bundles["one"].predict(rows).values.tolist()


def test_version_pins_and_needs_an_operator(rig: Any, kit: Any) -> None:
    routes = [kit.split(0.5, "in_replica")]
    operator = (("authorization", "Bearer o-token"),)
    champion, _ = call(rig, "model_infer", typed(model_version="1"), routes=routes)
    assert champion.model_version == "1"
    _, refused = call(rig, "model_infer", typed(model_version="2"), routes=routes)
    assert refused.code == grpc.StatusCode.UNAUTHENTICATED
    _, forbidden = call(
        rig, "model_infer", typed(model_version="2"), Context((("authorization", "Bearer p-token"),)), routes
    )
    assert forbidden.code == grpc.StatusCode.PERMISSION_DENIED
    candidate, _ = call(rig, "model_infer", typed(model_version="2"), Context(operator), routes)
    assert candidate.model_version == "2"
    assert rig.telemetry.changed() == []


def test_tokens_travel_in_metadata(rig: Any, kit: Any, tmp_path: Any) -> None:
    closed = kit.Rig(tmp_path / "closed", ServingConfig(predict_auth="token"))
    assert call(closed, "model_infer", typed())[1].code == grpc.StatusCode.UNAUTHENTICATED
    assert call(closed, "model_metadata", ModelMetadataRequest())[1].code == grpc.StatusCode.UNAUTHENTICATED
    token = Context((("authorization", "Bearer p-token"), ("x-bin", b"\xff"), ("X-Request-Id", "from-client")))
    answer, context = call(closed, "model_infer", typed(), token)
    assert (context.code, answer.id) == (OK, "from-client")
    assert call(closed, "server_live", ServerLiveRequest())[0].live


def test_only_this_machine_is_answered_unless_opened(rig: Any, kit: Any, tmp_path: Any) -> None:
    stranger = Context(address="ipv4:10.0.0.7:51000")
    assert call(rig, "model_infer", typed(), stranger)[1].code == grpc.StatusCode.PERMISSION_DENIED
    opened = kit.Rig(tmp_path / "open", ServingConfig(host="0.0.0.0"))
    assert call(opened, "model_infer", typed(), Context(address="ipv4:10.0.0.7:51000"))[1].code is OK


def change(**content: Any) -> Any:
    """A change of the first input's message."""

    def apply(message: ModelInferRequest) -> None:
        item = message.inputs[0]
        for name, value in content.items():
            if name == "shape":
                del item.shape[:]
                item.shape.extend(value)
            elif name == "contents":
                item.contents.Clear()
                for key, values in value.items():
                    getattr(item.contents, key).extend(values)
            else:
                setattr(item, name, value)

    return apply


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (change(name=""), "expected the name of a column"),
        (change(name="distnace"), "unknown column 'distnace'; did you mean 'distance'"),
        (change(name="carrier"), "column 'carrier' is there twice"),
        (change(datatype=""), "unknown datatype ''"),
        (change(datatype="FP32"), "elements of FP32 are in fp64_contents; put them in fp32_contents"),
        (change(datatype="FP16"), "FP16 has no typed field; send it in raw_input_contents"),
        (change(shape=[3]), r"2 elements, but the shape \[3\] says 3"),
        (change(shape=[]), "expected a shape"),
        (change(shape=[-1]), "expected a shape"),
        (change(shape=[1, 2]), "rows, but 'distance' has 1|expected the shape"),
        (change(contents={}), "0 elements, but the shape"),
        (change(contents={"fp64_contents": [1.0, math.inf]}), "element 1 is infinite"),
        (change(datatype="INT8", contents={"int_contents": [1, 300]}), "element 1, 300, lies outside INT8"),
        (change(datatype="BYTES", contents={"bytes_contents": [b"a", b"\xff"]}), "an element is not UTF-8"),
        (change(datatype="BOOL", contents={"bool_contents": [True, True]}), "BOOL cannot be a numeric column"),
        (lambda message: message.raw_input_contents.append(b"x"), "1 entries for 2 inputs"),
        (lambda message: message.raw_input_contents.extend([b"x", b"y"]), "both contents and raw_input_contents"),
        (lambda message: message.outputs.add(name="predicton"), "unknown output 'predicton'; did you mean"),
        (
            lambda message: message.outputs.add(
                name="label", parameters={"classification": InferParameter(int64_param=2)}
            ),
            "classification extension is not supported",
        ),
        (lambda message: setattr(message, "id", "a b"), "id: 'a b' is no valid id"),
        (
            lambda message: message.parameters["routing_key"].CopyFrom(InferParameter(int64_param=5)),
            "routing_key: expected a string",
        ),
        (
            lambda message: message.inputs[0].parameters["shared_memory_region"].CopyFrom(InferParameter()),
            "shared memory is not supported",
        ),
        (lambda message: message.ClearField("inputs"), "there is no input"),
    ],
)
def test_wrong_messages_are_said(rig: Any, wrong: Any, said: str) -> None:
    message = typed()
    wrong(message)
    answer, context = call(rig, "model_infer", message)
    assert context.code == INVALID
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(context.details)
    assert answer == type(answer)()
    assert rig.telemetry.refused == {("flights", "400"): 1}
    assert rig.telemetry.num_in_flight == 0


@pytest.mark.parametrize("content", [b"", b"1234567", bytes(9)])
def test_truncated_tensors_are_said(rig: Any, content: bytes) -> None:
    message = raw()
    message.raw_input_contents[0] = content
    _, context = call(rig, "model_infer", message)
    assert (context.code, "bytes are not 2 elements of FP32" in context.details) == (INVALID, True)


def test_other_failures_have_codes_of_their_own(rig: Any, kit: Any, tmp_path: Any) -> None:
    small = kit.Rig(tmp_path / "small", ServingConfig(max_rows=1))
    assert call(small, "model_infer", typed())[1].code == grpc.StatusCode.RESOURCE_EXHAUSTED
    tiny = kit.Rig(tmp_path / "tiny", ServingConfig(max_body_mb=0.00001))
    assert call(tiny, "model_infer", typed())[1].code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(rig, "model_infer", typed())[1].code is OK
    rig.bundles["one"].model.fault = lambda: math.nan
    _, failed = call(rig, "model_infer", typed())
    assert (failed.code, "is not finite" in failed.details) == (grpc.StatusCode.INTERNAL, True)
    assert CODES[503] == grpc.StatusCode.UNAVAILABLE


def test_details_fit_into_a_trailer(rig: Any) -> None:
    message = typed()
    message.model_name = "x" * 100_000
    _, context = call(rig, "model_infer", message)
    assert context.code == grpc.StatusCode.NOT_FOUND
    assert len(context.details) == MAX_DETAILS


def test_a_bug_is_internal_and_says_so(rig: Any) -> None:
    async def scenario() -> Context:
        await rig.apply()
        context = Context()
        service = GrpcService(rig.gateway, rig.parts)
        rig.gateway.predicting = None
        await service.model_infer(typed(), context)
        return context

    context = asyncio.run(scenario())
    assert context.code == grpc.StatusCode.INTERNAL
    assert "AttributeError" in context.details


def test_damaged_messages_are_refused_and_break_nothing(rig: Any) -> None:
    random = np.random.default_rng(0)
    content = raw(parameters={"routing_key": InferParameter(string_param="k")}).SerializeToString()
    messages = []
    for _ in range(400):
        damaged = bytearray(content)
        for position in random.integers(0, len(damaged), random.integers(1, 4)):
            damaged[position] = random.integers(0, 256)
        try:
            messages.append(ModelInferRequest.FromString(bytes(damaged)))
        except DecodeError:
            continue  # gRPC itself refuses it

    async def scenario() -> list[Context]:
        await rig.apply()
        service = GrpcService(rig.gateway, rig.parts)
        contexts = []
        for message in messages:
            contexts.append(Context())
            await service.model_infer(message, contexts[-1])
        return contexts

    contexts = asyncio.run(scenario())
    refused = [context for context in contexts if context.code is not OK]
    assert {context.code for context in refused} <= {
        INVALID,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNAUTHENTICATED,
    }
    assert len(refused) > 50
    assert rig.telemetry.num_in_flight == 0
    assert rig.log.accounting["accepted"] == 2 * (len(contexts) - len(refused)), "nothing half-read was logged"
