"""Each guard: what it says on clear evidence, without evidence, and at its limits."""

from math import exp, log

import numpy as np
import pytest

from ray_mlops.config import GuardsConfig, ShadowConfig
from ray_mlops.serving.rollout.evidence import ArmCounts, LossEvidence, Observation, RouteCounts, UnitCounts
from ray_mlops.serving.rollout.guards import GuardVerdict, judge

GUARDS, SHADOW = GuardsConfig(), ShadowConfig()


def counts(candidate: ArmCounts, champion: ArmCounts, weight: float = 0.25) -> Observation:
    return Observation(counts=(RouteCounts(2, weight, candidate, champion),), recent=candidate)


def split(candidate: float, champion: float, n: int = 2000, weight: float = 0.25, seed: int = 1) -> LossEvidence:
    generator = np.random.default_rng(seed)
    on = generator.random(n) < weight
    means = np.where(on, candidate, champion)
    losses = generator.beta(2 * means, 2 * (1 - means))
    return LossEvidence(losses=losses, is_candidate=on, weights=np.full(n, weight), scores=losses)


def said(observation: Observation, name: str, question: str, **options: object) -> GuardVerdict:
    verdicts = judge(observation, options.pop("guards", GUARDS), SHADOW, **options)  # type: ignore[arg-type]
    return next(v for v in verdicts if (v.name, v.question) == (name, question))


def test_judge_without_evidence_neither_stops_nor_promotes() -> None:
    verdicts = judge(Observation(), GUARDS, SHADOW)
    assert {v.verdict for v in verdicts} == {"inconclusive"}


def test_errors_five_times_as_frequent_fail() -> None:
    verdict = said(counts(ArmCounts(500, 25), ArmCounts(1500, 15)), "errors", "regression")
    assert verdict.verdict == "fail"
    assert verdict.log_e is not None
    assert verdict.log_e > verdict.threshold == pytest.approx(log(2 / 0.05))
    assert verdict.detail == "25 of 500 against the champion's 15 of 1500"


def test_errors_in_proportion_do_not_fail() -> None:
    assert said(counts(ArmCounts(500, 5), ArmCounts(1500, 15)), "errors", "regression").verdict == "pass"


def test_errors_under_a_weight_of_zero_are_no_evidence() -> None:
    assert said(counts(ArmCounts(500, 500), ArmCounts(1500, 0), weight=0.0), "errors", "regression").log_e == 0.0


@pytest.mark.parametrize(("requests", "verdict"), [(340, "inconclusive"), (360, "pass")])
def test_error_free_candidate_needs_about_350_requests(requests: int, verdict: str) -> None:
    observation = counts(ArmCounts(requests), ArmCounts(3 * requests))
    assert said(observation, "errors", "noninferiority").verdict == verdict


def test_errors_above_the_limit_pass_when_not_worse_than_the_champion() -> None:
    observation = counts(ArmCounts(5000, 150), ArmCounts(5000, 160), weight=0.5)
    verdict = said(observation, "errors", "noninferiority")
    assert verdict.verdict == "pass"
    assert "limit 0.01" in verdict.detail


def test_latency_tolerates_a_process_of_its_own_but_not_a_slow_model() -> None:
    own_process = counts(ArmCounts(2000, slow=160), ArmCounts(6000, slow=300))
    slow_model = counts(ArmCounts(2000, slow=900), ArmCounts(6000, slow=300))
    assert said(own_process, "latency", "regression").verdict == "pass"
    assert said(slow_model, "latency", "regression").verdict == "fail"


def test_latency_needs_more_than_a_ratio_of_two_small_shares() -> None:
    many = counts(ArmCounts(50_000, slow=400), ArmCounts(150_000, slow=300))
    verdict = said(many, "latency", "regression")
    assert verdict.verdict == "pass"
    assert verdict.detail.endswith("tolerated: twice as often, and 10%")


@pytest.mark.parametrize(("violations", "verdict"), [(0, "pass"), (60, "inconclusive")])
def test_latency_objective_must_be_shown_to_be_kept(violations: int, verdict: str) -> None:
    observation = counts(ArmCounts(500, slo_violations=violations), ArmCounts(1500))
    assert said(observation, "latency_slo", "noninferiority").verdict == verdict


@pytest.mark.parametrize(
    ("recent", "verdict"),
    [(ArmCounts(19, 19), "inconclusive"), (ArmCounts(20, 11), "fail"), (ArmCounts(20, 10), "pass")],
)
def test_hard_error_limit_needs_enough_requests(recent: ArmCounts, verdict: str) -> None:
    assert said(Observation(recent=recent), "errors", "limit").verdict == verdict


def test_sample_ratio_finds_a_split_that_is_not_the_weight() -> None:
    assert said(counts(ArmCounts(250), ArmCounts(750)), "sample_ratio", "integrity").verdict == "pass"
    assert said(counts(ArmCounts(400), ArmCounts(600)), "sample_ratio", "integrity").verdict == "fail"


def test_loss_on_pairs() -> None:
    generator = np.random.default_rng(3)
    equal = LossEvidence(paired=generator.normal(0.0, 0.04, 800).clip(-1, 1))
    worse = LossEvidence(paired=generator.normal(0.04, 0.1, 800).clip(-1, 1))
    few = LossEvidence(paired=np.zeros(499))
    assert said(Observation(losses=equal), "loss", "noninferiority").verdict == "pass"
    assert said(Observation(losses=equal), "loss", "regression").verdict == "pass"
    assert said(Observation(losses=worse), "loss", "regression").verdict == "fail"
    assert said(Observation(losses=worse), "loss", "noninferiority").verdict == "inconclusive"
    assert said(Observation(losses=few), "loss", "noninferiority").verdict == "inconclusive"


