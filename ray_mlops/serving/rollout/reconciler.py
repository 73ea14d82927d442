"""Carries one model's rollouts through: compares what is with what the state wants, observes, decides, records.

Every decision is an event in the ledger before anything follows from it. After a crash at any point the next
tick reads the events, puts routes, aliases and arms right, and goes on; what was done is not done again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ray_mlops.config import ProjectConfig
from ray_mlops.errors import LedgerConflictError
from ray_mlops.ledger import Ledger
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import ArmName, MonitorView, Tally
from ray_mlops.serving.rollout.arms import ArmControl, Candidate
from ray_mlops.serving.rollout.evidence import ArmCounts, Observation, Room
from ray_mlops.serving.rollout.progress import Look, Progress
from ray_mlops.serving.rollout.record import ModelRecord
from ray_mlops.serving.rollout.settle import AliasStore, Settler
from ray_mlops.serving.rollout.shadows import Shadows, end_shadow
from ray_mlops.serving.rollout.state import ON_TRIAL, PASSING, Command, RolloutState
from ray_mlops.serving.rollout.trail import make_point
from ray_mlops.serving.rollout.transition import RolloutDecision, is_urgent, step
from ray_mlops.serving.rollout.trial import Trial

logger = logging.getLogger(__name__)

LABEL_POLL_S = 2.0
"""How often labels are asked for where every second is looked at."""
CHECKPOINT_S = 5.0
MAX_MOVES = 16
"""Transitions in one tick, at most; more than any rollout has without waiting."""


class Reconciler:
    """Drives the rollouts of one model; the only writer of its rollout events.

    Args:
        model: The model's name.
        ledger: Decisions, and everything the state follows from.
        files: The store.
        arms: Runs candidates.
        aliases: The registry's aliases.
        publish: Tells the replicas that routes were committed.
        monitor: Labels and windows; None means that there are none.
        clock: Unix seconds.
    """

    def __init__(
        self,
        model: str,
        ledger: Ledger,
        files: Files,
        arms: ArmControl,
        aliases: AliasStore,
        publish: Callable[[], Awaitable[None]],
        monitor: MonitorView | None,
        clock: Callable[[], float],
    ) -> None:
        self.model = model
        self.record = ModelRecord(model)
        self._ledger, self._files, self._arms, self._monitor, self._clock = ledger, files, arms, monitor, clock
        self._candidate = Candidate(arms, model)
        progress = self._progress = Progress(model, monitor, clock)
        self._settler = Settler(
            self.record,
            ledger,
            files,
            self._candidate,
            aliases,
            publish,
            self._refresh,
            self._stamp,
            progress.has_applied,
        )
        self._shadows = Shadows(
            self.record, ledger, files, arms, self._candidate, monitor, self._refresh, self._stamp, clock
        )
        self._trial: Trial | None = None
        self._decision: RolloutDecision | None = None
        self._labels_asked_at = 0.0
        self._saved_at = 0.0
        self._lock = asyncio.Lock()

    @property
    def is_by_window(self) -> bool:
        """Whether a rollout is under way that is looked at window by window."""
        config, state = self.record.config, self.record.rollout
        is_active = state is not None and not state.is_over
        return is_active and config is not None and config.rollout.evaluate == "window"

    async def tick(self) -> None:
        """Do everything that can be done now."""
        async with self._lock:
            for _ in range(MAX_MOVES):
                try:
                    if not await self._advance():
                        break
                except LedgerConflictError as error:
                    logger.info("read again model=%s because=%s", self.model, error)
            self._shadows.tick()

    def report(
        self,
        replica: str,
        sequence: int,
        tallies: Sequence[Tally],
        watermark_s: float,
        route_version: int | None = None,
    ) -> bool:
        """Take a replica's totals.

        Args:
            replica: Name of its incarnation.
            sequence: Rises by 1 from report to report, from 1.
            tallies: Totals of this model that changed since the last report.
            watermark_s: Every request that arrived before this is answered and in the totals; unix seconds.
            route_version: The route version that it applies.

        Returns:
            Whether all its reports have been heard; if not, it should send every total once more.
        """
        if self._trial is None and self.record.seq == 0:
            return False  # a new reconciler does not know yet whether it needs them
        is_heard = self._progress.watermarks.report(replica, sequence, watermark_s, self._clock(), route_version)
        if self._trial is not None:
            self._trial.book.add(replica, tallies)
        return is_heard

    async def request(
        self, version: str, by: str, *, override_reason: str | None = None, skip_shadow: bool = False
    ) -> str:
        """Begin a rollout, unless one is under way; returns its id.

        Raises:
            ModelNotFoundError: The model is not served, or the version is not registered.
            RolloutError: Another rollout is under way, or the version is champion already.
            GateRefusedError: The version has not passed the gate (or is not approved), and nobody overrides that.
        """
        async with self._lock:
            self._refresh()
            self.record.check_request(version, is_overridden=override_reason is not None)
            return await self._request(version, by, override_reason, skip_shadow)

    async def command(self, command: Command, by: str, reason: str = "") -> None:
        """Record what a person asks for; the next tick acts on it.

        Raises:
            RolloutError: The rollout's state does not allow it.
        """
        async with self._lock:
            self._refresh()
            state, version = self.record.check_command(command), self.record.rollout_stream_version
            stream = f"{self.model}/rollout"
            payload = {"rollout_id": state.rollout_id, "command": command, "by": by, "reason": reason}
            key = f"{stream}/{state.rollout_id}/{command}@{version}"
            self._ledger.append(stream, "rollout.commanded", key, payload, expect_version=version, **self._stamp())

    async def shadow(self, version: str, by: str, *, stop: bool = False, reason: str = "") -> None:
        """Let a version score logged rows beside the champion, or let it be; the next tick acts on it.

        Raises:
            ModelNotFoundError: The model is not served, or the version is not registered.
            RolloutError: It cannot be a shadow, or is none.
        """
        async with self._lock:
            await self._progress.closed_window()
            self._refresh()
            if stop:
                end_shadow(
                    self._ledger, self.record, self.record.shadow(version), by, reason or "asked for", self._stamp()
                )
                return
            self.record.check_shadow(version)
            stream, name = f"{self.model}/shadows", self.record.shadows.next_id(self.model, version)
            payload = {"shadow_id": name, "version": version, "by": by, "reason": reason}
            fence = self.record.shadows.stream_version
            key = f"{stream}/{name}/started"
            self._ledger.append(stream, "shadow.started", key, payload, expect_version=fence, **self._stamp())

    async def view(self) -> dict[str, Any]:
        """Return the document of ``GET /rollout``.

        ``evaluated_through`` is the last window that has been decided upon, with everything that followed from it
        in force in the replicas.
        """
        closed = await self._progress.closed_window()
        await self.tick()
        record, state, routes, decision = self.record, self.record.rollout, self.record.routes, self._decision
        through = self._trial.evaluated if self.is_by_window and self._trial else closed
        if through is not None and routes and not self._progress.has_applied(routes.version):
            through -= 1
        shown = decision.to_json() if decision else record.last_move
        evidence = dict(shown.get("evidence", {}))
        return {
            "model": self.model,
            "rollout_id": state.rollout_id if state else None,
            "version": state.version if state else None,
            "state": state.name if state else "none",
            "step": state.step if state else 0,
            "weight": state.weight if state else 0.0,
            "paused_from": state.paused_from if state and state.stage == "paused" else None,
            "reason": shown.get("reason", ""),
            "guards": evidence.pop("guards", []),
            "evidence": evidence,
            "allowed": state.allowed if state else [],
            "compared": await self._trial.compared() if self._trial else None,
            "shadows": await self._shadows.view(),
            "evaluated_through": through,
            "closed_window": closed,
            "closed_through": self._trial.book.closed_through if self._trial else None,
            "routes": routes.to_json() if routes else None,
            "aliases": dict(record.aliases),
            "history": list(record.history),
        }

    async def _advance(self) -> bool:
        """Take one decision; returns whether the state moved."""
        self._refresh()
        config, state = self.record.config, self.record.rollout
        if self.record.routes is None or config is None:
            if self.record.route_stream_version:
                await self._settler.withdraw()
            return False
        self._end_shadows()
        if state is None or (state.is_over and state.command is None):
            await self._settler.settle(config, state)
            return await self._request_next()
        trial = self._open_trial(state, config)
        is_settled = await self._settler.settle(config, state)
        passes = state.stage in PASSING
        look = Look(True, trial.evaluated)
        if not passes:
            look = await self._progress.look(trial.book, trial.evaluated, config.rollout.evaluate)
        if look.is_full and state.stage in ON_TRIAL and not await self._gather_losses(trial, look):
            return False
        observation = await self._observe(trial, state, config, is_settled)
        may_move = look.is_full or is_urgent(state, observation, config.rollout.guards)
        if not may_move and self._decision is not None:
            return False  # what is shown stays the last decision: guards take milliseconds, and say the same again
        self._decision = decision = step(state, observation, config.rollout, self._clock())
        if not may_move:
            return False
        if decision.verdicts and (decision.moves or decision.wanted_weight is None):
            point = make_point(decision, observation, config.rollout.guards, state.weight, self._clock())
            trial.trail.add(decision, point)
        if decision.moves:
            self._candidate.forget_problem(state.version)
            self._record_move(state, decision, look.through)
        elif decision.wanted_weight is not None:
            # The same evidence is looked at again when the replicas are there.
            return await self._candidate.scale(state.version, decision.wanted_weight, config)
        if look.is_full and not passes:
            trial.evaluated = look.through
            await self._save(trial, decision.moves)
        return decision.moves

    def _end_shadows(self) -> None:
        """A version that answers, or is on trial, is a shadow no more; its process goes on."""
        routes = self.record.routes
        for version, entry in list(self.record.shadows.active.items()):
            is_champion = routes is not None and version == routes.champion.version
            if is_champion or version == self.record.on_trial:
                reason = "it is champion now" if is_champion else "it is on trial now"
                end_shadow(self._ledger, self.record, entry, "rollouts", reason, self._stamp())
                self._refresh()

    def _refresh(self) -> None:
        self.record.apply(self._ledger.read(prefix=f"{self.model}/", after_seq=self.record.seq))

    def _stamp(self) -> Mapping[str, Any]:
        return {"event_time": self._event_now_us(), "time": self._clock()}

    def _event_now_us(self) -> int | None:
        """End of the newest closed window, microseconds since 1970 UTC."""
        closed, config = self._progress.last_closed, self.record.config
        if closed is None or config is None:
            return None
        return (closed + 1) * round(config.monitoring.window.total_seconds() * 1e6)

    def _open_trial(self, state: RolloutState, config: ProjectConfig) -> Trial:
        if self._trial is None or self._trial.rollout_id != state.rollout_id:
            self._trial = Trial(state, config, self.record.unseen_after_us(state.version), self._files)
            self._decision = None
        return self._trial

    async def _gather_losses(self, trial: Trial, look: Look) -> bool:
        """Bring losses up to date; returns whether a decision may be taken."""
        if self.is_by_window:
            return await trial.gather_losses(self.record, self._arms, self._monitor, look.through)
        if self._clock() - self._labels_asked_at >= LABEL_POLL_S:
            self._labels_asked_at = self._clock()
            await trial.gather_losses(self.record, self._arms, self._monitor, None)
        return True

    async def _observe(self, trial: Trial, state: RolloutState, config: ProjectConfig, is_settled: bool) -> Observation:
        routes = self.record.routes
        health, detail = await self._candidate.health(state.version)
        gate, gate_detail = self.record.standing(state.version)
        arm: ArmName = "champion" if state.was_promoted else "candidate"
        after = state.after_route_version if state.was_promoted else 0
        room, failures = Room(), trial.book.failures(arm, after)
        if config.rollout.isolation == "isolated":
            room = self._candidate.room(state.version, config.serving.placement == "deployment")
        return Observation(
            candidate=health,
            candidate_detail=detail,
            room=room,
            gate=gate,
            gate_detail=gate_detail,
            is_settled=is_settled,
            route_version=routes.version if routes else 0,
            counts=trial.book.counts(),
            recent=trial.book.recent(arm, after) if state.stage not in PASSING else ArmCounts(),
            failures={str(kind): count for kind, count in failures.items()},
            losses=trial.losses,
            slices=trial.slices(routes),
            slice_problem="; ".join(f"no slices of {c.name}: {c.problem}" for c in routes.slices if c.problem)
            if routes
            else "",
            closed_through=trial.book.closed_through,
            event_now_us=self._event_now_us(),
        )

    def _record_move(self, state: RolloutState, decision: RolloutDecision, window: int | None) -> None:
        stream = f"{self.model}/rollout"
        route_version = self.record.routes.version if self.record.routes else 0
        moved = {"rollout_id": state.rollout_id, **decision.to_json()}
        logger.info(
            "moved rollout=%s from=%s to=%s reason=%s evidence=%s",
            *(state.rollout_id, decision.state, decision.to, decision.reason, dict(decision.evidence)),
        )
        self._ledger.append(
            stream,
            "rollout.moved",
            state.move_key(decision.to),
            {**moved, "route_version": route_version, "window": window},
            expect_version=state.stream_version,
            **self._stamp(),
        )

    async def _save(self, trial: Trial, moved: bool) -> None:
        if moved or self.is_by_window or self._clock() - self._saved_at >= CHECKPOINT_S:
            self._saved_at = self._clock()
            await trial.save()

    async def _request(self, version: str, by: str, override_reason: str | None, skip_shadow: bool) -> str:
        window, routes = await self._progress.closed_window(), self.record.routes
        rollout_id, stream = self.record.rollout_id(version), f"{self.model}/rollout"
        payload = {
            "rollout_id": rollout_id,
            "version": version,
            "by": by,
            "override_reason": override_reason,
            "skip_shadow": skip_shadow,
            "route_version": routes.version if routes else 0,
            "window": window,
        }
        fence = self.record.rollout_stream_version
        key = f"{stream}/{rollout_id}/requested"
        self._ledger.append(stream, "rollout.requested", key, payload, expect_version=fence, **self._stamp())
        logger.info("requested rollout=%s by=%s window=%s", rollout_id, by, window)
        return rollout_id

    async def _request_next(self) -> bool:
        """Request the rollout of a version that may start by itself; returns whether there was one."""
        version = self.record.next_candidate()
        if version is not None:
            await self._request(version, "auto_start", None, False)
        return version is not None
