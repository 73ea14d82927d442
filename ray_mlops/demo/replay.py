"""Replay history through the service: rows and labels in order of event time, held back by a barrier.

For each event day the client posts the day's first request, which moves the monitor's watermark past the
day before; waits until the loop has dealt with that day; posts the rest; then posts the labels now due.
Decisions therefore fall between days, and a replay repeats itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ray_mlops.config import DataConfig, ProjectConfig, ReplayConfig
from ray_mlops.data.source import source_table
from ray_mlops.errors import DeadlineError, OverloadError, RayMLOpsError

_POLL_S = 0.02
_UNSETTLED = frozenset({"pending", "validating", "preparing", "promoting", "rolling_back"})
"""Rollout states that pass by themselves; event time waits for them."""


class Service(Protocol):
    """What the replay asks of the service; ``serving.client.Client`` is one."""

    def predict(self, instances: list[dict[str, Any]], *, ids: list[str]) -> Mapping[str, Any]: ...
    def feedback(self, labels: list[dict[str, Any]]) -> Mapping[str, Any]: ...
    def rollout(self) -> Mapping[str, Any]: ...
    def monitoring(self) -> Mapping[str, Any]: ...


@dataclass(slots=True)
class ReplayReport:
    """What the client saw."""

    requests: int = 0
    rows: int = 0
    failed: int = 0
    labels: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    """Requests answered, by ``version``."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Prediction by row id."""
    versions: dict[str, str] = field(default_factory=dict)
    """Version that answered, by row id."""
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Day:
    """One event day's rows, as requests."""

    day: date
    requests: tuple[tuple[list[str], list[dict[str, Any]]], ...]
    labels: tuple[dict[str, Any], ...]
    """The day's labels, sent when they are due."""


def replay_days(table: pa.Table, data: DataConfig, replay: ReplayConfig) -> Iterator[Day]:
    """Cut rows in event order into days and requests.

    Args:
        table: Rows with ``data.event_time``, ``data.id``, the target and the inputs.
        data: Names of the columns.
        replay: Range, sample and request size.
    """
    event_time, row_id = data.event_time or "", data.id or ""
    days = pc.cast(pc.cast(table[event_time], pa.date32()), pa.int32()).to_numpy()
    generator = np.random.default_rng(replay.seed)
    for index in np.unique(days):
        day = date(1970, 1, 1) + timedelta(days=int(index))
        if not replay.start <= day <= replay.end:
            continue
        members = np.flatnonzero(days == index)
        if len(members) > replay.rows_per_day:
            members = np.sort(generator.choice(members, replay.rows_per_day, replace=False))
        rows = table.take(pa.array(members)).sort_by([(event_time, "ascending"), (row_id, "ascending")])
        yield _day(day, rows, data, replay)


def _day(day: date, rows: pa.Table, data: DataConfig, replay: ReplayConfig) -> Day:
    row_id, event_time = data.id or "", data.event_time or ""
    ids = [str(name) for name in rows[row_id].to_pylist()]
    targets = rows[data.target].to_pylist()
    times = [moment.isoformat() for moment in rows[event_time].to_pylist()]
    inputs = rows.drop_columns([data.target, row_id, event_time, *(c for c in data.exclude if c in rows.column_names)])
    instances = [{**row, event_time: moment} for row, moment in zip(inputs.to_pylist(), times, strict=True)]
    size = replay.rows_per_request
    requests = tuple((ids[i : i + size], instances[i : i + size]) for i in range(0, len(ids), size))
    due = (datetime.combine(day, datetime.min.time(), UTC) + timedelta(days=1) + replay.label_delay).isoformat()
    labels = tuple({"id": i, "label": t, "time": due} for i, t in zip(ids, targets, strict=True) if t is not None)
    return Day(day, requests, labels)


