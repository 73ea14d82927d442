"""Performance without labels: what a model's loss on rows will turn out to be, if the world has not changed.

A classifier's own probabilities, calibrated on rows that it was not trained on, say how often it errs (CBPE). A
regression says nothing of its error, so a second model does: fitted on the errors of rows that the first one was not
trained on (DLE). Neither can see that the relation of inputs and labels has changed; ``gap`` measures that, once
there are labels.

References:
    NannyML, "Confidence-based Performance Estimation" and "Direct Loss Estimation" (documentation); Kivimaki et al.,
    arXiv:2505.05295 (variance given the scores).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ray_mlops.statistics.bins import NumericBins
from ray_mlops.statistics.boosting import BoostedTrees
from ray_mlops.statistics.calibration import CalibrationMap
from ray_mlops.statistics.expected import Expected
from ray_mlops.statistics.gap import GapSums
from ray_mlops.statistics.losses import Task

FloatArray = npt.NDArray[np.float64]

LOG_EPSILON = 1e-7
"""Smallest probability that the log-loss believes."""
SCORE = "prediction"
"""Name of the prediction among the columns that an error model takes."""
ERRORS = ("mae", "mse", "bounded_loss")
"""What an error model tells of each row, in this order."""


@dataclass(frozen=True, slots=True, eq=False)
class RowEstimates:
    """What is expected of each of some rows."""

    means: Mapping[str, FloatArray]
    """Expected loss by metric [n]."""
    variances: Mapping[str, FloatArray]
    """Variance of the loss about it [n]."""
    scores: FloatArray
    """One number for each row: probability of the positive or of the most probable class, or the value [n]."""
    outside: FloatArray
    """Share of what the estimate rests on that lies outside the rows of the fit [n]."""
    chances: FloatArray | None = None
    """Calibrated probability that the row is positive, or that the most probable class is right [n]."""

    def take(self, chosen: Any) -> "RowEstimates":
        """Some rows, by indices or a mask."""
        means, variances = ({n: v[chosen] for n, v in found.items()} for found in (self.means, self.variances))
        chances = None if self.chances is None else self.chances[chosen]
        return RowEstimates(means, variances, self.scores[chosen], self.outside[chosen], chances)

    def total(self, fitted_rows: int, cells: NumericBins | None = None) -> Expected:
        """Sum up, the scores by cell where there are cells."""
        sums = {name: (float(mean.sum()), float(self.variances[name].sum())) for name, mean in self.means.items()}
        counted = None
        if cells is not None and self.chances is not None:
            place, spread = cells.index(self.scores), self.chances * (1.0 - self.chances)
            weights = (np.ones(len(place)), self.chances, spread)
            counted = np.array([np.bincount(place, weight, minlength=cells.size) for weight in weights])
        return Expected(len(self.scores), float(self.outside.sum()), fitted_rows, sums, counted)


@dataclass(frozen=True, slots=True, eq=False)
class ClassificationEstimator:
    """Confidence-based estimates of a classifier.

    Args:
        task: `binary` or `multiclass`.
        threshold: Probability from which a row counts as positive (binary).
        maps: One calibration (binary), or one for each class.
        cells: Fine bins of the score, for the area under the ROC curve and for the support.
        bins: Coarse bins of the score, by which outcomes are counted.
        fitted_rows: Rows of the fit.
        windows: Gaps between labels and estimates on the windows of the fit, in order of time.
        classes: Names in the order of the probabilities (multiclass).
    """

    task: Task
    threshold: float
    maps: tuple[CalibrationMap, ...]
    cells: NumericBins
    bins: NumericBins
    fitted_rows: int
    windows: Mapping[int, GapSums] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def assumes(self) -> str:
        """What must hold for the estimates to be right."""
        return "calibrated probabilities and no concept drift"

    @property
    def columns(self) -> frozenset[str]:
        """Inputs that it must see: none but the prediction."""
        return frozenset()

    @property
    def auc_cells(self) -> NumericBins | None:
        """Cells for the area under the ROC curve; None for several classes."""
        return self.cells if self.task == "binary" else None

    def estimate(self, prediction: Any) -> RowEstimates:
        """What is expected of rows.

        Args:
            prediction: Finite probabilities [n] or [n, k].
        """
        shown = np.asarray(prediction, dtype=np.float64)
        is_binary = self.task == "binary"
        classes = np.column_stack((1.0 - shown, shown)) if is_binary else shown
        chances = self.calibrated(shown)
        right = (shown >= self.threshold).astype(np.int64) if is_binary else classes.argmax(axis=1)
        hit = chances[np.arange(len(classes)), right]
        by_class = {
            "log_loss": -np.log(np.clip(classes, LOG_EPSILON, 1.0 - LOG_EPSILON)),
            "bounded_loss": ((_dot(classes, classes) + 1.0) / 2.0)[:, None] - classes,
        }
        means = {"accuracy": hit, **{name: _dot(chances, loss) for name, loss in by_class.items()}}
        squares = {name: _dot(chances, loss * loss) - means[name] ** 2 for name, loss in by_class.items()}
        spread = {"accuracy": hit * (1.0 - hit), **{name: np.maximum(value, 0.0) for name, value in squares.items()}}
        if is_binary:
            means["brier"], spread["brier"] = means["bounded_loss"], spread["bounded_loss"]
        scores = shown if is_binary else classes.max(axis=1)
        place = self.cells.index(scores)
        outside = ((place == 0) | (place >= self.cells.size - 2)).astype(np.float64)
        return RowEstimates(means, spread, scores, outside, chances[:, 1] if is_binary else hit)

    def calibrated(self, prediction: FloatArray) -> FloatArray:
        """Calibrated probability of each class [n, k]; of several classes, scaled to sum to 1."""
        if self.task == "binary":
            chance = self.maps[0].of(prediction)
            return np.column_stack((1.0 - chance, chance))
        raw = np.column_stack([each.of(column) for each, column in zip(self.maps, prediction.T, strict=True)])
        total = _dot(raw, np.ones_like(raw))[:, None]
        even = np.full_like(raw, 1.0 / raw.shape[1])
        return np.divide(raw, total, out=even, where=total > 0.0)

    def expect(self, prediction: Any) -> Expected:
        """``estimate``, summed up."""
        return self.estimate(prediction).total(self.fitted_rows, self.auc_cells)

    def gap(
        self,
        rows: RowEstimates,
        losses: FloatArray,
        prediction: FloatArray,
        target: FloatArray,
        weights: FloatArray | None = None,
    ) -> GapSums:
        """Compare labels with what was expected.

        Args:
            rows: What was expected.
            losses: Bounded losses [n].
            prediction: Probabilities [n] or [n, k].
            target: 0 or 1, or class indices [n].
            weights: Of rows [n]; None means 1.
        """
        hits = target if self.task == "binary" else (prediction.argmax(axis=1) == target).astype(np.float64)
        places = self.bins.index(rows.scores)
        return GapSums.of(losses, rows.means["bounded_loss"], hits, rows.chances, places, self.bins.size, weights)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "classification",
            "task": self.task,
            "threshold": self.threshold,
            "maps": [each.to_json() for each in self.maps],
            "cells": self.cells.edges.tolist(),
            "classes": list(self.classes),
            **_common_json(self),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        maps = tuple(CalibrationMap.from_json(each) for each in content["maps"])
        cells = NumericBins(content["cells"])
        classes = tuple(content["classes"])
        return cls(content["task"], content["threshold"], maps, cells, classes=classes, **_common(content))


@dataclass(frozen=True, slots=True, eq=False)
class RegressionEstimator:
    """Direct estimates of a regression's error.

    Args:
        errors: Tells ``ERRORS`` from the inputs and the prediction.
        dispersion: Mean squared residual over mean squared expectation, by error, on rows of other folds.
        bins: Bins of the prediction, by which losses are counted.
        fitted_rows: Rows of the fit.
        windows: Gaps between labels and estimates of other folds on the windows of the fit, in order of time.
    """

    errors: BoostedTrees
    dispersion: tuple[float, ...]
    bins: NumericBins
    fitted_rows: int
    windows: Mapping[int, GapSums] = field(default_factory=dict)

    @property
    def assumes(self) -> str:
        """What must hold for the estimates to be right."""
        return "errors that depend on inputs as they did, and no concept drift"

    def estimate(self, columns: Mapping[str, Any]) -> RowEstimates:
        """What is expected of rows.

        Args:
            columns: Values [n] by name, as the reference's bins count them, ``SCORE`` among them.
        """
        scores = np.asarray(columns[SCORE], dtype=np.float64)
        found, outside = self.errors.of(columns, len(scores))
        return self.read({name: found[:, k] for k, name in enumerate(ERRORS)}, scores, outside)

    def read(self, means: Mapping[str, Any], scores: FloatArray, outside: FloatArray | None = None) -> RowEstimates:
        """The same where the error model has been asked before.

        Args:
            means: By error [n].
            scores: Predictions [n].
            outside: As ``RowEstimates`` has it; None where it is not asked for.
        """
        kept = {name: np.maximum(np.asarray(means[name], dtype=np.float64), 0.0) for name in ERRORS}
        kept["bounded_loss"] = np.minimum(kept["bounded_loss"], 1.0)
        spread = {name: factor * kept[name] ** 2 for name, factor in zip(ERRORS, self.dispersion, strict=True)}
        return RowEstimates(kept, spread, scores, np.zeros(len(scores)) if outside is None else outside)

    def expect(self, columns: Mapping[str, Any]) -> Expected:
        """``estimate``, summed up."""
        return self.estimate(columns).total(self.fitted_rows)

    def gap(
        self,
        rows: RowEstimates,
        losses: FloatArray,
        prediction: FloatArray,
        target: FloatArray,
        weights: FloatArray | None = None,
    ) -> GapSums:
        """Compare labels with what was expected; see ``ClassificationEstimator.gap``."""
        places = self.bins.index(rows.scores)
        return GapSums.of(losses, rows.means["bounded_loss"], None, None, places, self.bins.size, weights)

    @property
    def columns(self) -> frozenset[str]:
        """Inputs that it must see."""
        return frozenset(self.errors.bins) - {SCORE}

    @property
    def auc_cells(self) -> None:
        """There is no such area."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": "regression",
            "errors": self.errors.to_json(),
            "dispersion": list(self.dispersion),
            **_common_json(self),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        errors = BoostedTrees.from_json(content["errors"])
        return cls(errors, tuple(content["dispersion"]), **_common(content))


