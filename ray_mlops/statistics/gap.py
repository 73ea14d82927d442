"""How labels came out beside what the scores let one expect, as sums of one window. Pure.

The mean loss of a window differs from the reference's for two reasons, and the two add up to the difference: the
rows are others, so that another loss is *expected* of them; and rows lose more (or less) *than is expected* of them,
because what is asked for has changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Moments(NamedTuple):
    """Rows, sum, and sum of squares of one number of each row; of weighted rows, with weights that sum up to ``n``."""

    n: float
    total: float
    squares: float

    @classmethod
    def of(cls, values: FloatArray, weights: FloatArray | None = None) -> "Moments":
        if weights is None or not len(values):
            return cls(len(values), float(values.sum()), float(values @ values))
        weighted = weights * values
        return cls(float(weights.sum()), float(weighted.sum()), float(weighted @ values))

    def plus(self, other: "Moments") -> "Moments":
        """Both together."""
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True, slots=True, eq=False)
class GapSums:
    """Sums over labelled rows of one window; those of disjoint rows add up with ``+``."""

    expected: Moments
    """Of the loss that was expected, in [0, 1]: what the mix of rows says."""
    excess: Moments
    """Of the loss less what was expected, in [-1, 1]: what the world says."""
    surprise: Moments
    """Of the outcome less its probability, in [-1, 1]; nothing for a regression."""
    bins: FloatArray
    """By score bin: rows, outcomes (or losses), and what was expected of them [3, B]."""

    @classmethod
    def of(
        cls, losses: FloatArray, expected: FloatArray, outcomes: FloatArray | None, chances: FloatArray | None,
        places: IntArray, num_bins: int, weights: FloatArray | None = None,
    ) -> "GapSums":  # fmt: skip
        """Sum up rows.

        Args:
            losses: In [0, 1] [n].
            expected: What was expected of them [n].
            outcomes: 0 or 1 [n], and
            chances: their probability [n]; None for a regression, of which the losses are counted by bin.
            places: Score bin of each row [n].
            num_bins: B.
            weights: Of rows [n]; None means 1.
        """
        surprise = np.zeros(0) if outcomes is None or chances is None else outcomes - chances
        shown = (losses, expected) if outcomes is None or chances is None else (outcomes, chances)
        each = np.ones(len(losses)) if weights is None else weights
        rows = [np.bincount(places, each * value, minlength=num_bins) for value in (1.0, *shown)]
        excess = Moments.of(losses - expected, weights)
        return cls(Moments.of(expected, weights), excess, Moments.of(surprise, weights), np.array(rows))

    def __add__(self, other: "GapSums") -> "GapSums":
        return GapSums(
            self.expected.plus(other.expected),
            self.excess.plus(other.excess),
            self.surprise.plus(other.surprise),
            self.bins + other.bins,
        )

    def to_json(self) -> dict[str, Any]:
        moments = {name: list(getattr(self, name)) for name in ("expected", "excess", "surprise")}
        return {**moments, "bins": self.bins.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "GapSums":
        expected, excess, surprise = (Moments(*content[name]) for name in ("expected", "excess", "surprise"))
        return cls(expected, excess, surprise, np.array(content["bins"], dtype=np.float64))
