"""The chi-squared test of two samples, and the distance that knows its tails."""

import numpy as np
import pytest
from scipy import stats

from ray_mlops.statistics.bins import NumericBins
from ray_mlops.statistics.distances import wasserstein, wasserstein_of_sums
from ray_mlops.statistics.table import bin_sums
from ray_mlops.statistics.two_sample import two_sample_p


def test_p_value_agrees_with_scipy_where_no_counter_is_small() -> None:
    table = np.array([[30, 40, 50], [300, 350, 600]])
    assert two_sample_p(*table) == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


def test_p_values_are_about_uniform_when_nothing_has_changed() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(30) * 0.3)  # many rare ones
    found = [two_sample_p(rng.multinomial(500, p), rng.multinomial(2000, p)) for _ in range(2000)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(np.array(found) < 0.001) < 0.006


def test_nothing_to_test_gives_one() -> None:
    assert two_sample_p([0, 0], [5, 5]) == two_sample_p([5, 0], [9, 0]) == two_sample_p([], []) == 1.0
    assert two_sample_p([1, 2], [2, 1]) == 1.0  # all thrown together
    assert two_sample_p([0, 50], [50, 0]) < 1e-10


def test_distance_by_sums_is_near_the_truth_in_heavy_tails_where_even_bins_are_not() -> None:
    rng = np.random.default_rng(1)
    x, y = np.sort(rng.lognormal(0, 2, 20_000)), np.sort(rng.lognormal(0.3, 2, 20_000))
    bins = NumericBins.from_sorted(x)
    counts = bins.count_sorted(y), bins.count_sorted(x)
    truth = stats.wasserstein_distance(x, y)
    found = wasserstein_of_sums(*counts, bin_sums(y, counts[0]), bin_sums(x, counts[1]))
    assert found == pytest.approx(truth, rel=0.1)
    assert wasserstein(*counts, bins.edges) != pytest.approx(truth, rel=0.3)
    assert wasserstein_of_sums([0, 0, 0, 5], counts[1], np.zeros(3), np.zeros(len(counts[1]) - 1)) == 0.0
