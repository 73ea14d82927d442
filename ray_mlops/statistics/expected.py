"""Metrics of rows whose labels are not known, as sums: those of disjoint rows add up with ``+``.

Each row has an expected loss, and a variance of the loss about it, for its label is still to be drawn. A window's
estimate is the mean of the first; what labels will show scatters about it as the second says.

References:
    Kivimaki et al., Performance Estimation in Binary Classification Using Calibrated Confidence, arXiv:2505.05295
    (given the scores, counts of right answers are Poisson binomial: their variance is the sum of p (1 - p)).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

FloatArray = npt.NDArray[np.float64]

ROWS, POSITIVES, VARIANCE = 0, 1, 2
"""Rows of ``Expected.cells``."""
_BOUNDED = ("accuracy", "auc", "brier", "bounded_loss")
"""Metrics that lie in [0, 1]; the others are not negative."""


class Estimated(NamedTuple):
    """A metric that is expected, and where labels will show it to lie."""

    value: float
    lower: float
    upper: float

    def to_json(self) -> dict[str, float]:
        return self._asdict()


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """Sums over some rows."""

    n: int = 0
    outside: float = 0.0
    """Rows, or shares of rows, that lie outside what the estimator was fitted on."""
    fitted_rows: int = 0
    """Rows that the estimator was fitted on."""
    sums: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """By metric of single rows: sum of the expectations, sum of the variances. ``mse`` stands for ``rmse``."""
    cells: FloatArray | None = None
    """By score cell: rows, expected positives, sum of p (1 - p) [3, K]; binary only."""
    area: tuple[float, float] | None = None
    """``binned_auc`` of rows whose cells were let go."""

    def __add__(self, other: "Expected") -> "Expected":
        if not self.n or not other.n:
            return self if self.n else other
        both = {
            name: (self.sums[name][0] + other.sums[name][0], self.sums[name][1] + other.sums[name][1])
            for name in self.sums
            if name in other.sums
        }
        alike = self.cells is not None and other.cells is not None and self.cells.shape == other.cells.shape
        cells = self.cells + other.cells if alike else None  # type: ignore[operator]
        fitted = min(self.fitted_rows, other.fitted_rows)
        area = self.area or other.area
        return Expected(self.n + other.n, self.outside + other.outside, fitted, both, cells, area)

    def settled(self) -> "Expected":
        """The same in little memory: rows that are added later do not change the area under the curve any more."""
        area = None if self.cells is None else binned_auc(self.cells)
        return replace(self, cells=None, area=area or self.area)

    def mean(self, name: str) -> float | None:
        """The estimate of a metric of single rows; None without rows."""
        return self.sums[name][0] / self.n if self.n and name in self.sums else None

    def metrics(self, coverage: float = 0.95) -> dict[str, Estimated]:
        """Every metric with the interval that labels will fall into with this probability.

        The interval holds the chance of the labels and that of the rows that the estimator was fitted on, not a
        change of what the estimator assumes. Metrics that these rows do not define are left out.
        """
        z = float(ndtri(0.5 + coverage / 2.0))
        found = {}
        for name, (value, variance) in self._moments().items():
            radius = z * sqrt(variance * (1.0 + self.n / max(self.fitted_rows, 1)))
            upper = value + radius
            found[name] = Estimated(value, max(value - radius, 0.0), min(upper, 1.0) if name in _BOUNDED else upper)
        return found

    def _moments(self) -> dict[str, tuple[float, float]]:
        """Value and variance of each metric."""
        if not self.n:
            return {}
        found = {name: (total / self.n, max(var, 0.0) / self.n**2) for name, (total, var) in self.sums.items()}
        if "mse" in found:
            value, variance = found.pop("mse")
            root = sqrt(max(value, 0.0))
            found["rmse"] = (root, variance / (4.0 * value) if value > 0.0 else 0.0)
        area = self.area if self.cells is None else binned_auc(self.cells)
        return found if area is None else {**found, "auc": area}

    def to_json(self) -> dict[str, Any]:
        """For storage, settled."""
        kept = self.settled()
        return {
            "n": self.n,
            "outside": self.outside,
            "fitted_rows": self.fitted_rows,
            "sums": {name: list(pair) for name, pair in self.sums.items()},
            "area": None if kept.area is None else list(kept.area),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Expected":
        sums = {name: (pair[0], pair[1]) for name, pair in content["sums"].items()}
        area = None if content["area"] is None else (content["area"][0], content["area"][1])
        return cls(content["n"], content["outside"], content["fitted_rows"], sums, None, area)


def binned_auc(cells: FloatArray) -> tuple[float, float] | None:
    """Return the expected area under the ROC curve of scores in cells, and its variance; None for one class only.

    Scores of one cell count as equal. A cell that holds the share w of the rows can hide at most w² / 2 pairs in
    the wrong order, so that K cells of equal mass are off by less than 1 / (2 K), and by far less where scores of
    one cell mean the same. The variance is the delta method's, given the scores.

    Args:
        cells: Rows, expected positives and sum of p (1 - p) [3, K], by rising score.

    Example:
        >>> binned_auc(np.array([[2.0, 2.0], [0.0, 2.0], [0.0, 0.0]]))
        (1.0, 0.0)
    """
    positives, negatives = cells[POSITIVES], cells[ROWS] - cells[POSITIVES]
    p, n = float(positives.sum()), float(negatives.sum())
    if not (p > 0.0 and n > 0.0):
        return None
    below = (np.cumsum(negatives) - negatives / 2.0) / n  # share of the negatives that a positive here beats
    above = 1.0 - (np.cumsum(positives) - positives / 2.0) / p
    area = float(positives @ below) / p
    effect = (below - area) / p - (above - area) / n
    return area, float(cells[VARIANCE] @ effect**2)
