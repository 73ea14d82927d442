"""From a score to the probability that it stood for on rows that the model had not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationMap:
    """A rising, piecewise linear function; constant outside the scores that it was fitted on.

    Args:
        points: Scores, rising [m], m >= 1.
        values: What they stand for, not falling, in [0, 1] [m].

    Example:
        >>> CalibrationMap.fit([0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0]).of([0.0, 0.5, 0.95]).round(9).tolist()
        [0.0, 0.5, 1.0]
    """

    points: FloatArray
    values: FloatArray

    @classmethod
    def fit(cls, scores: Any, outcomes: Any) -> Self:
        """Fit by isotonic regression, the rising function with the least squared error; equal scores count as one.

        Args:
            scores: Finite numbers [n], n >= 1.
            outcomes: 0 or 1 [n].

        References:
            Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability estimates,
            KDD 2002, doi:10.1145/775047.775151. The same function as scikit-learn's ``IsotonicRegression``.
        """
        points, place, rows = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True, return_counts=True)
        means = np.bincount(place, np.asarray(outcomes, dtype=np.float64)) / rows
        values = np.asarray(isotonic_regression(means, weights=rows).x, dtype=np.float64)
        is_step = np.concatenate(([True], np.diff(values) > 0.0, [True]))
        kept = is_step[:-1] | is_step[1:]  # the first and the last point of each level
        return cls(points[kept], values[kept])

    def of(self, scores: Any) -> FloatArray:
        """Return the calibrated scores [n]."""
        return np.asarray(np.interp(np.asarray(scores, dtype=np.float64), self.points, self.values), dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        return {"points": self.points.tolist(), "values": self.values.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        points, values = (np.array(content[name], dtype=np.float64) for name in ("points", "values"))
        if points.shape != values.shape or not len(points) or (np.diff(points) <= 0.0).any():
            raise ValueError("a calibration map needs rising points, and a value for each")
        return cls(points, values)
