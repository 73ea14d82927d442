"""Estimates without labels: against scikit-learn, against what labels show, and their sums."""

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from ray_mlops.statistics.bins import CategoricalBins, NumericBins
from ray_mlops.statistics.boosting import BoostedTrees
from ray_mlops.statistics.calibration import CalibrationMap
from ray_mlops.statistics.estimator_fit import fit_classification, fit_regression
from ray_mlops.statistics.estimators import estimator_from_json
from ray_mlops.statistics.expected import Expected, binned_auc
from ray_mlops.statistics.losses import bounded_loss, log_loss_rows


def binary(seed, n, shift=0.0):
    """Scores that are too sure of themselves, and labels."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(shift, 1.5, n)
    chance = 1.0 / (1.0 + np.exp(-logit))
    score = 1.0 / (1.0 + np.exp(-(1.7 * logit + 0.3)))
    return score, (generator.random(n) < chance).astype(float)


def fitted(n=20_000):
    score, label = binary(0, n)
    return fit_classification("binary", score, label, np.arange(n) // 1000, tuple(range(n // 1000)))


def several(seed, n):
    generator = np.random.default_rng(seed)
    truth = generator.dirichlet([1.0, 1.0, 1.0], n)
    shown = truth**1.5 / (truth**1.5).sum(axis=1, keepdims=True)
    return shown, (generator.random(n)[:, None] > truth.cumsum(axis=1)).sum(axis=1).astype(float)


def priced(seed, n, far=0.0):
    """A prediction whose error depends on two columns together, and one of them drifts."""
    generator = np.random.default_rng(seed)
    x, kind = generator.normal(far, 1.0, n), generator.choice(["a", "b"], n)
    prediction = 10.0 + 2.0 * x
    spread = np.where(kind == "a", 0.5 + np.abs(x), 1.0)
    return {"x": x, "kind": kind}, prediction, prediction + generator.normal(0.0, 1.0, n) * spread


def fitted_errors(n=20_000):
    columns, prediction, target = priced(0, n)
    bins = {"x": NumericBins.from_sample(columns["x"]), "kind": CategoricalBins.from_sample(columns["kind"])}
    return fit_regression(columns, bins, prediction, target, 4.0, np.arange(n) // 1000, tuple(range(n // 1000)))


@pytest.mark.parametrize("decimals", [2, 8])
def test_calibration_is_scikit_learns_isotonic_regression(decimals):
    score, label = binary(1, 3000)
    score = score.round(decimals)
    theirs = IsotonicRegression(out_of_bounds="clip", increasing=True).fit(score, label)
    ours = CalibrationMap.fit(score, label)
    points = np.concatenate(([-1.0, 2.0], np.random.default_rng(2).random(500)))
    assert ours.of(points) == pytest.approx(theirs.predict(points), abs=1e-7)
    again = CalibrationMap.from_json(json.loads(json.dumps(ours.to_json())))
    assert again.of(points).tolist() == ours.of(points).tolist()


def test_calibration_of_one_class_or_one_score_is_constant():
    assert CalibrationMap.fit([0.2, 0.9], [1.0, 1.0]).of([0.0, 1.0]).tolist() == [1.0, 1.0]
    assert CalibrationMap.fit([0.5, 0.5], [0.0, 1.0]).of([0.1]).tolist() == [0.5]


def test_calibration_map_that_does_not_rise_is_refused():
    with pytest.raises(ValueError, match="rising"):
        CalibrationMap.from_json({"points": [1.0, 0.0], "values": [0.0, 1.0]})


@pytest.mark.parametrize("shift", [0.0, -1.0, 1.0])
def test_binary_estimates_are_what_labels_show_though_rows_drift(shift):
    estimator = fitted(60_000)
    score, label = binary(5, 60_000, shift)
    found = {name: band.value for name, band in estimator.expect(score).metrics().items()}
    realised = {
        "log_loss": log_loss_rows(score, label, 1e-7).mean(),
        "brier": ((score - label) ** 2).mean(),
        "bounded_loss": ((score - label) ** 2).mean(),
        "accuracy": ((score >= 0.5) == label).mean(),
        "auc": roc_auc_score(label, score),
    }
    assert found == pytest.approx(realised, abs=0.02)


def test_interval_holds_the_realised_metric_as_often_as_it_says():
    estimator, hits, n = fitted(20_000), {}, 200
    for seed in range(n):
        score, label = binary(100 + seed, 400)
        shown = estimator.expect(score).metrics(0.9)
        realised = {
            "log_loss": log_loss_rows(score, label, 1e-7).mean(),
            "brier": ((score - label) ** 2).mean(),
            "accuracy": ((score >= 0.5) == label).mean(),
            "auc": roc_auc_score(label, score),
        }
        for name, value in realised.items():
            hits[name] = hits.get(name, 0) + (shown[name].lower <= value <= shown[name].upper)
    for name, count in hits.items():
        assert 0.82 * n <= count <= 0.97 * n, (name, count)


def test_binned_area_is_scikit_learns_where_scores_have_cells_of_their_own():
    generator = np.random.default_rng(0)
    place, label = generator.integers(0, 50, 2000), generator.integers(0, 2, 2000).astype(float)
    cells = np.array([np.bincount(place, w, minlength=50) for w in (np.ones(2000), label, np.zeros(2000))])
    assert binned_auc(cells)[0] == pytest.approx(roc_auc_score(label, place), abs=1e-12)
    assert binned_auc(np.array([[3.0], [3.0], [0.0]])) is None


def test_cells_cost_the_area_almost_nothing():
    estimator = fitted()
    score, _ = binary(9, 5000)
    chance = estimator.calibrated(score)[:, 1]
    order = np.argsort(-score)
    p, q = chance[order], 1.0 - chance[order]
    exact = (p * (q.sum() - np.cumsum(q) + q / 2.0)).sum() / (p.sum() * q.sum())
    assert estimator.expect(score).metrics()["auc"].value == pytest.approx(exact, abs=1e-4)


def test_multiclass_estimates_are_what_labels_show():
    shown, target = several(0, 20_000)
    estimator = fit_classification("multiclass", shown, target, np.zeros(20_000, int), (0,))
    later, truth = several(1, 20_000)
    found = {name: band.value for name, band in estimator.expect(later).metrics().items()}
    assert found == pytest.approx(
        {
            "log_loss": log_loss_rows(later, truth, 1e-7).mean(),
            "bounded_loss": bounded_loss("multiclass", later, truth).mean(),
            "accuracy": (later.argmax(axis=1) == truth).mean(),
        },
        abs=0.015,
    )


def test_regression_estimates_follow_a_drift_of_columns_that_act_together():
    estimator = fitted_errors()
    columns, prediction, target = priced(3, 20_000, far=1.0)
    found = estimator.expect({**columns, "prediction": prediction}).metrics()
    error = np.abs(prediction - target)
    assert found["mae"].value == pytest.approx(error.mean(), rel=0.06)
    assert found["rmse"].value == pytest.approx(np.sqrt((error**2).mean()), rel=0.1)
    assert found["mae"].value > 1.1 * np.abs(np.subtract(*priced(0, 20_000)[1:])).mean()
    assert found["mae"].lower < found["mae"].value < found["mae"].upper


def test_gaps_of_the_reference_windows_average_to_nothing():
    for estimator in (fitted(), fitted_errors()):
        gaps = list(estimator.windows.values())
        total = sum(gaps[1:], gaps[0])
        assert len(gaps) == 20
        assert abs(total.excess.total / total.excess.n) < 0.005
        assert total.bins[0].sum() == total.excess.n == 20_000
        assert total.bins[1].sum() == pytest.approx(total.bins[2].sum(), rel=0.02)


@pytest.mark.parametrize("make", [fitted, fitted_errors])
def test_estimator_survives_json_to_the_bit(make):
    estimator = make(2000)
    again = estimator_from_json(json.loads(json.dumps(estimator.to_json(), allow_nan=False)))
    assert again == estimator
    rows = binary(4, 50)[0] if make is fitted else {**priced(4, 50)[0], "prediction": priced(4, 50)[1]}
    assert again.expect(rows).to_json() == estimator.expect(rows).to_json()
    with pytest.raises(ValueError, match="unknown kind"):
        estimator_from_json({**estimator.to_json(), "kind": "oracle"})


def test_sums_of_parts_are_the_sum_of_the_whole_in_any_order():
    estimator = fitted(2000)
    score, _ = binary(7, 90)
    parts = [estimator.expect(part) for part in np.split(score, 3)]
    whole = estimator.expect(score).metrics()
    for order in ([0, 1, 2], [2, 0, 1]):
        total = Expected()
        for k in order:
            total = total + parts[k]
        found = total.metrics()
        assert {name: tuple(band) for name, band in found.items()} == {
            name: pytest.approx(tuple(band)) for name, band in whole.items()
        }
        assert total.settled().metrics()["auc"] == pytest.approx(found["auc"])


def test_scores_outside_those_of_the_fit_are_counted():
    estimator = fitted(2000)
    assert estimator.expect(np.array([0.5, 1.0, 0.0, 0.5])).outside == 2.0
    errors = fitted_errors(2000)
    inside = {"x": [0.0], "kind": ["a"], "prediction": [10.0]}
    far = {"x": [99.0], "kind": ["z"], "prediction": [999.0]}
    assert errors.expect(inside).outside == 0.0
    assert errors.expect(far).outside == pytest.approx(1.0)


def test_too_few_rows_make_no_estimator():
    score, label = binary(0, 49)
    assert fit_classification("binary", score, label, np.zeros(49, int), (0,)) is None
    columns, prediction, target = priced(0, 49)
    assert fit_regression(columns, {}, prediction, target, 1.0, np.zeros(49, int), (0,)) is None


def test_predictions_that_are_not_finite_are_left_out_of_the_fit():
    score, label = binary(0, 200)
    score[:100] = np.nan
    assert fit_classification("binary", score, label, np.zeros(200, int), (0,)).fitted_rows == 100


def test_trees_that_do_not_fit_their_columns_are_refused():
    content = fitted_errors(500).errors.to_json()
    content["trees"][0][0][0] = 99
    with pytest.raises(ValueError, match="do not fit"):
        BoostedTrees.from_json(content)


def test_a_column_that_is_missing_counts_as_nulls():
    errors = fitted_errors(2000)
    _, prediction, _ = priced(1, 30)
    nulls = {"x": np.full(30, np.nan), "kind": [None] * 30, "prediction": prediction}
    assert errors.expect({"prediction": prediction}).to_json() == errors.expect(nulls).to_json()
