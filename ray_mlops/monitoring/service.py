"""The monitor of all models: a plain class over the ledger, the store and a submitter of jobs.

Its state is a fold: what it cannot rebuild from the prediction log, the label log and the ledger is
checkpointed at each closed window. It may be killed anywhere and resumes with the same evidence.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ray_mlops.config.monitoring import RetrainAction
from ray_mlops.errors import MonitoringError, NotFoundError, RayMLOpsError
from ray_mlops.ledger import Ledger, LedgerEvent
from ray_mlops.monitoring.alarms import ACKNOWLEDGED, RAISED, AlarmBook, AlarmChange
from ray_mlops.monitoring.epoch import Epoch, begin_epoch, save_history
from ray_mlops.monitoring.handover import Handover, Receipt, Reference
from ray_mlops.monitoring.history import Stretch
from ray_mlops.monitoring.monitor import WindowReport
from ray_mlops.monitoring.policy import (
    NoRetrain,
    RetrainDecision,
    Signals,
    decide_retrain,
    with_attempt,
    without_rows,
)
from ray_mlops.monitoring.record import ModelRecord
from ray_mlops.monitoring.submission import Submitter
from ray_mlops.runtime.files import Files
from ray_mlops.serving.protocol import LabelRecord

logger = logging.getLogger(__name__)
_FIRST_DAY, _LAST_DAY = np.datetime64("0001-01-01"), np.datetime64("9999-12-31")
"""Days that have a name in the log."""


@dataclass(slots=True)
class _Model:
    epoch: Epoch
    record: ModelRecord
    alarms: AlarmBook
    verdict: str = ""
    """Why nothing is retrained now."""


class MonitorService:
    """Watches every model that has a champion.

    Args:
        ledger: Decisions are committed here before anything is done about them.
        files: Logs, bundles and checkpoints.
        submitter: Submits retraining jobs.
    """

    def __init__(self, ledger: Ledger, files: Files, submitter: Submitter) -> None:
        self._ledger = ledger
        self._files = files
        self._submitter = submitter
        self._models: dict[str, _Model] = {}

    # -- models ---------------------------------------------------------------------------------------

    def watch(self, model: str) -> None:
        """Begin to watch a model, or take up where a checkpoint was made; harmless when it is watched."""
        if model in self._models:
            return
        checkpoint = self._load_checkpoint(model)
        epoch = begin_epoch(model, self._ledger, self._files, checkpoint)
        self._commit_epoch(model, epoch)
        self._models[model] = _Model(epoch, ModelRecord(self._ledger, model), self._read_alarms(model, epoch))
        logger.info("watching model=%s version=%s reference=%s", model, epoch.version, epoch.reference.id)
        self._advance(model)

    def forget(self, model: str) -> None:
        """Stop watching a model that was undeployed."""
        self._models.pop(model, None)

    def models(self) -> list[str]:
        """Names of the models that are watched."""
        return sorted(self._models)

    # -- what replicas send ---------------------------------------------------------------------------

    def reference(self, model: str) -> Reference:
        """The bins in force."""
        return self._model(model).epoch.reference

    def handover(self, sent: Handover) -> Receipt:
        """Take one flush, and close the windows that it lets the watermark pass."""
        watched = self._model(sent.model)
        receipt = watched.epoch.monitor.handover(sent)
        if receipt.accepted:
            self._advance(sent.model)
        return receipt

    def add_labels(self, model: str, labels: Sequence[LabelRecord]) -> dict[str, int]:
        """Take labels that are durable already."""
        return self._model(model).epoch.monitor.add_labels(labels)

    def _advance(self, model: str) -> None:
        watched = self._model(model)
        while watched.epoch.monitor.due():
            self._renew_epoch(model)
            report = watched.epoch.monitor.advance()
            if report is None:  # the windows of the new epoch are longer, and none of them is over
                break
            self._record_alarms(model, report)
            self._consider_retraining(model, report)
            self._save_checkpoint(model, report.window)

    def _renew_epoch(self, model: str) -> None:
        """Begin a new reference epoch when another version has become champion."""
        watched = self._model(model)
        if watched.epoch.is_current(self._ledger):
            watched.epoch.follow_config(self._ledger)
            return
        closed = watched.epoch.monitor.checkpoint()
        save_history(self._files, model, watched.epoch.monitor.history)
        watched.epoch = begin_epoch(model, self._ledger, self._files, closed)
        watched.alarms = self._read_alarms(model, watched.epoch)
        self._commit_epoch(model, watched.epoch)

    def _commit_epoch(self, model: str, epoch: Epoch) -> None:
        payload = {
            "version": epoch.version,
            "reference": epoch.reference.id,
            "reference_windows": epoch.reference_windows,
            "start_window": epoch.monitor.watched.start_window,
        }
        self._ledger.append(f"{model}/monitor", "monitor.epoch", f"{model}/monitor/epoch/{epoch.reference.id}", payload)

    # -- decisions ------------------------------------------------------------------------------------

    def _record_alarms(self, model: str, report: WindowReport) -> None:
        """Commit what is newly raised, and which breaches have cleared."""
        watched = self._model(model)
        reference, monitor = watched.epoch.reference, watched.epoch.monitor
        for change in watched.alarms.changes(report.window, report.alarms, report.breaches):
            payload = {"alarm": change.alarm, "level": change.level, "name": change.name, "window": report.window}
            payload |= {"version": report.version, "reference": reference.id, "window_us": reference.window_us}
            detail = monitor.describe(change.name) if change.kind == RAISED else {}
            event = self._append(model, change, {**payload, **detail}, report)
            watched.alarms.apply([event])
            logger.warning("%s model=%s alarm=%s window=%d", change.kind, model, change.alarm, report.window)

    def _append(self, model: str, change: AlarmChange, payload: dict[str, Any], report: WindowReport) -> LedgerEvent:
        event_us = (report.window + 1) * self._model(model).epoch.reference.window_us
        return self._ledger.append(f"{model}/monitor", change.kind, change.key, payload, event_time=event_us)

    def _consider_retraining(self, model: str, report: WindowReport) -> None:
        watched = self._model(model)
        signals = self._signals(model, report)
        config = watched.epoch.config
        outcome = decide_retrain(signals, watched.record.read_history(), config.monitoring, config.retraining)
        watched.verdict = outcome.reason
        if isinstance(outcome, NoRetrain):
            self._record_withheld(model, report, outcome)
            return
        stream = f"{model}/retrain"
        payload = outcome.to_json()
        self._ledger.append(stream, "retrain.decided", outcome.decision_id, payload, event_time=outcome.as_of_us)
        logger.info("decided retraining id=%s reason=%r %s", outcome.decision_id, outcome.reason, without_rows(signals))
        try:
            self.supervise(model)
        except (RayMLOpsError, OSError) as error:  # the decision stands, and is supervised again
            logger.warning("could not submit retraining id=%s error=%s", outcome.decision_id, error)

    def _record_withheld(self, model: str, report: WindowReport, outcome: NoRetrain) -> None:
        """Commit why an alarm that was raised in this window does not lead to a retraining."""
        watched = self._model(model)
        if not watched.alarms.has_news(report.window):
            return
        reference = watched.epoch.reference
        key = f"{model}/retrain/withheld/{reference.id}/{report.window}"
        payload: dict[str, Any] = {"reason": outcome.reason, "blocked": outcome.blocked, "window": report.window}
        payload |= {"alarms": list(report.alarms), "breaches": list(report.breaches)}
        event_us = (report.window + 1) * reference.window_us
        self._ledger.append(f"{model}/retrain", "retrain.withheld", key, payload, event_time=event_us)

    def _signals(self, model: str, report: WindowReport) -> Signals:
        watched = self._model(model)
        epoch = watched.epoch
        window_us = epoch.reference.window_us
        change = epoch.monitor.dataset.change_point()
        return Signals(
            model=model,
            champion=epoch.version,
            config_hash=epoch.config_hash,
            watermark_us=(report.window + 1) * window_us,
            window_us=window_us,
            alarms=report.alarms,  # type: ignore[arg-type]
            breaches=watched.alarms.unacknowledged(report.breaches),
            change_point_us=None if change is None else change * window_us,
            labelled_rows=epoch.monitor.labelled_rows(),
            source_rows=epoch.source_rows,
            rollout_active=watched.record.is_rollout_active(),
        )

    def supervise(self, model: str) -> None:
        """See to the retraining that is in flight: submit it, or submit it again when its job died."""
        watched = self._model(model)
        history = watched.record.read_history()
        decision = history.in_flight
        if decision is None:
            return
        attempt = history.attempts.get(decision.decision_id, 0)
        state = self._submitter.state(with_attempt(decision, attempt)) if attempt else "died"
        if state == "running":
            return
        if state == "unknown":
            self._submitter.submit(with_attempt(decision, attempt), decision.decision_id)
            return
        if watched.record.read_history().in_flight == decision:  # else it finished between the two readings
            self._next_attempt(model, decision, attempt + 1)

    def _next_attempt(self, model: str, decision: RetrainDecision, attempt: int) -> None:
        watched = self._model(model)
        allowed = watched.epoch.config.retraining.max_attempts + 1
        stream = f"{model}/retrain"
        if attempt > allowed:
            reason = f"{allowed} jobs ended without a result"
            payload = {"decision_id": decision.decision_id, "outcome": "failed", "version": None, "reason": reason}
            self._ledger.append(stream, "retrain.finished", f"{decision.decision_id}/finished", payload)
            logger.error("gave up retraining id=%s reason=%r", decision.decision_id, reason)
        else:
            submission = with_attempt(decision, attempt)
            attempted = {"decision_id": decision.decision_id, "attempt": attempt, "submission_id": submission}
            self._ledger.append(stream, "retrain.submitted", f"{decision.decision_id}/attempt{attempt}", attempted)
            self._submitter.submit(submission, decision.decision_id)
        watched.record.read_history()

    def request_retraining(
        self, model: str, key: str, by: str, reason: str, action: RetrainAction | None = None
    ) -> None:
        """Ask for a retraining by hand; the policy still keeps one in flight and enough rows.

        Args:
            model: The model.
            key: Of the request, so that it counts once.
            by: Who asks.
            reason: Why.
            action: What shall be done; None leaves it to the ladder.
        """
        watched = self._model(model)
        reports = watched.epoch.monitor.reports()
        if not reports:
            raise MonitoringError("no window has been closed yet", model, "send traffic for at least one window first")
        self._ledger.append(
            f"{model}/retrain", "retrain.requested", key, {"by": by, "reason": reason, "action": action}
        )
        self._consider_retraining(model, reports[-1])

    def acknowledge(self, model: str, alarm: str, by: str) -> None:
        """Let a person say that a contract alarm is understood, so that retraining is no longer blocked."""
        watched = self._model(model)
        name = alarm.removeprefix("contract:")
        key = watched.alarms.acknowledgement_key(f"contract:{name}")
        if key is None:
            up = sorted(watched.epoch.monitor.dataset.breaches())
            raise NotFoundError(f"no contract alarm {alarm!r}", model, f"contract alarms that are up: {up}")
        payload = {"alarm": f"contract:{name}", "by": by, "reference": watched.epoch.reference.id}
        event = self._ledger.append(f"{model}/monitor", ACKNOWLEDGED, key, payload)
        watched.alarms.apply([event])

    # -- what others ask ------------------------------------------------------------------------------

    def view(self, model: str) -> dict[str, Any]:
        """The document of ``GET /monitoring``."""
        watched = self._model(model)
        flight = watched.record.history.in_flight
        retraining = {
            "in_flight": None if flight is None else flight.decision_id,
            "decisions": len(watched.record.history.decisions),
            "outcomes": dict(watched.record.history.outcomes),
            "policy": watched.verdict,
            "blocked": bool(watched.alarms.unacknowledged(watched.epoch.monitor.dataset.breaches())),
        }
        return {"model": model, **watched.epoch.monitor.view(), "retraining": retraining}

    def rollout(self, model: str) -> dict[str, Any] | None:
        """The newest rollout, as the ledger tells it; None before the first."""
        rollout = self._model(model).record.read_rollout()
        return None if rollout is None else {n: getattr(rollout, n) for n in ("stage", "version", "weight")}

    def history(self, model: str) -> list[dict[str, Any]]:
        """The whole past by window, hour and day, oldest first (see ``History.slots``)."""
        return self._model(model).epoch.monitor.history.slots()

    def past(self, model: str, start_us: int, end_us: int) -> Stretch | None:
        """Counts of any stretch of event time of this epoch; None where there is nothing."""
        return self._model(model).epoch.monitor.history.past(start_us, end_us)

    def status(self, model: str) -> dict[str, Any]:
        """The few fields that a client polls."""
        watched = self._model(model)
        flight = watched.record.history.in_flight
        return {
            "closed_window": watched.epoch.monitor.closed_window,
            "retraining": {"in_flight": None if flight is None else flight.decision_id},
        }

    def labelled(self, model: str, after_window: int) -> pa.Table:
        """Labelled rows of matured windows after one."""
        return self._model(model).epoch.monitor.labelled(after_window)

    def closed_window(self, model: str) -> int | None:
        """The newest closed window."""
        return self._model(model).epoch.monitor.closed_window

    def _model(self, model: str) -> _Model:
        if model not in self._models:
            raise NotFoundError(f"model {model!r} is not watched", "monitor", f"watched: {self.models()}")
        return self._models[model]

    def days_to_compact(self) -> dict[str, str]:
        """The first UTC day that is not over yet, by model; only of models whose log is to be compacted.

        A model whose watermark lies in no year that a calendar has (a clock was wrong) is left out.
        """
        days = {}
        for model, watched in self._models.items():
            closed = watched.epoch.monitor.closed_window
            if closed is not None and watched.epoch.config.serving.log.compact:
                day = np.datetime64((closed + 1) * watched.epoch.reference.window_us, "us").astype("datetime64[D]")
                if _FIRST_DAY <= day <= _LAST_DAY:
                    days[model] = str(day)
        return days

    # -- storage --------------------------------------------------------------------------------------

    def _read_alarms(self, model: str, epoch: Epoch) -> AlarmBook:
        book = AlarmBook(model, epoch.reference.id)
        book.apply(self._ledger.read(f"{model}/monitor"))
        return book

    def _checkpoint_path(self, model: str) -> str:
        return f"checkpoints/monitor/{model}.json"

    def _save_checkpoint(self, model: str, window: int) -> None:
        monitor = self._model(model).epoch.monitor
        if monitor.history.is_due(window):  # first: a window that is closed again is not counted again
            save_history(self._files, model, monitor.history)
        content = monitor.checkpoint()
        self._files.write(self._checkpoint_path(model), json.dumps(content).encode())

    def _load_checkpoint(self, model: str) -> Mapping[str, Any] | None:
        path = self._checkpoint_path(model)
        if not self._files.exists(path):
            return None
        content: dict[str, Any] = json.loads(self._files.read(path))
        if content.get("schema_version", 0) > 1:
            raise MonitoringError(f"checkpoint is of version {content['schema_version']}, this release reads 1", path)
        return content
