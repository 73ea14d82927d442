import time

import numpy as np
import pytest
import sklearn.metrics as oracle

from ray_mlops.errors import EvaluationError
from ray_mlops.evaluation.intervals import resample_meters
from ray_mlops.evaluation.metrics import (
    METRIC_DIRECTION,
    METRICS,
    PRIMARY_METRIC,
    build_meter,
    compute_metrics,
    explain_undefined,
)
from ray_mlops.evaluation.rows import find_invalid, score_rows

N = 400


def weights(kind: str) -> np.ndarray | None:
    generator = np.random.default_rng(5)
    return {
        "none": None,
        "real": generator.gamma(1.0, 1.0, N),
        "with_zeros": generator.integers(0, 3, N).astype(float),
    }[kind]


@pytest.mark.parametrize("kind", ["none", "real", "with_zeros"])
@pytest.mark.parametrize("decimals", [1, 15])
def test_binary_metrics_with_ties_and_weights_equal_sklearn(kind: str, decimals: int) -> None:
    generator = np.random.default_rng(1)
    values = generator.random(N).round(decimals)
    target = (generator.random(N) < values).astype(float)
    weight = weights(kind)
    metrics = compute_metrics("binary", values, target, weight)
    given = {"sample_weight": weight}
    expected = {
        "auc": oracle.roc_auc_score(target, values, **given),
        "log_loss": oracle.log_loss(target, values, **given),
        "brier": oracle.brier_score_loss(target, values, **given),
        "accuracy": oracle.accuracy_score(target, values >= 0.5, **given),
        "average_precision": oracle.average_precision_score(target, values, **given),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["none", "real", "with_zeros"])
def test_multiclass_metrics_equal_sklearn(kind: str) -> None:
    generator = np.random.default_rng(2)
    values = generator.dirichlet(np.ones(4), N)
    target = generator.integers(0, 3, N).astype(float)  # class 3 is predicted but never true
    weight = weights(kind)
    metrics = compute_metrics("multiclass", values, target, weight)
    guess, labels = values.argmax(axis=1), [0, 1, 2, 3]
    given = {"sample_weight": weight}
    expected = {
        "log_loss": oracle.log_loss(target, values, labels=labels, **given),
        "accuracy": oracle.accuracy_score(target, guess, **given),
        "macro_f1": oracle.f1_score(target, guess, average="macro", zero_division=0, **given),
        "brier": oracle.brier_score_loss(target, values, labels=labels, scale_by_half=True, **given),
    }
    assert metrics == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["none", "real", "with_zeros"])
def test_regression_metrics_equal_sklearn(kind: str) -> None:
    generator = np.random.default_rng(3)
    target = generator.normal(1e3, 5.0, N)
    values = target + generator.normal(0.5, 2.0, N)
    weight = weights(kind)
    metrics = compute_metrics("regression", values, target, weight)
    given = {"sample_weight": weight}
    expected = {
        "rmse": oracle.root_mean_squared_error(target, values, **given),
        "mae": oracle.mean_absolute_error(target, values, **given),
        "r2": oracle.r2_score(target, values, **given),
        "medae": oracle.median_absolute_error(target, values, **given),
    }
    assert metrics == pytest.approx(expected, rel=1e-9)


def test_certain_and_wrong_probability_has_the_finite_log_loss_of_sklearn() -> None:
    values, target = np.array([0.0, 1.0, 0.3]), np.array([1.0, 0.0, 1.0])
    assert compute_metrics("binary", values, target)["log_loss"] == pytest.approx(oracle.log_loss(target, values))


def test_ece_of_known_bins_is_their_mean_gap() -> None:
    values = np.array([0.05, 0.05, 0.95, 0.95])
    metrics = compute_metrics("binary", values, np.array([0.0, 1.0, 1.0, 1.0]))
    assert metrics["ece"] == pytest.approx((2 * 0.45 + 2 * 0.05) / 4)


