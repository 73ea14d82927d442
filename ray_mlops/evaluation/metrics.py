"""Metrics of each task, written so that one function serves the point estimate and every bootstrap sample.

A *meter* sorts and bins the rows once; ``measure(counts)`` is then linear in the number of rows, for any
vector of multiplicities. That makes 500 resamples of 50,000 rows a matter of a second.
"""

from typing import Protocol

import numpy as np

from ray_mlops.config.data import Task
from ray_mlops.evaluation.rows import Floats, ScoredRows, find_invalid, score_rows, sum_products, sum_rows
from ray_mlops.statistics.losses import brier_rows, log_loss_rows

METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("auc", "log_loss", "brier", "accuracy", "average_precision", "ece"),
    "multiclass": ("log_loss", "accuracy", "macro_f1", "brier"),
    "regression": ("rmse", "mae", "r2", "medae"),
}
"""Names of each task's metrics, in the order in which they are shown."""

METRIC_DIRECTION: dict[str, int] = {
    "auc": 1,
    "accuracy": 1,
    "average_precision": 1,
    "macro_f1": 1,
    "r2": 1,
    "log_loss": -1,
    "brier": -1,
    "ece": -1,
    "rmse": -1,
    "mae": -1,
    "medae": -1,
}
"""+1 where more is better, -1 where less is better."""

PRIMARY_METRIC: dict[Task, str] = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}
"""The metric that a candidate is compared by when the user names none: the task's own loss."""

ECE_BINS = 15
_EPSILON = float(np.finfo(np.float64).eps)


class Meter(Protocol):
    """Measures one prediction under any multiplicities of its rows."""

    names: tuple[str, ...]

    def measure(self, counts: Floats | None = None) -> Floats:
        """Return the metrics in the order of ``names``.

        Args:
            counts: How often each row counts, [n]; None means once.
        """


def compute_metrics(
    task: Task, prediction: Floats, target: Floats, weight: Floats | None = None, *, threshold: float = 0.5
) -> dict[str, float]:
    """Compute every metric of a task.

    Args:
        prediction: Binary: probability of the positive class, [n]. Multiclass: probabilities, [n, k].
            Regression: values, [n].
        target: 0/1, class index, or value, [n].
        weight: Non-negative row weights, [n]; None means 1.
        threshold: Probability from which a row counts as positive (binary accuracy).

    Returns:
        Metric values; NaN where a metric is undefined (see ``explain_undefined``): no rows, one class only
        (``auc``), no positive row (``average_precision``), a constant target (``r2``), or any prediction that
        is not finite (all metrics).

    Raises:
        EvaluationError: Lengths differ, a target is not finite or not a class, a weight is negative.

    Example:
        >>> metrics = compute_metrics("binary", np.array([0.1, 0.4, 0.8]), np.array([0.0, 1.0, 1.0]))
        >>> metrics["auc"], round(metrics["brier"], 4)
        (1.0, 0.1367)
    """
    meter = build_meter(score_rows(task, prediction, target, weight, threshold=threshold))
    return dict(zip(meter.names, meter.measure().tolist(), strict=True))


def build_meter(rows: ScoredRows) -> Meter:
    """Sort and bin the rows; rows with an invalid prediction make every metric NaN."""
    if find_invalid(rows.task, rows.values).any():
        return UndefinedMeter(METRICS[rows.task])
    if rows.task == "binary":
        return BinaryMeter(rows)
    return MulticlassMeter(rows) if rows.task == "multiclass" else RegressionMeter(rows)


def explain_undefined(rows: ScoredRows) -> dict[str, str]:
    """Say why metrics are NaN: a sentence for each metric that is undefined on these rows."""
    task, target = rows.task, rows.target
    if rows.weight.sum() <= 0:
        return dict.fromkeys(METRICS[task], "there are no rows" if len(rows) == 0 else "all weights are 0")
    broken = int(find_invalid(task, rows.values).sum())
    if broken:
        wanted = "finite numbers" if task == "regression" else "probabilities"
        return dict.fromkeys(METRICS[task], f"the predictions of {broken} rows are not {wanted}")
    counted = target[rows.weight > 0]
    if task == "binary" and len(np.unique(counted)) == 1:
        reasons = {"auc": f"all {len(counted)} rows have the same class"}
        return reasons if counted[0] == 1 else {**reasons, "average_precision": "no row is positive"}
    if task == "regression" and np.ptp(counted) == 0:
        return {"r2": f"all {len(counted)} rows have the same target"}
    return {}


