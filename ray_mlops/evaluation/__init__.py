"""Judgement: metrics with intervals, slices, fairness, comparison with the champion, the gate, the report."""

from ray_mlops.evaluation.evaluator import evaluate
from ray_mlops.evaluation.evidence import (
    PARITY_BATCH_SIZES,
    LoadReport,
    ParityReport,
    ReplayReport,
    ServedAnswers,
    judge_parity,
    judge_replay,
    summarise_load,
)
from ray_mlops.evaluation.gate import GateCheck, GateDecision, decide_gate
from ray_mlops.evaluation.html import render_report
from ray_mlops.evaluation.metrics import METRIC_DIRECTION, METRICS, PRIMARY_METRIC, compute_metrics
from ray_mlops.evaluation.report import EvaluationReport

__all__ = [
    "METRICS",
    "METRIC_DIRECTION",
    "PARITY_BATCH_SIZES",
    "PRIMARY_METRIC",
    "EvaluationReport",
    "GateCheck",
    "GateDecision",
    "LoadReport",
    "ParityReport",
    "ReplayReport",
    "ServedAnswers",
    "compute_metrics",
    "decide_gate",
    "evaluate",
    "judge_parity",
    "judge_replay",
    "render_report",
    "summarise_load",
]
