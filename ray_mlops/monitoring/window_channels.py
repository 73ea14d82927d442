"""Evidence that one column has drifted, channel by channel. The unit is a window.

`location`: the mean rank of a window's rows (and their spread), or the shares of the frequent categories, moved.
`shape`: the whole histogram is stranger than those of earlier windows. `range`: too much lies outside what the
reference knew. `rows`: rows fall into other bins, by more than a tolerance; acts while there are too few windows.

A channel takes counts window by window. What it was built from is a constant, what it has seen is its state.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf, sqrt
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from ray_mlops.statistics.accumulate import RestartMixture, ShiryaevRoberts
from ray_mlops.statistics.betting import BetAboveMean
from ray_mlops.statistics.bins import Bins, ColumnCounts, NumericBins
from ray_mlops.statistics.rows import RowBets, mid_ranks, reference_error
from ray_mlops.statistics.windows import (
    NormalScores,
    Sums,
    conformal_log_e,
    independent_parts,
    persistence,
    restart_log_e,
    t_log_e,
)

FloatArray = npt.NDArray[np.float64]

_TOP_SHARES = 8
"""Categories whose shares are watched one by one."""
_FLOOR = 0.01
"""Smallest standard deviation of a window's mean rank, or share, that is believed."""
_OUTSIDE_TOLERANCE = 0.01
"""Share of rows outside the reference's range that is of no interest."""
WINDOW_STAKES = (0.05, 0.2, 0.5, 0.95)
"""Stakes of bets on a window's share: coarse, since one window can be worth much."""
_LARGEST_ROWS_LOG_E = 3.0
"""What one window can add at most to the row-level evidence: the first rainy day is not proof of a change."""
MOST_STARTS = 1000
"""Newest windows at which a change is looked for: what has not shown itself since then is given up, so that neither
memory nor work grow with an epoch."""
_MARGIN_SD = 2.6
"""Standard errors by which the mean of the reference windows may be off."""


