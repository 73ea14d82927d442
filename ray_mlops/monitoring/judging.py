"""What the labels of a window say about the champion that answered it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.evaluation.metrics import compute_metrics
from ray_mlops.monitoring.estimation import estimate_rows, predictions_of
from ray_mlops.monitoring.handover import own_rows
from ray_mlops.monitoring.labels import finite_rows, prediction_values
from ray_mlops.monitoring.loss_channel import LossWindow
from ray_mlops.statistics.bins import FloatArray
from ray_mlops.statistics.estimators import LOG_EPSILON, Estimator
from ray_mlops.statistics.gap import GapSums
from ray_mlops.statistics.losses import Task, bounded_loss, log_loss_rows

_METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "auc", "brier"),
    "multiclass": ("accuracy",),
    "regression": ("mae", "rmse"),
}
"""Realised metrics of a window, besides the bounded loss and the log-loss."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What the monitor must know of the champion that it watches."""

    model: str
    version: str
    config_hash: str
    task: Task
    classes: tuple[str, ...]
    loss_scale: float
    encode: Callable[[Any], float]
    """Turns a label into a number."""
    start_window: int | None = None
    """First window that is tested; None means the first that is seen."""
    threshold: float = 0.5
    """Probability from which a row counts as positive (binary)."""

    def is_tested(self, window: int) -> bool:
        """Whether a window belongs to this epoch."""
        return self.start_window is None or window >= self.start_window


@dataclass(frozen=True, slots=True)
class Realised:
    """Metrics of a window's labelled rows, and what was expected of the same rows."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, float] = field(default_factory=dict)
    """Empty without an estimator."""
    gap: GapSums | None = None


def own_losses(watched: Watched, labelled: pa.Table) -> LossWindow:
    """Losses of the rows that the version itself answered in the ordinary way: what is judged."""
    losses = _losses(watched, own_rows(labelled, watched.version))
    return len(losses), float(losses.sum()), float((losses**2).sum())


def mean_losses(watched: Watched, labelled: pa.Table) -> tuple[float | None, float | None]:
    """Mean bounded loss and mean log-loss of whoever was champion then: what is shown.

    Returns:
        None where there are no rows; no log-loss for a regression, nor of rows without a finite prediction.
    """
    answered = _champions_rows(labelled)
    if answered.num_rows == 0:
        return None, None
    loss = float(_losses(watched, answered).mean())
    if watched.task == "regression":
        return loss, None
    rows = log_loss_rows(_predictions(watched, answered), answered["label"].to_numpy(), epsilon=LOG_EPSILON)
    known = rows[np.isfinite(rows)]
    return loss, float(known.mean()) if len(known) else None


def reconcile(watched: Watched, labelled: pa.Table, estimator: Estimator | None) -> Realised:
    """Measure the version's own labelled rows, beside what was expected of them before there were labels.

    Args:
        watched: The version.
        labelled: Labelled rows of one window.
        estimator: The version's; None measures only.
    """
    own = own_rows(labelled, watched.version)
    if own.num_rows:
        own = own.filter(pa.array(finite_rows(_predictions(watched, own))))
    if own.num_rows == 0:
        return Realised()
    prediction, target = _predictions(watched, own), own["label"].to_numpy()
    metrics = _measure(watched, prediction, target)
    if estimator is None:
        return Realised(metrics)
    rows, kept = estimate_rows(own, estimator)
    if not kept.any():
        return Realised(metrics)
    shown, truth = predictions_of(own, estimator)[kept], target[kept]
    gap = estimator.gap(rows, bounded_loss(watched.task, shown, truth, watched.loss_scale), shown, truth)
    total = rows.total(estimator.fitted_rows, estimator.auc_cells)
    expected = {name: found.value for name, found in total.metrics().items() if name in metrics}
    return Realised(metrics, expected if kept.all() else {}, gap)


def _measure(watched: Watched, prediction: FloatArray, target: FloatArray) -> dict[str, float]:
    found = compute_metrics(watched.task, prediction, target, threshold=watched.threshold)
    metrics = {name: found[name] for name in _METRICS[watched.task] if np.isfinite(found[name])}
    metrics["bounded_loss"] = float(bounded_loss(watched.task, prediction, target, watched.loss_scale).mean())
    if watched.task != "regression":
        metrics["log_loss"] = float(log_loss_rows(prediction, target, epsilon=LOG_EPSILON).mean())
    return metrics


def _champions_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.and_(pc.equal(rows["arm"], "champion"), pc.invert(rows["pinned"])))


def _losses(watched: Watched, rows: pa.Table) -> FloatArray:
    return bounded_loss(watched.task, _predictions(watched, rows), rows["label"].to_numpy(), watched.loss_scale)


def _predictions(watched: Watched, rows: pa.Table) -> FloatArray:
    return prediction_values(rows, watched.task, watched.classes)
