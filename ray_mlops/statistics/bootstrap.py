"""Confidence intervals by resampling rows.

A resample of n rows gives row i a weight, how often it was drawn. A statistic that can use weights is
computed without copying or sorting rows anew.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[..., float]


@dataclass(frozen=True, slots=True)
class BootstrapInterval:
    """An estimate with its interval; both ends are NaN where there was nothing to resample."""

    estimate: float
    lower: float
    upper: float
    samples: int
    """Resamples on which the statistic was defined."""

    def to_json(self) -> dict[str, Any]:
        finite = {name: getattr(self, name) for name in ("estimate", "lower", "upper")}
        return {name: value if value == value else None for name, value in finite.items()} | {"samples": self.samples}


def bootstrap_interval(
    statistic: Statistic,
    arrays: Sequence[Any],
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    weighted: bool = False,
) -> BootstrapInterval:
    """Return the percentile interval of a statistic over resampled rows.

    Resamples on which the statistic is NaN (a class was not drawn, say) are left out.

    Args:
        statistic: Called with resampled arrays; or, if ``weighted``, with the arrays as they are and
            ``weight=`` how often each row was drawn [n], which saves copying them.
        arrays: Arrays with n rows each.
        samples: Resamples.
        confidence: Coverage of the interval.
        seed: The same seed draws the same rows.
        weighted: Whether the statistic takes ``weight``.

    Raises:
        ValueError: The arrays differ in length, or there are none.

    Example:
        >>> result = bootstrap_interval(lambda x: float(x.mean()), [[1.0, 2.0, 3.0, 4.0]], samples=200)
        >>> result.lower < result.estimate == 2.5 < result.upper
        True
    """
    columns = [np.asarray(array) for array in arrays]
    n = _common_length(columns)
    if not n:
        return BootstrapInterval(nan, nan, nan, 0)
    rng = np.random.default_rng(seed)
    if weighted:
        estimate = statistic(*columns, weight=np.ones(n))
        draws = [statistic(*columns, weight=weight) for weight in _weights(rng, n, samples)]
    else:
        estimate = statistic(*columns)
        picks = (rng.integers(0, n, n) for _ in range(samples))
        draws = [statistic(*(column[pick] for column in columns)) for pick in picks]
    return _interval(float(estimate), np.asarray(draws, dtype=np.float64), confidence)


def paired_bootstrap(
    statistic: Statistic,
    candidate: Any,
    champion: Any,
    arrays: Sequence[Any] = (),
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    *,
    weighted: bool = False,
) -> BootstrapInterval:
    """Return the interval of ``statistic(candidate, *arrays) - statistic(champion, *arrays)`` on the same rows.

    Args:
        statistic: As for ``bootstrap_interval``; its first argument is one model's predictions.
        candidate: The candidate's predictions, n rows.
        champion: The champion's predictions for the same rows.
        arrays: Further arguments, such as targets, n rows each.
        samples: Resamples.
        confidence: Coverage of the interval.
        seed: The same seed draws the same rows.
        weighted: Whether the statistic takes ``weight``.
    """

    def difference(first: Any, second: Any, *rest: Any, **options: Any) -> float:
        return statistic(first, *rest, **options) - statistic(second, *rest, **options)

    return bootstrap_interval(difference, [candidate, champion, *arrays], samples, confidence, seed, weighted=weighted)


def bootstrap_mean(
    values: Any, weight: Any = None, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> BootstrapInterval:
    """Return the interval of a (weighted) mean: half a second for 1,000 resamples of 100,000 rows.

    The difference of two models' means on the same rows is the mean of the rows' differences.

    Args:
        values: Numbers [n].
        weight: Non-negative weights [n] that the mean uses; None weighs all alike.
        samples: Resamples.
        confidence: Coverage of the interval.
        seed: The same seed draws the same rows.
    """
    x = np.asarray(values, dtype=np.float64)
    w = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
    if not _common_length([x, w]) or not w.sum() > 0:
        return BootstrapInterval(nan, nan, nan, 0)
    rng = np.random.default_rng(seed)
    weighted = w * x
    picks = (rng.integers(0, len(x), len(x)) for _ in range(samples))
    sums = np.array([(weighted[pick].sum(), len(x) if weight is None else w[pick].sum()) for pick in picks])
    with np.errstate(invalid="ignore"):
        draws = sums[:, 0] / sums[:, 1]  # NaN where every drawn row has weight 0
    return _interval(float(weighted.sum() / w.sum()), draws, confidence)


def _weights(rng: np.random.Generator, n: int, samples: int) -> Iterator[FloatArray]:
    """Yield how often each of n rows was drawn, once for each resample."""
    for _ in range(samples):
        yield np.bincount(rng.integers(0, n, n), minlength=n).astype(np.float64)


def _common_length(columns: Sequence[npt.NDArray[Any]]) -> int:
    lengths = {len(column) for column in columns}
    if len(lengths) != 1:
        raise ValueError(f"arrays to resample must have one common length, got {sorted(lengths)}")
    return lengths.pop()


def _interval(estimate: float, draws: FloatArray, confidence: float) -> BootstrapInterval:
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return BootstrapInterval(estimate, nan, nan, 0)
    tail = (1.0 - confidence) / 2.0
    lower, upper = np.quantile(defined, [tail, 1.0 - tail])
    return BootstrapInterval(estimate, float(lower), float(upper), len(defined))
