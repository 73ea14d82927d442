"""Conditional count tests: analytic values, invariances, and error rates under continuous monitoring."""

from math import comb, exp, log

import numpy as np
import pytest
from scipy.special import betaln

from ray_mlops.statistics.counts import (
    log_e_noninferiority,
    log_e_regression,
    log_e_score_shift,
    sample_ratio_log_e,
)

GRID = np.geomspace(0.05, 2.5, 16)


def test_regression_equals_the_written_formula():
    w, a, b = np.array([0.05, 0.25]), np.array([7, 9]), np.array([40, 20])

    def pi(delta):
        return w * np.exp(delta) / (w * np.exp(delta) + 1 - w)

    e = np.average([np.prod((pi(d) / pi(0)) ** a * ((1 - pi(d)) / (1 - pi(0))) ** b) for d in GRID], weights=GRID)
    assert log_e_regression(w, a, b) == pytest.approx(log(e))


def test_noninferiority_equals_the_written_formula():
    w, a, b, zero = 0.5, 10, 60, log(1.5)

    def pi(delta):
        return w * exp(delta) / (w * exp(delta) + 1 - w)

    e = np.mean([(pi(zero - d) / pi(zero)) ** a * ((1 - pi(zero - d)) / (1 - pi(zero))) ** b for d in GRID])
    assert log_e_noninferiority([w], [a], [b], 0.5) == pytest.approx(log(e))


@pytest.mark.parametrize("weights", [[], [0.3], [0.0], [1.0]])
def test_no_informative_event_is_no_evidence(weights):
    zeros = [0] * len(weights)
    assert log_e_regression(weights, zeros, zeros) == 0.0
    assert log_e_noninferiority(weights, zeros, zeros, 0.5) == 0.0
    assert sample_ratio_log_e([[0, 0]] * len(weights), weights) == 0.0


def test_events_under_certain_assignment_are_left_out():
    assert log_e_regression([0.0, 1.0, 0.2], [5, 5, 9], [5, 5, 9]) == log_e_regression([0.2], [9], [9])


def test_splitting_a_route_version_changes_nothing():
    whole = log_e_regression([0.1], [12], [30])
    assert log_e_regression([0.1, 0.1], [5, 7], [10, 20]) == pytest.approx(whole)


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="fit"):
        log_e_regression([0.1], [1, 2], [1, 2])
    with pytest.raises(ValueError, match="negative"):
        log_e_regression([0.1], [-1], [1])
    with pytest.raises(ValueError, match="margin"):
        log_e_noninferiority([0.1], [1], [1], -1.0)


def run_until(w, ratio, events, rng, test):
    """Whether the evidence ever reaches alpha = .05, looking after every tenth event while the weight climbs."""
    weights = np.repeat(w, events // len(w))
    on_candidate = rng.random(len(weights)) < weights * ratio / (weights * ratio + 1 - weights)
    for n in range(10, len(weights) + 1, 10):
        a = [on_candidate[:n][weights[:n] == v].sum() for v in w]
        b = [(~on_candidate[:n])[weights[:n] == v].sum() for v in w]
        if test(w, a, b) >= log(20):
            return n
    return 0


def test_false_rollbacks_stay_below_alpha_while_weights_climb():
    w = np.array([0.01, 0.05, 0.25, 0.5])
    hits = sum(bool(run_until(w, 1.0, 400, np.random.default_rng(s), log_e_regression)) for s in range(200))
    assert hits <= 16  # binomial(200, .05) exceeds 16 with probability 2 %


def test_false_promotions_at_the_margin_stay_below_alpha():
    w = np.array([0.25, 0.5])

    def test(weights, a, b):
        return log_e_noninferiority(weights, a, b, 0.5)

    hits = sum(bool(run_until(w, 1.5, 400, np.random.default_rng(s), test)) for s in range(200))
    assert hits <= 16


def test_threefold_errors_are_found_and_equal_arms_are_promoted():
    w = np.array([0.1])
    found = [run_until(w, 3.0, 200, np.random.default_rng(s), log_e_regression) for s in range(20)]
    assert min(found) > 0
    assert np.median(found) <= 100
    assert log_e_noninferiority([0.5], [100], [100], 1.0) > log(20)


def test_score_shift_is_a_product_of_beta_binomials():
    a, b, w = np.array([[3, 8]]), np.array([[9, 2]]), 0.3
    expected = sum(
        betaln(20 * w + x, 20 * (1 - w) + y) - betaln(20 * w, 20 * (1 - w)) - x * log(w) - y * log(1 - w)
        for x, y in zip(a[0], b[0], strict=True)
    )
    assert log_e_score_shift([w], a, b) == pytest.approx(expected)


def test_score_shift_finds_a_shift_and_rarely_anything_else():
    rng = np.random.default_rng(0)
    same, moved = 0, 0
    for _ in range(200):
        arm = rng.random(2000) < 0.2
        for shift in (0.0, 0.5):
            bins = np.digitize(rng.normal(size=2000) + shift * arm, [-1, -0.3, 0.3, 1])
            a, b = (np.bincount(bins[mask], minlength=5) for mask in (arm, ~arm))
            hit = log_e_score_shift([0.2], [a], [b]) >= log(20)
            same, moved = same + (hit and not shift), moved + (hit and shift > 0)
    assert same <= 16
    assert moved >= 190


def test_sample_ratio_e_value_has_expectation_one():
    n, w = 60, 0.3
    chance = [comb(n, k) * w**k * (1 - w) ** (n - k) for k in range(n + 1)]
    total = sum(p * exp(sample_ratio_log_e([[k, n - k]], [w])) for k, p in enumerate(chance))
    assert total == pytest.approx(1.0)
    assert sample_ratio_log_e([[300, 9700], [3000, 7000]], [0.05, 0.25]) > log(1e4)
    assert sample_ratio_log_e([[500, 9500], [2500, 7500]], [0.05, 0.25]) < 0
