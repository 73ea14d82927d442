"""The Open Inference Protocol over HTTP, through the same gateway as ``POST /predict``."""

import asyncio
import gzip
import math
import zlib
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from ray_mlops.serving.dialects.oip_tensors import join_strings
from ray_mlops.serving.protocol import Arm

ROW = {"distance": 200.0, "carrier": "UA"}
OPERATOR = {"authorization": "Bearer o-token"}
DISTANCE = {"name": "distance", "datatype": "FP64", "shape": [2], "data": [200.0, 100.0]}
CARRIER = {"name": "carrier", "datatype": "BYTES", "shape": [2], "data": ["UA", "DL"]}
INFER = "/v2/models/flights/infer"
ROWS = [ROW, {"distance": 100.0, "carrier": "DL"}]
MIXED = {
    "distance": [100.0, 200.0, 300.0, None],
    "carrier": ["UA", "DL", "UA", None],
    "holiday": [True, False, None, True],
    "at": [np.datetime64("2024-01-01T00:00:00", "us")] * 4,
}


def ask(rig: Any, *calls: tuple[Any, ...], routes: Any = ()) -> list[httpx.Response]:
    """Make calls of (method, path, keywords) on a gateway with routes."""

    async def scenario() -> list[httpx.Response]:
        await rig.apply(*routes)
        async with rig.client() as client:
            return [await client.request(method, path, **(extra[0] if extra else {})) for method, path, *extra in calls]

    return asyncio.run(scenario())


def infer(rig: Any, inputs: Any = (DISTANCE, CARRIER), routes: Any = (), headers: Any = None, **content: Any) -> Any:
    body = {"json": {"inputs": list(inputs), **content}, "headers": headers or {}}
    return ask(rig, ("POST", INFER, body), routes=routes)[0]


def binary(document: Any, *tensors: bytes, length: int | None = None, **headers: str) -> dict[str, Any]:
    header = orjson.dumps(document)
    size = str(len(header) if length is None else length)
    return {"content": header + b"".join(tensors), "headers": {"inference-header-content-length": size, **headers}}


