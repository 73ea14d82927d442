"""The OpenAPI document says exactly what the gateway accepts and sends."""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from ray_mlops.errors import NotFoundError
from ray_mlops.serving.exposition import merge_expositions
from ray_mlops.serving.http.paths import COMMANDS, resolve
from ray_mlops.serving.loaded import LoadedTable

ROW = {"distance": 200.0, "carrier": "UA"}


def fetch(rig: Any, *routes: Any, event_time: str | None = None) -> dict[str, Any]:
    async def scenario() -> Any:
        rig.settings = replace(rig.settings, event_time=event_time)
        await rig.apply(*routes)
        async with rig.client() as client:
            return (await client.get("/openapi.json")).json()

    return asyncio.run(scenario())


def request_schema(document: dict[str, Any], path: str) -> dict[str, Any]:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return {**content, "components": document["components"]}


def answer_schema(document: dict[str, Any], path: str, status: str = "200") -> dict[str, Any]:
    responses = document["paths"][path]["post"]["responses"]
    content = responses[status]["content"]["application/json"]["schema"]
    return {**content, "components": document["components"]}


INSTANCES: list[Any] = [
    ROW,
    {"distance": None, "carrier": None},
    {"distance": 3, "carrier": 7},
    {"distance": "far", "carrier": "UA"},
    {"distance": True, "carrier": "UA"},
    {"distance": 1.0, "carrier": [1]},
    {"distance": 1.0, "carrier": True},
    {"distance": 1.0},
    {"distance": 1.0, "carrier": "UA", "more": 1},
    {"distance": 1.0, "carrier": "UA", "at": "2024-01-01T00:00:00Z"},
    {"distance": 1.0, "carrier": "UA", "at": 5},
    5,
]


@pytest.mark.parametrize("instance", INSTANCES)
def test_document_and_gateway_agree_on_instances(rig: Any, instance: Any) -> None:
    document = fetch(rig, event_time="at")
    body = {"instances": [instance]}
    is_valid = jsonschema.Draft202012Validator(request_schema(document, "/predict")).is_valid(body)

    async def ask() -> Any:
        async with rig.client() as client:
            return await client.post("/predict", json=body)

    response = asyncio.run(ask())
    assert is_valid == (response.status_code == 200), response.text
    jsonschema.validate(response.json(), answer_schema(document, "/predict", str(response.status_code)))


@pytest.mark.parametrize("column", ["at", "flag"])
@pytest.mark.parametrize("is_event_time", [False, True])
@pytest.mark.parametrize("value", ["2024-01-01T00:00:00Z", "", "noon", None, True, False, 0, 1, 2, 1.5])
def test_document_and_gateway_agree_on_times_and_flags(
    rig: Any, kit: Any, column: str, is_event_time: bool, value: Any
) -> None:
    rows = {"distance": [1.0, 2.0], "at": ["2024-01-01", "2024-01-02"], "flag": [True, False]}
    times = [datetime.fromisoformat(time) for time in rows["at"]]
    rig.bundles["one"] = kit.build_bundle(rows={**rows, "at": times})
    document = fetch(rig, event_time="at" if is_event_time else None)
    instance = {"distance": 1.0, "at": "2024-01-01T00:00:00Z", "flag": True, column: value}
    checker = jsonschema.FormatChecker()
    checker.checks("date-time")(lambda text: not isinstance(text, str) or text.startswith("2024"))
    schema = request_schema(document, "/predict")
    is_valid = jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid({"instances": [instance]})

    async def ask() -> int:
        async with rig.client() as client:
            return (await client.post("/predict", json={"instances": [instance]})).status_code

    assert is_valid == (asyncio.run(ask()) == 200)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": []},
        {"instances": [ROW], "ids": ["a", "b"]},
        {"instances": [ROW], "ids": ["a/b"]},
        {"instances": [ROW], "ids": [1]},
        {"instances": [ROW], "routing_key": ""},
        {"instances": [ROW], "request_id": "a b"},
        {"instances": [ROW], "request_id": "r-1", "ids": ["x"], "routing_key": "k"},
        {"rows": [ROW]},
    ],
)
def test_document_and_gateway_agree_on_requests(rig: Any, body: Any) -> None:
    document = fetch(rig)
    is_valid = jsonschema.Draft202012Validator(request_schema(document, "/predict")).is_valid(body)

    async def ask() -> Any:
        async with rig.client() as client:
            return await client.post("/predict", json=body)

    status = asyncio.run(ask()).status_code
    if body.get("ids") != ["a", "b"]:  # JSON Schema cannot say "as many as instances"
        assert is_valid == (status == 200)
    assert status in (200, 400)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_answers_of_every_task_are_as_described(rig: Any, kit: Any, task: str) -> None:
    rig.bundles["one"] = kit.build_bundle(task)
    document = fetch(rig)

    async def ask() -> Any:
        async with rig.client() as client:
            return (await client.post("/predict", json={"instances": [ROW, ROW]})).json()

    jsonschema.validate(asyncio.run(ask()), answer_schema(document, "/predict"))


