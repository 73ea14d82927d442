"""Fit what estimates performance without labels, on rows that the model was not trained on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.statistics.bins import Bins, NumericBins
from ray_mlops.statistics.boosting import BoostedTrees
from ray_mlops.statistics.calibration import CalibrationMap
from ray_mlops.statistics.estimators import (
    ERRORS,
    SCORE,
    ClassificationEstimator,
    Estimator,
    RegressionEstimator,
    RowEstimates,
)
from ray_mlops.statistics.gap import GapSums
from ray_mlops.statistics.losses import Task, bounded_loss

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

NUM_CELLS = 512
"""Cells of the score, of about equal mass, for the area under the ROC curve."""
NUM_BINS = 16
"""Bins of the score by which outcomes are counted."""
MIN_ROWS = 50
"""Fewer rows say nothing that could be relied on: there is no estimator."""
_FOLDS = 2
_MAX_FITTED_ROWS = 30_000
"""Of an error model: evenly spread over all, for the time that it takes."""


def fit_classification(
    task: Task, prediction: Any, target: Any, windows: IntArray, kept: tuple[int, ...], threshold: float = 0.5
) -> ClassificationEstimator | None:
    """Calibrate a classifier's probabilities, each class by itself.

    Args:
        task: `binary` or `multiclass`.
        prediction: Probabilities [n] or [n, k]; rows with one that is not finite are left out.
        target: 0 or 1, or class indices [n].
        windows: Window of each row [n].
        kept: Windows whose gaps become the reference.
        threshold: Probability from which a row counts as positive (binary).

    Returns:
        None with fewer than ``MIN_ROWS`` rows.
    """
    shown, truth = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    sound = np.isfinite(shown if shown.ndim == 1 else shown.sum(axis=1)) & np.isfinite(truth)
    if int(sound.sum()) < MIN_ROWS:
        return None
    shown, truth, windows = shown[sound], truth[sound], windows[sound]
    is_binary = task == "binary"
    columns = [(shown, truth)] if is_binary else [(shown[:, k], truth == k) for k in range(shown.shape[1])]
    maps = tuple(CalibrationMap.fit(scores, hits) for scores, hits in columns)
    scores = shown if is_binary else shown.max(axis=1)
    cells, bins = (NumericBins.from_sample(scores, count) for count in (NUM_CELLS, NUM_BINS))
    fitted = ClassificationEstimator(task, threshold, maps, cells, bins, len(truth))
    losses = bounded_loss(task, shown, truth)
    return replace(fitted, windows=_gaps(fitted, fitted.estimate(shown), losses, shown, truth, windows, kept))


def fit_regression(
    columns: Mapping[str, Any],
    bins: Mapping[str, Bins],
    prediction: Any,
    target: Any,
    scale: float,
    windows: IntArray,
    kept: tuple[int, ...],
) -> RegressionEstimator | None:
    """Fit a model of a regression's error, from its inputs and its prediction.

    How far it errs itself, and the gaps of the reference windows, come from rows of other folds.

    Args:
        columns: Inputs [n] by name, as the bins count them.
        bins: By input.
        prediction: Values [n].
        target: Values [n].
        scale: Absolute error that counts as total loss.
        windows: Window of each row [n].
        kept: Windows whose gaps become the reference.

    Returns:
        None with fewer than ``MIN_ROWS`` rows that have a prediction.
    """
    shown, truth = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    sound = np.flatnonzero(np.isfinite(shown) & np.isfinite(truth))
    if len(sound) < MIN_ROWS:
        return None
    shown, truth, windows = shown[sound], truth[sound], windows[sound]
    error = np.abs(shown - truth)
    losses = np.minimum(error / scale, 1.0)
    targets = np.column_stack((error, error**2, losses))
    used: dict[str, Bins] = {**bins, SCORE: NumericBins.from_sample(shown, 2 * NUM_BINS)}
    places = {name: column.index(columns[name])[sound] for name, column in bins.items()}
    places[SCORE] = used[SCORE].index(shown)
    guesses = _cross_fitted(used, places, targets)
    residual = ((targets - guesses) ** 2).mean(axis=0) / np.maximum((guesses**2).mean(axis=0), 1e-300)
    coarse = NumericBins.from_sample(shown, NUM_BINS)
    model = _fit_trees(used, places, targets, np.arange(len(truth)))
    fitted = RegressionEstimator(model, tuple(residual.tolist()), coarse, len(truth))
    rows = fitted.read(dict(zip(ERRORS, guesses.T, strict=True)), shown)
    return replace(fitted, windows=_gaps(fitted, rows, losses, shown, truth, windows, kept))


def _cross_fitted(bins: Mapping[str, Bins], places: Mapping[str, IntArray], targets: FloatArray) -> FloatArray:
    """What models of the other folds say of each row [n, J]."""
    guesses, fold = np.empty_like(targets), np.arange(len(targets)) % _FOLDS
    for k in range(_FOLDS):
        inside = np.flatnonzero(fold == k)
        model = _fit_trees(bins, places, targets, np.flatnonzero(fold != k))
        guesses[inside], _ = model.at({name: place[inside] for name, place in places.items()}, len(inside))
    return guesses


def _fit_trees(
    bins: Mapping[str, Bins], places: Mapping[str, IntArray], targets: FloatArray, rows: IntArray
) -> BoostedTrees:
    chosen = rows[:: -(-len(rows) // _MAX_FITTED_ROWS)]
    return BoostedTrees.fit(bins, {name: place[chosen] for name, place in places.items()}, targets[chosen])


def _gaps(
    estimator: Estimator,
    rows: RowEstimates,
    losses: FloatArray,
    prediction: FloatArray,
    target: FloatArray,
    windows: IntArray,
    kept: tuple[int, ...],
) -> dict[int, GapSums]:
    found = {}
    for window in kept:
        chosen = np.flatnonzero(windows == window)
        if len(chosen):
            parts = (rows.take(chosen), losses[chosen], prediction[chosen], target[chosen])
            found[window] = estimator.gap(*parts)
    return found
