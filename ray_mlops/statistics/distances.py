"""How far two distributions are apart, and how far chance alone would put them.

Distances are for people; decisions are made with e-processes. Each takes counts on the same bins. The
expectations are for independent rows of one distribution: n of one sample, m of the other. Real rows of one
window are more alike, so a distance is called noise only by comparison with both.
"""

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_MEAN_KOLMOGOROV = 0.8687311606
"""Mean of the limit of ``sqrt(n) * sup |F_n - F|``: sqrt(pi / 2) log 2."""


def total_variation(counts: Any, reference: Any) -> float:
    """Return half the L1 distance of the shares, in [0, 1]; 0 where a sample is empty.

    Example:
        >>> total_variation([1, 1], [1, 3])
        0.25
    """
    return float(np.abs(shares(counts) - shares(reference)).sum() / 2.0) if _both(counts, reference) else 0.0


def jensen_shannon(counts: Any, reference: Any) -> float:
    """Return the Jensen-Shannon divergence in nats, in [0, log 2]; its root is a distance."""
    if not _both(counts, reference):
        return 0.0
    p, q = shares(counts), shares(reference)
    middle = (p + q) / 2.0
    return max(float((_entropy_terms(p, middle) + _entropy_terms(q, middle)).sum() / 2.0), 0.0)


def hellinger(counts: Any, reference: Any) -> float:
    """Return the Hellinger distance, in [0, 1]."""
    if not _both(counts, reference):
        return 0.0
    p, q = shares(counts), shares(reference)
    return float(sqrt(max(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() / 2.0, 0.0)))


def psi(counts: Any, reference: Any) -> float:
    """Return the population stability index ``sum (p - q) log(p / q)``, with half a row added to each bin."""
    if not _both(counts, reference):
        return 0.0
    p, q = shares(np.asarray(counts) + 0.5), shares(np.asarray(reference) + 0.5)
    return float(((p - q) * np.log(p / q)).sum())


def kolmogorov_smirnov(counts: Any, reference: Any) -> float:
    """Return the largest distance of the cumulative shares at a bin's edge; bins in their natural order."""
    if not _both(counts, reference):
        return 0.0
    return float(np.abs(np.cumsum(shares(counts) - shares(reference))).max())


def wasserstein(counts: Any, reference: Any, edges: Any) -> float:
    """Return the 1-Wasserstein distance in the column's unit, as if rows were spread evenly in their bins.

    What lies below or above the edges counts as lying on them: the true distance may be larger.

    Args:
        counts: Counts laid out as ``NumericBins`` does it [K + 3]; nulls are left out.
        reference: The same of the reference.
        edges: Edges [K + 1].
    """
    first, second = np.asarray(counts, dtype=np.float64)[:-1], np.asarray(reference, dtype=np.float64)[:-1]
    if not _both(first, second):
        return 0.0
    gap = np.cumsum(shares(first) - shares(second))[:-1]  # of the cumulative shares, at each edge [K + 1]
    left, right = gap[:-1], gap[1:]
    crosses = left * right < 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        crossing = (left**2 + right**2) / (2.0 * (np.abs(left) + np.abs(right)))
    area = np.where(crosses, crossing, np.abs(left + right) / 2.0)
    return float((area * np.diff(np.asarray(edges, dtype=np.float64))).sum())


def wasserstein_of_sums(counts: Any, reference: Any, sums: Any, reference_sums: Any) -> float:
    """Return the 1-Wasserstein distance in the column's unit, as if the rows of a bin lay on their mean.

    Knows how far out the tails are, below and above the edges too: closer to the truth than ``wasserstein``.

    Args:
        counts: Counts laid out as ``NumericBins`` does it [K + 3]; nulls are left out.
        reference: The same of the reference.
        sums: Sums of the numbers counted by each counter [K + 2] (``bin_sums``).
        reference_sums: The same of the reference.

    Example:
        >>> wasserstein_of_sums([0, 2, 0, 0], [0, 2, 0, 0], [0.0, 3.0, 0.0], [0.0, 1.0, 0.0])
        1.0
    """
    parts = [np.asarray(part, dtype=np.float64)[:-1] for part in (counts, reference)]
    if not _both(*parts):
        return 0.0
    used = [part > 0 for part in parts]
    totals = (np.asarray(sums, dtype=np.float64), np.asarray(reference_sums, dtype=np.float64))
    places = np.concatenate([total[some] / part[some] for total, part, some in zip(totals, parts, used, strict=True)])
    weights = np.concatenate([shares(parts[0])[used[0]], -shares(parts[1])[used[1]]])
    order = np.argsort(places, kind="stable")
    gaps = np.cumsum(weights[order])[:-1]
    return float(np.abs(gaps) @ np.diff(places[order]))