def test_every_described_path_exists(rig: Any) -> None:
    document = fetch(rig)
    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        target = resolve(path.replace("{prediction_id}", "some-id").replace("{version}", "1"))
        for method in operations:
            assert target.allows(method.upper()), path
    for verb in COMMANDS:
        assert document["paths"][f"/models/flights/rollout/{verb}"]["post"]["security"] == [{"token": []}]


@pytest.mark.parametrize("model", ["ships", "m" * 3000])
def test_a_path_means_the_same_each_time_however_long_it_is(model: str) -> None:
    for _ in range(2):
        assert resolve(f"/models/{model}/predict").model == model
        with pytest.raises(NotFoundError, match="no such path"):
            resolve(f"/models/{model}/predcit")


DISTANCE = {"name": "distance", "datatype": "FP64", "shape": [1], "data": [200.0]}
CARRIER = {"name": "carrier", "datatype": "BYTES", "shape": [1], "data": ["UA"]}
AT = {"name": "at", "datatype": "BYTES", "shape": [1], "data": ["2024-01-01T00:00:00Z"]}
IDS = {"name": "prediction_id", "datatype": "BYTES", "shape": [1], "data": ["a"]}
SPLIT = {"columns": ["distance", "carrier"], "data": [[200.0, "UA"]]}
INFER, INVOKE = "/v2/models/flights/infer", "/models/flights/invocations"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(
            (INFER, {"inputs": inputs})
            for inputs in (
                [DISTANCE, CARRIER],
                [CARRIER, DISTANCE, AT, IDS],
                [{**DISTANCE, "shape": [1, 1], "data": [[1]], "parameters": None}, CARRIER],
                [{**DISTANCE, "datatype": "INT8", "data": [127]}, {**CARRIER, "datatype": "INT64", "data": [5]}],
                [{**DISTANCE, "data": [None]}, {**CARRIER, "data": [None]}, {**AT, "data": [""]}],
                [DISTANCE, CARRIER, {**AT, "datatype": "INT64", "data": [0]}],
                [],
                [DISTANCE],
                [DISTANCE, CARRIER, CARRIER],
                [DISTANCE, CARRIER, {**DISTANCE, "name": "more"}],
                [{**DISTANCE, "datatype": "INT8", "data": [128]}, CARRIER],
                [{**DISTANCE, "datatype": "INT8", "data": [1.5]}, CARRIER],
                [{**DISTANCE, "datatype": "BOOL", "data": [True]}, CARRIER],
                [{**DISTANCE, "datatype": "FP8"}, CARRIER],
                [{**DISTANCE, "data": ["far"]}, CARRIER],
                [{**DISTANCE, "data": []}, CARRIER],
                [{**DISTANCE, "shape": []}, CARRIER],
                [{**DISTANCE, "shape": [1, 2], "data": [1.0, 2.0]}, CARRIER],
                [{**DISTANCE, "more": 1}, CARRIER],
                [DISTANCE, CARRIER, {**AT, "datatype": "INT64", "data": [2**62]}],
                [DISTANCE, CARRIER, {**IDS, "data": ["a/b"]}],
                [{**DISTANCE, "name": "input", "shape": [1, 2], "data": [1.0, 2.0]}],
                {"distance": [1.0]},
            )
        ),
        *(
            (INFER, {"inputs": [DISTANCE, CARRIER], **more})
            for more in (
                {"id": "", "parameters": None, "outputs": None},
                {"id": "a", "outputs": [{"name": "label", "parameters": {"binary_data": False}}], "model_name": 5},
                {"parameters": {"routing_key": "k", "other": [1]}, "outputs": []},
                {"id": "a b"},
                {"id": 0},
                {"parameters": {"routing_key": ""}},
                {"parameters": {"binary_data_output": None}},
                {"outputs": [{"name": "labels"}]},
                {"outputs": [{"name": "label", "parameters": {"classification": 3}}]},
                {"more": 1},
            )
        ),
        *(
            (INVOKE, body)
            for body in (
                {"dataframe_split": SPLIT},
                {"dataframe_split": {**SPLIT, "index": [0]}, "params": {"ids": ["a"], "request_id": None}},
                {"dataframe_records": [ROW], "params": None},
                {"instances": [ROW]},
                {"inputs": [ROW]},
                {"inputs": {"distance": [1.0, None], "carrier": ["UA", "DL"]}},
                {"inputs": {"distance": [[1.0]], "carrier": [["UA"]]}},
                {},
                {"instances": [ROW], "inputs": [ROW]},
                {"instances": []},
                {"instances": [[1.0, "UA"]]},
                {"instances": [ROW], "params": {"temperature": 1}},
                {"dataframe_split": {**SPLIT, "columns": ["distance", "carier"]}},
                {"dataframe_split": {**SPLIT, "columns": ["distance"], "data": [[1.0]]}},
                {"dataframe_split": {**SPLIT, "data": []}},
                {"inputs": {"distance": [1.0]}},
                {"inputs": {"distance": ["far"], "carrier": ["UA"]}},
            )
        ),
    ],
)
def test_document_and_gateway_agree_on_other_protocols(rig: Any, path: str, body: Any) -> None:
    document = fetch(rig, event_time="at")
    validator = jsonschema.Draft202012Validator(request_schema(document, path))

    async def ask() -> Any:
        async with rig.client() as client:
            return await client.post(path, json=body)

    response = asyncio.run(ask())
    assert validator.is_valid(body) == (response.status_code == 200), response.text
    jsonschema.validate(response.json(), answer_schema(document, path, str(response.status_code)))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("path", [INFER, INVOKE])
