import numpy as np
import pytest
from scipy import stats

from ray_mlops.evaluation import intervals
from ray_mlops.evaluation.intervals import percentile_interval, resample_meters
from ray_mlops.evaluation.means import holm_adjust, mean_interval, p_value_above, rate_interval, weighted_mean
from ray_mlops.evaluation.metrics import build_meter
from ray_mlops.evaluation.rows import ScoredRows, score_rows


def accuracy_rows(rows: int, seed: int, share: float = 0.7) -> ScoredRows:
    generator = np.random.default_rng(seed)
    values = generator.random(rows)
    right = generator.random(rows) < share
    return score_rows("binary", values, np.where(right, values >= 0.5, values < 0.5))


def draw(rows: ScoredRows, *others: ScoredRows, samples: int = 200, seed: int = 0) -> intervals.Resamples:
    meters = (rows, *others)
    return resample_meters(
        lambda index: [build_meter(one if index is None else one.take(index)) for one in meters],
        len(rows),
        samples,
        seed,
    )


def test_interval_of_accuracy_agrees_with_the_binomial_standard_error() -> None:
    found = draw(accuracy_rows(1000, 0), samples=400).intervals(0, 0.95)["accuracy"]
    error = np.sqrt(found.value * (1 - found.value) / 1000)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.15)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(120):
        found = draw(accuracy_rows(200, seed), samples=100, seed=seed).intervals(0, 0.9)["accuracy"]
        covered += found.low <= 0.7 <= found.high
    assert 0.80 <= covered / 120 <= 0.97


def test_difference_of_equal_models_is_exactly_zero() -> None:
    rows = accuracy_rows(300, 1)
    found = draw(rows, rows).differences(0, 1, 0.95)
    assert all((item.value, item.low, item.high) == (0.0, 0.0, 0.0) for item in found.values())


def test_paired_interval_is_narrower_than_the_two_models_own() -> None:
    rows = accuracy_rows(500, 2)
    other = score_rows("binary", np.clip(rows.values + 0.01, 0, 1), rows.target)
    resamples = draw(rows, other)
    paired, alone = resamples.differences(0, 1, 0.95)["brier"], resamples.intervals(0, 0.95)["brier"]
    assert paired.high - paired.low < (alone.high - alone.low) / 5


def test_same_seed_gives_the_same_interval_to_the_bit() -> None:
    rows = accuracy_rows(300, 3)
    assert draw(rows, seed=7).intervals(0, 0.95) == draw(rows, seed=7).intervals(0, 0.95)
    assert draw(rows, seed=7).intervals(0, 0.95) != draw(rows, seed=8).intervals(0, 0.95)


def test_many_rows_are_resampled_in_part_with_the_right_width(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = accuracy_rows(8000, 4)
    whole = draw(rows, samples=300).intervals(0, 0.95)["accuracy"]
    monkeypatch.setattr(intervals, "MAX_RESAMPLED_ROWS", 1000)
    part = draw(rows, samples=300).intervals(0, 0.95)["accuracy"]
    assert part.value == whole.value
    assert part.high - part.low == pytest.approx(whole.high - whole.low, rel=0.2)


def test_undefined_point_has_an_undefined_interval() -> None:
    found = percentile_interval(np.nan, np.ones(10), 0.95)
    assert np.isnan([found.value, found.low, found.high]).all()
    found = percentile_interval(1.0, np.array([np.nan] * 6 + [1.0] * 4), 0.95)
    assert np.isnan([found.low, found.high]).all()


def test_no_rows_gives_undefined_intervals() -> None:
    rows = score_rows("regression", np.empty(0), np.empty(0))
    assert np.isnan(draw(rows, samples=5).intervals(0, 0.95)["rmse"].value)


def test_mean_interval_with_unit_weights_equals_students() -> None:
    values = np.random.default_rng(0).normal(size=50)
    found = mean_interval(values, np.ones(50), 0.95)
    low, high = stats.t.interval(0.95, 49, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_rate_interval_equals_scipys_wilson_interval() -> None:
    found = rate_interval(np.repeat([1.0, 0.0], [3, 47]), np.ones(50), 0.9)
    expected = stats.binomtest(3, 50).proportion_ci(0.9, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    doubled = rate_interval(np.repeat([1.0, 0.0], [3, 47]), np.full(50, 2.0), 0.9)
    assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high))  # a scale is no information


def test_weighted_mean_ignores_rows_of_weight_zero() -> None:
    mean, error = weighted_mean(np.array([1.0, 2.0, 99.0]), np.array([1.0, 1.0, 0.0]))
    assert (mean, error) == pytest.approx((1.5, 0.5))
    assert np.isnan(weighted_mean(np.empty(0), np.empty(0))[0])


def test_p_value_equals_scipys_and_says_nothing_without_evidence() -> None:
    values = np.random.default_rng(1).normal(0.2, 1.0, 80)
    mean, error = weighted_mean(values, np.ones(80))
    expected = stats.ttest_1samp(values, 0.1, alternative="greater").pvalue
    assert p_value_above(mean, error, 80, 0.1) == pytest.approx(expected)
    assert p_value_above(np.nan, 1.0, 80, 0.0) == 1.0
    assert p_value_above(0.5, 0.0, 80, 0.4) == 0.0
    assert p_value_above(0.5, 0.0, 80, 0.5) == 1.0


def test_holm_keeps_order_and_never_exceeds_one() -> None:
    adjusted = holm_adjust(np.array([0.9, 0.001, 0.02, 0.8]))
    assert adjusted.tolist() == pytest.approx([1.0, 0.004, 0.06, 1.0])
    assert holm_adjust(np.empty(0)).tolist() == []
