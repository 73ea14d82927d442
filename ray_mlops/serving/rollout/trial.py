"""The evidence of one rollout as it gathers: tallies of the replicas, losses from the monitor and the shadow."""

import asyncio
import json
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.exceptions import RayError

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import RayMLOpsError
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import ModelRoutes, MonitorView
from ray_mlops.serving.rollout.arms import ArmControl
from ray_mlops.serving.rollout.evidence import LossEvidence, SliceEvidence
from ray_mlops.serving.rollout.record import ModelRecord
from ray_mlops.serving.rollout.shadow import BundleFacts, gather_losses
from ray_mlops.serving.rollout.shadow_log import ShadowLog, score_log
from ray_mlops.serving.rollout.shadow_view import ShadowView
from ray_mlops.serving.rollout.slice_losses import losses_by_slice
from ray_mlops.serving.rollout.state import RolloutState
from ray_mlops.serving.rollout.tally_book import TallyBook
from ray_mlops.serving.rollout.trail import Trail, trail_path
from ray_mlops.serving.slicing import slice_labels

logger = logging.getLogger(__name__)

SCORED_ROWS_PER_PAIR = 5
"""Rows that the shadow scores at most, as a multiple of the pairs it may use: most wait for labels."""


class Trial:
    """Evidence of one rollout, with a checkpoint in the store.

    Args:
        state: The rollout, as it stands now.
        config: The model's configuration.
        after_us: The candidate has seen no row after this event time, microseconds since 1970 UTC.
        files: The store.
    """

    def __init__(self, state: RolloutState, config: ProjectConfig, after_us: int, files: Files) -> None:
        self.rollout_id = state.rollout_id
        self.losses = LossEvidence(problem="no labels yet")
        self.slice_losses: tuple[LossEvidence, ...] = ()
        """By the number of the slice."""
        self.evaluated = state.window
        """The last window that was looked at."""
        self.book = TallyBook(state.first_route_version, config.rollout.guards.hard_error_requests)
        self._model, self._version = state.model, state.version
        self._config = config
        self._after_us = after_us
        self._files = files
        self._path = f"rollouts/{state.model}.json"
        self._trail_path = trail_path(state.model, state.rollout_id)
        self.trail = Trail(state.rollout_id, config.rollout.evaluate == "window")
        self._facts: tuple[BundleFacts, BundleFacts] | None = None
        """Of the champion, and of the candidate."""
        self._view = ShadowView(config.rollout)
        self._shadow: ShadowLog | None = None
        self._seen: tuple[int, int, int] | None = None
        """Labelled rows, scored rows and route version of ``slice_losses``."""
        self._restore()

    async def gather_losses(
        self, record: ModelRecord, arms: ArmControl, monitor: MonitorView | None, through: int | None
    ) -> bool:
        """Bring ``losses`` up to date; returns whether that was possible.

        Args:
            record: The model as the ledger tells it.
            arms: Scores logged rows while the rollout is in its shadow.
            monitor: Has the labelled rows.
            through: Only labelled rows of windows up to this one; None takes every closed window.
        """
        routes, state = record.routes, record.rollout
        if routes is None or state is None or monitor is None:
            self.losses = LossEvidence(problem="there is no monitor, so there are no labels")
            return True
        try:
            if self._facts is None:
                theirs = await arms.facts(routes.champion.bundle)
                self._facts = theirs, await arms.facts(record.versions[self._version]["bundle"])
            facts = self._facts[0]
            problem = await self._score(routes, state, arms, facts)
            labelled = await monitor.labelled(self._model, self._after_us // self._window_us - 1)
        except (RayMLOpsError, RayError) as error:
            logger.warning("cannot gather losses rollout=%s error=%s", self.rollout_id, error)
            return False
        if through is not None and labelled.num_rows:
            labelled = labelled.filter(pc.less_equal(labelled["window"], through))
        gather = partial(
            gather_losses,
            scored=self._shadow.predictions if self._shadow else {},
            facts=facts,
            champion=routes.champion.version,
            after_us=self._after_us,
            weights=record.weights,
            problem=problem,
        )
        self.losses = gather(labelled)
        if routes.slices:
            await self._gather_slices(labelled, routes, gather)
        return True

    def slices(self, routes: ModelRoutes | None) -> tuple[SliceEvidence, ...]:
        """What is known of each slice that the routes define."""
        labels = slice_labels(routes.slices) if routes else ()
        counts = self.book.slice_counts() if labels else {}
        losses = self.slice_losses or (LossEvidence(),) * len(labels)
        return tuple(
            SliceEvidence(label, counts.get(number, ()), losses[number]) for number, label in enumerate(labels)
        )

    async def compared(self) -> dict[str, Any]:
        """How the candidate and the champion differ on the rows that both have answered."""
        problem = self.losses.problem or ("" if self._shadow else "it has not been in the shadow")
        return await self._view.to_json(self._shadow, self._facts, self.losses.paired, problem)

    async def save(self) -> None:
        """Write the checkpoint."""
        content = {"rollout_id": self.rollout_id, "evaluated": self.evaluated, "book": self.book.to_json()}
        await asyncio.to_thread(self._files.write, self._trail_path, json.dumps(self.trail.to_json()).encode())
        await asyncio.to_thread(self._files.write, self._path, json.dumps(content).encode())

    @property
    def _window_us(self) -> int:
        return round(self._config.monitoring.window.total_seconds() * 1e6)

    async def _gather_slices(
        self, labelled: pa.Table, routes: ModelRoutes, gather: Callable[[pa.Table], LossEvidence]
    ) -> None:
        """Bring ``slice_losses`` up to date, in a thread; most of the time nothing was closed or scored since."""
        seen = (labelled.num_rows, len(self._shadow.predictions) if self._shadow else 0, routes.version)
        if seen != self._seen:
            self.slice_losses = await asyncio.to_thread(losses_by_slice, labelled, routes.slices, gather)
            self._seen = seen

    async def _score(self, routes: ModelRoutes, state: RolloutState, arms: ArmControl, facts: BundleFacts) -> str:
        """In the shadow, let the candidate score what was logged since; returns why that cannot be done."""
        if state.skip_shadow or not self._config.rollout.shadow.enabled:
            return ""
        redacted = sorted(self._config.serving.log.redact)
        if redacted:
            return f"the log redacts {', '.join(redacted)}: its rows cannot be scored again"
        if self._shadow is None:
            max_rows = SCORED_ROWS_PER_PAIR * self._config.rollout.shadow.max_pairs
            arguments = (self._files, self._model, self.rollout_id, routes.champion.version, self._after_us, max_rows)
            self._shadow = await asyncio.to_thread(ShadowLog, *arguments)
        in_shadow = state.stage == "shadow" or (state.stage == "paused" and state.paused_from == "shadow")
        if in_shadow:
            await score_log(self._shadow, arms, self._model, self._version, facts)
        return ""

    def _restore(self) -> None:
        if self._files.exists(self._trail_path):
            self.trail = Trail.from_json(json.loads(self._files.read(self._trail_path)))
        if not self._files.exists(self._path):
            return
        content: dict[str, Any] = json.loads(self._files.read(self._path))
        if content["rollout_id"] != self.rollout_id:
            return
        self.book = TallyBook.from_json(content["book"])
        known = [window for window in (content["evaluated"], self.evaluated) if window is not None]
        self.evaluated = max(known, default=None)