def test_measure_with_counts_equals_repeated_rows() -> None:
    generator = np.random.default_rng(4)
    counts = generator.integers(0, 4, N)
    for task, values, target in (
        ("binary", generator.random(N).round(2), generator.integers(0, 2, N)),
        ("multiclass", generator.dirichlet(np.ones(3), N), generator.integers(0, 3, N)),
        ("regression", generator.normal(size=N), generator.normal(size=N)),
    ):
        meter = build_meter(score_rows(task, values, target))
        repeated = compute_metrics(task, np.repeat(values, counts, axis=0), np.repeat(target, counts))
        assert meter.measure(counts.astype(float)) == pytest.approx(list(repeated.values()), abs=1e-12)


def test_single_class_has_no_auc_and_says_why() -> None:
    rows = score_rows("binary", np.array([0.2, 0.6]), np.array([0.0, 0.0]))
    metrics = compute_metrics("binary", rows.values, rows.target)
    assert np.isnan(metrics["auc"])
    assert np.isnan(metrics["average_precision"])
    assert np.isfinite(metrics["log_loss"])
    assert explain_undefined(rows)["auc"] == "all 2 rows have the same class"


def test_constant_target_has_no_r2_and_says_why() -> None:
    rows = score_rows("regression", np.array([1.0, 2.0]), np.array([3.0, 3.0]))
    assert np.isnan(compute_metrics("regression", rows.values, rows.target)["r2"])
    assert set(explain_undefined(rows)) == {"r2"}


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_rows_gives_nan_without_raising(task: str) -> None:
    values = np.empty((0, 3)) if task == "multiclass" else np.empty(0)
    metrics = compute_metrics(task, values, np.empty(0))
    assert tuple(metrics) == METRICS[task]
    assert all(np.isnan(value) for value in metrics.values())
    assert set(explain_undefined(score_rows(task, values, np.empty(0)))) == set(METRICS[task])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_one_invalid_probability_makes_every_metric_undefined(bad: float) -> None:
    rows = score_rows("binary", np.array([0.2, bad, 0.9]), np.array([0.0, 1.0, 1.0]))
    assert np.isnan(build_meter(rows).measure()).all()
    assert "1 rows are not probabilities" in explain_undefined(rows)["auc"]


def test_find_invalid_marks_rows_that_do_not_add_up() -> None:
    values = np.array([[0.5, 0.5], [0.5, 0.6], [np.nan, 1.0], [np.inf, -np.inf]])
    assert find_invalid("multiclass", values).tolist() == [False, True, True, True]


@pytest.mark.parametrize(
    ("task", "values", "target", "weight"),
    [
        ("binary", [0.5, 0.5], [1.0], None),
        ("binary", [0.5], [2.0], None),
        ("binary", [0.5], [np.nan], None),
        ("binary", [0.5], [1.0], [-1.0]),
        ("multiclass", [0.5], [0.0], None),
        ("multiclass", [[0.5, 0.5]], [2.0], None),
        ("regression", [[0.5]], [2.0], None),
    ],
)
def test_arrays_that_do_not_fit_are_refused(task: str, values: list, target: list, weight: list | None) -> None:
    with pytest.raises(EvaluationError):
        score_rows(task, values, target, weight)


def test_every_metric_has_a_direction() -> None:
    named = {name for names in METRICS.values() for name in names}
    assert named == set(METRIC_DIRECTION)
    assert all(PRIMARY_METRIC[task] in METRICS[task] for task in METRICS)


def test_bootstrap_of_fifty_thousand_rows_is_quick() -> None:
    generator = np.random.default_rng(0)
    values = generator.random(50_000)
    rows = score_rows("binary", values, generator.random(50_000) < values)
    start = time.process_time()
    resample_meters(lambda index: [build_meter(rows)], len(rows), 50, seed=0)
    assert time.process_time() - start < 2.0  # 50 of the 500 samples; about 0.1 s on an idle core