Estimator = ClassificationEstimator | RegressionEstimator


def estimator_from_json(content: Mapping[str, Any]) -> Estimator:
    """Rebuild an estimator from its ``to_json``.

    Raises:
        ValueError: It is neither of the two kinds.
    """
    kinds: dict[str, type[Estimator]] = {
        "classification": ClassificationEstimator,
        "regression": RegressionEstimator,
    }
    if content["kind"] not in kinds:
        raise ValueError(f"unknown kind of estimator {content['kind']!r}")
    return kinds[content["kind"]].from_json(content)


def _dot(left: FloatArray, right: FloatArray) -> FloatArray:
    """Sum of the products of each row [n]; several times faster than ``sum`` over so short an axis."""
    return np.asarray(np.einsum("nk,nk->n", left, right), dtype=np.float64)


def _common_json(estimator: Estimator) -> dict[str, Any]:
    windows = {str(window): gap.to_json() for window, gap in estimator.windows.items()}
    return {"bins": estimator.bins.edges.tolist(), "fitted_rows": estimator.fitted_rows, "windows": windows}


def _common(content: Mapping[str, Any]) -> dict[str, Any]:
    windows = {int(window): GapSums.from_json(gap) for window, gap in content["windows"].items()}
    bins = NumericBins(content["bins"])
    return {"bins": bins, "fitted_rows": content["fitted_rows"], "windows": dict(sorted(windows.items()))}
