"""Versions that run outside the gateway, as the reconciler sees them: started in the background, checked, watched,
given more replicas, stopped."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import RayMLOpsError
from ray_mlops.serving.rollout.evidence import ArmHealth, FloatArray, Room
from ray_mlops.serving.rollout.shadow import BundleFacts

logger = logging.getLogger(__name__)
QUICK_S = 0.5
"""How long a step waits for replicas at once; where none are to be started, that is all it takes."""
WantedArm = tuple[str, float]
"""Address of a version's bundle, and the share of traffic that it is started for."""


class ArmControl(Protocol):
    """Runs candidates somewhere. Calls may be repeated; those that fail raise a ``RayMLOpsError``."""

    async def start(self, model: str, version: str, bundle: str, config: ProjectConfig, weight: float) -> None:
        """Start an arm for a share of traffic and wait until it answers; nothing happens when it runs already."""

    async def check(self, model: str, version: str, bundle: str, config: ProjectConfig) -> str:
        """Let the running arm answer the bundle's parity rows; returns what is wrong, or nothing."""

    async def scale(self, model: str, version: str, weight: float, config: ProjectConfig) -> str:
        """Give an arm the replicas that a share of traffic asks for, and wait until they run; says how many and why.

        An arm that has more keeps them. Raises ``ResourceError`` when they do not start: what was asked for, and what
        was free.
        """

    async def versions(self, model: str) -> frozenset[str]:
        """Versions of a model that have an arm, started by whomever."""

    async def ready(self, model: str, version: str) -> tuple[ArmHealth, str]:
        """How an arm that was started is, with a word of detail."""

    async def score(self, model: str, version: str, rows: pa.Table) -> tuple[FloatArray, tuple[str, ...]]:
        """Predict rows of raw inputs; returns values [n] or [n, k], and the names of the k classes."""

    async def facts(self, bundle: str) -> BundleFacts:
        """What it takes to compute the loss of a bundle's predictions."""

    async def stop(self, model: str, version: str) -> None:
        """Stop an arm; nothing happens when there is none."""


class Candidate:
    """One model's versions outside the gateway: each prepared in a task of its own, so that nothing waits for it.

    Args:
        arms: Where they run.
        model: The model's name.
    """

    def __init__(self, arms: ArmControl, model: str) -> None:
        self._arms = arms
        self._model = model
        self._preparations: dict[str, asyncio.Task[str]] = {}
        self._scalings: dict[str, _Scaling] = {}
        self._known: set[str] | None = None

    def ensure(self, version: str, wanted: WantedArm, config: ProjectConfig) -> None:
        """Start preparing a version, unless that was begun already."""
        if version not in self._preparations:
            if self._known is not None:
                self._known.add(version)
            self._preparations[version] = asyncio.create_task(self._prepare(version, wanted, config))

    async def keep_only(self, wanted: Mapping[str, WantedArm], config: ProjectConfig | None) -> None:
        """Run the versions that are wanted, and stop whatever else of this model there is.

        Repeat it: a failure, or a start that is still under way, is dealt with the next time.
        """
        if config is not None:
            for version, each in wanted.items():
                self.ensure(version, each, config)
        try:
            if self._known is None:  # those that were started before this process was
                self._known = {*await self._arms.versions(self._model), *self._preparations}
            for version in sorted(self._known - set(wanted)):
                await self._stop(version)
        except RayMLOpsError as error:
            logger.warning("cannot stop arms model=%s keeping=%s error=%s", self._model, sorted(wanted), error)

    def retry(self, version: str) -> None:
        """Forget a start that failed, so that ``ensure`` begins it again; a champion is not given up."""
        preparation = self._preparations.get(version)
        if preparation is None or not preparation.done() or preparation.cancelled():
            return
        problem = preparation.exception() or preparation.result()
        if problem:
            logger.error("start again arm model=%s version=%s because=%s", self._model, version, problem)
            del self._preparations[version]

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

    async def scale(self, version: str, weight: float, config: ProjectConfig) -> bool:
        """Begin to make a version ready for a share of traffic; returns whether that is through already.

        Goes on in the background; ``room`` tells how far it has come. Repeating it while it is under way, or after
        it has been done, changes nothing; after a failure it is tried again.
        """
        scaling = self._scalings.setdefault(version, _Scaling())
        if weight <= scaling.ready_for:
            return True
        if scaling.task is None or scaling.task.done():
            scaling.problem, scaling.detail = "", ""
            scaling.task = asyncio.create_task(self._scale(scaling, version, weight, config))
            await asyncio.wait([scaling.task], timeout=QUICK_S)
            return scaling.task.done()
        return False

    def room(self, version: str, carries_champion: bool) -> Room:
        """What a version's replicas suffice for, as far as is known."""
        scaling = self._scalings.get(version, _Scaling())
        return Room(scaling.ready_for, scaling.problem, scaling.detail, carries_champion)

    def forget_problem(self, version: str) -> None:
        """Forget that there was no room: the rollout has taken note."""
        if version in self._scalings:
            self._scalings[version].problem = ""

    async def _stop(self, version: str) -> None:
        await self._arms.stop(self._model, version)
        self._scalings.pop(version, None)
        preparation = self._preparations.get(version)
        if preparation is None or preparation.done():
            self._preparations.pop(version, None)
            if self._known is not None:
                self._known.discard(version)

    async def _prepare(self, version: str, wanted: WantedArm, config: ProjectConfig) -> str:
        bundle, weight = wanted
        await self._arms.start(self._model, version, bundle, config, weight)
        return await self._arms.check(self._model, version, bundle, config)

    async def _scale(self, scaling: "_Scaling", version: str, weight: float, config: ProjectConfig) -> None:
        try:
            scaling.detail = await self._arms.scale(self._model, version, weight, config)
        except RayMLOpsError as error:
            scaling.problem = error.problem
            logger.warning("no room model=%s version=%s weight=%g because=%s", self._model, version, weight, error)
            return
        scaling.ready_for = max(scaling.ready_for, weight)
        logger.info("ready model=%s version=%s weight=%g because=%s", self._model, version, weight, scaling.detail)


@dataclass(slots=True)
class _Scaling:
    """How far a version is with its replicas."""

    ready_for: float = 0.0
    problem: str = ""
    detail: str = ""
    task: asyncio.Task[None] | None = None