def outputs(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return {item["name"]: item for item in response.json()["outputs"]}


def logged(rig: Any) -> list[dict[str, Any]]:
    return asyncio.run(rig.logged()).to_pylist()


# -- server and models --------------------------------------------------------------------------------


def test_server_says_what_it_is(rig: Any) -> None:
    server, live, ready = ask(rig, ("GET", "/v2"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready"))
    assert server.json()["name"] == "ray-mlops"
    assert server.json()["extensions"] == ["binary_tensor_data"]
    assert (live.status_code, live.json()["live"]) == (200, True)
    assert (ready.status_code, ready.json()["ready"]) == (200, True)


def test_server_without_routes_is_alive_and_not_ready(rig: Any) -> None:
    async def scenario() -> Any:
        async with rig.client() as client:
            return [await client.get(path) for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/flights")]

    live, ready, model = asyncio.run(scenario())
    assert (live.status_code, ready.status_code, model.status_code) == (200, 503, 404)
    assert "no model 'flights'" in model.json()["error"]


def test_columns_are_named_inputs(rig: Any, kit: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(rows=MIXED, optional=["holiday"])
    rig.settings = replace(rig.settings, event_time="seen_at")
    (response,) = ask(rig, ("GET", "/v2/models/flights"))
    content = response.json()
    described = {item["name"]: (item["datatype"], item["parameters"]["required"]) for item in content["inputs"]}
    assert described == {
        "distance": ("FP64", True),
        "carrier": ("BYTES", True),
        "holiday": ("BOOL", False),
        "at": ("BYTES", True),
        "seen_at": ("BYTES", False),
    }
    assert all(item["shape"] == [-1] for item in content["inputs"])
    assert (content["name"], content["versions"], content["platform"]) == ("flights", ["1"], "ray-mlops")
    assert [item["name"] for item in content["outputs"]] == ["prediction", "label", "prediction_id"]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("binary", [("prediction", "FP64", [-1]), ("label", "INT64", [-1])]),
        ("multiclass", [("prediction", "FP64", [-1, 3]), ("label", "BYTES", [-1])]),
        ("regression", [("prediction", "FP64", [-1])]),
    ],
)
def test_outputs_of_every_task(rig: Any, kit: Any, task: Any, expected: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(task)
    (metadata,) = ask(rig, ("GET", "/v2/models/flights"))
    described = [(item["name"], item["datatype"], item["shape"]) for item in metadata.json()["outputs"]]
    assert described == [*expected, ("prediction_id", "BYTES", [-1])]
    found = outputs(infer(rig, id="r"))
    wanted = rig.bundles["one"].predict(ROWS)
    assert found["prediction"]["data"] == wanted.values.ravel().tolist()
    assert found["prediction"]["shape"] == list(wanted.values.shape)
    assert found["prediction_id"]["data"] == ["r-0", "r-1"]
    if task != "regression":
        assert found["label"]["data"] == wanted.labels()


def test_versions_have_pages_of_their_own(rig: Any, kit: Any) -> None:
    rig.bundles["two"] = kit.build_bundle(shift=1.0, extra="wind")
    paths = [f"/v2/models/flights/versions/{name}" for name in ("1", "2", "9")]
    pages = ask(rig, *(("GET", path) for path in paths), routes=[kit.split(0.5, "in_replica")])
    assert [page.status_code for page in pages] == [200, 200, 404]
    names = [[item["name"] for item in page.json()["inputs"]] for page in pages[:2]]
    assert names == [["distance", "carrier"], ["distance", "carrier", "wind"]]
    assert pages[2].json() == {"error": "path: version '9' of 'flights' is not loaded; loaded: 1, 2"}
    ready = ask(rig, *(("GET", f"{path}/ready") for path in paths), ("GET", "/v2/models/flights/ready"))
    assert [page.status_code for page in ready] == [200, 404, 404, 200], "version 2 has gone with its routes"
    assert ready[3].json() == {"name": "flights", "ready": True}


# -- predictions --------------------------------------------------------------------------------------


def test_infer_is_booked_and_logged_like_predict(rig: Any) -> None:
    response = infer(rig, id="call-1", parameters={"routing_key": "user-1"})
    content = response.json()
    assert (content["model_name"], content["model_version"], content["id"]) == ("flights", "1", "call-1")
    assert content["parameters"] == {"arm": "champion", "route_version": 3}
    assert outputs(response)["prediction"]["data"] == rig.bundles["one"].predict(ROWS).values.tolist()
    assert response.headers["x-model-version"] == "1"
    assert rig.telemetry.requests == {("flights", "champion", "1", "ok"): 1}
    rows = logged(rig)
    assert [row["prediction_id"] for row in rows] == ["call-1-0", "call-1-1"]
    assert [row["features.carrier"] for row in rows] == ["UA", "DL"]
    assert all(row["routing_key_hash"] > 0 for row in rows)


def test_infer_follows_the_routes_of_a_candidate(rig: Any, kit: Any) -> None:
    response = infer(rig, routes=[kit.split(0.9999999, "in_replica")])
    content = response.json()
    assert (content["model_version"], content["parameters"]["arm"]) == ("2", "candidate")
    assert outputs(response)["prediction"]["data"] == rig.bundles["two"].predict(ROWS).values.tolist()
    rig.bundles["two"].model.fault = lambda: math.nan
    assert infer(rig, routes=[kit.split(0.9999999, "in_replica")]).json()["model_version"] == "1"
    assert rig.telemetry.requests["flights", "candidate", "2", "invalid"] == 1


def test_rows_may_have_ids_of_their_own(rig: Any) -> None:
    ids = {"name": "prediction_id", "datatype": "BYTES", "shape": [2, 1], "data": ["a", "b"]}
    response = infer(rig, [DISTANCE, CARRIER, ids])
    assert outputs(response)["prediction_id"]["data"] == ["a", "b"]
    assert response.json()["id"] == "a"


def test_binary_tensors_in_and_out(rig: Any) -> None:
    distance, carrier = np.array([200.0, 100.0], "<f4").tobytes(), join_strings([b"UA", b"DL"])
    document = {
        "inputs": [
            {"name": "distance", "datatype": "FP32", "shape": [2, 1], "parameters": {"binary_data_size": 8}},
            {"name": "carrier", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(carrier)}},
        ],
        "parameters": {"binary_data_output": True},
    }
    (response,) = ask(rig, ("POST", INFER, binary(document, distance, carrier)))
    size = int(response.headers["inference-header-content-length"])
    assert response.headers["content-type"] == "application/octet-stream"
    content, tail = orjson.loads(response.content[:size]), response.content[size:]
    found = {}
    for item in content["outputs"]:
        length = item["parameters"]["binary_data_size"]
        found[item["name"]], tail = tail[:length], tail[length:]
    assert tail == b""
    expected = rig.bundles["one"].predict(ROWS)
    assert np.frombuffer(found["prediction"], "<f8").tolist() == expected.values.tolist()
    assert np.frombuffer(found["label"], "<i8").tolist() == expected.labels()
    assert found["prediction_id"].endswith(b"-1")


def test_each_tensor_may_have_its_own_form(rig: Any) -> None:
    carrier = join_strings([b"UA", b"DL"])
    document = {
        "inputs": [
            DISTANCE,
            {"name": "carrier", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(carrier)}},
        ],
        "outputs": [{"name": "label"}, {"name": "prediction", "parameters": {"binary_data": True}}],
    }
    (response,) = ask(rig, ("POST", INFER, binary(document, carrier)))
    size = int(response.headers["inference-header-content-length"])
    described = orjson.loads(response.content[:size])["outputs"]
    assert [item["name"] for item in described] == ["label", "prediction"]
    assert "data" in described[0]
    assert described[1]["parameters"] == {"binary_data_size": 16} == {"binary_data_size": len(response.content) - size}


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed(rig: Any, encoding: str, pack: Any) -> None:
    inputs = [{**DISTANCE, "shape": [100], "data": [1.5] * 100}, {**CARRIER, "shape": [100], "data": ["UA"] * 100}]
    content = {"content": pack(orjson.dumps({"inputs": inputs})), "headers": {"content-encoding": encoding}}
    content["headers"]["accept-encoding"] = encoding
    (response,) = ask(rig, ("POST", INFER, content))
    assert response.headers["content-encoding"] == encoding
    assert outputs(response)["prediction"]["shape"] == [100]


@pytest.mark.parametrize(
    ("name", "datatype", "data", "meant"),
    [
        ("distance", "FP64", [None], None),
        ("distance", "INT32", [7], 7),
        ("distance", "UINT8", [7], 7),
        ("carrier", "BYTES", [""], None),
        ("carrier", "INT64", [7], "7"),
        ("carrier", "BOOL", [True], True),
        ("holiday", "BOOL", [True], True),
        ("holiday", "FP32", [None], None),
        ("holiday", "INT8", [1], 1),
        ("at", "BYTES", ["2024-03-01T12:00:00Z"], "2024-03-01T12:00:00Z"),
        ("at", "BYTES", [""], None),
        ("at", "INT64", [1_709_294_400_000_000], "2024-03-01T12:00:00Z"),
        ("at", "INT64", [-(2**63)], None),
        ("at", "INT64", [None], None),
    ],
)
def test_column_is_taken_from_several_datatypes(
    rig: Any, kit: Any, name: str, datatype: str, data: Any, meant: Any
) -> None:
    rig.bundles["one"] = kit.build_bundle(rows=MIXED)
    row = {"distance": 150.0, "carrier": "UA", "holiday": True, "at": "2024-01-01T00:00:00Z"}
    types = {"distance": "FP64", "carrier": "BYTES", "holiday": "BOOL", "at": "BYTES"}
    inputs = [{"name": key, "datatype": types[key], "shape": [1], "data": [row[key]]} for key in row if key != name]
    inputs.append({"name": name, "datatype": datatype, "shape": [1], "data": data})
    found = outputs(infer(rig, inputs))
    assert found["prediction"]["data"] == rig.bundles["one"].predict([{**row, name: meant}]).values.tolist()


def test_optional_input_may_be_left_out(rig: Any, kit: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(optional=["carrier"])
    found = outputs(infer(rig, [DISTANCE]))
    assert (
        found["prediction"]["data"]
        == rig.bundles["one"].predict([{"distance": 200.0}, {"distance": 100.0}]).values.tolist()
    )


def test_event_time_is_taken_as_text_and_as_a_number(rig: Any) -> None:
    rig.settings = replace(rig.settings, event_time="seen_at")
    for datatype, data in (("BYTES", ["1970-01-01T00:00:02Z", ""]), ("INT64", [2_000_000, 3_000_000])):
        seen = {"name": "seen_at", "datatype": datatype, "shape": [2], "data": data}
        assert infer(rig, [DISTANCE, CARRIER, seen]).status_code == 200
    times = sorted(row["event_time"].timestamp() for row in logged(rig))
    assert times == [2.0, 2.0, 3.0, rig.clock.now]


def test_one_tensor_may_stand_for_columns_of_numbers(rig: Any, kit: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(rows={"a": [1.0, 2.0, None], "b": [5.0, 7.0, 9.0]})
    matrix = {"name": "features", "datatype": "FP32", "shape": [2, 2], "data": [[1.5, 6.0], [None, 8.0]]}
    rows = [{"a": 1.5, "b": 6.0}, {"a": None, "b": 8.0}]
    assert outputs(infer(rig, [matrix]))["prediction"]["data"] == rig.bundles["one"].predict(rows).values.tolist()
    narrow = infer(rig, [{**matrix, "shape": [4, 1], "data": [1.0] * 4}])
    assert narrow.json()["error"] == "input 'features': expected the shape [4, 2], got [4, 1]; columns: a, b"
    both = infer(rig, [matrix, {**DISTANCE, "name": "a"}])
    assert both.json()["error"] == "input 'a': column 'a' is there twice"


def test_name_of_the_model_may_be_repeated_and_the_path_decides(rig: Any) -> None:
    assert infer(rig, model_name="flights", model_version="7").json()["model_version"] == "1"


# -- pinning ------------------------------------------------------------------------------------------


def test_version_in_the_path_pins_a_request(rig: Any, kit: Any) -> None:
    routes = [kit.split(0.5, "in_replica")]
    body = {"json": {"inputs": [DISTANCE, CARRIER]}}
    as_operator = {**body, "headers": OPERATOR}
    path = "/v2/models/flights/versions/{}/infer".format
    calls = [
        ("POST", path("1"), body),
        ("POST", path("2"), body),
        ("POST", path("2"), as_operator),
        ("POST", path("9"), as_operator),
        ("POST", path("1"), {**body, "headers": {"x-model-version": "2"}}),
        ("POST", INFER, {**body, "headers": {"x-model-version": "2"}}),
    ]
    champion, refused, candidate, unknown, path_wins, by_header = ask(rig, *calls, routes=routes)
    assert champion.json()["model_version"] == "1"
    assert (refused.status_code, set(refused.json())) == (401, {"error"})
    assert refused.headers["www-authenticate"].startswith("Basic")
    assert candidate.json()["model_version"] == "2"
    assert unknown.status_code == 404
    assert path_wins.json()["model_version"] == "1"
    assert by_header.status_code == 401
    assert rig.telemetry.changed() == [], "pinned traffic is not in the statistics"
    assert [row["pinned"] for row in logged(rig)] == [True] * 6


# -- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "inputs: expected a list of tensors, got None"),
        ({}, "inputs: expected a list of tensors"),
        ([], "inputs: there is no input"),
        ([5], r"inputs\[0\]: expected a JSON object, got 5"),
        ([{**DISTANCE, "dtype": "x"}], r"inputs\[0\]: unknown key 'dtype'; did you mean 'datatype'"),
        ([{**DISTANCE, "name": ""}], "expected the name of a column, got ''"),
        ([{**DISTANCE, "name": 5}], "expected the name of a column, got 5"),
        ([DISTANCE], "inputs: column 'carrier' is missing; send it as an input of its own"),
        ([DISTANCE, CARRIER, {**DISTANCE, "name": "distnace"}], "unknown column 'distnace'; did you mean 'distance'"),
        ([DISTANCE, CARRIER, CARRIER], "input 'carrier': column 'carrier' is there twice"),
        ([DISTANCE, {**CARRIER, "shape": [1], "data": ["UA"]}], "input 'carrier': 1 rows, but 'distance' has 2"),
        ([DISTANCE, {**CARRIER, "shape": [2, 2], "data": ["UA"] * 4}], r"expected the shape \[2\] or \[2, 1\]"),
        ([{**DISTANCE, "shape": [0], "data": []}, {**CARRIER, "shape": [0], "data": []}], "the list is empty"),
        (
            [{**DISTANCE, "datatype": "BOOL", "data": [True, True]}, CARRIER],
            "BOOL cannot be a numeric column; use FP64",
        ),
        ([{**DISTANCE, "datatype": "BYTES", "data": ["1", "2"]}, CARRIER], "BYTES cannot be a numeric column"),
        ([{**DISTANCE, "data": ["1", "2"]}, CARRIER], "element 0 of FP64 must be a number"),
        ([{**DISTANCE, "name": "input", "shape": [1, 2]}], "'carrier' is no number; send one input for each column"),
        ([{**DISTANCE, "parameters": 5}, CARRIER], "expected 'parameters' to be an object"),
        ([{**DISTANCE, "parameters": {"shared_memory_region": "a"}}, CARRIER], "shared memory is not supported"),
        ([{**DISTANCE, "parameters": {"binary_data_size": 16}}, CARRIER], "both 'data' and 'binary_data_size'"),
        ([{**DISTANCE, "parameters": {"binary_data_size": -1}}, CARRIER], "expected binary_data_size to be a number"),
        ([{**DISTANCE, "parameters": {"binary_data_size": True}}, CARRIER], "expected binary_data_size to be a number"),
        (
            [{**CARRIER, "name": "prediction_id", "data": ["a", "a"]}, DISTANCE, CARRIER],
            "ids: 'a' occurs twice",
        ),
        ([{**CARRIER, "name": "prediction_id", "data": ["a", "../b"]}, DISTANCE, CARRIER], "'../b' is no valid id"),
        ([{**CARRIER, "name": "prediction_id", "data": ["a", ""]}, DISTANCE, CARRIER], "None is no valid id"),
    ],
)
def test_wrong_inputs_are_said(rig: Any, inputs: Any, said: str) -> None:
    (response,) = ask(rig, ("POST", INFER, {"json": {"inputs": inputs}}))
    assert response.status_code == 400
    content = response.json()
    assert list(content) == ["error"]
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(content["error"])
    assert rig.telemetry.refused == {("flights", "400"): 1}
    assert rig.telemetry.changed() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"input": []}, "unknown key 'input'; did you mean 'inputs'"),
        ({"id": "a b"}, "id: 'a b' is no valid id"),
        ({"id": 5}, "id: 5 is no valid id"),
        ({"id": "x\r\nset-cookie: a"}, "is no valid id"),
        ({"parameters": []}, "expected 'parameters' to be an object"),
        ({"parameters": {"routing_key": 5}}, "routing_key: expected a string"),
        ({"parameters": {"routing_key": "x" * 257}}, "routing_key: expected a string of 1 to 256"),
        ({"parameters": {"binary_data_output": 1}}, "expected binary_data_output to be true or false"),
        ({"outputs": 5}, "outputs: expected a list"),
        ({"outputs": ["prediction"]}, r"outputs\[0\]: expected a JSON object"),
        ({"outputs": [{"name": "predicton"}]}, "unknown output 'predicton'; did you mean 'prediction'"),
        ({"outputs": [{}]}, "unknown output None"),
        ({"outputs": [{"name": ["prediction"], "parameters": {"binary_data": True}}]}, "unknown output"),
        ({"outputs": [{"name": "label"}] * 2}, r"outputs\[1\]: output 'label' is asked for twice"),
        ({"outputs": [{"name": "label", "parameters": {"classification": 3}}]}, "classification extension is not"),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": "yes"}}]}, "expected binary_data to be true"),
    ],
)
def test_wrong_request_is_said(rig: Any, content: Any, said: str) -> None:
    response = infer(rig, **content)
    assert response.status_code == 400
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(response.json()["error"])


