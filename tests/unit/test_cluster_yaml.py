"""``cluster.yaml`` is what ``ray up`` takes, and sets what our own launcher sets. Checked offline, by Ray's code."""

import copy
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from ray_mlops.runtime.environment import DRIVER_SETTINGS, HAPROXY_SETTINGS, SERVE_SETTINGS

ROOT = Path(__file__).resolve().parents[2]
FOR_ONE_MACHINE = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S"}
"""Behind an outer load balancer Ray's own 30 s are right."""


@pytest.fixture
def config() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return content


def check(config: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(config)))


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    check(config)
    assert set(config["available_node_types"]) == {"head", "cpu_worker", "gpu_worker"}


def typo(config: dict[str, Any]) -> None:
    config["max_workres"] = config.pop("max_workers")


def wrong_type(config: dict[str, Any]) -> None:
    config["idle_timeout_minutes"] = "ten"


def unknown_head(config: dict[str, Any]) -> None:
    config["head_node_type"] = "heads"


def typo_in_a_node_type(config: dict[str, Any]) -> None:
    config["available_node_types"]["cpu_worker"]["node_confg"] = {}


@pytest.mark.parametrize("damage", [typo, wrong_type, unknown_head, typo_in_a_node_type])
def test_ray_refuses_a_mistake(config: dict[str, Any], damage: Callable[[dict[str, Any]], None]) -> None:
    damage(config)
    with pytest.raises(Exception, match=r"max_workres|ten|head_node_type|node_confg"):
        check(config)


def test_environment_is_that_of_our_own_launcher(config: dict[str, Any]) -> None:
    (script,) = (command for command in config["setup_commands"] if "ray_mlops.env" in command)
    found = dict(re.findall(r"^(RAY_\w+)=(\S+)$", script, re.MULTILINE))
    ours = DRIVER_SETTINGS | SERVE_SETTINGS | HAPROXY_SETTINGS | {"RAY_AUTH_MODE": "token"}
    assert found == {name: value for name, value in ours.items() if name not in FOR_ONE_MACHINE}
    for role in ("head", "worker"):
        assert ". /home/ray/ray_mlops.env" in config[f"{role}_start_ray_commands"][-1]
    assert "RAY_gcs_storage=rocksdb" in config["head_start_ray_commands"][-1]


def test_images_have_the_installed_ray(config: dict[str, Any]) -> None:
    gpu = config["available_node_types"]["gpu_worker"]["docker"]["worker_image"]
    for image in (config["docker"]["image"], gpu):
        assert f"ray:{version('ray')}-py311" in image


def test_extras_for_a_shared_store_are_installed(config: dict[str, Any]) -> None:
    assert any("[postgres,s3]" in command for command in config["setup_commands"])
