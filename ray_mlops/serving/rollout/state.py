"""Where a rollout stands: a fold over the events of stream ``{model}/rollout``, and what follows from it.

The state is never stored. Whoever has the events has the state, after any crash; routes, aliases and arms
are compared with what the state wants and put right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.protocol import Arm, ModelRoutes, Placement

Stage = Literal[
    "pending",
    "validating",
    "preparing",
    "shadow",
    "canary",
    "promoting",
    "baking",
    "promoted",
    "paused",
    "rolling_back",
    "rolled_back",
    "aborted",
    "invalid",
]
Command = Literal["pause", "resume", "promote", "rollback", "abort"]

OVER: frozenset[Stage] = frozenset({"promoted", "rolled_back", "aborted", "invalid"})
"""No rollout is under way. `aborted` is the only end that says nothing about the candidate."""
PASSING: frozenset[Stage] = frozenset({"pending", "validating", "preparing", "promoting", "rolling_back"})
"""Pass by themselves; in ``evaluate: window`` event time is not counted until they have."""
ON_TRIAL: frozenset[Stage] = frozenset({"shadow", "canary", "paused"})
"""The candidate is running, and its guards are looked at."""
HELD: frozenset[Stage] = frozenset({"promoting", "baking", "promoted"})
"""The version on trial is champion."""

_ALLOWED: dict[Command, frozenset[Stage]] = {
    "pause": frozenset({"shadow", "canary"}),
    "resume": frozenset({"paused"}),
    "promote": ON_TRIAL,
    "rollback": frozenset(get_args(Stage)) - {"rolling_back", "rolled_back", "aborted", "invalid"},
    "abort": frozenset(get_args(Stage)) - OVER - {"rolling_back"},
}


@dataclass(frozen=True, slots=True)
class RolloutState:
    """One rollout, as its events tell it."""

    model: str
    rollout_id: str
    version: str
    """The version on trial."""
    stage: Stage = "pending"
    step: int = 0
    """Index of the canary step, in `canary` and in a pause of it."""
    weight: float = 0.0
    """The candidate's share of traffic."""
    skip_shadow: bool = False
    overrides_gate: bool = False
    requested_at: float = 0.0
    requested_event_us: int | None = None
    entered_at: float = 0.0
    """Unix seconds at which the stage was entered."""
    paused_from: str = ""
    """Name of the state that a pause returns to."""
    first_route_version: int = 1
    """Route versions of this rollout start here."""
    after_route_version: int = 0
    """Requests under later route versions belong to the present step (or to the bake)."""
    pairs_before: int = 0
    """Labelled pairs there were when a person resumed the shadow."""
    loss_is_proven: bool = False
    window: int | None = None
    """The last closed epoch that a recorded decision has looked at."""
    command: Command | None = None
    """What a person asked for and no decision has answered yet."""
    command_reason: str = ""
    command_by: str = ""
    was_promoted: bool = False
    moves: tuple[str, ...] = ()
    """Keys of the transitions so far, ``from->to``."""
    stream_version: int = 0
    """Version of the stream's last event: the fence of the next."""

    @property
    def name(self) -> str:
        """The state's name in events: the stage, with the step of a canary."""
        return f"canary[{self.step}]" if self.stage == "canary" else self.stage

    @property
    def is_over(self) -> bool:
        return self.stage in OVER

    def allows(self, command: Command) -> bool:
        """Whether a person may ask for this now."""
        return self.stage in _ALLOWED[command]

    @property
    def allowed(self) -> list[Command]:
        """What a person may ask for now."""
        return [command for command in _ALLOWED if self.allows(command)]

    @property
    def asked(self) -> str:
        """Why a person wants what the command says, in words."""
        who = self.command_by or "a person"
        return f"{who}: {self.command_reason}" if self.command_reason else f"{who} asked for it"

    def move_key(self, to: str) -> str:
        """Key of the event of a transition: the same after any crash, so that it happens once."""
        move = f"{self.name}->{to}"
        repeat = self.moves.count(move)
        return f"{self.model}/rollout/{self.rollout_id}/{move}" + (f"#{repeat + 1}" if repeat else "")


def parse_state(name: str) -> tuple[Stage, int]:
    """Split a state's name into stage and canary step.

    Example:
        >>> parse_state("canary[2]"), parse_state("baking")
        (('canary', 2), ('baking', 0))
    """
    if name.startswith("canary["):
        return "canary", int(name[7:-1])
    return name, 0  # type: ignore[return-value]