MANY = {"name": "distance", "datatype": "FP64", "shape": [10_001], "parameters": {"binary_data_size": 80_008}}
BINARY_DISTANCE = {"name": "distance", "datatype": "FP64", "shape": [2], "parameters": {"binary_data_size": 16}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            binary({"inputs": [BINARY_DISTANCE, CARRIER]}, bytes(15)),
            "16 bytes by its binary_data_size, and 15",
        ),
        (binary({"inputs": [BINARY_DISTANCE, CARRIER]}, bytes(17)), "1 bytes follow the last binary tensor"),
        (binary({"inputs": [{**BINARY_DISTANCE, "shape": [3]}, CARRIER]}, bytes(16)), "16 bytes are not 3 elements"),
        (binary({"inputs": [BINARY_DISTANCE]}, length=10_000), "expected the length of the JSON, at most"),
        (binary({"inputs": [BINARY_DISTANCE]}, length=-1), "expected the length of the JSON"),
        (binary({"inputs": [BINARY_DISTANCE]}, length=10**30), "expected the length of the JSON"),
        (binary({"inputs": [BINARY_DISTANCE]}, length=0), "the body is empty"),
        (binary({"inputs": [BINARY_DISTANCE]}, length=5), "not JSON"),
        ({"json": {"inputs": [BINARY_DISTANCE, CARRIER]}}, "nothing says where the JSON ends"),
        ({"content": b""}, "the body is empty"),
        ({"content": b"{"}, "not JSON"),
        ({"content": b'{"id": "\xff"}'}, "not JSON"),
        ({"content": b'{"inputs": [{"data": [NaN]}]}'}, "not JSON"),
        ({"content": b"[" * 50 + b"]" * 50}, "nested deeper than 16 levels"),
        ({"content": b"{}", "headers": {"content-encoding": "br"}}, "content-encoding 'br' is not supported"),
        ({"content": b"{}", "headers": {"content-encoding": "gzip"}}, "not valid gzip"),
    ],
)
def test_wrong_body_is_said(rig: Any, body: Any, said: str) -> None:
    (response,) = ask(rig, ("POST", INFER, body))
    assert response.status_code == 400, response.text
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(response.json()["error"])


