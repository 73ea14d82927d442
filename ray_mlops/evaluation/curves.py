"""What a report draws: calibration, ROC and precision-recall curves, histograms, confusion counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_mlops.evaluation.means import mean_interval, rate_interval
from ray_mlops.evaluation.rows import Floats, ScoredRows

CALIBRATION_BINS = 10
CURVE_POINTS = 200
HISTOGRAM_BINS = 30
MAX_CONFUSION_CLASSES = 30
"""With more classes the table of confusions is left out of the report."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """Rows of similar predictions: what was predicted on average, and what came true.

    Binary: probability against share of positives. Multiclass: confidence in the predicted class against
    accuracy. Regression: prediction against target, both as means.
    """

    rows: int
    predicted: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of one curve."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of one or two series on the same edges; ``edges`` has one number more than each series."""

    title: str
    x_label: str
    edges: tuple[float, ...]
    series: dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Confusion:
    """Rows by true class (first index) and predicted class (second)."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def calibration_bins(scored: ScoredRows, confidence: float) -> tuple[CalibrationBin, ...]:
    """Cut the rows into ten bins of equal size by prediction (ties stay together)."""
    predicted, observed, weight = scored.values, scored.target, scored.weight
    if scored.task == "multiclass":
        predicted, observed = scored.values.max(axis=1), (scored.decisions() == scored.target).astype(np.float64)
    if len(scored) == 0 or not np.isfinite(predicted).all():
        return ()
    edges = np.unique(np.quantile(predicted, np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1], method="inverted_cdf"))
    codes = np.searchsorted(edges, predicted, side="left")
    interval_of = mean_interval if scored.task == "regression" else rate_interval
    bins = []
    for code in np.unique(codes):
        rows = codes == code
        if weight[rows].sum() <= 0:
            continue
        truth = interval_of(observed[rows], weight[rows], confidence)
        mean = float(np.average(predicted[rows], weights=weight[rows]))
        bins.append(CalibrationBin(int(rows.sum()), mean, truth.value, truth.low, truth.high))
    return tuple(bins)


def ranking_curves(scored: ScoredRows) -> tuple[Curve, ...]:
    """Return the ROC and the precision-recall curve, thinned to 200 points; none where a class is missing.

    The ROC curve runs from (0, 0) to (1, 1). The precision-recall curve starts at its first threshold.
    """
    prediction, target, weight = scored.values, scored.target, scored.weight
    if len(np.unique(target)) < 2 or not np.isfinite(prediction).all():
        return ()
    order = np.argsort(-prediction, kind="stable")
    ranked = prediction[order]
    ends = np.flatnonzero(np.concatenate([ranked[1:] != ranked[:-1], [True]]))
    above = np.cumsum(weight[order])[ends]
    hits = np.cumsum((weight * target)[order])[ends]
    if not 0 < hits[-1] < above[-1]:
        return ()
    recall, fall_out = hits / hits[-1], (above - hits) / (above[-1] - hits[-1])
    roc = _thin("roc", np.concatenate([[0.0], fall_out]), np.concatenate([[0.0], recall]))
    used = above > 0
    return roc, _thin("precision_recall", recall[used], hits[used] / above[used])


def score_histogram(scored: ScoredRows, labels: Sequence[str]) -> Histogram | None:
    """Return scores by class (binary), confidence when right and wrong (multiclass), or residuals (regression).

    Residuals beyond the 0.5 % and 99.5 % quantiles are counted in the outermost bins.
    """
    task, prediction, target = scored.task, scored.values, scored.target
    if len(target) == 0 or not np.isfinite(prediction).all():
        return None
    if task == "regression":
        residual = prediction - target
        low, high = np.quantile(residual, [0.005, 0.995])
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
        series = {"residual": np.clip(residual, low, high)}
        return _count("Residuals", "prediction minus target", edges, series)
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    if task == "binary":
        series = {str(labels[1]): prediction[target == 1], str(labels[0]): prediction[target == 0]}
        return _count("Scores by true class", "predicted probability", edges, series)
    confidence, right = prediction.max(axis=1), prediction.argmax(axis=1) == target
    series = {"right": confidence[right], "wrong": confidence[~right]}
    return _count("Confidence", "probability of the predicted class", edges, series)


def count_confusions(scored: ScoredRows, labels: Sequence[str]) -> Confusion | None:
    """Count rows by true and predicted class; None for regression or more than 30 classes."""
    if scored.task == "regression" or len(labels) > MAX_CONFUSION_CLASSES:
        return None
    size = len(labels)
    cells = np.bincount((scored.target * size + scored.decisions()).astype(np.int64), minlength=size * size).reshape(
        size, size
    )
    return Confusion(tuple(str(label) for label in labels), tuple(tuple(row) for row in cells.tolist()))


def _thin(name: str, x: Floats, y: Floats) -> Curve:
    """Keep points that lie about equally far apart along the curve; both ends stay."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    wanted = np.linspace(0, length[-1], CURVE_POINTS)
    kept = np.unique(np.clip(np.searchsorted(length, wanted), 0, len(x) - 1)) if len(x) > CURVE_POINTS else slice(None)
    return Curve(name, tuple(x[kept].tolist()), tuple(y[kept].tolist()))


def _count(title: str, x_label: str, edges: Floats, series: dict[str, Floats]) -> Histogram:
    counts = {name: tuple(np.histogram(values, edges)[0].tolist()) for name, values in series.items()}
    return Histogram(title, x_label, tuple(edges.tolist()), counts)
