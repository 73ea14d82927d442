"""MLflow's scoring protocol, through the same gateway as ``POST /predict``."""

import asyncio
import gzip
import math
from typing import Any

import httpx
import orjson
import pytest

from ray_mlops.training.pyfunc import to_frame

ROWS = [{"distance": 200.0, "carrier": "UA"}, {"distance": None, "carrier": None}]
SPLIT = {"columns": ["distance", "carrier"], "index": [0, 1], "data": [[200.0, "UA"], [None, None]]}
WITH_NAN = b'{"dataframe_split": {"columns": ["distance", "carrier"], "data": [[200.0, "UA"], [NaN, NaN]]}}'
CSV = b"distance,carrier\n200,UA\n,\n"
MIXED = {"distance": [100.0, None], "carrier": ["UA", "DL"], "holiday": [True, None], "at": ["2024-01-01", None]}


def ask(rig: Any, *calls: tuple[Any, ...], routes: Any = ()) -> list[httpx.Response]:
    async def scenario() -> list[httpx.Response]:
        await rig.apply(*routes)
        async with rig.client() as client:
            return [await client.request(method, path, **(extra[0] if extra else {})) for method, path, *extra in calls]

    return asyncio.run(scenario())


def invoke(rig: Any, content: Any, media: str = "application/json", path: str = "/invocations", **headers: str) -> Any:
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    (response,) = ask(rig, ("POST", path, {"content": body, "headers": {"content-type": media, **headers}}))
    return response


