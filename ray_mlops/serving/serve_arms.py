"""Candidates on Ray Serve, as a gateway replica asks them and as the reconciler runs them."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import ClusterError, DeadlineError, RayMLOpsError, RolloutError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.arm_calls import ArmCalls, Reply, Rows
from ray_mlops.serving.arm_replies import unpacked
from ray_mlops.serving.arm_start import shortage, start_arm
from ray_mlops.serving.arm_state import ArmReplicas, cause_of_death, is_deserted, read_replicas
from ray_mlops.serving.predictor import Answer
from ray_mlops.serving.rollout.evidence import ArmHealth, FloatArray
from ray_mlops.serving.rollout.load import measure_load
from ray_mlops.serving.rollout.shadow import BundleFacts
from ray_mlops.serving.rollout.sizing import plan_replicas
from ray_mlops.serving.serve_apps import (
    ARM_DEPLOYMENT,
    FAILED,
    app_status,
    arm_app,
    arm_versions,
    delete_app,
    scale_arm,
)
from ray_mlops.training.bundle import Manifest, Prediction

logger = logging.getLogger(__name__)
SCORE_ROWS = 2000
"""Rows of one call: a handle that sends by value takes 4 MB."""
CALL_TIMEOUT_S = 30.0
PING_TIMEOUT_S = 5.0
Result = TypeVar("Result")


class ServeArmClient:
    """Asks isolated candidates through Serve handles; implements ``ArmClient``."""

    def __init__(self) -> None:
        self._handles: dict[str, DeploymentHandle[Any]] = {}
        self._calls: dict[str, ArmCalls] = {}
        self._schemas: dict[str, pa.Schema] = {}

    async def predict(self, model: str, version: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """See ``ArmClient``."""
        name = arm_app(model, version)
        if name not in self._calls:
            self._calls[name] = ArmCalls(partial(self._send, model, version))
        return await self._calls[name].predict(rows)

    async def _send(self, model: str, version: str, requests: list[Rows]) -> list[Reply]:
        handle = self._handle(model, version)
        if is_deserted(handle):
            raise ConnectionError("none of its processes runs")
        return unpacked(await _unwrapped(handle.remote(orjson.dumps(requests))))

    def is_gone(self, model: str, version: str) -> bool:
        """See ``ArmClient``."""
        return is_deserted(self._handle(model, version))

    async def schema(self, model: str, version: str) -> pa.Schema:
        """The candidate's raw inputs.

        Raises:
            ConnectionError: The process is gone, or not there yet.
        """
        name = arm_app(model, version)
        if name not in self._schemas:
            content = await _unwrapped(self._handle(model, version).schema.remote())
            self._schemas[name] = pa.ipc.read_schema(pa.py_buffer(content))
        return self._schemas[name]

    def _handle(self, model: str, version: str) -> DeploymentHandle[Any]:
        name = arm_app(model, version)
        if name not in self._handles:
            # With its method: naming one makes a copy of the handle each time.
            self._handles[name] = _arm_handle(model, version).options(method_name="predict")
        return self._handles[name]


class ServeArmControl:
    """Runs versions as Serve applications of their own; implements ``ArmControl``."""

    def __init__(self) -> None:
        self._replicas: dict[str, dict[str, str]] = {}
        """Actor ids of the replicas that were seen running, by replica id, for each application."""

    async def start(self, model: str, version: str, bundle: str, config: ProjectConfig, weight: float) -> None:
        """Start an arm for a share of traffic and wait until it answers; nothing happens when it runs already.

        Raises:
            ClusterError: It failed to start.
            ResourceError: It did not start within ``rollout.prepare_timeout_s``; says what was free.
            RolloutError: Its runtime environment cannot be built.
        """
        name = arm_app(model, version)
        await asyncio.to_thread(start_arm, model, version, bundle, config, weight)
        await self._ask(model, version, "ping", PING_TIMEOUT_S)
        self._replicas[name] = dict((await asyncio.to_thread(read_replicas, name, ARM_DEPLOYMENT)).running)
        logger.info("started arm model=%s version=%s replicas=%d", model, version, len(self._replicas[name]))

    async def scale(self, model: str, version: str, weight: float, config: ProjectConfig) -> str:
        """Give an arm the replicas that a share of traffic asks for; see ``ArmControl``."""
        load = await asyncio.to_thread(measure_load, Files(config.store.root_uri), model, version)
        plan = plan_replicas(weight, config.rollout.candidate, config.serving.num_replicas, load)
        timeout_s = config.rollout.prepare_timeout_s
        try:
            await asyncio.to_thread(scale_arm, model, version, plan.replicas, timeout_s)
        except DeadlineError as error:
            raise await asyncio.to_thread(shortage, model, version, plan.replicas, config, error.problem) from error
        return plan.reason

    async def versions(self, model: str) -> frozenset[str]:
        """Versions of a model that have an application."""
        return await asyncio.to_thread(arm_versions, model)

    async def check(self, model: str, version: str, bundle: str, config: ProjectConfig) -> str:
        """Let the running arm answer the bundle's parity rows; returns what is wrong, or nothing."""
        return str(await self._ask(model, version, "check", CALL_TIMEOUT_S))

    async def ready(self, model: str, version: str) -> tuple[ArmHealth, str]:
        """How an arm is; one of whose processes any died since ``start`` has failed, though Serve starts others."""
        name = arm_app(model, version)
        try:
            status, message = await asyncio.to_thread(app_status, name)
            if status is None or status == ApplicationStatus.DELETING:
                return "absent", message
            known = self._replicas.setdefault(name, {})
            found = await asyncio.to_thread(read_replicas, name, ARM_DEPLOYMENT)
            if death := await asyncio.to_thread(_death, known, found):
                return "failed", death
            known.update(found.running)
            if status in FAILED:
                return "failed", message
            if not found.running:
                return "starting", message
            if problem := await self._hangs(model, version):
                # Serve may not know yet that a process is dead, and a call waits for it as for one that hangs.
                found = await asyncio.to_thread(read_replicas, name, ARM_DEPLOYMENT)
                return "failed", await asyncio.to_thread(_death, known, found) or problem
        except ClusterError as error:  # Serve's controller is away: that says nothing about the arm
            return "starting", str(error)
        return "ready", ""

    async def _hangs(self, model: str, version: str) -> str:
        """Say in words that an arm does not answer; empty when it does."""
        try:
            await self._ask(model, version, "ping", PING_TIMEOUT_S)
        except RolloutError as error:
            return f"it hangs: {error.problem}"
        return ""

    async def score(self, model: str, version: str, rows: pa.Table) -> tuple[FloatArray, tuple[str, ...]]:
        """Predict rows of raw inputs; returns values [n] or [n, k], and the names of the k classes."""
        parts: list[Prediction] = []
        for start in range(0, max(rows.num_rows, 1), SCORE_ROWS):
            part = _to_stream(rows.slice(start, SCORE_ROWS))
            parts.append(await self._ask(model, version, "score", CALL_TIMEOUT_S, part))
        classes = parts[0].classes if parts[0].task == "multiclass" else ()
        return np.concatenate([part.values for part in parts]), tuple(str(name) for name in classes)

    async def facts(self, bundle: str) -> BundleFacts:
        """What it takes to compute the loss of a bundle's predictions."""
        content = await asyncio.to_thread(Files(bundle).read, "bundle.json")
        manifest = Manifest.from_json(json.loads(content), bundle)
        classes = tuple(str(name) for name in manifest.classes) if manifest.task == "multiclass" else ()
        return BundleFacts(manifest.task, classes, manifest.loss_scale, manifest.threshold)

    async def stop(self, model: str, version: str) -> None:
        """Stop an arm; nothing happens when there is none."""
        name = arm_app(model, version)
        self._replicas.pop(name, None)
        await asyncio.to_thread(delete_app, name)

    async def _ask(self, model: str, version: str, method: str, timeout_s: float, *arguments: Any) -> Any:
        # A new handle each time: cheap at this rate, and never bound to a replica that is gone.
        handle = _arm_handle(model, version)
        try:
            async with asyncio.timeout(timeout_s):
                return await _unwrapped(getattr(handle, method).remote(*arguments))
        except (TimeoutError, ConnectionError) as error:
            reason = str(error) or f"no answer to {method} in {timeout_s:g} s"
            raise RolloutError(reason, arm_app(model, version)) from error


def _death(known: Mapping[str, str], found: ArmReplicas) -> str:
    """Say in words that one of the replicas that once ran is dead; empty when all are well.

    Args:
        known: Actor ids by replica id.
        found: The replicas that Serve holds for running.
    """
    for replica, actor_id in known.items():
        cause = cause_of_death(actor_id)
        if cause or replica not in found.running:
            return "its process died" + (f" ({cause})" if cause else "")
    return ""


def _arm_handle(model: str, version: str) -> DeploymentHandle[Any]:
    return serve.get_deployment_handle(ARM_DEPLOYMENT, arm_app(model, version), _check_exists=False)


async def _unwrapped(call: Awaitable[Result]) -> Result:
    """Await a handle's call; what the callee raised comes as itself, a callee that is gone as ConnectionError."""
    try:
        return await call
    except RayTaskError as error:
        if isinstance(error.cause, RayMLOpsError):
            raise error.cause from error
        raise
    except (RayActorError, RayServeException) as error:
        raise ConnectionError(f"{type(error).__name__}: its process is gone or not ready") from error
    except RayError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _to_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
