"""Predictions beside the truth: checked once, then passed around."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_mlops.config.data import Task
from ray_mlops.errors import EvaluationError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Rows with their predictions; build them with ``score_rows``, which checks them.

    Args:
        values: Binary: probability of the positive class, [n]. Multiclass: probabilities, [n, k]. Regression:
            values, [n].
        target: 0/1, class index, or value, [n].
        weight: Non-negative row weights, [n].
        threshold: Probability from which a row counts as positive (binary).
    """

    task: Task
    values: Floats
    target: Floats
    weight: Floats
    threshold: float = 0.5

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Ints | Flags) -> "ScoredRows":
        """Return some of the rows, by index or mask."""
        return replace(self, values=self.values[rows], target=self.target[rows], weight=self.weight[rows])

    def decisions(self) -> Floats:
        """Return the predicted class of each row, [n]; the predicted value for regression."""
        return decide_rows(self.task, self.values, self.threshold)


def score_rows(task: Task, values: Any, target: Any, weight: Any = None, *, threshold: float = 0.5) -> ScoredRows:
    """Check the arrays, and put them together.

    Args:
        weight: None means 1 for each row.

    Raises:
        EvaluationError: Lengths differ, a target is not finite or not a class, a weight is negative.
    """
    truth = np.asarray(target, dtype=np.float64)
    weights = np.ones(len(truth)) if weight is None else np.asarray(weight, dtype=np.float64)
    rows = ScoredRows(task, np.asarray(values, dtype=np.float64), truth, weights, threshold)
    _check(rows)
    return rows


def decide_rows(task: Task, values: Floats, threshold: float) -> Floats:
    """Return the class that each prediction decides for, [n]: 0/1 or the index of the likeliest class."""
    if task == "multiclass":
        return np.asarray(values.argmax(axis=1), dtype=np.float64)
    return (values >= threshold).astype(np.float64) if task == "binary" else values


def find_invalid(task: Task, values: Floats) -> Flags:
    """Mark the rows whose prediction cannot be one, [n].

    That is: not finite, or no probability (within 1e-6), or class probabilities that do not add up to 1
    (within 1e-3).

    Example:
        >>> find_invalid("binary", np.array([0.5, np.nan, 1.5])).tolist()
        [False, True, True]
    """
    broken = ~np.isfinite(values)
    if task != "regression":
        broken |= ~((values >= -1e-6) & (values <= 1 + 1e-6))
    if values.ndim == 1:
        return np.asarray(broken)
    any_broken = broken.any(axis=1)
    sums = np.where(any_broken, 1.0, np.where(broken, 0.0, values).sum(axis=1))
    return np.asarray(any_broken | (np.abs(sums - 1) > 1e-3))


def sum_products(first: Floats, second: Floats) -> float:
    """Return the sum of products [n]. Not ``@``: that starts threads, whose number would change the last bits,
    and which wait for each other on a busy machine (measured: 50 ms instead of 0.1)."""
    return float(np.einsum("i,i->", first, second))


def sum_rows(weight: Floats, rows: Floats) -> Floats:
    """Return the weighted sum of each row of an array [k, n] as [k]; weights are [n]."""
    return np.array([sum_products(weight, row) for row in rows])


def _check(rows: ScoredRows) -> None:
    task, values, target, weight = rows.task, rows.values, rows.target, rows.weight
    if values.ndim != (2 if task == "multiclass" else 1) or not len(values) == len(target) == len(weight):
        shapes = f"predictions {values.shape}, targets {target.shape}, weights {weight.shape}"
        raise EvaluationError(f"arrays do not fit together: {shapes}", task)
    if not np.isfinite(target).all():
        remedy = "leave out the rows without a target"
        raise EvaluationError(f"{int((~np.isfinite(target)).sum())} targets are not finite", task, remedy)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise EvaluationError("weights must be finite and not negative", task)
    if task == "binary" and not np.isin(target, (0.0, 1.0)).all():
        raise EvaluationError("binary targets must be 0 or 1", task)
    if task == "multiclass" and not np.isin(target, np.arange(values.shape[1])).all():
        raise EvaluationError(f"targets must be class indices from 0 to {values.shape[1] - 1}", task)
