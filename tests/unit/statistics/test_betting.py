"""Bounded-mean bets: exact wealth, error rates under continuous monitoring, and delays."""

import json
from math import inf, log

import numpy as np
import pytest

from ray_mlops.statistics.betting import (
    STAKES,
    BetAboveMean,
    log_e_difference,
    log_e_mean_above,
    log_e_mean_below,
    log_e_paired_noninferiority,
    log_e_paired_regression,
    log_prior,
)

ALARM = log(20)


def test_mean_above_equals_the_written_formula():
    x = np.random.default_rng(0).random(100)
    wealth = np.prod(1 + STAKES[:, None] * (x / 0.4 - 1), axis=1)
    assert log_e_mean_above(x, 0.4) == pytest.approx(log(np.exp(log_prior(STAKES)) @ wealth))
    assert np.exp(log_prior(STAKES)).sum() == pytest.approx(1.0)


def test_mean_below_mirrors_mean_above():
    x = np.random.default_rng(1).random(77)
    assert log_e_mean_below(x, 0.6) == pytest.approx(log_e_mean_above(1 - x, 0.4))


def test_order_does_not_matter():
    x = np.random.default_rng(2).random(5000)
    assert log_e_mean_above(x, 0.49) == pytest.approx(log_e_mean_above(np.sort(x), 0.49))


def test_edges():
    assert log_e_mean_above([], 0.5) == 0.0
    assert log_e_mean_above([1.0], 1.0) == 0.0
    assert log_e_mean_above([0.1], 0.0) == inf
    assert log_e_mean_above([0.0], 0.0) == 0.0
    assert np.isfinite(log_e_mean_above([0.0] * 20_000, 0.5))
    assert np.isfinite(log_e_mean_above([1.0] * 20_000, 1e-4))
    for bad in ([1.5], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match="numbers must lie"):
            log_e_mean_above(bad, 0.5)


def test_false_alarms_at_the_null_mean_stay_below_alpha():
    hits = 0
    for seed in range(150):
        x = np.random.default_rng(seed).beta(0.3, 0.7, size=400)  # mean .3, far from normal
        hits += any(log_e_mean_above(x[:n], 0.3) >= ALARM for n in range(20, 401, 20))
    assert hits <= 13  # binomial(150, .05) exceeds 13 with probability 2 %


def test_paired_tests_find_what_is_there_and_only_that():
    rng = np.random.default_rng(3)
    same, worse = rng.normal(0, 0.06, 1500).clip(-1, 1), rng.normal(0.02, 0.06, 1500).clip(-1, 1)
    assert log_e_paired_noninferiority(same[:1000], 0.01) >= ALARM
    assert log_e_paired_noninferiority(worse, 0.01) < 0
    assert log_e_paired_regression(worse[:600]) >= ALARM
    assert log_e_paired_regression(same) < ALARM
    assert log_e_paired_regression(worse, tolerance=0.05) < 0
    assert log_e_paired_noninferiority([], 0.01) == log_e_paired_regression([]) == 0.0


def two_arms(rng, n, w, effect, base=0.15, sd=0.12):
    arm = rng.random(n) < w
    return rng.normal(base + effect * arm, sd).clip(0, 1), arm


@pytest.mark.parametrize("w", [0.05, 0.25, 0.5])
def test_difference_false_alarms_stay_below_alpha(w):
    hits = 0
    for seed in range(150):
        y, arm = two_arms(np.random.default_rng(seed), 1000, w, 0.0)
        hits += any(log_e_difference(y[:n], arm[:n], w) >= ALARM for n in range(100, 1001, 100))
    assert hits <= 13  # binomial(150, .05) exceeds 13 with probability 2 %


def test_difference_is_valid_for_skewed_losses_that_drift_together():
    hits = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        n = 800
        arm = rng.random(n) < 0.1
        y = (rng.random(n) < np.linspace(0.02, 0.5, n)).astype(float)  # an outage that hits both arms
        hits += any(log_e_difference(y[:k], arm[:k], 0.1) >= ALARM for k in range(80, n + 1, 80))
    assert hits <= 13


def test_difference_is_found_in_a_few_hundred_units():
    delays = []
    for seed in range(40):
        y, arm = two_arms(np.random.default_rng(seed), 600, 0.25, 0.07)
        delays.append(next((n for n in range(25, 601, 25) if log_e_difference(y[:n], arm[:n], 0.25) >= ALARM), 9999))
    assert np.median(delays) <= 250
    assert max(delays) <= 600


def test_difference_noninferiority_by_exchanging_the_arms():
    y, arm = two_arms(np.random.default_rng(5), 4000, 0.5, 0.0)
    weights = np.full(len(y), 0.5)
    assert log_e_difference(y, ~arm, 1 - weights, -0.03) >= ALARM
    worse, arm = two_arms(np.random.default_rng(5), 4000, 0.5, 0.06)
    assert log_e_difference(worse, ~arm, 1 - weights, -0.03) < 0


def test_difference_leaves_out_units_that_were_not_drawn():
    y, arm = two_arms(np.random.default_rng(6), 100, 0.3, 0.1)
    weights = np.full(100, 0.3)
    with_pinned = log_e_difference(np.append(1.0, y), np.append(True, arm), np.append(1.0, weights))
    assert with_pinned == pytest.approx(log_e_difference(y, arm, weights))
    assert log_e_difference([], [], []) == 0.0
    with pytest.raises(ValueError, match="margin"):
        log_e_difference([0.5], [True], 0.5, 1.0)


def test_bet_above_mean_taken_up_piecewise_equals_all_at_once():
    x = np.random.default_rng(7).random(50)
    whole = BetAboveMean(0.4).updated(x)
    state = BetAboveMean(0.4)
    for part in np.split(x, 5):
        state = BetAboveMean.from_json(json.loads(json.dumps(state.to_json()))).updated(part)
    assert state.log_e == pytest.approx(whole.log_e) == pytest.approx(log_e_mean_above(x, 0.4))
    assert state.n == 50
    assert np.allclose(BetAboveMean(0.4).increments(x[0]), BetAboveMean(0.4).updated(x[:1]).log_wealth)
    with pytest.raises(ValueError, match="mean"):
        BetAboveMean(0.0)