def fold_rollout(events: Iterable[LedgerEvent], state: RolloutState | None = None) -> RolloutState | None:
    """Apply events of one model's rollout stream in order; returns the newest rollout, or None.

    A command that the state does not allow when it arrives is without effect.
    """
    for event in events:
        if event.kind == "rollout.requested":
            state = _requested(event)
        elif state is not None and event.payload.get("rollout_id") == state.rollout_id:
            state = replace(_applied(state, event), stream_version=event.version)
        elif state is not None:
            state = replace(state, stream_version=event.version)
    return state


def _requested(event: LedgerEvent) -> RolloutState:
    payload = event.payload
    return RolloutState(
        model=event.stream.removesuffix("/rollout"),
        rollout_id=payload["rollout_id"],
        version=str(payload["version"]),
        skip_shadow=bool(payload.get("skip_shadow")),
        overrides_gate=payload.get("override_reason") is not None,
        requested_at=event.time,
        requested_event_us=event.event_time,
        entered_at=event.time,
        first_route_version=payload.get("route_version", 0) + 1,
        after_route_version=payload.get("route_version", 0),
        window=payload.get("window"),
        stream_version=event.version,
    )


def _applied(state: RolloutState, event: LedgerEvent) -> RolloutState:
    if event.kind == "rollout.commanded":
        command: Command = event.payload["command"]
        if not state.allows(command):
            return state
        reason, who = (event.payload.get(name) or "" for name in ("reason", "by"))
        return replace(state, command=command, command_reason=reason, command_by=who)
    if event.kind != "rollout.moved":
        return state
    payload = event.payload
    evidence: Mapping[str, Any] = payload.get("evidence") or {}
    stage, step = parse_state(payload["to"])
    resumes = state.stage == "paused" and stage in ("shadow", "canary")
    enters_step = stage == "promoting" or (stage == "canary" and not resumes)
    return replace(
        state,
        stage=stage,
        step=state.step if stage == "paused" else step,
        weight=float(payload["weight"]),
        entered_at=event.time,
        paused_from=state.name if stage == "paused" else state.paused_from,
        after_route_version=payload["route_version"] if enters_step else state.after_route_version,
        pairs_before=evidence.get("pairs", 0) if resumes else state.pairs_before,
        loss_is_proven=state.loss_is_proven or bool(evidence.get("loss_is_proven")),
        window=payload.get("window") if payload.get("window") is not None else state.window,
        command=None,
        command_reason="",
        command_by="",
        was_promoted=state.was_promoted or stage == "promoting",
        moves=(*state.moves, f"{payload['from']}->{payload['to']}"),
    )


def desired_routes(
    routes: ModelRoutes,
    state: RolloutState,
    bundle: tuple[str, str],
    *,
    salt: int,
    isolated: bool,
    placement: Placement = "in_replica",
) -> ModelRoutes:
    """Return the routes that a state wants; the same value when they are in force already.

    Routes that name a candidate for the first time lack what is measured then: the champion's latency threshold and
    the slices of traffic, which stay as long as the rollout.

    Args:
        routes: In force now.
        state: The rollout.
        bundle: Address and hash of the candidate's bundle.
        salt: The rollout's routing salt.
        isolated: Whether the candidate runs in an application of its own.
        placement: Where the version runs as champion.
    """
    if state.stage in ("pending", "validating") or (state.stage == "preparing" and isolated):
        return routes
    without = replace(routes, candidate=None, slow_ms=None, slices=(), champion=replace(routes.champion, weight=1.0))
    holds = routes.champion.version == state.version
    if state.stage in HELD:
        champion, previous = Arm(state.version, *bundle, placement), without.champion
        return without if holds else replace(without, champion=champion, previous=previous)
    if state.stage in OVER or state.stage == "rolling_back":
        if state.was_promoted and holds and routes.previous is not None:
            return replace(without, champion=routes.previous, previous=None)
        return without
    if routes.rollout_id != state.rollout_id:
        routes = replace(routes, salt=salt, rollout_id=state.rollout_id, slow_ms=None, slices=())
    candidate = Arm(state.version, *bundle, "isolated" if isolated else "in_replica", state.weight)
    return replace(routes, candidate=candidate, champion=replace(routes.champion, weight=1.0 - state.weight))


def isolated_arms(routes: ModelRoutes) -> dict[str, str]:
    """Bundles, by version, of the versions that the routes name and that run outside the gateway."""
    arms = (routes.champion, routes.previous, routes.candidate)
    return {arm.version: arm.bundle for arm in arms if arm is not None and arm.placement == "isolated"}


def desired_aliases(routes: ModelRoutes, state: RolloutState | None) -> dict[str, str | None]:
    """Return the registry aliases that routes and state want; None stands for no such alias."""
    on_trial = state is not None and not state.is_over and state.stage not in HELD | {"rolling_back"}
    return {
        "champion": routes.champion.version,
        "previous": routes.previous.version if routes.previous else None,
        "candidate": state.version if state is not None and on_trial else None,
    }