def test_answers_of_other_protocols_are_as_described(rig: Any, kit: Any, task: str, path: str) -> None:
    rig.bundles["one"] = kit.build_bundle(task)
    document = fetch(rig)
    body = {"inputs": [DISTANCE, CARRIER]} if path == INFER else {"instances": [ROW, ROW]}

    async def ask() -> Any:
        async with rig.client() as client:
            return (await client.post(path, json=body)).json()

    jsonschema.validate(asyncio.run(ask()), answer_schema(document, path))


def test_matrix_is_described_where_all_columns_are_numbers(rig: Any, kit: Any) -> None:
    rig.bundles["one"] = kit.build_bundle(rows={"a": [1.0, 2.0], "b": [5.0, 7.0]})
    document = fetch(rig)
    validator = jsonschema.Draft202012Validator(request_schema(document, INFER))
    matrix = {"name": "features", "datatype": "FP32", "shape": [2, 2], "data": [[1.0, None], [3, 4]]}
    assert validator.is_valid({"inputs": [matrix]})
    assert validator.is_valid({"inputs": [{**matrix, "name": "input", "data": [1, 2, 3, 4]}, IDS]})
    assert not validator.is_valid({"inputs": [{**matrix, "shape": [2, 3]}]})
    assert not validator.is_valid({"inputs": [{**matrix, "name": "c"}]})