@pytest.mark.parametrize(
    "body",
    [
        {"content": gzip.compress(bytes(32 * 1024 * 1024)), "headers": {"content-encoding": "gzip"}},
        {"content": bytes(17 * 1024 * 1024)},
        {"json": {"inputs": [{"name": "distance", "datatype": "FP64", "shape": [10**6], "data": []}]}},
        binary(
            {"inputs": [{**BINARY_DISTANCE, "shape": [10_001], "parameters": {"binary_data_size": 80_008}}]},
            bytes(80_008),
        ),
    ],
)
def test_too_much_is_413(rig: Any, body: Any) -> None:
    if "json" in body:
        body["json"]["inputs"][0]["data"] = [0.0] * 10**6
    (response,) = ask(rig, ("POST", INFER, body))
    assert response.status_code == 413, response.text
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/models/ships", 404),
        ("GET", "/v2/models/ships/ready", 404),
        ("POST", "/v2/models/ships/infer", 404),
        ("GET", "/v2/models/..%2F..%2Fetc%2Fpasswd", 404),
        ("GET", "/v2/models/..%2F..%2Fetc/ready", 404),
        ("GET", "/v2/models/flights/versions/..%2F1", 404),
        ("GET", "/v2/models/flights/versions/", 404),
        ("GET", "/v2/models/fl%69ghts%00", 404),
        ("GET", "/v2/models/%2566lights", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/models/flights", 405),
    ],
)
def test_wrong_paths_are_said_in_the_protocols_form(rig: Any, method: str, path: str, status: int) -> None:
    (response,) = ask(rig, (method, path))
    assert response.status_code == status
    assert list(response.json()) == ["error"]


