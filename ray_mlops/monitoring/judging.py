"""What the labels of a window say about the champion that answered it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import MonitoringConfig
from ray_mlops.evaluation.metrics import compute_metrics
from ray_mlops.monitoring.breakdown import NO_SLICING, Breakdown, Slicing, break_down
from ray_mlops.monitoring.estimation import estimate_rows, predictions_of
from ray_mlops.monitoring.handover import own_rows
from ray_mlops.monitoring.label_delays import Weighting, class_weights, effective
from ray_mlops.monitoring.labels import LabelJoin, finite_rows, prediction_values
from ray_mlops.monitoring.loss_channel import LossWindow
from ray_mlops.monitoring.monitor_state import Performance
from ray_mlops.statistics.bins import FloatArray
from ray_mlops.statistics.delays import DelayCurves, fit_delays
from ray_mlops.statistics.estimators import LOG_EPSILON, Estimator
from ray_mlops.statistics.gap import GapSums
from ray_mlops.statistics.losses import Task, bounded_loss, log_loss_rows

_METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("accuracy", "auc", "brier"),
    "multiclass": ("accuracy",),
    "regression": ("mae", "rmse"),
}
"""Realised metrics of a window, besides the bounded loss and the log-loss."""
_WEIGHT = "label_weight"
"""How a labelled row counts, where the labels of some classes come later than others."""


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
    slicing: Slicing = NO_SLICING
    """By what realised metrics are broken down."""

    @property
    def num_classes(self) -> int:
        """How many labels are told apart; 1 for a regression."""
        return {"regression": 1, "binary": 2}.get(self.task, len(self.classes))

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


@dataclass(frozen=True, slots=True)
class Judged:
    """What labels say of one matured window."""

    performance: Performance
    loss: LossWindow | None = None
    """For the loss channel; None where coverage is too small."""
    gap: GapSums | None = None
    breakdown: Breakdown | None = None
    """None without rows."""


class LabelJudge:
    """Judges windows by the labels that were there by a moment; changes nothing.

    Args:
        watched: The champion.
        join: Rows and their labels.
        config: Coverage, fewest rows, correction of delays.
        estimator: Performance of the champion without labels; None expects nothing.
    """

    def __init__(
        self, watched: Watched, join: LabelJoin, config: MonitoringConfig, estimator: Estimator | None
    ) -> None:
        self._watched, self._join, self._config, self._estimator = watched, join, config, estimator

    def curves(self, now_us: int) -> DelayCurves | None:
        """How long labels take, by the windows that are over."""
        return fit_delays(self._join.cohorts(now_us), self._watched.num_classes)

    def judge(self, window: int, curves: DelayCurves | None, now_us: int) -> Judged:
        """What the labels that were there by a moment say of one window.

        Args:
            window: Its index.
            curves: Of that moment.
            now_us: The moment, event time.
        """
        watched, config = self._watched, self._config
        summary = self._join.summary(window, now_us)
        if summary.rows == 0:
            return Judged(Performance(0, 0, None, None, False))
        used = curves if config.labels.correct_delay else None
        rows, weighting = weigh(watched, self._join.rows(window, now_us), used, now_us)
        breakdown = break_down_rows(watched, rows)
        table = rows.filter(pc.invert(pc.is_nan(rows["label"])))
        if table.num_rows == 0:
            return Judged(Performance(summary.rows, 0, None, None, False), breakdown=breakdown)
        own = own_losses(watched, table)
        covered = summary.coverage >= config.labels.min_coverage and own[0] >= config.min_window_rows
        judged = covered and watched.is_tested(window)
        found = reconcile(watched, table, self._estimator)
        losses = mean_losses(watched, table)
        shown = Performance(
            summary.rows,
            summary.labelled,
            *losses,
            judged,
            found.metrics,
            found.expected,
            "" if weighting.weights is None else weighting.reason,
        )
        return Judged(shown, own if judged else None, found.gap, breakdown)


def weigh(watched: Watched, rows: pa.Table, curves: DelayCurves | None, now_us: int) -> tuple[pa.Table, Weighting]:
    """Say how each labelled row of a window counts; see ``class_weights``.

    Args:
        watched: The version.
        rows: Rows of one window, with ``label`` (NaN without one).
        curves: How long labels take; None weighs nothing.
        now_us: Event time that has been reached.

    Returns:
        The rows, with one more column where they are weighted.
    """
    target = rows["label"].to_numpy()
    known = ~np.isnan(target)
    ages_s = (now_us - rows["event_time"].cast(pa.int64()).to_numpy()[known]) / 1e6
    codes = target[known].astype(np.int64) if watched.num_classes > 1 else np.zeros(len(ages_s), np.int64)
    found = class_weights(curves, ages_s, codes)
    if found.weights is None:
        return rows, found
    weights = np.ones(len(target))
    weights[known] = found.weights
    return rows.append_column(_WEIGHT, pa.array(weights)), found


def own_losses(watched: Watched, labelled: pa.Table) -> LossWindow:
    """Losses of the rows that the version itself answered in the ordinary way: what is judged."""
    own = own_rows(labelled, watched.version)
    losses, weights = _losses(watched, own), _effective(own)
    if weights is None:
        return len(losses), float(losses.sum()), float((losses**2).sum())
    return float(weights.sum()), float(weights @ losses), float(weights @ losses**2)


def mean_losses(watched: Watched, labelled: pa.Table) -> tuple[float | None, float | None]:
    """Mean bounded loss and mean log-loss of whoever was champion then: what is shown.

    Returns:
        None where there are no rows; no log-loss for a regression, nor of rows without a finite prediction.
    """
    answered = _champions_rows(labelled)
    if answered.num_rows == 0:
        return None, None
    weights = _effective(answered)
    loss = float(np.average(_losses(watched, answered), weights=weights))
    if watched.task == "regression":
        return loss, None
    rows = log_loss_rows(_predictions(watched, answered), answered["label"].to_numpy(), epsilon=LOG_EPSILON)
    known = np.isfinite(rows)
    if not known.any():
        return loss, None
    return loss, float(np.average(rows[known], weights=None if weights is None else weights[known]))


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
    prediction, target, weights = _predictions(watched, own), own["label"].to_numpy(), _effective(own)
    metrics = _measure(watched, prediction, target, weights)
    if estimator is None:
        return Realised(metrics)
    rows, kept = estimate_rows(own, estimator)
    if not kept.any():
        return Realised(metrics)
    shown, truth = predictions_of(own, estimator)[kept], target[kept]
    losses = bounded_loss(watched.task, shown, truth, watched.loss_scale)
    gap = estimator.gap(rows, losses, shown, truth, None if weights is None else effective(weights[kept]))
    if weights is not None:  # what is expected of rows that count alike is no measure of these
        return Realised(metrics, {}, gap)
    total = rows.total(estimator.fitted_rows, estimator.auc_cells)
    expected = {name: found.value for name, found in total.metrics().items() if name in metrics}
    return Realised(metrics, expected if kept.all() else {}, gap)


def break_down_rows(watched: Watched, rows: pa.Table) -> Breakdown:
    """Realised performance of a window's rows, with and without labels, by arm, version, slice and group."""
    weights = rows[_WEIGHT].to_numpy() if _WEIGHT in rows.column_names else np.ones(rows.num_rows)
    return break_down(
        rows,
        _predictions(watched, rows),
        weights,
        watched.task,
        watched.slicing,
        loss_scale=watched.loss_scale,
        threshold=watched.threshold,
    )


