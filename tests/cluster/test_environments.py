"""Versions on trial with packages of their own, which pip and uv fetch from a package index: `make nodes`."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import ray

from ray_mlops.config import ServingConfig, StoreConfig, with_overrides
from ray_mlops.errors import RolloutError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.arm_start import start_arm
from ray_mlops.serving.launch import launch_gateway, shutdown_gateway
from ray_mlops.serving.protocol import NAMESPACE, ROUTES_ACTOR, Arm, Hooks, ModelRoutes
from ray_mlops.serving.routes import commit_routes, start_routes
from ray_mlops.serving.serve_apps import arm_versions
from ray_mlops.serving.serve_arms import ServeArmControl
from tests.integration.conftest import ray_cluster  # noqa: F401
from tests.integration.gateways import MODEL, ROW, make_config, record_deployed, save_bundle, wait_until

REQUIREMENT = "inflection==0.5.1"
MODULE = """
import inflection
from ray_mlops.training.models import tabular

def own(spec, **params):
    assert inflection.pluralize("flight") == "flights"
    return tabular(spec, **params)
"""
FACTORY = "factory_with_a_package:own"


@pytest.fixture
def store(ray_cluster: str, tmp_path: Path) -> Iterator[StoreConfig]:  # noqa: F811
    yield StoreConfig(root=str(tmp_path / "store"))
    shutdown_gateway()
    ray.kill(ray.get_actor(ROUTES_ACTOR, namespace=NAMESPACE))


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_version_has_a_package_that_the_gateway_lacks(store: StoreConfig, tmp_path: Path, installer: str) -> None:
    with pytest.raises(ImportError):
        __import__("inflection")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "factory_with_a_package.py").write_text(MODULE)
    config = make_config(store, {"placement": "deployment"}, {"prepare_timeout_s": 300.0})
    own = {
        "training.model": FACTORY,
        "rollout.candidate.runtime_env.py_modules": [str(tmp_path / "modules")],
        f"rollout.candidate.runtime_env.{installer}": [REQUIREMENT],
    }
    trial = with_overrides(config, own)
    files, ledger = Files(store.root_uri), Ledger.open(store)
    plain, special = save_bundle(files, config, 1), save_bundle(files, config, 2, FACTORY)
    key = record_deployed(ledger, config)
    first, second = Arm("1", plain.uri, plain.hash, "isolated"), Arm("2", special.uri, special.hash, "isolated")
    routes = commit_routes(ledger, ModelRoutes(MODEL, 0, first, config_hash=key), 0)
    publisher = start_routes(store)
    address = launch_gateway(store, ServingConfig(port=0, cpus_per_replica=0.1), Hooks())
    start_arm(MODEL, "1", plain.uri, config, 1.0)
    start_arm(MODEL, "2", special.uri, trial, 1.0)
    assert asyncio.run(ServeArmControl().check(MODEL, "2", special.uri, trial)) == ""

    def version() -> str:
        answer = httpx.post(f"{address.url}/predict", json={"instances": [ROW]}, timeout=60, trust_env=False)
        return str(answer.json().get("version"))

    assert version() == "1"
    commit_routes(ledger, replace(routes, champion=second), routes.version)
    ray.get(publisher.publish.remote(), timeout=10)
    wait_until(lambda: version() == "2", "answers of the second")


def test_package_that_does_not_exist_is_refused_with_pip_s_words(store: StoreConfig) -> None:
    config = make_config(store, {"placement": "deployment"}, {"prepare_timeout_s": 300.0})
    trial = with_overrides(config, {"rollout.candidate.runtime_env.pip": ["no-such-package-of-ours==1.0"]})
    bundle = save_bundle(Files(store.root_uri), config, 1)
    start_routes(store)
    launch_gateway(store, ServingConfig(port=0, cpus_per_replica=0.1), Hooks())
    with pytest.raises(RolloutError, match=r"rollout\.candidate\.runtime_env: the environment cannot be built") as told:
        start_arm(MODEL, "1", bundle.uri, trial, 1.0)
    assert "no-such-package-of-ours" in str(told.value)
    assert not arm_versions(MODEL)
