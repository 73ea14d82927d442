from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import EvaluationConfig, FairnessConfig
from ray_mlops.errors import EvaluationError
from ray_mlops.evaluation import METRICS, PRIMARY_METRIC, EvaluationReport, compute_metrics, evaluate
from ray_mlops.evaluation.evaluator import align_classes
from ray_mlops.training.prediction import Prediction

PLAIN = EvaluationConfig(bootstrap_samples=20)


def test_report_of_each_task_is_complete(report: EvaluationReport) -> None:
    assert tuple(report.metrics) == METRICS[report.task]
    assert all(item.low <= item.value <= item.high for item in report.metrics.values())
    assert report.baseline.difference[PRIMARY_METRIC[report.task]].high < 0
    assert {item.column for item in report.slices} == {"origin", "distance"}
    assert any(item.label == "(missing)" for item in report.slices)
    assert report.comparison is not None
    assert report.comparison.loss.high < 0  # the candidate is better
    assert len(report.comparison.slices) == len(report.slices)
    assert report.calibration
    assert report.histogram is not None
    assert (report.confusion is None) == (report.task == "regression")
    assert len(report.curves) == (2 if report.task == "binary" else 0)
    assert report.notes == ()


def test_metrics_equal_compute_metrics_with_the_models_own_threshold() -> None:
    generator = np.random.default_rng(0)
    values = generator.random(200)
    target = (generator.random(200) < values).astype(float)
    table = pa.table({"x": values})
    report = evaluate(Prediction("binary", values, (False, True), 0.3), table, target, PLAIN)
    expected = compute_metrics("binary", values, target, threshold=0.3)
    assert {name: item.value for name, item in report.metrics.items()} == expected
    assert report.confusion is not None
    assert report.confusion.labels == ("False", "True")
    assert sum(row[1] for row in report.confusion.counts) == (values >= 0.3).sum()


def test_champion_decides_by_its_own_threshold() -> None:
    values, target = np.array([0.4, 0.4, 0.1, 0.9]), np.array([1.0, 1.0, 0.0, 1.0])
    table = pa.table({"x": values})
    candidate, champion = (Prediction("binary", values, (0, 1), border) for border in (0.5, 0.3))
    report = evaluate(candidate, table, target, PLAIN, champion=champion)
    found = report.comparison.metrics["accuracy"]
    assert (found.candidate, found.champion) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("task", "values", "baseline", "metric", "expected"),
    [
        ("binary", np.array([0.2, 0.9, 0.4, 0.3]), 0.25, "brier", 0.1875),
        ("regression", np.array([0.0, 1.0, 0.0, 0.0]), 0.25, "rmse", np.sqrt(0.1875)),
        ("multiclass", np.tile([0.5, 0.5], (4, 1)), np.array([0.75, 0.25]), "brier", 0.1875),
    ],
)
def test_baseline_is_the_training_mean_or_else_the_holdouts_own(
    task: str, values: np.ndarray, baseline: object, metric: str, expected: float
) -> None:
    target, table = np.array([0.0, 1.0, 0.0, 0.0]), pa.table({"x": [1, 2, 3, 4]})
    prediction = Prediction(task, values, () if task == "regression" else ("a", "b"))
    for given, kind in ((baseline, "training"), (None, "holdout")):
        report = evaluate(prediction, table, target, PLAIN, baseline=given)
        assert report.baseline.kind == kind
        assert report.baseline.metrics[metric] == pytest.approx(expected)
    far = evaluate(
        prediction, table, target, PLAIN, baseline=np.asarray(baseline)[..., ::-1] if task == "multiclass" else 1.0
    )
    assert far.baseline.metrics[metric] > expected


def test_champion_with_other_classes_is_aligned_by_name() -> None:
    champion = Prediction("multiclass", np.array([[0.5, 0.3, 0.2]]), ("c", "a", "gone"))
    aligned = align_classes(champion, ("a", "b", "c"))
    assert aligned[0] == pytest.approx([0.375, 0.0, 0.625])
    unknown = Prediction("multiclass", np.array([[1.0]]), ("gone",))
    assert align_classes(unknown, ("a", "b"))[0] == pytest.approx([0.5, 0.5])


def test_weights_change_the_metrics() -> None:
    prediction = Prediction("regression", np.array([0.0, 0.0]))
    table = pa.table({"x": [1, 2]})
    report = evaluate(prediction, table, np.array([1.0, 3.0]), PLAIN, weight=np.array([1.0, 0.0]))
    assert report.metrics["mae"].value == 1.0


def test_no_rows_and_one_class_are_explained_not_raised() -> None:
    empty = evaluate(
        Prediction("binary", np.empty(0), ("a", "b")),
        pa.table({"g": pa.array([], pa.string())}),
        np.empty(0),
        EvaluationConfig(bootstrap_samples=5, slices=["g"], fairness=FairnessConfig(groups=["g"])),
    )
    assert np.isnan(empty.metrics["auc"].value)
    assert "auc is undefined: there are no rows." in empty.notes
    single = evaluate(
        Prediction("binary", np.array([0.2, 0.4]), ("a", "b")), pa.table({"g": [1, 2]}), np.zeros(2), PLAIN
    )
    assert single.notes[0] == "auc is undefined: all 2 rows have the same class."


def test_invalid_predictions_leave_a_report_without_metrics() -> None:
    values = np.array([0.2, np.nan, 0.9])
    report = evaluate(
        Prediction("binary", values, ("a", "b")), pa.table({"x": values}), np.array([0.0, 1.0, 1.0]), PLAIN
    )
    assert all(np.isnan(item.value) for item in report.metrics.values())
    assert "1 rows are not probabilities" in report.notes[0]


def test_rows_that_do_not_fit_and_unknown_columns_are_refused() -> None:
    prediction, target = Prediction("regression", np.zeros(2)), np.zeros(2)
    with pytest.raises(EvaluationError, match="3 rows, but 2 targets"):
        evaluate(prediction, pa.table({"x": [1, 2, 3]}), target, PLAIN)
    config = PLAIN.model_copy(update={"fairness": FairnessConfig(groups=["sex"])})
    with pytest.raises(EvaluationError, match=r"evaluation\.fairness\.groups: no column 'sex'"):
        evaluate(prediction, pa.table({"x": [1, 2]}), target, config)


def test_same_seed_gives_the_same_report() -> None:
    generator = np.random.default_rng(0)
    prediction = Prediction("regression", generator.normal(size=100))
    table, target = pa.table({"x": prediction.values}), generator.normal(size=100)
    first, second = (evaluate(prediction, table, target, PLAIN) for _ in range(2))
    assert first == second
    assert first != replace(first, metrics={})
