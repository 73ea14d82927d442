"""The evidence of all columns, the score and the loss, turned into alarms. Pure: windows in, verdicts out.

Two outputs that must not be confused: *breaches* say that the pipe is broken, and block retraining; *alarms*
say that the world has changed, and may start it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import log
from typing import Any, Literal

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.caveats import Caveat, caveat_of
from ray_mlops.monitoring.combination import (
    Watched,
    column_weights,
    combined_log_e,
    guilty_columns,
    most_weighty,
    noticed_columns,
    share_of_limit,
    vector_parts,
)
from ray_mlops.monitoring.estimation import Calibration
from ray_mlops.monitoring.faults import Breach, FaultDetector
from ray_mlops.monitoring.feature import FeatureMonitor, FeatureReference
from ray_mlops.monitoring.loss_channel import LossChannel, LossWindow
from ray_mlops.monitoring.loss_parts import UNKNOWN_KIND, LossParts
from ray_mlops.monitoring.magnitudes import StratifiedMagnitudes
from ray_mlops.monitoring.moves import describe_move
from ray_mlops.statistics.accumulate import combine
from ray_mlops.statistics.bins import ColumnCounts
from ray_mlops.statistics.gap import GapSums

__all__ = ["DatasetMonitor", "FeatureReference", "WindowVerdict"]

Alarm = Literal["inputs", "score", "loss"]
Past = Callable[[int], Mapping[str, ColumnCounts]]
"""Counts by column of all windows that were closed from one on."""


@dataclass(frozen=True, slots=True)
class WindowVerdict:
    """What the channels say at the close of one window."""

    window: int
    status: Literal["warming_up", "testing"]
    """`warming_up` while any column has too short a reference for the window-level channels."""
    log_e: float
    """Evidence of drift in inputs and score together; the action level is reached at ``limit``."""
    limit: float
    alarms: tuple[Alarm, ...]
    guilty: tuple[str, ...]
    """Columns that explain a drift alarm, those with most evidence first; empty without one."""
    notices: tuple[str, ...]
    """Columns above the notification level: look at them, nothing is done."""
    breaches: tuple[str, ...]
    """Breaches of the contract, as ``COLUMN:KIND``."""
    change_point: int | None
    """Window in which the change most likely began; None without an alarm."""
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By column: log_e, total_variation, expected, is_noise, status."""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), **{k: list(getattr(self, k)) for k in ("alarms", "guilty", "notices", "breaches")}}


@dataclass(frozen=True, slots=True)
class ColumnEvidence:
    """What one watched column says, channel by channel."""

    weight: float
    """Its share of the combined evidence."""
    log_e: float
    channels: Mapping[str, float]
    """Log evidence by channel."""
    derived_from: tuple[str, ...]
    """Of a projection, its columns; of a vector's direction, the vector's column."""
    is_score: bool

    @property
    def part_of(self) -> str | None:
        """The column of vectors that this is a number of."""
        return self.derived_from[0] if len(self.derived_from) == 1 else None


@dataclass(slots=True)
class _Column:
    """One column under watch."""

    monitor: FeatureMonitor | None
    """None for calendar columns."""
    faults: FaultDetector | None
    """None for projections."""
    magnitudes: StratifiedMagnitudes
    weight: float
    counts: ColumnCounts | None = None
    """The newest window."""
    breaches: tuple[Breach, ...] = ()


