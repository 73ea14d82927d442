"""The state machine by itself, and its error rates over seeded rollouts."""

from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any

import numpy as np
import pytest

from ray_mlops.config import RolloutConfig
from ray_mlops.ledger import LedgerEvent
from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.rollout import guards
from ray_mlops.serving.rollout.evidence import ArmCounts, LossEvidence, Observation, RouteCounts
from ray_mlops.serving.rollout.state import RolloutState, desired_aliases, desired_routes, fold_rollout
from ray_mlops.serving.rollout.transition import RolloutDecision, step

QUICK = RolloutConfig.model_validate({"shadow": {"enabled": False}})
PROVEN = LossEvidence(paired=np.zeros(600))
READY = Observation(candidate="ready", route_version=1, losses=PROVEN)


@dataclass
class Story:
    """A rollout's events, in memory; decisions are appended as the reconciler appends them."""

    config: RolloutConfig = field(default_factory=RolloutConfig)
    events: list[LedgerEvent] = field(default_factory=list)
    now: float = 1000.0
    keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.events:
            self.add("rollout.requested", {"rollout_id": "m-v2", "version": "2", "route_version": 1})

    def add(self, kind: str, payload: dict[str, Any]) -> None:
        seq = len(self.events) + 1
        self.events.append(LedgerEvent(seq, "m/rollout", seq, self.now, None, kind, f"k{seq}", payload, "", ""))

    @property
    def state(self) -> RolloutState:
        state = fold_rollout(self.events)
        assert state is not None
        return state

    def command(self, command: str) -> None:
        self.add("rollout.commanded", {"rollout_id": "m-v2", "command": command, "by": "me", "reason": ""})

    def look(self, observation: Observation = READY, twice: bool = True) -> RolloutDecision:
        """Decide and record a move; ``twice``: check that whoever starts anew from the events decides the same."""
        state = self.state
        decision = step(state, observation, self.config, self.now)
        if twice:
            assert step(self.state, observation, self.config, self.now) == decision
        if decision.moves:
            self.keys.append(state.move_key(decision.to))
            payload = {"rollout_id": "m-v2", **decision.to_json(), "route_version": observation.route_version}
            self.add("rollout.moved", payload)
        return decision

    def walk(self, until: str, observation: Observation = READY, most: int = 20) -> str:
        for _ in range(most):
            if self.state.name == until:
                break
            self.look(observation)
        return self.state.name


def split(*rows: tuple[int, float, ArmCounts, ArmCounts], **more: Any) -> Observation:
    return replace(READY, counts=tuple(RouteCounts(*row) for row in rows), **more)


def at(stage: str, config: RolloutConfig | None = None) -> Story:
    """A rollout that has come to a stage on the usual way."""
    story = Story(config or RolloutConfig())
    for version in range(1, 8):
        if story.state.name == stage:
            return story
        weight = story.state.weight
        enough = (version, weight or 0.5, ArmCounts(400), ArmCounts(round(400 / (weight or 0.5) - 400)))
        story.look(replace(split(enough), route_version=version))
    for _ in range(4):
        if story.state.name == stage:
            return story
        story.look(replace(READY, route_version=9, counts=(RouteCounts(99, 0.0, ArmCounts(), ArmCounts(1000)),)))
    raise AssertionError(f"got to {story.state.name}, not to {stage}")


# -- the usual way ------------------------------------------------------------------------------------


def test_rollout_without_trouble_passes_every_state_in_order() -> None:
    story = at("promoted")
    assert [key.rsplit("/", 1)[1] for key in story.keys] == [
        "pending->validating",
        "validating->preparing",
        "preparing->shadow",
        "shadow->canary[0]",
        "canary[0]->canary[1]",
        "canary[1]->canary[2]",
        "canary[2]->promoting",
        "promoting->baking",
        "baking->promoted",
    ]
    weights = [e.payload["weight"] for e in story.events if e.kind == "rollout.moved"]
    assert weights == [0.0, 0.0, 0.0, 0.05, 0.25, 0.5, 0.0, 0.0, 0.0]
    assert story.look().moves is False


def test_rollout_state_says_nothing_without_events() -> None:
    assert fold_rollout([]) is None


def test_rollout_takes_the_shadow_only_where_it_is_wanted() -> None:
    assert Story(QUICK).walk("canary[0]") == "canary[0]"
    skipped = Story()
    skipped.events[0].payload["skip_shadow"] = True
    assert "preparing->shadow" not in (skipped.walk("canary[0]"), *skipped.keys)


