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
_POLL_S = 0.02


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


def wait_for_version(address: GatewayAddress, model: str, version: str, timeout_s: float) -> None:
    """Wait until every replica of the gateway answers for a version: whichever is asked next knows it.

    Raises:
        DeadlineError: They do not in time.
    """
    deadline = time.monotonic() + timeout_s
    ready: set[str] = set()
    seen = ""
    while time.monotonic() < deadline:
        try:  # by a new connection each time: the ingress gives it to the next replica
            response = httpx.get(f"{address.url}/models", timeout=5.0, trust_env=False)
        except httpx.HTTPError as error:  # a replica that has just died is replaced
            seen = repr(error)
        else:
            seen = response.text[:300]
            if response.is_success and _serves(response.json(), model, version):
                ready.add(response.json()["replica"])
        if len(ready) >= address.replicas:
            return
        time.sleep(_POLL_S)
    problem = f"version {version} is served by {len(ready)} of {address.replicas} replicas; one says {seen}"
    raise DeadlineError(problem, f"model {model!r}")


def _serves(content: dict[str, Any], model: str, version: str) -> bool:
    described = {entry["name"]: entry["champion"]["version"] for entry in content["models"]}
    return str(described.get(model)) == version