@pytest.mark.parametrize(
    ("content", "media"),
    [
        ({"dataframe_split": SPLIT}, "application/json"),
        ({"dataframe_split": {name: SPLIT[name] for name in ("columns", "data")}}, "application/json; charset=utf-8"),
        ({"dataframe_records": ROWS}, "application/json"),
        ({"instances": ROWS}, "application/json"),
        ({"inputs": ROWS}, "application/json"),
        ({"inputs": {"distance": [200.0, None], "carrier": ["UA", None]}}, "application/json"),
        ({"inputs": {"distance": [[200.0], [None]], "carrier": ["UA", None]}}, "application/json"),
        (
            b'{"dataframe_split": {"columns": ["distance", "carrier"], "data": [[200.0, "UA"], [NaN, NaN]]}}',
            "application/json",
        ),
        (CSV, "text/csv"),
        (b"\xef\xbb\xbf" + CSV.replace(b"\n", b"\r\n"), "text/csv; charset=UTF-8"),
        (b'"carrier","distance"\n"UA",2e2\n,NaN\n\n', "text/csv"),
    ],
)
def test_every_form_gives_the_same_answer(rig: Any, content: Any, media: str) -> None:
    response = invoke(rig, content, media)
    assert response.status_code == 200, response.text
    expected = to_frame(rig.bundles["one"].predict(ROWS)).to_dict(orient="records")
    assert response.json()["predictions"] == expected
    assert rig.telemetry.requests == {("flights", "champion", "1", "ok"): 1}
    logged = asyncio.run(rig.logged()).to_pylist()
    assert [row["features.carrier"] for row in logged] == ["UA", None]
    assert [row["prediction_id"] for row in logged] == response.json()["ids"]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_answers_are_what_the_pyfunc_gives(rig: Any, kit: Any, task: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(task)
    found = invoke(rig, {"instances": ROWS}).json()["predictions"]
    assert found == to_frame(rig.bundles["one"].predict(ROWS)).to_dict(orient="records")


def test_params_name_the_request_and_its_rows(rig: Any) -> None:
    params = {"ids": ["a", "b"], "routing_key": "user-1", "request_id": "call-1"}
    response = invoke(rig, {"instances": ROWS, "params": params})
    assert response.json()["ids"] == ["a", "b"]
    assert (response.headers["x-request-id"], response.headers["x-model-version"]) == ("call-1", "1")
    assert invoke(rig, {"instances": ROWS, "params": None}).status_code == 200


def test_csv_is_read_by_the_columns_types(rig: Any, kit: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(rows=MIXED, optional=["holiday"])
    content = b"distance,carrier,holiday,at\n150,7,True,2024-02-01\n-.5e1,NaN,0,\n"
    response = invoke(rig, content, "text/csv")
    assert response.status_code == 200, response.text
    logged = asyncio.run(rig.logged()).to_pylist()
    columns = ("distance", "carrier", "holiday", "at")
    assert [tuple(row[f"features.{name}"] for name in columns)[:3] for row in logged] == [
        (150.0, "7", True),
        (-5.0, "NaN", False),
    ], "text stays what it is"
    assert invoke(rig, b"distance,carrier,at\n1,UA,2024-02-01\n", "text/csv").status_code == 200


def test_paths_of_one_model_and_of_many(rig: Any, kit: Any) -> None:
    from dataclasses import replace

    body = {"json": {"instances": ROWS}}
    long, short = ask(rig, ("POST", "/models/flights/invocations", body), ("POST", "/invocations", body))
    assert long.status_code == short.status_code == 200
    many = [kit.ROUTES, replace(kit.ROUTES, model="trains")]
    short, long = ask(rig, ("POST", "/invocations", body), ("POST", "/models/trains/invocations", body), routes=many)
    assert (short.status_code, short.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert long.status_code == 200


def test_ping_and_version(rig: Any) -> None:
    from importlib.metadata import version

    ping, health, told = ask(rig, ("GET", "/ping"), ("GET", "/health"), ("GET", "/version"))
    assert (ping.status_code, ping.text, health.text) == (200, "\n", "\n")
    assert (told.status_code, told.text) == (200, version("mlflow"))


def test_ping_without_routes_is_503(rig: Any) -> None:
    async def scenario() -> Any:
        async with rig.client() as client:
            return await client.get("/ping")

    assert asyncio.run(scenario()).status_code == 503


def test_pinned_and_compressed(rig: Any, kit: Any) -> None:
    body = gzip.compress(orjson.dumps({"instances": ROWS * 50}))
    headers = {"content-encoding": "gzip", "accept-encoding": "gzip", "x-model-version": "2"}
    routes = [kit.split(0.5, "in_replica")]
    calls = [
        ("POST", "/invocations", {"content": body, "headers": headers}),
        ("POST", "/invocations", {"content": body, "headers": {**headers, "authorization": "Bearer o-token"}}),
    ]
    refused, answered = ask(rig, *calls, routes=routes)
    assert (refused.status_code, refused.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert (answered.headers["content-encoding"], answered.headers["x-model-version"]) == ("gzip", "2")
    assert len(answered.json()["predictions"]) == 100


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "expected exactly one of dataframe_split, dataframe_records, instances, inputs, got none"),
        ({"params": {}}, "expected exactly one of"),
        ({"instances": ROWS, "inputs": ROWS}, "got inputs, instances"),
        ({"rows": ROWS}, "unknown key 'rows'"),
        ([], "expected a JSON object"),
        ({"instances": ROWS, "params": {"temperature": 1}}, "params: unknown key 'temperature'"),
        ({"instances": ROWS, "params": {"ids": ["a", "a"]}}, "'a' occurs twice"),
        ({"instances": ROWS, "params": {"ids": ["a\r\nb", "c"]}}, "is no valid id"),
        ({"instances": ROWS, "params": []}, "params: expected a JSON object"),
        ({"instances": []}, "instances: the list is empty"),
        ({"instances": [[1.0, "UA"]]}, r"instances\[0\]: expected an object"),
        ({"instances": [{"distance": 1.0, "carier": "UA"}]}, r"instances\[0\]: unknown column 'carier'; did you"),
        ({"dataframe_records": [{"distance": 1.0}]}, r"dataframe_records\[0\]: column 'carrier' is missing"),
        ({"dataframe_split": []}, "dataframe_split: expected a JSON object"),
        ({"dataframe_split": {**SPLIT, "dtype": 1}}, "unknown key 'dtype'"),
        ({"dataframe_split": {**SPLIT, "columns": None}}, "dataframe_split.columns: expected a list of names"),
        ({"dataframe_split": {**SPLIT, "columns": [1, 2]}}, "expected a list of names"),
        ({"dataframe_split": {**SPLIT, "columns": ["a", "a"]}}, "column 'a' is there twice"),
        ({"dataframe_split": {**SPLIT, "data": 5}}, "dataframe_split.data: expected a list of rows"),
        ({"dataframe_split": {**SPLIT, "data": []}}, "dataframe_split.data: the list is empty"),
        ({"dataframe_split": {**SPLIT, "data": [[1]]}}, r"dataframe_split.data\[0\]: expected a list of 2 values"),
        ({"inputs": {}}, "inputs: the list is empty"),
        ({"inputs": {"distance": 5}}, "inputs.'distance': expected a list of values"),
        ({"inputs": {"distance": [1.0], "carrier": []}}, "columns differ in length"),
        ({"inputs": {"distance": [[1.0, 2.0]], "carrier": ["UA"]}}, "expected a number"),
        ({"instances": [{"distance": "far", "carrier": "UA"}]}, "expected a number, got 'far'"),
        (b"", "the body is empty"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"instances": [{"distance": Infinity, "carrier": "UA"}]}', "not JSON"),
        (b'{"instances": [{"distance": NaN, "carrier": -Infinity}]}', "not JSON"),
        (b'{"instances": [{"distance": NaN, "carrier": 1e999}]}', "not JSON"),
        (b'{"instances": [{"distance": NaN, "carrier": "UA"}', "not JSON"),
        (b'{"instances": [{"distance": NaN, "carrier": "\\ud800"}]}', "not JSON"),
        (b'{"instances": [{"distance": NaN, "carrier": 1' + b"0" * 5000 + b"}]}", "not JSON"),
        (b"[" * 40 + b"NaN" + b"]" * 40, "nested deeper"),
    ],
)
def test_wrong_json_is_said(rig: Any, content: Any, said: str) -> None:
    response = invoke(rig, content)
    assert response.status_code == 400, response.text
    error = response.json()
    assert set(error) == {"error_code", "message"}
    assert error["error_code"] == "BAD_REQUEST"
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(error["message"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: column 'carrier' is missing"),
        (b"distance,carrier\n", "body: the list is empty"),
        (b"distance,carrier,distance\n1,UA,2\n", "line 1: column 'distance' is there twice"),
        (b"distance,carier\n1,UA\n", "line 1: unknown column 'carier'; did you mean 'carrier'"),
        (b"distance,carrier\n1,UA\n1\n", "line 3: 1 fields, but the header has 2"),
        (b"distance,carrier\nfar,UA\n", "line 2, 'distance': expected a number, got 'far'"),
        (b"distance,carrier\ninf,UA\n", "expected a number, got 'inf'"),
        (b"distance,carrier\n1e999,UA\n", "expected a number, got '1e999'"),
        (b"distance,carrier\n1_000,UA\n", "expected a number, got '1_000'"),
        (b"distance,carrier\n1,\xff\n", "not UTF-8: invalid start byte at byte 19"),
        (b'distance,carrier\n1,"UA\n', "not CSV: unexpected end of data"),
        (b'distance,carrier\n1,"UA"x\n', "not CSV"),
        (b"distance,carrier\n1," + b"x" * 200_000, "not CSV: field larger than field limit"),
    ],
)
def test_wrong_csv_is_said(rig: Any, content: bytes, said: str) -> None:
    response = invoke(rig, content, "text/csv")
    assert response.status_code == 400, response.text
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(response.json()["message"])


@pytest.mark.parametrize(
    "media", ["application/xml", "text/plain", "", "text/csv; charset=latin-1", "application/json; header=present"]
)
def test_other_media_are_refused(rig: Any, media: str) -> None:
    response = invoke(rig, CSV, media)
    assert response.status_code == 400
    assert response.json()["message"].startswith("Content-Type: cannot read")


@pytest.mark.parametrize("form", ["csv", "split", "inputs"])
def test_too_many_rows_are_413(rig: Any, form: str) -> None:
    count = 10_001
    contents: dict[str, Any] = {
        "csv": b"distance,carrier\n" + b"1,UA\n" * count,
        "split": {"dataframe_split": {**SPLIT, "data": [[1.0, "UA"]] * count}},
        "inputs": {"inputs": {"distance": [1.0] * count, "carrier": ["UA"] * count}},
    }
    response = invoke(rig, contents[form], "text/csv" if form == "csv" else "application/json")
    assert response.status_code == 413
    assert "10001 rows are more than 10000" in response.json()["message"]


def test_failing_model_is_said_in_the_protocols_form(rig: Any) -> None:
    assert invoke(rig, {"instances": ROWS}).status_code == 200
    rig.bundles["one"].model.fault = lambda: math.nan
    response = invoke(rig, {"instances": ROWS})
    assert (response.status_code, response.json()["error_code"]) == (500, "INTERNAL_ERROR")


def test_wrong_method_and_path_are_said_in_the_protocols_form(rig: Any) -> None:
    wrong, unknown = ask(rig, ("GET", "/invocations"), ("POST", "/models/ships/invocations", {"json": {}}))
    assert (wrong.status_code, wrong.headers["allow"], set(wrong.json())) == (405, "POST", {"error_code", "message"})
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
