"""A small model behind a gateway: what the integration tests of serving have in common."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pyarrow as pa
import torch

from ray_mlops.config import ProjectConfig, StoreConfig, build_config, config_hash
from ray_mlops.data.profile import fit_features_and_profile
from ray_mlops.data.target import TargetEncoder
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.training.bundle import BundleRef, Manifest, ModelBundle
from ray_mlops.training.factory import build_model
from ray_mlops.training.models import ModelSpec

MODEL = "flights"
ROW = {"distance": 200.0, "carrier": "UA"}
TABULAR = "ray_mlops.training.models:tabular"


def wait_until(is_true: Callable[[], Any], what: str, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


def make_config(store: StoreConfig, serving: Mapping[str, Any], rollout: Mapping[str, Any]) -> ProjectConfig:
    content = {
        "name": MODEL,
        "store": store.model_dump(mode="json"),
        "data": {"source": {"path": "rows.parquet"}, "task": "binary", "target": "late"},
        "serving": {"cpus_per_replica": 0.1, **serving},
        "rollout": rollout,
    }
    return build_config(content, {})


def record_deployed(ledger: Ledger, config: ProjectConfig) -> str:
    """Record a configuration as deployed; returns its hash."""
    key = config_hash(config)
    payload = {"config": config.model_dump(mode="json"), "hash": key}
    ledger.append(f"{MODEL}/config", "config.deployed", f"{MODEL}/config/{key}", payload)
    return key


def save_bundle(files: Files, config: ProjectConfig, seed: int, factory: str = TABULAR) -> BundleRef:
    """Save a bundle with random weights; another factory must make the same network."""
    rows = {"distance": [100.0, 200.0, 300.0, None] * 30, "carrier": ["UA", "DL", "UA", None] * 30}
    table = pa.table({**rows, "late": [0, 1, 1, 0] * 30})
    features, profile, _ = fit_features_and_profile(table, config.data, config.monitoring)
    spec = ModelSpec("binary", len(features.numeric_names), features.categorical_sizes, 1)
    params = {"hidden": 8, "members": 2, "depth": 1}
    torch.manual_seed(seed)
    classes = TargetEncoder.fit(table, config.data).classes
    manifest = Manifest(MODEL, "binary", "late", classes, factory, params, spec)
    bundle = ModelBundle(manifest, features, build_model(TABULAR, spec, params), profile, None)  # type: ignore[arg-type]
    return bundle.with_parity(table.slice(0, 64)).save(files)


class Load:
    """Clients that ask as fast as they are answered, in threads, until the block is left."""

    def __init__(self, url: str, num_clients: int = 3) -> None:
        self.versions: Counter[str] = Counter()
        self.arms: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url, self._stop = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(num_clients)]

    def _ask(self) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    response = client.post(f"{self._url}/predict", json={"instances": [ROW]})
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    continue
                if response.status_code != 200:
                    self.failures.append(f"{response.status_code} {response.text[:200]}")
                    continue
                answer = response.json()
                self.versions[answer["version"]] += 1
                self.arms[answer["arm"]] += 1

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