def expected_total_variation(reference: Any, n: float, m: float) -> float:
    """Return the expected total variation under no change: ``1/2 sum sqrt(2 q (1 - q) / pi) sqrt(1/n + 1/m)``."""
    if not (n > 0 and m > 0 and np.sum(reference) > 0):
        return 0.0
    q = shares(reference)
    return float(min(np.sqrt(2.0 * q * (1.0 - q) / np.pi).sum() / 2.0 * sqrt(1.0 / n + 1.0 / m), 1.0))


def expected_psi(reference: Any, n: float, m: float) -> float:
    """Return the expected PSI under no change: about chi-squared, ``(K - 1) (1/n + 1/m)`` for K bins in use."""
    return _per_bin(reference) * (1.0 / n + 1.0 / m) if n > 0 and m > 0 else 0.0


def expected_jensen_shannon(reference: Any, n: float, m: float) -> float:
    """Return the expected Jensen-Shannon divergence under no change: an eighth of the expected PSI."""
    return expected_psi(reference, n, m) / 8.0


def expected_hellinger(reference: Any, n: float, m: float) -> float:
    """Return the root of the expected squared Hellinger distance under no change."""
    return min(sqrt(expected_psi(reference, n, m) / 8.0), 1.0)


def expected_kolmogorov_smirnov(n: float, m: float) -> float:
    """Return the expected Kolmogorov-Smirnov distance under no change, of continuous columns."""
    return min(_MEAN_KOLMOGOROV * sqrt(1.0 / n + 1.0 / m), 1.0) if n > 0 and m > 0 else 0.0


def expected_wasserstein(reference: Any, edges: Any, n: float, m: float) -> float:
    """Return the expected 1-Wasserstein distance under no change, in the column's unit."""
    inside = np.asarray(reference, dtype=np.float64)[:-1]
    if not (n > 0 and m > 0 and inside.sum() > 0):
        return 0.0
    below = np.cumsum(shares(inside))[:-1]
    deviation = np.sqrt(2.0 / np.pi * np.clip(below * (1.0 - below), 0.0, None) * (1.0 / n + 1.0 / m))
    widths = np.diff(np.asarray(edges, dtype=np.float64))
    return float(((deviation[:-1] + deviation[1:]) / 2.0 * widths).sum())


def is_noise(value: float, expected: float) -> bool:
    """Whether a distance is below twice what chance alone gives."""
    return value < 2.0 * expected


def typical(distance: Callable[[Any, Any], float], windows: Any) -> float:
    """Return the median distance of each window from all the others together, over windows' counts [W, size]."""
    table = np.asarray(windows, dtype=np.int64)
    if len(table) < 2:
        return 0.0
    total = table.sum(axis=0)
    return float(np.median([distance(window, total - window) for window in table]))


def shares(counts: Any) -> FloatArray:
    """Return counts as shares of their sum."""
    values = np.asarray(counts, dtype=np.float64)
    return np.asarray(values / values.sum(), dtype=np.float64)


def _both(counts: Any, reference: Any) -> bool:
    return bool(np.sum(counts) > 0 and np.sum(reference) > 0)


def _entropy_terms(p: FloatArray, middle: FloatArray) -> FloatArray:
    ratio = np.divide(p, middle, out=np.ones_like(p), where=middle > 0.0)
    return np.asarray(p * np.log(np.where(p > 0.0, ratio, 1.0)), dtype=np.float64)


def _per_bin(reference: Any) -> float:
    return float(max((np.asarray(reference) > 0).sum() - 1, 0))
