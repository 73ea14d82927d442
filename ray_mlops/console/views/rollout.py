"""The rollout page: where it stands, what the guards say, and how it came there.

Everything but the newest evidence is in the ledger, so the page stays useful while the ``rollouts`` actor is away.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ray_mlops.console.address import Visit
from ray_mlops.console.events import describe_event, tone_of
from ray_mlops.console.render import Screen, write_clock
from ray_mlops.console.sources import Away, ConsoleData, Document, ModelFacts
from ray_mlops.console.views.evidence import draw_trail, group_guards, page_key, trail_of_moves
from ray_mlops.console.views.overview import split_of
from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.rollout.state import OVER, RolloutState, fold_rollout, parse_state

MAX_EVENTS = 500
_LEAD_IN = ("pending", "validating", "preparing")
_ENDING = ("promoting", "baking", "promoted")
_UNDONE = ("rolling_back", "rolled_back", "aborted", "invalid")


async def show_rollout(data: ConsoleData, visit: Visit) -> Screen:
    """Show the newest rollout of a model."""
    stream = f"{visit.model}/rollout"
    facts, events, document = await asyncio.gather(
        data.facts(visit.model), data.events(stream=stream, limit=MAX_EVENTS), data.rollout(visit.model)
    )
    state = fold_rollout(reversed(events))
    trail = None if state is None else await data.evidence(visit.model, state.rollout_id)
    build = partial(build_rollout, facts, events, document, trail)
    return Screen("rollout", f"Rollout of {visit.model}", build)


def build_rollout(
    facts: ModelFacts, newest: Sequence[LedgerEvent], document: Document, trail: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        facts: What the ledger says of the model.
        newest: Events of the rollout's stream, newest first.
        document: What the ``rollouts`` actor says.
        trail: The evidence over time; None where none was recorded.
    """
    events = list(reversed(newest))
    state = fold_rollout(events)
    own = [event for event in events if state is not None and event.payload.get("rollout_id") == state.rollout_id]
    current = _current(state, own, document)
    moves = [event for event in own if event.kind == "rollout.moved"]
    return {
        "away": document.reason if isinstance(document, Away) else "",
        "has_rollout": state is not None,
        "rollout_id": state.rollout_id if state else "",
        "version": state.version if state else "",
        "current": current,
        "complete": _complete(facts.config, document),
        "stages": [] if state is None else trace_stages(state, current["state"], moves, facts.config),
        "split": split_of(facts.routes),
        "guards": group_guards(current["guards"]),
        "figures": draw_trail(trail_of_moves(moves) if trail is None else trail, moves),
        "key": page_key(),
        "is_by_window": bool(trail and trail.get("by_window")),
        "compared": _compared(document),
        "shadows": _shadows(document),
        "arms": _arms(current["evidence"]),
        "history": [_line(event) for event in reversed(own)],
        "earlier": _earlier(events, state),
    }


def _compared(document: Document) -> Mapping[str, Any] | None:
    """How the candidate differs from the champion on the rows of its shadow, where there are any."""
    compared = None if isinstance(document, Away) else document.get("compared")
    return compared if compared and compared["disagreement"]["rows"] else None


def _shadows(document: Document) -> list[Mapping[str, Any]]:
    return [] if isinstance(document, Away) else list(document.get("shadows") or ())


def _current(state: RolloutState | None, own: Sequence[LedgerEvent], document: Document) -> dict[str, Any]:
    """What holds now: as the actor says, or as it was recorded at the last move."""
    moved = next((event.payload for event in reversed(own) if event.kind == "rollout.moved"), {})
    recorded = moved.get("evidence") or {}
    told: Mapping[str, Any] = {} if isinstance(document, Away) else document
    is_told = state is not None and told.get("rollout_id") == state.rollout_id
    is_live = is_told and bool(told.get("guards"))
    name = str(told["state"]) if is_told else state.name if state else "none"
    stage = parse_state(name)[0] if name != "none" else None
    said = told if is_live else {}
    return {
        "state": name,
        "tone": "good" if stage == "promoted" else "bad" if stage in _UNDONE and stage != "aborted" else "",
        "is_over": stage in OVER,
        "weight": told.get("weight") if is_told else state.weight if state else None,
        "reason": (told.get("reason") if is_told else "") or moved.get("reason") or "",
        "paused_from": (told.get("paused_from") if is_told else None) or "",
        "is_live": is_live,
        "guards": list(said.get("guards") or recorded.get("guards") or ()),
        "evidence": said.get("evidence") or recorded,
    }