def test_loss_on_split_traffic() -> None:
    assert said(Observation(losses=split(0.35, 0.25)), "loss", "regression").verdict == "fail"
    assert said(Observation(losses=split(0.25, 0.25)), "loss", "regression").verdict == "pass"
    better = split(0.1, 0.25, n=4000)
    assert said(Observation(losses=better), "loss", "noninferiority").verdict == "pass"


def test_loss_that_was_proven_before_stays_proven() -> None:
    verdict = said(Observation(losses=split(0.25, 0.25, n=50)), "loss", "noninferiority", loss_is_proven=True)
    assert verdict.verdict == "pass"


def test_score_shift_is_seen_but_dry_by_default() -> None:
    generator = np.random.default_rng(2)
    on = generator.random(3000) < 0.5
    scores = generator.normal(np.where(on, 0.5, 0.0), 1.0)
    evidence = LossEvidence(losses=np.full(3000, 0.2), is_candidate=on, weights=np.full(3000, 0.5), scores=scores)
    verdict = said(Observation(losses=evidence), "score_shift", "regression")
    assert (verdict.verdict, verdict.dry_run) == ("fail", True)
    same = LossEvidence(evidence.losses, evidence.losses, on, evidence.weights, generator.normal(size=3000))
    assert said(Observation(losses=same), "score_shift", "regression").verdict == "pass"


def test_score_bins_are_cut_from_the_first_scores_and_stay() -> None:
    on = np.arange(1000) % 2 == 0
    scores = np.concatenate([np.linspace(0, 1, 200), np.where(on[200:], 5.0, 7.0)])
    evidence = LossEvidence(np.empty(0), np.full(1000, 0.2), on, np.full(1000, 0.5), scores)
    verdict = said(Observation(losses=evidence), "score_shift", "regression")
    assert verdict.verdict == "pass", "what lies beyond all bins is one bin: 5 and 7 are not told apart"
    few = LossEvidence(np.empty(0), np.full(199, 0.2), on[:199], np.full(199, 0.5), scores[:199])
    assert said(Observation(losses=few), "score_shift", "regression").detail == "199 of 200 scores to cut bins from"


def test_identical_scores_are_found_different_at_most_alpha_of_the_time_however_often_looked_at() -> None:
    generator, found = np.random.default_rng(8), 0
    for _ in range(100):
        on, scores = generator.random(1500) < 0.25, generator.normal(size=1500)
        looks = (
            LossEvidence(np.empty(0), np.full(n, 0.2), on[:n], np.full(n, 0.25), scores[:n])
            for n in range(200, 1501, 100)
        )
        guards = GuardsConfig(dry_run=["errors", "latency", "loss"])
        found += any(
            said(Observation(losses=look), "score_shift", "regression", guards=guards).verdict == "fail"
            for look in looks
        )
    assert found <= 10  # binomial(100, .05) exceeds 10 with probability 1 %


def test_alpha_is_shared_by_the_guards_that_act() -> None:
    for dry_run in ([], ["score_shift"], ["score_shift", "latency"], ["errors", "loss"]):
        guards = GuardsConfig(dry_run=dry_run)  # type: ignore[arg-type]
        verdicts = [v for v in judge(Observation(), guards, SHADOW) if v.question == "regression" and not v.dry_run]
        assert sum(exp(-v.threshold) for v in verdicts) == pytest.approx(guards.alpha)
    assert said(Observation(), "errors", "regression").threshold == pytest.approx(log(2 / 0.05))
    assert said(Observation(), "loss", "regression").threshold == pytest.approx(log(4 / 0.05))


def test_a_key_that_fails_often_is_evidence_once() -> None:
    requests = (ArmCounts(500, 40), ArmCounts(1500, 15))
    by_key = (UnitCounts(50, 1, 0, 2, 0), UnitCounts(150, 1, 0, 4, 0))
    observation = Observation(counts=(RouteCounts(2, 0.25, *requests, units=by_key),))
    assert said(Observation(counts=(RouteCounts(2, 0.25, *requests),)), "errors", "regression").verdict == "fail"
    verdict = said(observation, "errors", "regression")
    assert (verdict.verdict, verdict.detail) == ("pass", "2 of 50 against the champion's 4 of 150")
    assert said(observation, "sample_ratio", "integrity").detail == "50 of 200 requests, 50.0 expected"


def test_few_keys_without_errors_do_not_promote_whatever_their_requests() -> None:
    requests = (ArmCounts(5000), ArmCounts(5000))
    few = Observation(counts=(RouteCounts(2, 0.5, *requests, units=(UnitCounts(12), UnitCounts(11))),))
    assert said(few, "errors", "noninferiority").verdict == "inconclusive"
    assert said(few, "latency_slo", "noninferiority").verdict == "inconclusive"


def test_candidate_outside_both_error_claims_is_promoted_with_probability_below_alpha() -> None:
    generator, passed = np.random.default_rng(4), 0
    for _ in range(300):
        landed = generator.binomial([[1000] * 8, [1000] * 8], [[0.01] * 8, [0.01 / 1.5] * 8]).cumsum(axis=1)
        looks = (
            counts(ArmCounts(1000 * (i + 1), a), ArmCounts(1000 * (i + 1), b), 0.5)
            for i, (a, b) in enumerate(landed.T.tolist())
        )
        passed += any(said(look, "errors", "noninferiority").verdict == "pass" for look in looks)
    assert passed <= 22  # binomial(300, .05) exceeds 22 with probability 2 %


def test_verdicts_are_plain_json() -> None:
    for verdict in judge(counts(ArmCounts(50, 50), ArmCounts(150)), GUARDS, SHADOW):
        assert all(isinstance(value, str | float | bool | None) for value in verdict.to_json().values())
