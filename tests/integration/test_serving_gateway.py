"""The gateway on a real Serve: an isolated candidate that is killed, a route publisher that dies, a cold restart."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import torch
from ray import serve

from ray_mlops.config import ProjectConfig, ServingConfig, StoreConfig
from ray_mlops.errors import ClusterError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.launch import GatewayAddress, launch_gateway, shutdown_gateway
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, Arm, Hooks, ModelRoutes
from ray_mlops.serving.routes import commit_routes, start_routes
from ray_mlops.serving.serve_apps import arm_app, candidate_application, run_app, start_gate, stop_gate
from ray_mlops.training.bundle import BundleRef, ModelBundle
from tests.integration.gateways import MODEL, ROW, Load, make_config, record_deployed, save_bundle, wait_until


@dataclass
class Service:
    """A running gateway and what stands behind it."""

    address: GatewayAddress
    store: StoreConfig
    config: ProjectConfig
    ledger: Ledger
    bundles: list[BundleRef]
    publisher: Any
    routes: ModelRoutes

    def commit(self, routes: ModelRoutes) -> None:
        self.routes = commit_routes(self.ledger, routes, self.routes.version)
        ray.get(self.publisher.publish.remote(), timeout=10)

    def arm(self, index: int, weight: float = 1.0, placement: Any = "in_replica") -> Arm:
        bundle = self.bundles[index]
        return Arm(str(index + 1), bundle.uri, bundle.hash, placement, weight)

    def wait_for_version(self, version: int) -> None:
        wait_until(lambda: self.get("/models").json()["models"][0]["route_version"] == version, f"routes {version}")

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.address.url + path, timeout=10, trust_env=False)


@pytest.fixture(scope="module")
def service(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = StoreConfig(root=str(tmp_path_factory.mktemp("store")))
    config = make_config(store, {"candidate_timeout_s": 2.0}, {})
    files, ledger = Files(store.root_uri), Ledger.open(store)
    bundles = [save_bundle(files, config, seed) for seed in (1, 2)]
    key = record_deployed(ledger, config)
    champion = Arm("1", bundles[0].uri, bundles[0].hash)
    routes = commit_routes(ledger, ModelRoutes(MODEL, 0, champion, config_hash=key), 0)
    publisher = start_routes(store)
    serving = ServingConfig(port=0, cpus_per_replica=0.1, candidate_timeout_s=2.0)
    address = launch_gateway(store, serving, Hooks())
    yield Service(address, store, config, ledger, bundles, publisher, routes)
    shutdown_gateway()
    ray.kill(ray.get_actor(ROUTES_ACTOR, namespace=NAMESPACE))


def test_gateway_answers_and_is_launched_once(service: Service) -> None:
    response = httpx.post(f"{service.address.url}/predict", json={"instances": [ROW, ROW]}, trust_env=False)
    assert response.status_code == 200, response.text
    assert response.json()["arm"] == "champion"
    assert len(response.headers.get_list("x-request-id")) == 1
    again = launch_gateway(service.store, ServingConfig(port=0), Hooks())
    assert again.url == service.address.url
    other = service.store.model_copy(update={"database": "sqlite:////elsewhere/ledger.db"})
    with pytest.raises(ClusterError, match="elsewhere"):
        launch_gateway(other, ServingConfig(port=0), Hooks())


def test_gate_replica_gives_parity_over_http(service: Service) -> None:
    ref = service.bundles[1]
    prefix = start_gate(MODEL, ref.uri, ref.hash, service.config, 60)
    bundle = ModelBundle.load(ref.uri)
    rows = bundle.parity.rows.slice(0, 7).to_pylist()
    wait_until(lambda: service.get(f"{prefix}/stats").status_code == 200, "the gate's route")
    url = service.address.url + prefix
    features = httpx.post(f"{url}/features", json={"instances": rows}, trust_env=False).json()
    assert torch.equal(torch.tensor(features["numeric"]), torch.from_numpy(bundle.parity.features.numeric[:7]))
    values = httpx.post(f"{url}/predict", json={"instances": rows}, trust_env=False).json()["values"]
    assert values == bundle.predict(rows).values.tolist()
    assert service.get(f"{prefix}/stats").json()["peak_rss_bytes"] > 1e7
    stop_gate(MODEL, ref.hash)


def test_killed_candidate_and_dead_publisher_fail_no_request(service: Service) -> None:
    candidate = service.arm(1, 0.5, "isolated")
    run_app(candidate_application(candidate.bundle, service.config), arm_app(MODEL, "2"), None, 60)
    with Load(service.address.url, num_clients=4) as load:
        service.commit(replace(service.routes, candidate=candidate, salt=11, rollout_id="r1"))
        service.wait_for_version(service.routes.version)
        wait_until(lambda: load.arms["candidate"] > 20, "answers of the candidate")
        kill_candidate()
        before = load.arms["champion"]
        wait_until(lambda: load.arms["champion"] > before + 100, "answers after the candidate died")
        ray.kill(service.publisher, no_restart=False)
        before = sum(load.arms.values())
        wait_until(lambda: sum(load.arms.values()) > before + 100, "answers while the publisher is away")
        service.routes = commit_routes(service.ledger, replace(service.routes, candidate=None), service.routes.version)
        service.wait_for_version(service.routes.version)
    assert load.failures == []
    text = service.get("/metrics").text
    assert 'ray_mlops_monitor_up{replica="' in text
    crashed = [line for line in text.splitlines() if 'arm="candidate"' in line and 'outcome="crashed"' in line]
    assert crashed, text
    assert float(crashed[0].rpartition(" ")[2]) > 0


def kill_candidate() -> None:
    """SIGKILL the candidate's process."""
    handle = serve.get_deployment_handle("CandidateArm", arm_app(MODEL, "2"))
    os.kill(int(handle.ping.remote().result(timeout_s=10).partition("-")[0]), signal.SIGKILL)


def test_log_accounts_for_every_row(service: Service) -> None:
    directory = service.store.local_root / "accounting"

    def rows() -> int:
        return read_predictions(Files(service.store.root_uri), MODEL, columns=["prediction_id"]).num_rows

    (path,) = directory.glob("*.bin")
    assert isinstance(path, Path)
    with pytest.raises(BlockingIOError):
        Accounting(path)

    def counts() -> dict[str, float]:
        lines = [line for line in service.get("/metrics").text.splitlines() if line.startswith("ray_mlops_log_rows")]
        return {line.split('state="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}

    wait_until(lambda: counts()["accepted"] == counts()["written"] == rows(), "every row in the log")
    assert counts()["dropped"] == counts()["lost"] == 0
