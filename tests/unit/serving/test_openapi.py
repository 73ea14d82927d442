"""The OpenAPI document says exactly what the gateway accepts and sends."""

import asyncio
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from ray_mlops.serving.exposition import merge_expositions
from ray_mlops.serving.paths import COMMANDS, resolve

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
        target = resolve(path.replace("{prediction_id}", "some-id"))
        for method in operations:
            assert target.allows(method.upper()), path
    for verb in COMMANDS:
        assert document["paths"][f"/models/flights/rollout/{verb}"]["post"]["security"] == [{"token": []}]


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
