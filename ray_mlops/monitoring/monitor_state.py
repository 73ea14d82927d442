"""What a monitor remembers of the windows that it has seen, and how that is stored and shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ray_mlops.monitoring.breakdown import Breakdown
from ray_mlops.statistics.expected import Expected

HISTORY = 120
"""Windows that are remembered for display."""
BROKEN_DOWN = 30
"""Newest matured windows whose performance is remembered by arm, version, slice and group."""
_TRAINABLE = 20_000
"""Newest matured windows whose labelled rows are known to a retraining's window."""
_SHOWN = ("log_e", "total_variation", "expected", "is_noise")


@dataclass(frozen=True, slots=True)
class Performance:
    """Realised losses of one matured window, of the rows that the champion answered."""

    rows: int
    labelled: int
    loss: float | None
    """Mean bounded loss."""
    log_loss: float | None
    """Mean log-loss, nats (classification)."""
    judged: bool
    """Whether coverage was enough for the loss channel."""
    realised: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the version's own labelled rows."""
    expected: Mapping[str, float] = field(default_factory=dict)
    """What was expected of the same rows; empty without an estimator, and of older releases."""
    weighting: str = ""
    """How labels that come later for some classes were made up for; empty where they were not."""

    def to_json(self) -> dict[str, Any]:
        """For storage."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "realised": dict(self.realised), "expected": dict(self.expected)}

    def shown(self) -> dict[str, Any]:
        """For people, with the error of the estimate where it is known."""
        gap = {name: self.expected[name] - value for name, value in self.realised.items() if name in self.expected}
        return {**self.to_json(), "estimate_error": gap}


@dataclass(frozen=True, slots=True)
class WindowReport:
    """What was seen at the close of one window."""

    window: int
    version: str
    rows: int
    verdict: dict[str, Any] | None
    """The channels' verdict; None where there were too few rows, or between two reference epochs."""
    alarms: tuple[str, ...] = ()
    """Action-level alarms that are up: `inputs`, `score`, `loss`."""
    breaches: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    matured: tuple[int, ...] = ()
    """Windows whose labels matured at this close."""

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "WindowReport":
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**fields)

    def shown(self, window_us: int) -> dict[str, Any]:
        """The window as one line for people."""
        verdict = self.verdict or {}
        return {
            "window": self.window,
            "start": iso_time(self.window * window_us),
            "version": self.version,
            "rows": self.rows,
            "alarms": list(self.alarms),
            "breaches": list(self.breaches),
            "log_e": verdict.get("log_e"),
            "features": {
                name: {key: feature.get(key) for key in _SHOWN} for name, feature in verdict.get("features", {}).items()
            },
        }


