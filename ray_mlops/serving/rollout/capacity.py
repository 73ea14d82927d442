"""No share of traffic before the replicas that it asks for: what a rollout does while they start. Pure."""

from dataclasses import dataclass

from ray_mlops.config import RolloutConfig
from ray_mlops.serving.rollout.evidence import Room
from ray_mlops.serving.rollout.state import ON_TRIAL, RolloutState, parse_state


@dataclass(frozen=True, slots=True)
class Admitted:
    """A move, or what takes its place until there is room for it."""

    to: str
    reason: str
    wanted_weight: float | None = None
    """Share of traffic that the candidate shall be made ready for; None: nothing is to be done."""


def admit(state: RolloutState, to: str, reason: str, room: Room, config: RolloutConfig) -> Admitted:
    """Let a move that gives the candidate more traffic wait for its replicas; pause where there is no room.

    Moves that take traffic away are never held up.

    Args:
        state: Where the rollout is.
        to: Name of the state that the evidence leads to.
        reason: Why.
        room: What the candidate's replicas suffice for.
        config: Steps of the canary.
    """
    weight = _weight_of(to, room, config)
    if state.stage not in ON_TRIAL or to == state.name or weight is None or weight <= room.ready_for:
        return Admitted(to, reason)
    if room.problem and state.stage == "paused":
        return Admitted(state.name, f"paused; no room for {weight:.0%} of the traffic: {room.problem}", weight)
    if room.problem:
        return Admitted("paused", f"no room for {weight:.0%} of the traffic: {room.problem}")
    waits = f"replicas for {weight:.0%} of the traffic start" + (f" ({room.detail})" if room.detail else "")
    return Admitted(state.name, f"{waits}; then {to}: {reason}", weight)


def _weight_of(to: str, room: Room, config: RolloutConfig) -> float | None:
    """Share of traffic of a state that gives the candidate some; None where none is to be made ready for."""
    stage, step = parse_state(to)
    if stage == "canary":
        return config.steps[min(step, len(config.steps) - 1)]
    return 1.0 if stage == "promoting" and room.carries_champion else None
