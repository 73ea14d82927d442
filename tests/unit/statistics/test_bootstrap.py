"""Bootstrap intervals: repeatable, of the right width, with the right coverage."""

import json

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from ray_mlops.statistics.bootstrap import bootstrap_interval, bootstrap_mean, paired_bootstrap


def test_interval_agrees_with_scipy():
    x = np.random.default_rng(0).exponential(size=300)
    ours = bootstrap_interval(lambda a: float(np.median(a)), [x], samples=2000, seed=1)
    theirs = bootstrap((x,), np.median, n_resamples=2000, method="percentile", rng=2).confidence_interval
    assert ours.lower == pytest.approx(theirs.low, abs=0.03)
    assert ours.upper == pytest.approx(theirs.high, abs=0.03)
    assert ours.estimate == np.median(x)


def test_same_seed_gives_the_same_interval():
    x = np.arange(50.0)
    assert bootstrap_mean(x, seed=3) == bootstrap_mean(x, seed=3) != bootstrap_mean(x, seed=4)


def test_weighted_and_copying_paths_draw_the_same_rows():
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 80), rng.random(80)

    def weighted(y, p, weight):
        return float(roc_auc_score(y, p, sample_weight=weight))

    slow = bootstrap_interval(lambda y, p: float(roc_auc_score(y, p)), [y, p], samples=40)
    fast = bootstrap_interval(weighted, [y, p], samples=40, weighted=True)
    assert (fast.lower, fast.upper) == pytest.approx((slow.lower, slow.upper))


def test_mean_equals_the_general_path():
    x = np.random.default_rng(2).normal(size=100)
    general = bootstrap_interval(lambda a: float(a.mean()), [x], samples=100, seed=5)
    fast = bootstrap_mean(x, samples=100, seed=5)
    assert (fast.lower, fast.upper) == pytest.approx((general.lower, general.upper))
    w = np.arange(100.0)
    heavy = bootstrap_mean(x, w, samples=100, seed=5)
    again = bootstrap_interval(lambda a, b: float((a * b).sum() / b.sum()), [x, w], samples=100, seed=5)
    assert (heavy.estimate, heavy.lower) == pytest.approx((again.estimate, again.lower))


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(3)
    y = rng.normal(size=400)
    candidate, champion = y + rng.normal(0, 0.3, 400), y + rng.normal(0, 0.3, 400)
    candidate = candidate * 0.9 + y * 0.1

    def mse(prediction, target):
        return float(((prediction - target) ** 2).mean())

    paired = paired_bootstrap(mse, candidate, champion, [y], samples=300)
    assert paired.upper < 0
    assert paired.estimate == pytest.approx(mse(candidate, y) - mse(champion, y))


def test_coverage_is_about_what_is_asked():
    covered = 0
    for seed in range(150):
        x = np.random.default_rng(seed).exponential(size=120)
        interval = bootstrap_mean(x, samples=200, confidence=0.9, seed=seed)
        covered += interval.lower <= 1.0 <= interval.upper
    assert 118 <= covered <= 146  # about .88 of 150, give or take 3.5 standard errors


def test_undefined_resamples_are_left_out_and_empty_input_is_nan():
    def auc_or_nan(y, p):
        return float(roc_auc_score(y, p)) if 0 < y.sum() < len(y) else float("nan")

    result = bootstrap_interval(auc_or_nan, [[0, 0, 1], [0.1, 0.2, 0.9]], samples=60)
    assert 20 < result.samples < 60
    empty = bootstrap_mean([])
    assert np.isnan(empty.lower)
    assert json.loads(json.dumps(empty.to_json()))["upper"] is None
    assert np.isnan(bootstrap_mean([1.0], [0.0]).estimate)
    with pytest.raises(ValueError, match="common length"):
        bootstrap_interval(lambda a, b: 0.0, [[1.0], [1.0, 2.0]])
