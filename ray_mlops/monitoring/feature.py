"""One column's drift: a reference, the channels that watch it, and their combined evidence."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import log
from typing import Any, Literal, Self

import numpy as np

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.strata import num_strata, stratum_of
from ray_mlops.monitoring.window_channels import (
    Channel,
    LocationChannel,
    RangeChannel,
    RowsChannel,
    ShapeChannel,
    present_rows,
)
from ray_mlops.monitoring.window_runs import WindowRuns
from ray_mlops.statistics.accumulate import combine
from ray_mlops.statistics.bins import Bins, ColumnCounts, bins_from_json

_ROWS_WEIGHT = 0.5
"""Share of the row-level fallback in the evidence of a column that had to warm up."""


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """What a column looked like: its bins, and counts of the reference's windows in order of time."""

    name: str
    bins: Bins
    windows: tuple[ColumnCounts, ...] = ()
    role: Literal["feature", "calendar"] = "feature"
    """A `calendar` column moves by itself: it is checked for faults and never for drift."""
    importance: float = 1.0
    """Share of the model's quality that hangs on it; any scale."""
    max_null_ratio: float | None = None
    """Share of nulls that the user's contract allows; None when it says nothing."""
    derived_from: tuple[str, ...] = ()
    """Of a projection, the columns that it watches the dependence of; of a vector's direction, the vector's column;
    empty for a column of the log."""
    strata: tuple[int, ...] = ()
    """The stratum of each window (``stratum_of``); empty where all are of one."""

    @property
    def part_of(self) -> str | None:
        """The column of vectors that this is a number of; None for everything else."""
        return self.derived_from[0] if len(self.derived_from) == 1 else None

    def pooled(self) -> ColumnCounts:
        """All windows together."""
        return sum(self.windows, ColumnCounts.empty(self.bins))

    def of_stratum(self, stratum: int) -> "FeatureReference":
        """The same with the windows of one stratum only."""
        if not self.strata:
            return self
        pairs = zip(self.windows, self.strata, strict=True)
        return replace(self, windows=tuple(window for window, own in pairs if own == stratum), strata=())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "bins": self.bins.to_json(),
            "windows": [window.to_json() for window in self.windows],
            "role": self.role,
            "importance": self.importance,
            "max_null_ratio": self.max_null_ratio,
            "derived_from": list(self.derived_from),
            "strata": list(self.strata),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        windows = tuple(ColumnCounts.from_json(window) for window in content["windows"])
        strata, derived_from = (tuple(content.get(name, ())) for name in ("strata", "derived_from"))
        bins = bins_from_json(content["bins"])
        return cls(**{**content, "bins": bins, "windows": windows, "strata": strata, "derived_from": derived_from})


