"""What is wrong is said, by every protocol alike: a 4xx that names the fault, and nothing that is logged."""

import asyncio
import gzip
import math
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import orjson
import pytest

from ray_mlops.serving.dialects.grpc_service import GrpcService
from ray_mlops.serving.dialects.oip_tensors import join_strings
from ray_mlops.serving.dialects.open_inference_pb2 import InferParameter, ModelInferRequest

ROW = {"distance": 200.0, "carrier": "UA"}
INFER = "/v2/models/flights/infer"
MILLION = 10**6


@dataclass
class Said:
    """An error, whatever protocol it came by."""

    status: int
    text: str


@dataclass
class Context:
    """A gRPC call that remembers its status."""

    code: Any = None
    details: str = ""

    def invocation_metadata(self) -> Any:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:51000"

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        pass


HTTP_STATUS = {
    None: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
}


def post(rig: Any, path: str, content: Any, headers: dict[str, str] | None = None) -> Said:
    body = content if isinstance(content, bytes) else orjson.dumps(content)

    async def scenario() -> httpx.Response:
        await rig.apply()
        async with rig.client() as client:
            return await client.post(path, content=body, headers=headers or {})

    response = asyncio.run(scenario())
    return Said(response.status_code, response.text)


def call(rig: Any, message: ModelInferRequest) -> Said:
    context = Context()

    async def scenario() -> None:
        await rig.apply()
        await GrpcService(rig.gateway, rig.parts).model_infer(message, context)

    asyncio.run(scenario())
    return Said(HTTP_STATUS[context.code], context.details)


def tensors(rows: int = 1, **changed: Any) -> dict[str, Any]:
    """A request of the Open Inference Protocol; ``changed`` are members of its first input."""
    distance = {"name": "distance", "datatype": "FP64", "shape": [rows], "data": [200.0] * rows, **changed}
    return {"inputs": [distance, {"name": "carrier", "datatype": "BYTES", "shape": [rows], "data": ["UA"] * rows}]}


def message(rows: int = 1, carrier: bytes = b"UA", model: str = "flights", **changed: Any) -> ModelInferRequest:
    """The same over gRPC, in binary form."""
    content = changed.pop("content", np.full(rows, 200.0).tobytes())
    made = ModelInferRequest(model_name=model)
    made.inputs.add(**{"name": "distance", "datatype": "FP64", "shape": [rows], **changed})
    made.inputs.add(name="carrier", datatype="BYTES", shape=[rows])
    made.raw_input_contents.extend([content, join_strings([carrier] * rows)])
    return made


def with_key(made: ModelInferRequest, key: str) -> ModelInferRequest:
    made.parameters["routing_key"].CopyFrom(InferParameter(string_param=key))
    return made


def with_ids(made: ModelInferRequest, *ids: bytes) -> ModelInferRequest:
    made.inputs.add(name="prediction_id", datatype="BYTES", shape=[len(ids)])
    made.raw_input_contents.append(join_strings(list(ids)))
    return made


GZIP = {"content-encoding": "gzip"}
BOMB = gzip.compress(bytes(64 * 1024 * 1024))
DEEP = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
INJECTED = "user-1\r\nset-cookie: admin=1"
TWICE = {"name": "prediction_id", "datatype": "BYTES", "shape": [2], "data": ["a", "a"]}
PATHS = {"predict": "/predict", "oip": INFER, "invocations": "/invocations"}
BODIES = {"predict": {"instances": [ROW]}, "oip": tensors(), "invocations": {"instances": [ROW]}}
REPLACED = {  # what the columns of a row are replaced by; the same in each protocol's form
    "unknown column": ({"distnace": 1.0, "carrier": "UA"}, "did you mean 'distance'"),
    "wrong type": ({"distance": "far", "carrier": "UA"}, "a number"),
    "nested value": ({"distance": [[1.0]], "carrier": "UA"}, "number|nested lists|elements"),
    "missing column": ({"distance": 1.0}, "'carrier' is missing"),
}


