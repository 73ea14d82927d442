"""Applications on Ray Serve: started, awaited with a deadline, deleted. Calls block; give them a thread."""

import logging
import time
from contextlib import suppress
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.schema import ApplicationStatus

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import ClusterError, DeadlineError
from ray_mlops.serving.arm_state import ArmReplicas, read_replicas, read_status, set_replicas
from ray_mlops.serving.candidate import CandidateArm, GateReplica
from ray_mlops.serving.loaded import trusted_modules
from ray_mlops.serving.rollout.sizing import actor_resources

logger = logging.getLogger(__name__)
POLL_S = 0.05
ARM_DEPLOYMENT = "CandidateArm"
QUIET = {"enable_access_log": False, "log_level": "WARNING"}
"""Logging of every application: Serve's access log flushes for each request."""
FAILED = (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY)
HEALTH_OPTIONS: dict[str, Any] = {
    "health_check_period_s": 1.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_timeout_s": 5.0,
    "graceful_shutdown_wait_loop_s": 0.1,
    "max_constructor_retry_count": 2,
}
"""A replica is missed within seconds; one that cannot be built fails after two attempts, not after twenty."""


def run_app(app: Application, name: str, route_prefix: str | None, timeout_s: float) -> None:
    """Start an application and wait until it runs; nothing happens when it runs already, or is being started.

    Raises:
        ClusterError: It failed to start; carries Serve's message. It is deleted again.
        DeadlineError: It took longer than ``timeout_s``. It is deleted again.
    """
    deadline = time.monotonic() + timeout_s
    target = serve.RunTarget(
        app, name=name, route_prefix=route_prefix, logging_config=QUIET, external_scaler_enabled=route_prefix is None
    )
    is_begun = False
    while True:
        status, message = app_status(name)
        if status == ApplicationStatus.RUNNING:
            return
        if status in FAILED and is_begun:
            serve.delete(name, _blocking=False)
            raise ClusterError(f"failed to start: {message}", f"application {name!r}", "see the replica's log")
        if status in (None, *FAILED) and not is_begun:  # running one that starts again would start it anew
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
            is_begun = True
        if time.monotonic() > deadline:
            serve.delete(name, _blocking=False)
            problem = f"not running after {timeout_s:g} s: {status.value if status else 'absent'} {message}"
            raise DeadlineError(problem, f"application {name!r}", "are there free CPUs? see 'ray status'")
        time.sleep(POLL_S)


def app_status(name: str) -> tuple[ApplicationStatus | None, str]:
    """State of an application (None: there is none), with the messages of its deployments.

    Raises:
        ClusterError: Serve's controller does not answer.
    """
    return read_status(name)


def delete_app(name: str) -> None:
    """Delete an application without waiting until it is gone; nothing happens when there is none."""
    if app_status(name)[0] is not None:
        serve.delete(name, _blocking=False)
        logger.info("deleted application name=%s", name)


def arm_app(model: str, version: str) -> str:
    """Name of the application that holds a version outside the gateway."""
    return f"{_arm_prefix(model)}{version}"


def arm_versions(model: str) -> frozenset[str]:
    """Versions of a model that have an application, as far as they are not being deleted."""
    prefix = _arm_prefix(model)
    found = serve.status().applications.items()
    names = [name for name, app in found if name.startswith(prefix) and app.status != ApplicationStatus.DELETING]
    # Versions are numbers: what has more to its name belongs to a model with a longer name.
    return frozenset(name.removeprefix(prefix) for name in names if "-" not in name.removeprefix(prefix))


def candidate_application(bundle: str, config: ProjectConfig, replicas: int = 1) -> Application:
    """A version without a route, in as many replicas."""
    candidate = config.rollout.candidate
    options = {
        **_arm_options(config),
        "num_replicas": replicas,
        "max_ongoing_requests": candidate.max_ongoing_requests or config.serving.max_ongoing_requests,
    }
    deployment = serve.deployment(name=ARM_DEPLOYMENT, **options)(CandidateArm)
    return deployment.bind(bundle, trusted_modules(config), config.gate.parity.atol, candidate.gpus)


def scale_arm(model: str, version: str, replicas: int, timeout_s: float) -> None:
    """Give an arm more replicas, and wait until they run; it never gets fewer.

    Raises:
        ClusterError: There is no such arm, or Serve does not answer.
        DeadlineError: They do not run in time. Those that do go on; no more are waited for.
    """
    name, deadline = arm_app(model, version), time.monotonic() + timeout_s
    if read_replicas(name, ARM_DEPLOYMENT).target < replicas:
        set_replicas(name, ARM_DEPLOYMENT, replicas)
    found = ArmReplicas()
    while time.monotonic() < deadline:
        with suppress(ClusterError):  # a controller that is busy, or starts again, is asked again
            found = read_replicas(name, ARM_DEPLOYMENT)
        if len(found.running) >= replicas:
            return
        time.sleep(POLL_S)
    set_replicas(name, ARM_DEPLOYMENT, max(1, len(found.running)))
    problem = f"{len(found.running)} of {replicas} replicas run after {timeout_s:g} s: {found.message}"
    raise DeadlineError(problem, f"application {name!r}", "see 'ray status'")


def actor_options(config: ProjectConfig) -> dict[str, Any]:
    """What Ray is asked for each replica of a version outside the gateway: resources and runtime environment."""
    candidate = config.rollout.candidate
    each = actor_resources(candidate, config.serving.cpus_per_replica)
    options: dict[str, Any] = {"num_cpus": each.get("CPU", 0.0)}
    if "GPU" in each:
        options["num_gpus"] = each["GPU"]
    if "memory" in each:
        options["memory"] = each["memory"]
    environment = candidate.runtime_env.to_ray()
    return {**options, "runtime_env": environment} if environment else options


def start_gate(model: str, bundle: str, bundle_hash: str, config: ProjectConfig, timeout_s: float) -> str:
    """Serve a version for the gate, over the gateway's HTTP ingress.

    Returns:
        The path prefix of ``/predict``, ``/features`` and ``/stats``.

    Raises:
        ClusterError: It failed to start.
        DeadlineError: It took too long.
    """
    name = gate_app(model, bundle_hash)
    prefix = f"/gate/{model}/{bundle_hash[:8]}"
    options = _arm_options(config)
    # On the CPU: parity is a promise about bits, which no GPU gives. The arm itself checks what its GPU predicts.
    options["ray_actor_options"].pop("num_gpus", None)
    replica = serve.deployment(name="GateReplica", **options)(serve.ingress()(GateReplica))
    run_app(replica.bind(bundle, trusted_modules(config), config.serving), name, prefix, timeout_s)
    return prefix


def gate_app(model: str, bundle_hash: str) -> str:
    """Name of the application that the gate asks."""
    return f"gate-{model}-{bundle_hash[:8]}"


def stop_gate(model: str, bundle_hash: str) -> None:
    """Take the gate's application away; nothing happens when there is none."""
    delete_app(gate_app(model, bundle_hash))


def _arm_prefix(model: str) -> str:
    return f"arm-{model}-"


def _arm_options(config: ProjectConfig) -> dict[str, Any]:
    return {"num_replicas": 1, "ray_actor_options": actor_options(config), **HEALTH_OPTIONS}
