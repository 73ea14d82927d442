"""Confidence sequences: bounds that hold at every sample size at once.

A bound at level ``alpha`` is wrong at any time at all with probability at most ``alpha``, so one may look
at it after every row and stop whenever one likes.
"""

from collections.abc import Callable
from math import log, log1p
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ray_mlops.statistics.betting import log_e_mean_above, log_e_mean_below
from ray_mlops.statistics.counts import sample_ratio_log_e

__all__ = [
    "Interval",
    "betting_interval",
    "empirical_bernstein_interval",
    "error_upper_bound",
    "log_e_rate_above",
    "log_e_rate_below",
    "paired_interval",
    "running_empirical_bernstein",
    "sample_ratio_log_e",
]

FloatArray = npt.NDArray[np.float64]

_RATIOS = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99])
_LOG_PRIOR = np.log(np.array([0.57, 0.14, 0.11, 0.05, 0.04, 0.03, 0.02, 0.02, 0.02]))
"""Alternatives of ``error_upper_bound``, as shares of the bound: most of the prior is on none at all."""


_SHARES_ABOVE = np.geomspace(0.01, 0.9, 12)
"""Alternatives of ``log_e_rate_above``: how far they lie on the way from the rate to 1."""


class Interval(NamedTuple):
    """Both ends belong to it."""

    lower: float
    upper: float


def error_upper_bound(errors: int, n: int, alpha: float = 0.05) -> float:
    """Return a number that the probability of an error is below, at every n at once.

    The bound is the smallest rate that a mixture of likelihood ratios, against rates below it, rejects.
    Without errors it is below 1 % from 329 units on (alpha .05), where a fixed-n test needs 299.

    Args:
        errors: Units that failed.
        n: Units.
        alpha: Probability that the bound is ever wrong.

    Returns:
        The bound, in (0, 1]; 1 without units.

    References:
        Howard et al., Time-uniform, nonparametric, nonasymptotic confidence sequences,
        doi:10.1214/20-AOS1991 (mixtures of likelihood ratios). Our prior is discrete and relative to the bound.

    Example:
        >>> error_upper_bound(0, 328) > 0.01 > error_upper_bound(0, 329)
        True
    """
    if not 0 <= errors <= n:
        raise ValueError(f"got {errors} errors in {n} units")
    needed = log(1.0 / alpha)
    low, high = 0.0, 1.0  # the evidence against a rate rises with the rate
    while high - low > 1e-7:
        middle = (low + high) / 2.0
        is_rejected = float(log_e_rate_below(errors, n, middle)) >= needed
        low, high = (low, middle) if is_rejected else (middle, high)
    return high


def log_e_rate_below(errors: Any, n: Any, rate: float) -> FloatArray:
    """Return the log evidence that the probability of an error is below ``rate``.

    H0: it is at least ``rate``. ``error_upper_bound`` is the smallest rate against which this reaches
    ``log(1 / alpha)``.

    Args:
        errors: Units that failed [...].
        n: Units [...]; the same shape.
        rate: The hypothetical probability, in (0, 1).

    Example:
        >>> float(log_e_rate_below(0, 400, 0.01)) > 3.0 > float(log_e_rate_below(4, 400, 0.01))
        True
    """
    e, total = np.asarray(errors, dtype=np.float64)[..., None], np.asarray(n, dtype=np.float64)[..., None]
    gains = np.log1p(-_RATIOS * rate) - log1p(-rate)
    losses = np.log(np.maximum(_RATIOS, 1e-300))  # with an error, "none at all" is out
    evidence: FloatArray = np.logaddexp.reduce(_LOG_PRIOR + e * losses + (total - e) * gains, axis=-1)
    return evidence


def log_e_rate_above(errors: int, n: int, rate: float) -> float:
    """Return the log evidence that the probability of an error is above ``rate``; H0: it is at most ``rate``.

    Args:
        errors: Units that failed.
        n: Units.
        rate: The hypothetical probability, in (0, 1).

    Example:
        >>> log_e_rate_above(30, 100, 0.1) > 3.0 > 0.0 > log_e_rate_above(10, 100, 0.1)
        True
    """
    above = rate + (1.0 - rate) * _SHARES_ABOVE
    evidence = errors * np.log(above / rate) + (n - errors) * (np.log1p(-above) - log1p(-rate))
    return float(np.logaddexp.reduce(evidence)) - log(len(above))