def _measure(
    watched: Watched, prediction: FloatArray, target: FloatArray, weights: FloatArray | None
) -> dict[str, float]:
    found = compute_metrics(watched.task, prediction, target, weights, threshold=watched.threshold)
    metrics = {name: found[name] for name in _METRICS[watched.task] if np.isfinite(found[name])}
    losses = bounded_loss(watched.task, prediction, target, watched.loss_scale)
    metrics["bounded_loss"] = float(np.average(losses, weights=weights))
    if watched.task != "regression":
        log_losses = log_loss_rows(prediction, target, epsilon=LOG_EPSILON)
        metrics["log_loss"] = float(np.average(log_losses, weights=weights))
    return metrics


def _effective(rows: pa.Table) -> FloatArray | None:
    """How rows count; None where each counts once."""
    return effective(rows[_WEIGHT].to_numpy()) if _WEIGHT in rows.column_names else None


def _champions_rows(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.and_(pc.equal(rows["arm"], "champion"), pc.invert(rows["pinned"])))


def _losses(watched: Watched, rows: pa.Table) -> FloatArray:
    return bounded_loss(watched.task, _predictions(watched, rows), rows["label"].to_numpy(), watched.loss_scale)


def _predictions(watched: Watched, rows: pa.Table) -> FloatArray:
    return prediction_values(rows, watched.task, watched.classes)
