"""The time that the champion's own answers take, watched like any other column.

It speaks at the notification level only: that a model has become slow is news, and no reason to train it anew.
There is no reference for it before a version serves, so its first windows become one.
"""

from collections.abc import Mapping
from math import log, nan
from typing import Any

import numpy as np

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.feature import FeatureMonitor, FeatureReference
from ray_mlops.monitoring.handover import LATENCY
from ray_mlops.statistics.bins import ColumnCounts, NumericBins
from ray_mlops.statistics.distances import total_variation

LATENCY_BINS = NumericBins(np.logspace(1, 8, 36))
"""Five bins a decade, from 10 us to 100 s: the same for every version, so that versions can be compared."""


class LatencyWatch:
    """Watches model time over one reference epoch."""

    def __init__(self, config: MonitoringConfig) -> None:
        self._monitor = FeatureMonitor(FeatureReference(LATENCY, LATENCY_BINS), config)
        self._limit = log(config.notification_windows)
        self._min_rows = config.min_window_rows
        self._newest: ColumnCounts | None = None

    def update(self, window: int, counts: ColumnCounts | None) -> None:
        """Take one closed window; one with too few answers is left out."""
        if counts is not None and counts.n >= self._min_rows:
            self._newest = counts
            self._monitor.update(window, counts)

    def notices(self) -> tuple[str, ...]:
        """``LATENCY`` while answers take another time than they did."""
        return (LATENCY,) if self._monitor.log_r >= self._limit else ()

    def view(self) -> dict[str, Any] | None:
        """For people, microseconds; None before the first window."""
        if self._newest is None:
            return None
        reference = sum(self._monitor.reference_windows(), ColumnCounts.empty(LATENCY_BINS))
        return {
            "status": "warming_up" if self._monitor.is_warming_up else "testing",
            "log_r": _finite(self._monitor.log_r),
            "limit": self._limit,
            "mean_us": _finite(self._newest.mean),
            "p50_us": _finite(quantile(LATENCY_BINS, self._newest, 0.5)),
            "p99_us": _finite(quantile(LATENCY_BINS, self._newest, 0.99)),
            "reference_p50_us": _finite(quantile(LATENCY_BINS, reference, 0.5)),
            "reference_p99_us": _finite(quantile(LATENCY_BINS, reference, 0.99)),
            "total_variation": total_variation(self._newest.counts, reference.counts),
        }

    def to_json(self) -> dict[str, Any]:
        return {
            "monitor": self._monitor.to_json(),
            "newest": None if self._newest is None else self._newest.to_json(),
        }

    def restore(self, content: Mapping[str, Any] | None) -> None:
        """Take up a state of the same epoch; None, from an older release, begins anew."""
        if content is not None:
            self._monitor.restore(content["monitor"])
            self._newest = None if content["newest"] is None else ColumnCounts.from_json(content["newest"])


def quantile(bins: NumericBins, counts: ColumnCounts, share: float) -> float:
    """Return a quantile of what was counted, linear within its bin; NaN without a number.

    Example:
        >>> bins = NumericBins([0.0, 10.0, 20.0])
        >>> quantile(bins, ColumnCounts.of(bins, [1.0, 2.0, 12.0, 13.0]), 0.75)
        15.0
    """
    inside = counts.counts[:-1]
    if not inside.sum():
        return nan
    below = np.cumsum(inside)[:-1] / inside.sum()
    return float(np.interp(share, below, bins.edges))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
