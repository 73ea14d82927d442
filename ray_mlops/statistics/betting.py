"""Evidence about the mean of bounded numbers, by betting against the null hypothesis.

A gambler stakes a fixed share of the wealth on each number being above (or below) the hypothetical mean.
Under the null hypothesis wealth is a supermartingale that starts at 1, so that it ever reaches
``1 / alpha`` with probability at most ``alpha``, whatever the distribution of the numbers, and however
often one looks (Ville's inequality). The wealth of several gamblers with different stakes is averaged.

With fixed stakes the wealth is a plain product: it does not depend on the order of the numbers, and takes
about a millisecond for 20,000 of them.

References:
    Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 86 (2024),
    doi:10.1093/jrsssb/qkad009. We mix over fixed stakes where they adapt one stake to the past.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

STAKES: FloatArray = np.geomspace(0.01, 0.99, 12)
"""Shares of the largest stake that cannot go bankrupt. The prior of each is proportional to its square root:
small stakes only pay over many numbers, where a small prior costs little."""

_CHUNK = 32
"""Factors multiplied before one logarithm is taken: far from overflow, since each is at least 0.01."""


def log_e_mean_above(values: Any, mean: float) -> float:
    """Return the log evidence that numbers in [0, 1] have a mean above ``mean``.

    H0: given its past, no number has an expectation above ``mean``. Without numbers the evidence is 0.

    Args:
        values: Numbers [n] in [0, 1], one for each independent unit. NaN is refused.
        mean: The hypothetical mean; from 1 on there is never evidence.

    Raises:
        ValueError: A number is outside [0, 1], or is NaN.

    Example:
        >>> log_e_mean_above([0.9] * 10, 0.5) > 3.0 > 0.0 > log_e_mean_above([0.1] * 10, 0.5)
        True
    """
    x = _bounded(values, 0.0, 1.0)
    if not len(x) or mean >= 1.0:
        return 0.0
    if mean <= 0.0:
        return inf if (x > 0).any() else 0.0
    return _log_mean_wealth(x / mean - 1.0)


def log_e_mean_below(values: Any, mean: float) -> float:
    """Return the log evidence that numbers in [0, 1] have a mean below ``mean``: H0, at or above it."""
    return log_e_mean_above(1.0 - _bounded(values, 0.0, 1.0), 1.0 - mean)


def log_e_paired_regression(differences: Any, tolerance: float = 0.0) -> float:
    """Return the log evidence that the candidate loses more than the champion on the same units.

    H0: mean difference <= tolerance.

    Args:
        differences: Candidate's loss minus champion's [n], in [-1, 1].
        tolerance: How much more is still no regression.
    """
    return log_e_mean_above((_bounded(differences, -1.0, 1.0) + 1.0) / 2.0, (tolerance + 1.0) / 2.0)


def log_e_paired_noninferiority(differences: Any, margin: float) -> float:
    """Return the log evidence that the candidate loses less than ``margin`` more than the champion.

    H0: mean difference >= margin. Arguments as for ``log_e_paired_regression``.
    """
    return log_e_mean_below((_bounded(differences, -1.0, 1.0) + 1.0) / 2.0, (margin + 1.0) / 2.0)


def log_e_difference(losses: Any, is_candidate: Any, weights: Any, margin: float = 0.0) -> float:
    """Return the log evidence that the candidate's mean loss is more than ``margin`` above the champion's.

    Each unit was answered by one arm only. H0: for each unit, given the past, the expected loss on the
    candidate is at most ``margin`` above that on the champion. With b the mean loss of all earlier units, the
    score ``z (y - b) / w - (1 - z) (y - b) / (1 - w)`` has exactly that difference as its expectation, because
    the arm z was drawn with probability w independently of the unit: so betting on it is valid, and b takes out
    most of its variance. Non-inferiority is the same test with the arms exchanged:
    ``log_e_difference(losses, ~is_candidate, 1 - weights, -margin)``.

    Args:
        losses: Losses [n] in [0, 1] of units in order of arrival; a unit is a request or a user.
        is_candidate: Which arm the unit was assigned to [n].
        weights: Probability with which it was assigned to the candidate [n] or a scalar; units for which it
            is not strictly between 0 and 1 are left out.
        margin: Difference that is still no regression, in (-1, 1).

    Raises:
        ValueError: A loss is outside [0, 1] or NaN, or the margin outside (-1, 1).

    References:
        Waudby-Smith and Ramdas (above) on the inverse-propensity score of Robins and Rotnitzky; with a
        predictable baseline as in Howard et al., doi:10.1214/20-AOS1991, corollary 2.
    """
    if not -1.0 < margin < 1.0:
        raise ValueError(f"the margin must lie in (-1, 1), got {margin}")
    y = _bounded(losses, 0.0, 1.0)
    z, w = np.broadcast_to(np.asarray(is_candidate, dtype=bool), y.shape), np.broadcast_to(weights, y.shape)
    randomised = (w > 0) & (w < 1)
    y, z, w = y[randomised], z[randomised], w[randomised]
    if not len(y):
        return 0.0
    baseline = (0.5 + np.concatenate(([0.0], np.cumsum(y)[:-1]))) / np.arange(1, len(y) + 1)
    score = np.where(z, (y - baseline) / w, (baseline - y) / (1.0 - w))
    lowest = np.maximum(baseline / w, (1.0 - baseline) / (1.0 - w))  # the score is never below minus this
    # The largest stake at which wealth cannot become negative, known before the loss is; lowest >= 1 > -margin.
    return _log_mean_wealth((score - margin) / (lowest + margin))


@dataclass(frozen=True, slots=True)
class BetAboveMean:
    """The evidence of ``log_e_mean_above``, taken up number by number.

    Immutable: ``updated`` returns the next state. Half of the state is a constant, so that a stored state
    stays valid when the default stakes change.

    Args:
        mean: The hypothetical mean, in (0, 1). H0: no number's expectation is above it.
        stakes: Shares of the largest stake [K], in (0, 1).
        log_wealth: Log wealth of each stake [K].
        n: Numbers seen.

    Example:
        >>> BetAboveMean(0.1).updated([1.0, 1.0, 1.0]).log_e > 4.0
        True
    """

    mean: float
    stakes: tuple[float, ...] = tuple(STAKES.tolist())
    log_wealth: tuple[float, ...] = field(default=())
    n: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.mean < 1.0:
            raise ValueError(f"the mean must lie in (0, 1), got {self.mean}")
        if not self.log_wealth:
            object.__setattr__(self, "log_wealth", (0.0,) * len(self.stakes))

    @property
    def log_e(self) -> float:
        """Log of the wealth, averaged by the stakes' prior."""
        return float(np.logaddexp.reduce(np.asarray(self.log_wealth) + log_prior(np.asarray(self.stakes))))

    def increments(self, value: float) -> FloatArray:
        """Return the log factor of each stake's wealth [K] for one number in [0, 1]."""
        gain = float(_bounded([value], 0.0, 1.0)[0]) / self.mean - 1.0
        factors: FloatArray = np.log1p(np.asarray(self.stakes) * gain)
        return factors

    def updated(self, values: Any) -> Self:
        """Return the state after further numbers [n] in [0, 1]."""
        x = _bounded(values, 0.0, 1.0)
        wealth = np.asarray(self.log_wealth) + _log_products(x / self.mean - 1.0, np.asarray(self.stakes))
        return type(self)(self.mean, self.stakes, tuple(wealth.tolist()), self.n + len(x))

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "stakes": list(self.stakes), "log_wealth": list(self.log_wealth), "n": self.n}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(content["mean"], tuple(content["stakes"]), tuple(content["log_wealth"]), content["n"])


def log_prior(stakes: FloatArray) -> FloatArray:
    """Return the log prior [K] of stakes [K]."""
    weights = np.sqrt(stakes)
    logs: FloatArray = np.log(weights / weights.sum())
    return logs


def _bounded(values: Any, low: float, high: float) -> FloatArray:
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(x) and not (x.min() >= low - 1e-9 and x.max() <= high + 1e-9):
        raise ValueError(f"numbers must lie in [{low:g}, {high:g}] and not be NaN, got {x.min()}..{x.max()}")
    return np.clip(x, low, high)


def _log_mean_wealth(gains: FloatArray) -> float:
    return float(np.logaddexp.reduce(_log_products(gains, STAKES) + log_prior(STAKES)))


def _log_products(gains: FloatArray, stakes: FloatArray) -> FloatArray:
    """Return ``log(1 + stake * gains).sum()`` for each stake [K] and gains [n] >= -1, with few logarithms."""
    whole = len(gains) - len(gains) % _CHUNK
    columns, rest = gains[:whole].reshape(_CHUNK, -1), gains[whole:]
    sums = [np.log(np.multiply.reduce(1.0 + s * columns)).sum() + np.log1p(s * rest).sum() for s in stakes]
    return np.array(sums, dtype=np.float64)
