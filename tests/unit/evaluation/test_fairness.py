import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import EvaluationConfig, FairnessConfig
from ray_mlops.evaluation.fairness import report_fairness
from ray_mlops.evaluation.rows import score_rows
from ray_mlops.evaluation.slices import slice_table


def config(max_gap: dict[str, float] | None = None, min_support: int = 20) -> EvaluationConfig:
    fairness = FairnessConfig(groups=["g"], max_gap=max_gap or {}, min_support=min_support)
    return EvaluationConfig(bootstrap_samples=100, fairness=fairness)


def cuts(groups: list[str]) -> list:
    return slice_table(pa.table({"g": groups}), ["g"], 10, "")


GROUPS = ["a"] * 100 + ["b"] * 100
CHOSEN = np.concatenate([np.repeat([0.9, 0.1], [60, 40]), np.repeat([0.9, 0.1], [30, 70])])
TARGET = np.concatenate([np.repeat([1.0, 0.0, 1.0, 0.0], [40, 20, 10, 30]), np.repeat([1.0, 0.0, 1.0], [25, 5, 70])])


def test_binary_gaps_equal_those_counted_by_hand() -> None:
    rows = score_rows("binary", CHOSEN, TARGET)
    gaps = {gap.measure: gap for gap in report_fairness(cuts(GROUPS), rows, config(min_support=5))}
    assert gaps["selection_rate"].gap.value == pytest.approx(0.6 - 0.3)
    assert gaps["true_positive_rate"].gap.value == pytest.approx(40 / 50 - 25 / 95)
    assert gaps["false_positive_rate"].gap.value == pytest.approx(5 / 5 - 20 / 50)
    assert [group.support for group in gaps["true_positive_rate"].groups] == [50, 95]
    gap = gaps["selection_rate"].gap
    assert gap.low < 0.3 < gap.high


def test_support_counts_the_rows_that_a_measure_is_about() -> None:
    rows = score_rows("binary", CHOSEN, TARGET)
    gaps = {gap.measure: gap for gap in report_fairness(cuts(GROUPS), rows, config({"false_positive_rate": 0.1}))}
    found = gaps["false_positive_rate"]  # group b has only five negative rows
    assert np.isnan(found.gap.value)
    assert found.problem == "fewer than two groups have 20 rows that it is about"
    assert found.limit == 0.1
    assert gaps["selection_rate"].problem == ""


def test_mean_error_keeps_its_sign_and_multiclass_has_accuracy() -> None:
    error = np.repeat([2.0, -1.0], 100)
    rows = score_rows("regression", error, np.zeros(200))
    [gap] = report_fairness(cuts(GROUPS), rows, config())
    assert (gap.measure, gap.gap.value) == ("mean_error", 3.0)
    values = np.tile([0.8, 0.2], (200, 1))
    [gap] = report_fairness(cuts(GROUPS), score_rows("multiclass", values, np.repeat([0.0, 1.0], 100)), config())
    assert (gap.measure, gap.gap.value) == ("accuracy", 1.0)


def test_weights_count() -> None:
    weight = np.where(np.arange(200) < 30, 0.0, 1.0)  # half of group a's chosen rows do not count
    rows = score_rows("binary", CHOSEN, TARGET, weight)
    gaps = {gap.measure: gap for gap in report_fairness(cuts(GROUPS), rows, config())}
    assert gaps["selection_rate"].gap.value == pytest.approx(30 / 70 - 0.3)


def test_limit_that_cannot_be_measured_is_reported_not_forgotten() -> None:
    rows = score_rows("regression", np.zeros(200), np.zeros(200))
    gaps = report_fairness(cuts(GROUPS), rows, config({"selection_rate": 0.1}))
    assert gaps[-1].problem == "regression models have: mean_error"
    gaps = report_fairness([], rows, config({"mean_error": 0.1}))
    assert gaps[-1].problem == "evaluation.fairness.groups is empty"
