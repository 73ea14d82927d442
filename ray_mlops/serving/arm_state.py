"""What Serve and Ray know of an arm: how many replicas it has, which of them run, and what one died of.

Serve tells the identity of replicas, and Ray what an actor died of, only on interfaces for their own tools. They
are all in this module.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private import state as ray_state
from ray.exceptions import RayError, RayTaskError
from ray.serve._private.application_state import StatusOverview
from ray.serve._private.common import DeploymentID, ReplicaState
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.generated.serve_pb2 import StatusOverview as StatusOverviewProto  # type: ignore[attr-defined]
from ray.serve.schema import ApplicationStatus

from ray_mlops.errors import ClusterError

logger = logging.getLogger(__name__)
CONTROLLER_TIMEOUT_S = 10.0
MAX_WORDS = 300
_ANSWERING = (ReplicaState.RUNNING, ReplicaState.UPDATING)
_IN_WORDS = {
    "oom_context": "out of memory",
    "runtime_env_failed_context": "its runtime environment cannot be built",
    "creation_task_failure_context": "it cannot be built",
    "actor_unschedulable_context": "it cannot be scheduled",
}


@dataclass(frozen=True, slots=True)
class ArmReplicas:
    """The replicas of one application."""

    target: int = 0
    """How many there are to be."""
    running: Mapping[str, str] = field(default_factory=dict)
    """Actor ids of those that run, by replica id."""
    message: str = ""
    """What Serve says about the deployment."""


def is_serve_running() -> bool:
    """Whether somebody has started Serve on this cluster."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def read_replicas(application: str, deployment: str) -> ArmReplicas:
    """Ask for the replicas of a deployment; none where there is no such one.

    Raises:
        ClusterError: Serve's controller does not answer.
    """
    details = _controller("get_deployment_details", application, deployment)
    if details is None:
        return ArmReplicas()
    running = {
        replica.replica_id: replica.actor_id or "" for replica in details.replicas if replica.state in _ANSWERING
    }
    return ArmReplicas(details.target_num_replicas, running, details.message)


def read_status(application: str) -> tuple[ApplicationStatus | None, str]:
    """Ask for the state of an application (None: there is none), with the messages of its deployments.

    ``serve.status`` says it of all of them, and took 4 % of a core for one question a second.

    Raises:
        ClusterError: Serve's controller does not answer.
    """
    content = _controller("get_serve_status", application)
    if content is None:
        return None, ""
    found = StatusOverview.from_proto(StatusOverviewProto.FromString(content))
    state = found.app_status
    if state.status == ApplicationStatus.NOT_STARTED and not state.deployment_timestamp:
        return None, ""
    messages = [state.message, *(deployment.message for deployment in found.deployment_statuses)]
    return state.status, " ".join(message for message in messages if message)


def set_replicas(application: str, deployment: str, replicas: int) -> None:
    """Change the number of replicas in place: those that run go on.

    Raises:
        ClusterError: Serve's controller does not answer, or there is no such deployment.
    """
    _controller("update_deployment_replicas", DeploymentID(deployment, application), replicas, or_none=False)


def is_deserted(handle: Any) -> bool:
    """Whether a handle knows that no replica is there; it would wait for one. False before it has heard of any."""
    router = getattr(handle._router, "_asyncio_router", None)
    if router is None or not router.running_replicas_populated():
        return False
    chooser = router._request_router
    return chooser is not None and not chooser.curr_replicas


def cause_of_death(actor_id: str) -> str:
    """What an actor died of, as far as Ray tells; empty where it does not."""
    try:
        cause = ray_state.actors(actor_id).get("DeathCause") if actor_id else None
    except (RayError, OSError, ValueError) as error:
        logger.warning("cannot ask for the cause of death actor=%s error=%r", actor_id, error)
        return ""
    kind = None if cause is None else cause.WhichOneof("context")
    if kind is None:
        return ""
    details = getattr(cause, kind)
    text = getattr(details, "error_message", "") or getattr(details, "formatted_exception_string", "")
    return in_words(kind, text)


def in_words(kind: str, text: str) -> str:
    """Say in a line what an actor died of.

    Args:
        kind: Ray's word for it.
        text: Ray's message.

    Example:
        >>> in_words("oom_context", "Task was killed due to the node running low on memory.\\nMemory on the node...")
        'out of memory: Task was killed due to the node running low on memory.'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # A traceback ends with what happened; a message begins with it.
    line = (lines[-1] if kind == "creation_task_failure_context" else lines[0]) if lines else ""
    known = _IN_WORDS.get(kind, "")
    return ": ".join(part for part in (known, line[:MAX_WORDS]) if part)


def _controller(method: str, *arguments: Any, or_none: bool = True) -> Any:
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        return ray.get(getattr(controller, method).remote(*arguments), timeout=CONTROLLER_TIMEOUT_S)
    except RayTaskError as error:
        if or_none and isinstance(error.cause, KeyError):
            return None
        raise ClusterError(f"{method} failed: {error.cause!r}", "Serve's controller") from error
    except ValueError as error:
        if or_none:
            return None
        raise ClusterError("Serve does not run", "Serve's controller", "start it with 'ray-mlops serve'") from error
    except RayError as error:
        raise ClusterError(f"no answer: {type(error).__name__}", "Serve's controller") from error
