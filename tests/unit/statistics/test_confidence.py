"""Confidence sequences cover at every time at once, and are as narrow as promised."""

from math import log

import numpy as np
import pytest

from ray_mlops.statistics.betting import log_e_mean_above, log_e_mean_below
from ray_mlops.statistics.confidence import (
    Interval,
    betting_interval,
    empirical_bernstein_interval,
    error_upper_bound,
    log_e_rate_above,
    paired_interval,
    running_empirical_bernstein,
)


def test_error_bound_without_errors_is_below_one_percent_by_330():
    assert error_upper_bound(0, 330) < 0.01
    assert error_upper_bound(0, 298) > 0.01  # no test can: .99 ** 298 > .05
    assert error_upper_bound(0, 0) == 1.0
    assert error_upper_bound(5, 5) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="errors"):
        error_upper_bound(2, 1)


def test_error_bound_shrinks_to_the_rate_and_grows_with_errors():
    assert error_upper_bound(1000, 100_000) < 0.0115
    bounds = [error_upper_bound(k, 1000) for k in (0, 1, 5, 20)]
    assert bounds == sorted(bounds)
    assert error_upper_bound(3, 500, alpha=0.01) > error_upper_bound(3, 500, alpha=0.1)


@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_error_bound_is_ever_wrong_at_most_alpha_of_the_time(rate):
    checks = np.unique(np.geomspace(20, 2000, 12).astype(int))
    wrong = 0
    for seed in range(100):
        errors = np.cumsum(np.random.default_rng(seed).random(2000) < rate)
        wrong += any(error_upper_bound(int(errors[n - 1]), int(n)) < rate for n in checks)
    assert wrong <= 10  # binomial(100, .05) exceeds 10 with probability 1 %


def test_empirical_bernstein_covers_and_narrows():
    missed, width = 0, []
    for seed in range(200):
        x = np.random.default_rng(seed).beta(2, 6, size=2000)
        lower, upper = running_empirical_bernstein(x)
        missed += bool((lower > 0.25).any() or (upper < 0.25).any())
        width.append(upper[-1] - lower[-1])
    assert missed <= 16
    assert np.mean(width) < 0.05
    assert (np.diff(lower) >= 0).all()
    assert (np.diff(upper) <= 0).all()
    assert empirical_bernstein_interval(x) == Interval(float(lower[-1]), float(upper[-1]))


def test_empirical_bernstein_equals_a_plain_loop():
    x = np.random.default_rng(1).random(30)
    mean, variance, stakes, total, cost = 0.5, 0.25, 0.0, 0.0, 0.0
    mu_sum, var_sum = 0.5, 0.25
    for t, value in enumerate(x, start=1):
        stake = min(np.sqrt(2 * log(40) / (variance * t * np.log(1 + t))), 0.5)
        cost += (value - mean) ** 2 * (-np.log(1 - stake) - stake)
        stakes, total = stakes + stake, total + stake * value
        mu_sum += value
        mean = mu_sum / (t + 1)
        var_sum += (value - mean) ** 2
        variance = var_sum / (t + 1)
    lower, upper = running_empirical_bernstein(x)
    radius = (log(40) + cost) / stakes
    assert lower[-1] == pytest.approx(max(total / stakes - radius, 0), abs=0.05)
    assert upper[-1] <= total / stakes + radius + 1e-12


def test_empty_inputs_know_nothing():
    assert empirical_bernstein_interval([]) == Interval(0.0, 1.0)
    assert betting_interval([]) == Interval(0.0, 1.0)
    assert paired_interval([]) == Interval(-1.0, 1.0)


def test_betting_interval_holds_what_the_bets_do_not_reject_and_is_narrower():
    x = np.random.default_rng(2).beta(2, 6, size=1500)
    low, high = betting_interval(x, alpha=0.05, tolerance=1e-5)
    assert log_e_mean_above(x, low) >= log(40) > log_e_mean_above(x, low + 2e-5)
    assert log_e_mean_below(x, high) >= log(40) > log_e_mean_below(x, high - 2e-5)
    wide = empirical_bernstein_interval(x)
    assert high - low < wide.upper - wide.lower


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
def test_betting_interval_of_a_constant_holds_it(value):
    low, high = betting_interval([value] * 300)
    assert low <= value <= high
    assert high - low < 0.05


def test_paired_interval_covers_zero_for_equal_models():
    missed = 0
    for seed in range(30):
        d = np.random.default_rng(seed).normal(0, 0.1, 800).clip(-1, 1)
        missed += any(not low <= 0 <= high for low, high in (paired_interval(d[:n]) for n in range(200, 801, 200)))
    assert missed <= 5  # binomial(30, .05) exceeds 5 with probability 0.3 %


def test_rate_above_is_found_and_a_rate_at_the_limit_is_not():
    generator, hits = np.random.default_rng(3), 0
    for _ in range(300):
        path = generator.binomial(100, 0.1, 20).cumsum()
        hits += any(log_e_rate_above(int(e), 100 * (i + 1), 0.1) >= np.log(20) for i, e in enumerate(path))
    assert hits <= 22  # binomial(300, .05) exceeds 22 with probability 2 %
    assert log_e_rate_above(200, 1000, 0.1) > np.log(20)
    assert log_e_rate_above(0, 0, 0.1) == pytest.approx(0.0)
