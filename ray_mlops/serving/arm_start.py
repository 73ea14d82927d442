"""Starting a version outside the gateway: its environment is tried first, and what is missing is said."""

import importlib
import time

import ray
from ray.exceptions import GetTimeoutError, RayError, RuntimeEnvSetupError

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import DeadlineError, ResourceError, RolloutError
from ray_mlops.runtime.deadline import wait_for
from ray_mlops.serving.arm_state import is_serve_running, read_replicas
from ray_mlops.serving.rollout.sizing import actor_resources, explain_shortage, plan_replicas
from ray_mlops.serving.serve_apps import ARM_DEPLOYMENT, arm_app, candidate_application, run_app

START_SHARE = 0.9
"""Of ``rollout.prepare_timeout_s``: whoever waited says what was missing before the rollout gives up by itself."""


def start_arm(model: str, version: str, bundle: str, config: ProjectConfig, weight: float) -> None:
    """Start a version outside the gateway with the replicas for a share of traffic. Blocks; give it a thread.

    Nothing happens when it runs already. Waits for Serve: it must have been started by whoever knows its ports.

    Raises:
        ClusterError: It failed to start.
        ResourceError: It did not start within ``rollout.prepare_timeout_s``; says what was free.
        RolloutError: Its runtime environment cannot be built.
    """
    timeout_s = START_SHARE * config.rollout.prepare_timeout_s
    deadline = time.monotonic() + timeout_s
    wait_for("Serve, which a gateway starts", is_serve_running, timeout_s)
    check_environment(config, deadline - time.monotonic())
    plan = plan_replicas(weight, config.rollout.candidate, config.serving.num_replicas)
    application = candidate_application(bundle, config, plan.replicas)
    try:
        run_app(application, arm_app(model, version), None, deadline - time.monotonic())
    except DeadlineError as error:
        raise shortage(model, version, plan.replicas, config, error.problem) from error


def check_environment(config: ProjectConfig, timeout_s: float) -> None:
    """Build the runtime environment of an arm once, and load our code in it, before Serve tries it again and again.

    Raises:
        RolloutError: That fails; says why, and what to look at.
    """
    environment = config.rollout.candidate.runtime_env.to_ray()
    if not environment:
        return
    where = "rollout.candidate.runtime_env"
    probe = ray.remote(num_cpus=0, max_retries=0, runtime_env=environment)(_import_ours)
    task = probe.remote()
    try:
        ray.get(task, timeout=max(timeout_s, 0.0))
    except GetTimeoutError as error:
        ray.cancel(task, force=True)
        remedy = "name fewer packages, or raise rollout.prepare_timeout_s"
        raise RolloutError(f"the environment is not built after {timeout_s:.0f} s", where, remedy) from error
    except RuntimeEnvSetupError as error:
        remedy = "are its paths on every node, and its packages to be had? see runtime_env_setup-*.log"
        raise RolloutError(f"the environment cannot be built: {_last_line(error)}", where, remedy) from error
    except RayError as error:
        remedy = "it must have ray-mlops and Ray in the cluster's versions"
        raise RolloutError(f"our code does not load in it: {_last_line(error)}", where, remedy) from error


def _import_ours() -> None:
    importlib.import_module("ray_mlops.serving.candidate")


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def shortage(model: str, version: str, replicas: int, config: ProjectConfig, problem: str) -> ResourceError:
    """The error of replicas that did not start: what was asked for, what is free, and what Serve says."""
    name = arm_app(model, version)
    each = actor_resources(config.rollout.candidate, config.serving.cpus_per_replica)
    running = len(read_replicas(name, ARM_DEPLOYMENT).running)
    free, total = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    told = explain_shortage(replicas, running, each, free, total)
    remedy = "free resources, or ask for fewer in rollout.candidate"
    return ResourceError(f"{told} ({problem})", f"application {name!r}", remedy)
