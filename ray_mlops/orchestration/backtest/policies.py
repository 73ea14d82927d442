"""Who decides in a backtest when to retrain: nobody, a calendar, or the monitor with its own policy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ray_mlops.config import MonitoringConfig, ProjectConfig, RetrainingConfig, StoreConfig, config_hash
from ray_mlops.errors import MonitoringError
from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.monitoring.handover import build_handover
from ray_mlops.monitoring.policy import NoRetrain, RetrainDecision, RetrainHistory, Signals, decide_retrain
from ray_mlops.monitoring.schedule import is_due
from ray_mlops.monitoring.service import MonitorService
from ray_mlops.monitoring.submission import JobState
from ray_mlops.orchestration.backtest.history import History
from ray_mlops.runtime.files import Files
from ray_mlops.serving.prediction_log.listing import log_path
from ray_mlops.serving.protocol import LOG_COLUMNS, Arm, LabelRecord, ModelRoutes
from ray_mlops.serving.routes import commit_routes
from ray_mlops.training.bundle import ModelBundle


class Policy(Protocol):
    """Decides window by window, with the knowledge of that time."""

    name: str

    def begin(self, champion: ModelBundle, window: int) -> None:
        """Start with a model, at a window."""

    def decide(self, window: int, rows: History, champion: ModelBundle) -> RetrainDecision | None:
        """Decide at the start of a window, whose rows are not known yet but for the first."""

    def finish(self, decision: RetrainDecision, champion: ModelBundle | None) -> None:
        """Learn what a decision came to: the new champion, or None."""

    def observe(self, window: int, rows: History, champion: ModelBundle) -> None:
        """See a window's rows with the champion's answers."""


@dataclass
class Calendar:
    """Retrains by the calendar, whatever happens; a schedule of None never does.

    Args:
        name: For people.
        schedule: How often, or a cron expression.
        config: Label delay, windows, rows that a training needs.
        counts: Labelled rows by window.
        phase: How long after the beginning the first period begins.
        at_most: Retrainings after which it stops.
    """

    name: str
    schedule: timedelta | str | None
    config: ProjectConfig
    counts: dict[int, int]
    phase: timedelta = timedelta(0)
    at_most: int | None = None
    _since_us: int = 0
    _history: RetrainHistory = field(default_factory=RetrainHistory)

    def begin(self, champion: ModelBundle, window: int) -> None:
        self._since_us = window * _window_us(self.config.monitoring) + _us(self.phase)

    def decide(self, window: int, rows: History, champion: ModelBundle) -> RetrainDecision | None:
        now_us = window * _window_us(self.config.monitoring)
        spent = self.at_most is not None and len(self._history.decisions) >= self.at_most
        if self.schedule is None or spent or not is_due(self.schedule, self._since_us, now_us):
            return None
        outcome = decide_now(self.config, self.counts, window, self._history)
        if isinstance(outcome, NoRetrain):
            return None
        self._since_us = now_us
        basis = outcome.reason.partition("; ")[2]
        return replace(outcome, trigger="schedule", reason=f"the calendar; {basis}")

    def finish(self, decision: RetrainDecision, champion: ModelBundle | None) -> None:
        self._history = concluded(self._history, decision, champion)

    def observe(self, window: int, rows: History, champion: ModelBundle) -> None:
        """A calendar looks at nothing."""


def decide_now(
    config: ProjectConfig, counts: dict[int, int], window: int, history: RetrainHistory
) -> RetrainDecision | NoRetrain:
    """Decide as when a person asks for a full retraining at the start of a window: no cool-down, no budget."""
    window_us = _window_us(config.monitoring)
    matured = window - -(-_us(config.monitoring.labels.delay) // window_us)
    signals = Signals(
        model=config.name,
        champion="backtest",
        config_hash="",
        watermark_us=window * window_us,
        window_us=window_us,
        labelled_rows={index: n for index, n in counts.items() if index < matured},
    )
    asked = replace(history, manual=("calendar",), manual_action="full")
    enabled = config.retraining.model_copy(update={"enabled": True})
    return decide_retrain(signals, asked, config.monitoring, enabled)


def concluded(history: RetrainHistory, decision: RetrainDecision, champion: ModelBundle | None) -> RetrainHistory:
    """A history with one more decision, and what it came to."""
    outcomes = {**history.outcomes, decision.decision_id: "refused" if champion is None else "registered"}
    return replace(history, decisions=(*history.decisions, decision), outcomes=outcomes)  # type: ignore[arg-type]


class Watched:
    """The monitor itself, with the configured policy, over a scratch store.

    Args:
        name: For people.
        config: The configuration.
        history: All rows: their labels arrive ``monitoring.labels.delay`` after them.
        directory: An empty directory.
        retraining: Instead of the configured policy.
    """

    def __init__(
        self,
        name: str,
        config: ProjectConfig,
        history: History,
        directory: Path,
        retraining: RetrainingConfig | None = None,
    ) -> None:
        self.name = name
        self._history = history
        policy = (retraining or config.retraining).model_copy(update={"enabled": True})
        store = StoreConfig(root=str(directory))
        self._config = config.model_copy(update={"store": store, "retraining": policy})
        self._files, self._ledger = Files(store.root_uri), Ledger.open(store)
        self._jobs = _Jobs()
        self._service = MonitorService(self._ledger, self._files, self._jobs)
        self._routes: ModelRoutes | None = None
        self._version, self._sequence, self._labelled_until = 0, 0, 0

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Alarms that were raised, oldest first."""
        events = self._ledger.read(f"{self._config.name}/monitor", kind="monitor.alarm")
        return [dict(event.payload) for event in events]

    def events(self) -> list[LedgerEvent]:
        """All that was recorded so far, oldest first."""
        return self._ledger.read()

    def view(self) -> dict[str, Any]:
        """What the monitor would show at this moment (see ``MonitorService.view``)."""
        return self._service.view(self._config.name)

    def begin(self, champion: ModelBundle, window: int) -> None:
        name, key = self._config.name, config_hash(self._config)
        content = {"config": self._config.model_dump(mode="json"), "hash": key}
        self._ledger.append(f"{name}/config", "config.deployed", f"{name}/config/{key}", content)
        self._promote(champion)
        self._labelled_until = window * self._history.window_us - _us(self._config.monitoring.labels.delay)
        self._service.watch(name)

    def decide(self, window: int, rows: History, champion: ModelBundle) -> RetrainDecision | None:
        self._send_labels(window)
        self._hand_over(rows.head(1), champion)
        return self._jobs.take(self._ledger)

    def finish(self, decision: RetrainDecision, champion: ModelBundle | None) -> None:
        if champion is not None:
            self._promote(champion)
        outcome = "refused" if champion is None else "registered"
        payload = {"decision_id": decision.decision_id, "outcome": outcome, "version": None, "reason": "backtest"}
        stream = f"{self._config.name}/retrain"
        self._ledger.append(stream, "retrain.finished", f"{decision.decision_id}/finished", payload)

    def observe(self, window: int, rows: History, champion: ModelBundle) -> None:
        self._hand_over(rows.tail(1), champion)

    def _promote(self, champion: ModelBundle) -> None:
        self._version += 1
        saved = champion.save(self._files)
        arm = Arm(str(self._version), saved.uri, saved.hash)
        before = self._routes.version if self._routes else 0
        routes = ModelRoutes(self._config.name, before, arm, config_hash=config_hash(self._config))
        self._routes = commit_routes(self._ledger, routes, before)

    def _send_labels(self, window: int) -> None:
        """Labels that have come by the start of a window."""
        until_us = window * self._history.window_us - _us(self._config.monitoring.labels.delay)
        part = self._history.part(self._labelled_until, until_us)
        self._labelled_until = until_us
        if not len(part):
            return
        records = label_records(part, self._config)
        self._sequence += 1
        write_labels(self._files, self._config.name, records, f"b-{self._sequence}")
        self._service.add_labels(self._config.name, records)

    def _hand_over(self, rows: History, champion: ModelBundle) -> None:
        if not len(rows):
            return
        name = self._config.name
        assert self._routes is not None
        logged = log_rows(rows, champion, self._config, str(self._version), self._routes.version)
        self._sequence += 1
        self._files.write_table(log_path(name, _day(int(rows.event_us[0])), "b", self._sequence), logged)
        for _ in range(2):  # a promotion since the last one gives other bins, once
            reference = self._service.reference(name)
            if self._service.handover(build_handover(name, "b", self._sequence, logged, reference)).accepted:
                return
        raise MonitoringError("the monitor took a flush on no reference", name)