def test_failing_model_is_said_in_the_protocols_form(rig: Any) -> None:
    assert infer(rig).status_code == 200
    rig.bundles["one"].model.fault = lambda: math.nan
    response = infer(rig)
    assert response.status_code == 500
    assert "is not finite" in response.json()["error"]


def test_predict_auth_holds_for_every_protocol(rig: Any, kit: Any, tmp_path: Any) -> None:
    from ray_mlops.config import ServingConfig

    closed = kit.Rig(tmp_path / "closed", ServingConfig(predict_auth="token"))
    body = {"json": {"inputs": [DISTANCE, CARRIER]}}
    token = {"authorization": "Bearer p-token"}
    calls = [
        ("POST", INFER, body),
        ("GET", "/v2/models/flights"),
        ("POST", "/invocations", {"json": {"instances": [ROW]}}),
        ("POST", INFER, {**body, "headers": token}),
        ("GET", "/v2/models/flights", {"headers": token}),
        ("POST", "/invocations", {"json": {"instances": [ROW]}, "headers": token}),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/flights/ready"),
        ("GET", "/ping"),
    ]
    answers = ask(closed, *calls)
    assert [answer.status_code for answer in answers] == [401, 401, 401, 200, 200, 200, 200, 200, 200]
    assert answers[2].json()["error_code"] == "UNAUTHENTICATED"


