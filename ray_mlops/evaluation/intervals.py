"""Bootstrap intervals of any meters on the same resampled rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ray_mlops.evaluation.metrics import Meter
from ray_mlops.evaluation.rows import Floats, Ints

MAX_RESAMPLED_ROWS = 200_000
"""Above this many rows, only this many are resampled."""

BuildMeters = Callable[[Ints | None], Sequence[Meter]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its confidence interval; all NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resamples:
    """Metrics of several meters under the same resamples.

    Args:
        point: Metrics on all rows, [meters, metrics].
        drawn: Metrics under each resample, [samples, meters, metrics].
        names: Names of the metrics.
    """

    point: Floats
    drawn: Floats
    names: tuple[str, ...]

    def intervals(self, meter: int, confidence: float) -> dict[str, Interval]:
        """Return one meter's metrics with percentile intervals."""
        return self._intervals(self.point[meter], self.drawn[:, meter], confidence)

    def differences(self, first: int, second: int, confidence: float) -> dict[str, Interval]:
        """Return first minus second, metric by metric, with paired percentile intervals."""
        drawn = self.drawn[:, first] - self.drawn[:, second]
        return self._intervals(self.point[first] - self.point[second], drawn, confidence)

    def pair(self, first: int, second: int) -> "Resamples":
        """Return two of the meters, in this order."""
        return Resamples(self.point[[first, second]], self.drawn[:, [first, second]], self.names)

    def _intervals(self, point: Floats, drawn: Floats, confidence: float) -> dict[str, Interval]:
        return {
            name: percentile_interval(float(point[column]), drawn[:, column], confidence)
            for column, name in enumerate(self.names)
        }


def resample_meters(build: BuildMeters, num_rows: int, samples: int, seed: int) -> Resamples:
    """Measure several meters under ``samples`` draws of the rows with replacement.

    Each draw is one vector of multiplicities used for every meter, so that differences are paired. Rows are
    taken as independent. Of more than 200,000 rows a random 200,000 are resampled, and the spread is scaled by
    the square root of the ratio (all metrics here converge at that rate); the point estimate uses every row.

    Args:
        build: Returns the meters on some rows, given their indices; None means all rows.

    References:
        Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
    """
    generator = np.random.default_rng(seed)
    meters, used = build(None), num_rows
    point = centre = np.stack([meter.measure() for meter in meters])
    if num_rows > MAX_RESAMPLED_ROWS:
        used = MAX_RESAMPLED_ROWS
        meters = build(np.sort(generator.choice(num_rows, used, replace=False)))
        centre = np.stack([meter.measure() for meter in meters])
    drawn = np.full((samples, *point.shape), np.nan)
    for sample in range(samples if used else 0):
        counts = np.bincount(generator.integers(0, used, used), minlength=used).astype(np.float64)
        for row, meter in enumerate(meters):
            drawn[sample, row] = meter.measure(counts)
    if used < num_rows:
        drawn = point + (drawn - centre) * np.sqrt(used / num_rows)
    return Resamples(point, drawn, meters[0].names)


def percentile_interval(point: float, drawn: Floats, confidence: float) -> Interval:
    """Return the percentile interval of draws [samples], stretched if need be to hold the point.

    NaN where the point is NaN, or where more than half of the draws are.

    Example:
        >>> percentile_interval(2.0, np.arange(5.0), 0.5)
        Interval(value=2.0, low=1.0, high=3.0)
    """
    finite = drawn[np.isfinite(drawn)]
    if not np.isfinite(point) or 2 * len(finite) <= len(drawn):
        return Interval(point, np.nan, np.nan)
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(point, min(float(low), point), max(float(high), point))
