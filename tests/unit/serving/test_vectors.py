"""A column of vectors in a request of every protocol, in the answer about the model, and in the prediction log."""

import asyncio
from dataclasses import replace
from typing import Any

import duckdb
import httpx
import jsonschema
import numpy as np
import orjson
import pyarrow as pa
import pytest

from ray_mlops.data.reference import ColumnReference
from ray_mlops.serving.dialects.grpc_service import GrpcService
from ray_mlops.serving.dialects.open_inference_pb2 import ModelInferRequest, ModelMetadataRequest
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.prediction_log.table import LogFormat, LogRecord, build_table
from ray_mlops.serving.slicing import _freeze
from ray_mlops.statistics.bins import NumericBins
from tests.unit.serving.test_bad_input import Context

VECTOR = [0.5, -1.0, 2.0]
ROW = {"distance": 200.0, "v": VECTOR}
MISSING = {"distance": 100.0, "v": None}
FITTED = {"distance": [100.0, 200.0, 300.0], "v": [[1.0, 2.0, 3.0], [3.0, 2.0, 1.5], None]}
DISTANCE = {"name": "distance", "datatype": "FP64", "shape": [2], "data": [200.0, 100.0]}
TENSOR = {"name": "v", "datatype": "FP64", "shape": [2, 3], "data": [VECTOR, [None, None, None]]}


@pytest.fixture
def rig(rig: Any, kit: Any) -> Any:
    rig.bundles["one"] = kit.build_bundle(rows=FITTED)
    return rig


def ask(rig: Any, *calls: tuple[Any, ...]) -> list[httpx.Response]:
    async def scenario() -> list[httpx.Response]:
        await rig.apply()
        async with rig.client() as client:
            return [await client.request(method, path, **(extra[0] if extra else {})) for method, path, *extra in calls]

    return asyncio.run(scenario())


def infer(rig: Any, tensor: Any) -> httpx.Response:
    body = {"json": {"inputs": [DISTANCE, tensor]}}
    return ask(rig, ("POST", "/v2/models/flights/infer", body))[0]


def expected(rig: Any) -> list[float]:
    values: list[float] = rig.bundles["one"].predict([ROW, MISSING]).values.tolist()
    assert values[0] != values[1]
    return values


def test_predict_takes_lists_and_null(rig: Any) -> None:
    (response,) = ask(rig, ("POST", "/predict", {"json": {"instances": [ROW, MISSING]}}))
    assert [found["probability"] for found in response.json()["predictions"]] == pytest.approx(expected(rig))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1.0, 2.0], "expected a list of 3 finite numbers, got 2 of them"),
        ([1.0, "2", 3.0], "got '2' at position 1"),
        ([1.0, None, 3.0], "got None at position 1"),
        ([1.0, True, 3.0], "got True at position 1"),
        ([[1.0], 2.0, 3.0], "at position 0"),
        (1.0, "got 1.0"),
        ("1,2,3", "got '1,2,3'"),
        ({"0": 1.0}, "got {'0': 1.0}"),
    ],
)
def test_predict_wrong_vector_names_row_and_column(rig: Any, value: Any, said: str) -> None:
    (response,) = ask(rig, ("POST", "/predict", {"json": {"instances": [ROW, {"distance": 1.0, "v": value}]}}))
    assert response.status_code == 400
    error = response.json()["error"]
    assert said in error["message"]
    assert "'v', row 1" in error["where"]


@pytest.mark.parametrize(
    "content",
    [
        {"dataframe_records": [ROW, MISSING]},
        {"instances": [ROW, MISSING]},
        {"dataframe_split": {"columns": ["distance", "v"], "data": [[200.0, VECTOR], [100.0, None]]}},
        {"inputs": {"distance": [[200.0], [100.0]], "v": [VECTOR, None]}},
    ],
)
def test_every_form_of_invocations_takes_vectors(rig: Any, content: Any) -> None:
    (response,) = ask(rig, ("POST", "/invocations", {"json": content}))
    assert response.status_code == 200, response.text
    assert [found["probability"] for found in response.json()["predictions"]] == pytest.approx(expected(rig))