@dataclass
class _Jobs:
    """Takes jobs and runs none: the backtest does, between two windows."""

    waiting: list[str] = field(default_factory=list)

    def submit(self, submission_id: str, decision_id: str) -> None:
        """Take a job."""
        self.waiting.append(decision_id)

    def state(self, submission_id: str) -> JobState:
        """Whatever was submitted is under way until the backtest says how it ended."""
        return "running"

    def take(self, ledger: Ledger) -> RetrainDecision | None:
        """The decision that waits, if there is one."""
        if not self.waiting:
            return None
        event = ledger.get(self.waiting.pop())
        assert event is not None
        return RetrainDecision.from_json(event.payload)


def log_rows(rows: History, champion: ModelBundle, config: ProjectConfig, version: str, route_version: int) -> pa.Table:
    """Rows of the prediction log, as the gateway would have written them."""
    count = len(rows)
    stamps = pa.array(rows.event_us, pa.timestamp("us", tz="UTC"))
    ids = pa.array(row_ids(rows, config))
    fixed: dict[str, Any] = {
        "prediction_id": ids,
        "request_id": ids,
        "event_time": stamps,
        "arrival_time": stamps,
        "arm": "champion",
        "version": version,
        "route_version": route_version,
        "routing_key_hash": None,
        "pinned": False,
        "outcome": "ok",
        "weight": 1.0,
    }
    columns: dict[str, Any] = {}
    for name, kind in LOG_COLUMNS:
        value = fixed.get(name, 0)
        columns[name] = value if isinstance(value, pa.Array) else pa.array([value] * count, kind)
    inputs = champion.features.canonical_table(rows.rows)
    columns |= {f"features.{name}": inputs[name] for name in inputs.column_names}
    values = champion.predict(rows.rows).values
    if values.ndim == 1:
        columns["prediction"] = pa.array(values)
    else:
        columns |= {f"prediction.{name}": pa.array(values[:, i]) for i, name in enumerate(champion.classes)}
    return pa.table(columns)


