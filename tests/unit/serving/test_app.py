"""The gateway over ASGI: who answers, what happens when a version does not, and what is booked."""

import asyncio
import gc
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.data.features import FeaturePipeline
from ray_mlops.errors import (
    BundleError,
    FeatureError,
    GateRefusedError,
    ModelNotFoundError,
    NotFoundError,
    OverloadError,
    RolloutError,
)
from ray_mlops.runtime.files import Files
from ray_mlops.serving import parts
from ray_mlops.serving.answering import Answering
from ray_mlops.serving.breaker import BREAK_AFTER
from ray_mlops.serving.following import RouteFollower, TallyReporter
from ray_mlops.serving.label_log import read_labels
from ray_mlops.serving.protocol import Arm, RouteTable
from ray_mlops.serving.slicing import SliceColumn

ROW = {"distance": 200.0, "carrier": "UA"}
OPERATOR = {"authorization": "Bearer o-token"}


def run(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run an asynchronous test; its signature says which fixtures it takes."""
    import functools
    import inspect

    @functools.wraps(test)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    wrapper.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return wrapper


async def post(rig: Any, path: str, content: Any = None, **headers: str) -> httpx.Response:
    async with rig.client() as client:
        return await client.post(path, json=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def get(rig: Any, path: str, **headers: str) -> httpx.Response:
    async with rig.client() as client:
        return await client.get(path, headers=headers)


def tally(rig: Any, arm: str) -> Any:
    (found,) = [tally for tally in rig.telemetry.changed() if tally.arm == arm]
    return found


# -- the champion -------------------------------------------------------------------------------------


@run
async def test_champion_answers(rig: Any) -> None:
    await rig.apply()
    response = await post(rig, "/predict", {"instances": [ROW, ROW], "ids": ["a", "b"]})
    assert response.status_code == 200
    content = response.json()
    expected = rig.bundles["one"].predict([ROW, ROW]).to_json()
    assert content["predictions"] == expected
    assert (content["ids"], content["version"], content["arm"], content["model"]) == (
        ["a", "b"],
        "1",
        "champion",
        "flights",
    )
    assert response.headers["x-model-version"] == "1"
    assert response.headers["x-route-version"] == "3"
    assert response.headers["x-request-id"] == "a"


@run
async def test_transport_id_is_used_and_not_sent_twice(rig: Any) -> None:
    await rig.apply()
    response = await post(rig, "/predict", {"instances": [ROW]}, x_request_id="from-proxy")
    assert response.json()["ids"] == ["from-proxy-0"]
    assert "x-request-id" not in response.headers


@run
async def test_log_row_holds_everything(rig: Any) -> None:
    rig.settings = replace(rig.settings, event_time="at")
    await rig.apply()
    row = {**ROW, "at": "2024-02-01T10:00:00Z"}
    await post(rig, "/predict", {"instances": [row], "ids": ["a"], "routing_key": "user-1"})
    (logged,) = (await rig.logged()).to_pylist()
    assert logged["prediction_id"] == logged["request_id"] == "a"
    assert logged["event_time"].isoformat() == "2024-02-01T10:00:00+00:00"
    assert logged["arrival_time"].timestamp() == rig.clock.now
    assert (logged["arm"], logged["version"], logged["route_version"], logged["outcome"]) == ("champion", "1", 3, "ok")
    assert (logged["pinned"], logged["weight"]) == (False, 1.0)
    assert logged["routing_key_hash"] > 0
    assert (logged["features.distance"], logged["features.carrier"]) == (200.0, "UA")
    assert logged["prediction"] == rig.bundles["one"].predict([ROW]).values[0]
    assert rig.files.exists("predictions/flights/day=2024-02-01/replica-1-00000001.parquet")


@run
async def test_failing_champion_is_500_and_booked(rig: Any) -> None:
    await rig.apply()

    def fail() -> float:
        raise RuntimeError("boom")

    rig.bundles["one"].model.fault = fail
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "version 1 failed: RuntimeError: boom"
    assert (tally(rig, "champion").requests, tally(rig, "champion").errors) == (1, 1)
    assert rig.log.accounting["accepted"] == 0


@run
async def test_champion_that_is_not_finite_is_500(rig: Any) -> None:
    await rig.apply()
    rig.bundles["one"].model.fault = lambda: float("nan")
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert response.status_code == 500
    assert "is not finite" in response.json()["error"]["message"]
    assert rig.telemetry.requests == {("flights", "champion", "1", "invalid"): 1}


@run
async def test_clients_mistake_is_400_and_nobodys_error(rig: Any) -> None:
    await rig.apply()
    response = await post(rig, "/predict", {"instances": [ROW, {"distance": "far", "carrier": "UA"}]})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "RequestError"
    assert error["where"] == "instances: column 'distance', row 1"
    assert rig.telemetry.changed() == []
    assert rig.telemetry.refused == {("flights", "400"): 1}


# -- the candidate ------------------------------------------------------------------------------------


@run
async def test_candidate_answers_its_share(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: kit.prediction([0.75] * len(rows))
    await rig.apply(kit.split(0.5))
    arms = [(await post(rig, "/predict", {"instances": [ROW], "ids": [f"id-{i}"]})).json()["arm"] for i in range(60)]
    assert 15 < arms.count("candidate") < 45
    assert [
        (await post(rig, "/predict", {"instances": [ROW], "ids": [f"id-{i}"]})).json()["arm"] for i in range(60)
    ] == arms
    assert tally(rig, "candidate").requests == 2 * arms.count("candidate")
    assert tally(rig, "candidate").weight == 0.5
    assert tally(rig, "candidate").slow == tally(rig, "candidate").requests  # 1 ms is above slow_ms of 0.5
    assert tally(rig, "champion").requests == 2 * arms.count("champion")
    logged = await rig.logged()
    assert logged.num_rows == 60, "a repeated id is a retry"
    assert rig.log.retries == 60


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (lambda rows: RuntimeError("boom"), "error"),
        (lambda rows: FeatureError("bug in the candidate"), "error"),
        (lambda rows: ConnectionError("gone"), "crashed"),
        (lambda rows: asyncio.sleep(10), "timeout"),
        ("nan", "invalid"),
        ("short", "invalid"),
    ],
)
def test_champion_answers_for_a_failing_candidate(rig: Any, kit: Any, behaviour: Any, outcome: str) -> None:
    values = {"nan": [float("nan")], "short": []}
    if isinstance(behaviour, str):
        wrong = kit.prediction(values[behaviour])
        behaviour = lambda rows: wrong  # noqa: E731

    async def scenario() -> None:
        rig.change(serving=rig.serving.model_copy(update={"candidate_timeout_s": 0.05}))
        rig.arms.behaviours["2"] = behaviour
        await rig.apply(kit.split(0.9999999))
        response = await post(rig, "/predict", {"instances": [ROW]})
        assert response.status_code == 200
        assert (response.json()["arm"], response.headers["x-model-version"]) == ("champion", "1")
        assert (tally(rig, "candidate").requests, tally(rig, "candidate").errors) == (1, 1)
        assert rig.telemetry.requests == {("flights", "candidate", "2", outcome): 1}
        (logged,) = (await rig.logged()).to_pylist()
        assert (logged["arm"], logged["version"], logged["outcome"]) == ("champion", "1", outcome)
        assert logged["weight"] == pytest.approx(1.0)

    asyncio.run(scenario())


@run
async def test_clients_mistake_is_not_the_candidates(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: FeatureError("wrong type")
    await rig.apply(kit.split(0.9999999))
    for _ in range(2 * BREAK_AFTER):
        response = await post(rig, "/predict", {"instances": [{"distance": "far", "carrier": "UA"}]})
        assert response.status_code == 400
    assert rig.telemetry.changed() == []
    rig.arms.behaviours["2"] = lambda rows: kit.prediction([0.5])
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "candidate"


@run
async def test_candidate_that_keeps_failing_is_left_alone(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: ConnectionError("gone")
    await rig.apply(kit.split(0.9999999))
    for _ in range(BREAK_AFTER + 20):
        assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 200
    assert rig.arms.calls <= BREAK_AFTER + 1, "one probe a second"
    assert tally(rig, "candidate").errors == BREAK_AFTER + 20, "and every request is booked against it"


@run
async def test_open_breaker_hides_nothing_and_starves_nobody(rig: Any, kit: Any) -> None:
    """What is kept from the candidate is booked against it by its own name, and a candidate that is back is found."""
    rig.arms.behaviours["2"] = lambda rows: ConnectionError("gone")
    await rig.apply(kit.split(0.9999999))
    for _ in range(40):
        assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "champion"
    outcomes = {labels[3]: count for labels, count in rig.telemetry.requests.items()}
    assert outcomes["crashed"] >= BREAK_AFTER
    assert sum(outcomes.values()) == outcomes["crashed"] + outcomes["unavailable"] == 40
    counted = tally(rig, "candidate")
    assert (counted.requests, counted.errors, dict(counted.failures)) == (40, 40, outcomes)
    rig.arms.behaviours["2"] = lambda rows: kit.prediction([0.5])
    answers: list[str] = []
    async with asyncio.timeout(30.0):
        while "candidate" not in answers:
            answers.append((await post(rig, "/predict", {"instances": [ROW]})).json()["arm"])


@run
async def test_requests_that_the_champion_fails_too_do_not_open_the_breaker(rig: Any, kit: Any) -> None:
    """Else a client whose rows break every model would get good requests booked against the candidate."""
    rig.arms.behaviours["2"] = lambda rows: RuntimeError("boom")
    await rig.apply(kit.split(0.9999999))
    rig.bundles["one"].model.fault = _raise
    for _ in range(BREAK_AFTER + 3):
        assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 500
    assert rig.arms.calls == BREAK_AFTER + 3
    rig.bundles["one"].model.fault = None
    rig.arms.behaviours["2"] = lambda rows: kit.prediction([0.5])
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "candidate"


def _raise() -> float:
    raise RuntimeError("these rows break every model")


@run
async def test_model_says_how_long_and_how_many_of_its_requests_wait(rig: Any, kit: Any) -> None:
    rig.settings = replace(rig.settings, candidate_timeout_s=0.05, max_on_trial=1)
    rig.arms.behaviours["2"] = lambda rows: asyncio.sleep(60)
    await rig.apply(kit.split(0.9999999))
    answers = await asyncio.gather(*(post(rig, "/predict", {"instances": [ROW]}) for _ in range(3)))
    assert [answer.json()["arm"] for answer in answers] == ["champion"] * 3
    assert {labels[3]: count for labels, count in rig.telemetry.requests.items()} == {"timeout": 1, "overloaded": 2}


@run
async def test_request_that_waited_for_a_dead_process_is_no_hang(rig: Any, kit: Any) -> None:
    rig.settings = replace(rig.settings, candidate_timeout_s=0.05)
    rig.arms.behaviours["2"] = lambda rows: asyncio.sleep(60)
    rig.arms.gone = {"2"}
    await rig.apply(kit.split(0.9999999))
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "champion"
    assert rig.telemetry.requests == {("flights", "candidate", "2", "crashed"): 1}


@run
async def test_only_failures_in_a_row_count_against_a_candidate(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: ConnectionError("gone") if rig.arms.calls % 3 else kit.prediction([0.5])
    await rig.apply(kit.split(0.9999999))
    for _ in range(4 * BREAK_AFTER):
        await post(rig, "/predict", {"instances": [ROW]})
    assert rig.arms.calls == 4 * BREAK_AFTER, "it is asked each time"


@run
async def test_new_routes_give_the_candidate_another_chance(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: ConnectionError("gone")
    await rig.apply(kit.split(0.9999999))
    for _ in range(BREAK_AFTER + 2):
        await post(rig, "/predict", {"instances": [ROW]})
    rig.arms.behaviours["2"] = lambda rows: kit.prediction([0.5])
    await rig.apply(replace(kit.split(0.9999999), version=5), version=2)
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "candidate"


@run
async def test_candidate_in_the_replica(rig: Any, kit: Any) -> None:
    await rig.apply(kit.split(0.9999999, "in_replica"))
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert response.json()["arm"] == "candidate"
    assert response.json()["predictions"] == rig.bundles["two"].predict([ROW]).to_json()
    assert rig.arms.calls == 0


@run
async def test_candidate_that_is_not_loaded_here_is_not_counted(rig: Any, kit: Any) -> None:
    del rig.bundles["two"]
    rig.loader = _failing_loader(rig)
    table = await rig.apply(kit.split(0.9999999, "in_replica"))
    assert table.problems == ("flights, version 2: two: missing",)
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "champion"
    assert rig.telemetry.changed() == []
    assert (await rig.logged())["pinned"].to_pylist() == [True]


def _failing_loader(rig: Any) -> Callable[[], Any]:
    from ray_mlops.serving.loaded import TableLoader

    def load(uri: str, trusted: tuple[str, ...]) -> Any:
        if uri not in rig.bundles:
            raise BundleError("missing", uri)
        return rig.bundles[uri]

    return lambda: TableLoader(load, lambda routes: rig.settings, rig._schema, b"salt")


@run
async def test_input_that_only_the_candidate_has(rig: Any, kit: Any) -> None:
    rig.extra_schema = pa.schema([("distance", pa.float64()), ("wind", pa.float64())])
    seen: list[Any] = []

    def remember(rows: Any) -> Any:
        seen.extend(rows)
        return kit.prediction([0.5] * len(rows))

    rig.arms.behaviours["2"] = remember
    await rig.apply(kit.split(0.9999999))
    assert (await post(rig, "/predict", {"instances": [{**ROW, "wind": 3.5}]})).status_code == 200
    assert seen == [{**ROW, "wind": 3.5}]
    assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 200
    assert (await rig.logged())["features.wind"].to_pylist() == [3.5, None]


# -- pinning ------------------------------------------------------------------------------------------


@run
async def test_pinned_request_needs_an_operator_and_is_not_counted(rig: Any, kit: Any) -> None:
    await rig.apply(kit.split(1e-9, "in_replica"))
    assert (await post(rig, "/predict", {"instances": [ROW]}, x_model_version="2")).status_code == 401
    wrong_role = await post(rig, "/predict", {"instances": [ROW]}, x_model_version="2", authorization="Bearer p-token")
    assert wrong_role.status_code == 403
    pinned = await post(rig, "/predict", {"instances": [ROW]}, x_model_version="2", **OPERATOR)
    assert (pinned.json()["version"], pinned.json()["arm"]) == ("2", "candidate")
    assert rig.telemetry.changed() == []
    assert (await rig.logged())["pinned"].to_pylist() == [True]
    unknown = await post(rig, "/predict", {"instances": [ROW]}, x_model_version="9", **OPERATOR)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["remedy"] == "loaded: 1, 2"


# -- a champion outside the gateway --------------------------------------------------------------------


def outside(rig: Any, kit: Any, tmp_path: Path, **more: Any) -> Any:
    """Routes whose champion has an application of its own; its bundle is in the store."""
    bundle = rig.bundles["one"]
    files = Files(str(tmp_path / "bundle"))
    manifest = {**bundle.manifest.to_json(), "features": bundle.features.to_json()}
    files.write("bundle.json", json.dumps(manifest).encode())
    rig.bundles.clear()
    return replace(kit.ROUTES, champion=Arm("1", files.root, "hash-1", "isolated"), **more)


@run
async def test_champion_outside_answers_and_none_of_its_weights_are_loaded(rig: Any, kit: Any, tmp_path: Path) -> None:
    rig.arms.behaviours["1"] = lambda rows: kit.prediction([0.75] * len(rows))
    table = await rig.apply(outside(rig, kit, tmp_path))
    assert table.problems == ()
    response = await post(rig, "/predict", {"instances": [ROW, ROW]})
    assert (response.status_code, response.json()["arm"]) == (200, "champion")
    assert [one["probability"] for one in response.json()["predictions"]] == [0.75, 0.75]
    assert (await rig.logged())["outcome"].to_pylist() == ["ok", "ok"]
    described = (await get(rig, "/v2/models/flights")).json()
    assert [column["name"] for column in described["inputs"]] == ["distance", "carrier"]
    assert (await get(rig, "/openapi.json")).status_code == 200


@pytest.mark.parametrize(
    ("behaviour", "status", "outcome"),
    [
        (lambda rows: ConnectionError("gone"), 503, "crashed"),
        (lambda rows: asyncio.sleep(60), 503, "timeout"),
        (lambda rows: RuntimeError("boom"), 500, "error"),
        ("nan", 500, "invalid"),
    ],
)
def test_nobody_answers_for_a_champion_outside(
    rig: Any, kit: Any, tmp_path: Path, behaviour: Any, status: int, outcome: str
) -> None:
    wrong = kit.prediction([float("nan")])

    async def scenario() -> None:
        rig.change(serving=rig.serving.model_copy(update={"request_timeout_s": 0.05}))
        rig.arms.behaviours["1"] = (lambda rows: wrong) if behaviour == "nan" else behaviour
        await rig.apply(outside(rig, kit, tmp_path, previous=Arm("0", "gone", "hash-0", "isolated")))
        response = await post(rig, "/predict", {"instances": [ROW]})
        assert response.status_code == status
        assert ("retry-after" in response.headers) == (status == 503)
        assert rig.telemetry.requests == {("flights", "champion", "1", outcome): 1}

    asyncio.run(scenario())


@run
async def test_replica_that_dies_with_a_request_in_it_is_asked_again_once(rig: Any, kit: Any, tmp_path: Path) -> None:
    rig.arms.behaviours["1"] = lambda rows: kit.prediction([0.5]) if rig.arms.calls == 2 else ConnectionError("gone")
    await rig.apply(outside(rig, kit, tmp_path))
    assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 200
    assert rig.arms.calls == 2
    assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 503
    assert rig.arms.calls == 4


@run
async def test_champion_whose_features_need_its_own_code_describes_itself(
    rig: Any, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = outside(rig, kit, tmp_path)

    def lacks_code(*arguments: Any) -> Any:
        raise BundleError("module 'own' is not trusted")

    monkeypatch.setattr(FeaturePipeline, "from_json", lacks_code)
    schema = pa.schema([("distance", pa.float64()), ("carrier", pa.string())])
    rig.extra_schema = schema.with_metadata({"required": json.dumps(["distance"])})
    rig.arms.behaviours["1"] = lambda rows: kit.prediction([0.5])
    table = await rig.apply(routes)
    assert table.models["flights"].columns.required == {"distance"}
    assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 200


# -- tables -------------------------------------------------------------------------------------------


@run
async def test_promotion_keeps_the_previous_version_loaded(rig: Any, kit: Any) -> None:
    before = await rig.apply(kit.split(0.5, "in_replica"))
    first = before.models["flights"].predictors
    promoted = replace(kit.ROUTES, version=5, champion=Arm("2", "two", "hash-2"), previous=Arm("1", "one", "hash-1"))
    after = await rig.apply(promoted, version=2)
    second = after.models["flights"].predictors
    assert second["2"] is first["2"]
    assert second["1"] is first["1"]
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["version"] == "2"
    back = await rig.apply(replace(kit.ROUTES, version=6), version=3)
    assert back.models["flights"].champion is first["1"], "a rollback loads nothing"


@run
async def test_champion_that_fails_its_check_does_not_take_over(rig: Any, kit: Any) -> None:
    await rig.apply()
    bundle = rig.bundles["two"]
    rig.bundles["two"] = replace(bundle, parity=replace(bundle.parity, values=bundle.parity.values + 0.1))
    table = await rig.apply(replace(kit.ROUTES, version=4, champion=Arm("2", "two", "hash-2")), version=2)
    assert table.failed == {"flights"}
    assert "parity predictions differ" in table.problems[0]
    assert table.is_ready, "the old champion still answers"
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["version"] == "1"
    health = await get(rig, "/healthz")
    assert health.status_code == 200
    assert health.json()["problems"] == list(table.problems)


@run
async def test_request_that_is_under_way_during_a_swap_is_answered_by_its_own_table(rig: Any, kit: Any) -> None:
    rig.bundles["one"].model.fault = lambda: time.sleep(0.003) or 0.0  # too slow for the event loop
    await rig.apply()
    release = asyncio.Event()
    content, sent = kit.body(instances=[ROW]), []

    async def receive() -> Any:
        await release.wait()
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "root_path": ""}
    task = asyncio.create_task(rig.gateway(scope, receive, send))
    await asyncio.sleep(0)
    await rig.apply(replace(kit.ROUTES, version=5, champion=Arm("2", "two", "hash-2")), version=2)
    gc.collect()
    release.set()
    await task
    assert sent[0]["status"] == 200
    assert (b"x-model-version", b"1") in sent[0]["headers"]


@run
async def test_slow_champion_is_503_and_booked(rig: Any) -> None:
    rig.bundles["one"].model.fault = lambda: time.sleep(0.003) or 0.0
    await rig.apply()
    rig.change(serving=rig.serving.model_copy(update={"request_timeout_s": 0.05}))
    rig.bundles["one"].model.fault = lambda: time.sleep(0.3) or 0.0
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert rig.telemetry.requests == {("flights", "champion", "1", "timeout"): 1}


@run
async def test_without_routes_nothing_is_ready(rig: Any) -> None:
    assert (await get(rig, "/healthz")).status_code == 503
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert response.status_code == 404
    assert "deployed: none" in response.json()["error"]["message"]


@run
async def test_short_paths_need_exactly_one_model(rig: Any, kit: Any) -> None:
    await rig.apply(kit.ROUTES, replace(kit.ROUTES, model="trains"))
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert response.status_code == 404
    assert "deployed: flights, trains" in response.json()["error"]["message"]
    assert (await post(rig, "/models/trains/predict", {"instances": [ROW]})).json()["model"] == "trains"
    assert (await post(rig, "/models/ships/predict", {"instances": [ROW]})).status_code == 404


@run
async def test_follower_applies_newer_tables_and_survives_the_publisher(rig: Any, kit: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ray_mlops.serving.following.RETRY_S", 0.0)
    await rig.apply()
    answers: list[Any] = [
        RouteTable(2, {"flights": replace(kit.ROUTES, version=4)}),
        RouteTable(1, {}),
        ConnectionError("the publisher is away"),
        ConnectionError("still away"),
    ]
    stored: list[Any] = [RouteTable(3, {"flights": replace(kit.ROUTES, version=5)}), OverloadError("ledger is away")]

    async def wait(version: int, timeout_s: float) -> RouteTable:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read() -> RouteTable:
        answer = stored.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    follower = RouteFollower(rig.gateway, rig.loader(), wait, read)
    seen = []
    for _ in range(4):
        await follower.step()
        seen.append(rig.gateway.table.models["flights"].routes.version)
    assert seen == [4, 4, 5, 5]


# -- overload -----------------------------------------------------------------------------------------


@run
async def test_too_many_requests_are_told_to_come_back(rig: Any, kit: Any) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_ongoing_requests": 2, "max_queued_requests": 1}))
    release = asyncio.Event()

    async def answer_late(rows: Any) -> Any:
        await release.wait()
        return kit.prediction([0.5])

    rig.arms.behaviours["2"] = answer_late
    await rig.apply(kit.split(0.9999999))
    rig.gateway.predicting._answering._max_on_trial = 10
    waiting = [asyncio.create_task(post(rig, "/predict", {"instances": [ROW]})) for _ in range(3)]
    while rig.arms.calls < 2:
        await asyncio.sleep(0)
    refused = await post(rig, "/predict", {"instances": [ROW]})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert (await get(rig, "/healthz")).status_code == 200, "health never queues"
    release.set()
    assert [(await task).status_code for task in waiting] == [200, 200, 200]
    assert rig.gateway._admission.num_running == 0


@run
async def test_slow_candidate_takes_half_of_the_places_at_most(rig: Any, kit: Any) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_ongoing_requests": 4}))
    release = asyncio.Event()

    async def answer_late(rows: Any) -> Any:
        await release.wait()
        return kit.prediction([0.5])

    rig.arms.behaviours["2"] = answer_late
    await rig.apply(kit.split(0.9999999))
    tasks = [asyncio.create_task(post(rig, "/predict", {"instances": [ROW]})) for _ in range(3)]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result().json()["arm"] for task in done] == ["champion"]
    release.set()
    await asyncio.gather(*tasks)
    assert rig.telemetry.requests["flights", "candidate", "2", "overloaded"] == 1


@run
async def test_full_log_blocks_where_the_policy_says_so(rig: Any, kit: Any, tmp_path: Path) -> None:
    blocking = kit.Rig(tmp_path / "other", kit.log_config(policy="block", max_buffer_rows=2))
    await blocking.apply()
    assert (await post(blocking, "/predict", {"instances": [ROW, ROW]})).status_code == 200
    refused = await post(blocking, "/predict", {"instances": [ROW]})
    assert refused.status_code == 503
    await blocking.log.flush()
    assert (await post(blocking, "/predict", {"instances": [ROW]})).status_code == 200


@pytest.mark.parametrize(("patience_s", "errors"), [(0.0, 1), (60.0, 0)])
@run
async def test_client_that_leaves_is_booked_against_its_arm_if_it_has_waited(
    rig: Any, kit: Any, patience_s: float, errors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_mlops.serving.answering.PATIENCE_S", patience_s)
    rig.arms.behaviours["2"] = lambda rows: asyncio.sleep(60)
    await rig.apply(kit.split(0.9999999))
    task = asyncio.create_task(post(rig, "/predict", {"instances": [ROW]}))
    while not rig.arms.calls:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (tally(rig, "candidate").requests, tally(rig, "candidate").errors) == (1, errors)
    assert rig.telemetry.num_in_flight == 0


@run
async def test_clients_that_give_up_on_a_hanging_candidate_open_its_breaker(
    rig: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_mlops.serving.answering.PATIENCE_S", 0.0)
    rig.arms.behaviours["2"] = lambda rows: asyncio.sleep(60)
    await rig.apply(kit.split(0.9999999))
    for number in range(1, BREAK_AFTER + 1):
        task = asyncio.create_task(post(rig, "/predict", {"instances": [ROW]}))
        while rig.arms.calls < number:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await post(rig, "/predict", {"instances": [ROW]})).json()["arm"] == "champion"
    assert rig.arms.calls == BREAK_AFTER
    outcomes = {labels[3]: count for labels, count in rig.telemetry.requests.items()}
    assert outcomes == {"timeout": BREAK_AFTER, "unavailable": 1}


@run
async def test_client_that_leaves_does_not_undo_what_the_candidate_did(rig: Any, kit: Any, tmp_path: Path) -> None:
    def behave(name: str, value: Any) -> Any:
        def call(rows: Any) -> Any:
            asked.append(name)
            return value()

        return call

    asked: list[str] = []
    rig.arms.behaviours["1"] = behave("1", lambda: asyncio.sleep(60))
    rig.arms.behaviours["2"] = behave("2", lambda: ConnectionError("gone"))
    candidate = kit.split(0.9999999).candidate
    await rig.apply(replace(outside(rig, kit, tmp_path), candidate=candidate, version=5))
    task = asyncio.create_task(post(rig, "/predict", {"instances": [ROW]}))
    async with asyncio.timeout(30.0):
        while asked[-1:] != ["1"]:
            await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert rig.telemetry.requests == {("flights", "candidate", "2", "crashed"): 1}


@run
async def test_request_under_older_routes_does_not_close_the_breaker(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: ConnectionError("gone")
    older = (await rig.apply(kit.split(0.9999999))).find("flights")
    newer = (await rig.apply(replace(kit.split(0.9999999), version=5), version=2)).find("flights")
    answering = Answering(rig.telemetry, rig.log, rig.arms, rig.serving)
    breaker = answering._breaker(newer, "2")
    breaker.failures = BREAK_AFTER
    assert answering._breaker(older, "2").failures == BREAK_AFTER
    assert answering._breaker(newer, "2").failures == BREAK_AFTER


@run
async def test_body_over_the_limit_is_413(rig: Any) -> None:
    rig.change(serving=rig.serving.model_copy(update={"max_body_mb": 0.0001}))
    await rig.apply()
    assert (await post(rig, "/predict", {"instances": [ROW] * 10})).status_code == 413


# -- tallies ------------------------------------------------------------------------------------------


@run
async def test_epochs_are_seconds_or_windows(rig: Any) -> None:
    rig.settings = replace(rig.settings, event_time="at")
    await rig.apply()
    row = {**ROW, "at": "1970-01-03T00:00:00Z"}
    await post(rig, "/predict", {"instances": [row]})
    assert tally(rig, "champion").epoch == int(rig.clock.now)
    rig.settings = replace(rig.settings, by_window=True)
    await rig.apply(version=2)
    await post(rig, "/predict", {"instances": [row]})
    assert [tally.epoch for tally in rig.telemetry.changed()] == [int(rig.clock.now), 2]


@run
async def test_watermark_waits_for_the_oldest_request(rig: Any, kit: Any) -> None:
    release = asyncio.Event()

    async def answer_late(rows: Any) -> Any:
        await release.wait()
        return kit.prediction([0.5])

    rig.arms.behaviours["2"] = answer_late
    await rig.apply(kit.split(0.9999999))
    start = rig.clock.now
    task = asyncio.create_task(post(rig, "/predict", {"instances": [ROW]}))
    while not rig.arms.calls:
        await asyncio.sleep(0)
    rig.clock.now += 5
    await get(rig, "/healthz")
    assert rig.telemetry.watermark_s() == start
    release.set()
    await task
    assert rig.telemetry.watermark_s() == start + 5
    rig.clock.now -= 100
    assert rig.telemetry.watermark_s() == start + 5, "time never runs back"
    assert rig.telemetry.arrive()[1] == start + 5


@run
async def test_reporter_sends_what_changed_and_all_after_a_loss(rig: Any) -> None:
    await rig.apply()
    reporter = TallyReporter(rig.telemetry, rig.control, rig.gateway, 1.0)
    await post(rig, "/predict", {"instances": [ROW]})
    assert await reporter.send()
    rig.clock.now += 1
    await post(rig, "/predict", {"instances": [ROW]})
    await reporter.send()
    await reporter.send()
    assert [len(report) for report in rig.control.reports] == [1, 1, 0]
    rig.control.error = OverloadError("away")
    assert not await reporter.send()
    rig.control.error = None
    await reporter.send()
    assert len(rig.control.reports[-1]) == 2


# -- operators and readers ----------------------------------------------------------------------------


@run
async def test_operators_need_a_token(rig: Any) -> None:
    await rig.apply()
    assert (await post(rig, "/rollout/pause")).status_code == 401
    assert (await post(rig, "/rollout/pause", authorization="Bearer r-token")).status_code == 403
    assert rig.control.calls == []
    assert (await post(rig, "/rollout/pause", {"reason": "lunch"}, **OPERATOR)).json() == {"done": "pause"}
    start = {"version": "2", "override_gate": "urgent", "skip_shadow": True}
    assert (await post(rig, "/models/flights/rollout/start", start, **OPERATOR)).status_code == 200
    assert rig.control.calls == [
        ("pause", "flights", {"by": "operator", "reason": "lunch"}),
        ("start", "flights", "2", {"by": "operator", "override_reason": "urgent", "skip_shadow": True}),
    ]
    for path in ("/rollout/start", "/rollout/shadow"):
        missing = await post(rig, path, {}, **OPERATOR)
        assert (missing.status_code, missing.json()["error"]["where"]) == (400, "version")


@run
async def test_operators_abort_and_run_shadows(rig: Any) -> None:
    await rig.apply()
    assert (await post(rig, "/rollout/abort")).status_code == 401
    assert (await post(rig, "/rollout/shadow", {"version": "2"})).status_code == 401
    assert (await post(rig, "/rollout/abort", {"reason": "wrong one", "by": "ann"}, **OPERATOR)).status_code == 200
    assert (await post(rig, "/rollout/shadow", {"version": "2"}, **OPERATOR)).json() == {"done": "shadow"}
    await post(rig, "/models/flights/rollout/shadow", {"version": "2", "stop": True, "by": "ann"}, **OPERATOR)
    assert rig.control.calls == [
        ("abort", "flights", {"by": "ann", "reason": "wrong one"}),
        ("shadow", "flights", "2", {"by": "operator", "stop": False, "reason": ""}),
        ("shadow", "flights", "2", {"by": "ann", "stop": True, "reason": ""}),
    ]
    wrong = await post(rig, "/rollout/shadow", {"version": "2", "stop": "yes"}, **OPERATOR)
    assert (wrong.status_code, wrong.json()["error"]["where"]) == (400, "stop")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RolloutError("another is under way"), 409),
        (GateRefusedError("not passed"), 409),
        (ModelNotFoundError("no version 9"), 404),
        (OverloadError("the actor is away"), 503),
    ],
)
def test_errors_of_a_command_have_a_status(rig: Any, error: Exception, status: int) -> None:
    async def scenario() -> None:
        await rig.apply()
        rig.control.error = error
        response = await post(rig, "/rollout/promote", **OPERATOR)
        assert response.status_code == status
        assert response.json()["error"]["message"] == error.args[0]

    asyncio.run(scenario())


@run
async def test_reading_needs_a_token_where_prediction_does(rig: Any, kit: Any, tmp_path: Path) -> None:
    closed = kit.Rig(tmp_path / "other", rig.serving.model_copy(update={"predict_auth": "token"}))
    await closed.apply()
    for path in ("/monitoring", "/metrics", "/rollout", "/models", "/openapi.json", "/console", "/"):
        response = await get(closed, path)
        assert response.status_code == 401, path
        assert "www-authenticate" in response.headers
    assert (await get(closed, "/healthz")).status_code == 200
    assert (await get(closed, "/models", authorization="Bearer r-token")).status_code == 200
    assert (await post(closed, "/predict", {"instances": [ROW]})).status_code == 401
    assert (await post(closed, "/predict", {"instances": [ROW]}, authorization="Bearer p-token")).status_code == 200


@run
async def test_monitoring_and_metrics_without_a_monitor(rig: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ray_mlops.serving.http.reading.SIDE_TIMEOUT_S", 0.02)
    await rig.apply()
    await post(rig, "/predict", {"instances": [ROW]})
    assert (await get(rig, "/monitoring")).json() == {"model": "flights", "windows": 3}
    assert 'ray_mlops_monitor_up{replica="replica-1"} 1.0' in (await get(rig, "/metrics")).text
    for trouble in ("fails", "hangs"):
        setattr(rig.monitor, trouble, True)
        shown = (await get(rig, "/monitoring")).json()
        assert shown["monitor"] == "unavailable"
        assert shown["replica"]["requests"] == [{"arm": "champion", "version": "1", "outcome": "ok", "requests": 1}]
        text = (await get(rig, "/metrics")).text
        assert 'ray_mlops_monitor_up{replica="replica-1"} 0.0' in text
        labels = 'arm="champion",model="flights",outcome="ok",replica="replica-1",version="1"'
        assert f"ray_mlops_requests_total{{{labels}}} 1.0" in text
        assert 'ray_mlops_log_rows_total{replica="replica-1",state="accepted"} 1.0' in text
        assert "ray_mlops_drift" not in text


@run
async def test_metrics_of_the_monitor_are_merged(rig: Any) -> None:
    await rig.apply()
    text = (await get(rig, "/metrics")).text
    assert "ray_mlops_drift 0.5" in text
    types = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))


NOTHING_ELSE = {"duplicate": 0, "conflicting": 0, "corrected": 0}


@run
async def test_correction_is_durable_and_counted(rig: Any) -> None:
    await rig.apply()
    rig.monitor.corrected = 1
    labels = [{"id": "a", "label": 1}, {"id": "a", "label": 0, "correction": True}]
    answer = (await post(rig, "/models/flights/feedback", {"labels": labels})).json()
    assert (answer["received"], answer["corrected"]) == (2, 1)
    assert [label.is_correction for label in rig.monitor.labels] == [False, True]
    assert read_labels(rig.files, "flights")["is_correction"].to_pylist() == [False, True]
    counted = 'ray_mlops_labels_total{model="flights",replica="replica-1",state="corrected"} 1.0'
    assert counted in (await get(rig, "/metrics")).text


@run
async def test_feedback_is_durable_without_the_monitor(rig: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("ray_mlops.serving.app.SIDE_TIMEOUT_S", 0.02)
    await rig.apply()
    labels = [{"id": "a", "label": 1}, {"id": "b", "label": 0}]
    first = await post(rig, "/feedback", {"labels": labels})
    assert first.json() == {"model": "flights", "received": 2, "accepted": 2, **NOTHING_ELSE}
    assert (await post(rig, "/feedback", {"labels": labels})).json()["duplicate"] == 2
    rig.monitor.hangs = True
    away = (await post(rig, "/feedback", {"labels": [{"id": "c", "label": 1}]})).json()
    assert (away["accepted"], away["monitor"]) == (1, "unavailable")
    (name,) = rig.files.names("labels/flights")
    assert rig.files.read(name).count(b"\n") == 5


@run
async def test_feedback_of_the_wrong_type_names_the_row(rig: Any) -> None:
    await rig.apply()
    response = await post(rig, "/feedback", {"labels": [{"id": "a", "label": 1}, {"id": "b", "label": "maybe"}]})
    assert response.status_code == 400
    assert response.json()["error"]["where"] == "labels[1].label"
    assert list(rig.files.names("labels")) == []


@run
async def test_paths_and_methods(rig: Any) -> None:
    await rig.apply()
    response = await get(rig, "/predict")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    wrong = await post(rig, "/monitoring")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    near = await get(rig, "/monitorin")
    assert (near.status_code, near.json()["error"]["remedy"]) == (404, "did you mean /monitoring?")
    index = (await get(rig, "/")).json()
    assert index["models"] == {"flights": "/models/flights"}
    for link in index["links"]:
        if link != "/console":
            assert (await get(rig, link)).status_code == 200, link
    assert (await get(rig, "/models")).json()["models"][0]["champion"]["version"] == "1"
    async with rig.client() as client:
        assert (await client.head("/healthz")).status_code == 200


@run
async def test_explain(rig: Any) -> None:
    class Explainer:
        def explain(self, model: str, prediction_id: str) -> dict[str, Any]:
            if prediction_id != "a-0":
                raise NotFoundError(f"no prediction {prediction_id!r}", "explain")
            return {"model": model, "id": prediction_id}

    await rig.apply()
    assert (await get(rig, "/explain/a-0")).status_code == 404
    rig.change(explainer=Explainer())
    assert (await get(rig, "/explain/a-0")).json() == {"model": "flights", "id": "a-0"}
    assert (await get(rig, "/explain/b")).status_code == 404
    assert (await get(rig, "/explain/..%2Fetc")).status_code == 404


@run
async def test_console_is_mounted_and_its_changes_need_an_operator(rig: Any) -> None:
    seen = []

    async def console(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["root_path"], scope["path"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    await rig.apply()
    assert (await get(rig, "/console")).status_code == 404
    rig.change(console=console)
    assert (await get(rig, "/console/drift")).text == "page"
    assert seen == [("/console", "/console/drift")]
    assert (await post(rig, "/console/rollback")).status_code == 401
    assert (await post(rig, "/console/rollback", **OPERATOR)).status_code == 200


@run
async def test_bug_is_a_500_with_a_body(rig: Any, monkeypatch: Any) -> None:
    await rig.apply()
    monkeypatch.setattr(rig.log, "check_room", lambda rows: 1 / 0)
    response = await post(rig, "/predict", {"instances": [ROW]})
    assert response.status_code == 500
    assert "ZeroDivisionError" in response.json()["error"]["message"]
    assert rig.telemetry.num_in_flight == 0


@run
async def test_lifespan_is_answered(rig: Any) -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await rig.gateway({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_commands_wait_only_so_long(rig: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(parts, "CONTROL_TIMEOUT_S", 0.02)

    async def scenario() -> None:
        await rig.apply()
        rig.control.view = lambda model: asyncio.sleep(60)
        response = await get(rig, "/rollout")
        assert response.status_code == 503

    asyncio.run(scenario())


@run
async def test_multiclass_and_regression_answers(rig: Any, kit: Any) -> None:
    for task in ("multiclass", "regression"):
        rig.bundles["one"] = kit.build_bundle(task)
        await rig.apply(replace(kit.ROUTES, model=task, champion=Arm("1", "one", f"hash-{task}")), version=5)
        (answer,) = (await post(rig, f"/models/{task}/predict", {"instances": [ROW]})).json()["predictions"]
        values = rig.bundles["one"].predict([ROW]).values[0]
        if task == "regression":
            assert answer == values
        else:
            assert list(answer["probabilities"].values()) == values.tolist()
    await rig.log.flush()
    multiclass, regression = (
        pa.concat_tables([rig.files.read_table(name) for name in rig.files.names(f"predictions/{task}")])
        for task in ("multiclass", "regression")
    )
    assert [name for name in multiclass.column_names if name.startswith("prediction.")] == [
        f"prediction.{name}" for name in kit.CLASSES["multiclass"]
    ]
    assert np.isfinite(regression["prediction"].to_numpy()).all()


@run
async def test_requests_are_counted_in_their_slices_by_the_arm_they_were_assigned_to(rig: Any, kit: Any) -> None:
    rig.arms.behaviours["2"] = lambda rows: ConnectionError("gone")
    slices = (SliceColumn("carrier", values=("UA",)), SliceColumn("distance", edges=(500.0,)))
    await rig.apply(replace(kit.split(0.9999999), slices=slices))
    rows = [ROW, {"distance": None, "carrier": "ZZ"}]
    assert (await post(rig, "/predict", {"instances": rows})).status_code == 200
    assert (await post(rig, "/predict", {"instances": [ROW], "routing_key": "user-1"})).status_code == 200
    await post(rig, "/predict", {"instances": [ROW]}, x_model_version="2", **OPERATOR)
    counted = tally(rig, "candidate")
    assert counted.slices == ((0, 1, 1, 0), (1, 1, 1, 0), (3, 1, 1, 0), (5, 1, 1, 0)), "UA, other, near, no distance"
    assert [number for number, _, _ in counted.slice_keys] == [0, 3]


@run
async def test_request_that_the_champion_fails_leaves_no_row_and_counts_in_its_slice(rig: Any, kit: Any) -> None:
    slices = (SliceColumn("carrier", values=("UA",)),)
    await rig.apply(replace(kit.split(1e-9), slices=slices))
    rig.bundles["one"].model.fault = lambda: float("nan")
    assert (await post(rig, "/predict", {"instances": [ROW]})).status_code == 500
    assert tally(rig, "champion").slices == ((0, 1, 1, 0),)
    assert rig.log.accounting["accepted"] == 0