def test_vectors_of_one_number_are_no_nested_column(rig: Any, kit: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(rows={"distance": [1.0, 2.0], "v": [[1.0], [2.0]]})
    (response,) = ask(rig, ("POST", "/invocations", {"json": {"inputs": {"distance": [1.0], "v": [[1.5]]}}}))
    assert response.status_code == 200, response.text


def test_csv_says_that_it_holds_no_vectors(rig: Any) -> None:
    csv = {"content": b'distance,v\n1.0,"[1, 2, 3]"\n', "headers": {"content-type": "text/csv"}}
    (response,) = ask(rig, ("POST", "/invocations", csv))
    assert response.status_code == 400
    assert "CSV holds no vectors" in response.text
    assert "line 2, 'v'" in response.text


def test_metadata_says_the_shape(rig: Any) -> None:
    (response,) = ask(rig, ("GET", "/v2/models/flights"))
    shapes = {found["name"]: (found["datatype"], found["shape"]) for found in response.json()["inputs"]}
    assert shapes == {"distance": ("FP64", [-1]), "v": ("FP64", [-1, 3])}
    assert response.json()["inputs"][1]["parameters"]["column_type"] == "vector"


@pytest.mark.parametrize(
    "tensor",
    [
        TENSOR,
        {**TENSOR, "data": [*VECTOR, None, None, None]},
        {**TENSOR, "datatype": "FP32"},
    ],
)
def test_tensor_of_vectors_is_taken(rig: Any, tensor: Any) -> None:
    response = infer(rig, tensor)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == pytest.approx(expected(rig))


def test_binary_tensor_of_vectors_is_taken_and_nan_is_missing(rig: Any) -> None:
    content = np.array([VECTOR, [np.nan] * 3], "<f4").tobytes()
    described = {"name": "v", "datatype": "FP32", "shape": [2, 3], "parameters": {"binary_data_size": len(content)}}
    header = orjson.dumps({"inputs": [DISTANCE, described]})
    headers = {"inference-header-content-length": str(len(header))}
    call = ("POST", "/v2/models/flights/infer", {"content": header + content, "headers": headers})
    (response,) = ask(rig, call)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == pytest.approx(expected(rig))


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({**TENSOR, "shape": [2, 2], "data": [[1.0, 2.0]] * 2}, "expected the shape [2, 3], got [2, 2]"),
        ({**TENSOR, "shape": [2], "data": [1.0, 2.0]}, "expected the shape [2, 3], got [2]"),
        ({**TENSOR, "datatype": "BYTES", "data": [["a"] * 3] * 2}, "BYTES cannot be a column of vectors"),
        ({**TENSOR, "data": [VECTOR, [1.0, None, 1.0]]}, "column 'v', row 1"),
        ({**TENSOR, "data": [VECTOR, [1.0, 2.0]]}, "do not have the shape [2, 3]"),
    ],
)
def test_wrong_tensor_of_vectors_is_said(rig: Any, tensor: Any, said: str) -> None:
    response = infer(rig, tensor)
    assert response.status_code == 400
    assert said in response.json()["error"]
    assert "v" in response.json()["error"]


@pytest.mark.parametrize("is_raw", [False, True])
def test_grpc_takes_tensors_of_vectors_and_says_their_shape(rig: Any, is_raw: bool) -> None:
    message = ModelInferRequest(model_name="flights")
    for name, shape, values in (("distance", [2], [200.0, 100.0]), ("v", [2, 3], [*VECTOR, *[np.nan] * 3])):
        item = message.inputs.add(name=name, datatype="FP64", shape=shape)
        if is_raw:
            message.raw_input_contents.append(np.array(values, "<f8").tobytes())
        else:
            item.contents.fp64_contents.extend(values)

    async def scenario() -> Any:
        await rig.apply()
        service = GrpcService(rig.gateway, rig.parts)
        infer = await service.model_infer(message, Context())
        return infer, await service.model_metadata(ModelMetadataRequest(name="flights"), Context())

    answer, metadata = asyncio.run(scenario())
    raw = answer.raw_output_contents
    values = np.frombuffer(raw[0], "<f8").tolist() if raw else list(answer.outputs[0].contents.fp64_contents)
    assert values == pytest.approx(expected(rig))
    assert {item.name: list(item.shape) for item in metadata.inputs} == {"distance": [-1], "v": [-1, 3]}


