from dataclasses import replace

import numpy as np
import pytest

from ray_mlops.evaluation.evidence import (
    PARITY_BATCH_SIZES,
    ParityReport,
    ServedAnswers,
    judge_parity,
    judge_replay,
    summarise_load,
)

VALUES = np.linspace(0.01, 0.99, 90)
NUMERIC = np.arange(180, dtype=np.float32).reshape(90, 2) / 7
CATEGORICAL = np.arange(90, dtype=np.int64).reshape(90, 1)
EXPECTED = ServedAnswers(64, VALUES, NUMERIC, CATEGORICAL)
NAMES = {"numeric_names": ["temp", "wind"], "categorical_names": ["carrier"]}


def judge(*changed: ServedAnswers) -> ParityReport:
    answers = {size: replace(EXPECTED, batch_size=size) for size in PARITY_BATCH_SIZES}
    answers.update({answer.batch_size: answer for answer in changed})
    return judge_parity("binary", EXPECTED, list(answers.values()), atol=1e-5, **NAMES)


def test_equal_answers_pass() -> None:
    report = judge()
    assert report.passed
    assert report.problem == ""
    assert [batch.batch_size for batch in report.batches] == [1, 2, 7, 64]
    assert report.max_abs_difference == 0.0


def test_rounding_at_another_batch_shape_passes_but_not_at_the_same() -> None:
    moved = VALUES + 1e-7
    assert judge(replace(EXPECTED, batch_size=7, values=moved)).passed
    report = judge(replace(EXPECTED, values=moved))
    assert not report.passed
    assert "batch size 64" in report.problem
    assert "recorded with" in report.problem


def test_difference_above_the_tolerance_fails_and_names_the_row() -> None:
    moved = VALUES.copy()
    moved[17] += 1e-4
    report = judge(replace(EXPECTED, batch_size=2, values=moved))
    assert not report.passed
    assert "row 17" in report.problem
    assert report.max_abs_difference == pytest.approx(1e-4)


def test_one_feature_bit_fails_and_names_the_column() -> None:
    changed = NUMERIC.copy()
    changed[5, 1] = np.nextafter(changed[5, 1], np.float32(100))
    report = judge(replace(EXPECTED, batch_size=1, numeric=changed))
    assert not report.passed
    assert "feature 'wind' differs in 1 rows, first in row 5" in report.problem


def test_feature_computed_in_double_precision_fails() -> None:
    report = judge(replace(EXPECTED, numeric=np.arange(180, dtype=np.float64).reshape(90, 2) / 7))
    assert "feature 'wind' differs in 77 rows, first in row 0" in report.problem


def test_swapped_category_order_fails() -> None:
    report = judge(replace(EXPECTED, categorical=CATEGORICAL[::-1]))
    assert "feature 'carrier' differs in 90 rows" in report.problem


def test_missing_features_equal_missing_features_but_a_default_does_not() -> None:
    with_gap = NUMERIC.copy()
    with_gap[0, 0] = np.nan
    expected = replace(EXPECTED, numeric=with_gap)
    other_bits = replace(expected, numeric=np.where(np.isnan(with_gap), np.float32(-np.nan), with_gap))
    assert np.signbit(other_bits.numeric[0, 0]) != np.signbit(with_gap[0, 0])
    assert judge_parity("binary", expected, [other_bits], atol=1e-5).passed
    filled = replace(expected, numeric=np.nan_to_num(with_gap))
    assert not judge_parity("binary", expected, [filled], atol=1e-5).passed


def test_features_that_were_not_returned_fail() -> None:
    report = judge(replace(EXPECTED, numeric=None))
    assert not report.passed
    assert "not measured" in report.problem


def test_decision_may_flip_on_the_border_only() -> None:
    values = np.array([0.5 + 1e-6, 0.8])
    features = {"numeric": NUMERIC[:2], "categorical": CATEGORICAL[:2]}
    expected = ServedAnswers(64, values, **features)
    near = ServedAnswers(1, np.array([0.5 - 1e-6, 0.8]), **features)
    assert judge_parity("binary", expected, [near], atol=1e-5).passed
    far = ServedAnswers(1, np.array([0.5 + 1e-6, 0.2]), **features)
    assert not judge_parity("binary", expected, [far], atol=0.25).batches[0].decisions_equal
    assert judge_parity("binary", expected, [far], atol=0.7).batches[0].decisions_equal


def test_multiclass_decisions_are_the_likeliest_class() -> None:
    features = {"numeric": NUMERIC[:1], "categorical": CATEGORICAL[:1]}
    expected = ServedAnswers(64, np.array([[0.5, 0.3, 0.2]]), **features)
    got = ServedAnswers(1, np.array([[0.3, 0.5, 0.2]]), **features)
    assert not judge_parity("multiclass", expected, [got], atol=0.05).batches[0].decisions_equal


@pytest.mark.parametrize("values", [VALUES[:-1], np.full(90, np.nan)])
def test_wrong_number_of_answers_and_nan_fail(values: np.ndarray) -> None:
    report = judge(replace(EXPECTED, values=values))
    assert not report.passed
    assert not report.max_abs_difference <= 1.0


def test_nothing_compared_is_no_pass() -> None:
    assert not judge_parity("binary", EXPECTED, [], atol=1e-5).passed
    empty = ServedAnswers(64, np.empty(0), np.empty((0, 2)), np.empty((0, 1)))
    assert not judge_parity("binary", empty, [empty], atol=1e-5).passed


def test_load_summary_counts_failures_and_takes_upper_quantiles() -> None:
    load = summarise_load(list(range(1, 101)), failures=2, memory_mb=10.0, start_s=1.0)
    assert (load.requests, load.failures, load.p50_ms, load.p99_ms) == (102, 2, 51.0, 100.0)
    assert np.isnan(summarise_load([], failures=3, memory_mb=1.0, start_s=1.0).p99_ms)


def test_replay_counts_invalid_rows_and_changed_decisions() -> None:
    report = judge_replay("binary", np.array([0.2, np.nan, 0.9, 1.5]), np.array([0.3, 0.5, 0.4, 0.9]))
    assert (report.rows, report.invalid, report.changed_decisions) == (4, 2, 1)
    assert report.max_abs_difference == pytest.approx(0.5)
    assert judge_replay("binary", np.empty(0), np.empty(0)).rows == 0
    assert judge_replay("regression", np.array([1.0]), np.array([2.0])).changed_decisions == 0
