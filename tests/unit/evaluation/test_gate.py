import math
from dataclasses import replace

import numpy as np
import pytest

from ray_mlops.config import GateConfig
from ray_mlops.evaluation import EvaluationReport, GateCheck, decide_gate
from ray_mlops.evaluation.compare import SliceDifference
from ray_mlops.evaluation.evidence import ParityReport, ReplayReport
from ray_mlops.evaluation.fairness import FairnessGap
from ray_mlops.evaluation.intervals import Interval


def checks(report: EvaluationReport, config: GateConfig | None = None, champion: EvaluationReport | None = None):
    decision = decide_gate(report, champion, config or GateConfig())
    return {check.name: check for check in decision.checks}


def failed(report: EvaluationReport, config: GateConfig | None = None) -> list[str]:
    return [check.name for check in decide_gate(report, None, config or GateConfig()).failures]


def with_difference(report: EvaluationReport, metric: str, interval: Interval) -> EvaluationReport:
    found = replace(report.comparison.metrics[metric], difference=interval)
    metrics = {**report.comparison.metrics, metric: found}
    return replace(report, comparison=replace(report.comparison, metrics=metrics))


def test_good_model_with_all_evidence_passes(report: EvaluationReport) -> None:
    decision = decide_gate(report, None, GateConfig())
    assert decision.failures == ()
    assert decision.passed
    assert decision.reason == f"Passed all {len(decision.checks)} checks."


def test_decision_is_a_pure_function(binary_report: EvaluationReport) -> None:
    assert decide_gate(binary_report, None, GateConfig()) == decide_gate(binary_report, None, GateConfig())


def test_first_model_passes_comparisons_as_first_model(first_report: EvaluationReport) -> None:
    found = checks(first_report)
    for name in ("champion:log_loss", "slices"):
        assert found[name].passed
        assert "first model" in found[name].detail
    assert decide_gate(first_report, None, GateConfig()).passed


def test_first_model_without_replay_passes_but_a_later_one_does_not(
    first_report: EvaluationReport, binary_report: EvaluationReport
) -> None:
    assert checks(replace(first_report, replay=None))["replay"].passed
    assert failed(replace(binary_report, replay=None)) == ["replay"]
    assert failed(replace(binary_report, replay=None), GateConfig(replay_rows=0)) == []
    assert failed(replace(binary_report, replay=ReplayReport(0))) == []


def test_champion_without_comparison_is_not_measured(first_report: EvaluationReport) -> None:
    found = checks(first_report, champion=first_report)
    for name in ("champion:log_loss", "slices"):
        assert not found[name].passed
        assert found[name].detail == "not measured"


def test_comparison_with_another_champion_fails(binary_report: EvaluationReport) -> None:
    champion = replace(binary_report, bundle_hash="champion000")
    assert decide_gate(binary_report, champion, GateConfig()).passed
    other = decide_gate(binary_report, replace(champion, bundle_hash="other"), GateConfig())
    assert [check.name for check in other.failures] == ["champion:identity"]


def test_minimum_and_maximum_hold_the_value_at_the_limit(binary_report: EvaluationReport) -> None:
    auc, loss = binary_report.metrics["auc"].value, binary_report.metrics["log_loss"].value
    assert failed(binary_report, GateConfig(minimum={"auc": auc}, maximum={"log_loss": loss})) == []
    strict = GateConfig(minimum={"auc": np.nextafter(auc, 1)}, maximum={"log_loss": np.nextafter(loss, 0)})
    assert failed(binary_report, strict) == ["minimum:auc", "maximum:log_loss"]


def test_limits_on_unknown_or_turned_around_metrics_fail(binary_report: EvaluationReport) -> None:
    found = checks(binary_report, GateConfig(minimum={"rmse": 0.0, "log_loss": 0.0}, maximum={"auc": 1.0}))
    assert found["minimum:rmse"].detail.startswith("binary models have: auc")
    assert found["minimum:log_loss"].detail == "less log_loss is better: write it under gate.maximum"
    assert found["maximum:auc"].detail == "more auc is better: write it under gate.minimum"
    assert not any(found[name].passed for name in ("minimum:rmse", "minimum:log_loss", "maximum:auc"))


def test_not_shown_to_beat_the_baseline_fails(binary_report: EvaluationReport) -> None:
    for high, verdict in ((-1e-9, True), (0.0, False), (0.1, False), (math.nan, False)):
        difference = {"log_loss": Interval(-0.1, -0.2, high)}
        report = replace(binary_report, baseline=replace(binary_report.baseline, difference=difference))
        assert checks(report)["baseline:log_loss"].passed == verdict