class FeatureMonitor:
    """Watches one column over one reference epoch, each window against those of its own stratum.

    The evidence is the mean of the strata's (see ``strata``).

    Args:
        reference: The column's reference.
        config: Sizes, tolerances, and strata.
    """

    def __init__(self, reference: FeatureReference, config: MonitoringConfig) -> None:
        self.reference = reference
        self._kind = config.strata
        self._window_us = config.window // timedelta(microseconds=1)
        self._strata = [StratumMonitor(reference.of_stratum(s), config) for s in range(num_strata(config.strata))]

    @property
    def is_warming_up(self) -> bool:
        """Whether a stratum that has windows has too few; one in which nothing ever happens is not waited for."""
        used = [stratum for stratum in self._strata if stratum.reference_windows()] or self._strata
        return any(stratum.is_warming_up for stratum in used)

    @property
    def num_reference_windows(self) -> int:
        """Windows that the window-level channels compare with, or will."""
        return sum(stratum.num_reference_windows for stratum in self._strata)

    @property
    def is_blind(self) -> bool:
        """Whether nothing can be tested: no value to compare with, or too few for even the row-level fallback."""
        if self.is_warming_up:
            return self.row_tolerance is None
        return not any(present_rows(window) for window in self.reference_windows())

    @property
    def row_tolerance(self) -> float | None:
        """Total variation that the row-level fallback cannot tell from none, least of all strata; None without it."""
        found = [stratum.row_tolerance for stratum in self._strata]
        return min((epsilon for epsilon in found if epsilon is not None), default=None)

    def reference_windows(self) -> list[ColumnCounts]:
        """The reference's windows of all strata, those that joined it included."""
        return [window for stratum in self._strata for window in stratum.reference_windows()]

    def update(self, window: int, counts: ColumnCounts) -> None:
        """Take one closed window. A window without a single value is a fault of the pipe and is left out."""
        self._strata[stratum_of(window, self._window_us, self._kind)].update(window, counts)

    @property
    def log_e(self) -> float:
        """The column's evidence at the action level."""
        return _average([(1.0, stratum.log_e) for stratum in self._strata])

    @property
    def log_r(self) -> float:
        """The column's evidence at the notification level: a sum, since each window adds to one stratum only."""
        return float(np.logaddexp.reduce([stratum.log_r for stratum in self._strata]))

    def channels(self) -> dict[str, float]:
        """Log evidence by channel."""
        found = [stratum.channels() for stratum in self._strata]
        names = dict.fromkeys(name for channels in found for name in channels)
        return {name: _average([(1.0, channels.get(name, 0.0)) for channels in found]) for name in names}

    def change_window(self) -> int | None:
        """The window in which the change most likely began, by the stratum that has most to say."""
        return max(self._strata, key=lambda stratum: stratum.log_e).change_window()

    def to_json(self) -> dict[str, Any]:
        states = [stratum.to_json() for stratum in self._strata]
        return states[0] if len(states) == 1 else {"strata": states}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up a state that was stored for the same reference."""
        states = content.get("strata", [content])
        for stratum, state in zip(self._strata, states, strict=True):
            stratum.restore(state)


class StratumMonitor:
    """Watches the windows of one stratum.

    With fewer reference windows than ``reference.min_windows`` it is warming up: only the row-level fallback
    acts, and new windows are collected unless it has alarmed. When there are as many, the window-level channels
    take over, and what the fallback found stays as a part of the evidence. They compare with the collected windows
    alone: the stream may lie anywhere within the fallback's tolerance of the reference, and windows of both together
    would make the ones that follow strange.

    Args:
        reference: The column's reference.
        config: Sizes and tolerances.
    """

    def __init__(self, reference: FeatureReference, config: MonitoringConfig) -> None:
        self.reference = reference
        self._is_persistent = config.persistence
        self._min_windows = config.reference.min_windows
        self._alarm = log(1.0 / config.alpha)
        self._joined: list[ColumnCounts] = []
        self._tested = WindowRuns()
        self._warmed_up_by = 0  # windows that only the fallback has taken
        self._rows: RowsChannel | None = None
        if len(reference.windows) < self._min_windows:
            self._rows = RowsChannel(reference.bins, reference.windows, config.tolerance, config.alpha)
        self._channels = self._window_channels()
        self._log_e: float | None = None

    @property
    def is_warming_up(self) -> bool:
        return not self._channels

    @property
    def num_reference_windows(self) -> int:
        return len(self._compared())

    @property
    def row_tolerance(self) -> float | None:
        """Total variation that the row-level fallback cannot tell from none; None where it cannot act."""
        return None if self._rows is None else self._rows.tolerance

    def reference_windows(self) -> list[ColumnCounts]:
        """The reference's windows, those that joined it included."""
        return [*self.reference.windows, *self._joined]

    def _compared(self) -> Sequence[ColumnCounts]:
        """What the window-level channels compare with: see the class."""
        return self.reference.windows if self._rows is None else self._joined

    def update(self, window: int, counts: ColumnCounts) -> None:
        """Take one closed window. A window without a single value is a fault of the pipe and is left out."""
        if present_rows(counts) == 0:
            return
        self._log_e = None
        u = uniform(self.reference.name, window)
        if self._channels:
            for channel in self._channels:
                channel.update(counts, u)
        else:
            assert self._rows is not None
            self._rows.update(counts, u)
            self._warmed_up_by += 1
            if self._rows.log_e < self._alarm:
                self._joined.append(counts)
        self._tested.append(window)
        if not self._channels:
            self._channels = self._window_channels()

    @property
    def log_e(self) -> float:
        """The column's evidence at the action level."""
        if self._log_e is None:
            self._log_e = self._combined()
        return self._log_e

    def _combined(self) -> float:
        windows = _average([(channel.weight, channel.log_e) for channel in self._channels])
        if self._rows is None:
            return windows
        return combine([_ROWS_WEIGHT, 1.0 - _ROWS_WEIGHT], [self._rows.log_e, windows])

    @property
    def log_r(self) -> float:
        """The column's evidence at the notification level; what the fallback found is past when it ends."""
        return _average([(channel.weight, channel.log_r) for channel in self._channels or self._active()])

    def channels(self) -> dict[str, float]:
        """Log evidence by channel."""
        return {channel.name: channel.log_e for channel in self._active()}

    def change_window(self) -> int | None:
        """The window in which the change most likely began, by the channel that has most to say."""
        active = [channel for channel in self._active() if channel.start is not None]
        if not active:
            return None
        best = max(active, key=lambda channel: log(channel.weight) + channel.log_e)
        assert best.start is not None
        first = 0 if best is self._rows else self._warmed_up_by
        return self._tested[first + best.start - 1]

    def to_json(self) -> dict[str, Any]:
        return {
            "joined": [counts.to_json() for counts in self._joined],
            "tested": self._tested.to_json(),
            "warmed_up_by": self._warmed_up_by,
            "channels": {channel.name: channel.state() for channel in self._active()},
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take up a state that was stored for the same reference."""
        self._log_e = None
        self._joined = [ColumnCounts.from_json(counts) for counts in content["joined"]]
        self._tested = WindowRuns(content["tested"])
        self._warmed_up_by = content["warmed_up_by"]
        self._channels = self._window_channels()
        for channel in self._active():
            channel.restore(content["channels"][channel.name])

    def _active(self) -> Sequence[Channel]:
        return [*([self._rows] if self._rows is not None else []), *self._channels]

    def _window_channels(self) -> list[Channel]:
        windows = self._compared()
        if len(windows) < self._min_windows:
            return []
        bins = self.reference.bins
        location = LocationChannel(bins, windows, self._is_persistent)
        return [location, ShapeChannel(bins, windows), RangeChannel(bins, windows)]


def _average(parts: list[tuple[float, float]]) -> float:
    return combine(*zip(*parts, strict=True)) if parts else 0.0


def uniform(name: str, window: int) -> float:
    """Return a number in (0, 1] that is random to a column and window, and the same in every replay."""
    digest = hashlib.blake2b(f"{name}\0{window}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) + 1.0) / 2.0**64
