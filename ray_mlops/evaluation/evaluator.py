"""Evaluate one candidate on the holdout."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from ray_mlops.config import EvaluationConfig
from ray_mlops.errors import EvaluationError
from ray_mlops.evaluation.compare import compare_models
from ray_mlops.evaluation.curves import calibration_bins, count_confusions, ranking_curves, score_histogram
from ray_mlops.evaluation.fairness import report_fairness
from ray_mlops.evaluation.intervals import MAX_RESAMPLED_ROWS, BuildMeters, Resamples, resample_meters
from ray_mlops.evaluation.metrics import build_meter, explain_undefined
from ray_mlops.evaluation.report import BaselineReport, EvaluationReport
from ray_mlops.evaluation.rows import Floats, ScoredRows, score_rows
from ray_mlops.evaluation.slices import SliceCodes, report_slices, slice_table
from ray_mlops.statistics.losses import bounded_loss
from ray_mlops.training.prediction import Prediction


def evaluate(
    prediction: Prediction,
    table: pa.Table,
    target: Floats,
    config: EvaluationConfig,
    *,
    model: str = "",
    bundle_hash: str = "",
    champion: Prediction | None = None,
    champion_hash: str = "",
    weight: Floats | None = None,
    baseline: Floats | float | None = None,
    loss_scale: float = 1.0,
    lineage: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """Measure a candidate on the holdout, and against the champion where there is one.

    Args:
        prediction: The candidate's predictions for the rows of ``table``.
        table: Raw holdout rows; needs the columns of ``config.slices`` and ``config.fairness.groups``.
        target: Encoded truths, [n]: 0/1, index into ``prediction.classes``, or value.
        champion: The champion's predictions for the same rows; multiclass columns are matched by class.
        weight: Non-negative row weights, [n].
        baseline: The constant that always predicting the same would predict: the training rows' mean
            (regression), share of positives (binary) or class shares [k]. None takes the holdout's own, the
            strongest of its kind.
        loss_scale: Absolute error that counts as total loss (regression), frozen in the bundle.
        lineage: Snapshot, run, configuration and code, for the record.
        notes: Remarks for the report.

    Raises:
        EvaluationError: Arrays do not fit, targets are not finite, or a column is missing.
    """
    rows = score_rows(prediction.task, prediction.values, target, weight, threshold=prediction.threshold)
    if table.num_rows != len(rows):
        raise EvaluationError(f"{table.num_rows} rows, but {len(rows)} targets", "evaluate")
    contenders = [rows, replace(rows, values=constant_prediction(rows, baseline))]
    if champion is not None:
        aligned = align_classes(champion, prediction.classes)
        contenders.append(score_rows(rows.task, aligned, target, weight, threshold=champion.threshold))
    resamples = resample_meters(_meter_builder(contenders), len(rows), config.bootstrap_samples, config.seed)
    cuts = slice_table(table, config.slices, config.max_slices, "evaluation.slices")
    groups = slice_table(table, config.fairness.groups, config.max_slices, "evaluation.fairness.groups")
    losses = [bounded_loss(rows.task, item.values, rows.target, loss_scale) for item in contenders]
    comparison = None
    if champion is not None:
        worse = losses[0] - losses[2]
        comparison = compare_models(resamples.pair(0, 2), worse, rows.weight, cuts, config, champion_hash=champion_hash)
    labels = _class_labels(rows, prediction.classes)
    return EvaluationReport(
        model=model,
        task=rows.task,
        bundle_hash=bundle_hash,
        rows=len(rows),
        confidence=config.confidence,
        metrics=resamples.intervals(0, config.confidence),
        baseline=_report_baseline(resamples, "holdout" if baseline is None else "training", config.confidence),
        calibration=calibration_bins(rows, config.confidence),
        curves=ranking_curves(rows) if rows.task == "binary" else (),
        histogram=score_histogram(rows, labels),
        confusion=count_confusions(rows, labels),
        slices=report_slices(cuts, rows, losses[0], config),
        fairness=report_fairness(groups, rows, config),
        comparison=comparison,
        lineage=dict(lineage or {}),
        notes=(*notes, *_remarks(rows, [*cuts, *groups])),
    )


def constant_prediction(rows: ScoredRows, baseline: Floats | float | None) -> Floats:
    """Return the trivial prediction for every row, in the layout of ``rows.values``; None takes their own mean."""
    shape = rows.values.shape
    if baseline is not None:
        return np.broadcast_to(np.asarray(baseline, dtype=np.float64), shape).copy()
    if rows.weight.sum() <= 0:
        return np.full(shape, 1.0 / shape[1] if len(shape) == 2 else 0.0)
    if rows.task == "multiclass":
        shares = np.bincount(rows.target.astype(np.int64), weights=rows.weight, minlength=shape[1])
        return np.broadcast_to(shares / rows.weight.sum(), shape).copy()
    return np.full(shape, np.average(rows.target, weights=rows.weight))


def align_classes(champion: Prediction, classes: Sequence[object]) -> Floats:
    """Return the champion's predictions with columns in the candidate's class order.

    A class that the champion does not know has probability 0; one that only it knows is left out, and the rest
    is scaled up to 1, which favours the champion.
    """
    values = np.asarray(champion.values, dtype=np.float64)
    if values.ndim == 1 or list(classes) == list(champion.classes):
        return values
    place = {label: index for index, label in enumerate(champion.classes)}
    aligned = np.zeros((len(values), len(classes)))
    for column, label in enumerate(classes):
        if label in place:
            aligned[:, column] = values[:, place[label]]
    total = aligned.sum(axis=1, keepdims=True)
    scaled: Floats = np.divide(aligned, total, out=np.full_like(aligned, 1.0 / len(classes)), where=total > 0)
    return scaled


def _meter_builder(contenders: Sequence[ScoredRows]) -> BuildMeters:
    return lambda rows: [build_meter(item if rows is None else item.take(rows)) for item in contenders]


def _report_baseline(resamples: Resamples, kind: str, confidence: float) -> BaselineReport:
    metrics = dict(zip(resamples.names, resamples.point[1].tolist(), strict=True))
    return BaselineReport(kind, metrics, resamples.differences(0, 1, confidence))


def _class_labels(rows: ScoredRows, classes: Sequence[object]) -> tuple[str, ...]:
    if rows.task == "regression":
        return ()
    if len(classes) >= 2:
        return tuple(str(label) for label in classes)
    return ("negative", "positive") if rows.task == "binary" else tuple(map(str, range(rows.values.shape[1])))


def _remarks(rows: ScoredRows, cuts: Sequence[SliceCodes]) -> list[str]:
    remarks = [f"{metric} is undefined: {reason}." for metric, reason in explain_undefined(rows).items()]
    remarks += [f"{cut.left_out} smaller slices of {cut.column!r} are left out." for cut in cuts if cut.left_out]
    if len(rows) > MAX_RESAMPLED_ROWS:
        remarks.append(f"Intervals come from resamples of {MAX_RESAMPLED_ROWS:,} of the {len(rows):,} rows.")
    return remarks
