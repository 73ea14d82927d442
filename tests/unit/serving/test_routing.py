"""The routing hash: uniform, sticky, monotone, independent between rollouts."""

from dataclasses import replace
from itertools import pairwise

import pytest

from ray_mlops.serving.protocol import Arm, ModelRoutes
from ray_mlops.serving.routing import choose_arm, rollout_salt, unit_hash, unit_position

UNITS = [f"user-{index}" for index in range(20_000)]


def routes(weight: float, salt: int = 7) -> ModelRoutes:
    candidate = Arm("2", "b", "y", "isolated", weight)
    return ModelRoutes("flights", 3, Arm("1", "a", "x"), candidate, salt=salt)


def cohort(weight: float, salt: int = 7) -> set[str]:
    table = routes(weight, salt)
    return {unit for unit in UNITS if choose_arm(table, unit) == "candidate"}


@pytest.mark.parametrize("weight", [0.05, 0.25, 0.5])
def test_choose_arm_gives_the_candidate_its_share(weight: float) -> None:
    deviation = (weight * (1 - weight) / len(UNITS)) ** 0.5
    assert abs(len(cohort(weight)) / len(UNITS) - weight) < 4 * deviation


def test_choose_arm_with_rising_weight_only_moves_units_to_the_candidate() -> None:
    steps = [cohort(weight) for weight in (0.0, 0.05, 0.25, 0.5, 0.9)]
    assert steps[0] == set()
    assert all(smaller < larger for smaller, larger in pairwise(steps))


def test_choose_arm_of_another_rollout_draws_another_cohort() -> None:
    first, second = cohort(0.1, rollout_salt("flights-v2")), cohort(0.1, rollout_salt("flights-v3"))
    assert abs(len(first & second) / len(first) - 0.1) < 0.03


def test_choose_arm_without_candidate_returns_all_to_the_champion() -> None:
    table = replace(routes(0.5), candidate=None)
    assert {choose_arm(table, unit) for unit in UNITS[:100]} == {"champion"}


def test_choose_arm_with_routing_key_ignores_the_request_id() -> None:
    table = routes(0.5)
    arms = {choose_arm(table, unit, sticky_key="customer-9") for unit in UNITS[:100]}
    assert arms == {choose_arm(table, "customer-9")}


def test_position_is_the_same_in_every_process() -> None:
    assert unit_position("request-1", 42) == 0.5908172457072204
    assert unit_hash("user-1") == 7038226039998199158
    assert rollout_salt("flights-v2") == 304040498