@dataclass(slots=True)
class MonitorState:
    """Counts of rows by window and what came of them."""

    max_event_us: int | None = None
    closed: int | None = None
    matured: int | None = None
    late_rows: int = 0
    quarantined: int = 0
    total_rows: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    """By window; windows beyond display and label horizon are forgotten."""
    labelled: dict[int, int] = field(default_factory=dict)
    performance: dict[int, Performance] = field(default_factory=dict)
    breakdowns: dict[int, Breakdown] = field(default_factory=dict)
    estimates: dict[int, Expected] = field(default_factory=dict)
    reports: list[WindowReport] = field(default_factory=list)

    def count_rows(self, window: int, num_rows: int) -> None:
        """Add rows of one window; those of a closed one are late."""
        self.rows[window] = self.rows.get(window, 0) + num_rows
        self.total_rows += num_rows
        if self.closed is not None and window <= self.closed:
            self.late_rows += num_rows

    def expect(self, window: int, expected: Expected) -> None:
        """Add what rows of one window let one expect."""
        self.estimates[window] = self.estimates.get(window, Expected()) + expected

    def settle(self) -> None:
        """Keep the estimates of closed windows in little memory."""
        for window, expected in self.estimates.items():
            if self.closed is not None and window <= self.closed and expected.cells is not None:
                self.estimates[window] = expected.settled()

    def forget(self, oldest: int) -> None:
        """Let go of what is older than the display and than a window."""
        for window in sorted(self.performance)[:-HISTORY]:
            del self.performance[window]
        for window in sorted(self.breakdowns)[:-BROKEN_DOWN]:
            del self.breakdowns[window]
        for window in sorted(self.labelled)[:-_TRAINABLE]:
            del self.labelled[window]
        oldest = min([oldest, *self.performance, *(report.window for report in self.reports[:1])])
        self.rows = {window: n for window, n in self.rows.items() if window >= oldest}
        self.estimates = {window: e for window, e in self.estimates.items() if window >= oldest}

    def to_json(self) -> dict[str, Any]:
        return {
            "max_event_us": self.max_event_us,
            "closed": self.closed,
            "matured": self.matured,
            "late_rows": self.late_rows,
            "quarantined": self.quarantined,
            "total_rows": self.total_rows,
            "rows": sorted(self.rows.items()),
            "labelled": sorted(self.labelled.items()),
            "performance": [[window, p.to_json()] for window, p in sorted(self.performance.items())],
            "breakdowns": [[window, breakdown.to_json()] for window, breakdown in sorted(self.breakdowns.items())],
            "estimates": [[window, expected.to_json()] for window, expected in sorted(self.estimates.items())],
            "reports": [report.to_json() for report in self.reports],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "MonitorState":
        """Read what ``to_json`` wrote; estimates of an older release, which had no band, are let go."""
        plain = ("max_event_us", "closed", "matured", "late_rows", "quarantined", "total_rows")
        return cls(
            **{name: content[name] for name in plain},
            rows=dict(content["rows"]),
            labelled=dict(content["labelled"]),
            performance={window: Performance(**p) for window, p in content["performance"]},
            breakdowns={window: Breakdown.from_json(b) for window, b in content.get("breakdowns", ())},
            estimates={w: Expected.from_json(e) for w, e in content["estimates"] if isinstance(e, Mapping)},
            reports=[WindowReport.from_json(report) for report in content["reports"]],
        )

    def told_by(self, logged: "MonitorState") -> "MonitorState":
        """The same with rows of closed windows as a log has them: nothing of them is late."""
        closed = self.closed
        rows = {} if closed is None else {window: n for window, n in logged.rows.items() if window <= closed}
        return replace(self, rows=rows)

    def replayed(self, stored: "MonitorState") -> "MonitorState":
        """Unite what a log gave (self) with what a checkpoint knew: rows that only the log has came since.

        Args:
            stored: The checkpoint's; the log may lack rows of its closed windows, which have been deleted.
        """
        closed = stored.closed if stored.closed is not None else min(self.rows, default=0) - 1
        fresh = {window: max(n - stored.rows.get(window, 0), 0) for window, n in self.rows.items()}
        late = sum(n for window, n in fresh.items() if window <= closed)
        past = {window: n + fresh.get(window, 0) for window, n in stored.rows.items() if window <= closed}
        kept = {window: e for window, e in stored.estimates.items() if window <= closed and not fresh.get(window)}
        newest = [us for us in (self.max_event_us, stored.max_event_us) if us is not None]
        return MonitorState(
            max_event_us=max(newest, default=None),
            closed=stored.closed,
            matured=stored.matured,
            late_rows=stored.late_rows + late,
            quarantined=max(stored.quarantined, self.quarantined),
            total_rows=stored.total_rows + sum(fresh.values()),
            rows={**self.rows, **past},
            labelled=stored.labelled,
            performance=stored.performance,
            breakdowns=stored.breakdowns,
            estimates={**stored.estimates, **self.estimates, **kept},
            reports=stored.reports,
        )


def in_windows_of(checkpoint: Mapping[str, Any], window_us: int) -> Mapping[str, Any]:
    """A monitor's checkpoint in windows of a length; one that is in such windows is returned as it is.

    Only whole windows are closed. What was known by window is let go: the log tells it again, as far as the label
    horizon reaches.

    Args:
        checkpoint: ``ModelMonitor.checkpoint``; of an older release, which did not say its length, it is taken to fit.
        window_us: Length of a window.
    """
    before_us = checkpoint.get("window_us", window_us)
    if before_us == window_us:
        return checkpoint
    closed, matured = (
        None if checkpoint[name] is None else (checkpoint[name] + 1) * before_us // window_us - 1
        for name in ("closed", "matured")
    )
    first_open_us = None if closed is None else (closed + 1) * window_us
    still_open = [n for window, n in checkpoint["rows"] if first_open_us is None or window * before_us >= first_open_us]
    return {
        **checkpoint,
        **{name: [] for name in ("rows", "labelled", "performance", "breakdowns", "estimates", "reports")},
        "window_us": window_us,
        "closed": closed,
        "matured": matured,
        "total_rows": checkpoint["total_rows"] - sum(still_open),
        "is_told_by_the_log": True,
    }


def iso_time(event_us: int | None) -> str | None:
    """Event time for people, seconds, UTC."""
    if event_us is None:
        return None
    return str(np.datetime_as_string(np.datetime64(event_us, "us"), unit="s")) + "Z"