class Channel(Protocol):
    """One e-process over windows."""

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float:
        """Share of the column's evidence, relative to its other channels."""

    def update(self, counts: ColumnCounts, u: float) -> None:
        """Take one window; ``u`` in (0, 1] is its own random number."""

    @property
    def log_e(self) -> float:
        """Evidence at the action level; 0 before the first window."""

    @property
    def log_r(self) -> float:
        """Evidence at the notification level; minus infinity before the first window."""

    @property
    def start(self) -> int | None:
        """How many windows it had taken (from 1) when the change most likely began."""

    def state(self) -> dict[str, Any]:
        """What it has seen, as JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""


class AccumulatingChannel:
    """Keeps the wealth of K bets at both levels; ``num_bets`` may be 0, then there is never evidence."""

    def __init__(self, num_bets: int) -> None:
        self._wealth = RestartMixture(num_bets)
        self._notice = ShiryaevRoberts(num_bets)

    def take(self, log_es: Any) -> None:
        """Take the log e-values [K] of one window."""
        self._wealth, self._notice = self._wealth.updated(log_es), self._notice.updated(log_es)

    @property
    def log_e(self) -> float:
        return self._wealth.log_e if self._wealth.num_bets else 0.0

    @property
    def log_r(self) -> float:
        return self._notice.log_r if self._wealth.num_bets else -inf

    @property
    def start(self) -> int | None:
        return self._wealth.change_point if self._wealth.num_bets else None

    def state(self) -> dict[str, Any]:
        return {"wealth": self._wealth.to_json(), "notice": self._notice.to_json()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._wealth = RestartMixture.from_json(state["wealth"])
        self._notice = ShiryaevRoberts.from_json(state["notice"])


class LocationChannel:
    """Watches means over a window's rows: the rank and its spread, or the shares of frequent categories."""

    name = "location"
    weight = 0.4

    def __init__(self, bins: Bins, windows: Sequence[ColumnCounts], is_persistent: bool = True) -> None:
        pooled = sum(windows, ColumnCounts.empty(bins)).counts[:-1]
        self._row_scores = _row_scores(bins, pooled)
        present = pooled / max(pooled.sum(), 1)
        self._centre = self._row_scores @ present
        self._row_variance = np.maximum((self._row_scores**2) @ present - self._centre**2, 0.0)
        usable = [window for window in windows if present_rows(window)]
        raw = np.array([self._means(window) for window in usable]).reshape(-1, len(self._row_scores))
        sampling = self._row_variance * float(np.mean([1.0 / present_rows(window) for window in usable] or [0.0]))
        self._between = np.maximum(raw.var(axis=0) - sampling, 0.0) if usable else np.zeros(len(self._row_scores))
        self._usual = self._between + sampling
        self._reference = np.array([self._levelled(window) for window in usable]).reshape(raw.shape)
        self._scales = [NormalScores(column, _FLOOR) for column in self._reference.T] if usable else []
        self._reference_scores = self._standardised(self._reference)
        self._persistence = (
            persistence(self._reference_scores) if usable and is_persistent else np.zeros(len(self._row_scores))
        )
        self._current: list[list[float]] = []
        self._given_up: Sums | None = None
        self._before: list[float] = []
        """Scores of the window before the first current one, once any was given up."""
        self._evidence: FloatArray | None = None

    def update(self, counts: ColumnCounts, u: float) -> None:
        scores = self._standardised(self._levelled(counts)[None, :])[0]
        self._current.append(scores.round(9).tolist())
        if len(self._current) > MOST_STARTS and len(self._reference):
            self._give_up()
        self._evidence = None

    def _give_up(self) -> None:
        oldest, before = self._current.pop(0), self._before or self._reference_scores[-1]
        new = independent_parts([before, oldest], self._persistence)[1]
        self._given_up = (self._given_up or Sums.empty(len(new))).plus(new)
        self._before = oldest

    @property
    def log_e(self) -> float:
        return restart_log_e(self._by_start(), self._num_given_up)

    @property
    def _num_given_up(self) -> int:
        return 0 if self._given_up is None else self._given_up.n

    @property
    def log_r(self) -> float:
        evidence = self._by_start()
        return float(np.logaddexp.reduce(evidence)) if len(evidence) else -inf

    @property
    def start(self) -> int | None:
        evidence = self._by_start()
        return self._num_given_up + int(np.argmax(evidence)) + 1 if len(evidence) else None

    def state(self) -> dict[str, Any]:
        past = {} if self._given_up is None else {"given_up": self._given_up.to_json(), "before": self._before}
        return {"scores": self._current, **past}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._current = [list(scores) for scores in state["scores"]]
        self._given_up = Sums.from_json(state["given_up"]) if "given_up" in state else None
        self._before = list(state.get("before", ()))
        self._evidence = None

    def _by_start(self) -> FloatArray:
        """Return the evidence for each window at which the change may have begun [T], the means' average."""
        if self._evidence is None:
            current = np.array(self._current).reshape(-1, self._reference.shape[1])
            if len(self._reference) == 0 or len(current) == 0:
                return np.zeros(len(current))
            if self._given_up is None:
                scores = np.concatenate((self._reference_scores, current))
                parts = independent_parts(scores, self._persistence)
                reference, new = parts[: len(self._reference)], parts[len(self._reference) :]
            else:
                reference = independent_parts(self._reference_scores, self._persistence)
                new = independent_parts(np.concatenate(([self._before], current)), self._persistence)[1:]
            self._evidence = t_log_e(reference, new, between=self._given_up)
        return self._evidence

    def _standardised(self, means: FloatArray) -> FloatArray:
        """Return window means [n, J] as normal scores of the reference's."""
        if not self._scales:
            return means
        return np.stack([scale.of(column) for scale, column in zip(self._scales, means.T, strict=True)], axis=1)

    def _means(self, counts: ColumnCounts) -> FloatArray:
        inside = counts.counts[:-1]
        return np.asarray(self._row_scores @ inside / inside.sum(), dtype=np.float64)

    def _levelled(self, counts: ColumnCounts) -> FloatArray:
        """Return a window's means, drawn to the centre where fewer rows than usual make them less certain."""
        variance = self._between + self._row_variance / present_rows(counts)
        shrink = np.sqrt(np.divide(self._usual, variance, out=np.ones_like(variance), where=variance > 0.0))
        return np.asarray(self._centre + (self._means(counts) - self._centre) * np.minimum(shrink, 1.0))