def test_shadow_waits_for_pairs_and_then_for_evidence() -> None:
    story = at("shadow")
    assert not story.look(replace(READY, losses=LossEvidence(paired=np.zeros(499)))).moves
    wide = np.where(np.arange(2000) % 2, 0.5, -0.5)
    assert not story.look(replace(READY, losses=LossEvidence(paired=wide))).moves
    assert story.look().to == "canary[0]"
    assert story.state.loss_is_proven


def test_canary_waits_for_its_own_requests() -> None:
    story = at("canary[1]")
    before = (1, 0.05, ArmCounts(400), ArmCounts(7600))
    version = story.state.after_route_version + 1
    observation = split(before, (version, 0.25, ArmCounts(49), ArmCounts(150)))
    assert story.look(observation).reason == "49 of 50 requests"
    assert story.look(split(before, (version, 0.25, ArmCounts(50), ArmCounts(150)))).to == "canary[2]"


def test_canary_waits_for_its_duration() -> None:
    config = RolloutConfig(min_duration_s=60.0, min_requests=0)
    story = Story(config)
    for state in ("shadow", "canary[0]", "canary[1]"):
        assert story.walk(state) != state or not story.look().moves
        story.now += 61.0
    assert story.walk("canary[1]") == "canary[1]"


def test_last_step_promotes_only_on_evidence() -> None:
    story = at("canary[2]")
    observation = split((9, 0.5, ArmCounts(300), ArmCounts(300)))
    decision = story.look(observation)
    assert not decision.moves
    assert decision.reason.startswith("errors: 0 errors in 300 requests")
    assert story.look(split((9, 0.5, ArmCounts(360), ArmCounts(360)))).to == "promoting"


def test_last_step_waits_for_a_person_without_auto_promote() -> None:
    story = at("canary[2]", RolloutConfig(auto_promote=False))
    assert story.look(split((9, 0.5, ArmCounts(360), ArmCounts(360)))).to == "paused"
    story.command("promote")
    assert story.look().to == "promoting"


def test_last_step_waits_for_a_person_when_no_guard_may_promote() -> None:
    config = RolloutConfig.model_validate({"guards": {"dry_run": ["errors", "latency_slo", "loss"]}})
    story = at("canary[2]", config)
    decision = story.look(split((9, 0.5, ArmCounts(360), ArmCounts(360))))
    assert (decision.to, decision.reason) == ("paused", "no guard may promote; waits for a person")


def test_last_step_without_loss_evidence_never_promotes() -> None:
    story = at("canary[2]", QUICK)
    plenty = replace(split((9, 0.5, ArmCounts(9000), ArmCounts(9000))), losses=LossEvidence())
    assert story.state.loss_is_proven  # at() showed pairs; without them:
    story = Story(QUICK)
    for version, weight in enumerate((0.0, 0.0, 0.0, 0.05, 0.25, 0.5), start=1):
        counts = (RouteCounts(version, weight or 0.5, ArmCounts(400), ArmCounts(round(400 / (weight or 0.5) - 400))),)
        story.look(replace(plenty, counts=counts, route_version=version))
    assert story.state.name == "canary[2]"
    assert not story.look(plenty).moves
    story.now += 8 * 86400
    assert story.look(plenty).to == "paused"


# -- what stops it ------------------------------------------------------------------------------------


def test_gate_is_asked_before_anything_starts() -> None:
    story = at("validating")
    assert not story.look(replace(READY, gate="waiting")).moves
    assert story.look(replace(READY, gate="refused", gate_detail="auc too low")).to == "rolling_back"


def test_gate_can_be_overridden() -> None:
    story = at("validating")
    story.events[0].payload["override_reason"] = "incident 7"
    assert story.look(replace(READY, gate="refused")).to == "preparing"


@pytest.mark.parametrize("health", ["failed", "starting"])
def test_candidate_that_does_not_start_is_rolled_back(health: Any) -> None:
    story = at("preparing")
    if health == "starting":
        assert not story.look(replace(READY, candidate="starting")).moves
        story.now += 181.0
    assert story.look(replace(READY, candidate=health)).to == "rolling_back"


@pytest.mark.parametrize("stage", ["shadow", "canary[0]", "canary[2]", "paused"])
def test_crash_of_the_candidate_rolls_back_at_once(stage: str) -> None:
    story = at("canary[1]" if stage == "paused" else stage)
    if stage == "paused":
        story.command("pause")
        story.look()
    decision = story.look(replace(READY, candidate="failed", candidate_detail="killed"))
    assert (decision.to, decision.is_urgent) == ("rolling_back", True)


def test_hard_error_limit_rolls_back_at_once() -> None:
    decision = at("canary[0]").look(replace(READY, recent=ArmCounts(20, 15)))
    assert (decision.to, decision.is_urgent) == ("rolling_back", True)
    assert decision.reason == "hard limit of errors: 15 of the newest 20 requests"


