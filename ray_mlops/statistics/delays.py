"""How long labels take, by class, estimated while many have not come yet. Pure.

A row whose label has not come may get it tomorrow: what has come so far shows short delays more often than long
ones. Cohorts of rows of several ages tell how much is still missing, as the chain ladder of insurers does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

EDGES_S: FloatArray = np.concatenate(([0.0], np.exp2(np.arange(0, 107) / 4.0)))
"""Bins of delay: from 0 and from 1 s to 3 years, seconds, four to an octave [B + 1]."""
NUM_BINS = len(EDGES_S) - 1


def delay_bins(delays_s: FloatArray) -> IntArray:
    """The bin of each delay [n]; one below zero (clocks differ) is in the first, one beyond all edges in the last."""
    return np.clip(np.searchsorted(EDGES_S, delays_s, side="right") - 1, 0, NUM_BINS - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Rows of about one age."""

    age_s: float
    """Of the youngest row: all labels of a shorter delay have been seen."""
    rows: int
    """With and without a label."""
    arrived: IntArray
    """Labels by class and delay [k, B]."""


@dataclass(frozen=True, slots=True, eq=False)
class DelayCurves:
    """Which share of the labels has come after which time.

    Of labels that come at all: what comes later than the oldest cohort is old is not known of.
    """

    arrived: FloatArray
    """Share of each class's labels that comes sooner than each edge [k, B + 1]."""
    pooled: FloatArray
    """The same of all labels [B + 1]."""
    coverage: FloatArray
    """Share of rows that have a label sooner than each edge, those counted in that never get one [B + 1]; NaN beyond
    the oldest cohort."""
    labels: IntArray
    """Labels of each class that were seen [k]."""

    def share(self, ages_s: FloatArray, classes: IntArray | None = None) -> FloatArray:
        """Share of labels that has come for rows of an age [n]; of each row's class, or (None) of all."""
        if classes is None:
            return np.interp(ages_s, EDGES_S, self.pooled)
        shares = np.empty(len(ages_s))
        for index, curve in enumerate(self.arrived):
            own = classes == index
            shares[own] = np.interp(ages_s[own], EDGES_S, curve)
        return shares

    def quantile_s(self, share: float, index: int | None = None) -> float:
        """The delay, seconds, by which a share of a class's labels (None: of all) has come; NaN without labels."""
        curve = self.pooled if index is None else self.arrived[index]
        if not curve[-1] > 0.0:
            return float("nan")
        upper = int(np.argmax(curve >= share - 1e-12))
        if upper == 0:
            return 0.0
        low, high = curve[upper - 1], curve[upper]
        return float(EDGES_S[upper - 1] + (share - low) / (high - low) * (EDGES_S[upper] - EDGES_S[upper - 1]))


def fit_delays(cohorts: Sequence[Cohort], num_classes: int) -> DelayCurves | None:
    """Estimate the curves from cohorts of several ages; None without any label.

    References:
        Lagakos, Barraj and De Gruttola, Nonparametric analysis of truncated survival data, Biometrika 75 (1988),
        doi:10.1093/biomet/75.3.515 (delays of what has been reported); Kaplan and Meier 1958 (coverage).

    Example:
        >>> half_a_day, two_days = delay_bins(np.array([43_200.0, 172_800.0]))
        >>> old, young = np.zeros((1, NUM_BINS), np.int64), np.zeros((1, NUM_BINS), np.int64)
        >>> old[0, half_a_day], old[0, two_days], young[0, half_a_day] = 60, 40, 30
        >>> curves = fit_delays([Cohort(1e6, 200, old), Cohort(86_400.0, 100, young)], 1)
        >>> curves.share(np.array([86_400.0, 1e6])).round(2).tolist()
        [0.6, 1.0]
        >>> float(curves.coverage[two_days + 1].round(2))
        0.5
    """
    counts = np.zeros((NUM_BINS + 1, num_classes, NUM_BINS), dtype=np.int64)  # by how many bins have been seen
    rows = np.zeros(NUM_BINS + 1, dtype=np.int64)
    for cohort in cohorts:
        limit = np.searchsorted(EDGES_S[1:], cohort.age_s, side="right")
        counts[limit] += cohort.arrived
        rows[limit] += cohort.rows
    if not counts.any():
        return None
    is_seen = np.arange(NUM_BINS) < np.arange(NUM_BINS + 1)[:, None]
    seen = counts * is_seen[:, None, :]
    sooner = np.cumsum(counts, axis=2) * is_seen[:, None, :]
    arrived = np.array([_arrived(seen[:, k].sum(axis=0), sooner[:, k].sum(axis=0)) for k in range(num_classes)])
    pooled = _arrived(seen.sum(axis=(0, 1)), sooner.sum(axis=(0, 1)))
    is_seen = is_seen & (rows > 0)[:, None]
    return DelayCurves(arrived, pooled, _coverage(counts.sum(axis=1), rows, is_seen), counts.sum(axis=(0, 2)))


def _arrived(seen: IntArray, sooner: IntArray) -> FloatArray:
    """Share that comes before each edge [B + 1], by the hazard backwards in time."""
    hazard = np.divide(seen, sooner, out=np.zeros(NUM_BINS), where=sooner > 0)
    before = np.cumprod((1.0 - hazard)[::-1])[::-1]
    return np.concatenate((before, [1.0])) if sooner.any() else np.zeros(NUM_BINS + 1)


def _coverage(counts: IntArray, rows: IntArray, is_seen: npt.NDArray[np.bool_]) -> FloatArray:
    """Share of rows with a label before each edge [B + 1], by the hazard forwards in time."""
    waiting = (rows[:, None] - np.cumsum(counts, axis=1) + counts) * is_seen
    at_risk = waiting.sum(axis=0)
    hazard = np.divide((counts * is_seen).sum(axis=0), at_risk, out=np.zeros(NUM_BINS), where=at_risk > 0)
    covered = np.concatenate(([0.0], 1.0 - np.cumprod(1.0 - hazard)))
    covered[1:][~is_seen.any(axis=0)] = np.nan
    return covered
