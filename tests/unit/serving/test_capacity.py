"""A share of traffic waits for its replicas, and a rollout without room pauses."""

from dataclasses import replace
from typing import Any

import pytest

from ray_mlops.config import RolloutConfig
from ray_mlops.serving.rollout.capacity import admit
from ray_mlops.serving.rollout.evidence import ArmCounts, Observation, Room, RouteCounts
from ray_mlops.serving.rollout.state import RolloutState
from ray_mlops.serving.rollout.transition import RolloutDecision, step

CONFIG = RolloutConfig.model_validate({"guards": {"dry_run": ["loss", "latency", "score_shift"]}})
FULL = Room(ready_for=0.05, problem="asked for 3 replicas, 1 runs; free: 0.5 of 4 CPU")


def at(name: str, **more: Any) -> RolloutState:
    stage, _, index = name.rstrip("]").partition("[")
    step_index = int(index or 0)
    weight = CONFIG.steps[step_index] if stage == "canary" else 0.0
    return RolloutState("m", "m-v2", "2", stage, step_index, weight, **more)  # type: ignore[arg-type]


def seen(room: Room, errors: int = 0, **more: Any) -> Observation:
    """Enough traffic to end any step."""
    counts = (RouteCounts(5, 0.25, ArmCounts(2000, errors), ArmCounts(6000)),)
    return Observation(candidate="ready", route_version=5, counts=counts, room=room, **more)


def decide(state: RolloutState, observation: Observation) -> RolloutDecision:
    return step(state, observation, CONFIG, 1e4)


def test_step_waits_for_its_replicas_with_the_evidence_in_hand() -> None:
    waiting = decide(at("canary[0]"), seen(Room(ready_for=0.05)))
    assert (waiting.to, waiting.wanted_weight, waiting.weight) == ("canary[0]", 0.25, 0.05)
    assert waiting.reason.startswith("replicas for 25% of the traffic start; then canary[1]: 2000 requests")
    ready = decide(at("canary[0]"), seen(Room(ready_for=0.25)))
    assert (ready.to, ready.wanted_weight, ready.weight) == ("canary[1]", None, 0.25)


def test_step_without_room_pauses_and_says_what_was_free() -> None:
    paused = decide(at("canary[0]"), seen(FULL))
    assert paused.to == "paused"
    assert paused.reason == "no room for 25% of the traffic: asked for 3 replicas, 1 runs; free: 0.5 of 4 CPU"
    assert paused.weight == 0.05, "what it has, it keeps"


def test_evidence_against_the_candidate_does_not_wait_for_replicas() -> None:
    failing = seen(FULL, errors=1900, recent=ArmCounts(100, 95), failures={"timeout": 60, "invalid": 35})
    decision = decide(at("canary[0]"), failing)
    assert decision.to == "rolling_back"
    assert decision.reason.endswith("95 of the newest 100 requests (60 timeout, 35 invalid)")
    crashed = replace(seen(FULL), candidate="failed", candidate_detail="its process died (out of memory: ...)")
    assert decide(at("canary[0]"), crashed).reason == "the candidate crashed: its process died (out of memory: ...)"


@pytest.mark.parametrize("command", ["pause", "rollback"])
def test_person_does_not_wait_for_replicas(command: Any) -> None:
    decision = decide(at("canary[0]", command=command), seen(Room(ready_for=0.05)))
    assert decision.to == {"pause": "paused", "rollback": "rolling_back"}[command]
    assert decision.wanted_weight is None


def test_first_share_waits_too() -> None:
    shadow = admit(at("shadow"), "canary[0]", "loss", Room(ready_for=0.0), CONFIG)
    assert (shadow.to, shadow.wanted_weight) == ("shadow", 0.05)


def test_resumed_rollout_waits_in_its_pause() -> None:
    state = at("paused", paused_from="canary[1]", command="resume")
    held = decide(state, seen(Room(ready_for=0.05)))
    assert (held.to, held.wanted_weight, held.is_urgent) == ("paused", 0.25, True)
    full = decide(state, seen(FULL))
    assert (full.to, full.wanted_weight) == ("paused", 0.25)
    assert "no room for 25%" in full.reason


def test_champion_in_the_gateway_needs_no_replicas_of_its_own() -> None:
    state = at("canary[2]")
    assert decide(state, seen(Room(ready_for=0.5))).to == "promoting"
    behind_a_handle = decide(state, seen(Room(ready_for=0.5, carries_champion=True)))
    assert (behind_a_handle.to, behind_a_handle.wanted_weight) == ("canary[2]", 1.0)
    assert decide(state, seen(Room(ready_for=1.0, carries_champion=True))).to == "promoting"


def test_promotion_by_a_person_waits_for_replicas_behind_a_handle() -> None:
    held = decide(at("canary[0]", command="promote"), seen(Room(ready_for=0.05, carries_champion=True)))
    assert (held.to, held.wanted_weight) == ("canary[0]", 1.0)


def test_new_champion_whose_process_dies_is_taken_back() -> None:
    state = at("baking", was_promoted=True)
    died = replace(seen(Room(carries_champion=True)), candidate="failed", candidate_detail="its process died")
    decision = decide(state, died)
    assert (decision.to, decision.reason) == ("rolling_back", "the new champion crashed: its process died")
    assert decide(state, replace(died, room=Room())).to != "rolling_back", "its own application is gone by intention"


def test_failures_and_health_are_in_the_evidence() -> None:
    evidence = decide(at("canary[0]"), seen(Room(), failures={"crashed": 2})).to_json()["evidence"]
    assert evidence["failures"] == {"crashed": 2}
    assert evidence["candidate_health"] == {"state": "ready", "detail": ""}
