"""Restarts, averages and the choice of columns."""

import json
from math import exp, inf, log

import numpy as np
import pytest

from ray_mlops.statistics.accumulate import RestartMixture, ShiryaevRoberts, combine, e_bh
from ray_mlops.statistics.windows import restart_log_e


def test_restart_mixture_equals_the_sum_over_starts():
    rng = np.random.default_rng(0)
    gains = rng.normal(size=(7, 3))
    state = RestartMixture(3)
    for gain in gains:
        state = state.updated(gain)
    weights = [1 / (s * (s + 1)) for s in range(1, 8)]
    by_start = [np.mean(np.exp(gains[s:].sum(axis=0))) for s in range(7)]
    assert state.log_e == pytest.approx(log(np.dot(weights, by_start) + 1 / 8))
    assert state.log_e == pytest.approx(restart_log_e(np.log(by_start)))


def test_restart_mixture_finds_the_change_point_in_constant_memory():
    state = RestartMixture(2)
    for step in range(1, 101):
        state = state.updated([1.0, -1.0] if step > 60 else [-0.5, 0.2])
    assert state.change_point == 61
    assert len(json.dumps(state.to_json())) < 250


def test_restart_mixture_is_nearly_free_before_any_evidence():
    assert RestartMixture(4).log_e == 0.0
    assert RestartMixture(4).change_point is None
    assert RestartMixture(4).updated([0.0] * 4).log_e == pytest.approx(0.0)


def test_late_change_is_found_at_the_price_of_two_log_t():
    state = RestartMixture(1)
    for _ in range(100):
        state = state.updated([-1.0])
    for _ in range(20):
        state = state.updated([1.0])
    assert state.log_e == pytest.approx(20 - log(101 * 102), abs=1.0)


def test_restart_false_alarms_stay_below_alpha():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(150):
        state = RestartMixture(2)
        z = rng.normal(size=120)
        best = 0.0
        for x in z:
            state = state.updated([x - 0.5, -2 * x - 2])
            best = max(best, state.log_e)
        hits += best >= log(20)
    assert hits <= 13  # binomial(150, .05) exceeds 13 with probability 2 %


def test_shiryaev_roberts_equals_the_plain_sum_and_keeps_its_run_length():
    gains = np.random.default_rng(2).normal(size=6) - 0.5
    state = ShiryaevRoberts(1)
    for gain in gains:
        state = state.updated([gain])
    assert state.log_r == pytest.approx(log(sum(exp(gains[s:].sum()) for s in range(6))))
    assert ShiryaevRoberts(3).log_r == -inf

    lengths = []
    for seed in range(60):
        rng, r = np.random.default_rng(seed), ShiryaevRoberts(1)
        steps = 0
        while r.log_r < log(50) and steps < 1000:
            r, steps = r.updated([rng.normal() - 0.5]), steps + 1
        lengths.append(steps)
    assert np.mean(lengths) >= 50


def test_states_survive_json_to_the_bit():
    mixture, notice = RestartMixture(2), ShiryaevRoberts(2)
    assert RestartMixture.from_json(json.loads(json.dumps(mixture.to_json()))) == mixture
    for gain in ([0.3, -inf], [0.1, 2.0]):
        mixture, notice = mixture.updated(gain), notice.updated(gain)
    assert RestartMixture.from_json(json.loads(json.dumps(mixture.to_json()))) == mixture
    assert ShiryaevRoberts.from_json(json.loads(json.dumps(notice.to_json()))) == notice


def test_combine_is_a_weighted_mean_of_e_values():
    assert combine([1, 3], [log(8), log(4)]) == pytest.approx(log(5))
    assert combine([1, 0], [0.0, inf]) == 0.0
    assert combine([1, 1], [-inf, log(2)]) == pytest.approx(0.0)
    assert combine([1, 1], [5000.0, 0.0]) == pytest.approx(5000 - log(2))
    for weights in ([], [0.0], [1, -1]):
        with pytest.raises(ValueError, match="weights"):
            combine(weights, [0.0] * len(weights))


def test_e_bh_rejects_by_steps():
    e = np.log([30.0, 100.0, 1.0, 45.0])
    assert e_bh(list(e), 0.05) == [1, 3, 0]  # limits 80, 40, 26.7, 20
    assert e_bh([log(79.0), 0.0, 0.0, 0.0], 0.05) == []
    assert e_bh([], 0.05) == []


def test_e_bh_keeps_the_false_discovery_rate():
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(300):
        x = rng.normal(size=10)
        x[:3] += 3.0
        chosen = e_bh(list(3 * x - 4.5), 0.1)
        shares.append(np.mean([index >= 3 for index in chosen]) if chosen else 0.0)
    assert np.mean(shares) <= 0.1