def test_pages_of_other_protocols_are_as_described(rig: Any) -> None:
    document = fetch(rig)
    paths = [path for path in document["paths"] if path.startswith("/v2") and "get" in document["paths"][path]]

    async def ask() -> dict[str, Any]:
        async with rig.client() as client:
            return {path: (await client.get(path.replace("{version}", "1"))).json() for path in paths}

    for path, content in asyncio.run(ask()).items():
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(content, {**schema, "components": document["components"]})
    assert len(paths) == 8


def test_other_answers_are_as_described(rig: Any, kit: Any) -> None:
    document = fetch(rig, kit.split(0.1))
    labels = {"labels": [{"id": "a", "label": 1}, {"id": "a", "label": 1}]}
    calls = [
        ("GET", "/healthz", None),
        ("GET", "/models", None),
        ("POST", "/feedback", labels),
        ("POST", "/v2/repository/index", None),
        ("POST", "/v2/repository/index", {"ready": True}),
        ("POST", "/v2/repository/index", {"redy": True}),
    ]

    async def ask() -> list[Any]:
        async with rig.client() as client:
            found = [await client.request(method, path, json=body) for method, path, body in calls]
            rig.gateway.table = LoadedTable()
            return [*found, await client.get("/healthz")]

    answers = asyncio.run(ask())
    for (method, path, _), answer in zip([*calls, ("GET", "/healthz", None)], answers, strict=True):
        described = document["paths"][path][method.lower()]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 200, 400, 503]
    listed = [{"name": "flights", "version": version, "state": "READY", "reason": ""} for version in ("1", "2")]
    assert answers[3].json() == listed
    assert answers[5].json()["error"].startswith("body: unknown key 'redy'; did you mean 'ready'?")


def test_short_paths_are_described_for_one_model_only(rig: Any, kit: Any) -> None:
    assert "/predict" in fetch(rig)["paths"]
    document = fetch(rig, kit.ROUTES, replace(kit.ROUTES, model="trains"))
    assert "/predict" not in document["paths"]
    assert "/models/trains/predict" in document["paths"]


def test_merged_metrics_have_one_sample_for_each_series() -> None:
    own = '# HELP a_total A.\n# TYPE a_total counter\na_total{r="1"} 5.0\n'
    other = '# HELP a_total A.\n# TYPE a_total counter\na_total{r="1"} 4.0\na_total{r="2"} 3.0\n# TYPE b gauge\nb 1.0\n'
    assert merge_expositions(own, other) == own + 'a_total{r="2"} 3.0\n# TYPE b gauge\nb 1.0\n'


def test_merged_histograms_stay_together() -> None:
    own = '# TYPE h histogram\nh_bucket{le="+Inf",r="1"} 1.0\nh_count{r="1"} 1.0\nh_sum{r="1"} 0.5\n'
    other = own.replace('r="1"', 'r="2"')
    lines = merge_expositions(own, other).splitlines()
    assert lines[0] == "# TYPE h histogram"
    assert sorted(lines[1:]) == sorted(own.splitlines()[1:] + other.splitlines()[1:])


@pytest.mark.parametrize("correction", [True, False, 1, "true", None])
def test_correction_is_described_as_it_is_checked(rig: Any, correction: Any) -> None:
    document = fetch(rig)
    body = {"labels": [{"id": "a", "label": 1, "correction": correction}]}

    async def ask() -> Any:
        async with rig.client() as client:
            return await client.post("/feedback", json=body)

    response = asyncio.run(ask())
    validator = jsonschema.Draft202012Validator(request_schema(document, "/feedback"))
    assert validator.is_valid(body) == (response.status_code == 200) == isinstance(correction, bool)
    if response.status_code != 200:
        assert response.json()["error"]["where"] == "labels[0].correction"
