"""What people decide: abort, approval before a promotion, and guards that only show."""

import asyncio
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ray_mlops.config import GuardsConfig, RolloutConfig
from ray_mlops.config.serving import GuardName
from ray_mlops.errors import RolloutError
from ray_mlops.serving.rollout.evidence import (
    ArmCounts,
    LossEvidence,
    Observation,
    RouteCounts,
    SliceEvidence,
    UnitCounts,
)
from ray_mlops.serving.rollout.guards import judge
from ray_mlops.serving.rollout.state import RolloutState
from ray_mlops.serving.rollout.transition import step
from tests.unit.serving.test_reconciler import World, assert_agreement, days, play

# -- abort --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["shadow", "canary[1]", "paused", "baking"])
def test_abort_ends_a_rollout_at_once_and_the_champion_before_answers(tmp_path: Path, stage: str) -> None:
    world = World(tmp_path)

    async def scene() -> None:
        world.register("2")
        await days(world, "canary[0]" if stage == "paused" else stage)
        if stage == "paused":
            await world.reconciler.command("pause", "ann")
            await world.settle()
        await world.reconciler.command("abort", "ann", "wrong version")
        await world.settle()

    play(scene)
    assert world.state() == "aborted"
    move = world.ledger.read("m/rollout", kind="rollout.moved")[-1].payload
    assert (move["from"], move["to"]) == (stage, "aborted")
    assert move["reason"] == "ann: wrong version; nothing is concluded about the candidate"
    assert world.routes.champion.version == "1"
    assert world.routes.candidate is None
    assert world.arms.running == set()
    assert world.aliases.known == {"champion": "1"}
    assert_agreement(world)


@pytest.mark.parametrize("stage", ["pending", "validating", "preparing", "shadow", "canary", "promoting", "baking"])
def test_abort_is_possible_in_every_state_that_is_under_way(stage: Any) -> None:
    state = RolloutState("m", "m-v2", "2", stage, command="abort", command_by="ann")
    assert RolloutState("m", "m-v2", "2", stage).allows("abort")
    overwhelming = Observation(candidate="failed", recent=ArmCounts(50, 50))
    decision = step(state, overwhelming, RolloutConfig(), 0.0)
    assert (decision.to, decision.is_urgent) == ("aborted", True)


