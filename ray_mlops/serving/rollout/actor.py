"""The rollouts of every model: one reconciler each, and the detached actor that holds them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from ray_mlops.config import StoreConfig
from ray_mlops.errors import ModelNotFoundError
from ray_mlops.ledger import Ledger
from ray_mlops.registry import MlflowRegistry
from ray_mlops.runtime.files import Files
from ray_mlops.serving.deployment import load_hook
from ray_mlops.serving.protocol import NAMESPACE, ROLLOUTS_ACTOR, ROUTES_ACTOR, Hooks, MonitorView, Tally
from ray_mlops.serving.rollout.arms import ArmControl
from ray_mlops.serving.rollout.reconciler import Reconciler
from ray_mlops.serving.rollout.settle import AliasStore
from ray_mlops.serving.rollout.state import Command
from ray_mlops.serving.routes import read_table
from ray_mlops.serving.serve_arms import ServeArmControl

logger = logging.getLogger(__name__)

TICK_S = 1.0
QUICK_TICK_S = 0.05
"""While a rollout is looked at window by window: a replay waits for each."""
PUBLISH_TIMEOUT_S = 5.0


class Rollouts:
    """Hands what comes in to the reconciler of its model.

    Args:
        ledger: Decisions, and everything the states follow from.
        files: The store.
        arms: Runs candidates.
        aliases: The registry's aliases.
        publish: Tells the replicas that routes were committed.
        monitor: Labels and windows; None means that there are none.
        clock: Unix seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        files: Files,
        arms: ArmControl,
        aliases: AliasStore,
        publish: Callable[[], Awaitable[None]],
        monitor: MonitorView | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._parts = (ledger, files, arms, aliases, publish, monitor, clock)
        self._ledger = ledger
        self._reconcilers: dict[str, Reconciler] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Tick for ever; what fails is logged, and tried again."""
        while True:
            (problem,) = await asyncio.gather(self.tick(), return_exceptions=True)
            if problem is not None:
                logger.error("failed to tick", exc_info=problem)
            is_quick = any(reconciler.is_by_window for reconciler in self._reconcilers.values())
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), QUICK_TICK_S if is_quick else TICK_S)

    async def tick(self) -> None:
        """Do everything that can be done now, for every model; one that fails does not hold up the others."""
        for model in read_table(self._ledger).models:
            self._open(model)
        reconcilers = list(self._reconcilers.values())
        results = await asyncio.gather(*(each.tick() for each in reconcilers), return_exceptions=True)
        for reconciler, result in zip(reconcilers, results, strict=True):
            if isinstance(result, BaseException):
                logger.error("failed tick model=%s", reconciler.model, exc_info=result)

    def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_versions: Mapping[str, int],
    ) -> bool:
        """Take a replica's totals; returns whether all its reports have been heard by everyone they are for.

        Args:
            replica: Name of its incarnation.
            sequence: Rises by 1 from report to report, from 1.
            tallies: Totals that changed since the last report, of any model.
            watermark_s: Every request that arrived before this is answered and in the totals; unix seconds.
            route_versions: The route version that it applies, by model.
        """
        heard = True
        for model in {*route_versions, *(tally.model for tally in tallies)}:
            theirs = [tally for tally in tallies if tally.model == model]
            version = route_versions.get(model)
            heard &= self._open(model).report(replica, sequence, theirs, watermark_s, version)
        return heard

    async def request(
        self, model: str, version: str, *, by: str, override_reason: str | None = None, skip_shadow: bool = False
    ) -> dict[str, Any]:
        """Begin a rollout; see ``Reconciler.request``. Returns ``view``."""
        reconciler = self._find(model)
        await reconciler.request(version, by, override_reason=override_reason, skip_shadow=skip_shadow)
        self._wake.set()
        return await reconciler.view()

    async def command(self, model: str, command: Command, *, by: str, reason: str = "") -> dict[str, Any]:
        """Record what a person asks for, and act on it; see ``Reconciler.command``. Returns ``view``."""
        reconciler = self._find(model)
        await reconciler.command(command, by, reason)
        self._wake.set()
        return await reconciler.view()

    async def shadow(
        self, model: str, version: str, *, by: str, stop: bool = False, reason: str = ""
    ) -> dict[str, Any]:
        """Start or stop a shadow; see ``Reconciler.shadow``. Returns ``view``."""
        reconciler = self._find(model)
        await reconciler.shadow(version, by, stop=stop, reason=reason)
        self._wake.set()
        return await reconciler.view()

    async def view(self, model: str) -> dict[str, Any]:
        """The document of ``GET /rollout``; see ``Reconciler.view``."""
        return await self._find(model).view()

    def _open(self, model: str) -> Reconciler:
        if model not in self._reconcilers:
            self._reconcilers[model] = Reconciler(model, *self._parts)
        return self._reconcilers[model]

    def _find(self, model: str) -> Reconciler:
        if model not in self._reconcilers and model not in read_table(self._ledger).models:
            raise ModelNotFoundError("is not served", f"model {model!r}", "deploy it with 'ray-mlops serve'")
        return self._open(model)


class RolloutsActor:
    """``Rollouts`` as a detached actor; see ``start_rollouts``. Its state is in the ledger and the store."""

    async def __init__(self, store: StoreConfig, hooks: Hooks) -> None:  # type: ignore[misc]
        self._rollouts = Rollouts(
            Ledger.open(store),
            Files(store.root_uri),
            ServeArmControl(),
            MlflowRegistry(store.tracking_uri),
            _publish,
            load_hook(hooks.monitor_view, store),
        )
        self._task = asyncio.create_task(self._rollouts.run())

    async def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_versions: Mapping[str, int],
    ) -> bool:
        """See ``Rollouts.report``."""
        return self._rollouts.report(replica, sequence, tallies, watermark_s, route_versions)

    async def request(
        self, model: str, version: str, *, by: str, override_reason: str | None = None, skip_shadow: bool = False
    ) -> dict[str, Any]:
        """See ``Rollouts.request``."""
        options: dict[str, Any] = {"override_reason": override_reason, "skip_shadow": skip_shadow}
        return await self._rollouts.request(model, version, by=by, **options)

    async def command(self, model: str, command: Command, *, by: str, reason: str = "") -> dict[str, Any]:
        """See ``Rollouts.command``."""
        return await self._rollouts.command(model, command, by=by, reason=reason)

    async def shadow(
        self, model: str, version: str, *, by: str, stop: bool = False, reason: str = ""
    ) -> dict[str, Any]:
        """See ``Rollouts.shadow``."""
        return await self._rollouts.shadow(model, version, by=by, stop=stop, reason=reason)

    async def view(self, model: str) -> dict[str, Any]:
        """See ``Rollouts.view``."""
        return await self._rollouts.view(model)


def start_rollouts(store: StoreConfig, hooks: Hooks) -> Any:
    """Return the cluster's ``rollouts`` actor; starts it when there is none.

    Args:
        store: The store that the actor works on.
        hooks: ``monitor_view`` is used.
    """
    options: dict[str, Any] = {
        "name": ROLLOUTS_ACTOR,
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 0,
    }
    return ray.remote(RolloutsActor).options(**options).remote(store, hooks)


async def _publish() -> None:
    """Tell the ``routes`` actor to read the ledger; without it, replicas see the change at their next look."""
    try:
        actor = await asyncio.to_thread(ray.get_actor, ROUTES_ACTOR, NAMESPACE)
        await asyncio.wait_for(actor.publish.remote(), PUBLISH_TIMEOUT_S)
    except (RayError, ValueError, TimeoutError) as error:
        logger.warning("cannot publish routes error=%r", error)
