"""The shadows of one model besides the candidate: any number of versions that score logged rows and never answer.

They run beside the reconciler, in a task of their own, so that one that is slow, hangs or dies holds up nothing: what
it costs is its own process, which is then stopped for good.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import DataError, LedgerConflictError, RayMLOpsError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import ModelRoutes, MonitorView
from ray_mlops.serving.rollout.arms import ArmControl, Candidate
from ray_mlops.serving.rollout.evidence import FloatArray
from ray_mlops.serving.rollout.record import ModelRecord
from ray_mlops.serving.rollout.shadow import BundleFacts, gather_losses
from ray_mlops.serving.rollout.shadow_book import ShadowEntry
from ray_mlops.serving.rollout.shadow_log import ShadowLog, score_log
from ray_mlops.serving.rollout.shadow_view import ShadowView
from ray_mlops.serving.rollout.trial import SCORED_ROWS_PER_PAIR

logger = logging.getLogger(__name__)

PERIOD_S = 2.0
"""Seconds between two looks at the log."""


@dataclass(frozen=True, slots=True)
class _Pairing:
    """What a shadow is compared by."""

    log: ShadowLog
    facts: tuple[BundleFacts, BundleFacts]
    """Of the champion and of the shadow."""


class Shadow:
    """One version in the shadow, compared with the champion of this moment.

    Args:
        entry: How it was asked for.
        config: The model's configuration.
        files: The store.
        arms: Where it runs.
    """

    def __init__(self, entry: ShadowEntry, config: ProjectConfig, files: Files, arms: ArmControl) -> None:
        self.entry = entry
        self.detail = "loads, warms up and checks itself"
        self.is_running = False
        self._config, self._files, self._arms = config, files, arms
        self._view = ShadowView(config.rollout)
        self._pairing: _Pairing | None = None
        self._paired: FloatArray = np.empty(0)
        self._problem = ""

    async def look(self, record: ModelRecord, routes: ModelRoutes, monitor: MonitorView | None) -> None:
        """Score what is new in the log, and pair what has a label.

        Raises:
            DataError: It cannot score these rows, now or ever.
        """
        version = self.entry.version
        pairing = self._pairing
        if pairing is None or pairing.log.champion != routes.champion.version:
            pairing = self._pairing = await self._open(record, routes)
            self._paired = np.empty(0)
        await score_log(pairing.log, self._arms, record.model, version, pairing.facts[0])
        self.is_running = True
        self.detail = "is full: stop it, or start it anew" if pairing.log.is_full else ""
        await self._pair(pairing, record.model, monitor)

    async def to_json(self) -> dict[str, Any]:
        """What operators see."""
        state = "running" if self.is_running else "starting"
        log, facts = (None, None) if self._pairing is None else (self._pairing.log, self._pairing.facts)
        compared = await self._view.to_json(log, facts, self._paired, self._problem)
        return {**self.entry.to_json(), "state": state, "detail": self.detail, **compared}

    async def _open(self, record: ModelRecord, routes: ModelRoutes) -> _Pairing:
        """Begin to compare with a champion; an earlier comparison with the same one is taken up again."""
        entry, champion = self.entry, routes.champion
        bundles = (champion.bundle, record.versions[entry.version]["bundle"])
        first, second = [await self._arms.facts(bundle) for bundle in bundles]
        if first.task != second.task:
            problem = f"version {entry.version} is a {second.task} model, the champion a {first.task} one"
            raise DataError(problem, f"model {record.model!r}")
        name = f"{entry.shadow_id}-vs-{champion.version}"
        max_rows = SCORED_ROWS_PER_PAIR * self._config.rollout.shadow.max_pairs
        since_us = round(entry.since * 1e6) if entry.since_event_us is None else entry.since_event_us - 1
        after_us = max(record.unseen_after_us(entry.version), since_us)
        arguments = (self._files, record.model, name, champion.version, after_us, max_rows)
        return _Pairing(await asyncio.to_thread(ShadowLog, *arguments), (first, second))

    async def _pair(self, pairing: _Pairing, model: str, monitor: MonitorView | None) -> None:
        if monitor is None:
            self._problem = "there is no monitor, so there are no labels"
            return
        log, window_us = pairing.log, round(self._config.monitoring.window.total_seconds() * 1e6)
        labelled = await monitor.labelled(model, log.after_us // window_us - 1)
        options: dict[str, Any] = {"champion": log.champion, "after_us": log.after_us, "weights": {}}
        losses = await asyncio.to_thread(gather_losses, labelled, log.predictions, pairing.facts[0], **options)
        self._paired, self._problem = losses.paired, losses.problem


class Shadows:
    """Runs the shadows that the ledger knows of.

    Args:
        record: The model as the ledger tells it.
        ledger: A shadow that fails is recorded.
        files: The store.
        arms: Where shadows run.
        processes: Watches them; they run for as long as the routes name them.
        monitor: Has the labels; None means that there are none.
        refresh: Reads the record again.
        stamp: Event time and wall clock of events.
        clock: Unix seconds.
    """

    def __init__(
        self,
        record: ModelRecord,
        ledger: Ledger,
        files: Files,
        arms: ArmControl,
        processes: Candidate,
        monitor: MonitorView | None,
        refresh: Callable[[], None],
        stamp: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float],
    ) -> None:
        self._record, self._ledger, self._files, self._arms = record, ledger, files, arms
        self._processes, self._monitor = processes, monitor
        self._refresh, self._stamp, self._clock = refresh, stamp, clock
        self._shadows: dict[str, Shadow] = {}
        self._task: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    def tick(self) -> None:
        """Begin a look at all shadows, unless one is under way or was just now; waits for nothing."""
        is_busy = self._task is not None and not self._task.done()
        is_idle = not self._record.shadows.active and not self._shadows
        if is_busy or is_idle or self._clock() - self._looked_at < PERIOD_S:
            return
        self._looked_at = self._clock()
        self._task = asyncio.create_task(self.look())

    async def look(self) -> None:
        """Look at every shadow once; what is wrong with one is booked against that one."""
        config, routes = self._record.config, self._record.routes
        active = dict(self._record.shadows.active)
        for entry in active.values():
            known = self._shadows.get(entry.version)
            if config is not None and (known is None or known.entry.shadow_id != entry.shadow_id):
                self._shadows[entry.version] = Shadow(entry, config, self._files, self._arms)
        for version in self._shadows.keys() - active.keys():
            del self._shadows[version]
        if config is None or routes is None:
            return
        shadows = [self._shadows[version] for version in active]
        looks = await asyncio.gather(*(self._look_at(shadow, routes) for shadow in shadows), return_exceptions=True)
        for shadow, problem in zip(shadows, looks, strict=True):
            if problem is not None:  # whatever it is: the others were looked at to their end
                model, version = self._record.model, shadow.entry.version
                logger.warning("shadow waits model=%s version=%s error=%r", model, version, problem)
                shadow.detail = f"tries again: {problem if isinstance(problem, RayMLOpsError) else repr(problem)}"

    async def view(self) -> list[dict[str, Any]]:
        """What operators see: those that run, then those that have ended, newest first."""
        found = []
        for entry in self._record.shadows.active.values():
            shadow = self._shadows.get(entry.version)
            waits = {**entry.to_json(), "state": "starting", "detail": ""}
            found.append(await shadow.to_json() if shadow is not None and shadow.entry == entry else waits)
        for entry in reversed(self._record.shadows.ended):
            state = "failed" if entry.has_failed else "stopped"
            found.append({**entry.to_json(), "state": state, "detail": entry.ended_because})
        return found

    async def _look_at(self, shadow: Shadow, routes: ModelRoutes) -> None:
        version = shadow.entry.version
        health, detail = await self._processes.health(version)
        if health in ("absent", "starting"):  # it is started once the routes name it
            return
        if health == "failed":
            self._book_failure(shadow.entry, detail)
            return
        try:
            await shadow.look(self._record, routes, self._monitor)
        except DataError as error:
            self._book_failure(shadow.entry, str(error))

    def _book_failure(self, entry: ShadowEntry, why: str) -> None:
        try:
            end_shadow(self._ledger, self._record, entry, "rollouts", f"failed: {why}", self._stamp(), failed=True)
        except LedgerConflictError as error:
            logger.info("read again model=%s because=%s", self._record.model, error)
        self._refresh()


def end_shadow(
    ledger: Ledger,
    record: ModelRecord,
    entry: ShadowEntry,
    by: str,
    reason: str,
    stamp: Mapping[str, Any],
    failed: bool = False,
) -> None:
    """Record that a version is no shadow any more; repeating it is harmless.

    Raises:
        LedgerConflictError: Somebody else wrote to the stream meanwhile.
    """
    stream = f"{record.model}/shadows"
    payload = {"shadow_id": entry.shadow_id, "version": entry.version, "by": by, "reason": reason, "failed": failed}
    logger.info("stopped shadow=%s by=%s reason=%s", entry.shadow_id, by, reason)
    fence = record.shadows.stream_version
    key = f"{stream}/{entry.shadow_id}/stopped"
    ledger.append(stream, "shadow.stopped", key, payload, expect_version=fence, **stamp)