class DatasetMonitor:
    """Watches the inputs, the score and the loss of one model over one reference epoch.

    Under no change the probability that ``alarms`` is ever not empty is at most ``config.alpha``; half of it
    belongs to the loss, where there is a reference for it. Columns are combined by a weighted mean of their
    evidence, which is valid however they depend on each other: importances share ``1 - score_weight`` of it.

    Args:
        references: The inputs.
        score: The prediction, as one more column; None when nothing is known of it.
        losses: Losses of the reference's windows, of rows that the model was not trained on; may be empty.
        config: Levels and tolerances.
        max_violation_ratio: Share of values that may break the declared range or domain in a window.
        parts: Tells why the loss has risen; None where that cannot be told.
    """

    def __init__(
        self,
        references: Sequence[FeatureReference],
        score: FeatureReference | None,
        losses: Sequence[LossWindow],
        config: MonitoringConfig,
        *,
        max_violation_ratio: float = 0.05,
        parts: LossParts | None = None,
    ) -> None:
        self._config = config
        self._score = None if score is None else score.name
        weights = column_weights(references, score, config.score_weight, config.joint_weight)
        num_inputs = sum(not reference.derived_from for reference in references)
        self._numbers = vector_parts(references)
        self._columns: dict[str, _Column] = {}
        for reference in [*references, *([score] if score is not None else [])]:
            is_watched = reference.role != "calendar"
            looks_at: Literal["everything", "nulls"] = "nulls" if reference is score else "everything"
            faults = FaultDetector(reference, config, num_inputs, max_violation_ratio, looks_at)
            self._columns[reference.name] = _Column(
                FeatureMonitor(reference, config) if is_watched else None,
                None if reference.derived_from else faults,
                StratifiedMagnitudes(reference.bins, reference.windows, reference.strata, config),
                weights.get(reference.name, 0.0),
            )
        self._loss = LossChannel(losses, config.loss_tolerance) if any(n > 0 for n, _, _ in losses) else None
        self._parts = parts
        alpha = config.alpha if self._loss is None else config.alpha / 2.0
        self._limit = log(1.0 / alpha)
        self._window = 0  # the newest

    # -- windows --------------------------------------------------------------------------------------

    def update(
        self,
        window: int,
        counts: Mapping[str, ColumnCounts],
        score: ColumnCounts | None = None,
        loss: LossWindow | None = None,
        *,
        violations: Mapping[str, int] | None = None,
    ) -> WindowVerdict:
        """Take one closed window, in order of time.

        A column with a breach in this window gives no drift evidence, and no projection of it does: broken values
        say nothing of the world.

        Args:
            window: Its index.
            counts: Counts of the inputs, on the reference's bins.
            score: Counts of the prediction.
            loss: Rows, sum and sum of squares of the losses, if they have matured by now (or ``update_loss``).
            violations: Values that break the declared range or domain, by column.
        """
        self._window = window
        seen = dict(counts) if score is None or self._score is None else {**counts, self._score: score}
        for name, column in self._columns.items():
            column.counts = seen.get(name)
            if column.faults is not None:
                column.breaches = column.faults.update(column.counts, (violations or {}).get(name, 0))
        broken = {name for name, column in self._columns.items() if column.breaches}
        for name, column in self._columns.items():
            if column.monitor is not None and broken.isdisjoint({name, *column.monitor.reference.derived_from}):
                _test(column.monitor, window, column.counts)
        if loss is not None:
            self.update_loss(window, loss)
        return self._verdict(window)

    def update_loss(self, window: int, loss: LossWindow, gap: GapSums | None = None) -> None:
        """Take the losses of one matured window, in order of time; ignored without a reference for them.

        Args:
            window: Its index.
            loss: Rows, sum and sum of squares of the losses.
            gap: The same rows beside what was expected of them.
        """
        if self._loss is not None:
            self._loss.update(window, loss)
        if self._parts is not None and gap is not None:
            self._parts.update(window, gap)

    def calibration(self) -> Calibration | None:
        """What labels say about estimates; None where nothing can be told."""
        return None if self._parts is None else self._parts.calibration()

    # -- what follows from them -----------------------------------------------------------------------

    @property
    def log_e(self) -> float:
        """Evidence of drift in inputs and score together."""
        return combined_log_e(self._watched())

    def alarms(self) -> tuple[Alarm, ...]:
        """Action-level alarms that are up."""
        up: list[Alarm] = []
        if self.log_e >= self._limit:
            watched = self._watched()
            score = share_of_limit({n: w for n, w in watched.items() if n == self._score}, self._limit)
            inputs = share_of_limit({n: w for n, w in watched.items() if n != self._score}, self._limit)
            up += ["inputs"] if inputs >= 0.5 else []
            up += ["score"] if score >= 0.5 else []
        if self._loss is not None and self._loss.log_e >= self._limit:
            up.append("loss")
        return tuple(up)

    def breaches(self) -> tuple[str, ...]:
        """Breaches of the contract that are up, as ``COLUMN:KIND``."""
        return tuple(breach.name for column in self._columns.values() for breach in column.breaches)

    def guilty(self) -> tuple[str, ...]:
        """Columns that explain a drift alarm, by e-BH at this moment, those with most evidence first."""
        return guilty_columns(self._watched(), self._config.alpha) if self.log_e >= self._limit else ()

    def notices(self) -> tuple[str, ...]:
        """Columns that explain why the notification level is passed."""
        return noticed_columns(self._watched(), self._config.notification_windows)

    def change_point(self) -> int | None:
        """The window in which the change most likely began; None without an alarm."""
        alarms = self.alarms()
        is_drift = "inputs" in alarms or "score" in alarms
        drift = most_weighty(self._watched()).change_window() if is_drift else None
        loss = self._loss.change_window() if self._loss is not None and "loss" in alarms else None
        known = [window for window in (drift, loss) if window is not None]
        return min(known) if known else None

    @property
    def limit(self) -> float:
        """Log evidence at which the action level is reached."""
        return self._limit

    @property
    def loss_log_e(self) -> float:
        """Evidence that the loss has risen; 0 without a reference for it."""
        return 0.0 if self._loss is None else self._loss.log_e

    @property
    def reference_loss(self) -> float | None:
        """Mean loss of the reference's windows; None without any."""
        return None if self._loss is None else self._loss.reference_loss

    def evidence(self) -> dict[str, ColumnEvidence]:
        """What each watched column says at this moment."""
        return {
            name: ColumnEvidence(
                column.weight,
                column.monitor.log_e,
                column.monitor.channels(),
                column.monitor.reference.derived_from,
                name == self._score,
            )
            for name, column in self._watched().items()
        }

    def reference_counts(self) -> dict[str, Any]:
        """Counts of the whole reference by column [size]."""
        return {name: column.magnitudes.pooled for name, column in self._columns.items()}

    def describe(self, name: str, past: Past | None = None) -> dict[str, Any]:
        """Say why an alarm (``inputs``, ``score``, ``loss``) or a breach (``COLUMN:KIND``) is up.

        Args:
            name: The alarm or breach.
            past: Counts of the windows since a change; None speaks of the newest window alone.
        """
        for column in self._columns.values():
            for breach in column.breaches:
                if breach.name == name:
                    return breach.to_json()
        if name == "loss" and self._loss is not None:
            reason = f"mean loss {self._loss.last or 0.0:.4f}, up to {self._loss.limit:.4f} is no decay"
            since = self._loss.change_window()
            evidence = {"log_e": self._loss.log_e, "limit": self._limit, "change_point": since}
            kind = UNKNOWN_KIND if self._parts is None else self._parts.describe(since)
            return {**evidence, "reason": f"{reason}; {kind['kind_reason']}", **kind}
        guilty = list(self.guilty())
        reason = f"drift in {', '.join(guilty)}" if guilty else "no drift"
        evidence = {"log_e": self.log_e, "limit": self._limit, "change_point": self.change_point()}
        columns = {column: self._described(column, past) for column in guilty}
        return {**evidence, "guilty": guilty, "columns": columns, "reason": reason}

    def view(self) -> dict[str, Any]:
        """Everything, for people: each column's evidence by channel and its distances from the reference."""
        loss = self._loss
        return {
            "log_e": self.log_e,
            "limit": self._limit,
            "alpha": self._config.alpha,
            "guilty": list(self.guilty()),
            "notices": list(self.notices()),
            "change_point": self.change_point(),
            "breaches": [b.to_json() for column in self._columns.values() for b in column.breaches],
            "not_watched": self.not_watched(),
            "loss": None if loss is None else {"log_e": loss.log_e, "mean": loss.last, "limit": loss.limit},
            "loss_parts": None if loss is None or self._parts is None else self._parts.view(loss.change_window()),
            "features": {name: self._column_view(name) for name in self._names()},
        }

    def not_watched(self) -> dict[str, str]:
        """Columns that cannot be tested for drift now, and why."""
        found = {name: self._caveat(name) for name in self._names()}
        return {name: caveat.text for name, caveat in found.items() if not caveat.is_watched}

    def _caveat(self, name: str) -> Caveat:
        """What to know of a column's watch; vectors are watched while any number of theirs is."""
        monitors = [self._columns[number].monitor for number in (name, *self._numbers.get(name, ()))]
        caveats = [caveat_of(monitor, self._config) for monitor in monitors if monitor is not None]
        if not caveats:
            return Caveat(True, "a calendar column: checked for faults, never for drift")
        return next((caveat for caveat in caveats if caveat.is_watched), caveats[0])

    def _described(self, name: str, past: Past | None) -> dict[str, Any]:
        """A guilty column, for the text of an alarm."""
        foremost = self._foremost(name)
        monitor, counts = self._columns[foremost].monitor, self._columns[foremost].counts
        summary = self._summary(name)
        if monitor is None or counts is None:
            return summary
        when, since = "in this window", monitor.change_window()
        if past is not None and since is not None and since < self._window:
            found = past(since).get(foremost)
            if found is not None and found.n:
                counts, when = found, f"in the {self._window - since + 1} windows since the change"
        reference = sum(monitor.reference_windows(), ColumnCounts.empty(monitor.reference.bins))
        return {**summary, "moved": describe_move(monitor.reference.bins, reference, counts, when)}

    def _names(self) -> list[str]:
        """The columns that people know: a direction of vectors shows in its column."""
        parts = {part for found in self._numbers.values() for part in found}
        return [name for name in self._columns if name not in parts]

    def _foremost(self, name: str) -> str:
        """Of the numbers that stand for a column, the one with most evidence; the column itself where it is one."""
        watched = [n for n in (name, *self._numbers.get(name, ())) if self._columns[n].monitor is not None]
        return max(watched, key=lambda n: self._log_e(n), default=name)

    def _log_e(self, name: str) -> float:
        monitor = self._columns[name].monitor
        return 0.0 if monitor is None else monitor.log_e

    def _column_view(self, name: str) -> dict[str, Any]:
        column = self._columns[self._foremost(name)]
        monitor, counts = column.monitor, column.counts
        measured = column.magnitudes.at(self._window).measure(counts) if counts is not None and counts.n else []
        return {
            **self._summary(name),
            "weight": column.weight * (1 + len(self._numbers.get(name, ()))),
            "is_score": name == self._score,
            "caveat": self._caveat(name).text,
            "channels": {} if monitor is None else monitor.channels(),
            "reference_windows": 0 if monitor is None else monitor.num_reference_windows,
            "null_ratio": counts.null_ratio if counts is not None and counts.n else None,
            "magnitudes": {magnitude.name: magnitude.to_json() for magnitude in measured},
            "breaches": [breach.kind for breach in self._columns[name].breaches],
        }

    def _summary(self, name: str) -> dict[str, Any]:
        foremost = self._foremost(name)
        column = self._columns[foremost]
        monitor, counts = column.monitor, column.counts
        parts = [self._log_e(n) for n in (name, *self._numbers.get(name, ()))]
        summary: dict[str, Any] = {"log_e": combine([1.0 / len(parts)] * len(parts), parts), "status": _status(monitor)}
        if name in self._numbers:
            summary["number"] = foremost
        if counts is not None and counts.n:
            found = column.magnitudes.at(self._window).total_variation(counts)
            summary |= {"total_variation": found.value, "expected": found.expected, "is_noise": found.is_noise}
        return summary

    def _verdict(self, window: int) -> WindowVerdict:
        is_warming_up = any(watched.monitor.is_warming_up for watched in self._watched().values())
        return WindowVerdict(
            window=window,
            status="warming_up" if is_warming_up else "testing",
            log_e=self.log_e,
            limit=self._limit,
            alarms=self.alarms(),
            guilty=self.guilty(),
            notices=self.notices(),
            breaches=self.breaches(),
            change_point=self.change_point(),
            features={name: self._summary(name) for name in self._names()},
        )

    def _watched(self) -> dict[str, Watched]:
        return {
            name: Watched(column.weight, column.monitor)
            for name, column in self._columns.items()
            if column.monitor is not None and column.weight > 0.0
        }

    # -- restarts -------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The state, without the references."""
        return {
            "columns": {name: _column_state(column) for name, column in self._columns.items()},
            "loss": None if self._loss is None else self._loss.to_json(),
            "loss_parts": None if self._parts is None else self._parts.to_json(),
            "window": self._window,
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up a state that a monitor with the same references stored; evidence is then equal to the bit.

        A column that is not watched any more (it was redacted since) is left out.
        """
        self._window = content.get("window", 0)
        for name, state in content["columns"].items():
            column = self._columns.get(name)
            if column is None:
                continue
            if column.monitor is not None:
                column.monitor.restore(state["monitor"])
            if column.faults is not None and state["faults"] is not None:  # older releases: None for the score
                column.faults.restore(state["faults"])
            column.breaches = tuple(Breach(**{k: v for k, v in b.items() if k != "name"}) for b in state["breaches"])
            column.counts = None if state["counts"] is None else ColumnCounts.from_json(state["counts"])
        if self._loss is not None and content["loss"] is not None:
            self._loss.restore(content["loss"])
        if self._parts is not None and content.get("loss_parts") is not None:
            self._parts.restore(content["loss_parts"])


def _test(monitor: FeatureMonitor, window: int, counts: ColumnCounts | None) -> None:
    if counts is not None and counts.n:
        monitor.update(window, counts)


def _status(monitor: FeatureMonitor | None) -> str:
    if monitor is None:
        return "calendar"
    if monitor.is_blind:
        return "not_watched"
    return "warming_up" if monitor.is_warming_up else "testing"


def _column_state(column: _Column) -> dict[str, Any]:
    return {
        "monitor": None if column.monitor is None else column.monitor.to_json(),
        "faults": None if column.faults is None else column.faults.to_json(),
        "breaches": [breach.to_json() for breach in column.breaches],
        "counts": None if column.counts is None else column.counts.to_json(),
    }
