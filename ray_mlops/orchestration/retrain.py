"""The retraining job: from a recorded decision to a registered candidate, and what asks for one."""

import logging
import time
import uuid
from typing import Any

import ray

from ray_mlops.config import ProjectConfig, StoreConfig
from ray_mlops.config.monitoring import RetrainAction
from ray_mlops.errors import ClusterError, MonitoringError, RayMLOpsError, TrainingError
from ray_mlops.ledger import Ledger, deployed_config
from ray_mlops.monitoring.actor import monitor_actor
from ray_mlops.monitoring.policy import RetrainDecision
from ray_mlops.orchestration.phases import OnPhase, silent
from ray_mlops.orchestration.pipeline import (
    STARTS_FROM_CHAMPION,
    PipelineReport,
    Purpose,
    Workplace,
    read_champion,
    run_on_snapshot,
)
from ray_mlops.orchestration.retraining_rows import snapshot_for
from ray_mlops.runtime.deadline import deadline
from ray_mlops.serving.protocol import NAMESPACE, ROLLOUTS_ACTOR

logger = logging.getLogger(__name__)
_CALL_TIMEOUT_S = 30.0


def run_decision(store: StoreConfig, decision_id: str, *, on_phase: OnPhase = silent) -> PipelineReport:
    """Run the retraining of a decision; what it came to is recorded once.

    Args:
        store: Where the decision is recorded; its configuration is, too.
        decision_id: The decision.
        on_phase: Progress.

    Raises:
        MonitoringError: There is no such decision.
        DeadlineError: It took longer than ``retraining.deadline_s``; the monitor may submit it again.
    """
    ledger = Ledger.open(store)
    event = ledger.get(decision_id)
    if event is None or event.kind != "retrain.decided":
        raise MonitoringError(f"no decision {decision_id!r} is recorded", store.database_url)
    decision = RetrainDecision.from_json(event.payload)
    config = ProjectConfig.model_validate(deployed_config(ledger, decision.model, decision.config_hash or None))
    try:
        with deadline(f"retraining {decision_id}", config.retraining.deadline_s):
            report = _retrain(config, decision, on_phase)
    except TrainingError as error:  # these rows give no candidate: the next rung of the ladder may
        _finish(ledger, decision, "refused", None, str(error))
        raise
    except RayMLOpsError as error:
        _finish(ledger, decision, "failed", None, str(error))
        raise
    passed = report.gate is not None and report.gate.passed
    if passed:
        # Before the job counts as finished, so that event time, which waits for it, waits for the rollout, too.
        ray.get(rollouts_actor().view.remote(config.name), timeout=_CALL_TIMEOUT_S)
    reason = "" if report.gate is None else report.gate.reason
    _finish(ledger, decision, "registered" if passed else "refused", report.version, reason)
    return report


def _retrain(config: ProjectConfig, decision: RetrainDecision, on_phase: OnPhase) -> PipelineReport:
    place = Workplace.open(config)
    champion = read_champion(place)
    if champion is None:
        raise MonitoringError("the model is no longer deployed", decision.model)
    on_phase("data", "source and prediction log")
    snapshot = snapshot_for(decision, config.data, champion.bundle.encoder, place.files)
    purpose = Purpose(
        decision_id=decision.decision_id,
        as_of_us=decision.as_of_us,
        holdout_start_us=decision.train_end_us,
        overrides=champion.record.get("overrides", {}),
        action=decision.action,
        initial=champion.bundle if decision.action in STARTS_FROM_CHAMPION else None,
        note=decision.reason,
    )
    return run_on_snapshot(place, snapshot, purpose, tune=decision.action == "tune", on_phase=on_phase)


def _finish(ledger: Ledger, decision: RetrainDecision, outcome: str, version: str | None, reason: str) -> None:
    payload = {"decision_id": decision.decision_id, "outcome": outcome, "version": version, "reason": reason}
    key = f"{decision.decision_id}/finished"
    ledger.append(f"{decision.model}/retrain", "retrain.finished", key, payload, event_time=decision.as_of_us)
    logger.info("finished retraining id=%s outcome=%s version=%s reason=%r", *payload.values())


def rollouts_actor() -> Any:
    """The running ``rollouts`` actor.

    Raises:
        ClusterError: It is not there.
    """
    try:
        return ray.get_actor(ROLLOUTS_ACTOR, namespace=NAMESPACE)
    except ValueError as error:
        raise ClusterError("the rollouts actor is not running", ROLLOUTS_ACTOR, "run 'ray-mlops serve'") from error


def request_retraining(
    config: ProjectConfig, *, by: str, reason: str, action: RetrainAction | None = None
) -> dict[str, Any]:
    """Ask the monitor for a retraining now; returns what its policy says. No action leaves it to the ladder."""
    key = f"{config.name}/retrain/requested/{time.time_ns()}-{uuid.uuid4().hex[:6]}"
    actor = monitor_actor()
    ray.get(actor.request_retraining.remote(config.name, key, by, reason, action), timeout=_CALL_TIMEOUT_S)
    view: dict[str, Any] = ray.get(actor.view.remote(config.name), timeout=_CALL_TIMEOUT_S)
    return dict(view["retraining"])


def acknowledge(config: ProjectConfig, alarm: str, *, by: str) -> None:
    """Say that a contract alarm is understood, so that it no longer blocks retraining."""
    ray.get(monitor_actor().acknowledge.remote(config.name, alarm, by), timeout=_CALL_TIMEOUT_S)
