"""Rollouts on simulated traffic, decided by the code that decides in production.

``step``, with its guards and its state machine, is asked after every request at which it could decide
anything. Those moments are found by the running forms of the tests, which give the same evidence after each
request; asking ``step`` itself after each of 20,000 requests would take a minute for one rollout.
"""

from copy import copy
from dataclasses import dataclass
from math import inf

import numpy as np

from jobs.benchmarks.segments import Firsts, Segment
from jobs.benchmarks.simulated_traffic import BoolArray, FloatArray, Traffic
from ray_mlops.config import RolloutConfig
from ray_mlops.config.serving import GuardName
from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.rollout.comparison import SLOW_TOLERANCE
from ray_mlops.serving.rollout.evidence import ArmCounts, Observation, RouteCounts, SliceEvidence, UnitCounts
from ray_mlops.serving.rollout.guards import Question, joint_log_e, judge
from ray_mlops.serving.rollout.slice_guard import slice_prices
from ray_mlops.serving.rollout.state import RolloutState, fold_rollout
from ray_mlops.serving.rollout.transition import RolloutDecision, step
from ray_mlops.statistics.confidence import log_e_rate_below
from ray_mlops.statistics.running import RunningRateRatio, RunningSampleRatio

Running = RunningRateRatio | RunningSampleRatio
_ROUNDING = 1e-6
"""By how much a running form may differ from the plain one; ``step`` has the last word."""


@dataclass(frozen=True, slots=True)
class RolloutEnd:
    """How a simulated rollout ended."""

    state: str
    """Name of its last state."""
    reason: str
    requests: int
    """To both arms, until then."""


