"""The next state of a rollout: a pure function of where it is, what is known, the policy and the time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ray_mlops.config import GuardsConfig, RolloutConfig
from ray_mlops.serving.rollout.capacity import admit
from ray_mlops.serving.rollout.evidence import ArmCounts, Observation
from ray_mlops.serving.rollout.guards import PROMOTION_GUARDS, GuardVerdict, judge, judge_limit
from ray_mlops.serving.rollout.state import ON_TRIAL, RolloutState, parse_state


@dataclass(frozen=True, slots=True)
class RolloutDecision:
    """Where a rollout goes, or that it stays, with all that led to it."""

    state: str
    """Name of the state in which it was made."""
    to: str
    """Name of the next state; the same name to stay."""
    reason: str
    weight: float
    """The candidate's share of traffic from now on."""
    verdicts: tuple[GuardVerdict, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What else it rests on, as plain JSON."""
    is_urgent: bool = False
    """It follows a person's command or a hard limit, and does not wait for an epoch to close."""
    wanted_weight: float | None = None
    """Share of traffic that the candidate shall be made ready for, before it gets it."""

    @property
    def moves(self) -> bool:
        return self.to != self.state

    def to_json(self) -> dict[str, Any]:
        """Return what the event of the transition stores, and operators see."""
        _, step = parse_state(self.to)
        return {
            "from": self.state,
            "to": self.to,
            "reason": self.reason,
            "step": step,
            "weight": self.weight,
            "evidence": {"guards": [verdict.to_json() for verdict in self.verdicts], **self.evidence},
        }


def step(state: RolloutState, observation: Observation, config: RolloutConfig, now: float) -> RolloutDecision:
    """Decide what a rollout does next.

    Evidence against the candidate comes before anything a person asks for, except a rollback and an abort.

    Args:
        state: Where it is.
        observation: What is known.
        config: The policy.
        now: Unix seconds.
    """
    verdicts: tuple[GuardVerdict, ...] = ()
    if state.stage in ON_TRIAL or state.stage == "baking":
        verdicts = judge(observation, config.guards, config.shadow, loss_is_proven=state.loss_is_proven)
    admitted = admit(state, *_next(state, observation, config, verdicts, now), observation.room, config)
    return RolloutDecision(
        state=state.name,
        to=admitted.to,
        reason=admitted.reason,
        weight=_weight(state, admitted.to, config),
        wanted_weight=admitted.wanted_weight,
        verdicts=verdicts,
        evidence=_evidence(state, observation, verdicts),
        is_urgent=is_urgent(state, observation, config.guards),
    )


def is_urgent(state: RolloutState, observation: Observation, guards: GuardsConfig) -> bool:
    """Whether a decision does not wait for an epoch to close: a person's command, a crash, or a broken limit."""
    has_limit = state.stage in ON_TRIAL or state.stage == "baking"
    is_broken = has_limit and "errors" not in guards.dry_run and judge_limit(observation, guards)[0] == "fail"
    return is_broken or state.command is not None or observation.candidate == "failed"


def _next(
    state: RolloutState,
    observation: Observation,
    config: RolloutConfig,
    verdicts: tuple[GuardVerdict, ...],
    now: float,
) -> tuple[str, str]:
    if state.command == "rollback":
        return "rolling_back", state.asked
    if state.command == "abort":
        return "aborted", f"{state.asked}; nothing is concluded about the candidate"
    if state.stage == "pending":
        return "validating", "requested"
    if state.stage == "validating":
        return _validating(state, observation)
    if state.stage == "preparing":
        return _preparing(state, observation, config, now)
    if state.stage == "promoting":
        return ("baking", "it is champion") if observation.is_settled else _stay(state, "routes and aliases follow")
    if state.stage == "rolling_back":
        return ("rolled_back", "undone") if observation.is_settled else _stay(state, "routes and aliases follow")
    if state.stage == "baking":
        return _baking(state, observation, config, verdicts)
    if state.stage in ON_TRIAL:
        return _on_trial(state, observation, config, verdicts, now)
    return _stay(state, "it is over")


def _stay(state: RolloutState, reason: str) -> tuple[str, str]:
    return state.name, reason


def _validating(state: RolloutState, observation: Observation) -> tuple[str, str]:
    if state.overrides_gate:
        return "preparing", "the gate was overridden by a person"
    if observation.gate == "refused":
        return "rolling_back", f"no passed gate: {observation.gate_detail}"
    if observation.gate == "waiting":
        return _stay(state, observation.gate_detail or "waits for a person's approval")
    return "preparing", "the gate was passed"


def _preparing(state: RolloutState, observation: Observation, config: RolloutConfig, now: float) -> tuple[str, str]:
    if observation.candidate == "failed":
        return "rolling_back", f"the candidate did not start: {observation.candidate_detail}"
    if observation.candidate == "ready":
        has_shadow = config.shadow.enabled and not state.skip_shadow
        return ("shadow" if has_shadow else "canary[0]"), "the candidate is ready"
    if now - state.entered_at > config.prepare_timeout_s:
        return "rolling_back", f"the candidate was not ready after {config.prepare_timeout_s:g} s"
    return _stay(state, observation.candidate_detail or "the candidate starts")


def _baking(
    state: RolloutState, observation: Observation, config: RolloutConfig, verdicts: tuple[GuardVerdict, ...]
) -> tuple[str, str]:
    """The comparison is over; what is left is the absolute limit, and the old champion kept warm."""
    if observation.room.carries_champion and observation.candidate == "failed":
        return "rolling_back", f"the new champion crashed: {observation.candidate_detail}"
    broken = _broken_limit(verdicts)
    if broken is not None:
        return "rolling_back", f"hard limit of {broken.name}: {broken.detail}{_kinds(broken, observation)}"
    answered = _baked(state, observation)
    if answered >= config.bake_requests:
        return "promoted", f"answered {answered} requests as champion"
    return _stay(state, f"{answered} of {config.bake_requests} requests as champion")


def _on_trial(
    state: RolloutState,
    observation: Observation,
    config: RolloutConfig,
    verdicts: tuple[GuardVerdict, ...],
    now: float,
) -> tuple[str, str]:
    against = _stopped(state, observation, config, verdicts)
    if against is not None:
        return against
    if state.command == "promote":
        return "promoting", state.asked
    if state.command == "pause":
        return "paused", state.asked
    if state.stage == "paused":
        if state.command == "resume":
            return state.paused_from, state.asked
        return _stay(state, _waits_for(state, config, verdicts))
    if state.stage == "shadow":
        return _shadow(state, observation, config, verdicts, now)
    return _canary(state, observation, config, verdicts, now)


def _waits_for(state: RolloutState, config: RolloutConfig, verdicts: tuple[GuardVerdict, ...]) -> str:
    """What a paused rollout needs from a person."""
    is_last = parse_state(state.paused_from) == ("canary", len(config.steps) - 1)
    acting = _acting(verdicts)
    if is_last and acting and all(verdict.verdict == "pass" for verdict in acting):
        return "all evidence is in; waits for a person to promote"
    return "paused; waits for a person"


def _stopped(
    state: RolloutState, observation: Observation, config: RolloutConfig, verdicts: tuple[GuardVerdict, ...]
) -> tuple[str, str] | None:
    """What ends a trial, whatever else is the case: limits first, then integrity, then evidence."""
    if observation.candidate == "failed":
        return "rolling_back", f"the candidate crashed: {observation.candidate_detail}"
    failed = [v for v in verdicts if v.verdict == "fail" and not v.dry_run]
    for question, to, words in (
        ("limit", "rolling_back", "hard limit of"),
        ("integrity", "invalid", "the split of traffic is not what was asked for:"),
        ("regression", "rolling_back", "evidence of regression in"),
    ):
        found = next((v for v in failed if v.question == question), None)
        if found is not None:
            return to, f"{words} {found.name}: {found.detail}{_kinds(found, observation)}"
    start, end = state.requested_event_us, observation.event_now_us
    if config.max_rollout is not None and start is not None and end is not None:
        passed_s = (end - start) / 1e6
        if passed_s > config.max_rollout.total_seconds():
            return "rolling_back", f"not decided after {passed_s / 86400:.1f} days of event time"
    return None


def _shadow(
    state: RolloutState,
    observation: Observation,
    config: RolloutConfig,
    verdicts: tuple[GuardVerdict, ...],
    now: float,
) -> tuple[str, str]:
    loss = _promotion(verdicts, "loss")
    pairs = len(observation.losses.paired)
    passed_s = now - state.entered_at
    if (loss.verdict == "pass" or loss.dry_run) and passed_s >= config.min_duration_s:
        return "canary[0]", f"loss: {loss.detail}"
    if pairs - state.pairs_before >= config.shadow.max_pairs:
        return _inconclusive(config, f"no conclusion on loss: {loss.detail}")
    if passed_s > config.max_duration_s:
        return _inconclusive(config, f"no conclusion on loss after {passed_s:.0f} s: {loss.detail}")
    return _stay(state, f"loss: {loss.detail}")


def _canary(
    state: RolloutState,
    observation: Observation,
    config: RolloutConfig,
    verdicts: tuple[GuardVerdict, ...],
    now: float,
) -> tuple[str, str]:
    """A step ends on enough requests without regression; the last one only on evidence of every promotion guard."""
    requests = _answered_in_step(state, observation)
    passed_s = now - state.entered_at
    is_last = state.step >= len(config.steps) - 1
    open_questions = [v for v in _acting(verdicts) if v.verdict != "pass"] if is_last else []
    if requests >= config.min_requests and passed_s >= config.min_duration_s and not open_questions:
        if not is_last:
            return f"canary[{state.step + 1}]", f"{requests} requests without evidence of regression"
        if not _acting(verdicts):
            return "paused", "no guard may promote; waits for a person"
        if not config.auto_promote:
            return "paused", "all evidence is in; waits for a person to promote"
        return "promoting", "all evidence is in"
    missing = "; ".join(f"{v.name}: {v.detail}" for v in open_questions)
    missing = missing or f"{requests} of {config.min_requests} requests"
    if passed_s > config.max_duration_s:
        return _inconclusive(config, f"no conclusion after {passed_s:.0f} s: {missing}")
    return _stay(state, missing)


def _inconclusive(config: RolloutConfig, reason: str) -> tuple[str, str]:
    return ("rolling_back" if config.on_inconclusive == "rollback" else "paused"), reason


def _broken_limit(verdicts: tuple[GuardVerdict, ...]) -> GuardVerdict | None:
    return next((v for v in verdicts if v.question == "limit" and v.verdict == "fail" and not v.dry_run), None)


def _kinds(verdict: GuardVerdict, observation: Observation) -> str:
    """How the version on trial failed, in words."""
    if verdict.name != "errors" or not observation.failures:
        return ""
    return f" ({', '.join(f'{count} {kind}' for kind, count in observation.failures.items())})"


def _promotion(verdicts: tuple[GuardVerdict, ...], name: str) -> GuardVerdict:
    return next(v for v in verdicts if v.question == "noninferiority" and v.name == name)


def _acting(verdicts: tuple[GuardVerdict, ...]) -> list[GuardVerdict]:
    return [v for v in (_promotion(verdicts, name) for name in PROMOTION_GUARDS) if not v.dry_run]


def _answered_in_step(state: RolloutState, observation: Observation) -> int:
    return sum(c.candidate.requests for c in observation.counts if c.route_version > state.after_route_version)


def _baked(state: RolloutState, observation: Observation) -> int:
    return sum(c.champion.requests for c in observation.counts if c.route_version > state.after_route_version)


def _weight(state: RolloutState, to: str, config: RolloutConfig) -> float:
    stage, index = parse_state(to)
    if stage == "canary":
        return config.steps[min(index, len(config.steps) - 1)]
    return state.weight if stage == "paused" else 0.0


def _evidence(state: RolloutState, observation: Observation, verdicts: tuple[GuardVerdict, ...]) -> dict[str, Any]:
    split = [counts for counts in observation.counts if 0.0 < counts.weight < 1.0]
    is_proven = state.loss_is_proven or (state.stage in ON_TRIAL and _promotion(verdicts, "loss").verdict == "pass")
    return {
        "candidate": asdict(sum((counts.candidate for counts in split), ArmCounts())),
        "champion": asdict(sum((counts.champion for counts in split), ArmCounts())),
        "step_requests": _answered_in_step(state, observation),
        "baked_requests": _baked(state, observation) if state.was_promoted else 0,
        "pairs": len(observation.losses.paired),
        "split_labels": len(observation.losses.losses),
        "loss_is_proven": is_proven,
        "failures": dict(observation.failures),
        "candidate_health": {"state": observation.candidate, "detail": observation.candidate_detail},
    }