class Replay:
    """Posts days, one after the other.

    Args:
        service: The service.
        replay: Pace, concurrency, label delay, timeouts.
        window_us: The monitor's window.
        on_day: Called after each day, with the day and the report so far.
    """

    def __init__(
        self,
        service: Service,
        replay: ReplayConfig,
        window_us: int,
        on_day: Callable[[date, ReplayReport], None] = lambda day, report: None,
    ) -> None:
        self._service = service
        self._config = replay
        self._window_us = window_us
        self._on_day = on_day
        self._waiting: list[Day] = []
        self.report = ReplayReport()

    def run(self, days: Iterator[Day], before_day: Callable[[date], bool] = lambda day: False) -> ReplayReport:
        """Post all days.

        Args:
            days: In order.
            before_day: Called between days, after the barrier: what an operator does on that day. Returns
                whether anything was done that event time must wait for.

        Raises:
            DeadlineError: The loop did not keep up within ``day_timeout_s``.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            for day in days:
                self._post(day.requests[0])
                if self._config.pace == "barrier":
                    self._hold(day.day)
                if before_day(day.day) and self._config.pace == "barrier":
                    self._hold(day.day)
                list(pool.map(self._post, day.requests[1:]))
                self._waiting.append(day)
                self._send_labels(day.day)
                self.report.seconds = time.monotonic() - started
                self._on_day(day.day, self.report)
        return self.report

    def _post(self, request: tuple[list[str], list[dict[str, Any]]]) -> None:
        ids, instances = request
        self.report.requests += 1
        self.report.rows += len(ids)
        try:
            answer = self._service.predict(instances, ids=ids)
        except RayMLOpsError as error:
            self.report.failed += 1
            self.report.errors.append(str(error))
            return
        version = str(answer["version"])
        self.report.answered[version] = self.report.answered.get(version, 0) + 1
        for row_id, prediction in zip(ids, answer["predictions"], strict=True):
            self.report.scores[row_id] = prediction
            self.report.versions[row_id] = version

    def _send_labels(self, day: date) -> None:
        """Send what is due by the end of a day."""
        due = [d for d in self._waiting if d.day + self._config.label_delay <= day]
        for ready in due:
            self._waiting.remove(ready)
            if ready.labels:
                self._service.feedback(list(ready.labels))
                self.report.labels += len(ready.labels)

    def _hold(self, day: date) -> None:
        """Wait until the loop has dealt with every window before a day."""
        start_us = int(datetime.combine(day, datetime.min.time(), UTC).timestamp()) * 1_000_000
        wanted = start_us // self._window_us - 1
        deadline = time.monotonic() + self._config.day_timeout_s
        state: Mapping[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                # The rollout's document is small and follows the monitor; the monitor's is large.
                if _has_evaluated(self._service.rollout(), wanted):
                    state = self._service.monitoring()
                    if _has_settled(state, wanted):
                        return
            except OverloadError as error:
                state = {"error": str(error)}
            time.sleep(_POLL_S)
        stuck = {name: state.get(name) for name in ("closed_window", "retraining", "error")}
        remedy = "see 'ray-mlops monitor' and 'ray-mlops rollout show'"
        raise DeadlineError(f"the loop did not pass window {wanted}: {stuck}", f"replay of {day}", remedy)


def _has_settled(monitoring: Mapping[str, Any], window: int) -> bool:
    """The monitor has closed a window, and no retraining job holds event time back."""
    closed = monitoring.get("closed_window")
    return closed is not None and closed >= window and not monitoring.get("retraining", {}).get("in_flight")


def _has_evaluated(rollout: Mapping[str, Any], window: int) -> bool:
    """The rollout has been decided upon with that window's evidence, and nothing is half done."""
    through = rollout.get("evaluated_through")
    return through is not None and through >= window and rollout.get("state") not in _UNSETTLED


def run_replay(config: ProjectConfig, service: Service, on_phase: Callable[[str, str], None]) -> ReplayReport:
    """Replay ``demo.replay`` of a configuration against a running service."""
    assert config.demo is not None
    replay = config.demo.replay
    table = source_table(replay.source or config.data.source)

    def show(day: date, report: ReplayReport) -> None:
        on_phase("replay", f"{day}, {report.rows} rows, {report.failed} failed")

    window_us = config.monitoring.window // timedelta(microseconds=1)
    return Replay(service, replay, window_us, show).run(replay_days(table, config.data, replay))