class SimulatedRollout:
    """One rollout on one stream of traffic.

    Args:
        traffic: The requests.
        config: The policy; a step lasts ``min_requests`` requests to the candidate.
        per_key: Count units by routing key; False counts each request, as if routing were not sticky.
    """

    def __init__(self, traffic: Traffic, config: RolloutConfig, *, per_key: bool = True) -> None:
        self._traffic, self._config = traffic, config
        self._firsts = Firsts(int(traffic.unit.max()) + 1, per_key=per_key)
        self._errors, self._slow, self._ratio = RunningRateRatio(), RunningRateRatio(), RunningSampleRatio()
        self._relative = RunningRateRatio(config.guards.error_margin)
        self._closed: tuple[RouteCounts, ...] = ()
        self._recent = np.zeros(0, dtype=bool)
        """Whether the newest requests to the candidate failed."""
        self.state = RolloutState("m", "r", "2", "canary", weight=config.steps[0], loss_is_proven=True)
        silent = judge(Observation(candidate="ready"), config.guards, config.shadow)
        self._thresholds = {(verdict.name, verdict.question): verdict.threshold for verdict in silent}
        self._acts_on_slices = bool(config.guards.slices) and "slices" not in config.guards.dry_run
        self._slices: dict[int, tuple[tuple[RouteCounts, ...], RunningRateRatio, RunningRateRatio]] = {
            number: ((), RunningRateRatio(), RunningRateRatio()) for number in np.unique(traffic.slices).tolist()
        }
        """By slice: what was closed under earlier weights, and the tests of errors and slow requests."""
        self._slice_thresholds = {
            kind: self._thresholds["slices", "regression"] + price
            for kind, price in (slice_prices(len(self._slices), config.guards) if self._acts_on_slices else {}).items()
        }

    def run(self) -> RolloutEnd:
        """Go through the requests until the rollout is over, or they are."""
        start, route_version, reason = 0, 0, "the requests are over"
        while start < len(self._traffic) and self.state.stage in ("canary", "paused"):
            route_version += 1
            segment = Segment(self._traffic, start, self.state.weight, self._firsts)
            decision, used = self._decide(segment, route_version)
            self._close(segment, route_version, used)
            start += used
            if decision is not None:
                self._move(decision, route_version)
                reason = decision.reason
        return RolloutEnd(self.state.name, reason, start)

    def _decide(self, segment: Segment, route_version: int) -> tuple[RolloutDecision | None, int]:
        """Ask ``step`` until it moves; returns how many requests that took."""
        for index in np.flatnonzero(self._moments(segment)):
            observation = self._observe(segment, route_version, int(index) + 1)
            decision = step(self.state, observation, self._config, float(index))
            if decision.moves:
                return decision, int(index) + 1
        return None, len(segment)

    def _observe(self, segment: Segment, route_version: int, num_requests: int) -> Observation:
        mine = segment.fails[:num_requests][segment.on_candidate[:num_requests]]
        newest = np.concatenate((self._recent, mine))[-self._config.guards.hard_error_requests :]
        counts = (*self._closed, segment.counts(route_version, num_requests))
        recent = ArmCounts(len(newest), int(newest.sum()))
        slices = self._observe_slices(segment, route_version, num_requests)
        return Observation(candidate="ready", route_version=route_version, counts=counts, recent=recent, slices=slices)

    def _observe_slices(self, segment: Segment, route_version: int, num_requests: int) -> tuple[SliceEvidence, ...]:
        if not self._config.guards.slices:
            return ()
        found = []
        for number, (closed, _, _) in self._slices.items():
            part = segment.slices.get(number)
            now = () if part is None else (part.counts(route_version, num_requests),)
            found.append(SliceEvidence(f"slice {number}", (*closed, *now)))
        return tuple(found)

    def _moments(self, segment: Segment) -> BoolArray:
        """Requests [n] after which a guard could speak, or a step end."""
        found = self._limit(segment)
        for threshold, running, first, weight in self._running(segment):
            path = self._path(running, segment, first, weight)
            found |= first & (path >= threshold - _ROUNDING)
        if self.state.stage == "canary":
            found |= self._may_advance(segment)
        return found

    def _running(self, segment: Segment) -> list[tuple[float, Running, BoolArray, float]]:
        """Threshold, test, what it counts [n] and under which weight, of all that may act."""
        odds = SLOW_TOLERANCE * segment.weight / (1.0 - segment.weight)
        tolerated = odds / (1.0 + odds)
        tests: list[tuple[GuardName, Question, Running, BoolArray, float]] = [
            ("errors", "regression", self._errors, segment.first_failure, segment.weight),
            ("latency", "regression", self._slow, segment.first_slow, tolerated),
            ("sample_ratio", "integrity", self._ratio, segment.first, segment.weight),
        ]
        acting = [
            (inf if name in self._config.guards.dry_run else self._thresholds[name, question], running, first, weight)
            for name, question, running, first, weight in tests
        ]
        for number, part in segment.slices.items() if self._acts_on_slices else ():
            _, errors, slow = self._slices[number]
            acting.append((self._slice_thresholds["errors"], errors, part.first_failure, segment.weight))
            acting.append((self._slice_thresholds["latency"], slow, part.first_slow, tolerated))
        return acting

    def _path(self, running: Running, segment: Segment, event: BoolArray, weight: float) -> FloatArray:
        """Evidence after each request [n], with nothing taken up for good."""
        path = np.full(len(segment) + 1, running.log_e)
        positions = np.flatnonzero(event)
        values = copy(running).extend(weight, segment.on_candidate[positions])
        path[positions + 1] = values
        last = np.maximum.accumulate(np.where(np.isin(np.arange(len(path)), positions + 1), np.arange(len(path)), 0))
        return path[last][1:]

    def _limit(self, segment: Segment) -> BoolArray:
        """Where too many of the newest requests to the candidate failed."""
        guards, mine = self._config.guards, np.flatnonzero(segment.on_candidate)
        failures = np.concatenate((self._recent, segment.fails[mine]))
        totals = np.concatenate(([0], np.cumsum(failures)))
        newest = (
            totals[len(self._recent) + 1 :]
            - totals[np.maximum(np.arange(len(self._recent) + 1, len(totals)) - guards.hard_error_requests, 0)]
        )
        found = np.zeros(len(segment), dtype=bool)
        found[mine] = newest > guards.hard_error_ratio * guards.hard_error_requests
        return found

    def _may_advance(self, segment: Segment) -> BoolArray:
        enough: BoolArray = np.cumsum(segment.on_candidate) >= self._config.min_requests
        if self.state.step < len(self._config.steps) - 1:
            return enough
        guards, threshold = self._config.guards, self._thresholds["errors", "noninferiority"] - _ROUNDING
        before = sum((counts.candidate_units for counts in self._closed), UnitCounts())
        mine = segment.first & segment.on_candidate
        units, errors = before.units + np.cumsum(mine), before.first_errors + np.cumsum(mine & segment.fails)
        absolute = log_e_rate_below(errors, units, guards.error_limit)
        relative = self._path(self._relative, segment, segment.first & segment.fails, segment.weight)
        return enough & (joint_log_e(absolute, relative) >= threshold)

    def _close(self, segment: Segment, route_version: int, used: int) -> None:
        """Take the segment's first requests up for good."""
        self._closed = (*self._closed, segment.counts(route_version, used))
        relative = (0.0, self._relative, segment.first & segment.fails, segment.weight)
        for _, running, first, weight in (*self._running(segment), relative):
            running.extend(weight, segment.on_candidate[:used][first[:used]])
        for number, part in segment.slices.items():
            closed, errors, slow = self._slices[number]
            self._slices[number] = ((*closed, part.counts(route_version, used)), errors, slow)
        mine = segment.fails[:used][segment.on_candidate[:used]]
        self._recent = np.concatenate((self._recent, mine))[-self._config.guards.hard_error_requests :]
        segment.close(used)

    def _move(self, decision: RolloutDecision, route_version: int) -> None:
        payload = {**decision.to_json(), "rollout_id": "r", "route_version": route_version}
        event = LedgerEvent(1, "m/rollout", 1, 0.0, None, "rollout.moved", "", payload, "", "")
        moved = fold_rollout([event], self.state)
        assert moved is not None
        self.state = moved
