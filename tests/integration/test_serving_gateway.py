"""The gateway on a real Serve: an isolated candidate that is killed, a route publisher that dies, a cold restart."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import ray
import torch
from ray import serve

from ray_mlops.config import ProjectConfig, ServingConfig, StoreConfig, build_config, config_hash
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.errors import ClusterError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.launch import GatewayAddress, launch_gateway, shutdown_gateway
from ray_mlops.serving.prediction_log.accounting import Accounting
from ray_mlops.serving.prediction_log.files import read_predictions
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, Arm, Hooks, ModelRoutes
from ray_mlops.serving.routes import commit_routes, start_routes
from ray_mlops.serving.serve_apps import arm_app, candidate_application, run_app, start_gate, stop_gate
from ray_mlops.training.bundle import BundleRef, Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

MODEL = "flights"
ROW = {"distance": 200.0, "carrier": "UA"}


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


def wait_until(is_true: Any, what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def make_config(store: StoreConfig) -> ProjectConfig:
    content = {
        "name": MODEL,
        "store": store.model_dump(mode="json"),
        "data": {"source": {"path": "rows.parquet"}, "task": "binary", "target": "late"},
        "serving": {"candidate_timeout_s": 2.0, "cpus_per_replica": 0.1},
    }
    return build_config(content, {})


def save_bundle(files: Files, config: ProjectConfig, seed: int) -> BundleRef:
    """A bundle with random weights."""
    rows = {"distance": [100.0, 200.0, 300.0, None] * 30, "carrier": ["UA", "DL", "UA", None] * 30}
    table = pa.table({**rows, "late": [0, 1, 1, 0] * 30})
    features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    encoder = TargetEncoder.fit(table, config.data)
    spec = ModelSpec("binary", len(features.numeric_names), features.categorical_sizes, 1)
    params = {"hidden": 8, "members": 2, "depth": 1}
    factory = "ray_mlops.training.models:tabular"
    torch.manual_seed(seed)
    manifest = Manifest(MODEL, "binary", "late", encoder.classes, factory, params, spec)
    bundle = ModelBundle(manifest, features, build_model(factory, spec, params), profile, None)  # type: ignore[arg-type]
    return bundle.with_parity(table.slice(0, 64)).save(files)


@pytest.fixture(scope="module")
def service(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = StoreConfig(root=str(tmp_path_factory.mktemp("store")))
    files, ledger, config = Files(store.root_uri), Ledger.open(store), make_config(store)
    bundles = [save_bundle(files, config, seed) for seed in (1, 2)]
    key = config_hash(config)
    payload = {"config": config.model_dump(mode="json"), "hash": key}
    ledger.append(f"{MODEL}/config", "config.deployed", f"{MODEL}/config/{key}", payload)
    champion = Arm("1", bundles[0].uri, bundles[0].hash)
    routes = commit_routes(ledger, ModelRoutes(MODEL, 0, champion, config_hash=key), 0)
    publisher = start_routes(store)
    serving = ServingConfig(port=0, cpus_per_replica=0.1, candidate_timeout_s=2.0)
    address = launch_gateway(store, serving, Hooks())
    yield Service(address, store, config, ledger, bundles, publisher, routes)
    shutdown_gateway()
    ray.kill(ray.get_actor(ROUTES_ACTOR, namespace=NAMESPACE))


class Load:
    """Clients that ask as fast as they are answered, in threads, until the block is left."""

    def __init__(self, url: str, num_clients: int = 4) -> None:
        self.outcomes: Counter[tuple[int, str]] = Counter()
        self.failures: list[str] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=20, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(f"{self._url}/predict", json={"instances": [ROW]})
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if response.status_code != 200:
                    self.failures.append(f"{response.status_code} {response.text[:200]}")
                    continue
                self.outcomes[response.status_code, response.json()["arm"]] += 1

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


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
    with Load(service.address.url) as load:
        service.commit(replace(service.routes, candidate=candidate, salt=11, rollout_id="r1"))
        service.wait_for_version(service.routes.version)
        wait_until(lambda: load.outcomes[200, "candidate"] > 20, "answers of the candidate")
        kill_candidate()
        before = load.outcomes[200, "champion"]
        wait_until(lambda: load.outcomes[200, "champion"] > before + 100, "answers after the candidate died")
        ray.kill(service.publisher, no_restart=False)
        before = sum(load.outcomes.values())
        wait_until(lambda: sum(load.outcomes.values()) > before + 100, "answers while the publisher is away")
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
