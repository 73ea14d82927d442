"""The candidate's process, as the reconciler sees it: started in the background, checked, watched, stopped."""

import asyncio
import logging
from typing import Protocol

import pyarrow as pa

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import RayMLOpsError
from ray_mlops.serving.rollout.evidence import ArmHealth, FloatArray
from ray_mlops.serving.rollout.shadow import BundleFacts

logger = logging.getLogger(__name__)


class ArmControl(Protocol):
    """Runs candidates somewhere. Calls may be repeated; those that fail raise a ``RayMLOpsError``."""

    async def start(self, model: str, version: str, bundle: str, config: ProjectConfig) -> None:
        """Start an arm and wait until it answers; nothing happens when it runs already."""

    async def check(self, model: str, version: str, bundle: str, config: ProjectConfig) -> str:
        """Let the running arm answer the bundle's parity rows; returns what is wrong, or nothing."""

    async def ready(self, model: str, version: str) -> tuple[ArmHealth, str]:
        """How an arm that was started is, with a word of detail."""

    async def score(self, model: str, version: str, rows: pa.Table) -> tuple[FloatArray, tuple[str, ...]]:
        """Predict rows of raw inputs; returns values [n] or [n, k], and the names of the k classes."""

    async def facts(self, bundle: str) -> BundleFacts:
        """What it takes to compute the loss of a bundle's predictions."""

    async def stop(self, model: str, version: str) -> None:
        """Stop an arm; nothing happens when there is none."""


class Candidate:
    """One model's candidate: prepared in a task of its own, so that nothing waits for it.

    Args:
        arms: Where it runs.
        model: The model's name.
    """

    def __init__(self, arms: ArmControl, model: str) -> None:
        self._arms = arms
        self._model = model
        self._preparations: dict[str, asyncio.Task[str]] = {}
        self._stopped: set[str] = set()

    def ensure(self, version: str, bundle: str, config: ProjectConfig) -> None:
        """Start preparing a version, unless that was begun already."""
        if version not in self._preparations:
            self._stopped.discard(version)
            self._preparations[version] = asyncio.create_task(self._prepare(version, bundle, config))

    async def health(self, version: str) -> tuple[ArmHealth, str]:
        """How a version is; `failed` for good when it did not start, answered wrongly or has gone."""
        preparation = self._preparations.get(version)
        if preparation is None:
            return "absent", ""
        if not preparation.done():
            return "starting", "loads, warms up and checks itself"
        error = preparation.exception()
        problem = f"{type(error).__name__}: {error}" if error else preparation.result()
        if problem:
            return "failed", problem
        try:
            health, detail = await self._arms.ready(self._model, version)
        except RayMLOpsError as failure:
            return "failed", str(failure)
        return ("failed", detail or "it is gone") if health == "absent" else (health, detail)

    async def stop(self, version: str) -> None:
        """Stop a version. Repeat it: a failure, or a start that is still under way, is dealt with the next time."""
        if version in self._stopped:
            return
        try:
            await self._arms.stop(self._model, version)
        except RayMLOpsError as error:
            logger.warning("cannot stop arm model=%s version=%s error=%s", self._model, version, error)
            return
        preparation = self._preparations.get(version)
        if preparation is None or preparation.done():
            self._preparations.pop(version, None)
            self._stopped.add(version)

    async def _prepare(self, version: str, bundle: str, config: ProjectConfig) -> str:
        await self._arms.start(self._model, version, bundle, config)
        return await self._arms.check(self._model, version, bundle, config)