def in_form(protocol: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows as a protocol's request in JSON."""
    if protocol != "oip":
        return {"instances": rows}
    kinds = {"carrier": "BYTES"}
    return {
        "inputs": [
            {"name": name, "datatype": kinds.get(name, "FP64"), "shape": [len(rows)], "data": [r[name] for r in rows]}
            for name in rows[0]
        ]
    }


def nothing_is_logged(rig: Any) -> bool:
    asyncio.run(rig.log.flush())
    return rig.log.accounting["accepted"] == 0 and not list(rig.files.names("predictions"))


def check(rig: Any, said: Said, status: int, text: str) -> None:
    assert said.status == status, said
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(said.text)
    assert sum(rig.telemetry.refused.values()) == 1
    assert rig.telemetry.num_in_flight == rig.gateway._admission.num_running == rig.gateway._bodies.held_bytes == 0
    assert nothing_is_logged(rig)


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize(
    ("body", "headers", "status", "text"),
    [
        pytest.param(b'{"instances": [', {}, 400, "not JSON", id="truncated"),
        pytest.param(b"", {}, 400, "the body is empty", id="empty"),
        pytest.param(DEEP, {}, 400, "nested deeper than 16 levels", id="deep"),
        pytest.param(BOMB, GZIP, 413, "larger than 16777216 bytes", id="gzip bomb"),
        pytest.param(BOMB[:-100], GZIP, 413, "larger than", id="damaged bomb"),
        pytest.param(gzip.compress(b"{}")[:-2], GZIP, 400, "ends in the middle", id="damaged gzip"),
        pytest.param(b"{}", {"content-encoding": "gzip, deflate"}, 400, "is not supported", id="two encodings"),
        pytest.param(b"\xff\xfe{\x00}\x00", {}, 400, "not JSON", id="UTF-16"),
        pytest.param('{"inputs": "ö"}'.encode("latin-1"), {}, 400, "not JSON", id="Latin-1"),
        pytest.param(b'{"inputs": "\xc3\x28"}', {}, 400, "not JSON", id="invalid UTF-8"),
        pytest.param(b'{"inputs": "\\ud800"}', {}, 400, "not JSON", id="half a surrogate pair"),
        pytest.param(b'{"inputs": [Infinity]}', {}, 400, "not JSON", id="infinity"),
        pytest.param(b'{"inputs": [1e999]}', {}, 400, "not JSON", id="beyond a double"),
        pytest.param(b" " * (17 * 1024 * 1024), {}, 413, "larger than 16777216 bytes", id="long"),
    ],
)
def test_wrong_bodies(rig: Any, protocol: str, body: bytes, headers: dict[str, str], status: int, text: str) -> None:
    check(rig, post(rig, PATHS[protocol], body, headers), status, text)


@pytest.mark.parametrize("protocol", ["predict", "oip"])
def test_nan_is_not_json(rig: Any, protocol: str) -> None:
    """MLflow's own client writes it, and there it stands for a missing value."""
    body = orjson.dumps(BODIES[protocol]).replace(b"200.0", b"NaN")
    check(rig, post(rig, PATHS[protocol], body), 400, "not JSON")


@pytest.mark.parametrize("protocol", PATHS)
@pytest.mark.parametrize("case", REPLACED)
def test_wrong_rows(rig: Any, protocol: str, case: str) -> None:
    row, text = REPLACED[case]
    check(rig, post(rig, PATHS[protocol], in_form(protocol, [row])), 400, text)


@pytest.mark.parametrize("protocol", PATHS)
def test_a_million_rows(rig: Any, protocol: str) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_body_mb": 64.0}))
    body = tensors(MILLION) if protocol == "oip" else {"instances": [{"distance": 1, "carrier": None}] * MILLION}
    check(rig, post(rig, PATHS[protocol], body), 413, "1000000 rows are more than 10000")


@pytest.mark.parametrize(
    ("protocol", "content"),
    [
        ("predict", {"instances": [ROW, ROW], "ids": ["a", "a"]}),
        ("oip", {"inputs": [*tensors(2)["inputs"], TWICE]}),
        ("invocations", {"instances": [ROW, ROW], "params": {"ids": ["a", "a"]}}),
    ],
)
def test_duplicate_ids(rig: Any, protocol: str, content: Any) -> None:
    check(rig, post(rig, PATHS[protocol], content), 400, "'a' occurs twice")


@pytest.mark.parametrize(
    ("protocol", "content"),
    [
        ("predict", {"instances": [ROW], "routing_key": INJECTED}),
        ("oip", {**tensors(), "parameters": {"routing_key": INJECTED}}),
        ("invocations", {"instances": [ROW], "params": {"routing_key": INJECTED}}),
    ],
)
def test_header_in_a_routing_key(rig: Any, protocol: str, content: Any) -> None:
    check(rig, post(rig, PATHS[protocol], content), 400, "has a control character")


@pytest.mark.parametrize("key", ["user-1", "größe ✓", "👩‍👩‍👧", "../../etc/passwd"])
def test_other_routing_keys_are_taken(rig: Any, key: str) -> None:
    assert post(rig, "/predict", {"instances": [ROW], "routing_key": key}).status == 200


@pytest.mark.parametrize("name", ["..%2F..%2Fetc%2Fpasswd", "%2e%2e", "flights%00", "flights%0d%0ax: y", "%2566"])
@pytest.mark.parametrize("path", ["/models/{}/predict", "/v2/models/{}/infer", "/models/{}/invocations"])
def test_traversal_in_a_models_name(rig: Any, path: str, name: str) -> None:
    check(rig, post(rig, path.format(name), BODIES["predict"]), 404, "no model|no such path")


@pytest.mark.parametrize(
    ("made", "status", "text"),
    [
        pytest.param(lambda: message(content=b"1234567"), 400, "7 bytes are not 1 elements of FP64", id="truncated"),
        pytest.param(lambda: message(content=bytes(16)), 400, "16 bytes are not 1 elements", id="longer"),
        pytest.param(lambda: message(shape=[2]), 400, "bytes are not 2 elements", id="wrong shape"),
        pytest.param(lambda: message(shape=[2**62, 2**62]), 400, "bytes are not", id="shape beyond memory"),
        pytest.param(lambda: message(datatype="FP128"), 400, "unknown datatype 'FP128'", id="unknown dtype"),
        pytest.param(
            lambda: message(datatype="BYTES", content=join_strings([b"1"])), 400, "BYTES cannot be", id="dtype"
        ),
        pytest.param(lambda: message(name="distnace"), 400, "did you mean 'distance'", id="unknown column"),
        pytest.param(lambda: message(carrier=b"\xc3\x28"), 400, "element 0 is not UTF-8", id="invalid UTF-8"),
        pytest.param(lambda: message(content=np.array([math.inf]).tobytes()), 400, "element 0 is infinite", id="inf"),
        pytest.param(lambda: message(rows=MILLION), 413, "1000000 rows are more than 10000", id="a million rows"),
        pytest.param(lambda: message(carrier=bytes(17 * 1024 * 1024)), 413, "larger than 16777216 bytes", id="long"),
        pytest.param(lambda: with_ids(message(rows=2), b"a", b"a"), 400, "'a' occurs twice", id="duplicate ids"),
        pytest.param(lambda: with_key(message(), INJECTED), 400, "has a control character", id="header injection"),
        pytest.param(lambda: message(model="../flights"), 404, "no model '../flights'", id="path traversal"),
    ],
)
def test_wrong_messages_of_grpc(rig: Any, made: Any, status: int, text: str) -> None:
    check(rig, call(rig, made()), status, text)
