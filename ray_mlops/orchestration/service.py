"""The service on a cluster: three detached actors and the gateway, started once."""

import time
from typing import Any

import httpx
import ray

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import DeadlineError
from ray_mlops.monitoring.actor import start_monitor
from ray_mlops.runtime.addresses import record_url
from ray_mlops.runtime.record import service_lock
from ray_mlops.serving.launch import GatewayAddress, launch_gateway
from ray_mlops.serving.protocol import Hooks
from ray_mlops.serving.rollout.actor import start_rollouts
from ray_mlops.serving.routes import start_routes

HOOKS = Hooks(
    prediction_sink="ray_mlops.monitoring.actor:prediction_sink",
    label_sink="ray_mlops.monitoring.actor:monitor_client",
    monitor_view="ray_mlops.monitoring.actor:monitor_client",
    explainer="ray_mlops.orchestration.explain:explainer",
    console="ray_mlops.console.app:console",
)
SUBMITTER = "ray_mlops.orchestration.submit:submitter"


def ensure_service(config: ProjectConfig) -> GatewayAddress:
    """Start what is not running yet; harmless to repeat.

    Raises:
        ClusterError: The gateway failed to start, or works with another ledger.
        DeadlineError: It does not answer in time.
    """
    store = config.store
    with service_lock(store, config.cluster.step_timeout_s):
        start_routes(store)
        start_rollouts(store, HOOKS)
        monitor = start_monitor(store, SUBMITTER)
        ray.get(monitor.start.remote(), timeout=config.cluster.step_timeout_s)
        address = launch_gateway(store, config.serving, HOOKS)
    record_url(store, address.url)
    return address


def wait_for_version(url: str, model: str, version: str, timeout_s: float) -> None:
    """Wait until the gateway answers for a version.

    Raises:
        DeadlineError: It does not in time.
    """
    deadline = time.monotonic() + timeout_s
    seen = ""
    with httpx.Client(base_url=url, timeout=5.0, trust_env=False) as client:
        while time.monotonic() < deadline:
            response = client.get("/models")
            seen = response.text[:300]
            if response.is_success and _serves(response.json(), model, version):
                return
            time.sleep(0.05)
    raise DeadlineError(f"version {version} is not served; the gateway says {seen}", f"model {model!r}")


def _serves(content: dict[str, Any], model: str, version: str) -> bool:
    described = {entry["name"]: entry["champion"]["version"] for entry in content["models"]}
    return str(described.get(model)) == version