class BinaryMeter:
    """Metrics of probabilities of the positive class.

    ``auc`` and ``average_precision`` treat equal scores as one group, so that ties count half.
    ``ece`` uses 15 bins of equal width.

    References:
        Fawcett (2006), An introduction to ROC analysis, doi:10.1016/j.patrec.2005.10.010.
        Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599. There the bins hold the
        confidence of the predicted class; here they hold the probability of the positive class.
    """

    names = METRICS["binary"]

    def __init__(self, rows: ScoredRows) -> None:
        values, target = rows.values, rows.target
        correct = (rows.decisions() == target).astype(np.float64)
        self._rows = np.stack([log_loss_rows(values, target, _EPSILON), brier_rows(values, target), correct])
        self._weight = rows.weight
        self._order = np.argsort(-values, kind="stable")
        ranked = values[self._order]
        self._positive = target[self._order]
        starts = (
            np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(values) else np.zeros(0, int)
        )
        self._starts = starts if len(starts) < len(values) else None
        self._bins = np.clip((values * ECE_BINS).astype(np.int64), 0, ECE_BINS - 1)
        self._residual = target - values

    def measure(self, counts: Floats | None = None) -> Floats:
        weight = self._weight if counts is None else counts * self._weight
        total = float(weight.sum())
        if total <= 0:
            return np.full(len(self.names), np.nan)
        log_loss, brier, accuracy = sum_rows(weight, self._rows) / total
        auc, average_precision = self._ranking(weight[self._order])
        bins = np.bincount(self._bins, weights=weight * self._residual, minlength=ECE_BINS)
        return np.array([auc, log_loss, brier, accuracy, average_precision, np.abs(bins).sum() / total])

    def _ranking(self, weight: Floats) -> tuple[float, float]:
        positive = weight * self._positive
        if self._starts is not None:
            weight, positive = np.add.reduceat(weight, self._starts), np.add.reduceat(positive, self._starts)
        above, above_positive = np.cumsum(weight), np.cumsum(positive)
        total_positive = float(above_positive[-1])
        total_negative = float(above[-1]) - total_positive
        if total_positive <= 0:
            return np.nan, np.nan
        precision = np.divide(above_positive, above, out=np.zeros_like(above), where=above > 0)
        average_precision = sum_products(positive, precision) / total_positive
        if total_negative <= 0:
            return np.nan, average_precision
        auc = sum_products(weight - positive, above_positive - positive / 2) / (total_positive * total_negative)
        return auc, average_precision


class MulticlassMeter:
    """Metrics of class probabilities. ``brier`` is half the squared distance, so that it lies in [0, 1].

    ``macro_f1`` averages over the classes that occur among the truths or the predictions.
    """

    names = METRICS["multiclass"]

    def __init__(self, rows: ScoredRows) -> None:
        values, target = rows.values, rows.target
        truth = target.astype(np.int64)
        self._num_classes = values.shape[1]
        self._truth, self._guess, self._weight = truth, values.argmax(axis=1), rows.weight
        self._correct = (self._guess == truth).astype(np.float64)
        log_loss, brier = log_loss_rows(values, target, _EPSILON), brier_rows(values, target) / 2
        self._rows = np.stack([log_loss, self._correct, brier])

    def measure(self, counts: Floats | None = None) -> Floats:
        weight = self._weight if counts is None else counts * self._weight
        total = float(weight.sum())
        if total <= 0:
            return np.full(len(self.names), np.nan)
        log_loss, accuracy, brier = sum_rows(weight, self._rows) / total
        hits = np.bincount(self._truth, weights=weight * self._correct, minlength=self._num_classes)
        either = np.bincount(self._truth, weights=weight, minlength=self._num_classes)
        either += np.bincount(self._guess, weights=weight, minlength=self._num_classes)
        occurs = either > 0
        return np.array([log_loss, accuracy, float(np.mean(2 * hits[occurs] / either[occurs])), brier])


class RegressionMeter:
    """Metrics of predicted numbers, in the target's unit (``r2`` has none)."""

    names = METRICS["regression"]

    def __init__(self, rows: ScoredRows) -> None:
        values, target = rows.values, rows.target
        error = np.abs(values - target)
        centred = target - target.mean() if len(target) else target  # keeps the variance's digits
        self._rows = np.stack([error**2, error, centred, centred**2])
        self._constant = len(target) == 0 or float(np.ptp(target)) == 0
        self._weight = rows.weight
        self._order = np.argsort(error, kind="stable")
        self._ranked = error[self._order]

    def measure(self, counts: Floats | None = None) -> Floats:
        weight = self._weight if counts is None else counts * self._weight
        total = float(weight.sum())
        if total <= 0:
            return np.full(len(self.names), np.nan)
        squared, absolute, mean, square = sum_rows(weight, self._rows) / total
        variance = square - mean**2
        r2 = np.nan if self._constant or variance <= 0 else 1 - squared / variance
        return np.array([np.sqrt(squared), absolute, r2, self._median(weight[self._order])])

    def _median(self, weight: Floats) -> float:
        below = np.cumsum(weight)
        first, last = (np.searchsorted(below, below[-1] / 2, side=side) for side in ("left", "right"))
        return float(self._ranked[first] + self._ranked[min(int(last), len(below) - 1)]) / 2


class UndefinedMeter:
    """Stands for rows with invalid predictions: nothing about them is measured."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def measure(self, counts: Floats | None = None) -> Floats:
        return np.full(len(self.names), np.nan)
