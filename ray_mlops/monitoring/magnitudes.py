"""How far a window is from the reference, for people, beside what no drift would show."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.strata import stratum_of
from ray_mlops.statistics import distances
from ray_mlops.statistics.bins import Bins, ColumnCounts, FloatArray, NumericBins


@dataclass(frozen=True, slots=True)
class Magnitude:
    """One distance between a window and the reference."""

    name: str
    value: float
    expected: float
    """What no drift gives: the larger of what chance gives independent rows, and of how far a reference
    window typically is from the others."""
    is_noise: bool
    """Whether the value is below twice that."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Magnitudes:
    """Measures windows of one column against its reference."""

    def __init__(self, bins: Bins, windows: Sequence[ColumnCounts]) -> None:
        self._pooled = sum(windows, ColumnCounts.empty(bins)).counts
        self._distances: dict[str, Callable[[Any, Any], float]] = {
            "total_variation": distances.total_variation,
            "jensen_shannon": distances.jensen_shannon,
            "hellinger": distances.hellinger,
            "psi": distances.psi,
        }
        self._edges = bins.edges if isinstance(bins, NumericBins) else None
        if self._edges is not None:
            edges = self._edges
            self._distances["kolmogorov_smirnov"] = _kolmogorov_smirnov
            self._distances["wasserstein"] = lambda p, q: distances.wasserstein(p, q, edges)
        table = np.array([window.counts for window in windows if window.n]).reshape(-1, bins.size)
        self._typical = {name: distances.typical(distance, table) for name, distance in self._distances.items()}

    def measure(self, counts: ColumnCounts, sums: tuple[FloatArray, FloatArray] | None = None) -> list[Magnitude]:
        """Return every distance of one window.

        Args:
            counts: The window's counts.
            sums: Sums of numbers by bin, of the window and of the reference, where they are known: with them the
                Wasserstein distance knows its tails.
        """
        if sums is None or self._edges is None:
            return [self._magnitude(name, counts) for name in self._distances]
        moved = distances.wasserstein_of_sums(counts.counts, self._pooled, *sums)
        known = {"wasserstein": moved}
        return [self._magnitude(name, counts, known.get(name)) for name in self._distances]

    def total_variation(self, counts: ColumnCounts) -> Magnitude:
        """Return the one distance that the others are summed up by."""
        return self._magnitude("total_variation", counts)

    def _magnitude(self, name: str, counts: ColumnCounts, known: float | None = None) -> Magnitude:
        value = self._distances[name](counts.counts, self._pooled) if known is None else known
        expected = max(self._chance(name, counts.n), self._typical[name])
        return Magnitude(name, value, expected, distances.is_noise(value, expected))

    def _chance(self, name: str, n: int) -> float:
        m = int(self._pooled.sum())
        if name == "kolmogorov_smirnov":
            return distances.expected_kolmogorov_smirnov(n, m)
        if name == "wasserstein":
            return distances.expected_wasserstein(self._pooled, self._edges, n, m)
        of_counts: dict[str, Callable[[Any, float, float], float]] = {
            "total_variation": distances.expected_total_variation,
            "jensen_shannon": distances.expected_jensen_shannon,
            "hellinger": distances.expected_hellinger,
            "psi": distances.expected_psi,
        }
        return of_counts[name](self._pooled, n, m)


class StratifiedMagnitudes:
    """Measures windows of one column against the reference windows of their own stratum.

    Args:
        bins: The column's bins.
        windows: Counts of the reference's windows.
        strata: The stratum of each; empty where all are of one.
        config: What the strata are, and how long a window is.
    """

    def __init__(
        self, bins: Bins, windows: Sequence[ColumnCounts], strata: Sequence[int], config: MonitoringConfig
    ) -> None:
        self._bins, self._kind = bins, config.strata
        self._window_us = config.window // timedelta(microseconds=1)
        self._windows: dict[int, list[ColumnCounts]] = {}
        for window, stratum in zip(windows, strata or [0] * len(windows), strict=True):
            self._windows.setdefault(stratum, []).append(window)
        self._known: dict[int, Magnitudes] = {}

    @property
    def pooled(self) -> Any:
        """Counts of all reference windows together [size]."""
        windows = [window for stratum in self._windows.values() for window in stratum]
        return sum(windows, ColumnCounts.empty(self._bins)).counts

    def at(self, window: int) -> Magnitudes:
        """What measures a window of this index."""
        stratum = stratum_of(window, self._window_us, self._kind)
        if stratum not in self._known:
            self._known[stratum] = Magnitudes(self._bins, self._windows.get(stratum, []))
        return self._known[stratum]


def _kolmogorov_smirnov(counts: Any, reference: Any) -> float:
    return distances.kolmogorov_smirnov(np.asarray(counts)[:-1], np.asarray(reference)[:-1])
