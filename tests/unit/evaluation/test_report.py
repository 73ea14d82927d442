import json
import math
from dataclasses import fields, is_dataclass, replace

import pytest

from ray_mlops.config import GateConfig
from ray_mlops.errors import EvaluationError
from ray_mlops.evaluation import EvaluationReport, GateDecision, decide_gate
from ray_mlops.evaluation.intervals import Interval
from ray_mlops.evaluation.records import decode_record, encode_record


def test_report_survives_json(report: EvaluationReport) -> None:
    text = json.dumps(report.to_json(), allow_nan=False)
    again = EvaluationReport.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text
    assert type(again.comparison) is type(report.comparison)
    assert type(again.slices[0].loss) is Interval
    assert isinstance(again.parity.batches, tuple)


def test_report_holds_only_plain_values(report: EvaluationReport) -> None:
    def walk(value: object) -> None:
        if is_dataclass(value):
            for field in fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, tuple):
            for item in value:
                walk(item)
        else:
            assert type(value) in (str, int, float, bool, type(None)), value

    walk(report)


def test_undefined_numbers_come_back_as_nan() -> None:
    interval = Interval(math.nan, 0.0, math.inf)
    assert encode_record(interval) == {"value": None, "low": 0.0, "high": None}
    again = decode_record(Interval, encode_record(interval))
    assert math.isnan(again.value)
    assert math.isnan(again.high)


def test_newer_report_is_refused(first_report: EvaluationReport) -> None:
    for version in (2, None, "1"):
        with pytest.raises(EvaluationError, match="schema_version"):
            EvaluationReport.from_json({**first_report.to_json(), "schema_version": version})


@pytest.mark.parametrize(
    "change", [{"surprise": 1}, {"metrics": 3}, {"rows": "9"}, {"rows": True}, {"task": "x"}, {"comparison": [1]}]
)
def test_damaged_report_is_refused(first_report: EvaluationReport, change: dict) -> None:
    with pytest.raises(EvaluationError):
        EvaluationReport.from_json({**first_report.to_json(), **change})


def test_missing_field_is_refused(first_report: EvaluationReport) -> None:
    content = first_report.to_json()
    del content["metrics"]
    with pytest.raises(EvaluationError, match="metrics"):
        EvaluationReport.from_json(content)


def test_with_evidence_keeps_what_was_there(binary_report: EvaluationReport) -> None:
    load = replace(binary_report.load, p99_ms=99.0)
    changed = binary_report.with_evidence(load=load)
    assert changed.load.p99_ms == 99.0
    assert changed.parity == binary_report.parity


def test_decision_survives_json(report: EvaluationReport) -> None:
    decision = decide_gate(report, None, GateConfig(minimum={"nonsense": 1.0}, require_approval=True))
    content = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    again = GateDecision.from_json(content)
    assert again.to_json() == decision.to_json()
    assert again.needs_approval
    assert math.isnan(again.checks[0].value)
    with pytest.raises(EvaluationError):
        GateDecision.from_json({**content, "schema_version": 9})
