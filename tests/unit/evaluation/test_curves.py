import numpy as np
import pytest
import sklearn.metrics as oracle

from ray_mlops.evaluation.curves import (
    CURVE_POINTS,
    calibration_bins,
    count_confusions,
    ranking_curves,
    score_histogram,
)
from ray_mlops.evaluation.rows import score_rows


@pytest.fixture
def rows():
    generator = np.random.default_rng(0)
    values = generator.random(3000)
    return score_rows("binary", values, generator.random(3000) < values)


def test_thinned_roc_curve_keeps_its_area_and_ends(rows) -> None:
    roc, precision_recall = ranking_curves(rows)
    assert len(roc.x) <= CURVE_POINTS
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0.0, 0.0, 1.0, 1.0)
    area = np.trapezoid(roc.y, roc.x)
    assert area == pytest.approx(oracle.roc_auc_score(rows.target, rows.values), abs=2e-3)
    assert precision_recall.x[-1] == 1.0
    assert precision_recall.y[-1] == pytest.approx(rows.target.mean())


def test_single_class_has_no_curves(rows) -> None:
    assert ranking_curves(score_rows("binary", [0.1, 0.2], [1.0, 1.0])) == ()


def test_calibration_bins_hold_the_truth_of_a_calibrated_model() -> None:
    held = 0
    for seed in range(20):
        generator = np.random.default_rng(seed)
        values = generator.random(1000)
        bins = calibration_bins(score_rows("binary", values, generator.random(1000) < values), 0.95)
        assert (len(bins), sum(item.rows for item in bins)) == (10, 1000)
        held += sum(item.low <= item.predicted <= item.high for item in bins)
    assert 0.91 <= held / 200 <= 0.99


def test_calibration_of_constant_and_empty_predictions() -> None:
    [only] = calibration_bins(score_rows("binary", [0.3] * 10, [1.0] * 3 + [0.0] * 7), 0.95)
    assert (only.rows, only.predicted, only.observed) == (10, pytest.approx(0.3), pytest.approx(0.3))
    assert calibration_bins(score_rows("binary", [], []), 0.95) == ()


def test_confusion_equals_sklearn(rows) -> None:
    found = count_confusions(rows, ("no", "yes"))
    assert found is not None
    assert found.labels == ("no", "yes")
    assert np.array(found.counts).tolist() == oracle.confusion_matrix(rows.target, rows.values >= 0.5).tolist()


def test_confusion_uses_the_threshold_and_gives_up_on_many_classes() -> None:
    low = score_rows("binary", [0.3, 0.3], [1.0, 0.0], threshold=0.2)
    found = count_confusions(low, ("no", "yes"))
    assert found is not None
    assert found.counts == ((0, 1), (0, 1))
    many = score_rows("multiclass", np.full((2, 40), 1 / 40), [0.0, 1.0])
    assert count_confusions(many, tuple(map(str, range(40)))) is None


def test_histograms_count_every_row(rows) -> None:
    found = score_histogram(rows, ("no", "yes"))
    assert found is not None
    assert sum(found.series["yes"]) == rows.target.sum()
    assert sum(map(sum, found.series.values())) == 3000
    residuals = score_histogram(score_rows("regression", [0.0] * 99 + [1e6], np.zeros(100)), ())
    assert residuals is not None
    assert sum(residuals.series["residual"]) == 100
    constant = score_histogram(score_rows("regression", [1.0, 1.0], [1.0, 1.0]), ())
    assert constant is not None
    assert sum(constant.series["residual"]) == 2
