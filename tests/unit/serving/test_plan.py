"""What a rollout is said to need, and whether it can finish."""

from math import inf

import pytest

from ray_mlops.config import RolloutConfig
from ray_mlops.serving.rollout.plan import StepPlan, plan_rollout


def plan(config: RolloutConfig | None = None, **traffic: float) -> dict[str, StepPlan]:
    given = {"requests_per_day": 2000.0, "labels_per_day": 1500.0, **traffic}
    return {step.state: step for step in plan_rollout(config or RolloutConfig(), **given)}


def test_plan_of_an_error_free_candidate_needs_about_350_of_its_requests() -> None:
    steps = plan()
    needed = sum(step.candidate_requests for step in steps.values())
    assert 345 <= needed <= 360
    assert steps["canary[2]"].limited_by == "errors"
    assert all(step.finishes for step in steps.values())


def test_plan_counts_requests_by_weight() -> None:
    steps = plan()
    assert steps["canary[0]"].requests == pytest.approx(50 / 0.05)
    assert steps["canary[0]"].days == pytest.approx(0.5)
    assert steps["shadow"].labels == pytest.approx(500)


def test_plan_without_labels_never_leaves_the_shadow() -> None:
    shadow = plan(labels_per_day=0.0)["shadow"]
    assert (shadow.requests, shadow.finishes) == (inf, False)


def test_plan_on_thin_traffic_says_which_step_does_not_end_in_time() -> None:
    steps = plan(requests_per_day=60.0, labels_per_day=60.0)
    assert not steps["canary[0]"].finishes
    assert steps["canary[1]"].finishes


def test_plan_without_shadow_pays_for_the_loss_in_the_last_step() -> None:
    steps = plan(RolloutConfig.model_validate({"shadow": {"enabled": False}}))
    assert "shadow" not in steps
    assert steps["canary[2]"].limited_by == "loss"
    assert steps["canary[2]"].labels > 3 * plan()["shadow"].labels


def test_plan_with_errors_above_the_limit_compares_with_the_champion() -> None:
    low, high = plan(error_rate=0.002), plan(error_rate=0.05)
    assert low["canary[2]"].candidate_requests < high["canary[2]"].candidate_requests < inf


def test_plan_without_traffic_does_not_finish() -> None:
    assert not any(step.finishes for step in plan(requests_per_day=0.0, labels_per_day=0.0).values())
