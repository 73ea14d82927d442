"""One model's monitor: a plain class over counts, labels and event time. No Ray, no clock, no files.

``handover`` and ``add_labels`` take what replicas send. ``advance`` closes every window that the watermark
has passed, one after the other, each with the knowledge of its own end: the same rows give the same
reports whenever they arrive. ``restore`` rebuilds it from a checkpoint and the two logs.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import MonitoringConfig
from ray_mlops.monitoring.breakdown import total
from ray_mlops.monitoring.channels import DatasetMonitor, WindowVerdict
from ray_mlops.monitoring.estimate_record import estimate_record
from ray_mlops.monitoring.estimation import Calibration, decide_estimate, estimate_to_json, with_expectations
from ray_mlops.monitoring.handover import (
    LATENCY,
    SCORE,
    Handover,
    Receipt,
    Reference,
    count_violations,
    expect,
    key_columns,
    unwatched_columns,
    without_rows_ahead,
)
from ray_mlops.monitoring.history import History
from ray_mlops.monitoring.judging import Judged, LabelJudge, Watched
from ray_mlops.monitoring.label_delays import describe_curves
from ray_mlops.monitoring.labels import KEY_COLUMNS, LabelJoin
from ray_mlops.monitoring.latency import LatencyWatch
from ray_mlops.monitoring.monitor_state import HISTORY, MonitorState, Performance, WindowReport, iso_time
from ray_mlops.serving.protocol import LabelRecord
from ray_mlops.statistics.bins import ColumnCounts
from ray_mlops.statistics.expected import Expected
from ray_mlops.statistics.table import TableCounts

__all__ = ["ModelMonitor", "Performance", "Watched", "WindowReport"]

_MAX_QUARANTINED_IDS = 100_000
"""Quarantined rows that are recognised when they are handed over again."""
_MAX_UNWATCHED = 100
"""Names of logged columns without bins that are shown."""
_QUIET_WINDOWS = HISTORY
"""Of a longer stretch without rows only the end is closed window by window: nothing else of it would be shown, and
a clock that was wrong by centuries would take hours."""
_SHOWN_SLOTS = 200
"""Newest slots of the history in ``view``; ``history`` has them all."""
_SHOWN_BREAKDOWNS = 7
"""Newest windows whose performance is shown by arm, version, slice and group one by one."""


class ModelMonitor:
    """Watches one model over one reference epoch.

    Args:
        watched: The champion.
        reference: The bins in force.
        dataset: The channels.
        config: Window, lateness, label delay.
        latency: Watches the time that answers take; None makes one with the same config.
    """

    def __init__(
        self,
        watched: Watched,
        reference: Reference,
        dataset: DatasetMonitor,
        config: MonitoringConfig,
        latency: LatencyWatch | None = None,
    ) -> None:
        self.watched = watched
        self.reference = reference
        self.dataset = dataset
        self.config = config
        self._delay_us, self._horizon_us = _us(config.labels.delay), _us(config.labels.horizon)
        self._max_ahead_us = None if config.max_ahead is None else _us(config.max_ahead)
        self.join = LabelJoin(watched.encode, reference.window_us, self._horizon_us, watched.num_classes)
        self.latency = latency or LatencyWatch(config)
        self.history = History(reference.window_us, config.history)
        self.history.begin(reference.id, dataset.reference_counts())
        self._open: dict[int, TableCounts] = {}
        self._violations: dict[int, Counter[str]] = {}
        self._quarantined: dict[str, None] = {}
        self._unwatched: set[str] = set()
        self._state = MonitorState()
        self._shown_windows: deque[dict[str, Any]] = deque(maxlen=HISTORY)
        self._shown: dict[str, Any] | None = None

    # -- what replicas send ---------------------------------------------------------------------------

    def handover(self, sent: Handover) -> Receipt:
        """Take one flush, or say why it must be counted again."""
        if sent.reference != self.reference.id:
            return Receipt(False, reference=self.reference)
        ids = sent.rows["prediction_id"].to_pylist()
        known = [*self.join.known(ids), *(name for name in ids if name in self._quarantined)]
        if known:
            return Receipt(len(known) == len(ids), known=known)
        for window, counts in sent.counts.items():
            self._count(window, counts, sent.violations.get(window, {}))
        self._unwatched |= set(sent.unwatched[: _MAX_UNWATCHED - len(self._unwatched)])
        self._take(self._sound(sent.rows))
        for window, expected in sent.expected.items():
            self._state.expect(window, expected)
        return Receipt(True)

    def add_labels(self, labels: Sequence[LabelRecord]) -> dict[str, int]:
        """Take labels that are durable already."""
        return self.join.add_labels(labels)

    def _count(self, window: int, counts: TableCounts, violations: Mapping[str, int]) -> None:
        if self._state.closed is not None and window <= self._state.closed:
            self.history.add(window, counts)
            return
        held = self._open.get(window)
        self._open[window] = counts if held is None else held + counts
        if violations:
            self._violations.setdefault(window, Counter()).update(violations)

    def _sound(self, rows: pa.Table) -> pa.Table:
        """Quarantine rows from the future: a clock that is wrong must not close windows."""
        sound = without_rows_ahead(rows, self._max_ahead_us)
        if sound.num_rows < rows.num_rows:
            kept = pc.is_in(rows["prediction_id"], sound["prediction_id"].combine_chunks())
            self._quarantined |= dict.fromkeys(rows.filter(pc.invert(kept))["prediction_id"].to_pylist())
            self._state.quarantined += rows.num_rows - sound.num_rows
            for name in list(self._quarantined)[:-_MAX_QUARANTINED_IDS]:
                del self._quarantined[name]
        return sound

    def _take(self, rows: pa.Table) -> None:
        if rows.num_rows == 0:
            return
        self.join.add_predictions(rows)
        event_us = rows["event_time"].cast(pa.int64()).to_numpy()
        windows = self._windows_of(rows)
        for window in np.unique(windows).tolist():
            self._state.count_rows(window, int(np.count_nonzero(windows == window)))
        newest, before = int(event_us.max()), self._state.max_event_us
        self._state.max_event_us = newest if before is None else max(before, newest)

    # -- event time -----------------------------------------------------------------------------------

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come."""
        newest = self._state.max_event_us
        return None if newest is None else newest - _us(self.config.allowed_lateness)

    @property
    def closed_window(self) -> int | None:
        """The newest window that the watermark has passed and that was dealt with; None before the first row."""
        if self._state.closed is not None:
            return self._state.closed
        first = self._next_window()
        return None if first is None else first - 1

    def _next_window(self) -> int | None:
        """The window that is closed next. Nothing is closed before the first window that has rows."""
        state, mark = self._state, self.watermark_us
        if state.closed is not None and mark is not None:
            return self._after_quiet(state.closed + 1, mark // self.reference.window_us)
        return None if mark is None or not state.rows else min([*state.rows, mark // self.reference.window_us])

    def _after_quiet(self, window: int, open_window: int) -> int:
        """Where to go on: the window itself, or the end of a long stretch without rows that begins with it."""
        if open_window - window <= _QUIET_WINDOWS:
            return window
        coming = min((index for index in self._state.rows if window <= index < open_window), default=open_window)
        return max(window, coming - _QUIET_WINDOWS)

    def due(self) -> bool:
        """Whether a window waits to be closed."""
        mark, window = self.watermark_us, self._next_window()
        return mark is not None and window is not None and mark // self.reference.window_us > window

    def advance(self) -> WindowReport | None:
        """Close the next window that the watermark has passed; None when there is none."""
        window = self._next_window()
        if window is None or not self.due():
            return None
        before, newest = self._mature_between(window)
        now_us = (window + 1) * self.reference.window_us
        judge = self._judge()
        curves = judge.curves(now_us)
        matured = {index: judge.judge(index, curves, now_us) for index in self._maturing(before, newest)}
        revised = {index: judge.judge(index, curves, now_us) for index in self.join.touched(before)}
        self.join.take_touched(newest, now_us)  # from here on things change
        counts = self._open.pop(window, None)
        self.history.close(window, counts)
        verdict = self._test_inputs(window, counts, self._violations.pop(window, Counter()))
        self._mature(matured)
        self._revise(revised)
        self._state.matured, self._state.closed = newest, window
        self._state.settle()
        self.join.expire(now_us)
        report = self._report(window, verdict, tuple(matured))
        self._remember(report)
        self._state.forget((now_us - self._horizon_us) // self.reference.window_us)
        return report

    def _remember(self, report: WindowReport) -> None:
        self._state.reports = [*self._state.reports, report][-HISTORY:]
        self._shown_windows.append(report.shown(self.reference.window_us))
        self._shown = None

    def _test_inputs(
        self, window: int, counts: TableCounts | None, violations: Mapping[str, int]
    ) -> WindowVerdict | None:
        rows = self._state.rows.get(window, 0)
        if not self.watched.is_tested(window) or rows < self.config.min_window_rows:
            return None
        columns = {} if counts is None else dict(counts)
        features = {name: column for name, column in columns.items() if name not in (SCORE, LATENCY)}
        score = columns.get(SCORE)
        if score is not None and score.n < self.config.min_window_rows:
            score = None  # just after a promotion, or beside a candidate that answers most requests
        self.latency.update(window, columns.get(LATENCY))
        return self.dataset.update(window, features, score, violations=violations)

    def _mature_between(self, window: int) -> tuple[int, int]:
        """The newest window that had matured before the close of one, and the newest that has by its end."""
        before = window - 1 if self._state.matured is None else self._state.matured
        newest = ((window + 1) * self.reference.window_us - self._delay_us) // self.reference.window_us - 1
        return before, max(newest, before)

    def _maturing(self, before: int, newest: int) -> list[int]:
        """The windows in ``(before, newest]``; of a long stretch without rows only the end."""
        ends = range(max(before + 1, newest + 1 - _QUIET_WINDOWS), newest + 1)
        return sorted({*ends, *(index for index in self._state.rows if before < index <= newest)})

    def _judge(self) -> LabelJudge:
        return LabelJudge(self.watched, self.join, self.config, self.reference.estimator)

    def _mature(self, found: Mapping[int, Judged]) -> None:
        """Take in what labels say of windows, in order of time."""
        for window, judged in found.items():
            self._show(window, judged, judged.performance.judged)
            if judged.loss is not None:
                self.dataset.update_loss(window, judged.loss, judged.gap)

    def _revise(self, found: Mapping[int, Judged]) -> None:
        """Show what labels that came late, and corrections, say of windows that have been judged: once is for good."""
        for window, judged in found.items():
            before = self._state.performance.get(window)
            if before is not None:
                self._show(window, judged, before.judged)

    def _show(self, window: int, judged: Judged, is_judged: bool) -> None:
        self._state.labelled[window] = judged.performance.labelled
        self._state.performance[window] = replace(judged.performance, judged=is_judged)
        if judged.breakdown is not None:
            self._state.breakdowns[window] = judged.breakdown

    def _report(self, window: int, verdict: WindowVerdict | None, matured: tuple[int, ...]) -> WindowReport:
        return WindowReport(
            window=window,
            version=self.watched.version,
            rows=self._state.rows.get(window, 0),
            verdict=None if verdict is None else verdict.to_json(),
            alarms=tuple(self.dataset.alarms()),
            breaches=tuple(self.dataset.breaches()),
            notices=() if verdict is None else (*verdict.notices, *self.latency.notices()),
            matured=matured,
        )

    # -- what others ask ------------------------------------------------------------------------------

    def labelled(self, after: int) -> pa.Table:
        """Labelled rows of matured windows after one, in event order (see ``MonitorView.labelled``)."""
        matured = self._state.matured
        table = None if matured is None else self.join.labelled(after, matured)
        return self._no_rows() if table is None else table

    def _no_rows(self) -> pa.Table:
        columns = {name: pa.array([], pa.string()) for name in KEY_COLUMNS}
        return pa.table({**columns, "window": pa.array([], pa.int64()), "label": pa.array([], pa.float64())})

    def labelled_rows(self) -> dict[int, int]:
        """Matured labelled rows by window."""
        return dict(self._state.labelled)

    def describe(self, name: str) -> dict[str, Any]:
        """Say why an alarm or a breach is up; what has drifted, by all windows since it has."""
        return self.dataset.describe(name, self._since)

    def _since(self, window: int) -> Mapping[str, ColumnCounts]:
        window_us, end = self.reference.window_us, self._state.closed
        found = None if end is None else self.history.past(window * window_us, (end + 1) * window_us)
        return {} if found is None else found.counts

    def reports(self) -> list[WindowReport]:
        """The newest windows, oldest first."""
        return list(self._state.reports)

    def view(self) -> dict[str, Any]:
        """The monitor's part of ``GET /monitoring``; cheap unless a window was closed since the last call."""
        if self._shown is None:
            self._shown = self._shown_at_close()
        state = self._state
        return {
            "version": self.watched.version,
            "reference": self.reference.id,
            "window_s": self.reference.window_us / 1e6,
            "watermark": iso_time(self.watermark_us),
            "closed_window": self.closed_window,
            "matured_window": state.matured,
            "rows": state.total_rows,
            "late_rows": state.late_rows,
            "quarantined_rows": state.quarantined,
            "labels": {**self.join.counts, **self.join.waiting},
            **self._shown,
        }

    def _shown_at_close(self) -> dict[str, Any]:
        """What changes only when a window is closed."""
        state, window_us = self._state, self.reference.window_us
        calibration = self.dataset.calibration()
        return {
            "alarms": list(self.dataset.alarms()),
            "breaches": list(self.dataset.breaches()),
            "drift": self.dataset.view(),
            "latency": self.latency.view(),
            "history": self.history.slots(_SHOWN_SLOTS),
            "forgotten_rows": self.history.forgotten_rows,
            "min_window_rows": self.config.min_window_rows,
            "unwatched_columns": sorted(self._unwatched),
            "windows": list(self._shown_windows),
            "performance": [
                {
                    "window": index,
                    "start": iso_time(index * window_us),
                    **state.performance[index].shown(),
                    "estimated": self._estimated(index, calibration),
                }
                for index in sorted(state.performance)[-HISTORY:]
            ],
            "estimates": self._estimate_record(),
            "realised": self._realised(),
            "label_delays": self._label_delays(),
            "unlabelled": [
                {
                    "window": index,
                    "start": iso_time(index * window_us),
                    **asdict(self.join.summary(index)),
                    "estimated": self._estimated(index, calibration),
                }
                for index in sorted(state.estimates)
                if index not in state.performance and state.closed is not None and index <= state.closed
            ][-HISTORY:],
        }

    def _estimate_record(self) -> dict[str, Any] | None:
        """How good the estimates of this epoch were; None where too little is known."""
        own = [found for window, found in self._state.performance.items() if self.watched.is_tested(window)]
        found = estimate_record(own, self.dataset.reference_loss)
        return None if found is None else found.to_json()

    def _realised(self) -> dict[str, Any]:
        """Performance of the newest matured windows by arm, version, slice and group: in all, and window by window."""
        found = sorted(self._state.breakdowns.items())
        return {
            "windows": [index for index, _ in found],
            "total": total((breakdown for _, breakdown in found), self.watched.task).shown(),
            "by_window": [
                {"window": index, "start": iso_time(index * self.reference.window_us), "cells": breakdown.shown()}
                for index, breakdown in found[-_SHOWN_BREAKDOWNS:]
            ],
            "problems": self.watched.slicing.problems,
        }

    def _label_delays(self) -> dict[str, Any]:
        """How long labels take, which share of rows has one at which age, and whether the configuration fits that."""
        closed = self._state.closed
        curves = None if closed is None else self._judge().curves((closed + 1) * self.reference.window_us)
        names = self.watched.classes if self.watched.num_classes > 1 else ()
        return describe_curves(curves, names, self.config.labels)

    def _estimated(self, window: int, calibration: Calibration | None) -> Any:
        """The estimate of a closed window, or why there is none."""
        expected, config = self._state.estimates.get(window), self.config
        estimator = self.reference.estimator
        if expected is None and estimator is not None:
            expected = Expected()
        decision = decide_estimate(window, expected, calibration, config.min_window_rows, config.estimation)
        assumes = "" if estimator is None else estimator.assumes
        return estimate_to_json(expected, decision, assumes, config.estimation.interval)

    # -- restarts -------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """All that the logs cannot give back. Counts of open windows and labels are read from the logs."""
        return {
            "schema_version": 1,
            "reference": self.reference.id,
            "version": self.watched.version,
            "start_window": self.watched.start_window,
            "window_us": self.reference.window_us,
            **self._state.to_json(),
            "dataset": self.dataset.to_json(),
            "latency": self.latency.to_json(),
            "labels": self.join.to_json(),
        }

    def restore(
        self, content: Mapping[str, Any] | None, parts: Sequence[pa.Table], labels: Sequence[LabelRecord]
    ) -> None:
        """Take up where a checkpoint was made, and read the rest from the logs.

        The channels are not touched: evidence belongs to an epoch, and the checkpoint may be of the one before.

        Args:
            content: A checkpoint of this epoch or of the one before, in windows of this one's length (see
                ``in_windows_of``); None begins anew.
            parts: Logged rows within the label horizon, of every window that the checkpoint had not closed, and of
                those that the history lacks; rows of versions that logged other columns apart.
            labels: Logged labels, in order of arrival.
        """
        stored = None if content is None else MonitorState.from_json(content)
        self._replay(parts, None if stored is None else stored.closed)
        if content is None or stored is None:
            self.join.add_labels(labels)
            return
        is_told = content.get("is_told_by_the_log", False)
        self._state = self._state.replayed(stored.told_by(self._state) if is_told else stored)
        self._state.settle()
        self.join.restore(content["labels"], labels)
        if is_told and stored.matured is not None:
            self._state.labelled = self.join.labelled_counts(stored.matured)
        self._shown_windows.extend(report.shown(self.reference.window_us) for report in self._state.reports)

    def _replay(self, parts: Sequence[pa.Table], closed: int | None) -> None:
        past: dict[int, TableCounts] = {}
        for rows in parts:
            self._unwatched |= set(unwatched_columns(rows, self.reference)[: _MAX_UNWATCHED - len(self._unwatched)])
            self._count_again(without_rows_ahead(rows, self._max_ahead_us), closed, past)
            if closed is not None:  # days of the log begin before the horizon does
                oldest = ((closed + 1) * self.reference.window_us - self._horizon_us) // self.reference.window_us
                rows = rows.filter(pa.array(self._windows_of(rows) >= oldest))
            sound = with_expectations(self._sound(rows), self.reference.estimator, self.reference.version)
            kept = key_columns(sound, self.reference.kept)
            self._take(kept)
            for window, expected in expect(kept, self.reference).items():
                self._state.expect(window, expected)
        for window in sorted(past):
            self.history.close(window, past[window])

    def _count_again(self, rows: pa.Table, closed: int | None, past: dict[int, TableCounts]) -> None:
        """Count rows of open windows, and of those that were closed after the history was stored."""
        through = self.history.through
        windows = self._windows_of(rows)
        for window in np.unique(windows).tolist():
            is_open = closed is None or window > closed
            if not is_open and through is not None and window <= through:
                continue
            part = rows.filter(pa.array(windows == window))
            counts = self.reference.count(part)
            if is_open:
                self._count(window, counts, count_violations(part, self.reference.rules))
            else:
                past[window] = past[window] + counts if window in past else counts

    def _windows_of(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        return np.asarray(rows["event_time"].cast(pa.int64()).to_numpy() // self.reference.window_us)


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