class ShapeChannel(AccumulatingChannel):
    """Compares each window's histogram with half of the reference; the other half says how far is usual."""

    name = "shape"
    weight = 0.35

    def __init__(self, bins: Bins, windows: Sequence[ColumnCounts]) -> None:
        super().__init__(1)
        base = [window.counts for window in windows[::2]]
        pooled = np.sum(base, axis=0) if base else np.zeros(bins.size)
        self._share = (pooled + 0.5) / (pooled.sum() + 0.5 * len(pooled))
        self._importance = 1.0 / (self._share + 0.5 / len(pooled))
        distances = [self._distance(counts) for counts in base if counts.sum() > 1]
        self._usual = abs(float(np.mean(distances))) if distances else 0.0
        self._reference = Counter(self._score(window) for window in windows[1::2] if window.n > 1)
        self._seen: Counter[float] = Counter()

    def update(self, counts: ColumnCounts, u: float) -> None:
        score = self._score(counts)
        pool = self._reference + self._seen
        self.take([conformal_log_e(score, list(pool), u, list(pool.values()))])
        self._seen[score] += 1

    def state(self) -> dict[str, Any]:
        return {**super().state(), "seen": sorted(self._seen.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        if "seen" in state:
            self._seen = Counter(dict(state["seen"]))
        else:  # of an older release, which kept each score
            self._seen = Counter(map(_rounded, state["scores"]))

    def _distance(self, counts: npt.NDArray[np.int64]) -> float:
        """Return a chi-squared distance from which the part that chance alone adds has been taken."""
        n = int(counts.sum())
        p = counts / n
        return float((((p - self._share) ** 2 - p * (1.0 - p) / (n - 1)) * self._importance).sum())

    def _score(self, window: ColumnCounts) -> float:
        """Return the distance in units that make windows of many and of few rows comparable."""
        if window.n < 2:
            return 0.0
        chance = sqrt(2.0 * len(self._share)) / window.n
        return _rounded(self._distance(window.counts) / sqrt(chance**2 + self._usual**2))


class RangeChannel(AccumulatingChannel):
    """Bets that more is outside the reference's range, or of unseen categories, than one more window brings."""

    name = "range"
    weight = 0.25

    def __init__(self, bins: Bins, windows: Sequence[ColumnCounts]) -> None:
        super().__init__(len(WINDOW_STAKES))
        self._positions = [0, bins.size - 2] if isinstance(bins, NumericBins) else [bins.size - 2]
        seen = np.array([self._outside(window) for window in windows if present_rows(window)])
        # What is known is itself a statistic of the windows. A new window lies wholly beyond their range now and
        # then; a new category, as rare as it must have been, is a small part of its window.
        num_windows = max(len(seen), 2)
        beyond = float(beta.ppf(0.9, 2, num_windows - 1)) if len(self._positions) == 2 else 0.25 / num_windows
        self._bet = BetAboveMean(min(mean_with_margin(seen) + beyond + _OUTSIDE_TOLERANCE, 0.9), WINDOW_STAKES)

    def update(self, counts: ColumnCounts, u: float) -> None:
        self.take(self._bet.increments(self._outside(counts)))

    def _outside(self, counts: ColumnCounts) -> float:
        return float(counts.counts[self._positions].sum() / max(present_rows(counts), 1))


class RowsChannel(AccumulatingChannel):
    """Bets on single rows, against whatever few windows the reference has."""

    name = "rows"
    weight = 1.0

    def __init__(self, bins: Bins, windows: Sequence[ColumnCounts], tolerance: float, alpha: float) -> None:
        pooled = sum(windows, ColumnCounts.empty(bins))
        epsilon = tolerance + reference_error(bins.size, pooled.n, alpha)
        self._bets = RowBets(bins, pooled.counts, epsilon) if pooled.n and epsilon < 1.0 else None
        super().__init__(self._bets.num_bets if self._bets else 0)
        self._effective_share = _effective_share(bins, windows)
        self._epsilon = epsilon

    @property
    def tolerance(self) -> float | None:
        """Total variation that is no evidence, the reference's own error included; None where nothing is tested."""
        return None if self._bets is None else self._epsilon

    def update(self, counts: ColumnCounts, u: float) -> None:
        if self._bets is not None:
            evidence = self._bets.log_es(counts.counts, self._effective_share)
            self.take(np.minimum(evidence, _LARGEST_ROWS_LOG_E))


def _rounded(score: float) -> float:
    """Draw a score to a grid, so that there are few different ones; ties are broken by chance, so nothing is lost."""
    return float(f"{score:.2f}") + 0.0 if abs(score) < 10.0 else float(f"{score:.3g}")


def present_rows(counts: ColumnCounts) -> int:
    """Rows that are not null."""
    return counts.n - counts.nulls


def mean_with_margin(values: FloatArray) -> float:
    """Return a mean of window values, plus what it may be off by; 0 of none."""
    if not len(values):
        return 0.0
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()) + _MARGIN_SD * deviation / sqrt(len(values))


def _row_scores(bins: Bins, pooled: npt.NDArray[np.int64]) -> FloatArray:
    """Return what a row of each bin adds to each watched mean [J, size - 1], in [0, 1]."""
    if isinstance(bins, NumericBins):
        rank = mid_ranks(pooled) if pooled.sum() else np.full(len(pooled), 0.5)
        return np.stack([rank, (2.0 * rank - 1.0) ** 2])
    ranked = np.argsort(-pooled, kind="stable")[:_TOP_SHARES]
    known = ranked[pooled[ranked] > 0]
    return np.eye(len(pooled))[np.sort(known if len(known) else ranked[:1])]


def _effective_share(bins: Bins, windows: Sequence[ColumnCounts]) -> float:
    """Return how many independent rows one row is worth, by how much the windows' means vary; 1 of few windows."""
    if len(windows) < 3:
        return 1.0
    location = LocationChannel(bins, windows)
    sampling = np.maximum(location._usual - location._between, 1e-12)
    return float(min(1.0, (sampling / np.maximum(location._usual, sampling)).min()))
