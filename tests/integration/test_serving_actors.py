"""The detached actors on a real cluster: long polls, deaths, and a whole rollout behind a real gateway."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from ray_mlops.config import ServingConfig, StoreConfig
from ray_mlops.ledger import Ledger
from ray_mlops.registry import MlflowRegistry
from ray_mlops.runtime.files import Files
from ray_mlops.serving.auth import load_tokens
from ray_mlops.serving.launch import launch_gateway, shutdown_gateway
from ray_mlops.serving.protocol import NAMESPACE, ROLLOUTS_ACTOR, ROUTES_ACTOR, Arm, Hooks, ModelRoutes, RouteTable
from ray_mlops.serving.rollout.actor import start_rollouts
from ray_mlops.serving.routes import commit_routes, read_table, start_routes
from ray_mlops.serving.serve_apps import arm_app
from ray_mlops.training.bundle import BundleRef
from tests.integration.gateways import MODEL, Load, make_config, record_deployed, save_bundle, wait_until

ROLLOUT = {
    "shadow": {"enabled": False},
    "steps": [0.2, 0.5],
    "min_requests": 10,
    "bake_requests": 10,
    "guards": {
        "error_limit": 0.1,
        "latency_slo_ms": 60_000,
        "dry_run": ["loss", "latency", "score_shift"],
        "slices": ["carrier", "distance"],
    },
}


def kill_named(name: str, for_good: bool) -> None:
    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=for_good)
    except ValueError:
        assert for_good


@pytest.fixture
def store(ray_cluster: str, tmp_path: Path) -> Iterator[StoreConfig]:
    yield StoreConfig(root=str(tmp_path))
    for name in (ROLLOUTS_ACTOR, ROUTES_ACTOR):
        kill_named(name, for_good=True)


def register(ledger: Ledger, registry: MlflowRegistry, version: str, bundle: BundleRef, *, passed: bool = True) -> None:
    registry.create_version(MODEL, bundle.uri, run_id=None, tags={}, key=version)
    payload = {"version": version, "bundle": bundle.uri, "bundle_hash": bundle.hash, "gate": {"passed": passed}}
    ledger.append(f"{MODEL}/versions", "version.registered", f"{MODEL}/versions/{version}", payload)


def test_routes_actor_wakes_waiters_and_survives_its_death(store: StoreConfig) -> None:
    ledger, champion = Ledger.open(store), Arm("1", "a", "x")
    first = commit_routes(ledger, ModelRoutes("m", 0, champion), 0)
    actor = start_routes(store)
    table = RouteTable.from_json(ray.get(actor.table.remote(), timeout=60))
    assert table.models == {"m": first}

    waiting = [actor.wait.remote(table.version, 30.0) for _ in range(3)]
    second = commit_routes(ledger, ModelRoutes("m", 0, champion, salt=5), 1)
    started = time.monotonic()
    ray.get(actor.publish.remote(), timeout=10)
    assert [RouteTable.from_json(t).models["m"] for t in ray.get(waiting, timeout=10)] == [second] * 3
    assert time.monotonic() - started < 5.0

    third = commit_routes(ledger, ModelRoutes("m", 0, champion, salt=6), 2)  # whoever committed died before publishing
    found = RouteTable.from_json(ray.get(actor.wait.remote(read_table(ledger).version - 1, 0.1), timeout=10))
    assert found.models["m"] == third

    before = ray.get(actor.pid.remote(), timeout=10)
    ray.kill(actor, no_restart=False)
    wait_until(lambda: pid_of(actor) not in (None, before), "the routes actor to come back")
    assert RouteTable.from_json(ray.get(actor.table.remote(), timeout=60)).models["m"] == third
    assert start_routes(store) == actor


def pid_of(actor: Any) -> int | None:
    try:
        return int(ray.get(actor.pid.remote(), timeout=10))
    except ray.exceptions.RayError:
        return None


def test_rollout_promotes_once_though_its_actor_dies(store: StoreConfig) -> None:
    config = make_config(store, {"candidate_timeout_s": 10.0}, ROLLOUT)
    files, ledger = Files(store.root_uri), Ledger.open(store)
    registry, digest = MlflowRegistry(store.tracking_uri), record_deployed(ledger, config)
    bundles = [save_bundle(files, config, seed) for seed in (1, 2)]
    register(ledger, registry, "1", bundles[0])
    commit_routes(ledger, ModelRoutes(MODEL, 0, Arm("1", bundles[0].uri, bundles[0].hash), config_hash=digest), 0)
    start_routes(store)
    start_rollouts(store, Hooks())
    address = launch_gateway(store, ServingConfig(port=0, cpus_per_replica=0.1, candidate_timeout_s=10.0), Hooks())

    def state() -> str:
        moved = ledger.last(f"{MODEL}/rollout", "rollout.moved")
        return str(moved.payload["to"]) if moved else ""

    try:
        with Load(address.url) as load:
            register(ledger, registry, "2", bundles[1])
            wait_until(lambda: state().startswith("canary"), "the canary")
            kill_named(ROLLOUTS_ACTOR, for_good=False)
            wait_until(lambda: state() == "promoted", "the promotion")
            answered = load.versions["2"]
            wait_until(lambda: load.versions["2"] > answered + 20, "answers of the new champion")
        view = httpx.get(f"{address.url}/rollout", timeout=20, trust_env=False).json()
    finally:
        shutdown_gateway()

    assert load.failures == []
    moves = [f"{m.payload['from']}->{m.payload['to']}" for m in ledger.read(f"{MODEL}/rollout", kind="rollout.moved")]
    assert moves == [
        *("pending->validating", "validating->preparing", "preparing->canary[0]", "canary[0]->canary[1]"),
        *("canary[1]->promoting", "promoting->baking", "baking->promoted"),
    ]
    promoting = next(m for m in ledger.read(f"{MODEL}/rollout") if m.payload.get("to") == "promoting")
    guards = {guard["name"]: guard for guard in promoting.payload["evidence"]["guards"]}
    assert {found["slice"] for found in guards["slices"]["slices"]} == {"carrier=UA", "distance 150 to 250"}
    assert guards["slices"]["verdict"] == "pass"
    assert (view["state"], view["routes"]["champion"]["version"]) == ("promoted", "2")
    assert registry.aliases(MODEL) == {"champion": "2", "previous": "1"}
    assert ledger.verify().ok


def test_shadow_outlives_the_actor_and_its_own_death_costs_nobody_else(store: StoreConfig) -> None:
    config = make_config(store, {"candidate_timeout_s": 10.0}, ROLLOUT)
    files, ledger = Files(store.root_uri), Ledger.open(store)
    registry, digest = MlflowRegistry(store.tracking_uri), record_deployed(ledger, config)
    bundles = [save_bundle(files, config, seed) for seed in (1, 2)]
    register(ledger, registry, "1", bundles[0])
    register(ledger, registry, "2", bundles[1], passed=False)
    commit_routes(ledger, ModelRoutes(MODEL, 0, Arm("1", bundles[0].uri, bundles[0].hash), config_hash=digest), 0)
    start_routes(store)
    start_rollouts(store, Hooks())
    address = launch_gateway(store, ServingConfig(port=0, cpus_per_replica=0.1), Hooks())
    headers = {"authorization": f"Bearer {load_tokens(Files(store.root_uri))['operate']}"}

    def command(verb: str, **content: Any) -> httpx.Response:
        url = f"{address.url}/rollout/{verb}"
        return httpx.post(url, json=content, headers=headers, timeout=20, trust_env=False)

    def shadow() -> dict[str, Any]:
        answer = httpx.get(f"{address.url}/rollout", timeout=20, trust_env=False)
        found = answer.json().get("shadows") or [{}] if answer.is_success else [{}]
        return dict(found[0])

    def rows() -> int:
        return int(shadow().get("disagreement", {}).get("rows", 0))

    try:
        with Load(address.url) as load:
            assert command("shadow", version="2", by="ann").status_code == 200
            wait_until(lambda: rows() > 0, "rows scored by the shadow")
            kill_named(ROLLOUTS_ACTOR, for_good=False)
            before = sum(load.versions.values())
            wait_until(lambda: rows() > before, "rows scored after the actor's death")
            handle = serve.get_deployment_handle("CandidateArm", arm_app(MODEL, "2"))
            os.kill(int(handle.ping.remote().result(timeout_s=10).partition("-")[0]), signal.SIGKILL)
            wait_until(lambda: shadow().get("state") == "failed", "the death of the shadow to be noticed")
        assert command("abort").status_code == 409
    finally:
        shutdown_gateway()

    assert load.failures == []
    assert set(load.versions) == {"1"}
    kinds = [event.kind for event in ledger.read(f"{MODEL}/shadows")]
    assert kinds == ["shadow.started", "shadow.stopped"]
    assert ledger.read(f"{MODEL}/rollout") == []
    assert read_table(ledger).models[MODEL].shadows == ()