def label_records(rows: History, config: ProjectConfig) -> list[LabelRecord]:
    """The labels of rows, each ``monitoring.labels.delay`` after its row."""
    labels = rows.rows[config.data.target].to_pylist()
    times = (rows.event_us + _us(config.monitoring.labels.delay)).tolist()
    named = zip(row_ids(rows, config), labels, times, strict=True)
    return [LabelRecord(name, label, time_us, time_us) for name, label, time_us in named]


def write_labels(files: Files, model: str, records: Sequence[LabelRecord], name: str) -> None:
    """Write labels to the label log, as the gateway does before it acknowledges them."""
    lines = [json.dumps({"id": r.id, "label": r.label, "time": r.time, "arrival": r.arrival}) for r in records]
    path = f"labels/{model}/day={_day(records[-1].arrival)}/{name}.jsonl"
    files.write(path, "".join(f"{line}\n" for line in lines).encode())


def row_ids(rows: History, config: ProjectConfig) -> Sequence[str]:
    """Prediction ids: the rows' own, or their place in event time."""
    if config.data.id is not None:
        return [str(value) for value in rows.rows[config.data.id].to_pylist()]
    return [f"{event_us}-{index}" for index, event_us in enumerate(rows.event_us.tolist())]


def _day(event_us: int) -> str:
    return datetime.fromtimestamp(event_us / 1e6, UTC).date().isoformat()


def _window_us(monitoring: MonitoringConfig) -> int:
    return _us(monitoring.window)


def _us(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)