def test_five_times_the_errors_roll_back() -> None:
    decision = at("canary[1]").look(split((5, 0.25, ArmCounts(500, 25), ArmCounts(1500, 15))))
    assert decision.to == "rolling_back"
    assert decision.reason.startswith("evidence of regression in errors")


def test_sabotaged_loss_is_rolled_back_in_the_shadow() -> None:
    generator = np.random.default_rng(1)
    pairs = generator.normal(0.08, 0.25, 300).clip(-1, 1)
    decision = at("shadow").look(replace(READY, losses=LossEvidence(paired=pairs)))
    assert (decision.to, decision.reason[:30]) == ("rolling_back", "evidence of regression in loss")


def test_wrong_split_makes_the_rollout_invalid() -> None:
    decision = at("canary[1]").look(split((5, 0.25, ArmCounts(700), ArmCounts(1300))))
    assert decision.to == "invalid"


def test_dry_run_guard_never_acts() -> None:
    config = RolloutConfig.model_validate({"guards": {"dry_run": ["latency"]}})
    decision = at("canary[1]", config).look(split((5, 0.25, ArmCounts(500, slow=400), ArmCounts(1500, slow=20))))
    assert any(v.name == "latency" and v.verdict == "fail" and v.dry_run for v in decision.verdicts)
    assert decision.to != "rolling_back"


@pytest.mark.parametrize(("policy", "to"), [("pause", "paused"), ("rollback", "rolling_back")])
def test_inconclusive_step_does_what_the_policy_says(policy: str, to: str) -> None:
    story = at("canary[0]", RolloutConfig.model_validate({"on_inconclusive": policy, "max_duration_s": 100.0}))
    story.now += 101.0
    assert story.look().to == to


def test_shadow_gives_up_after_its_pairs_and_goes_on_when_resumed() -> None:
    config = RolloutConfig.model_validate({"shadow": {"max_pairs": 600}})
    story, wide = at("shadow", config), np.where(np.arange(600) % 2, 0.9, -0.9)
    stuck = replace(READY, losses=LossEvidence(paired=wide))
    assert story.look(stuck).to == "paused"
    story.command("resume")
    assert story.look(stuck).to == "shadow"
    assert not story.look(stuck).moves


def test_rollout_that_takes_too_much_event_time_is_rolled_back() -> None:
    story = at("canary[0]", RolloutConfig.model_validate({"max_rollout": "2d"}))
    story.events[0] = replace(story.events[0], event_time=0)
    day_us = 86_400_000_000
    assert not story.look(replace(READY, event_now_us=2 * day_us)).moves
    assert story.look(replace(READY, event_now_us=2 * day_us + 1)).to == "rolling_back"


def test_baking_keeps_the_hard_limit() -> None:
    story = at("baking")
    assert not story.look().moves
    assert story.look(replace(READY, recent=ArmCounts(20, 11))).to == "rolling_back"


# -- people -------------------------------------------------------------------------------------------


def test_pause_keeps_the_weight_and_resume_returns() -> None:
    story = at("canary[1]")
    story.command("pause")
    assert story.look().to == "paused"
    assert (story.state.weight, story.state.step) == (0.25, 1)
    assert not story.look().moves
    story.command("resume")
    assert story.look().to == "canary[1]"
    assert story.state.weight == 0.25


def test_second_pause_has_an_event_of_its_own() -> None:
    story = at("canary[1]")
    for command in ("pause", "resume", "pause"):
        story.command(command)
        story.look()
    assert len(set(story.keys)) == len(story.keys)
    assert story.keys[-1] == "m/rollout/m-v2/canary[1]->paused#2"


def test_resume_does_not_count_requests_anew() -> None:
    story = at("canary[1]")
    after = story.state.after_route_version
    for command in ("pause", "resume"):
        story.command(command)
        story.look(replace(READY, route_version=after + 1))
    assert story.state.after_route_version == after


def test_promote_by_a_person_needs_no_evidence_but_yields_to_evidence_against() -> None:
    story = at("canary[0]")
    story.command("promote")
    assert story.look(replace(READY, recent=ArmCounts(20, 20))).to == "rolling_back"
    story = at("shadow")
    story.command("promote")
    assert story.look(replace(READY, losses=LossEvidence())).to == "promoting"


@pytest.mark.parametrize("stage", ["pending", "preparing", "shadow", "canary[1]", "promoting", "baking", "promoted"])
def test_rollback_by_a_person_is_always_possible_before_the_end(stage: str) -> None:
    story = at(stage)
    story.command("rollback")
    assert story.look().to == "rolling_back"
    assert story.look().to == "rolled_back"


