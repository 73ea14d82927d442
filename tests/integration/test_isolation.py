"""Versions in applications of their own on a real Serve: environments, room, deaths, and a champion behind a handle."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from ray_mlops.config import ProjectConfig, ServingConfig, StoreConfig, with_overrides
from ray_mlops.errors import ResourceError, RolloutError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.arm_start import start_arm
from ray_mlops.serving.arm_state import read_replicas
from ray_mlops.serving.launch import GatewayAddress, launch_gateway, shutdown_gateway
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, Arm, Hooks, ModelRoutes
from ray_mlops.serving.routes import commit_routes, start_routes
from ray_mlops.serving.serve_apps import ARM_DEPLOYMENT, app_status, arm_app, arm_versions
from ray_mlops.serving.serve_arms import ServeArmControl
from ray_mlops.training.bundle import BundleRef, ModelBundle
from tests.integration.gateways import MODEL, ROW, Load, make_config, record_deployed, save_bundle, wait_until

SERVING = {"candidate_timeout_s": 5.0, "placement": "deployment"}
MODULE = """
import os
from ray_mlops.training.models import tabular

def own(spec, **params):
    assert os.environ["ARM_SAYS"] == "hello"
    return tabular(spec, **params)
"""


@dataclass
class Service:
    """A gateway whose champion runs in an application of its own."""

    address: GatewayAddress
    config: ProjectConfig
    ledger: Ledger
    files: Files
    bundles: list[BundleRef]
    publisher: Any
    routes: ModelRoutes

    def arm(self, index: int) -> Arm:
        return Arm(str(index + 1), self.bundles[index].uri, self.bundles[index].hash, "isolated")

    def commit(self, routes: ModelRoutes) -> None:
        self.routes = commit_routes(self.ledger, routes, self.routes.version)
        ray.get(self.publisher.publish.remote(), timeout=10)

    def ask(self) -> httpx.Response:
        return httpx.post(f"{self.address.url}/predict", json={"instances": [ROW]}, timeout=60, trust_env=False)


@pytest.fixture(scope="module")
def service(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = StoreConfig(root=str(tmp_path_factory.mktemp("store")))
    config = make_config(store, SERVING, {"prepare_timeout_s": 60.0})
    files, ledger = Files(store.root_uri), Ledger.open(store)
    bundles = [save_bundle(files, config, seed) for seed in (1, 2)]
    key = record_deployed(ledger, config)
    champion = Arm("1", bundles[0].uri, bundles[0].hash, "isolated")
    routes = commit_routes(ledger, ModelRoutes(MODEL, 0, champion, config_hash=key), 0)
    publisher = start_routes(store)
    address = launch_gateway(store, ServingConfig(port=0, cpus_per_replica=0.1, request_timeout_s=20.0), Hooks())
    yield Service(address, config, ledger, files, bundles, publisher, routes)
    shutdown_gateway()
    ray.kill(ray.get_actor(ROUTES_ACTOR, namespace=NAMESPACE))


def pid_of(version: str) -> int:
    handle = serve.get_deployment_handle(ARM_DEPLOYMENT, arm_app(MODEL, version))
    return int(handle.ping.remote().result(timeout_s=10).partition("-")[0])


def is_gone(version: str) -> bool:
    return app_status(arm_app(MODEL, version))[0] is None


def test_champion_behind_a_handle_is_promoted_without_a_gap(service: Service) -> None:
    """The gateway starts without the champion's process, and needs none of its weights."""
    start_arm(MODEL, "1", service.bundles[0].uri, service.config, 1.0)
    answer = service.ask()
    assert (answer.status_code, answer.json()["arm"], answer.json()["version"]) == (200, "champion", "1"), answer.text
    expected = ModelBundle.load(service.bundles[0].uri).predict([ROW]).to_json()
    assert answer.json()["predictions"][0]["probability"] == pytest.approx(expected[0]["probability"], abs=1e-6)
    start_arm(MODEL, "2", service.bundles[1].uri, service.config, 1.0)
    with Load(service.address.url) as load:
        wait_until(lambda: load.versions["1"] > 20, "answers of the first")
        service.commit(replace(service.routes, champion=service.arm(1), previous=service.arm(0)))
        wait_until(lambda: load.versions["2"] > 20, "answers of the second")
        service.commit(replace(service.routes, champion=service.arm(0), previous=None))
        first = load.versions["1"]
        wait_until(lambda: load.versions["1"] > first + 20, "answers after the rollback")
    assert load.failures == []