def empirical_bernstein_interval(values: Any, alpha: float = 0.05) -> Interval:
    """Return a time-uniform confidence interval for the mean of numbers [n] in [0, 1], after the last.

    Quick to compute and to update, but wider than ``betting_interval``.
    """
    lower, upper = running_empirical_bernstein(values, alpha)
    return Interval(float(lower[-1]), float(upper[-1])) if len(lower) else Interval(0.0, 1.0)


def running_empirical_bernstein(values: Any, alpha: float = 0.05) -> tuple[FloatArray, FloatArray]:
    """Return the lower and upper ends [n] of the confidence sequence after each of the numbers [n] in [0, 1].

    Ends are intersected over time: the interval never grows. If the running intersection is empty, which
    happens with probability at most alpha when the mean is constant, the mean has moved; both ends are then
    at the point where they crossed.

    References:
        Waudby-Smith and Ramdas, doi:10.1093/jrsssb/qkad009, theorem 2 (predictable plug-in).
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(x) and not (x.min() >= 0.0 and x.max() <= 1.0):
        raise ValueError(f"numbers must lie in [0, 1] and not be NaN, got {x.min()}..{x.max()}")
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    past_mean, past_variance = np.concatenate(([0.5], mean[:-1])), np.concatenate(([0.25], variance[:-1]))
    stake = np.minimum(np.sqrt(2.0 * log(2.0 / alpha) / (past_variance * t * np.log1p(t))), 0.5)
    cost = (-np.log1p(-stake) - stake) * (x - past_mean) ** 2
    total = np.cumsum(stake)
    centre, radius = np.cumsum(stake * x) / total, (log(2.0 / alpha) + np.cumsum(cost)) / total
    lower = np.maximum.accumulate(np.clip(centre - radius, 0.0, 1.0)) if len(x) else centre
    upper = np.minimum.accumulate(np.clip(centre + radius, 0.0, 1.0)) if len(x) else centre
    return np.minimum(lower, upper), np.maximum(lower, upper)


def betting_interval(values: Any, alpha: float = 0.05, tolerance: float = 1e-4) -> Interval:
    """Return a time-uniform confidence interval for the mean of numbers [n] in [0, 1], after the last.

    It holds the means that neither ``log_e_mean_above`` nor ``log_e_mean_below`` rejects at ``alpha / 2``, so it
    never contradicts a decision made with them.

    Args:
        values: Numbers [n] in [0, 1].
        alpha: Probability that the interval ever misses the mean.
        tolerance: The ends are rounded outwards by at most this.

    Example:
        >>> low, high = betting_interval([0.2, 0.3] * 200)
        >>> low < 0.25 < high < 0.35
        True
    """
    x = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(x):
        return Interval(0.0, 1.0)
    mean, limit = float(x.mean()), log(2.0 / alpha)
    lower = _last_rejected(lambda m: log_e_mean_above(x, m) - limit, 0.0, mean, tolerance)
    upper = _last_rejected(lambda m: log_e_mean_below(x, m) - limit, 1.0, mean, tolerance)
    return Interval(lower, upper)


def paired_interval(differences: Any, alpha: float = 0.05, tolerance: float = 2e-4) -> Interval:
    """Return ``betting_interval`` for the mean of differences [n] in [-1, 1]."""
    scaled = (np.asarray(differences, dtype=np.float64) + 1.0) / 2.0
    lower, upper = betting_interval(scaled, alpha, tolerance / 2.0)
    return Interval(2.0 * lower - 1.0, 2.0 * upper - 1.0)


def _last_rejected(excess: Callable[[float], float], outer: float, mean: float, tolerance: float) -> float:
    """Return the hypothesis nearest to the mean that is still rejected, to within ``tolerance``.

    ``excess`` falls from ``outer``, which is an end of the range, to ``mean``, where it is negative.
    """
    rejected, kept = outer, mean
    above, below = 1.0, excess(mean)
    while abs(kept - rejected) > tolerance:
        share = 0.5 if rejected == outer else min(max(above / (above - below), 0.1), 0.9)  # regula falsi, kept honest
        middle = rejected + share * (kept - rejected)
        value = excess(middle)
        if value >= 0.0:
            rejected, above = middle, value
        else:
            kept, below = middle, value
    return rejected