def _complete(config: Mapping[str, Any], document: Document) -> str:
    """How far all replicas have told of their traffic, in words."""
    through = None if isinstance(document, Away) else document.get("closed_through")
    if through is None:
        return ""
    is_by_window = (config.get("rollout") or {}).get("evaluate") == "window"
    return f"window {through}" if is_by_window else write_clock(through)


def trace_stages(
    state: RolloutState, name: str, moves: Sequence[LedgerEvent], config: Mapping[str, Any]
) -> list[dict[str, str]]:
    """Return the way of a rollout: each stage with `done`, `now`, `next` or `bad`.

    Args:
        state: The rollout.
        name: The state that it is in.
        moves: Its transitions so far.
        config: The model's configuration, for the steps to come; may be empty.
    """
    policy = config.get("rollout") or {}
    seen = ["pending", *(str(event.payload["to"]) for event in moves)]
    weights = list(policy.get("steps") or ())
    steps = max(len(weights), *(parse_state(one)[1] + 1 for one in seen if one.startswith("canary")), 0)
    shadow = policy.get("shadow") or {}
    has_shadow = "shadow" in seen or (bool(shadow.get("enabled", True)) and not state.skip_shadow)
    canary = [f"canary[{index}]" for index in range(steps)] or ["canary[0]"]
    plan = [*_LEAD_IN, *(["shadow"] if has_shadow else []), *canary, *_ENDING]
    here = state.paused_from if name == "paused" else name
    is_undone = parse_state(name)[0] in _UNDONE
    stages = []
    for stage in plan:
        mark = "now" if stage == here else "done" if stage in seen else "next"
        if is_undone and mark == "next":
            continue
        stages.append({"name": _title(stage, weights), "mark": "done" if stage == here == "promoted" else mark})
    if name == "paused":
        stages = [{**one, "name": f"{one['name']} (paused)"} if one["mark"] == "now" else one for one in stages]
    return [*stages, {"name": _title(name, weights), "mark": "bad"}] if is_undone else stages


def _title(name: str, weights: Sequence[float]) -> str:
    stage, step = parse_state(name)
    if stage == "canary":
        return f"canary {weights[step]:.0%}" if step < len(weights) else f"canary {step + 1}"
    return stage.replace("_", " ")


def _arms(evidence: Mapping[str, Any]) -> dict[str, Any]:
    arms = []
    for name in ("candidate", "champion"):
        counts = evidence.get(name) or {}
        requests = counts.get("requests") or 0
        parts = {part: counts.get(part) or 0 for part in ("errors", "slow", "slo_violations")}
        shares = {part: count / requests if requests else None for part, count in parts.items()}
        arms.append({"arm": name, "requests": requests, "counts": parts, "shares": shares})
    names = ("step_requests", "baked_requests", "pairs", "split_labels", "loss_is_proven")
    return {"arms": arms, "counts": {name: evidence.get(name) for name in names}, "has_any": bool(evidence)}


def _line(event: LedgerEvent) -> dict[str, Any]:
    return {
        "event": event,
        "text": describe_event(event),
        "tone": tone_of(event),
        "weight": event.payload.get("weight"),
    }


def _earlier(events: Sequence[LedgerEvent], state: RolloutState | None) -> list[dict[str, Any]]:
    """How rollouts before this one ended, newest first."""
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        name = str(event.payload.get("rollout_id"))
        if event.kind == "rollout.requested":
            found[name] = {"event": event, "version": event.payload.get("version"), "state": "pending", "reason": ""}
        elif event.kind == "rollout.moved" and name in found:
            found[name] |= {"state": event.payload["to"]}
            if parse_state(str(event.payload["to"]))[0] != "rolled_back":  # which only says that it was undone
                found[name] |= {"reason": event.payload.get("reason") or ""}
    return [entry for name, entry in reversed(found.items()) if state is None or name != state.rollout_id]
