"""Breaches of the contract: signs that the pipe is broken, not that the world has changed.

They page a person and block retraining, so each asks for something that a season or a storm does not do.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import log, sqrt
from typing import Any, Literal

import numpy as np

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.feature import FeatureReference
from ray_mlops.monitoring.jumps import Jumps
from ray_mlops.monitoring.window_channels import WINDOW_STAKES, mean_with_margin, present_rows
from ray_mlops.statistics.accumulate import ShiryaevRoberts
from ray_mlops.statistics.betting import BetAboveMean
from ray_mlops.statistics.bins import ColumnCounts, NumericBins
from ray_mlops.statistics.windows import decisive_run

FaultKind = Literal["missing", "empty", "declared_nulls", "nulls", "constant", "scale", "domain"]

_BURST = 0.25
"""Rise of the null ratio over the reference's worst window that is a fault when it happens twice in a row."""
_RANKS = (1, 3)
"""Runs of windows with more nulls than any of the reference, and than all but two (one had an outage itself)."""
_CONSTANT_TOLERANCE = 0.05
_ABSENT = 2
"""Windows in a row without a column that was never logged from which that is a fault."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One breach that is up."""

    feature: str
    kind: FaultKind
    value: float
    """What was seen."""
    limit: float
    """What would have been accepted."""
    reason: str

    @property
    def name(self) -> str:
        """How it is called elsewhere: ``FEATURE:KIND``."""
        return f"{self.feature}:{self.kind}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "name": self.name}


