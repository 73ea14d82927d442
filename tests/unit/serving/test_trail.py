"""Evidence over time: bounded, thinned evenly, never without the moves, and the same after a restart."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ray_mlops.config import GuardsConfig, ShadowConfig
from ray_mlops.errors import StoreError
from ray_mlops.serving.rollout.evidence import ArmCounts, Observation, RouteCounts
from ray_mlops.serving.rollout.guards import GuardVerdict, judge
from ray_mlops.serving.rollout.trail import Trail, TrailPoint, make_point, trail_path
from ray_mlops.serving.rollout.transition import RolloutDecision
from tests.unit.serving.test_reconciler import World, days, play


def decide(state: str = "shadow", to: str | None = None, log_e: float | None = 1.0) -> RolloutDecision:
    verdict = GuardVerdict("errors", "regression", "pass", log_e, 4.0, "")
    return RolloutDecision(state, to or state, "", 0.0, (verdict,))


def look(trail: Trail, at: int, state: str = "shadow", to: str | None = None) -> None:
    decision = decide(state, to, float(at))
    point = TrailPoint(float(at), None, state, 0.0, at, 3 * at, 0, 0, {"regression:errors": ("pass", float(at))})
    trail.add(decision, point)


def times(trail: Trail) -> list[float]:
    return [point.time for point in trail.points]


def test_every_look_is_kept_while_there_is_room() -> None:
    trail = Trail("r", max_points=10)
    for at in range(10):
        look(trail, at)
    assert times(trail) == list(range(10))


@pytest.mark.parametrize("looks", [11, 100, 1234])
def test_trail_is_bounded_even_and_ends_with_the_newest(looks: int) -> None:
    trail = Trail("r", max_points=10)
    for at in range(looks):
        look(trail, at)
    found = times(trail)
    assert len(found) <= 10
    assert (found[0], found[-1]) == (0, looks - 1)
    gaps = {b - a for a, b in pairwise(found[:-1])}
    assert len(gaps) == 1, "evenly spaced but for the newest"


def test_moves_outlive_the_thinning() -> None:
    trail = Trail("r", max_points=12)
    for at in range(1000):
        state = "shadow" if at < 333 else "canary[0]"
        look(trail, at, state, "canary[0]" if at == 332 else None)
    assert {332.0, 333.0} <= set(times(trail))
    assert len(times(trail)) <= 12


def test_trail_of_endless_moves_is_bounded_too() -> None:
    trail = Trail("r", max_points=12)
    for at in range(1000):
        look(trail, at, ("canary[0]", "paused")[at % 2])
    assert len(times(trail)) <= 12
    assert times(trail)[-1] == 999


def test_restored_trail_goes_on_as_if_nothing_had_happened() -> None:
    plain, restarted = Trail("r", True, 16), Trail("r", True, 16)
    for at in range(500):
        for trail in (plain, restarted):
            look(trail, at, "shadow" if at < 100 else "canary[0]")
        restarted = Trail.from_json(json.loads(json.dumps(restarted.to_json())), 16)
    assert restarted == plain


def test_trail_of_a_newer_release_is_refused() -> None:
    with pytest.raises(StoreError, match="schema_version 2"):
        Trail.from_json({**Trail("r").to_json(), "schema_version": 2})


def test_point_holds_evidence_and_what_limits_are_compared_with() -> None:
    counts = (RouteCounts(2, 0.5, ArmCounts(400, slo_violations=2), ArmCounts(420)),)
    observation = Observation(counts=counts, recent=ArmCounts(100, 7))
    guards = GuardsConfig()
    verdicts = judge(observation, guards, ShadowConfig())
    found = make_point(RolloutDecision("canary[0]", "canary[0]", "", 0.5, verdicts), observation, guards, 0.5, 9.0)
    assert found.guards["limit:errors"] == ("pass", 0.07)
    verdict, bound = found.guards["noninferiority:latency_slo"]
    assert verdict == "pass"
    assert bound is not None
    assert 2 / 400 < bound < guards.slo_limit
    assert found.guards["regression:errors"][1] == next(v.log_e for v in verdicts if v.question == "regression")


def read(world: World, rollout_id: str = "m-v2") -> dict[str, Any]:
    return json.loads(world.files.read(trail_path("m", rollout_id)))  # type: ignore[no-any-return]


def test_rollout_leaves_its_evidence_in_the_store_through_restarts(tmp_path: Path) -> None:
    def run(root: Path, restarts: bool) -> dict[str, Any]:
        root.mkdir()
        world = World(root)

        async def scene() -> None:
            world.register("2")
            for _ in range(9):
                await world.day(600)
                if restarts:
                    world.start()

        play(scene)
        return read(world)

    plain, restarted = run(tmp_path / "a", False), run(tmp_path / "b", True)
    states = [point["state"] for point in plain["points"]]
    assert list(dict.fromkeys(states)) == ["shadow", "canary[0]", "canary[1]", "canary[2]", "baking"]
    assert plain["by_window"]
    assert plain["guards"]["regression:errors"]["threshold"] > 3
    strip = [{**point, "time": 0} for point in plain["points"]]
    assert [{**point, "time": 0} for point in restarted["points"]] == strip
    last = plain["points"][-1]
    assert list(last["guards"]) == ["limit:errors"], "while it bakes, only the limit counts"
    decided = next(point for point in reversed(plain["points"]) if point["state"] == "canary[2]")
    assert decided["counts"][0] > 300
    assert decided["guards"]["noninferiority:errors"][0] == "pass"


def test_each_rollout_has_evidence_of_its_own(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def scene() -> None:
        world.register("2")
        await days(world, "canary[0]")
        await world.reconciler.command("abort", "ann")
        await world.settle()
        await world.reconciler.request("2", "ann")
        await world.day(600)

    play(scene)
    assert read(world)["rollout_id"] == "m-v2"
    assert read(world, "m-v2-2")["points"][0]["state"] == "shadow"
