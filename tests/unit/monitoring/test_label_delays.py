"""Weights for labels of which one class's come later."""

from datetime import timedelta

import numpy as np
import pytest

from ray_mlops.config.monitoring import LabelsConfig
from ray_mlops.monitoring.label_delays import MIN_LABELS, class_weights, describe_curves, effective
from ray_mlops.statistics.delays import NUM_BINS, Cohort, DelayCurves, delay_bins, fit_delays

DAY = 86_400.0


def curves(means_days: tuple[float, ...] = (0.5, 4.0), rows: int = 500, never: int = 0) -> DelayCurves:
    rng = np.random.default_rng(0)
    cohorts = []
    for age in range(1, 31):
        arrived = np.zeros((len(means_days), NUM_BINS), dtype=np.int64)
        for index, mean in enumerate(means_days):
            delays = rng.exponential(mean * DAY, rows)
            np.add.at(arrived[index], delay_bins(delays[delays < age * DAY]), 1)
        cohorts.append(Cohort(age * DAY, rows * len(means_days) + never, arrived))
    found = fit_delays(cohorts, len(means_days))
    assert found is not None
    return found


def test_weighted_mean_is_that_of_all_rows_where_a_class_comes_late() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random(20_000) < 0.3
    loss = np.where(truth, 0.6, 0.1)
    age = 2 * DAY
    has_come = rng.exponential(np.where(truth, 4.0, 0.5) * DAY) < age
    found = class_weights(curves(), np.full(has_come.sum(), age), truth[has_come].astype(np.int64))
    assert found.weights is not None
    assert loss[has_come].mean() < loss.mean() - 0.04
    assert np.average(loss[has_come], weights=found.weights) == pytest.approx(loss.mean(), abs=0.015)
    assert found.weights.mean() == pytest.approx(1.0)
    assert "later" in found.reason


def test_labels_that_come_alike_are_not_weighted() -> None:
    alike = curves((2.0, 2.0), rows=200_000)
    found = class_weights(alike, np.full(100, 30 * DAY), np.arange(100) % 2)
    assert found.weights is None
    assert "alike" in found.reason


@pytest.mark.parametrize(
    ("known", "ages", "reason"),
    [
        (None, 3 * DAY, "no delays"),
        (curves((1.0,)), 3 * DAY, "no classes"),
        (curves(rows=MIN_LABELS // 40), 3 * DAY, "are needed"),
        (curves(), 0.2 * DAY, "have come"),
    ],
)
def test_nothing_is_weighted_where_that_would_be_guessing(known: DelayCurves | None, ages: float, reason: str) -> None:
    found = class_weights(known, np.full(40, ages), np.arange(40) % 2)
    assert found.weights is None
    assert reason in found.reason


def test_weights_sum_up_to_as_many_rows_as_carry_the_same_information() -> None:
    assert effective(np.ones(7)).sum() == 7.0
    assert effective(np.array([1.0, 1.0, 2.0])).sum() == pytest.approx(16.0 / 6.0)


def labels(delay_days: float, coverage: float = 0.5) -> LabelsConfig:
    return LabelsConfig(delay=timedelta(days=delay_days), min_coverage=coverage)


def test_description_names_delays_by_class_and_a_delay_that_is_too_short() -> None:
    shown = describe_curves(curves(), ("no", "yes"), labels(1.0))
    assert set(shown["delays_s"]) == {"all", "no", "yes"}
    assert shown["delays_s"]["yes"]["0.5"] == pytest.approx(4.0 * np.log(2.0) * DAY, rel=0.1)
    assert "monitoring.labels.delay" in shown["advice"]
    assert "90% have after" in shown["advice"]
    ages = [point["age_s"] for point in shown["curve"]]
    assert ages == sorted(ages)
    assert shown["curve"][-1]["arrived"]["all"] == 1.0


def test_description_says_that_decay_cannot_be_judged_on_few_labels() -> None:
    sparse = curves(never=3000)
    assert "decay cannot be judged" in describe_curves(sparse, ("no", "yes"), labels(20.0))["advice"]
    assert describe_curves(sparse, ("no", "yes"), labels(20.0, coverage=0.2))["advice"] == ""
    assert describe_curves(None, (), labels(1.0))["advice"] == "no label has come yet"