class FaultDetector:
    """Looks for faults in one column.

    ``missing``: the column is gone. ``empty``: every value is null, and that was not so before.
    ``declared_nulls``: more nulls than the user's contract allows (or than any reference window had).
    ``nulls``: evidence that the null ratio rose by more than ``null_tolerance``, a jump of it, or a run of windows
    with more nulls than nearly all of the reference.
    ``constant``: evidence that the column is stuck. ``scale``: numbers jumped from one window to the next as a
    change of unit makes them jump. ``domain``: too many values break a declared range or domain (counted
    elsewhere).

    Args:
        reference: The column's reference.
        config: Tolerances; ``notification_windows`` is the mean time between two false `nulls` or `constant`.
        num_features: Columns that share that mean time.
        max_violation_ratio: Share of values that may break the declared range or domain.
        looks_at: `nulls` for the model's own answers, which may be absent for a window, or all alike.
    """

    def __init__(
        self,
        reference: FeatureReference,
        config: MonitoringConfig,
        num_features: int,
        max_violation_ratio: float,
        looks_at: Literal["everything", "nulls"] = "everything",
    ) -> None:
        self._looks_at = looks_at
        self._reference = reference
        self._max_violation_ratio = max_violation_ratio
        self._threshold = log(config.notification_windows * max(num_features, 1))
        windows = [window for window in reference.windows if window.n]
        self._num_windows = len(windows)
        self._min_windows = config.reference.min_windows
        self._min_rows = config.min_window_rows
        nulls = np.array([window.null_ratio for window in windows])
        stuck = np.array([float(_is_constant(window, reference)) for window in windows])
        self._most_nulls = float(nulls.max()) if len(nulls) else 0.0
        # Never below what the reference has seen: some columns are null for days, and nothing is broken.
        self._null_bet = _bet(nulls, config.null_tolerance, at_least=self._most_nulls)
        self._stuck_bet = _bet(stuck, _CONSTANT_TOLERANCE + 2.0 / (len(stuck) + 2.0))
        highest = sorted(nulls.tolist(), reverse=True)
        steps = len(_RANKS) * config.notification_windows * max(num_features, 1)
        is_long = len(highest) >= max(self._min_windows, _RANKS[-1])
        # Days in a row are alike: without the tolerance, a calm week is an outage of a column that is null in calms.
        self._run_limits = [highest[rank - 1] + config.null_tolerance if is_long else 1.0 for rank in _RANKS]
        self._run_lengths = [decisive_run(len(highest), rank, steps) if is_long else 0 for rank in _RANKS]
        self._is_varied = bool(len(windows) >= config.reference.min_windows and not stuck.any()) and all(
            window.counts[:-1].max() <= 0.5 * present_rows(window)
            for window in windows
            if present_rows(window) >= config.min_window_rows
        )
        self._jumps = Jumps()
        for window in windows if isinstance(reference.bins, NumericBins) else ():
            if present_rows(window) >= config.min_window_rows:
                self._jumps = self._jumps.extended(window)
        self._null_wealth = ShiryaevRoberts(len(WINDOW_STAKES))
        self._stuck_wealth = ShiryaevRoberts(len(WINDOW_STAKES))
        self._runs = [0] * len(_RANKS)  # windows in a row above each of those limits
        self._bursts = 0  # windows in a row with far more nulls than the reference ever had
        self._was_there = False
        self._absent = 0  # windows in a row without the column
        is_number = isinstance(reference.bins, NumericBins)
        self._word = "number" if is_number else "value"
        # What cannot be read as a number counts as null: a reader must not look for missing values only.
        self._unreadable = ", infinite, or of another type" if is_number else ""

    def update(self, counts: ColumnCounts | None, violations: int = 0) -> tuple[Breach, ...]:
        """Take one closed window and return the breaches that are up after it.

        Args:
            counts: The window's counts; None when other columns were counted and this one was not.
            violations: Values that broke a declared range or domain.
        """
        if self._looks_at == "nulls":
            return () if counts is None or counts.n == 0 else tuple(self._nulls(counts))
        if counts is None or counts.n == 0:
            self._absent += 1
            # Once it may be a window of the version before, whose log had no such column.
            is_gone = self._was_there or self._absent >= _ABSENT
            return (self._breach("missing", 1.0, 0.0, "the column is gone from the log"),) if is_gone else ()
        self._was_there, self._absent = True, 0
        found = [*self._nulls(counts), *self._domain(counts, violations)]
        if present_rows(counts) >= self._min_rows:
            found += [*self._constant(counts), *self._scale(counts)]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "jumps": self._jumps.to_json(),
            "nulls": self._null_wealth.to_json(),
            "constant": self._stuck_wealth.to_json(),
            "bursts": self._bursts,
            "runs": list(self._runs),
            "was_there": self._was_there,
            "absent": self._absent,
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up a state that was stored for the same reference."""
        self._jumps = Jumps.from_json(content["jumps"])
        self._null_wealth = ShiryaevRoberts.from_json(content["nulls"])
        self._stuck_wealth = ShiryaevRoberts.from_json(content["constant"])
        self._bursts = content["bursts"]
        self._runs = list(content.get("runs", self._runs))  # not in checkpoints of older releases
        self._was_there = content["was_there"]
        self._absent = content.get("absent", 0)

    def _nulls(self, counts: ColumnCounts) -> list[Breach]:
        empty, *others = self._empty(counts), self._declared_nulls(counts), self._more_nulls(counts)
        if empty is not None:  # the others say no more: nobody is woken twice by one fault
            return [empty]
        return [breach for breach in others if breach is not None]

    def _empty(self, counts: ColumnCounts) -> Breach | None:
        if present_rows(counts) or not self._num_windows or self._most_nulls >= 0.9:
            return None
        text = f"{counts.n} rows and not a single {self._word}: each is null{self._unreadable}"
        return self._breach("empty", 1.0, self._most_nulls, text)

    def _declared_nulls(self, counts: ColumnCounts) -> Breach | None:
        declared = self._reference.max_null_ratio
        if declared is None:
            return None
        allowed = max(declared, self._most_nulls)
        limit = allowed + 3.0 * sqrt(allowed * (1.0 - allowed) / counts.n)
        if counts.null_ratio <= limit:
            return None
        text = f"{counts.null_ratio:.1%} of the values are null{self._unreadable}, the contract allows {declared:.1%}"
        return self._breach("declared_nulls", counts.null_ratio, limit, text)

    def _more_nulls(self, counts: ColumnCounts) -> Breach | None:
        if not self._num_windows:
            return None
        ratio, limit = counts.null_ratio, self._null_bet.mean
        self._null_wealth = self._null_wealth.updated(self._null_bet.increments(ratio))
        is_burst = self._num_windows >= self._min_windows and ratio > self._most_nulls + _BURST
        self._bursts = self._bursts + 1 if is_burst else 0
        self._runs = [run + 1 if ratio > a else 0 for run, a in zip(self._runs, self._run_limits, strict=True)]
        for run, length, above in zip(self._runs, self._run_lengths, self._run_limits, strict=True):
            if run >= length > 0:
                text = f"{ratio:.1%} of the values are null{self._unreadable}, {run} windows in a row above {above:.1%}"
                return self._breach("nulls", ratio, above, text)
        if ratio <= limit:
            self._null_wealth = _forgiven(self._null_wealth, self._threshold)
        elif self._null_wealth.log_r >= self._threshold or self._bursts >= 2:
            text = f"{ratio:.1%} of the values are null{self._unreadable}, evidence of more than {limit:.1%}"
            return self._breach("nulls", ratio, limit, text)
        return None

    def _domain(self, counts: ColumnCounts, violations: int) -> list[Breach]:
        ratio = violations / counts.n
        if ratio <= self._max_violation_ratio:
            return []
        text = f"{ratio:.1%} of the values break the declared range or domain"
        return [self._breach("domain", ratio, self._max_violation_ratio, text)]

    def _constant(self, counts: ColumnCounts) -> list[Breach]:
        if not self._num_windows:
            return []
        stuck = _is_constant(counts, self._reference)
        self._stuck_wealth = self._stuck_wealth.updated(self._stuck_bet.increments(float(stuck)))
        if not stuck:
            self._stuck_wealth = _forgiven(self._stuck_wealth, self._threshold)
        elif self._is_varied or self._stuck_wealth.log_r >= self._threshold:
            return [self._breach("constant", 1.0, self._stuck_bet.mean, "the column is stuck at one value")]
        return []

    def _scale(self, counts: ColumnCounts) -> list[Breach]:
        if self._reference.role == "calendar" or not isinstance(self._reference.bins, NumericBins):
            return []
        reason = ""
        if self._jumps.num_windows >= self._min_windows:
            reason = self._jumps.multiplied(counts) or self._jumps.displaced(counts)
        if not reason:
            self._jumps = self._jumps.extended(counts)
            return []
        return [self._breach("scale", counts.mean, self._jumps.centre, reason)]

    def _breach(self, kind: FaultKind, value: float, limit: float, reason: str) -> Breach:
        return Breach(self._reference.name, kind, value, limit, reason)


def _bet(values: Any, tolerance: float, at_least: float = 1e-3) -> BetAboveMean:
    return BetAboveMean(min(max(mean_with_margin(values) + tolerance, at_least, 1e-3), 0.98), WINDOW_STAKES)


def _forgiven(wealth: ShiryaevRoberts, threshold: float) -> ShiryaevRoberts:
    """Begin anew once an alarm is over, so that the next one must be earned again."""
    return ShiryaevRoberts(wealth.num_bets) if wealth.log_r >= threshold else wealth


def _is_constant(counts: ColumnCounts, reference: FeatureReference) -> bool:
    """Whether all values of a window are one and the same."""
    rows = present_rows(counts)
    if rows < 2:
        return False
    if isinstance(reference.bins, NumericBins):
        return counts.minimum == counts.maximum
    return bool(counts.counts[:-3].max(initial=0) == rows)