@pytest.mark.parametrize(
    ("metric", "interval", "verdict"),
    [
        ("log_loss", Interval(0.0, -0.02, 0.01), True),
        ("log_loss", Interval(0.0, -0.02, 0.0101), False),
        ("log_loss", Interval(math.nan, math.nan, math.nan), False),
        ("auc", Interval(0.0, -0.01, 0.02), True),
        ("auc", Interval(0.0, -0.0101, 0.02), False),
    ],
)
def test_worse_end_of_the_interval_must_be_within_the_margin(
    binary_report: EvaluationReport, metric: str, interval: Interval, verdict: bool
) -> None:
    report = with_difference(binary_report, metric, interval)
    assert checks(report, GateConfig(margin={metric: 0.01}))[f"champion:{metric}"].passed == verdict


def test_default_margin_of_rmse_is_a_share_of_the_champions(report: EvaluationReport) -> None:
    if report.task != "regression":
        assert checks(report)["champion:log_loss"].limit == 0.01
        return
    champion = report.comparison.metrics["rmse"].champion
    assert checks(report)["champion:rmse"].limit == pytest.approx(0.01 * champion)
    assert checks(report, GateConfig(margin={"rmse": 0.5}))["champion:rmse"].limit == 0.5


def test_margin_of_an_unknown_metric_fails(binary_report: EvaluationReport) -> None:
    assert failed(binary_report, GateConfig(margin={"rmse": 1.0})) == ["champion:rmse"]


def slice_difference(value: float, error: float, rows: int = 500, *, is_judged: bool = True) -> SliceDifference:
    return SliceDifference("origin", "EWR", rows, is_judged, Interval(value, value, value), error, 0.5)


@pytest.mark.parametrize(
    ("value", "error", "is_judged", "verdict"),
    [
        (0.20, 0.01, True, False),
        (0.20, 0.20, True, True),  # not shown: the error is as large as the difference
        (0.04, 0.001, True, True),  # shown to be worse, by less than allowed
        (0.90, 0.01, False, True),  # too few rows to be judged
        (math.nan, math.nan, True, False),
    ],
)
def test_slice_shown_to_be_worse_than_allowed_fails(
    binary_report: EvaluationReport, value: float, error: float, is_judged: bool, verdict: bool
) -> None:
    slices = (slice_difference(value, error, is_judged=is_judged), slice_difference(0.0, 0.01))
    report = replace(binary_report, comparison=replace(binary_report.comparison, slices=slices))
    assert checks(report)["slices"].passed == verdict


def test_failed_slice_is_named(binary_report: EvaluationReport) -> None:
    comparison = replace(binary_report.comparison, slices=(slice_difference(0.2, 0.01),))
    found = checks(replace(binary_report, comparison=comparison))["slices"]
    assert found.detail.startswith("origin = EWR is worse than allowed")
    assert (found.value, found.limit) == (0.2, 0.05)


def test_fairness_gap_is_held_to_its_limit(binary_report: EvaluationReport) -> None:
    [judged] = [gap for gap in binary_report.fairness if gap.limit is not None]
    name = f"fairness:origin:{judged.measure}"
    assert checks(binary_report)[name].passed
    tight = replace(judged, limit=judged.gap.value / 2)
    assert failed(replace(binary_report, fairness=(tight,))) == [name]


def test_fairness_that_could_not_be_measured_fails(binary_report: EvaluationReport) -> None:
    nothing = Interval(math.nan, math.nan, math.nan)
    gap = FairnessGap("origin", "accuracy", nothing, 0.1, problem="too few rows")
    found = checks(replace(binary_report, fairness=(gap,)))["fairness:origin:accuracy"]
    assert not found.passed
    assert found.detail == "not measured: too few rows"
    unlimited = replace(gap, limit=None)
    assert failed(replace(binary_report, fairness=(unlimited,))) == []


def test_missing_parity_and_load_are_not_measured(binary_report: EvaluationReport) -> None:
    found = checks(replace(binary_report, parity=None, load=None))
    missing = [check for check in found.values() if not check.passed]
    assert len(missing) == 7
    assert all(check.detail == "not measured" and math.isnan(check.value) for check in missing)


def test_empty_parity_and_load_are_not_measured(binary_report: EvaluationReport) -> None:
    empty = ParityReport(0, 1e-5, (), False)
    load = replace(binary_report.load, requests=0)
    assert len(failed(replace(binary_report, parity=empty, load=load))) == 7


