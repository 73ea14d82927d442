"""Intervals and tests of a weighted mean."""

import numpy as np
from scipy import stats

from ray_mlops.evaluation.intervals import Interval
from ray_mlops.evaluation.rows import Floats, sum_products


def weighted_mean(values: Floats, weight: Floats) -> tuple[float, float]:
    """Return a weighted mean of rows [n] and its standard error; NaN without two rows of positive weight.

    The error is that of a ratio of sums, so that unequal weights widen it.

    Example:
        >>> mean, error = weighted_mean(np.array([1.0, 2.0, 3.0]), np.ones(3))
        >>> mean, round(error, 4)
        (2.0, 0.5774)
    """
    total, used = float(weight.sum()), int((weight > 0).sum())
    if used == 0:
        return np.nan, np.nan
    mean = sum_products(weight, values) / total
    if used == 1:
        return mean, np.nan
    variance = sum_products(weight**2, (values - mean) ** 2) / total**2 * used / (used - 1)
    return mean, float(np.sqrt(variance))


def mean_interval(values: Floats, weight: Floats, confidence: float) -> Interval:
    """Return the two-sided Student interval of a weighted mean."""
    mean, error = weighted_mean(values, weight)
    used = int((weight > 0).sum())
    reach = float(stats.t.ppf((1 + confidence) / 2, used - 1)) * error if used > 1 else np.nan
    return Interval(mean, mean - reach, mean + reach)


def rate_interval(hits: Floats, weight: Floats, confidence: float) -> Interval:
    """Return the Wilson interval of a share, from rows that are 0 or 1 [n]; it has a width at 0 and 1 too.

    Unequal weights reduce the number of rows to Kish's effective one.

    References:
        Wilson (1927), Probable inference, doi:10.1080/01621459.1927.10502953.

    Example:
        >>> rate_interval(np.zeros(10), np.ones(10), 0.95).high.__round__(4)
        0.2775
    """
    total = float(weight.sum())
    if total <= 0:
        return Interval(np.nan, np.nan, np.nan)
    share = sum_products(weight, hits) / total
    size = total**2 / sum_products(weight, weight)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    reach = z / (1 + z**2 / size) * float(np.sqrt(share * (1 - share) / size + z**2 / (4 * size**2)))
    return Interval(share, max(centre - reach, 0.0), min(centre + reach, 1.0))


def p_value_above(mean: float, error: float, rows: int, limit: float) -> float:
    """Return the one-sided p-value of "the true mean is at most ``limit``"; 1 where nothing can be said.

    Example:
        >>> round(p_value_above(mean=0.05, error=0.02, rows=500, limit=0.0), 4)
        0.0064
    """
    if not np.isfinite(mean) or not np.isfinite(error) or rows < 2:
        return 1.0
    if error == 0:
        return 0.0 if mean > limit else 1.0
    return float(stats.t.sf((mean - limit) / error, rows - 1))


def holm_adjust(p_values: Floats) -> Floats:
    """Adjust p-values [k] for looking at all of them; keeps the family-wise error rate.

    References:
        Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian J. Statistics 6:65-70.

    Example:
        >>> holm_adjust(np.array([0.01, 0.04, 0.03])).round(2).tolist()
        [0.03, 0.06, 0.06]
    """
    count = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * (count - np.arange(count)))
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