@pytest.mark.parametrize(
    "instance", [ROW, MISSING, {**ROW, "v": [1.0, 2.0]}, {**ROW, "v": [1, 2, None]}, {**ROW, "v": 1}]
)
def test_document_and_gateway_agree_on_vectors(rig: Any, instance: Any) -> None:
    body = {"instances": [instance]}
    document, response = ask(rig, ("GET", "/openapi.json"), ("POST", "/predict", {"json": body}))
    content = document.json()["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**content, "components": document.json()["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == (response.status_code == 200)


@pytest.mark.parametrize("tensor", [TENSOR, {**TENSOR, "datatype": "INT64", "data": [1] * 6}, {**TENSOR, "shape": [2]}])
def test_document_and_gateway_agree_on_tensors_of_vectors(rig: Any, tensor: Any) -> None:
    path, body = "/v2/models/flights/infer", {"inputs": [DISTANCE, tensor]}
    document, response = ask(rig, ("GET", "/openapi.json"), ("POST", path, {"json": body}))
    content = document.json()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**content, "components": document.json()["components"]}
    assert jsonschema.Draft202012Validator(schema).is_valid(body) == (response.status_code == 200)


# -- the log ------------------------------------------------------------------------------------------


def test_log_holds_vectors_and_every_reader_sees_them(rig: Any, tmp_path: Any) -> None:
    async def scenario() -> None:
        await rig.apply()
        async with rig.client() as client:
            await client.post("/predict", json={"instances": [ROW, MISSING]})
        await rig.log.flush()

    asyncio.run(scenario())
    rows = read_predictions(rig.files, "flights")
    assert rows["features.v"].to_pylist() == [VECTOR, None]
    assert rows.to_pandas()["features.v"][0].tolist() == VECTOR
    files = f"{rig.files.root}/predictions/**/*.parquet"
    found = duckdb.sql(f"select \"features.v\"[3] as third from read_parquet('{files}') order by third").fetchall()
    assert found == [(2.0,), (None,)]


@pytest.mark.parametrize(("how", "is_there"), [("drop", False), ("hash", True)])
def test_redacted_vectors_are_not_in_the_log(kit: Any, tmp_path: Any, how: str, is_there: bool) -> None:
    rig = kit.Rig(tmp_path, kit.log_config(redact={"v": how}))
    rig.bundles["one"] = kit.build_bundle(rows=FITTED)
    rig.settings = replace(rig.settings, redact={"v": how})

    async def scenario() -> pa.Table:
        await rig.apply()
        async with rig.client() as client:
            assert (await client.post("/predict", json={"instances": [ROW, ROW, MISSING]})).status_code == 200
        return await rig.logged()

    rows = asyncio.run(scenario())
    assert ("features.v" in rows.column_names) == is_there
    if is_there:
        first, again, missing = rows["features.v"].to_pylist()
        assert (first, len(first), missing) == (again, 32, None)


def test_vector_that_another_version_did_not_look_at_is_null_in_the_log() -> None:
    style = LogFormat("flights", "bundle-1", pa.schema([("v", pa.list_(pa.float64(), 3))]), "binary")
    rows = [{"v": VECTOR}, {"v": [1.0]}, {"v": "x"}]
    fixed = ("r", ["a", "b", "c"], rows, {}, None, 0, "champion", "1", 3, None, False, "ok", 1.0, 5, 7)
    table = build_table([LogRecord(style, *fixed, values=np.zeros(3))])
    assert table["features.v"].to_pylist() == [VECTOR, None, None]


def test_no_slices_by_vectors(kit: Any) -> None:
    column = ColumnReference(NumericBins([0.0, 1.0, 2.0]), {}, "vector")
    assert "it holds vectors" in _freeze("v", column, 3).problem