def test_two_models_are_told_apart(rig: Any, kit: Any) -> None:
    rig.bundles["three"] = kit.build_bundle("regression")
    trains = replace(kit.ROUTES, model="trains", champion=Arm("7", "three", "hash-3"))
    body = {"json": {"inputs": [DISTANCE, CARRIER]}}
    found = ask(rig, ("POST", "/v2/models/trains/infer", body), ("POST", INFER, body), routes=[kit.ROUTES, trains])
    assert [(item.json()["model_name"], item.json()["model_version"]) for item in found] == [
        ("trains", "7"),
        ("flights", "1"),
    ]


def test_damaged_bodies_are_refused_and_break_nothing(rig: Any) -> None:
    random = np.random.default_rng(0)
    distance, carrier = np.array([200.0, math.nan], "<f8").tobytes(), join_strings([b"UA", b""])
    document = {
        "id": "fuzzed",
        "inputs": [
            {**DISTANCE, "parameters": {"binary_data_size": len(distance)}},
            {**CARRIER, "parameters": {"binary_data_size": len(carrier)}},
        ],
        "parameters": {"binary_data_output": True},
    }
    for item in document["inputs"]:
        del item["data"]
    whole = binary(document, distance, carrier)
    calls = []
    for _ in range(500):
        damaged = bytearray(whole["content"][: random.integers(1, len(whole["content"]) + 1)])
        for position in random.integers(0, len(damaged), random.integers(0, 4)):
            damaged[position] = random.integers(0, 256)
        calls.append(("POST", INFER, {**whole, "content": bytes(damaged)}))
    answers = ask(rig, ("POST", INFER, whole), *calls)
    assert answers[0].status_code == 200
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {200, 400, 413}
    assert statuses.count(400) > 300
    assert all(set(answer.json()) == {"error"} for answer in answers if answer.status_code != 200)
    assert rig.telemetry.num_in_flight == 0
    assert rig.log.accounting["accepted"] + rig.log.retries >= statuses.count(200)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\ud800\\udc00"', b'"\\u0000"', b'"\\r\\nx: y"'])
def test_odd_text_is_refused_or_logged_as_it_came(rig: Any, text: bytes) -> None:
    body = b'{"inputs": [%s, {"name": "carrier", "datatype": "BYTES", "shape": [2], "data": [%s, "UA"]}]}'
    (response,) = ask(rig, ("POST", INFER, {"content": body % (orjson.dumps(DISTANCE), text)}))
    assert response.status_code in (200, 400)
    if response.status_code == 200:
        assert [row["features.carrier"] for row in logged(rig)] == [orjson.loads(text), "UA"]