def parity_with(report: EvaluationReport, **changes: object) -> EvaluationReport:
    first, *rest = report.parity.batches
    return replace(report, parity=replace(report.parity, batches=(replace(first, **changes), *rest)))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"features_equal": False}, "parity:features"),
        ({"max_abs_difference": 2e-5}, "parity:predictions"),
        ({"max_abs_difference": math.nan}, "parity:predictions"),
        ({"predictions_equal": False, "must_be_equal": True}, "parity:predictions"),
        ({"decisions_equal": False}, "parity:decisions"),
        ({"batch_size": 3}, "parity:batch_sizes"),
    ],
)
def test_each_parity_fault_fails_its_own_check(binary_report: EvaluationReport, changes: dict, name: str) -> None:
    assert failed(parity_with(binary_report, **changes)) == [name]


def test_rounding_at_another_batch_shape_passes(binary_report: EvaluationReport) -> None:
    assert failed(parity_with(binary_report, predictions_equal=False, max_abs_difference=1e-7)) == []


def test_gate_holds_parity_to_the_configs_tolerance(binary_report: EvaluationReport) -> None:
    report = parity_with(binary_report, predictions_equal=False, max_abs_difference=1e-7)
    assert failed(report, GateConfig(parity={"atol": 1e-8})) == ["parity:predictions"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"failures": 1}, "load:failures"),
        ({"p99_ms": 250.1}, "load:p99_ms"),
        ({"p99_ms": math.nan}, "load:p99_ms"),
        ({"memory_mb": 5000.0}, "load:memory_mb"),
        ({"start_s": 121.0}, "load:start_s"),
    ],
)
def test_each_load_budget_fails_its_own_check(binary_report: EvaluationReport, changes: dict, name: str) -> None:
    assert failed(replace(binary_report, load=replace(binary_report.load, **changes))) == [name]


def test_one_invalid_replayed_row_fails(binary_report: EvaluationReport) -> None:
    assert failed(replace(binary_report, replay=ReplayReport(500, 1))) == ["replay"]


def test_reason_names_the_first_failures(binary_report: EvaluationReport) -> None:
    report = replace(binary_report, parity=None, load=replace(binary_report.load, p99_ms=300.0))
    decision = decide_gate(report, None, GateConfig())
    assert decision.reason.startswith("Refused: 4 of ")
    assert "parity:features (not measured)" in decision.reason
    assert decision.reason.endswith(" and 1 more.")
    assert not decision.passed
    slow = decide_gate(replace(binary_report, load=report.load), None, GateConfig())
    assert "load:p99_ms (300, limit 250)" in slow.reason


def test_no_check_passes_on_nan(binary_report: EvaluationReport) -> None:
    nothing = Interval(math.nan, math.nan, math.nan)
    metrics = dict.fromkeys(binary_report.metrics, nothing)
    config = GateConfig(minimum={"auc": 0.0}, maximum={"log_loss": 9.0})
    expected = ["minimum:auc", "maximum:log_loss", "holdout:classes"]
    assert failed(replace(binary_report, metrics=metrics), config) == expected


def test_approval_is_asked_for(binary_report: EvaluationReport) -> None:
    decision = decide_gate(binary_report, None, GateConfig(require_approval=True))
    assert decision.passed
    assert decision.needs_approval
    assert decision.reason.endswith("; a person must approve it.")


def test_every_check_is_listed_when_it_passes(binary_report: EvaluationReport) -> None:
    names = list(checks(binary_report, GateConfig(minimum={"auc": 0.5}, maximum={"brier": 0.5})))
    assert names == [
        "minimum:auc",
        "maximum:brier",
        "holdout:classes",
        "baseline:log_loss",
        "champion:log_loss",
        "slices",
        "fairness:origin:true_positive_rate",
        "parity:features",
        "parity:predictions",
        "parity:decisions",
        "load:failures",
        "load:p99_ms",
        "load:memory_mb",
        "load:start_s",
        "replay",
    ]
    assert all(isinstance(check, GateCheck) and check.detail for check in checks(binary_report).values())


def test_holdout_of_one_class_never_passes(binary_report: EvaluationReport) -> None:
    assert checks(binary_report)["holdout:classes"].passed
    undefined = replace(binary_report.metrics["auc"], value=math.nan)
    report = replace(binary_report, metrics={**binary_report.metrics, "auc": undefined})
    assert failed(report) == ["holdout:classes"]
