"""Row-level bets keep to their tolerance; distances agree with scipy, and their expectations with simulation."""

from math import log

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from ray_mlops.statistics import distances
from ray_mlops.statistics.bins import CategoricalBins, NumericBins
from ray_mlops.statistics.rows import RowBets, mid_ranks, reference_error

EDGES = np.linspace(0.0, 1.0, 9)


def test_row_bets_have_expectation_at_most_one_within_the_tolerance():
    bins = NumericBins(EDGES)
    reference = np.array([1, 20, 30, 50, 100, 100, 50, 30, 20, 1, 10])
    bets = RowBets(bins, reference, epsilon=0.05)
    share = (reference + 0.5) / (reference.sum() + 0.5 * len(reference))
    gains = np.exp(np.array([bets.log_es(np.eye(len(reference))[k]) for k in range(len(reference))]))
    assert (share @ gains <= 1.0 + 1e-12).all()
    for source, target in ((4, 10), (10, 0), (5, 1)):  # the worst that 5 % of the rows can do
        moved = share.copy()
        mass = min(0.05, moved[source])
        moved[source], moved[target] = moved[source] - mass, moved[target] + mass
        assert (moved @ gains <= 1.0 + 1e-12).all()


def test_row_bets_find_a_shift_and_ignore_a_tolerated_one():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=20_000)
    bins = NumericBins.from_sample(reference)
    bets = RowBets(bins, bins.count(reference), 0.02 + reference_error(bins.size, 20_000, 0.01))
    assert bets.log_es(bins.count(rng.normal(size=2000))).max() < 2.0
    assert bets.log_es(bins.count(rng.normal(0.25, 1, size=2000))).max() > 5.0
    nulls = np.where(rng.random(2000) < 0.2, np.nan, rng.normal(size=2000))
    assert bets.log_es(bins.count(nulls)).max() > 20.0
    assert np.allclose(bets.log_es(bins.count(nulls), 0.25), bets.log_es(bins.count(nulls)) / 4)


def test_row_bets_of_categories_notice_the_unseen():
    bins = CategoricalBins(("a", "b"), frozenset("ab"))
    bets = RowBets(bins, np.array([500, 500, 0, 0, 0]), 0.05)
    assert bets.log_es([250, 250, 0, 0, 0]).max() < 0.0
    assert bets.log_es([200, 200, 0, 100, 0]).max() > 5.0


def test_mid_ranks_average_one_half():
    weights = np.array([3.0, 0.0, 5.0, 2.0])
    assert mid_ranks(weights) @ weights / weights.sum() == pytest.approx(0.5)


def test_reference_error_is_rarely_exceeded():
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(20))
    limit = reference_error(20, 500, 0.05)
    deviations = [np.abs(rng.multinomial(500, p) / 500 - p).sum() / 2 for _ in range(300)]
    assert np.mean(np.array(deviations) > limit) <= 0.05
    assert reference_error(20, 0, 0.05) == 1.0


def test_distances_agree_with_scipy():
    rng = np.random.default_rng(2)
    p, q = rng.integers(1, 50, 11), rng.integers(1, 50, 11)
    assert distances.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2)
    assert distances.hellinger(p, q) == pytest.approx(
        np.sqrt(1 - np.sqrt(distances.shares(p) * distances.shares(q)).sum())
    )
    assert distances.psi(p * 10_000, q * 10_000) == pytest.approx(stats.entropy(p, q) + stats.entropy(q, p), rel=1e-3)
    x, y = np.repeat(np.arange(11), p), np.repeat(np.arange(11), q)
    assert distances.kolmogorov_smirnov(p, q) == pytest.approx(stats.ks_2samp(x, y).statistic)


def test_wasserstein_agrees_with_scipy_on_fine_bins():
    rng = np.random.default_rng(3)
    bins = NumericBins(np.linspace(-8, 8, 801))
    x, y = rng.normal(0, 1, 5000), rng.normal(0.7, 1.5, 5000)
    found = distances.wasserstein(bins.count(x), bins.count(y), bins.edges)
    assert found == pytest.approx(stats.wasserstein_distance(x, y), rel=0.01)


def test_distances_of_equal_disjoint_and_empty_samples():
    p, q, none = np.array([5, 5, 0, 0, 0]), np.array([0, 0, 5, 5, 0]), np.zeros(5)
    for distance in (distances.total_variation, distances.jensen_shannon, distances.hellinger, distances.psi):
        assert distance(p, p) == pytest.approx(0.0, abs=1e-12)
        assert distance(p, none) == distance(none, p) == 0.0
    assert distances.total_variation(p, q) == 1.0
    assert distances.hellinger(p, q) == pytest.approx(1.0)
    assert distances.jensen_shannon(p, q) == pytest.approx(log(2))
    assert distances.expected_total_variation(none, 5, 5) == distances.expected_psi(p, 0, 5) == 0.0
    assert distances.wasserstein(none, none, EDGES[:3]) == 0.0


def test_expectations_agree_with_simulation():
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(12) * 5)
    n, m = 900, 2500
    pairs = [(rng.multinomial(n, p), rng.multinomial(m, p)) for _ in range(400)]
    pooled = np.sum([b for _, b in pairs], axis=0)

    def mean(distance):
        return np.mean([distance(a, b) for a, b in pairs])

    assert distances.expected_total_variation(pooled, n, m) == pytest.approx(mean(distances.total_variation), rel=0.1)
    assert distances.expected_psi(pooled, n, m) == pytest.approx(mean(distances.psi), rel=0.1)
    assert distances.expected_jensen_shannon(pooled, n, m) == pytest.approx(mean(distances.jensen_shannon), rel=0.1)
    assert distances.expected_hellinger(pooled, n, m) == pytest.approx(mean(distances.hellinger), rel=0.1)
    edges = np.linspace(0, 3, 11)

    def moved(a, b):
        return distances.wasserstein(np.append(a, 0), np.append(b, 0), edges)

    assert distances.expected_wasserstein(np.append(pooled, 0), edges, n, m) == pytest.approx(mean(moved), rel=0.15)
    x = [stats.ks_2samp(rng.random(300), rng.random(700)).statistic for _ in range(200)]
    assert distances.expected_kolmogorov_smirnov(300, 700) == pytest.approx(np.mean(x), rel=0.1)


def test_noise_is_below_twice_the_expectation():
    assert distances.is_noise(0.19, 0.1)
    assert not distances.is_noise(0.21, 0.1)


def test_typical_is_the_median_distance_to_the_others():
    windows = np.array([[5, 5], [6, 4], [4, 6]])
    assert distances.typical(distances.total_variation, windows) == pytest.approx(0.15)
    assert distances.typical(distances.total_variation, windows[:1]) == 0.0