def test_killed_champion_is_asked_again_when_it_is_back(service: Service) -> None:
    """A mistake is 400 still; what is asked while the process is away is answered, or told to come back."""
    bad = httpx.post(
        f"{service.address.url}/predict", json={"instances": [{**ROW, "distance": "far"}]}, trust_env=False
    )
    assert bad.status_code == 400, bad.text
    os.kill(pid_of("1"), signal.SIGKILL)
    answers = [service.ask() for _ in range(3)]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    wait_until(lambda: service.ask().status_code == 200, "the champion to come back")


def test_replicas_are_added_in_place_and_a_full_cluster_says_what_is_free(service: Service) -> None:
    control = ServeArmControl()
    config = with_overrides(service.config, {"rollout.candidate.num_replicas": 2, "rollout.prepare_timeout_s": 30.0})
    before = read_replicas(arm_app(MODEL, "2"), ARM_DEPLOYMENT).running
    assert len(before) == 1
    assert asyncio.run(control.scale(MODEL, "2", 0.5, config)) == "2 replicas: rollout.candidate.num_replicas"
    after = read_replicas(arm_app(MODEL, "2"), ARM_DEPLOYMENT).running
    assert len(after) == 2
    assert before.items() <= after.items(), "the one that ran goes on"
    asyncio.run(control.stop(MODEL, "2"))
    wait_until(lambda: is_gone("2"), "the arm to go")
    greedy = with_overrides(config, {"rollout.candidate.cpus": 3.0, "rollout.candidate.num_replicas": "auto"})
    start_arm(MODEL, "2", service.bundles[1].uri, greedy, 0.05)
    greedy = with_overrides(greedy, {"rollout.candidate.num_replicas": 2, "rollout.prepare_timeout_s": 4.0})
    with pytest.raises(ResourceError, match=r"asked for 2 replicas of 3 CPU each, 1 runs; free: 0\.\d+ of 4 CPU"):
        asyncio.run(control.scale(MODEL, "2", 0.5, greedy))
    wait_until(lambda: read_replicas(arm_app(MODEL, "2"), ARM_DEPLOYMENT).target == 1, "the rest is not waited for")
    asyncio.run(control.stop(MODEL, "2"))
    wait_until(lambda: is_gone("2"), "the arm to go")


def test_dead_replica_is_told_with_its_cause(service: Service) -> None:
    control = ServeArmControl()

    async def scene() -> tuple[str, str]:
        await control.start(MODEL, "2", service.bundles[1].uri, service.config, 0.05)
        assert await control.ready(MODEL, "2") == ("ready", "")
        os.kill(await asyncio.to_thread(pid_of, "2"), signal.SIGKILL)
        deadline = time.monotonic() + 30.0
        while (health := await control.ready(MODEL, "2"))[0] != "failed":
            assert time.monotonic() < deadline, health
            await asyncio.sleep(0.1)
        return health

    health, detail = asyncio.run(scene())
    assert health == "failed"
    assert detail.startswith("its process died ("), detail
    asyncio.run(control.stop(MODEL, "2"))
    wait_until(lambda: is_gone("2"), "the arm to go")


def test_version_has_modules_and_variables_that_the_gateway_lacks(service: Service, tmp_path: Path) -> None:
    """Its factory is a module of its own; the gateway describes it without loading it."""
    (tmp_path / "factory_of_the_arm.py").write_text(MODULE)
    own = "factory_of_the_arm:own"
    settings = {
        "training.model": own,
        "rollout.candidate.runtime_env.py_modules": [str(tmp_path)],
        "rollout.candidate.runtime_env.env_vars": {"ARM_SAYS": "hello"},
    }
    config = with_overrides(service.config, settings)
    bundle = save_bundle(service.files, service.config, 3, own)
    start_arm(MODEL, "3", bundle.uri, config, 0.05)
    assert asyncio.run(ServeArmControl().check(MODEL, "3", bundle.uri, config)) == ""
    assert "3" in arm_versions(MODEL)
    service.commit(replace(service.routes, champion=Arm("3", bundle.uri, bundle.hash, "isolated")))
    wait_until(lambda: service.ask().json().get("version") == "3", "answers of the third")
    service.commit(replace(service.routes, champion=service.arm(0)))
    wait_until(lambda: service.ask().json().get("version") == "1", "answers of the first")
    asyncio.run(ServeArmControl().stop(MODEL, "3"))


def test_environment_that_cannot_be_built_is_refused_before_serve_is_asked(service: Service, tmp_path: Path) -> None:
    settings = {"rollout.candidate.runtime_env.py_modules": [str(tmp_path / "absent")]}
    config = with_overrides(service.config, settings)
    with pytest.raises(
        RolloutError, match=r"rollout\.candidate\.runtime_env: the environment cannot be built: .*absent"
    ):
        start_arm(MODEL, "4", service.bundles[1].uri, config, 0.05)
    assert is_gone("4")
    assert service.ask().json()["version"] == "1"
