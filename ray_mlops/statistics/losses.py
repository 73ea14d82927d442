"""One loss for each row.

``bounded_loss`` lies in [0, 1] whatever the task, so that the tests for bounded means apply to it.
Layouts of predictions: binary, probability of the positive class [n]; multiclass, probabilities [n, k];
regression, values [n]. Targets [n]: 0 or 1, class index, value.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Task = Literal["binary", "multiclass", "regression"]


def bounded_loss(task: Task, prediction: Any, target: Any, scale: float = 1.0) -> FloatArray:
    """Return a loss in [0, 1] for each row [n].

    Binary: squared error of the probability. Multiclass: half the squared distance to the one-hot target.
    Regression: absolute error as a share of ``scale``, cut at 1. A prediction that is not finite loses 1;
    a target that is NaN gives NaN.

    Args:
        task: Which layout ``prediction`` has.
        prediction: Predictions [n] or [n, k].
        target: Targets [n].
        scale: Absolute error that counts as total loss (regression only), above 0.

    Raises:
        ValueError: The shapes do not fit, a class index is not one of k, or the scale is not positive.

    Example:
        >>> bounded_loss("binary", [0.9, 0.5], [1.0, 1.0]).round(2).tolist()
        [0.01, 0.25]
        >>> bounded_loss("regression", [1.0, 9.0], [2.0, 2.0], scale=4.0).tolist()
        [0.25, 1.0]
    """
    predicted, truth = _checked(task, prediction, target)
    if task == "regression":
        if not scale > 0:
            raise ValueError(f"the scale of a regression loss must be positive, got {scale}")
        loss = np.minimum(np.abs(predicted - truth) / scale, 1.0)
    else:
        loss = brier_rows(predicted, truth) / (1.0 if task == "binary" else 2.0)
    lost = ~np.isfinite(predicted if predicted.ndim == 1 else predicted.sum(axis=1))
    return np.where(np.isnan(truth), np.nan, np.where(lost, 1.0, np.clip(loss, 0.0, 1.0)))


def brier_rows(prediction: Any, target: Any) -> FloatArray:
    """Return each row's Brier score [n]: binary in [0, 1]; multiclass, summed over classes, in [0, 2]."""
    predicted, truth = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if predicted.ndim == 1:
        return (predicted - truth) ** 2
    chosen, known = _picked(predicted, truth)
    return np.where(known, (predicted**2).sum(axis=1) + 1.0 - 2.0 * chosen, np.nan)


def log_loss_rows(prediction: Any, target: Any, epsilon: float = 1e-15) -> FloatArray:
    """Return each row's negative log-likelihood [n], in nats; probabilities are cut at ``epsilon``.

    Args:
        prediction: Probability of the positive class [n], or of each class [n, k].
        target: 0 or 1 [n] (a share between them is allowed), or class indices [n].
        epsilon: Smallest probability that is believed.
    """
    predicted, truth = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if predicted.ndim == 1:
        p = np.clip(predicted, epsilon, 1.0 - epsilon)
        return -(truth * np.log(p) + (1.0 - truth) * np.log1p(-p))
    chosen, known = _picked(predicted, truth)
    return np.where(known, -np.log(np.clip(chosen, epsilon, 1.0)), np.nan)


def _checked(task: Task, prediction: Any, target: Any) -> tuple[FloatArray, FloatArray]:
    predicted, truth = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    dimensions = 2 if task == "multiclass" else 1
    if predicted.ndim != dimensions or truth.ndim != 1 or len(predicted) != len(truth):
        raise ValueError(f"{task} predictions {predicted.shape} do not fit targets {truth.shape}")
    return predicted, truth


def _picked(predicted: FloatArray, truth: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return the probability of each row's true class [n], and which rows have one [n]."""
    known = ~np.isnan(truth)
    classes = np.where(known, truth, 0.0).astype(np.int64)
    if len(classes) and (classes.min() < 0 or classes.max() >= predicted.shape[1]):
        raise ValueError(f"class indices must lie in 0..{predicted.shape[1] - 1}, got {classes.min()}..{classes.max()}")
    return predicted[np.arange(len(classes)), classes], known