def test_command_that_the_state_does_not_allow_has_no_effect() -> None:
    story = at("canary[1]")
    story.command("resume")
    assert story.state.command is None


# -- routes and aliases -------------------------------------------------------------------------------

ROUTES = ModelRoutes("m", 4, Arm("1", "a", "x"), previous=Arm("0", "z", "w"))


def wanted(stage: str, routes: ModelRoutes = ROUTES, story: Story | None = None) -> ModelRoutes:
    state = (story or at(stage)).state
    return desired_routes(routes, state, ("b", "y"), salt=5, isolated=True)


def test_routes_name_the_candidate_from_the_shadow_on() -> None:
    assert wanted("preparing") == ROUTES
    shadow = wanted("shadow")
    assert shadow.candidate == Arm("2", "b", "y", "isolated", 0.0)
    assert (shadow.salt, shadow.rollout_id, shadow.slow_ms) == (5, "m-v2", None)
    canary = wanted("canary[1]", replace(shadow, slow_ms=2.5))
    assert canary.slow_ms == 2.5
    assert canary.candidate is not None
    assert (canary.candidate.weight, canary.champion.weight, canary.salt) == (0.25, 0.75, 5)


def test_routes_of_a_promotion_swap_once_and_can_be_undone() -> None:
    promoted = wanted("promoting", wanted("canary[2]"))
    assert (promoted.champion, promoted.candidate) == (Arm("2", "b", "y"), None)
    assert promoted.previous == Arm("1", "a", "x")
    assert wanted("baking", promoted) == promoted == wanted("promoted", promoted)
    story = at("baking")
    story.command("rollback")
    story.look()
    undone = wanted("rolling_back", promoted, story)
    assert (undone.champion, undone.previous, undone.candidate) == (Arm("1", "a", "x"), None, None)
    assert wanted("rolled_back", undone, story) == undone


def test_routes_of_a_rollback_return_everything_to_the_champion() -> None:
    story, canary = at("canary[2]"), wanted("canary[2]")
    story.command("rollback")
    story.look()
    undone = wanted("", canary, story)
    assert (undone.champion, undone.candidate, undone.previous) == (ROUTES.champion, None, ROUTES.previous)


def test_aliases_follow_routes_and_state() -> None:
    assert desired_aliases(ROUTES, None) == {"champion": "1", "previous": "0", "candidate": None}
    assert desired_aliases(ROUTES, at("canary[0]").state)["candidate"] == "2"
    promoted = wanted("promoting", wanted("canary[2]"))
    aliases = desired_aliases(promoted, at("baking").state)
    assert aliases == {"champion": "2", "previous": "1", "candidate": None}


# -- error rates --------------------------------------------------------------------------------------


def simulate(
    seed: int, champion_rate: float, candidate_rate: float, looks: int = 30, batch: int = 100
) -> tuple[str, int]:
    """Run one rollout on random traffic, looked at after each batch; returns its end, and the candidate's requests."""
    generator = np.random.default_rng(seed)
    story = Story()
    story.walk("canary[0]", READY)
    counts: dict[int, RouteCounts] = {}
    version, on_candidate = 2, 0
    for _ in range(looks):
        weight = story.state.weight
        assigned = int(generator.binomial(batch, weight))
        arms = [
            ArmCounts(n, int(generator.binomial(n, rate)))
            for n, rate in ((assigned, candidate_rate), (batch - assigned, champion_rate))
        ]
        on_candidate += assigned
        seen = counts.get(version, RouteCounts(version, weight))
        counts[version] = RouteCounts(version, weight, seen.candidate + arms[0], seen.champion + arms[1])
        decision = story.look(replace(READY, counts=tuple(counts.values()), route_version=version), twice=False)
        version += decision.moves
        if decision.to in ("promoting", "rolling_back"):
            break
    return story.state.name, on_candidate


def test_identical_arms_are_rolled_back_at_most_alpha_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "_upper_bound", lambda events, requests, alpha: 1.0)  # slow, and never rolls back
    ends = [simulate(seed, 0.05, 0.05, 9, 400)[0] for seed in range(200)]
    false_rollbacks = ends.count("rolling_back") / len(ends)
    assert false_rollbacks <= 0.05 + 2 * sqrt(0.05 * 0.95 / 200)


def test_error_free_candidates_are_promoted_after_about_330_of_their_requests() -> None:
    runs = [simulate(seed, 0.0, 0.0) for seed in range(10)]
    assert {end for end, _ in runs} == {"promoting"}
    assert all(329 <= requests <= 400 for _, requests in runs)


def test_candidates_with_five_times_the_errors_are_rolled_back() -> None:
    ends = [simulate(seed, 0.02, 0.10, 60)[0] for seed in range(20)]
    assert ends.count("rolling_back") >= 19
