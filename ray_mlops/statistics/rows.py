"""Evidence of change from counts of rows, for want of enough reference windows.

Valid only if each row, given all rows before it, comes from a distribution within a tolerance of the
reference. Real rows of one day are far more alike than that: where there are windows enough, use
``statistics.windows``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial import legendre

from ray_mlops.statistics.bins import Bins, NumericBins

FloatArray = npt.NDArray[np.float64]

_SHIFT_STAKES = (-0.6, -0.2, 0.2, 0.6)
_BIN_STAKES = (-0.5, 0.5, 2.0)


def reference_error(num_bins: int, num_rows: float, alpha: float) -> float:
    """Return a total variation that counts of independent rows stay within, but for probability ``alpha``.

    References:
        Weissman et al., Inequalities for the L1 deviation of the empirical distribution (2003).

    Example:
        >>> round(reference_error(34, 20_000, 0.01), 3)
        0.027
    """
    return 0.5 * sqrt(2.0 * (num_bins * log(2.0) + log(1.0 / alpha)) / num_rows) if num_rows > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class RowBets:
    """Bets that rows fall into bins otherwise than the reference's, by more than a tolerance.

    Bet j gains ``1 + stake * phi_j(bin)`` on each row, where phi is centred under the reference, divided by the
    most that a distribution within total variation ``epsilon`` of it could make of that on average. phi is a
    Legendre polynomial of the rank (numeric columns), or one bin against the rest.

    Args:
        bins: The column's bins.
        reference: The reference's counts [size].
        epsilon: Total variation that is tolerated, the reference's own error included (``reference_error``).
    """

    bins: Bins
    reference: npt.NDArray[np.int64]
    epsilon: float
    _log_gains: FloatArray = field(init=False, repr=False)
    """Log gain of each bet on a row of each bin [J, size], tolerance deducted."""

    def __post_init__(self) -> None:
        share = (self.reference + 0.5) / (self.reference.sum() + 0.5 * len(self.reference))
        rows = []
        for phi, stakes in [*self._shifts(share), *self._single_bins(share)]:
            span = phi.max() - phi.min()
            for stake in stakes:
                if (1.0 + stake * phi).min() > 0.05:
                    rows.append(np.log1p(stake * phi) - np.log1p(abs(stake) * self.epsilon * span))
        object.__setattr__(self, "_log_gains", np.array(rows).reshape(-1, len(share)))

    @property
    def num_bets(self) -> int:
        return len(self._log_gains)

    def log_es(self, counts: Any, effective_share: float = 1.0) -> FloatArray:
        """Return the log e-value of each bet [J] for one window's counts [size].

        Args:
            counts: Rows in each bin.
            effective_share: Independent rows that a row is worth, in (0, 1]; scales the evidence down.
        """
        evidence: FloatArray = self._log_gains @ np.asarray(counts, dtype=np.float64) * effective_share
        return evidence

    def _shifts(self, share: FloatArray) -> Sequence[tuple[FloatArray, tuple[float, ...]]]:
        if not isinstance(self.bins, NumericBins) or not share[:-1].sum() > 0.0:
            return []
        rank = np.append(mid_ranks(share[:-1]), 0.5)
        phis = []
        for degree in (1, 2, 3):
            phi = legendre.legval(2.0 * rank - 1.0, [0.0] * degree + [1.0])
            phi[-1] = 0.0  # null has no rank
            phi = phi - share @ phi
            largest = np.abs(phi).max()
            if largest > 0.0:
                phis.append((phi / largest, _SHIFT_STAKES))
        return phis

    def _single_bins(self, share: FloatArray) -> Sequence[tuple[FloatArray, tuple[float, ...]]]:
        return [(np.eye(len(share))[k] - share[k], _BIN_STAKES) for k in range(len(share))]


def mid_ranks(weights: Any) -> FloatArray:
    """Return the mid-rank of each bin in [0, 1]: the share below it plus half its own.

    Example:
        >>> mid_ranks([1, 2, 1]).tolist()
        [0.125, 0.5, 0.875]
    """
    w = np.asarray(weights, dtype=np.float64)
    return np.asarray((np.cumsum(w) - w / 2.0) / w.sum(), dtype=np.float64)
