"""The guard on slices: it finds harm in one slice, names it, and pays for having looked at all of them."""

from math import exp, log
from typing import Any

import numpy as np
import pytest

from ray_mlops.config import GuardsConfig, ShadowConfig
from ray_mlops.serving.rollout.evidence import LossEvidence, Observation, RouteCounts, SliceEvidence, UnitCounts
from ray_mlops.serving.rollout.guards import GuardVerdict, judge, regression_thresholds

GUARDS, SHADOW = GuardsConfig(slices=["carrier"]), ShadowConfig()
FINE = (UnitCounts(units=100, errors=1, slow=4), UnitCounts(units=900, errors=9, slow=36))
BAD = (UnitCounts(units=60, errors=14, slow=2), UnitCounts(units=540, errors=3, slow=20))
SLOW = (UnitCounts(units=80, slow=60), UnitCounts(units=700, slow=30))


def item(name: str, units: tuple[UnitCounts, UnitCounts], **more: Any) -> SliceEvidence:
    return SliceEvidence(name, (RouteCounts(4, 0.1, units=units),), **more)


def said(*slices: SliceEvidence, guards: GuardsConfig = GUARDS, problem: str = "") -> GuardVerdict:
    verdicts = judge(Observation(slices=slices, slice_problem=problem), guards, SHADOW)
    return next(verdict for verdict in verdicts if verdict.name == "slices")


def test_errors_in_one_slice_fail_and_name_it() -> None:
    verdict = said(item("carrier=DL", FINE), item("carrier=AA", BAD), item("carrier=(other)", FINE))
    assert (verdict.verdict, verdict.dry_run) == ("fail", False)
    assert verdict.detail == "errors on carrier=AA: 14 of 60 against the champion's 3 of 540"
    assert verdict.slices[0].slice == "carrier=AA"
    assert verdict.to_json()["slices"][0]["slice"] == "carrier=AA"


def test_slow_requests_in_one_slice_fail() -> None:
    verdict = said(item("carrier=DL", FINE), item("carrier=AA", SLOW))
    assert verdict.verdict == "fail"
    assert verdict.detail.startswith("latency on carrier=AA: 60 of 80 against")


@pytest.mark.parametrize("is_paired", [True, False])
def test_loss_in_one_slice_fails(is_paired: bool) -> None:
    generator = np.random.default_rng(1)
    on, n = generator.random(3000) < 0.5, 3000
    losses = generator.beta(2, np.where(on, 4, 8))
    split = LossEvidence(losses=losses, is_candidate=on, weights=np.full(n, 0.5))
    worse = LossEvidence(paired=generator.normal(0.05, 0.1, 900).clip(-1, 1)) if is_paired else split
    verdict = said(item("carrier=DL", FINE), SliceEvidence("carrier=AA", losses=worse))
    assert verdict.verdict == "fail"
    assert verdict.detail.startswith("loss on carrier=AA: ")


def test_equal_slices_pass_and_show_the_worst() -> None:
    verdict = said(item("carrier=DL", FINE), item("carrier=AA", FINE))
    assert verdict.verdict == "pass"
    assert verdict.detail.startswith("none of 2 slices; most evidence: ")
    assert verdict.log_e is not None
    assert verdict.log_e < verdict.threshold


def test_slice_with_little_support_is_shown_but_does_not_act() -> None:
    few = (UnitCounts(units=20, errors=18), UnitCounts(units=20))
    verdict = said(item("carrier=DL", FINE), item("carrier=AA", few))
    assert verdict.verdict == "pass"
    assert (verdict.slices[0].slice, verdict.slices[0].verdict) == ("carrier=AA", "inconclusive")
    supported = GuardsConfig(slices=["carrier"], min_slice_units=40)
    assert said(item("carrier=AA", few), guards=supported).verdict == "fail"


def test_all_slices_and_kinds_together_have_the_guards_alpha() -> None:
    slices = tuple(item(f"carrier={number}", FINE, losses=LossEvidence(paired=np.zeros(99))) for number in range(4))
    many = judge(Observation(slices=slices[:1]), GUARDS, SHADOW)
    found = next(v for v in many if v.name == "slices").slices
    assert {v.kind for v in found} == {"errors", "latency", "loss"}
    share = exp(-regression_thresholds(GUARDS)["slices"])
    assert sum(exp(-v.threshold) for v in found) == pytest.approx(share)
    worst = said(*slices).slices[0]
    assert worst.threshold == pytest.approx(found[[v.kind for v in found].index(worst.kind)].threshold + log(4))


def test_alpha_of_all_guards_with_slices_is_alpha() -> None:
    for dry_run in ([], ["score_shift"], ["slices"], ["latency", "loss"]):
        guards = GuardsConfig(slices=["carrier"], dry_run=dry_run)  # type: ignore[arg-type]
        acting = [v for v in judge(Observation(), guards, SHADOW) if v.question == "regression" and not v.dry_run]
        assert sum(exp(-v.threshold) for v in acting) == pytest.approx(guards.alpha)


def test_without_slices_nothing_is_kept_for_them() -> None:
    plain = GuardsConfig()
    assert "slices" not in {v.name for v in judge(Observation(), plain, SHADOW)}
    assert regression_thresholds(plain)["errors"] == pytest.approx(log(2 / 0.05))
    assert regression_thresholds(GUARDS)["errors"] == pytest.approx(log(3 / 0.05))


def test_kind_that_only_shows_on_all_traffic_is_not_tested_in_slices() -> None:
    guards = GuardsConfig(slices=["carrier"], dry_run=["score_shift", "latency"])
    assert said(item("carrier=AA", SLOW), guards=guards).verdict == "pass"
    assert {v.kind for v in said(item("carrier=AA", SLOW), guards=guards).slices} == {"errors"}


def test_dry_run_shows_and_does_not_act() -> None:
    guards = GuardsConfig(slices=["carrier"], dry_run=["slices"])
    verdict = said(item("carrier=AA", BAD), guards=guards)
    assert (verdict.verdict, verdict.dry_run) == ("fail", True)


def test_without_slices_or_traffic_it_says_so() -> None:
    assert said().detail == "no slices were defined when the rollout began"
    assert said(SliceEvidence("carrier=AA")).detail == "nothing in 1 slices yet"
    problem = "no slices of speed: it is not an input of the champion"
    verdict = said(item("carrier=AA", FINE), problem=problem)
    assert verdict.detail.endswith(f"; {problem}")
