"""Synthetic holdouts of each task, evaluated once."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from ray_mlops.config import EvaluationConfig, FairnessConfig
from ray_mlops.config.data import Task
from ray_mlops.evaluation import PARITY_BATCH_SIZES, EvaluationReport, ServedAnswers, evaluate, judge_parity
from ray_mlops.evaluation.evidence import LoadReport, ReplayReport
from ray_mlops.training.prediction import Prediction

MEASURE: dict[Task, str] = {
    "binary": "true_positive_rate",
    "multiclass": "accuracy",
    "regression": "mean_error",
}


@dataclass(frozen=True)
class Holdout:
    """Rows with truths, a good model's predictions and a poorer champion's."""

    table: pa.Table
    target: np.ndarray
    good: Prediction
    poor: Prediction


def make_holdout(task: Task, rows: int = 1500, seed: int = 0) -> Holdout:
    generator = np.random.default_rng(seed)
    signal = generator.normal(size=rows)
    table = pa.table(
        {
            "origin": generator.choice(["EWR", "JFK", "LGA"], rows),
            "distance": np.where(generator.random(rows) < 0.1, np.nan, generator.gamma(2.0, 400.0, rows)),
        }
    )
    if task == "regression":
        target = 10 * signal + generator.normal(0, 3, rows)
        return Holdout(table, target, Prediction(task, 10 * signal), Prediction(task, 7 * signal))
    if task == "binary":
        truth = 1 / (1 + np.exp(-1.5 * signal))
        target = (generator.random(rows) < truth).astype(float)
        poor = 1 / (1 + np.exp(-(0.5 * signal + generator.normal(0, 0.5, rows))))
        classes = ("no", "yes")
        return Holdout(table, target, Prediction(task, truth, classes), Prediction(task, poor, classes))
    logits = generator.normal(size=(rows, 3))
    target = (2 * logits + generator.gumbel(size=(rows, 3))).argmax(axis=1).astype(float)
    classes = ("a", "b", "c")
    good, poor = (np.exp(scale * logits) for scale in (2.0, 0.5))
    return Holdout(
        table,
        target,
        Prediction(task, good / good.sum(axis=1, keepdims=True), classes),
        Prediction(task, poor / poor.sum(axis=1, keepdims=True), classes),
    )


def make_config(task: Task, **changes: object) -> EvaluationConfig:
    fairness = FairnessConfig(groups=["origin"], max_gap={MEASURE[task]: 2.0}, min_support=100)
    return EvaluationConfig(bootstrap_samples=80, slices=["origin", "distance"], fairness=fairness, **changes)


def make_report(task: Task, *, with_champion: bool = True) -> EvaluationReport:
    """A report that passes the default gate: a good model against a poorer champion, with all evidence."""
    holdout = make_holdout(task)
    report = evaluate(
        holdout.good,
        holdout.table,
        holdout.target,
        make_config(task),
        model="synthetic",
        bundle_hash="candidate00",
        champion=holdout.poor if with_champion else None,
        champion_hash="champion000" if with_champion else "",
        loss_scale=30.0,
        lineage={"snapshot": "0123456789abcdef"},
    )
    values = holdout.good.values[:100]
    features = np.zeros((100, 2), np.float32), np.zeros((100, 1), np.int64)
    answers = [ServedAnswers(size, values, *features) for size in PARITY_BATCH_SIZES]
    parity = judge_parity(task, answers[-1], answers, atol=1e-5)
    load = LoadReport(100, 0, 5.0, 12.0, 600.0, 8.0)
    return report.with_evidence(parity=parity, load=load, replay=ReplayReport(500, 0, 3, 0.01, 0.2))


@pytest.fixture(scope="session", params=["binary", "multiclass", "regression"])
def report(request: pytest.FixtureRequest) -> EvaluationReport:
    return make_report(request.param)


@pytest.fixture(scope="session")
def binary_report() -> EvaluationReport:
    return make_report("binary")


@pytest.fixture(scope="session")
def first_report() -> EvaluationReport:
    """The same without a champion."""
    return make_report("binary", with_champion=False)