def test_abort_yields_to_a_judgement_that_was_made(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def scene() -> None:
        with pytest.raises(RolloutError, match=r"cannot abort: there has been no rollout; start one"):
            await world.reconciler.command("abort", "ann")
        world.register("2")
        await days(world, "promoted")
        with pytest.raises(RolloutError, match="no rollout is under way; the last, m-v2, is promoted"):
            await world.reconciler.command("abort", "ann")

    play(scene)
    assert not RolloutState("m", "m-v2", "2", "rolling_back").allows("abort")


def test_aborted_version_waits_for_a_person_but_a_newer_one_starts_by_itself(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def scene() -> None:
        world.register("2")
        await world.settle()
        await world.reconciler.command("abort", "ann")
        await world.settle()
        await world.day()
        assert world.state() == "aborted"
        assert await world.reconciler.request("2", "ann") == "m-v2-2"
        await world.settle()
        assert world.state() == "shadow"
        await world.reconciler.command("abort", "ann")
        await world.settle()
        world.register("3")
        await world.settle()

    play(scene)
    assert world.state() == "shadow"
    assert world.routes.candidate is not None
    assert world.routes.candidate.version == "3"


def test_command_in_the_wrong_state_names_what_is_allowed(tmp_path: Path) -> None:
    world = World(tmp_path)

    async def scene() -> None:
        world.register("2")
        await world.settle()
        with pytest.raises(
            RolloutError, match=r"cannot resume rollout m-v2, which is shadow; allowed now: pause, promote, rollback"
        ):
            await world.reconciler.command("resume", "ann")
        assert (await world.reconciler.view())["allowed"] == ["pause", "promote", "rollback", "abort"]

    play(scene)


# -- approval before a promotion ----------------------------------------------------------------------


def test_promotion_waits_for_a_person_where_it_is_configured(tmp_path: Path) -> None:
    world = World(tmp_path, {"auto_promote": False})

    async def scene() -> None:
        world.register("2")
        await days(world, "paused", 12)
        view = await world.reconciler.view()
        assert (view["state"], view["paused_from"]) == ("paused", "canary[2]")
        assert view["reason"] == "all evidence is in; waits for a person to promote"
        assert view["allowed"] == ["resume", "promote", "rollback", "abort"]
        needed = [g for g in view["guards"] if g["question"] == "noninferiority" and not g["dry_run"]]
        assert {g["verdict"] for g in needed} == {"pass"}
        for _ in range(2):
            await world.day(1000)
        assert world.state() == "paused", "it waits, however much evidence there is"
        assert (await world.reconciler.view())["reason"] == "all evidence is in; waits for a person to promote"
        assert world.routes.champion.version == "1"
        await world.reconciler.command("promote", "ann", "looked at it")
        await world.settle()
        await days(world, "promoted")

    play(scene)
    assert world.routes.champion.version == "2"
    told = [(e.kind, e.payload.get("to"), e.payload.get("by")) for e in world.ledger.read("m/rollout")]
    assert told[-5:-1] == [
        ("rollout.moved", "paused", None),
        ("rollout.commanded", None, "ann"),
        ("rollout.moved", "promoting", None),
        ("rollout.moved", "baking", None),
    ]
    moves = {e.payload["to"]: e.payload for e in world.ledger.read("m/rollout", kind="rollout.moved")}
    assert moves["paused"]["reason"] == "all evidence is in; waits for a person to promote"
    assert moves["promoting"]["reason"] == "ann: looked at it"
    assert {g["name"] for g in moves["promoting"]["evidence"]["guards"]} >= {"errors", "loss", "latency_slo"}


def test_candidate_that_waits_for_a_person_is_still_rolled_back_on_evidence(tmp_path: Path) -> None:
    world = World(tmp_path, {"auto_promote": False})

    async def scene() -> None:
        world.register("2")
        await days(world, "paused", 12)
        world.error_rates = {"champion": 0.0, "candidate": 0.2}
        await days(world, "rolled_back", 6)

    play(scene)
    assert world.state() == "rolled_back"


def test_resume_where_all_evidence_is_in_only_asks_again(tmp_path: Path) -> None:
    world = World(tmp_path, {"auto_promote": False})

    async def scene() -> None:
        world.register("2")
        await days(world, "paused", 12)
        await world.reconciler.command("resume", "ann")
        await world.settle()
        await world.day(1000)

    play(scene)
    assert world.moves()[-3:] == ["canary[2]->paused", "paused->canary[2]", "canary[2]->paused"]


# -- guards that only show ----------------------------------------------------------------------------

GUARD_NAMES: tuple[GuardName, ...] = get_args(GuardName)
BAD = np.full(3000, 0.2)
ON = np.arange(3000) % 2 == 0
WORSE = LossEvidence(
    paired=BAD,
    losses=np.where(ON, 0.9, 0.1),
    is_candidate=ON,
    weights=np.full(3000, 0.5),
    scores=np.where(ON, 0.9, 0.1),
)


MANY = ArmCounts(3000)
BROKEN = (UnitCounts(3000, 900, 0, 900), UnitCounts(3000))


def split(candidate: ArmCounts, champion: ArmCounts = MANY, **more: Any) -> Observation:
    fine = LossEvidence(paired=np.zeros(600))
    counts = (RouteCounts(2, 0.5, candidate, champion),)
    return Observation(candidate="ready", **{"counts": counts, "losses": fine, **more})


AGAINST: dict[str, tuple[Observation, str]] = {
    "errors": (split(ArmCounts(3000, 900), recent=ArmCounts(100, 90)), "rolling_back"),
    "latency": (split(ArmCounts(3000, slow=2900)), "rolling_back"),
    "loss": (split(ArmCounts(3000), losses=WORSE), "rolling_back"),
    "score_shift": (split(ArmCounts(3000), losses=WORSE), "rolling_back"),
    "sample_ratio": (split(ArmCounts(3000), ArmCounts(500)), "invalid"),
    "slices": (
        split(ArmCounts(3000), slices=(SliceEvidence("carrier=AA", (RouteCounts(2, 0.5, units=BROKEN),)),)),
        "rolling_back",
    ),
    "latency_slo": (split(ArmCounts(3000, slo_violations=2900)), "canary[2]"),
}
"""What speaks against a candidate by one guard, and where that leads when the guard acts, at the last step."""


def decide(name: GuardName, is_dry: bool) -> tuple[str, list[Any]]:
    """Decide with only one guard acting, or with none. (Slices look at errors only where errors act at all.)"""
    acts = {name, "errors"} if name == "slices" else {name}
    others = [other for other in GUARD_NAMES if other not in acts]
    guards = GuardsConfig(dry_run=[*others, name] if is_dry else others, slices=["carrier"])
    observation, _ = AGAINST[name]
    state = RolloutState("m", "m-v2", "2", "canary", step=2, weight=0.5)
    decision = step(state, observation, RolloutConfig(guards=guards), 0.0)
    verdicts = judge(observation, guards, RolloutConfig().shadow)
    assert [v.verdict for v in verdicts] == [v.verdict for v in decision.verdicts]
    return decision.to, [v for v in decision.verdicts if v.name == name]


@pytest.mark.parametrize("name", sorted(AGAINST))
def test_guard_acts_unless_it_is_dry(name: Any) -> None:
    to, verdicts = decide(name, is_dry=False)
    assert to == AGAINST[name][1]
    assert not any(verdict.dry_run for verdict in verdicts)


@pytest.mark.parametrize("name", sorted(AGAINST))
def test_dry_guard_is_computed_and_shown_but_never_acts(name: Any) -> None:
    wet, dry = decide(name, is_dry=False)[1], decide(name, is_dry=True)
    stays = "promoting" if name == "slices" else "paused"  # nothing stops it; errors, which act there, let it pass
    assert dry[0] == stays
    assert dry[1]
    assert all(verdict.dry_run for verdict in dry[1])
    assert [(v.question, v.verdict, v.detail) for v in dry[1]] == [(v.question, v.verdict, v.detail) for v in wet]
    against = [v.verdict for v in dry[1]]
    assert "fail" in against or name == "latency_slo"
    assert [v.to_json()["dry_run"] for v in dry[1]] == [True] * len(against)


def test_every_guard_that_can_be_dry_is_tested() -> None:
    assert set(AGAINST) == set(GUARD_NAMES)


def test_dry_guards_are_shown_in_the_view_and_in_the_ledger(tmp_path: Path) -> None:
    world = World(tmp_path, {"guards": {"dry_run": ["errors", "score_shift", "latency"]}})

    async def scene() -> Any:
        world.error_rates = {"champion": 0.01, "candidate": 0.2}
        world.register("2")
        for _ in range(8):
            await world.day(1000)
        await asyncio.sleep(0)
        return await world.reconciler.view()

    view = play(scene)
    assert world.state() in ("promoting", "baking", "promoted"), "errors alone would have rolled it back"
    recorded = world.ledger.read("m/rollout", kind="rollout.moved")[-3].payload["evidence"]["guards"]
    errors = [guard for guard in recorded if guard["name"] == "errors"]
    assert {guard["dry_run"] for guard in errors} == {True}
    assert "fail" in {guard["verdict"] for guard in errors}
    assert view["version"] == "2"
